"""Models of one ONNX operator: operators x attributes x shapes x operator sets, several thousand of them.

Every family is a generator of `Single`s; combinations beyond `MOST` of a family are a fixed random choice. What the
reader does not support is part of it: refusals are counted by the test, and wrong values are faults.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import onnx

from oracles.onnx_models import Arrays, model, node, weights

SHAPES = [("N", 4), (1, 3), ("N", 3, 4), ("N", 2, 3, 4), (1, 4, 5, 3), ("N", 2, 2, 3, 2)]


@final
@dataclass(frozen=True, eq=False)
class Single:
    """A model, its input's shape with the batch first, and what it is."""

    said: str
    model: onnx.ModelProto
    shape: tuple[int | str, ...]


def single(
    nodes: onnx.NodeProto | list[onnx.NodeProto], shape: Any, arrays: Arrays | None = None, opset: int = 17
) -> Single:
    """A model of these nodes from x to y."""
    listed = nodes if isinstance(nodes, list) else [nodes]
    for number, one in enumerate(listed):
        one.name = f"the {one.op_type.lower()} {number}"  # onnxruntime wants names that differ
    words = [
        f"{n.op_type}({', '.join(f'{a.name}={onnx.helper.get_attribute_value(a)}' for a in n.attribute)})"
        for n in listed
    ]
    given = ", ".join(f"{k}{np.shape(v)}={np.ravel(v)[:8].tolist()}" for k, v in (arrays or {}).items())
    said = f"{' '.join(words)} [{' '.join(','.join(n.input) for n in listed)}] of {shape}, {given}, set {opset}"
    return Single(said, model(listed, shape, arrays, opset=opset), tuple(shape))


def chosen(*lists: Any, most: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """All combinations, or so many of them."""
    found = list(itertools.product(*lists))
    return found if len(found) <= most else random.Random(seed).sample(found, most)


def activations() -> Iterator[Single]:
    """Functions of one entry."""
    plain = ("Relu", "Sigmoid", "Tanh", "Softplus", "Neg", "Abs", "Identity", "Softsign", "Exp", "Sqrt", "Erf")
    options: dict[str, list[dict[str, Any]]] = {kind: [{}] for kind in plain}
    options |= {
        "Selu": [{}, {"alpha": 1.5, "gamma": 0.5}, {"alpha": 0.25}, {"gamma": 2.0}],
        "LeakyRelu": [{}, {"alpha": 0.3}, {"alpha": -0.7}, {"alpha": 1.7}, {"alpha": 0.0}],
        "Elu": [{}, {"alpha": 0.4}, {"alpha": 2.5}],
        "HardSigmoid": [{}, {"alpha": 0.5}, {"beta": 0.1}, {"alpha": -0.3, "beta": 0.7}, {"alpha": 1 / 6}],
        "ThresholdedRelu": [{}, {"alpha": 0.0}],
    }
    late: dict[str, tuple[int, list[dict[str, Any]]]] = {
        "Celu": (12, [{}, {"alpha": 0.4}, {"alpha": 3.0}]),
        "HardSwish": (14, [{}]),
        "Mish": (18, [{}]),
        "Gelu": (20, [{}, {"approximate": "tanh"}, {"approximate": "none"}]),
    }
    for kind, attributes in options.items():
        for given, shape, opset in itertools.product(attributes, SHAPES, (9, 13, 17, 21)):
            yield single(node(kind, "x", "y", **given), shape, opset=opset)
    for kind, (since, attributes) in late.items():
        for given, shape, opset in itertools.product(attributes, SHAPES, (since, 21)):
            yield single(node(kind, "x", "y", **given), shape, opset=opset)
    for (shape, opset), which in itertools.product(itertools.product(SHAPES, (9, 17)), range(4)):
        sizes = [(1,), tuple(shape[1:]), (shape[1], *(1 for _ in shape[2:])), (shape[-1],)][which]
        yield single(node("PRelu", "x s", "y"), shape, {"s": weights(*sizes)}, opset)  # type: ignore[arg-type]


def clips() -> Iterator[Single]:
    """Clip, of which either end may be left out; the ends may be in the wrong order."""
    ends = [None, -1.0, -0.25, 0.0, 0.5, 6.0, -3.5e38, 3.5e38]
    for low, high, shape, opset in chosen(ends, ends, SHAPES, (6, 11, 13), most=260):
        if abs(low or 0) > 1e38 or abs(high or 0) > 1e38:
            low, high = (None if v is None else float(np.clip(v, -3.4028235e38, 3.4028235e38)) for v in (low, high))
        if opset < 11:
            given = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
            yield single(node("Clip", "x", "y", **given), shape, opset=opset)
            continue
        arrays = {k: np.array(v, np.float32) for k, v in (("low", low), ("high", high)) if v is not None}
        names = f"x {'low' if low is not None else '.'} {'high' if high is not None else '.'}"
        yield single(node("Clip", names, "y"), shape, arrays, opset)


def arithmetic() -> Iterator[Single]:
    """Two operands: constants of every shape that broadcasts, on both sides, and the value itself."""
    for kind, shape, opset in itertools.product(("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"), SHAPES, (8, 13, 18)):
        rest = tuple(int(n) for n in shape[1:])
        sizes = {(), (1,), rest, (1, *rest), rest[-1:], (rest[0], *(1 for _ in rest[1:])), (1, *(1 for _ in rest))}
        for size, first in itertools.product(sorted(sizes), (False, True)):
            constant = weights(*size, seed=len(size)) + np.float32(0.1)
            if kind == "Pow":
                constant = np.full(size, random.Random(len(size)).choice([1, 2, 2, 3, 0.5]), np.float32)
            yield single(node(kind, "c x" if first else "x c", "y"), shape, {"c": constant}, opset)
        yield single([node("Relu", "x", "r"), node(kind, "x r", "y")], shape, opset=opset)
        yield single(node(kind, "x x", "y"), shape, opset=opset)
    for kind, shape, count in itertools.product(("Sum", "Mean", "Max", "Min"), SHAPES, (1, 2, 3)):
        rest = tuple(int(n) for n in shape[1:])
        nodes = [node("Tanh", "x", "t"), node(kind, " ".join(["x", "t", "c"][:count]), "y")]
        yield single(nodes[1:] if count == 1 else nodes, shape, {"c": weights(*rest)})
    for shape, forward in itertools.product(SHAPES, (False, True)):
        nodes = [node("Sigmoid", "x", "s"), node("Mul", "x s" if forward else "s x", "y")]
        yield single(nodes, shape)
    for shape, form in itertools.product(SHAPES, range(4)):
        root = {"r": np.array(2**0.5, np.float32), "i": np.array(0.5**0.5, np.float32)}
        arrays = {**root, "one": np.array(1, np.float32), "half": np.array(0.5, np.float32)}
        inner = node("Div", "x r", "d") if form % 2 else node("Mul", "x i", "d")
        nodes = [inner, node("Erf", "d", "e"), node("Add", "e one" if form < 2 else "one e", "f")]
        last = [node("Mul", "x f", "g"), node("Mul", "g half", "y")]
        other = [node("Mul", "x half", "h"), node("Mul", "h f", "y")]
        yield single([*nodes, *(last if form < 2 else other)], shape, arrays)


def dense() -> Iterator[Single]:
    """Gemm and MatMul."""
    for turned, alpha, beta, size, opset in itertools.product(
        (0, 1), (None, 0.5, -2.0), (None, 0.25, 0.0), (None, (), (3,), (1, 3), (1, 1), (1,)), (7, 11, 17)
    ):
        if size is None and opset < 11:
            continue
        given = {k: v for k, v in (("alpha", alpha), ("beta", beta)) if v is not None}
        arrays = {"w": weights(3, 4) if turned else weights(4, 3)}
        if size is not None:
            arrays["c"] = weights(*size, seed=3)
        yield single(
            node("Gemm", "x w c" if size is not None else "x w", "y", transB=turned, **given), ("N", 4), arrays, opset
        )
    for shape, size, opset in itertools.product(
        [("N", 4), ("N", 3, 4), ("N", 2, 3, 4), ("N", 4, 1), ("N", 4, 3)],
        [(4, 3), (4,), (1, 4, 2), (4, 1), (2, 4), (3, 4), (1, 1, 4, 2), (2, 4, 3)],
        (9, 13),
    ):
        for names in ("x w", "w x"):
            yield single(node("MatMul", names, "y"), shape, {"w": weights(*size)}, opset)


def reductions() -> Iterator[Single]:
    """Over dimensions of the sample, the batch, or all."""
    for kind, shape, keep, opset in itertools.product(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), SHAPES, (0, 1), (11, 13, 18)
    ):
        rank = len(shape)
        for axes in [None, *([a] for a in range(1, rank)), [-1], [rank - 1, 1], list(range(1, rank))]:
            as_input = opset >= (13 if kind == "ReduceSum" else 18)
            if axes is None or not as_input:
                given = {} if axes is None else {"axes": axes}
                yield single(node(kind, "x", "y", keepdims=keep, **given), shape, opset=opset)
            else:
                yield single(node(kind, "x a", "y", keepdims=keep), shape, {"a": np.array(axes)}, opset)
    for shape, noop in itertools.product(SHAPES, (0, 1)):
        yield single(node("ReduceSum", "x", "y", noop_with_empty_axes=noop), shape)
    for kind, shape, opset in itertools.product(
        ("Softmax", "LogSoftmax"), [*SHAPES, ("N", 3, 1, 1), ("N", 1, 4)], (9, 11, 13)
    ):
        for axis in (None, 1, -1, 2, 0):
            if axis is None or axis < len(shape):
                yield single(node(kind, "x", "y", **({} if axis is None else {"axis": axis})), shape, opset=opset)


FAMILIES: dict[str, Callable[[], Iterator[Single]]] = {
    "activations": activations,
    "clips": clips,
    "arithmetic": arithmetic,
    "dense": dense,
    "reductions": reductions,
}
