"""pertbound: how small can an adversarial perturbation of a classifier's input be?

From below with a guarantee (`certify`), from above with a witness (`attack`), both at once (`bracket`).
"""

from pertbound.attacks import (
    DDN,
    FMN,
    LBFGS,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    Ensemble,
    FastGradientSign,
    FoolboxAttack,
    attack,
)
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
from pertbound.compare import compare
from pertbound.comparison import Comparison
from pertbound.data import DataSet
from pertbound.errors import (
    ContradictionError,
    ConversionError,
    DataError,
    InputError,
    ModelFileError,
    PertboundError,
    PropertyError,
    RunError,
    UnsupportedLayerError,
)
from pertbound.frontends import from_onnx, from_pt2, from_torch
from pertbound.frontends.vnnlib import Property, read_vnnlib
from pertbound.graph import Graph
from pertbound.layer_loss import LayerFactors, LayerLosses, layer_factors, layer_losses
from pertbound.preprocessing import preprocessed
from pertbound.problem import Certified, Estimate, Guarantee, Witness
from pertbound.sets import Ball
from pertbound.verification import Answer, Counterexample, Verdict, verify

__all__ = [
    "Answer",
    "Attack",
    "Auto",
    "Ball",
    "Bracket",
    "BranchAndBound",
    "CarliniWagner",
    "Certificate",
    "Certified",
    "Comparison",
    "ContradictionError",
    "ConversionError",
    "Counterexample",
    "CurvatureFree",
    "DDN",
    "DataError",
    "DataSet",
    "DeepFool",
    "Ensemble",
    "Estimate",
    "Estimator",
    "FMN",
    "FastGradientSign",
    "FoolboxAttack",
    "Graph",
    "Guarantee",
    "InputError",
    "Interval",
    "LBFGS",
    "LayerFactors",
    "LayerLosses",
    "LinearRelaxation",
    "Lipschitz",
    "ModelFileError",
    "PGD",
    "PertboundError",
    "Property",
    "PropertyError",
    "Published",
    "QuadraticRelaxation",
    "RunError",
    "Softened",
    "UnsupportedLayerError",
    "Verdict",
    "Witness",
    "attack",
    "bracket",
    "certify",
    "compare",
    "from_onnx",
    "from_pt2",
    "from_torch",
    "layer_factors",
    "layer_losses",
    "preprocessed",
    "read_vnnlib",
    "verify",
]
