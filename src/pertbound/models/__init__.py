"""Networks to try methods on, how they are trained, and the files they are kept in."""

from pertbound.models.checkpoint import read_metadata, save_checkpoint
from pertbound.models.digits import digits_network
from pertbound.models.initialise import initialise
from pertbound.models.lenet import lenet
from pertbound.models.mlp import mlp
from pertbound.models.registry import ARCHITECTURES, Architecture, load_lenet, load_model
from pertbound.models.training import CIFAR10_LENET, DIGITS, MNIST_LENET, MNIST_MLP, Progress, Recipe, accuracy, train
from pertbound.models.vgg import vgg16

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CIFAR10_LENET",
    "DIGITS",
    "MNIST_LENET",
    "MNIST_MLP",
    "Progress",
    "Recipe",
    "accuracy",
    "digits_network",
    "initialise",
    "lenet",
    "load_lenet",
    "load_model",
    "mlp",
    "read_metadata",
    "save_checkpoint",
    "train",
    "vgg16",
]
