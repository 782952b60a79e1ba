"""Finding Lp pooling in a trace.

PyTorch has no operator for it: `LPPool` is traced as pow, avg_pool, sign, abs, relu, mul, mul, pow. This is the one
place that knows the pattern; it becomes a single call of `pertbound.lp_pool`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pertbound.frontends.patterns import operator_of, with_pattern
from pertbound.frontends.program import Call, Ref

LP_POOL = "pertbound.lp_pool"


def with_lp_pools(calls: Sequence[Call]) -> list[Call]:
    """The calls with each Lp pooling pattern replaced by one call of `LP_POOL`; all others untouched."""
    return with_pattern(calls, _match)


def _match(last: Call, by_name: dict[str, Call], uses: Counter[str]) -> tuple[Call, list[str]] | None:
    """If `last` ends the pattern: the pooling call, and the names of the calls it stands for, except `last`."""

    def source(call: Call | None, operator: str, argument: str) -> Call | None:
        reference = None if call is None else call.arguments.get(argument)
        found = by_name.get(reference.name) if isinstance(reference, Ref) else None
        return found if found is not None and operator_of(found).rstrip("0123d") == operator else None

    if not last.target.startswith("aten.pow.Tensor_Scalar"):
        return None
    scaled = source(last, "mul", "self")
    signed = source(scaled, "mul", "self")
    sign, relu = source(signed, "sign", "self"), source(signed, "relu", "other")
    absolute = source(relu, "abs", "self")
    mean, same_mean = source(sign, "avg_pool", "self"), source(absolute, "avg_pool", "self")
    power = source(mean, "pow", "self")
    inner = [scaled, signed, sign, relu, absolute, mean, power]
    if scaled is None or mean is None or power is None or mean is not same_mean or None in inner:
        return None
    names = [call.name for call in inner if call is not None]
    if any(uses[name] != (2 if name == mean.name else 1) for name in names):
        return None
    p, root, count = (
        power.arguments.get("exponent"),
        last.arguments.get("exponent"),
        scaled.arguments.get("other"),
    )
    window = mean.arguments.get("kernel_size")
    dims = int(operator_of(mean).removeprefix("avg_pool")[0])
    sizes: list[Any] = window if isinstance(window, list) else [window]
    sizes = sizes * dims if len(sizes) == 1 else sizes
    if not isinstance(p, int | float) or not isinstance(root, int | float) or p <= 0:
        return None
    plain = not any(mean.arguments.get("padding") or [0]) and mean.arguments.get("divisor_override") is None
    if not abs(root * p - 1) <= 1e-12 or count != math.prod(sizes) or not plain:
        return None
    arguments = {
        "self": power.arguments["self"],
        "p": p,
        "kernel_size": sizes,
        "stride": mean.arguments.get("stride"),
        "ceil_mode": mean.arguments.get("ceil_mode", False),
        "dims": dims,
    }
    return Call(last.name, LP_POOL, arguments, mean.where or last.where), names
