"""Data sets: MNIST, CIFAR-10, scikit-learn's digits, and a user's own, in files or in memory."""

from pertbound.data.arrays import load_npy, load_npz
from pertbound.data.cifar10 import load_cifar10
from pertbound.data.cifar_binary import load_cifar_binary
from pertbound.data.dataset import DataSet
from pertbound.data.digits import load_digits
from pertbound.data.folder import load_folder
from pertbound.data.huggingface import from_huggingface, load_huggingface
from pertbound.data.idx import load_idx
from pertbound.data.images import Images
from pertbound.data.inputs import Inputs
from pertbound.data.mnist import load_mnist
from pertbound.data.named import CHOICES, FOLDER_VARIABLE, load

__all__ = [
    "CHOICES",
    "DataSet",
    "FOLDER_VARIABLE",
    "Images",
    "Inputs",
    "from_huggingface",
    "load",
    "load_cifar10",
    "load_cifar_binary",
    "load_digits",
    "load_folder",
    "load_huggingface",
    "load_idx",
    "load_mnist",
    "load_npy",
    "load_npz",
]
