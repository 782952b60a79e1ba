"""One file for each family of layers: everything the system knows about it stands there."""

from pertbound.layers.activation import Activation
from pertbound.layers.base import Layer, Shape
from pertbound.layers.clip import Clip
from pertbound.layers.conv import Conv
from pertbound.layers.conv_transpose import ConvTranspose
from pertbound.layers.dense import Dense
from pertbound.layers.exponential import ELU
from pertbound.layers.hardswish import HardSwish
from pertbound.layers.linear import Linear, matrix_of
from pertbound.layers.max_pool import MaxPool
from pertbound.layers.merge import Add, Concat
from pertbound.layers.nonmonotone import GELU, Mish, SiLU, TanhGELU
from pertbound.layers.normalize import Diagonal
from pertbound.layers.piecewise import Abs, LeakyReLU, PReLU, ReLU
from pertbound.layers.pool import AveragePool, LpPool
from pertbound.layers.product import Multiply
from pertbound.layers.reshape import Reshape
from pertbound.layers.response import LocalResponse
from pertbound.layers.select import Select
from pertbound.layers.smooth import Sigmoid, Tanh
from pertbound.layers.softplus import Softplus
from pertbound.layers.sorting import Sort
from pertbound.layers.standardize import Standardize

__all__ = [
    "Abs",
    "Activation",
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Diagonal",
    "ELU",
    "GELU",
    "HardSwish",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LocalResponse",
    "LpPool",
    "MaxPool",
    "Mish",
    "Multiply",
    "PReLU",
    "ReLU",
    "Reshape",
    "Select",
    "Shape",
    "Sigmoid",
    "SiLU",
    "Softplus",
    "Sort",
    "Standardize",
    "Tanh",
    "TanhGELU",
    "matrix_of",
]
