"""Recurrent layers and cells, unrolled over their steps; handlers as in `operators.py`.

Each gate is a dense layer of its own over the step's input and state side by side, so that every gate has its own norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.frontends.conversion import (
    Arguments,
    BatchConstant,
    Converter,
    Handler,
    Stacked,
    Value,
    constant_of,
    place,
    required_constant,
    value_of,
)
from pertbound.frontends.plumbing import affine, product
from pertbound.frontends.program import Call
from pertbound.frontends.ranges import Range
from pertbound.frontends.rearranging import join, numbered, reshaped, select
from pertbound.layers import Add, Dense, ReLU, Sigmoid, Tanh
from pertbound.rational import affine_constants

State = Value | Tensor
"""A state that depends on the input, or a constant of the state's shape."""
MOST_STEPS = 10_000
"""More layers than this would be made for ever."""


class _Weights:
    """Of one layer and direction: (gates * hidden, inputs), (gates * hidden, hidden), and biases or None."""

    def __init__(self, of_input: Tensor, of_state: Tensor, biases: Sequence[Tensor]) -> None:
        self.of_input, self.of_state, self.biases = of_input, of_state, tuple(biases)
        self.hidden = of_state.shape[1]

    def gate(self, number: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The rows of one gate."""
        rows = slice(number * self.hidden, (number + 1) * self.hidden)
        return self.of_input[rows], self.of_state[rows], tuple(bias[rows] for bias in self.biases)


def _dense(c: Converter, call: Call, value: State, weight: Tensor, bias: Tensor | None) -> State:
    """W v + b; a constant where v is one."""
    if isinstance(value, Tensor):
        return affine_constants(weight, value, () if bias is None else (bias,))
    return c.add(call, Dense(value.shape, weight.contiguous(), bias), value)


def _sum(c: Converter, call: Call, left: State, right: State) -> State:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left + right
    if isinstance(left, Value) and isinstance(right, Value):
        return c.add(call, Add(), left, right)
    value, constant = (left, right) if isinstance(left, Value) else (right, left)
    assert isinstance(value, Value)
    assert isinstance(constant, Tensor)
    return affine(c, call, value, 1.0, constant) if bool(constant.any()) else value


def _product(c: Converter, call: Call, left: State, right: State) -> State:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left * right
    if isinstance(left, Value) and isinstance(right, Value):
        return product(c, call, left, right)
    value, constant = (left, right) if isinstance(left, Value) else (right, left)
    assert isinstance(value, Value)
    assert isinstance(constant, Tensor)
    return affine(c, call, value, constant, 0.0) if bool(constant.any()) else torch.zeros_like(constant)


def _gate(c: Converter, call: Call, weights: _Weights, number: int, x: Value, h: State) -> Value:
    """W_i x + W_h h + b of one gate: one dense layer over x and h side by side."""
    of_input, of_state, biases = weights.gate(number)
    if isinstance(h, Tensor):
        found = _dense(c, call, x, of_input, affine_constants(of_state, h, biases))
    else:
        bias = biases[0].to(torch.float64) + biases[1].to(torch.float64) if biases else None
        found = _dense(c, call, join(c, call, [x, h], 1), torch.cat([of_input, of_state], 1), bias)
    assert isinstance(found, Value)
    return found


def _sigmoid(c: Converter, call: Call, value: Value) -> Value:
    return c.add(call, Sigmoid(value.shape), value)


def _tanh(c: Converter, call: Call, value: State) -> State:
    if isinstance(value, Tensor):
        return value.tanh()
    return c.add(call, Tanh(value.shape), value)


Step = Callable[[Converter, Call, _Weights, Value, tuple[State, ...]], tuple[State, ...]]
"""From a step's input and the states before it to the states after it; the first of them is the output."""


def _lstm_step(c: Converter, call: Call, weights: _Weights, x: Value, states: tuple[State, ...]) -> tuple[State, ...]:
    """c' = s(f) c + s(i) tanh(g), h' = s(o) tanh(c')."""
    h, cell = states
    i, f, g, o = (_gate(c, call, weights, n, x, h) for n in range(4))
    kept = _product(c, call, _sigmoid(c, call, f), cell)
    added = _product(c, call, _sigmoid(c, call, i), _tanh(c, call, g))
    cell = _sum(c, call, kept, added)
    return _product(c, call, _sigmoid(c, call, o), _tanh(c, call, cell)), cell


def _gru_step(c: Converter, call: Call, weights: _Weights, x: Value, states: tuple[State, ...]) -> tuple[State, ...]:
    """n = tanh(W x + b + s(r) (V h + d)), h' = (1 - s(z)) n + s(z) h, which lies between n and h."""
    (h,) = states
    r, z = (_sigmoid(c, call, _gate(c, call, weights, n, x, h)) for n in range(2))
    of_input, of_state, biases = weights.gate(2)
    recalled = _dense(c, call, h, of_state, biases[1] if biases else None)
    fresh = _dense(c, call, x, of_input, biases[0] if biases else None)
    n = _tanh(c, call, _sum(c, call, fresh, _product(c, call, r, recalled)))
    other = affine(c, call, z, -1.0, 1.0)
    found = _sum(c, call, _product(c, call, other, n), _product(c, call, z, h))
    assert isinstance(found, Value)
    before = Range(float(h.min()), float(h.max())) if isinstance(h, Tensor) else c.range(h)
    return (c.narrow(found, min(-1.0, before.low), max(1.0, before.high)),)


def _rnn_step(*, rectified: bool) -> Step:
    def step(c: Converter, call: Call, weights: _Weights, x: Value, states: tuple[State, ...]) -> tuple[State, ...]:
        z = _gate(c, call, weights, 0, x, states[0])
        return (c.add(call, ReLU(z.shape), z) if rectified else _tanh(c, call, z),)

    return step


def _initial(call: Call, state: Any, row: int | None) -> State:
    """A state before the first step: a constant, the same for each sample, or a cell's earlier state."""
    if isinstance(state, Value):
        return state
    tensor = state.tensor if isinstance(state, BatchConstant) else state
    if not isinstance(tensor, Tensor):
        raise UnsupportedLayerError(f"{call.target}{place(call)}: the first state must be stored, or zeros")
    tensor = tensor if row is None else tensor[row]
    if tensor.dim() != 2 or not torch.equal(tensor, tensor[:1].expand_as(tensor)):
        raise UnsupportedLayerError(
            f"{call.target}{place(call)}: the first state must be the same for every sample, got {tuple(tensor.shape)}"
        )
    return tensor[0]


def _unrolled(step: Step, states: int) -> Handler:
    """The handler of a whole layer: aten.lstm.input and its like."""

    def handler(c: Converter, call: Call, a: Arguments) -> list[Any]:
        source = value_of(call, a, "input")
        if a.get("train", False) and float(a.get("dropout", 0.0)) > 0:
            raise UnsupportedLayerError(f"{call.target}{place(call)} is random; call model.eval() before exporting")
        if not a.get("batch_first", False) or len(source.shape) != 2:
            raise UnsupportedLayerError(f"{call.target}{place(call)}: the batch must come first; set batch_first=True")
        directions, layers = (2 if a.get("bidirectional", False) else 1), int(a["num_layers"])
        each = 4 if a.get("has_biases", True) else 2
        params: list[Any] = a["params"]
        if len(params) != each * directions * layers or not all(isinstance(p, Tensor) for p in params):
            raise UnsupportedLayerError(f"{call.target}{place(call)}: weights must be stored, and without projections")
        if source.shape[0] * layers * directions > MOST_STEPS:
            raise UnsupportedLayerError(f"{call.target}{place(call)} has more than {MOST_STEPS} steps")
        given: list[Any] = a["hx"] if isinstance(a["hx"], list) else [a["hx"]]
        index = numbered(source.shape)
        steps = [select(c, call, source, index[t]) for t in range(source.shape[0])]
        ends: list[tuple[State, ...]] = []
        for layer in range(layers):
            columns: list[list[Any]] = []
            for direction in range(directions):
                row = layer * directions + direction
                weights = _Weights(
                    params[row * each], params[row * each + 1], params[row * each + 2 : (row + 1) * each]
                )
                now = tuple(_initial(call, state, row) for state in given)
                out: list[Any] = []
                for x in reversed(steps) if direction else steps:
                    now = step(c, call, weights, x, now)
                    out.append(now[0])
                columns.append(out[::-1] if direction else out)
                ends.append(now)
            steps = [join(c, call, list(parts), 1) for parts in zip(*columns, strict=True)]
        whole = join(c, call, [reshaped(c, call, v, (1, *v.shape)) for v in steps], 1)
        return [whole, *(Stacked(tuple(end[n] for end in ends)) for n in range(states))]

    return handler


def _cell(step: Step, states: int) -> Handler:
    """The handler of one step: aten.lstm_cell and its like."""

    def handler(c: Converter, call: Call, a: Arguments) -> Any:
        source = value_of(call, a, "input")
        biases = [v for name in ("b_ih", "b_hh") if (v := constant_of(call, a, name)) is not None]
        weights = _Weights(required_constant(call, a, "w_ih"), required_constant(call, a, "w_hh"), biases)
        if len(source.shape) != 1 or len(biases) == 1:
            raise UnsupportedLayerError(
                f"{call.target}{place(call)} of samples of {source.shape} with {len(biases)} biases"
            )
        given: list[Any] = a["hx"] if isinstance(a["hx"], list) else [a["hx"]]
        found = step(c, call, weights, source, tuple(_initial(call, state, None) for state in given))
        return found[0] if states == 1 else list(found)

    return handler


RECURRENT: dict[str, Handler] = {
    "aten.lstm": _unrolled(_lstm_step, 2),
    "aten.gru": _unrolled(_gru_step, 1),
    "aten.rnn_tanh": _unrolled(_rnn_step(rectified=False), 1),
    "aten.rnn_relu": _unrolled(_rnn_step(rectified=True), 1),
    "aten.lstm_cell": _cell(_lstm_step, 2),
    "aten.gru_cell": _cell(_gru_step, 1),
    "aten.rnn_tanh_cell": _cell(_rnn_step(rectified=False), 1),
    "aten.rnn_relu_cell": _cell(_rnn_step(rectified=True), 1),
}
