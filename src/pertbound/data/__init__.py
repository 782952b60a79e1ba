"""Data sets: MNIST, CIFAR-10, scikit-learn's digits, and a user's own arrays."""

from pertbound.data.arrays import load_npz
from pertbound.data.cifar10 import load_cifar10
from pertbound.data.dataset import DataSet
from pertbound.data.digits import load_digits
from pertbound.data.mnist import load_mnist
from pertbound.data.named import CHOICES, FOLDER_VARIABLE, load

__all__ = [
    "CHOICES",
    "DataSet",
    "FOLDER_VARIABLE",
    "load",
    "load_cifar10",
    "load_digits",
    "load_mnist",
    "load_npz",
]
