"""Lower bounds: one file for each method."""

from pertbound.certificates.auto import Auto
from pertbound.certificates.base import Certificate, Estimator, certify
from pertbound.certificates.branch_and_bound import BranchAndBound
from pertbound.certificates.lipschitz import Lipschitz
from pertbound.certificates.published import CurvatureFree, Published, Softened
from pertbound.certificates.relaxed import Interval, LinearRelaxation, QuadraticRelaxation

__all__ = [
    "Auto",
    "BranchAndBound",
    "Certificate",
    "CurvatureFree",
    "Estimator",
    "Interval",
    "LinearRelaxation",
    "Lipschitz",
    "Published",
    "QuadraticRelaxation",
    "Softened",
    "certify",
]
