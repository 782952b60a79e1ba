"""What every layer says of itself: how it computes, how far its output can move, how much rounding adds.

Notation used in all layer files: a sample's input is perturbed within an L2 ball of radius rho; the *modulus*
omega(rho) is an increasing upper bound on how far, in L2, the layer's output can then be from its output at the
sample. All norms are Euclidean over a sample's entries, all radii are float64 tensors with one row per sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.forms import Duals, Form, Pulled, Region, total
from pertbound.numerics import UNIT32, gamma
from pertbound.sets import Box

Shape = tuple[int, ...]
"""The shape of one sample, without the batch dimension."""


class Layer(ABC):
    """A function of one or more inputs of shape (batch, *sample); a frozen dataclass whose tensors are fields."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """The layer's output; batch first."""

    @abstractmethod
    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """How far the output can move when each input moves by at most its radius.

        `radii` and the result share one shape; `at` is what `local` returned for the samples, or None for a
        bound that holds everywhere.
        """

    @abstractmethod
    def interval(self, *boxes: Box) -> Box:
        """A box that holds the layer's exact output for all inputs within the boxes; (batch, *shape) each.

        Exact means real arithmetic at every real point of the boxes: what the computation of the ends rounds is
        part of the result. Computed in the dtype of the boxes, with the roundings of that dtype (outside autocast
        and reduced precision). Ends may be infinite; where an end is NaN, the outputs that read it are NaN or
        unbounded. With denormals flushed (`torch.set_flush_denormal`), denormal ends and weights are read as zero.
        """

    def local(self, *inputs: Tensor) -> Tensor | None:
        """What a tighter modulus needs to know of the samples, float64 (batch,) or (batch, n); None when nothing helps.

        `modulus` gets it as (batch, 1) or (batch, 1, n), beside radii of shape (batch, k).
        """
        del inputs
        return None

    @property
    def rounds(self) -> bool:
        """Whether computing the layer rounds at all; False for layers that only move or select entries."""
        return True

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """How far, in L2, the computed output can be from the exact one, for inputs of at most these norms.

        `unit` is the unit roundoff of the arithmetic. Where a layer jumps, and a rounded comparison may have gone wrong
        at a sample, `modulus` at radius 0 says so for what `local` returned; that comes in addition.
        """
        if self.rounds:
            raise NotImplementedError(f"{type(self).__name__} rounds, but does not say how much")
        return torch.zeros_like(norms[0])

    @property
    def keeps_sign(self) -> bool:
        """Whether outputs are >= 0 where all inputs are, in exact arithmetic; False where that is not known.

        Layers whose `interval` does not round say the same with it, and leave this one alone.
        """
        return False

    def undecided(self, box: Box) -> Tensor:
        """The input's entries whose interval the relaxation on this box is loose about, bool of the box's shape."""
        return torch.zeros_like(box.lower, dtype=torch.bool)

    @property
    def broadcasts(self) -> bool:
        """Whether `start` and `pull_back` take regions of one row for those of all items."""
        return False

    def start(self, inputs: tuple[Region, ...], form: Form, *, curvature: Tensor | None) -> Duals:
        """Free variables to begin with, for items in these regions whose form at this layer's output is `form`.

        `curvature` (items,) is what the layer begins with, where it may add any; the rest is chosen to suit.
        """
        del inputs, form, curvature
        return Duals()

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """Forms of the inputs' displacements, and a constant, that together are never above `form` of the output's.

        This one, for layers without a relaxation, knows the output's box and radius only: <a, d> is at least what it
        is at an end of the box, and norm(d) at most the radius.
        """
        del duals
        low, high = output.box.lower - output.value, output.box.upper - output.value
        a = form.linear
        constant = total(
            torch.minimum(a * low, a * high), (a * output.value).abs() + a.abs() * (low.abs() + high.abs())
        )
        if form.curvature is not None:
            constant = constant - form.curvature / 2 * output.radius * output.radius * (1 + 1e-12)
        return Pulled(tuple(Form(torch.zeros_like(region.value)) for region in inputs), constant)

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Peck et al. (2017): the robustness of this layer's input, given `kappa`, that of its output.

        An estimate, not a bound. Raises `UnsupportedLayerError` for layers that the paper does not treat.
        """
        raise UnsupportedLayerError(
            f"the published formulas do not treat {type(self).__name__}; use pb.Lipschitz(), which does"
        )


def reserve(terms: int, dtype: torch.dtype) -> float:
    """q = g / (1 - g) with g = gamma(terms): a computed size, times q, is at least g times the exact size.

    Provided that the size is a sum of positive terms, computed with at most `terms` roundings, which leave at
    least 1 - g of it. Infinite where gamma says nothing.
    """
    g = gamma(terms, torch.finfo(dtype).eps / 2)
    return g / (1 - g) if g < 1 else math.inf


def outward(lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Box:
    """[lower - below, upper + above], each end moved out by one number for the rounding of this very step.

    An end that is NaN, or infinite on the wrong side, comes of an overflow, and is opened.
    """
    low, high = lower - below, upper + above
    infinity = low.new_tensor(math.inf)
    return Box(
        torch.where(low < math.inf, torch.nextafter(low, -infinity), -infinity),
        torch.where(high > -math.inf, torch.nextafter(high, infinity), infinity),
    )


def unless_overflow(noise: Tensor, size: Tensor, unit: float) -> Tensor:
    """`noise` where numbers up to `size` cannot overflow in the arithmetic of that unit roundoff, else infinity."""
    return torch.where(size < (2.0**127 if unit == UNIT32 else 2.0**1023), noise, torch.inf)


def require_finite(owner: Layer, **tensors: Tensor | None) -> None:
    """Raise `UnsupportedLayerError` naming the layer and the tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise UnsupportedLayerError(
                f"{type(owner).__name__}: {bad} of {tensor.numel()} entries of {name} "
                f"(shape {tuple(tensor.shape)}) are NaN or infinite; no bound exists. Was training unstable?"
            )
