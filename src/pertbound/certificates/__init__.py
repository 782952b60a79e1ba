"""Lower bounds: one file for each method."""

from pertbound.certificates.base import Certificate, Estimator, certify
from pertbound.certificates.lipschitz import Lipschitz
from pertbound.certificates.published import CurvatureFree, Published, Softened

__all__ = ["Certificate", "CurvatureFree", "Estimator", "Lipschitz", "Published", "Softened", "certify"]
