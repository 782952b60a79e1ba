"""Lower bounds: one file for each method."""

from pertbound.certificates.base import Certificate, Estimator, certify
from pertbound.certificates.lipschitz import Lipschitz
from pertbound.certificates.published import CurvatureFree, Published, Softened
from pertbound.certificates.relaxed import Interval, LinearRelaxation, QuadraticRelaxation

__all__ = [
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
