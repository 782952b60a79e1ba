"""Networks to try methods on, how they are trained, and the files they are kept in."""

from pertbound.models.alexnet import alexnet
from pertbound.models.checkpoint import read_metadata, save_checkpoint
from pertbound.models.digits import digits_network
from pertbound.models.googlenet import googlenet
from pertbound.models.initialise import initialise
from pertbound.models.lenet import lenet
from pertbound.models.mlp import mlp
from pertbound.models.nin import nin
from pertbound.models.registry import ARCHITECTURES, Architecture, Layout, load_lenet, load_model
from pertbound.models.resnet import resnet18, resnet50
from pertbound.models.training import CIFAR10_LENET, DIGITS, MNIST_LENET, MNIST_MLP, Progress, Recipe, accuracy, train
from pertbound.models.vgg import vgg16

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "CIFAR10_LENET",
    "DIGITS",
    "Layout",
    "MNIST_LENET",
    "MNIST_MLP",
    "Progress",
    "Recipe",
    "accuracy",
    "alexnet",
    "digits_network",
    "googlenet",
    "initialise",
    "lenet",
    "load_lenet",
    "load_model",
    "mlp",
    "nin",
    "read_metadata",
    "resnet18",
    "resnet50",
    "save_checkpoint",
    "train",
    "vgg16",
]
