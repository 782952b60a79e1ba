"""One file for each family of layers: everything the system knows about it stands there."""

from pertbound.layers.activation import Activation, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from pertbound.layers.base import Layer, Linear, Shape, matrix_of
from pertbound.layers.conv import Conv
from pertbound.layers.dense import Dense
from pertbound.layers.merge import Add, Concat
from pertbound.layers.normalize import Diagonal
from pertbound.layers.pool import AveragePool, LpPool, MaxPool
from pertbound.layers.reshape import Reshape

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
