"""For every ATen operator that has a handler, programs with random odd parameters that end in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from contracts.dice import Dice
from pertbound.frontends.program import Call, Program, Ref

H, G = Ref("h"), Ref("g")
"""The operator's argument, and another value of the same shape."""
Step = tuple[str, str, dict[str, Any]]
"""Name, target and arguments of a call."""


@dataclass(frozen=True)
class Drawn:
    """Calls on h (and g), the last of which gives the result, for samples of a shape; tensors by name."""

    steps: list[Step]
    shape: tuple[int, ...]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    nonnegative: bool = False
    """Whether the operator needs inputs that are not negative."""

    @property
    def numbers(self) -> list[float]:
        """The operator's own numbers, near which something may happen."""
        found: list[float] = []
        for _, _, arguments in self.steps:
            for value in arguments.values():
                items = value if isinstance(value, list) else [value]
                found += [float(v) for v in items if isinstance(v, int | float) and not isinstance(v, bool)]
        return found


Draw = Callable[[Dice], Drawn]


def prefixes(dice: Dice, *, nonnegative: bool) -> list[Step]:
    """What h and g are: the input itself, or bounded or one-sided functions of it."""
    bounding: dict[str, list[Step]] = {
        "x": [("h", "aten.mul.Tensor", {"self": Ref("x"), "other": 1.0})],
        "sigmoid": [
            ("steep", "aten.mul.Tensor", {"self": Ref("x"), "other": 10.0}),
            ("h", "aten.sigmoid.default", {"self": Ref("steep")}),
        ],
        "tanh": [("h", "aten.tanh.default", {"self": Ref("x")})],
        "relu": [("h", "aten.relu.default", {"self": Ref("x")})],
        "abs": [("h", "aten.abs.default", {"self": Ref("x")})],
        "clamp": [("h", "aten.clamp.default", {"self": Ref("x"), "min": -0.3, "max": 2.7})],
        "below": [("h", "aten.clamp.default", {"self": Ref("x"), "max": -0.7})],
    }
    kind = dice.of("sigmoid", "relu", "abs") if nonnegative else dice.any(list(bounding))
    other = dice.of("aten.tanh.default", "aten.relu.default", "aten.neg.default")
    return [*bounding[kind], ("g", other, {"self": Ref("x")})]


def program(drawn: Drawn, prefix: list[Step], batch: int) -> Program:
    """The whole program, as a trace would say it."""
    calls = tuple(Call(name, target, arguments) for name, target, arguments in (*prefix, *drawn.steps))
    return Program("x", (batch, *drawn.shape), drawn.tensors, calls, drawn.steps[-1][0])


def run(source: Program, x: Tensor, tensors: Mapping[str, Tensor]) -> Any:
    """What PyTorch computes, with the stored `tensors`; x has any batch size."""
    values: dict[str, Any] = {**tensors, "x": x}

    def resolve(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.name]
        return [resolve(item) for item in value] if isinstance(value, list | tuple) else value

    for call in source.calls:
        given = {name: resolve(value) for name, value in call.arguments.items()}
        if call.target == "pertbound.getitem":
            values[call.name] = given["self"][given["index"]]
            continue
        if "dtype" in given:
            given["dtype"] = x.dtype
        _, operator, overload = call.target.split(".")
        values[call.name] = getattr(getattr(torch.ops.aten, operator), overload)(**given)
    return values[source.output]


def plain(target: str, shape: tuple[int, ...], **arguments: Any) -> Drawn:
    """One call on h."""
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    given = {name: Ref(name) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    return Drawn([("y", target, given)], shape, tensors)


def _entrywise(operator: str) -> Draw:
    return lambda dice: plain(f"aten.{operator}.default", dice.of((4,), (2, 3)), self=H)


def _activations() -> dict[str, Draw]:
    def leaky(dice: Dice) -> Drawn:
        return plain("aten.leaky_relu.default", (4,), self=H, negative_slope=dice.number())

    def rrelu(dice: Dice) -> Drawn:
        low, high = sorted((dice.number(), dice.number()))
        return plain("aten.rrelu.default", (4,), self=H, lower=low, upper=high)

    def prelu(dice: Dice) -> Drawn:
        return plain("aten.prelu.default", (3, 2), self=H, weight=dice.tensor(dice.of(1, 3)))

    def threshold(dice: Dice) -> Drawn:
        end = dice.number()
        return plain("aten.threshold.default", (4,), self=H, threshold=end, value=end)

    def softplus(dice: Dice) -> Drawn:
        return plain("aten.softplus.default", (4,), self=H, beta=dice.positive(), threshold=dice.of(20.0, 20, 30.5))

    def elu(dice: Dice) -> Drawn:
        odd = {name: dice.number() for name in ("alpha", "scale", "input_scale") if dice.chance(0.6)}
        return plain("aten.elu.default", (4,), self=H, **{name: abs(v) or v for name, v in odd.items()})

    def celu(dice: Dice) -> Drawn:
        return plain("aten.celu.default", (4,), self=H, alpha=dice.of(dice.positive(), dice.positive(), -0.5))

    def gelu(dice: Dice) -> Drawn:
        return plain("aten.gelu.default", (4,), self=H, approximate=dice.of("none", "tanh"))

    def hardtanh(dice: Dice) -> Drawn:
        low, high = dice.number(), dice.number()
        return plain("aten.hardtanh.default", (4,), self=H, min_val=low, max_val=high)

    def clamp(dice: Dice) -> Drawn:
        if dice.chance(0.3):
            return plain("aten.clamp.Tensor", (2, 3), self=H, min=dice.tensor(3), max=dice.tensor(2, 1))
        ends = {name: dice.number() for name in ("min", "max") if dice.chance(0.8)}
        return plain("aten.clamp.default", (4,), self=H, **(ends or {"min": dice.number()}))

    def one_end(operator: str, name: str) -> Draw:
        return lambda dice: plain(f"aten.{operator}.default", (4,), self=H, **{name: dice.number()})

    def glu(dice: Dice) -> Drawn:
        return plain("aten.glu.default", (4, 2), self=H, dim=dice.of(1, 2, -1))

    names = (
        *("relu", "relu6", "abs", "sigmoid", "tanh", "selu"),
        *("silu", "mish", "hardswish", "hardsigmoid", "log_sigmoid"),
    )
    odd = {
        "leaky_relu": leaky, "rrelu": rrelu, "prelu": prelu, "threshold": threshold, "softplus": softplus, "elu": elu,
        "celu": celu, "gelu": gelu, "hardtanh": hardtanh, "clamp": clamp, "glu": glu,
        "clamp_min": one_end("clamp_min", "min"), "clamp_max": one_end("clamp_max", "max"),
    }  # fmt: skip
    return {name: _entrywise(name) for name in names} | odd


def _arithmetic() -> dict[str, Draw]:
    def of_two(operator: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            shape = (2, 3)
            if operator != "div" and dice.chance(0.5):
                other: Any = dice.of(G, G, H)
            else:
                other = dice.of(dice.number(), dice.tensor(3), dice.tensor(2, 1), dice.tensor(1, 2, 3))
            alpha = {"alpha": dice.number()} if operator in ("add", "sub", "rsub") and dice.chance(0.5) else {}
            left, right = (H, other) if operator in ("div", "rsub") or dice.chance(0.7) else (other, H)
            if not isinstance(left, Ref | Tensor):
                left, right = right, left
            found = plain(f"aten.{operator}.Tensor", shape, self=left, other=right, **alpha)
            return Drawn(found.steps, shape, {k: v for k, v in found.tensors.items()})

        return draw

    def power(dice: Dice) -> Drawn:
        return plain("aten.pow.Tensor_Scalar", (4,), self=H, exponent=dice.of(2, 2.0, 1, 3))

    def linear(dice: Dice) -> Drawn:
        shape = dice.of((4,), (2, 4))
        bias = {"bias": dice.tensor(3)} if dice.chance(0.6) else {}
        return plain("aten.linear.default", shape, input=H, weight=dice.tensor(3, 4), **bias)

    def addmm(dice: Dice) -> Drawn:
        bias = dice.tensor(*dice.of((3,), (1, 3)))
        return plain("aten.addmm.default", (4,), self=bias, mat1=H, mat2=dice.tensor(4, 3))

    found = {operator: of_two(operator) for operator in ("add", "sub", "rsub", "mul", "div")}
    return found | {
        "neg": _entrywise("neg"), "square": _entrywise("square"), "pow": power, "linear": linear, "addmm": addmm,
        "matmul": lambda dice: plain("aten.matmul.default", dice.of((4,), (2, 4)), self=H, other=dice.tensor(4, 3)),
        "mm": lambda dice: plain("aten.mm.default", (4,), self=H, mat2=dice.tensor(4, 3)),
    }  # fmt: skip


def _sides(dice: Dice, dims: int) -> tuple[int, ...]:
    return tuple(dice.whole(3, 6 if dims < 3 else 4) for _ in range(dims))


def _convolutions() -> dict[str, Draw]:
    def conv(target: str, dims: int, *, transposed: bool = False) -> Draw:
        def draw(dice: Dice) -> Drawn:
            groups, inside, outside = dice.of(1, 1, 2), dice.whole(1, 2), dice.whole(1, 2)
            window = [dice.whole(1, 3) for _ in range(dims)]
            first, second = (groups * inside, outside) if transposed else (groups * outside, inside)
            options: dict[str, Any] = {
                "stride": [dice.of(1, 1, 2, 3) for _ in range(dims)],
                "padding": [dice.whole(0, q - 1 if transposed else 2) for q in window],
                "dilation": [dice.of(1, 1, 2) for _ in range(dims)],
                "groups": groups,
            }
            if transposed:
                options["output_padding"] = [dice.whole(0, max(0, s - 1)) for s in options["stride"]]
            if target.startswith("aten.convolution"):
                options |= {"transposed": transposed, "output_padding": options.get("output_padding", [0] * dims)}
            given = {"weight": dice.tensor(first, second, *window)}
            channels = groups * outside
            if dice.chance(0.6):
                given["bias"] = dice.tensor(channels)
            elif target.startswith("aten.convolution"):
                options["bias"] = None
            return plain(target, (groups * inside, *_sides(dice, dims)), input=H, **given, **options)

        return draw

    def either(dice: Dice) -> Drawn:
        return conv("aten.convolution.default", dice.whole(1, 2), transposed=dice.chance(0.5))(dice)

    plain_ = {f"conv{d}d": conv(f"aten.conv{d}d.default", d) for d in (1, 2, 3)}
    overloads = {1: "default", 2: "input", 3: "input"}
    turned = {
        f"conv_transpose{d}d": conv(f"aten.conv_transpose{d}d.{overloads[d]}", d, transposed=True) for d in (1, 2, 3)
    }
    return plain_ | turned | {"convolution": either}


def _pools() -> dict[str, Draw]:
    def pool(kind: str, dims: int) -> Draw:
        def draw(dice: Dice) -> Drawn:
            window = [dice.whole(1, 3) for _ in range(dims)]
            options: dict[str, Any] = {
                "kernel_size": window,
                "stride": [dice.whole(1, 3) for _ in range(dims)],
                "padding": [dice.whole(0, q // 2) for q in window],
                "ceil_mode": dice.chance(0.4),
            }
            if kind == "max":
                options["dilation"] = [dice.of(1, 1, 2) for _ in range(dims)]
            else:
                options["count_include_pad"] = dice.chance(0.5)
                if dims > 1 and dice.chance(0.5):
                    options["divisor_override"] = dice.of(1, 1, 2, 3, 7, 1000, -2)
            return plain(f"aten.{kind}_pool{dims}d.default", (dice.whole(1, 2), *_sides(dice, dims)), self=H, **options)

        return draw

    def adaptive(kind: str, dims: int) -> Draw:
        def draw(dice: Dice) -> Drawn:
            sides = _sides(dice, dims)
            whole = [[t for t in range(1, n + 1) if kind == "avg" or n % t == 0] for n in sides]
            found = plain(
                f"aten.adaptive_{kind}_pool{dims}d.default",
                (2, *sides),
                self=H,
                output_size=[dice.any(sizes) for sizes in whole],
            )
            return found if kind == "avg" else first_of(found)

        return draw

    return {f"{kind}_pool{d}d": pool(kind, d) for kind in ("max", "avg") for d in (1, 2, 3)} | {
        f"adaptive_{kind}_pool{d}d": adaptive(kind, d) for kind in ("max", "avg") for d in (1, 2, 3)
    }


def first_of(drawn: Drawn) -> Drawn:
    """The first of several results."""
    last = drawn.steps[-1][0]
    item = ("item", "pertbound.getitem", {"self": Ref(last), "index": 0})
    return Drawn([*drawn.steps, item], drawn.shape, drawn.tensors)


def lp_pool(dice: Dice) -> Drawn:
    """As `functional.lp_pool` is traced."""
    dims, p = dice.of(1, 2), dice.of(1.0, 1.5, 2.0, 3.0, 4.0, 2.7)
    window = [dice.whole(1, 3) for _ in range(dims)]
    count = 1
    for n in window:
        count *= n
    pool = {"kernel_size": window, "stride": [dice.whole(1, 3) for _ in range(dims)]}
    steps: list[Step] = [
        ("raised", "aten.pow.Tensor_Scalar", {"self": H, "exponent": p}),
        ("mean", f"aten.avg_pool{dims}d.default", {"self": Ref("raised"), **pool}),
        ("sign", "aten.sign.default", {"self": Ref("mean")}),
        ("size", "aten.abs.default", {"self": Ref("mean")}),
        ("relu", "aten.relu.default", {"self": Ref("size")}),
        ("signed", "aten.mul.Tensor", {"self": Ref("sign"), "other": Ref("relu")}),
        ("whole", "aten.mul.Tensor", {"self": Ref("signed"), "other": count}),
        ("y", "aten.pow.Tensor_Scalar", {"self": Ref("whole"), "exponent": 1.0 / p}),
    ]
    return Drawn(steps, (1, *_sides(dice, dims)), nonnegative=p not in (2.0, 4.0))


def local_response(dice: Dice) -> Drawn:
    """As `functional.local_response_norm` is traced for samples of one position dimension."""
    channels, n, size = dice.whole(1, 5), dice.whole(1, 3), dice.whole(1, 6)
    alpha, beta, k = dice.of(0.0, 1e-4, dice.positive()), dice.of(0.0, 0.3, 0.5, 0.75, 1.0, 2.5), dice.positive()
    pad = {"self": Ref("wide"), "pad": [0, 0, size // 2, (size - 1) // 2]}
    steps: list[Step] = [
        ("squares", "aten.mul.Tensor", {"self": H, "other": H}),
        ("wide", "aten.unsqueeze.default", {"self": Ref("squares"), "dim": 1}),
        ("padded", "aten.pad.default", pad),
        ("mean", "aten.avg_pool2d.default", {"self": Ref("padded"), "kernel_size": [size, 1], "stride": [1]}),
        ("flat", "aten.squeeze.dim", {"self": Ref("mean"), "dim": 1}),
        ("scaled", "aten.mul.Tensor", {"self": Ref("flat"), "other": alpha}),
        ("raised", "aten.add.Tensor", {"self": Ref("scaled"), "other": k}),
        ("power", "aten.pow.Tensor_Scalar", {"self": Ref("raised"), "exponent": beta}),
        ("y", "aten.div.Tensor", {"self": H, "other": Ref("power")}),
    ]
    return Drawn(steps, (channels, n))


def _normalisations() -> dict[str, Draw]:
    def batch(dice: Dice) -> Drawn:
        channels = 3
        affine = {"weight": dice.tensor(channels), "bias": dice.tensor(channels)} if dice.chance(0.7) else {}
        statistics = {"running_mean": dice.tensor(channels), "running_var": dice.tensor(channels).abs()}
        options = {"training": False, "momentum": 0.1, "eps": dice.of(1e-5, 1e-3, 1.0), "cudnn_enabled": False}
        absent = {} if affine else {"weight": None, "bias": None}
        shape = dice.of((channels,), (channels, 2))
        return plain("aten.batch_norm.default", shape, input=H, **affine, **absent, **statistics, **options)

    def last(operator: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            shape = dice.of((4,), (2, 3), (1,), (3, 1))
            over = list(shape[-dice.whole(1, len(shape)) :])
            given = {"weight": dice.tensor(*over)} if dice.chance(0.5) else {}
            if operator == "layer_norm" and dice.chance(0.5):
                given["bias"] = dice.tensor(*over)
            eps = dice.of(1e-8, 1e-5, 0.1, 10.0)
            return plain(f"aten.{operator}.default", shape, input=H, normalized_shape=over, **given, eps=eps)

        return draw

    def group(dice: Dice) -> Drawn:
        given = {"weight": dice.tensor(4), "bias": dice.tensor(4)} if dice.chance(0.6) else {}
        groups, eps = dice.of(1, 2, 4), dice.of(1e-8, 1e-5, 0.1, 10.0)
        return plain("aten.group_norm.default", dice.of((4, 3), (4,)), input=H, num_groups=groups, **given, eps=eps)

    def instance(dice: Dice) -> Drawn:
        names = ("weight", "bias", "running_mean", "running_var")
        given: dict[str, Any] = dict.fromkeys(names)
        if dice.chance(0.5):
            given |= {"weight": dice.tensor(2), "bias": dice.tensor(2)}
        own = dice.chance(0.6)
        if not own:
            given |= {"running_mean": dice.tensor(2), "running_var": dice.tensor(2).abs()}
        options = {"use_input_stats": own, "momentum": 0.1, "eps": dice.of(1e-5, 0.1, 10.0), "cudnn_enabled": False}
        return plain("aten.instance_norm.default", (2, 3), input=H, **given, **options)

    return {
        "batch_norm": batch, "layer_norm": last("layer_norm"), "rms_norm": last("rms_norm"), "group_norm": group,
        "instance_norm": instance,
    }  # fmt: skip


def computing() -> dict[str, Draw]:
    """The operators that compute, by the names of their handlers."""
    found = _activations() | _arithmetic() | _convolutions() | _pools() | _normalisations()
    named = {f"aten.{name}": draw for name, draw in found.items()}
    return named | {"pertbound.lp_pool": lp_pool, "pertbound.local_response": local_response}
