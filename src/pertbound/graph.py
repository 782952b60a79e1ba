"""A classifier as a small directed acyclic graph of layers. Nothing here knows any layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from pertbound.environment import known_state
from pertbound.errors import ConversionError, InputError
from pertbound.layers.base import Layer, Shape

INPUT = "input"
"""The name under which nodes refer to the graph's input."""

T = TypeVar("T")
Visit = Callable[["Node", tuple[Tensor, ...], Tensor], None]
"""Called for each node with its input values and its output value."""


@final
@dataclass(frozen=True, eq=False)
class Node:
    """A layer in its place: its name, the names of the nodes it reads, and where it stands in the model."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    where: str = ""


@final
class Graph:
    """An immutable classifier: inputs (batch, *input_shape) to logits (batch, classes).

    Layers own copies of their weights, so that what is derived from a graph stays true.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        input_shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
        original: Callable[[Tensor], Tensor] | None = None,
        rounded: bool = False,
    ) -> None:
        """`nodes` in an order in which each reads only earlier ones; the last one gives the logits.

        `original` is the model that the graph was made from, where there is one: witnesses are run through it.
        `rounded` says that each weight may be off by two roundings (float64) from that of the classifier meant.
        Raises `ConversionError` when the nodes do not form such a graph.
        """
        self.nodes = tuple(nodes)
        self.input_shape = tuple(input_shape)
        self.dtype = dtype
        self.original = original
        self.rounded = rounded
        self._named = {node.name: node for node in self.nodes}
        known = {INPUT}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in known]
            if missing or node.name in known:
                raise ConversionError(f"node {node.name!r} reads {missing or 'nothing new'} before it exists")
            known.add(node.name)
        if not self.nodes:
            raise ConversionError("the graph has no layers: the model returns its input")
        self._reads = Counter(name for node in self.nodes for name in node.inputs)
        self._derived: dict[Callable[[Graph], Any], Any] = {}
        with torch.no_grad():
            logits = self.run(torch.zeros(1, *self.input_shape, dtype=dtype, device=self.device))
        if logits.dim() != 2 or logits.shape[1] < 2:
            raise ConversionError(
                f"a classifier must return (batch, classes) with at least 2 classes; for one input of shape "
                f"{self.input_shape} this one returns {tuple(logits.shape)}"
            )
        self.classes = int(logits.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        for node in self.nodes:
            for value in vars(node.layer).values():
                if isinstance(value, Tensor):
                    return value.device
        return torch.device("cpu")

    @property
    def output(self) -> Node:
        """The node that gives the logits."""
        return self.nodes[-1]

    def node(self, name: str) -> Node:
        """The node of that name."""
        return self._named[name]

    def __call__(self, x: Tensor) -> Tensor:
        """The logits of a batch, with gradients where they are wanted. Raises `InputError` for a wrong shape."""
        self.require_shape(x)
        return self.run(x)

    def require_shape(self, x: Tensor) -> None:
        """Raise `InputError` unless x is (batch, *input_shape) of the graph's dtype."""
        if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"inputs must be a torch.Tensor, got {type(x).__name__}; convert with torch.as_tensor")
        if tuple(x.shape[1:]) != self.input_shape or x.dim() != len(self.input_shape) + 1:
            raise InputError(
                f"the classifier takes inputs of shape (batch, {', '.join(map(str, self.input_shape))}), "
                f"got {tuple(x.shape)}; a single sample needs x.unsqueeze(0)"
            )
        if x.dtype != self.dtype:
            raise InputError(f"the classifier computes in {self.dtype}, got inputs of {x.dtype}; convert them")

    def run(self, x: Tensor, visit: Visit | None = None) -> Tensor:
        """The logits; `visit` sees every node as it is computed. Values are dropped after their last use."""
        values = {INPUT: x}
        left = Counter(self._reads)
        result = x
        for node in self.nodes:
            arguments = tuple(values[name] for name in node.inputs)
            result = node.layer.forward(*arguments)
            if visit is not None:
                visit(node, arguments, result)
            values[node.name] = result
            for name in node.inputs:
                left[name] -= 1
                if left[name] == 0:
                    del values[name]
        return result

    def with_tensors(self, convert: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Graph:
        """The graph whose layers hold convert(tensor) for each of their floating-point tensors."""

        def converted(layer: Layer) -> Layer:
            changed = {
                f.name: convert(value)
                for f in fields(layer)  # pyright: ignore[reportArgumentType]
                if isinstance(value := getattr(layer, f.name), Tensor) and value.is_floating_point()
            }
            return replace(layer, **changed) if changed else layer  # pyright: ignore[reportArgumentType]

        nodes = [replace(node, layer=converted(node.layer)) for node in self.nodes]
        return Graph(nodes, self.input_shape, dtype=dtype, original=self.original, rounded=self.rounded)

    def to(self, device: torch.device | str) -> Graph:
        """The same classifier on another device, its original too; this one where it is there already.

        Raises `InputError` where there is no such device.
        """
        try:
            probe = torch.ones(1, dtype=torch.float64, device=device)  # proofs are in float64
            probe.item()  # the device "meta" holds no numbers
            place = probe.device
        except (RuntimeError, AssertionError, TypeError, ImportError, ValueError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"there is no device {str(device)!r} here that computes in float64: {said}") from error
        if place == self.device:
            return self

        def moved(layer: Layer) -> Layer:
            tensors = {f.name: getattr(layer, f.name) for f in fields(layer)}  # pyright: ignore[reportArgumentType]
            changed = {name: value.to(place) for name, value in tensors.items() if isinstance(value, Tensor)}
            return replace(layer, **changed) if changed else layer  # pyright: ignore[reportArgumentType]

        nodes = [replace(node, layer=moved(node.layer)) for node in self.nodes]
        original = None if self.original is None else Elsewhere(self.original, self.device)
        return Graph(nodes, self.input_shape, dtype=self.dtype, original=original, rounded=self.rounded)

    def derive(self, compute: Callable[[Graph], T]) -> T:
        """compute(self), computed once for this graph and kept; in `known_state`, whatever the caller's modes are."""
        if compute not in self._derived:
            with known_state(), torch.no_grad():
                self._derived[compute] = compute(self)
        return self._derived[compute]


@final
@dataclass(frozen=True, eq=False)
class Elsewhere:
    """A model that stays on its device, as one of inputs on any."""

    model: Callable[[Tensor], Tensor]
    device: torch.device

    def __call__(self, x: Tensor) -> Tensor:
        """The model's outputs, where x is."""
        return self.model(x.to(self.device)).to(x.device)

    @property
    def softmax(self) -> bool:
        """Whether the model says that its outputs are probabilities, while those of its graph are logits."""
        return bool(getattr(self.model, "softmax", False))


def in_float64(graph: Graph) -> Graph:
    """The same classifier, its weights converted exactly to float64. For `Graph.derive`."""
    return graph.with_tensors(lambda tensor: tensor.to(torch.float64), torch.float64)
