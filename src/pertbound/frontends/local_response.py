"""Finding local response normalisation in a trace.

PyTorch has no operator for it: `local_response_norm` is traced as mul (the square), view or unsqueeze, pad, avg_pool,
squeeze, view, mul, add, pow, div. This is the one place that knows the pattern; it becomes one call of
`pertbound.local_response`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import LOCAL_RESPONSE, Arguments, Converter, Value, place, value_of
from pertbound.frontends.patterns import with_pattern
from pertbound.frontends.program import Call, Ref
from pertbound.layers import LocalResponse


def with_local_responses(calls: Sequence[Call]) -> list[Call]:
    """The calls with each pattern replaced by one call of `LOCAL_RESPONSE`; all others untouched."""
    return with_pattern(calls, _match)


def _match(last: Call, by_name: dict[str, Call], uses: Counter[str]) -> tuple[Call, list[str]] | None:
    """If `last` ends the pattern: the new call, and the names of those it stands for, except `last`."""
    inner: list[Call] = []

    def source(call: Call, *targets: str, argument: str = "self") -> Call:
        reference = call.arguments[argument]
        found = by_name[reference.name]
        if not isinstance(reference, Ref) or found.target not in targets or uses[found.name] != 1:
            raise LookupError
        inner.append(found)
        return found

    if last.target != "aten.div.Tensor":
        return None
    power = source(last, "aten.pow.Tensor_Scalar", argument="other")
    raised = source(power, "aten.add.Tensor", "aten.add.Scalar")
    scaled = source(raised, "aten.mul.Tensor", "aten.mul.Scalar")
    shaped = source(scaled, "aten.view.default", "aten.squeeze.dim")
    wide = shaped.target == "aten.view.default"  # more than one position
    squeezed = source(shaped, "aten.squeeze.dim") if wide else shaped
    mean = source(squeezed, "aten.avg_pool3d.default" if wide else "aten.avg_pool2d.default")
    padded = source(mean, "aten.pad.default", "aten.constant_pad_nd.default")
    opened = source(padded, "aten.view.default" if wide else "aten.unsqueeze.default")
    square = source(opened, "aten.mul.Tensor")
    x, size, zeros = last.arguments["self"], mean.arguments["kernel_size"][0], [0, 0, 0, 0] if wide else [0, 0]
    ones = [1] * len(mean.arguments["kernel_size"])
    exact = (
        isinstance(x, Ref)
        and square.arguments["self"] == square.arguments["other"] == x
        and mean.arguments["kernel_size"] == [size, *ones[1:]]
        and (mean.arguments.get("stride") or ones) in (ones, [1])
        and set(mean.arguments) <= {"self", "kernel_size", "stride"}
        and padded.arguments["pad"] == [*zeros, size // 2, (size - 1) // 2]
        and padded.arguments.get("mode", "constant") == "constant"
        and not padded.arguments.get("value")
        and squeezed.arguments["dim"] == 1
        and raised.arguments.get("alpha", 1) == 1
        and (opened.arguments["size"][1] == 1 if wide else opened.arguments["dim"] == 1)
    )
    if not exact:
        return None
    shapes = [opened.arguments["size"][2:4], shaped.arguments["size"][1:]] if wide else None
    numbers = {"alpha": scaled.arguments["other"], "k": raised.arguments["other"], "beta": power.arguments["exponent"]}
    if not all(isinstance(v, int | float) for v in numbers.values()):
        return None
    arguments: dict[str, Any] = {"self": x, "size": size, "shapes": shapes, **numbers}
    return Call(last.name, LOCAL_RESPONSE, arguments, last.where), [call.name for call in inner]


def local_response(c: Converter, call: Call, a: Arguments) -> Value:
    """The layer, where the trace's own shapes are those of its input."""
    source, shapes = value_of(call, a, "self"), a["shapes"]
    size, alpha, beta, k = int(a["size"]), float(a["alpha"]), float(a["beta"]), float(a["k"])
    if len(source.shape) < 2 or (shapes is not None and shapes != [list(source.shape[:2]), list(source.shape)]):
        raise UnsupportedLayerError(
            f"local response normalisation{place(call)} of {source.shape}, written for {shapes}"
        )
    if not (alpha >= 0 and beta >= 0 and 0 < k < float("inf") and alpha < float("inf") and beta < 100):
        raise UnsupportedLayerError(
            f"local response normalisation{place(call)} with alpha = {alpha:g}, beta = {beta:g} and k = {k:g} has no "
            "bound; k must be positive, the others not negative"
        )
    return c.add(call, LocalResponse(source.shape, size, alpha, beta, k), source)
