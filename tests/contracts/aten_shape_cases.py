"""As `aten_cases.py`, for operators that arrange, repeat, reduce or sort entries, and for recurrent layers."""

from __future__ import annotations

from typing import Any

import torch

from contracts.aten_cases import Draw, Drawn, G, H, Step, first_of, plain
from contracts.dice import Dice
from pertbound.frontends.program import Ref

GRID = (2, 4, 6)


def _grid(target: str, **arguments: Any) -> Draw:
    """One call on samples of shape (2, 4, 6); an argument that is a function is drawn."""

    def draw(dice: Dice) -> Drawn:
        given = {name: value(dice) if callable(value) else value for name, value in arguments.items()}
        return plain(f"aten.{target}", GRID, self=H, **given)

    return draw


def _several(target: str, **arguments: Any) -> Draw:
    one = _grid(target, **arguments)
    return lambda dice: first_of(one(dice))


def _dim(dice: Dice) -> int:
    return dice.of(1, 2, 3, -1, -2)


def _moving() -> dict[str, Draw]:
    def pair(dice: Dice) -> list[int]:
        return dice.of([1, 2], [2, 3], [3, 2], [1, 3])

    def order(dice: Dice) -> list[int]:
        return dice.of([0, 3, 1, 2], [0, 2, 1, 3], [0, 1, 3, 2])

    def steps(dice: Dice) -> Drawn:
        return plain("aten.unfold.default", GRID, self=H, dimension=2, size=dice.whole(1, 3), step=dice.whole(1, 2))

    def im2col(dice: Dice) -> Drawn:
        sizes = {name: [dice.whole(1, 2)] * 2 for name in ("kernel_size", "dilation", "stride")}
        return plain("aten.im2col.default", GRID, self=H, **sizes, padding=[dice.whole(0, 1)] * 2)

    def indexed(dice: Dice) -> Drawn:
        index = torch.randint(0, 4, (dice.whole(1, 6),), generator=dice.generator)
        return plain("aten.index_select.default", GRID, self=H, dim=2, index=index)

    def index(dice: Dice) -> Drawn:
        rows = torch.randint(0, 2, (dice.whole(1, 5),), generator=dice.generator)
        return Drawn([("y", "aten.index.Tensor", {"self": H, "indices": [None, Ref("rows")]})], GRID, {"rows": rows})

    def nearest(dims: int) -> Draw:
        shape = (2, *(3, 2, 2)[:dims])
        sizes = [2 * n for n in shape[1:]]
        return lambda dice: plain(f"aten.upsample_nearest{dims}d.default", shape, self=H, output_size=sizes)

    def expanded(target: str) -> Draw:
        return lambda dice: plain(f"aten.{target}.default", (1, 3), self=H, size=[-1, 4, 3])

    def expand_as(dice: Dice) -> Drawn:
        steps: list[Step] = [
            ("first", "aten.slice.Tensor", {"self": H, "dim": 1, "start": 0, "end": 1}),
            ("y", "aten.expand_as.default", {"self": Ref("first"), "other": G}),
        ]
        return Drawn(steps, (3, 2))

    def square(target: str, **arguments: Any) -> Draw:
        return lambda dice: plain(f"aten.{target}", (3, 3), self=H, **arguments)

    found = {
        "slice": _grid("slice.Tensor", dim=_dim, start=1, end=3, step=lambda d: d.of(1, 2)),
        "select": _grid("select.int", dim=_dim, index=lambda d: d.of(0, 1, -1)),
        "narrow": _grid("narrow.default", dim=_dim, start=0, length=lambda d: d.of(1, 2)),
        "chunk": _several("chunk.default", chunks=2, dim=_dim),
        "split": _several("split.Tensor", split_size=lambda d: d.of(1, 2), dim=_dim),
        "split_with_sizes": _several("split_with_sizes.default", split_sizes=[1, 3], dim=2),
        "tensor_split": _several("tensor_split.sections", sections=2, dim=_dim),
        "unbind": _several("unbind.int", dim=_dim),
        "index_select": indexed,
        "index": index,
        "permute": _grid("permute.default", dims=order),
        **{name: _pair(name, pair) for name in ("transpose", "swapaxes", "swapdims")},
        "t": lambda dice: plain("aten.t.default", (3,), self=H),
        "mT": _grid("mT.default"),
        "adjoint": _grid("adjoint.default"),
        **{name: _grid(f"{name}.int", source=1, destination=lambda d: d.of(2, -1)) for name in ("movedim", "moveaxis")},
        "flip": _grid("flip.default", dims=lambda d: d.of([1], [2, 3], [-1])),
        "fliplr": _grid("fliplr.default"),
        "flipud": _grid("flip.default", dims=[1]),
        "rot90": _grid("rot90.default", k=lambda d: d.whole(0, 3), dims=[2, 3]),
        "roll": _grid("roll.default", shifts=[1], dims=lambda d: d.of([1], [2], [3])),
        "repeat": _grid("repeat.default", repeats=lambda d: [1, d.of(1, 2), 1, d.of(1, 3)]),
        "tile": _grid("tile.default", dims=lambda d: [1, d.of(1, 2), 1, 2]),
        "repeat_interleave": _grid("repeat_interleave.self_int", repeats=lambda d: d.of(1, 2), dim=_dim),
        "expand": expanded("expand"),
        "broadcast_to": expanded("broadcast_to"),
        "pixel_shuffle": lambda dice: plain("aten.pixel_shuffle.default", (4, 2, 3), self=H, upscale_factor=2),
        "pixel_unshuffle": _grid("pixel_unshuffle.default", downscale_factor=2),
        "channel_shuffle": lambda dice: plain("aten.channel_shuffle.default", (4, 2, 2), self=H, groups=2),
        "im2col": im2col,
        "unfold": steps,
        "tril": square("tril.default", diagonal=-1),
        "triu": square("triu.default", diagonal=1),
        "diagonal": square("diagonal.default", dim1=1, dim2=2),
        **{f"upsample_nearest{d}d": nearest(d) for d in (1, 2, 3)},
        "expand_as": expand_as,
        "view": _sized("view", "size"),
        "reshape": _sized("reshape", "shape"),
        "flatten": _grid("flatten.using_ints", start_dim=1, end_dim=lambda d: d.of(-1, 2)),
        "unflatten": _grid("unflatten.int", dim=3, sizes=[2, 3]),
        "squeeze": lambda dice: plain("aten.squeeze.dim", (1, 3), self=H, dim=1),
        "unsqueeze": _grid("unsqueeze.default", dim=_dim),
    }
    for name in ("clone", "detach", "alias", "lift_fresh_copy", "contiguous"):
        found[name] = _grid(f"{name}.default")
    for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"):
        found[name] = lambda dice, name=name: plain(f"aten.{name}.default", (3, 2), input=H, p=0.7, train=False)
    return found


def _sized(operator: str, name: str) -> Draw:
    def draw(dice: Dice) -> Drawn:
        steps: list[Step] = [
            ("rows", "aten.sym_size.int", {"self": H, "dim": 0}),
            ("y", f"aten.{operator}.default", {"self": H, name: [Ref("rows"), *dice.of((-1,), (8, 6), (3, 16))]}),
        ]
        return Drawn(steps, GRID)

    return draw


def _pair(name: str, pair: Any) -> Draw:
    def draw(dice: Dice) -> Drawn:
        one, two = pair(dice)
        names = ("axis0", "axis1") if name == "swapaxes" else ("dim0", "dim1")
        overload = "int" if name == "transpose" else "default"
        return plain(f"aten.{name}.{overload}", GRID, self=H, **dict(zip(names, (one, two), strict=True)))

    return draw


def _joining() -> dict[str, Draw]:
    def parts(dice: Dice) -> list[Ref]:
        return dice.of([H, G], [G, H, H], [H, H])

    def together(operator: str) -> Draw:
        return lambda dice: Drawn(
            [("y", f"aten.{operator}.default", {"tensors": parts(dice), "dim": dice.of(1, 2, -1)})], (2, 3)
        )

    def constant(operator: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            filled: dict[str, Any] = {"fill_value": dice.number()} if operator == "full" else {}
            steps: list[Step] = [
                ("rows", "aten.sym_size.int", {"self": H, "dim": 0}),
                ("more", f"aten.{operator}.default", {"size": [Ref("rows"), 2], **filled, "dtype": dice.dtype}),
                ("y", "aten.cat.default", {"tensors": dice.of([H, Ref("more")], [Ref("more"), G, H]), "dim": 1}),
            ]
            return Drawn(steps, (3,))

        return draw

    def sized(dice: Dice) -> Drawn:
        steps: list[Step] = [
            ("rows", "aten.sym_size.int", {"self": H, "dim": 0}),
            ("y", "aten.view.default", {"self": H, "size": [Ref("rows"), -1]}),
        ]
        return Drawn(steps, (2, 3))

    def item(dice: Dice) -> Drawn:
        return first_of(plain("aten.chunk.default", (4,), self=H, chunks=2, dim=1))

    def checked(dice: Dice) -> Drawn:
        steps: list[Step] = [
            ("none", "aten._assert_tensor_metadata.default", {"a": H, "dtype": dice.dtype}),
            ("y", "aten.neg.default", {"self": H}),
        ]
        return Drawn(steps, (3,))

    def pad(target: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            sizes = [dice.whole(-1, 2) for _ in range(dice.of(2, 4))]
            mode: dict[str, Any] = {}
            if target == "pad.default" and dice.chance(0.4):
                sizes = [dice.whole(0, 2) for _ in range(4)]
                mode = {"mode": dice.of("reflect", "replicate", "circular")}
            value = {} if mode or dice.chance(0.3) else {"value": dice.number()}
            return plain(f"aten.{target}", GRID, self=H, pad=sizes, **mode, **value)

        return draw

    return {
        "cat": together("cat"),
        "stack": together("stack"),
        **{name: constant(name) for name in ("zeros", "ones", "full")},
        "sym_size": sized,
        "_assert_tensor_metadata": checked,
        "to": lambda dice: plain("aten.to.dtype", (3,), self=H, dtype=dice.dtype),
        "pad": pad("pad.default"),
        "constant_pad_nd": pad("constant_pad_nd.default"),
        "getitem": item,
    }


def _reducing() -> dict[str, Draw]:
    def dims(dice: Dice) -> list[int]:
        return dice.of([1], [2, 3], [-1], [1, 3])

    def extreme(operator: str) -> Draw:
        along = _several(f"{operator}.dim", dim=_dim, keepdim=lambda d: d.chance(0.5))

        def draw(dice: Dice) -> Drawn:
            if dice.chance(0.5):
                return along(dice)
            return of_two(f"{operator}.other")(dice)

        return draw

    def of_two(target: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            other = dice.of(G, H, dice.tensor(3), dice.tensor(2, 1), dice.tensor(1, 2, 3))
            return plain(f"aten.{target}", (2, 3), self=H, other=other)

        return draw

    def final(operator: str) -> Draw:
        extra = {"half_to_float": False} if operator.startswith("_") else {}
        overload = "default" if extra else "int"
        return lambda dice: plain(f"aten.{operator}.{overload}", (4,), self=H, dim=dice.of(1, -1), **extra)

    def sort(dice: Dice) -> Drawn:
        shape = dice.of((4,), (2, 3), (3, 2), (2, 1))
        dim, turned = dice.of(1, -1), dice.chance(0.5)
        return first_of(plain("aten.sort.default", shape, self=H, dim=dim, descending=turned))

    keep: dict[str, Any] = {"keepdim": lambda d: d.chance(0.5)}
    return {
        "mean": _grid("mean.dim", dim=dims, **keep),
        "sum": _grid("sum.dim_IntList", dim=dims, **keep),
        "amax": _grid("amax.default", dim=dims, **keep),
        "amin": _grid("amin.default", dim=dims, **keep),
        "max": extreme("max"),
        "min": extreme("min"),
        "maximum": of_two("maximum.default"),
        "minimum": of_two("minimum.default"),
        "sort": sort,
        **{name: final(name) for name in ("softmax", "log_softmax", "_softmax", "_log_softmax")},
    }


GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _recurrent() -> dict[str, Draw]:
    def whole(kind: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            steps_, inside, hidden = dice.whole(1, 3), dice.whole(1, 2), dice.whole(1, 2)
            layers, both, biases = dice.of(1, 1, 2), dice.chance(0.3), dice.chance(0.7)
            tensors: dict[str, Any] = {}
            for row in range(layers * (2 if both else 1)):
                before = inside if row < (2 if both else 1) else hidden * (2 if both else 1)
                tensors[f"w{row}"] = dice.tensor(GATES[kind] * hidden, before)
                tensors[f"v{row}"] = dice.tensor(GATES[kind] * hidden, hidden)
                if biases:
                    tensors[f"b{row}"], tensors[f"c{row}"] = (dice.tensor(GATES[kind] * hidden) for _ in range(2))
            rows = layers * (2 if both else 1)
            states = ["first", "second"] if kind == "lstm" else ["first"]
            steps: list[Step] = [("rows", "aten.sym_size.int", {"self": H, "dim": 0})]
            for name in states:
                size = {"size": [rows, Ref("rows"), hidden], "fill_value": dice.of(0.0, dice.number())}
                steps.append((name, "aten.full.default", {**size, "dtype": dice.dtype}))
            given = {
                "input": H, "hx": [Ref(name) for name in states] if kind == "lstm" else Ref("first"),
                "params": [Ref(name) for name in tensors], "has_biases": biases, "num_layers": layers, "dropout": 0.0,
                "train": False, "bidirectional": both, "batch_first": True,
            }  # fmt: skip
            steps.append(("y", f"aten.{kind}.input", given))
            return first_of(Drawn(steps, (steps_, inside), tensors))

        return draw

    def cell(kind: str) -> Draw:
        def draw(dice: Dice) -> Drawn:
            inside, hidden = dice.whole(1, 3), dice.whole(1, 3)
            rows = GATES[kind] * hidden
            tensors = {"w_ih": dice.tensor(rows, inside), "w_hh": dice.tensor(rows, hidden)}
            if dice.chance(0.7):
                tensors |= {"b_ih": dice.tensor(rows), "b_hh": dice.tensor(rows)}
            states = ["first", "second"] if kind == "lstm" else ["first"]
            steps: list[Step] = [("rows", "aten.sym_size.int", {"self": H, "dim": 0})]
            for name in states:
                size = {"size": [Ref("rows"), hidden], "fill_value": dice.of(0.0, dice.number())}
                steps.append((name, "aten.full.default", {**size, "dtype": dice.dtype}))
            state: Any = [Ref(name) for name in states] if kind == "lstm" else Ref("first")
            given = {"input": H, "hx": state, **{name: Ref(name) for name in tensors}}
            again = dict(given)
            steps.append(("once", f"aten.{kind}_cell.default", given))
            if kind == "lstm":
                steps += [
                    ("one", "pertbound.getitem", {"self": Ref("once"), "index": 0}),
                    ("two", "pertbound.getitem", {"self": Ref("once"), "index": 1}),
                ]
                again["hx"] = [Ref("one"), Ref("two")]
            else:
                again["hx"] = Ref("once")
            found = Drawn([*steps, ("y", f"aten.{kind}_cell.default", again)], (inside,), tensors)
            return first_of(found) if kind == "lstm" else found

        return draw

    return {kind: whole(kind) for kind in GATES} | {f"{kind}_cell": cell(kind) for kind in GATES}


def arranging() -> dict[str, Draw]:
    """These operators, by the names of their handlers."""
    found = _moving() | _joining() | _reducing() | _recurrent()
    named = {f"aten.{name}": draw for name, draw in found.items() if name != "getitem"}
    return named | {"pertbound.getitem": found["getitem"]}
