"""For every ONNX operator that has a handler, models with random odd attributes that end in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from contracts.dice import Dice
from oracles.onnx_models import model, node


@dataclass(frozen=True)
class Drawn:
    """Nodes from h (and g) to y for samples of a shape, and the arrays that they read."""

    nodes: list[NodeProto]
    shape: tuple[int, ...]
    arrays: dict[str, Any] = field(default_factory=dict)
    opset: int = 18
    nonnegative: bool = False
    """Whether the operator needs inputs that are not negative."""

    @property
    def numbers(self) -> list[float]:
        """The operator's own numbers, near which something may happen."""
        found = [a.f for n in self.nodes for a in n.attribute if a.type == onnx.AttributeProto.FLOAT]
        return found + [float(v) for v in self.arrays.values() if np.ndim(v) == 0]


Draw = Callable[[Dice], Drawn]


def whole(drawn: Drawn, dice: Dice) -> onnx.ModelProto:
    """The model, behind a bounded or one-sided function of its input."""
    before = {
        "x": [node("Mul", "x one", "h")],
        "sigmoid": [node("Mul", "x ten", "steep"), node("Sigmoid", "steep", "h")],
        "tanh": [node("Tanh", "x", "h")],
        "relu": [node("Relu", "x", "h")],
        "clip": [node("Clip", "x least most", "h")],
    }
    kind = (
        dice.of("sigmoid", "relu")
        if drawn.nonnegative
        else dice.any([name for name in before if name != "clip" or drawn.opset > 10])
    )
    numbers = {"one": 1.0, "ten": 10.0, "least": -0.3, "most": 2.7}
    arrays = {name: np.array(v, np.float32) for name, v in numbers.items()} | drawn.arrays
    read = {name for n in (*before[kind], *drawn.nodes) for name in n.input}
    steps = [*before[kind], *([node(dice.of("Tanh", "Relu", "Neg"), "x", "g")] if "g" in read else []), *drawn.nodes]
    used = {name: value for name, value in arrays.items() if name in read}
    return model(steps, ("N", *drawn.shape), used, opset=drawn.opset)


def _one(kind: str, names: str = "h", shape: tuple[int, ...] = (2, 3), opset: int = 18, **attributes: Any) -> Draw:
    """One node; attributes that are functions are drawn."""

    def draw(dice: Dice) -> Drawn:
        given = {name: value(dice) if callable(value) else value for name, value in attributes.items()}
        return Drawn([node(kind, names, "y", **given)], shape, opset=opset)

    return draw


def _activations() -> dict[str, Draw]:
    def prelu(dice: Dice) -> Drawn:
        slope = dice.tensor(*dice.of((1,), (3, 1), (3, 2))).numpy()
        return Drawn([node("PRelu", "h slope", "y")], (3, 2), {"slope": slope})

    def clip(dice: Dice) -> Drawn:
        ends = {name: np.array(dice.number(), np.float32) for name in ("low", "high")}
        names = dice.of("h low high", "h low", "h . high")
        return Drawn([node("Clip", names, "y")], (2, 3), {n: v for n, v in ends.items() if n in names})

    def erf(dice: Dice) -> Drawn:
        steps = [
            node("Div", "h root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a"), node("Mul", "h a", "m"),
            node("Mul", "m half", "y"),
        ]  # fmt: skip
        numbers = {"root": np.sqrt(2), "one": 1.0, "half": 0.5}
        return Drawn(steps, (3,), {name: np.array(v, np.float32) for name, v in numbers.items()})

    def positive(dice: Dice) -> float:
        return dice.positive()

    def number(dice: Dice) -> float:
        return dice.number()

    plain = ("Relu", "Sigmoid", "Tanh", "Softplus", "HardSwish", "Mish", "Neg", "Abs", "Identity", "Selu")
    return {kind: _one(kind) for kind in plain} | {
        "LeakyRelu": _one("LeakyRelu", alpha=number),
        "Elu": _one("Elu", alpha=lambda d: d.of(d.positive(), d.positive(), -0.5)),
        "Celu": _one("Celu", alpha=positive),
        "Selu": _one("Selu", alpha=positive, gamma=positive),
        "Gelu": _one("Gelu", opset=20, approximate=lambda d: d.of("none", "tanh")),
        "HardSigmoid": _one("HardSigmoid", alpha=number, beta=number),
        "PRelu": prelu,
        "Clip": clip,
        "Erf": erf,
        "Dropout": _one("Dropout"),
        "Cast": _one("Cast", to=1),
    }


def _arithmetic() -> dict[str, Draw]:
    def of_two(kind: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            if kind != "Div" and dice.chance(0.5):
                return Drawn([node(kind, dice.of("h g", "g h", "h h"), "y")], (2, 3))
            shape = dice.of((), (3,), (2, 1), (1, 2, 3))
            names = "h c" if kind == "Div" or dice.chance(0.6) else "c h"
            return Drawn([node(kind, names, "y")], (2, 3), {"c": dice.tensor(*shape).numpy()})

        return draw

    def several(kind: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            names = dice.of("h g", "h c", "g h c", "h h g", "h")
            found = {"c": dice.tensor(*dice.of((3,), (1, 2, 3), (2, 1))).numpy()} if "c" in names else {}
            return Drawn([node(kind, names, "y")], (2, 3), found)

        return draw

    def power(dice: Dice) -> Drawn:
        return Drawn([node("Pow", "h p", "y")], (3,), {"p": np.array(dice.of(2.0, 1.0, 3.0), np.float32)})

    def gemm(dice: Dice) -> Drawn:
        turned = dice.chance(0.5)
        odd = {name: dice.number() for name in ("alpha", "beta") if dice.chance(0.5)}
        shapes = {"w": (3, 4) if turned else (4, 3), "c": dice.of((3,), (1, 3), ())}
        arrays = {name: dice.tensor(*shape).numpy() for name, shape in shapes.items()}
        names = dice.of("h w c", "h w")
        return Drawn([node("Gemm", names, "y", transB=int(turned), **odd)], (4,), arrays)

    def matmul(dice: Dice) -> Drawn:
        if dice.chance(0.3):
            return Drawn([node("MatMul", "w h", "y")], (4, 2), {"w": dice.tensor(3, 4).numpy()})
        shape, weight = dice.of(((4,), (4, 3)), ((2, 4), (4, 3)), ((2, 4), (4,)))
        return Drawn([node("MatMul", "h w", "y")], shape, {"w": dice.tensor(*weight).numpy()})

    found = {kind: of_two(kind) for kind in ("Add", "Sub", "Mul", "Div")}
    found |= {kind: several(kind) for kind in ("Max", "Min", "Sum", "Mean")}
    return found | {"Pow": power, "Gemm": gemm, "MatMul": matmul}


def _windows() -> dict[str, Draw]:
    def sides(dice: Dice, dims: int) -> tuple[int, ...]:
        return tuple(dice.whole(3, 6) for _ in range(dims))

    def around(dice: Dice, most: list[int]) -> dict[str, Any]:
        kind = dice.of("pads", "even", "auto", "none")
        if kind == "auto":
            return {"auto_pad": dice.of("SAME_UPPER", "SAME_LOWER", "VALID")}
        if kind == "none":
            return {}
        before = [dice.whole(0, m) for m in most]
        return {"pads": before + (before if kind == "even" else [dice.whole(0, m) for m in most])}

    def conv(dice: Dice) -> Drawn:
        dims, groups = dice.of(1, 2), dice.of(1, 2)
        window = [dice.whole(1, 3) for _ in range(dims)]
        arrays = {"k": dice.tensor(groups, 1, *window).numpy(), "b": dice.tensor(groups).numpy()}
        options = {"strides": [dice.whole(1, 2) for _ in window], "group": groups, **around(dice, window)}
        if "auto_pad" not in options:
            options["dilations"] = [dice.of(1, 1, 2) for _ in window]
        return Drawn([node("Conv", dice.of("h k", "h k b"), "y", **options)], (groups, *sides(dice, dims)), arrays)

    def transposed(dice: Dice) -> Drawn:
        dims = dice.of(1, 2)
        window, strides = [dice.whole(1, 3) for _ in range(dims)], [dice.whole(1, 3) for _ in range(dims)]
        options = {
            "strides": strides, "pads": [dice.whole(0, 1) * (q > 1) for q in window] * 2,
            "output_padding": [dice.whole(0, s - 1) for s in strides],
        }  # fmt: skip
        arrays = {"k": dice.tensor(2, 1, *window).numpy(), "b": dice.tensor(1).numpy()}
        return Drawn([node("ConvTranspose", dice.of("h k", "h k b"), "y", **options)], (2, *sides(dice, dims)), arrays)

    def pool(kind: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            dims = dice.of(1, 2)
            window = [dice.whole(1, 3) for _ in range(dims)]
            options = {"kernel_shape": window, "strides": [dice.whole(1, 3) for _ in window]}
            if kind != "LpPool":
                options |= {"ceil_mode": dice.of(0, 0, 1), **around(dice, [q - 1 for q in window])}
            if kind == "AveragePool":
                options["count_include_pad"] = dice.whole(0, 1)
            if kind == "LpPool":
                options["p"] = dice.of(1, 2, 3, 4)
            if kind == "MaxPool" and "auto_pad" not in options:
                options["dilations"] = [dice.of(1, 1, 2) for _ in window]
            odd = options.get("p", 2) % 2 == 1 or (kind == "MaxPool" and dice.chance(0.5))
            return Drawn([node(kind, "h", "y", **options)], (2, *sides(dice, dims)), nonnegative=odd)

        return draw

    def pad(dice: Dice) -> Drawn:
        mode = dice.of("constant", "constant", "reflect", "edge")
        least = -1 if mode == "constant" else 0
        sizes = [0, 0, dice.whole(least, 2), dice.whole(least, 2), 0, 0, dice.whole(least, 2), dice.whole(least, 2)]
        fill = np.array(dice.number(), np.float32)
        names = "h pads fill" if mode == "constant" and dice.chance(0.7) else "h pads"
        return Drawn([node("Pad", names, "y", mode=mode)], (2, 3, 4), {"pads": np.array(sizes), "fill": fill})

    def lp_global(dice: Dice) -> Drawn:
        p = dice.of(1, 2, 3, 4)
        return Drawn([node("GlobalLpPool", "h", "y", p=p)], (2, 3, 2), nonnegative=p % 2 == 1)

    return {
        "Conv": conv, "ConvTranspose": transposed, "Pad": pad, "GlobalLpPool": lp_global,
        **{kind: pool(kind) for kind in ("MaxPool", "AveragePool", "LpPool")},
        **{kind: _one(kind, shape=(2, 3, 2)) for kind in ("GlobalMaxPool", "GlobalAveragePool")},
    }  # fmt: skip


def _normalising() -> dict[str, Draw]:
    def named(dice: Dice, *shape: int) -> dict[str, Any]:
        return {name: dice.tensor(*shape).numpy() for name in ("s", "b")}

    def batch(dice: Dice) -> Drawn:
        arrays = named(dice, 3) | {"m": dice.tensor(3).numpy(), "v": dice.tensor(3).abs().numpy()}
        eps = dice.of(1e-5, 1e-3, 1.0)
        return Drawn([node("BatchNormalization", "h s b m v", "y", epsilon=eps)], dice.of((3,), (3, 2)), arrays)

    def layer(dice: Dice) -> Drawn:
        names, eps = dice.of("h s b", "h s"), dice.of(0.1, 1.0, 10.0)
        return Drawn([node("LayerNormalization", names, "y", axis=-1, epsilon=eps)], (2, 3), named(dice, 3))

    def group(dice: Dice) -> Drawn:
        options = {"num_groups": dice.of(1, 2, 4), "epsilon": dice.of(0.1, 1.0, 10.0)}
        return Drawn([node("GroupNormalization", "h s b", "y", **options)], (4, 3), named(dice, 4), opset=21)

    def instance(dice: Dice) -> Drawn:
        eps = dice.of(0.1, 1.0, 10.0)
        return Drawn([node("InstanceNormalization", "h s b", "y", epsilon=eps)], (2, 3), named(dice, 2))

    def local(dice: Dice) -> Drawn:
        odd = {"alpha": dice.of(1e-4, dice.positive()), "beta": dice.of(0.3, 0.5, 0.75, 2.0), "bias": dice.positive()}
        return Drawn([node("LRN", "h", "y", size=dice.of(1, 3, 5), **odd)], (dice.whole(2, 5), 2, 2))

    return {
        "BatchNormalization": batch, "LayerNormalization": layer, "GroupNormalization": group,
        "InstanceNormalization": instance, "LRN": local,
    }  # fmt: skip


def _shapes() -> dict[str, Draw]:
    shape = (2, 4, 6)

    def with_ints(kind: str, names: str, opset: int = 18, /, **lists: Any) -> Draw:
        def draw(dice: Dice) -> Drawn:
            arrays = {name: np.array(value(dice) if callable(value) else value) for name, value in lists.items()}
            return Drawn([node(kind, names, "y")], shape, arrays, opset)

        return draw

    def reduced(kind: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            axes = np.array(dice.of([1], [2, 3], [-1], [1, 3]))
            return Drawn([node(kind, "h axes", "y", keepdims=dice.whole(0, 1))], shape, {"axes": axes})

        return draw

    def resized(kind: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            scales = np.array([1, 1, dice.whole(1, 2), dice.whole(1, 3)], np.float32)
            names, more = ("h . scales", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})
            if kind == "Upsample":
                return Drawn([node(kind, "h scales", "y", mode="nearest")], (1, 2, 3), {"scales": scales}, 9)
            return Drawn([node(kind, names, "y", mode="nearest", **more)], (1, 2, 3), {"scales": scales})

        return draw

    def blocks(kind: str) -> Draw:
        modes: dict[str, Any] = {"mode": lambda d: d.of("DCR", "CRD")} if kind == "DepthToSpace" else {}
        return _one(kind, shape=(4, 2, 4), blocksize=2, **modes)

    def concat(dice: Dice) -> Drawn:
        return Drawn([node("Concat", dice.of("h g", "g h h"), "y", axis=dice.of(1, 2, -1))], (2, 3))

    def split(dice: Dice) -> Drawn:
        steps = [node("Split", "h parts", "a b", axis=2), node("Concat", dice.of("b a", "a b"), "y", axis=2)]
        return Drawn(steps, shape, {"parts": np.array([1, 3])})

    def sized(dice: Dice) -> Drawn:
        steps = [node("Shape", "h", "s"), node("Reshape", "h s", "r"), node("Relu", "r", "y")]
        return Drawn(steps, shape)

    def gather(dice: Dice) -> Drawn:
        index = np.array(dice.of([2, 0, 0], [1], 3, [-1, 1]))
        return Drawn([node("Gather", "h index", "y", axis=2)], shape, {"index": index})

    def order(dice: Dice) -> list[int]:
        return dice.of([0, 3, 1, 2], [0, 2, 1, 3])

    ones: dict[str, Any] = {"axes": [1]}
    return {
        "Reshape": with_ints("Reshape", "h wanted", wanted=lambda d: d.of([0, 8, 6], [0, -1], [0, 0, -1])),
        "Flatten": _one("Flatten", shape=shape, axis=1),
        "Squeeze": lambda d: Drawn([node("Squeeze", "h axes", "y")], (1, 3), {n: np.array(v) for n, v in ones.items()}),
        "Unsqueeze": with_ints("Unsqueeze", "h axes", axes=lambda d: d.of([1], [2, 4], [-1])),
        "Expand": lambda d: Drawn([node("Expand", "h wanted", "y")], (1, 3), {"wanted": np.array([1, 4, 3])}),
        "Tile": with_ints("Tile", "h times", times=lambda d: [1, d.whole(1, 2), 1, d.whole(1, 2)]),
        "Transpose": _one("Transpose", shape=shape, perm=order),
        "Slice": with_ints("Slice", "h s e a t", s=lambda d: [d.of(0, 1)], e=[100], a=lambda d: [d.of(2, 3)], t=[2]),
        "Concat": concat, "Split": split, "Shape": sized, "Gather": gather,
        **{kind: blocks(kind) for kind in ("DepthToSpace", "SpaceToDepth")},
        **{kind: resized(kind) for kind in ("Resize", "Upsample")},
        **{kind: reduced(kind) for kind in ("ReduceMean", "ReduceMax", "ReduceMin")},
        "ReduceSum": reduced("ReduceSum"),
        **{kind: _one(kind, shape=(4,), axis=1) for kind in ("Softmax", "LogSoftmax")},
    }  # fmt: skip


def onnx_cases() -> dict[str, Draw]:
    """All of them, by the names of the operators."""
    return _activations() | _arithmetic() | _windows() | _normalising() | _shapes()
