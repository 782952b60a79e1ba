"""One file for each family of layers: everything the system knows about it stands there."""

from pertbound.layers.activation import Activation
from pertbound.layers.base import Layer, Shape
from pertbound.layers.conv import Conv
from pertbound.layers.dense import Dense
from pertbound.layers.linear import Linear, matrix_of
from pertbound.layers.merge import Add, Concat
from pertbound.layers.normalize import Diagonal
from pertbound.layers.piecewise import LeakyReLU, ReLU
from pertbound.layers.pool import AveragePool, LpPool, MaxPool
from pertbound.layers.reshape import Reshape
from pertbound.layers.smooth import Sigmoid, Softplus, Tanh

__all__ = [
    "Activation",
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "Dense",
    "Diagonal",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LpPool",
    "MaxPool",
    "ReLU",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "matrix_of",
]
