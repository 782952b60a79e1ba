"""pertbound: how small can an adversarial perturbation of a classifier's input be?

From below with a guarantee (`certify`), from above with a witness (`attack`), both at once (`bracket`).
"""

from pertbound.attacks import DDN, Attack, FastGradientSign, attack
from pertbound.bracket import Bracket, bracket
from pertbound.certificates import (
    Auto,
    BranchAndBound,
    Certificate,
    CurvatureFree,
    Estimator,
    Interval,
    LinearRelaxation,
    Lipschitz,
    Published,
    QuadraticRelaxation,
    Softened,
    certify,
)
from pertbound.errors import (
    ConversionError,
    DataError,
    InputError,
    ModelFileError,
    PertboundError,
    RunError,
    UnsupportedLayerError,
)
from pertbound.frontends import from_pt2, from_torch
from pertbound.graph import Graph
from pertbound.problem import Certified, Estimate, Guarantee, Witness
from pertbound.sets import Ball

__all__ = [
    "Attack",
    "Auto",
    "Ball",
    "Bracket",
    "BranchAndBound",
    "Certificate",
    "Certified",
    "ConversionError",
    "CurvatureFree",
    "DDN",
    "DataError",
    "Estimate",
    "Estimator",
    "FastGradientSign",
    "Graph",
    "Guarantee",
    "InputError",
    "Interval",
    "LinearRelaxation",
    "Lipschitz",
    "ModelFileError",
    "PertboundError",
    "Published",
    "QuadraticRelaxation",
    "RunError",
    "Softened",
    "UnsupportedLayerError",
    "Witness",
    "attack",
    "bracket",
    "certify",
    "from_pt2",
    "from_torch",
]
