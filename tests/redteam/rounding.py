"""How far a float64 evaluation of a network can be from the exact value: running error analysis.

Every operator of the forward pass is seen on its way (`TorchFunctionMode`). What it rounds is bounded from its own
arguments (gamma_n times the same operation on absolute values for sums of products, a few units in the last place for
functions of one entry), and what that does to a margin is its size times the derivative of the margin with respect to
the operator's result. This is exact to first order in 1e-16; a factor of 4 is for the rest. For operators that are not
known, such as normalisation, all inputs count as if they were off by a few hundred units of their largest entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

UNIT = 2.0**-53
_MOVES = {
    *("reshape", "flatten", "view", "permute", "transpose", "flip", "roll", "repeat", "cat", "clamp", "relu", "abs"),
    *("maximum", "minimum", "amax", "amin", "sort", "pad", "max_pool1d", "max_pool2d", "chunk", "split", "squeeze"),
    *("unsqueeze", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "interpolate", "__getitem__", "hardtanh"),
    *("relu6", "adaptive_max_pool2d", "threshold", "expand", "contiguous", "clone", "size", "dim", "__get__"),
}
"""Operators that round nothing."""
_SMOOTH = {
    *("sigmoid", "tanh", "softplus", "logsigmoid", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish"),
    *("hardsigmoid", "leaky_relu", "prelu", "rrelu", "square", "mul", "add", "sub", "div", "neg", "glu", "pow"),
    *("__mul__", "__add__", "__sub__", "__rsub__", "__radd__", "__rmul__", "rsub"),
}
"""Functions of entries: 32 units of the result's and the inputs' size."""


class _Watch(TorchFunctionMode):
    """Collects operators' results and bounds of what rounded them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func)).removeprefix("_").rstrip("_") or str(func)
        if name in _MOVES or getattr(func, "__name__", "") in _MOVES:
            return func(*args, **kwargs)
        floats = [a for a in _tensors(args) if a.dtype == torch.float64]
        if name not in _ABSOLUTE and getattr(func, "__name__", "") not in _SMOOTH and floats:
            moved = [a for a in floats if a.requires_grad]
            for value in moved:
                self.seen.append((value, _all(value, 512 * value.shape[-1] * UNIT * float(value.abs().max()))))
        found = func(*args, **kwargs)
        for result in _tensors([found]):
            if result.dtype == torch.float64 and result.requires_grad:
                self.seen.append((result, self._local(func, name, args, kwargs, result, floats)))
        return found

    @staticmethod
    def _local(func: Any, name: str, args: Any, kwargs: Any, result: Tensor, floats: list[Tensor]) -> Tensor:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            own = 64 * UNIT * result.detach().abs()
            if name in _ABSOLUTE:
                terms = 8 + max(a[0].numel() if a.dim() else 1 for a in floats[:2])
                sizes = _ABSOLUTE[name](func, args, kwargs)
                return own + terms * UNIT * sizes if sizes.shape == own.shape else own + _all(own, float(sizes.max()))
            small = [a.detach().abs() for a in floats if a.shape == result.shape]
            return own + 64 * UNIT * sum(small, torch.zeros_like(own))


def _all(like: Tensor, number: float) -> Tensor:
    return torch.full_like(like.detach(), number)


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _of_sizes(func: Any, args: Any, kwargs: Any) -> Tensor:
    """The operation on absolute values."""
    plain = [a.detach().abs() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    named = {k: a.detach().abs() if isinstance(a, Tensor) else a for k, a in kwargs.items()}
    return func(*plain, **named)


_ABSOLUTE: dict[str, Callable[[Any, Any, Any], Tensor]] = dict.fromkeys(
    (
        "linear",
        "conv1d",
        "conv2d",
        "conv_transpose2d",
        "avg_pool1d",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "mean",
        "sum",
    ),
    _of_sizes,
)


def margin_and_error(model: nn.Module, z: Tensor, reference: int) -> tuple[float, float]:
    """The largest margin of another class over the reference at z (1, *shape), and how far it can be off."""
    watch = _Watch()
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_(True)
        with watch:
            logits = model(z)[0]
        others = [c for c in range(len(logits)) if c != reference]
        best = max(others, key=lambda c: float(logits[c]))
        margin = logits[best] - logits[reference]
        values = [value for value, _ in watch.seen]
        gradients = torch.autograd.grad(margin, values, allow_unused=True) if values else ()
    error = 4 * UNIT * float(logits.detach().abs().max())
    for gradient, (_, local) in zip(gradients, watch.seen, strict=True):
        if gradient is not None:
            error += float((gradient.abs() * local).sum())
    # derivatives jump at kinks: a point beside one has the steeper side within the factor, or the margin is not decided
    return float(margin.detach()), 4 * error if math.isfinite(error) else math.inf


def misclassified(model: nn.Module, z: Tensor, reference: int) -> bool:
    """Whether z is misclassified beyond what float64 can round."""
    margin, error = margin_and_error(model, z, reference)
    return margin > error
