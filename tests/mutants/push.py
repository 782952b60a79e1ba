"""Pushes with one thing wrong each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from contracts.graphs import (
    Builder,
    convolutional,
    convolutional_chain,
    linear_chain,
    mlp,
    residual,
)
from mutants.layers import AddMaximum, ConcatMaximum
from pertbound.graph import Graph, Node
from pertbound.layers import Activation, Add, Concat, Conv, Dense, Diagonal, Linear, Softplus
from pertbound.push import Chain, Push, Summary


class Averaged(Push):
    """A push with a replaceable rule for averaged activations, below the right one."""

    def rule(self, low: float, high: float, before: Tensor, norm: Any, moved: Tensor) -> Tensor:
        """From norm(B (u - v)), norm(B) and norm(u - v): norm(B (g(u) - g(v)))."""
        raise NotImplementedError

    def _moved(self, reader: Any, chain: Chain, at: str, radii: dict[str, Tensor], summary: Summary) -> Tensor:
        bound = super()._moved(reader, chain, at, radii, summary)
        node = self._nodes.get(at)
        if node is None or not isinstance(node.layer, Activation):
            return bound
        source = self._nodes.get(node.inputs[0])
        if source is None or not isinstance(source.layer, Linear) or reader((*chain, source.name)) is None:
            return bound
        before = self._moved(reader, chain, source.name, radii, summary)
        wrong = self.rule(*node.layer.slopes, before, reader(chain), radii[source.name])
        return torch.minimum(bound, wrong + reader(chain) * summary.noise[node.name])


class HalfDropped(Averaged):
    """Only the identity's part of an averaged activation."""

    def rule(self, low: float, high: float, before: Tensor, norm: Any, moved: Tensor) -> Tensor:
        return (low + high) / 2 * before


class SignedMiddle(Averaged):
    """A negative mean slope subtracted."""

    def rule(self, low: float, high: float, before: Tensor, norm: Any, moved: Tensor) -> Tensor:
        return (low + high) / 2 * before + (high - low) / 2 * norm * moved


class HalfOfHalf(Averaged):
    """A quarter of the 1-Lipschitz part instead of a half."""

    def rule(self, low: float, high: float, before: Tensor, norm: Any, moved: Tensor) -> Tensor:
        return (low + high) / 2 * before + (high - low) / 4 * norm * moved


class PushedThrough(Averaged):
    """The activation left out: norm(B W) alone, as if its largest slope could be pulled out."""

    def rule(self, low: float, high: float, before: Tensor, norm: Any, moved: Tensor) -> Tensor:
        return high * before


class CurvatureDropped(Push):
    """The Jacobian at the sample alone."""

    def _taylor(self, node: Node, layer: Activation, radii: dict[str, Tensor], summary: Summary) -> Tensor:
        return super()._taylor(node, cast(Any, SimpleNamespace(curvature=0.0, jump=layer.jump)), radii, summary)


class CurvatureHalved(Push):
    """A quarter of the second derivative instead of a half."""

    def _taylor(self, node: Node, layer: Activation, radii: dict[str, Tensor], summary: Summary) -> Tensor:
        half = cast(Any, SimpleNamespace(curvature=layer.curvature / 2, jump=layer.jump))
        return super()._taylor(node, half, radii, summary)


class JacobianHalved(Push):
    """A Jacobian that is too small."""

    def summarise(self, x: Tensor) -> tuple[Tensor, Summary]:
        logits, summary = super().summarise(x)
        jacobian = {name: value / 2 for name, value in summary.jacobian.items()}
        return logits, Summary(summary.noise, summary.steepest, jacobian)


class FoldedOnTheWrongSide(Push):
    """A diagonal folded into the inputs of the layer before it."""

    def _fold(self, chain: Chain) -> tuple[Linear, ...]:
        layers: list[Linear] = []
        for name in reversed(chain):
            layer = self._nodes[name].layer
            assert isinstance(layer, Linear)
            before = layers[-1] if layers else None
            if isinstance(layer, Diagonal) and isinstance(before, Dense | Conv):
                scale = layer.scale.to(torch.float64).reshape(1, -1, *(1 for _ in before.weight.shape[2:]))
                if scale.shape[1] == before.weight.shape[1]:
                    columns = before.weight.to(torch.float64) * scale
                    rest = {} if isinstance(before, Dense) else _geometry(before)
                    layers[-1] = type(before)(input_shape=before.input_shape, weight=columns, bias=None, **rest)
                    continue
            layers.append(layer)
        return tuple(reversed(layers))


def _geometry(conv: Conv) -> dict[str, Any]:
    return {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups")}


class DiagonalDropped(Push):
    """A diagonal that is folded and then forgotten."""

    def _fold(self, chain: Chain) -> tuple[Linear, ...]:
        found = tuple(layer for name in chain if not isinstance(layer := self._nodes[name].layer, Diagonal))
        return cast("tuple[Linear, ...]", found) or super()._fold(chain)


class NoiseDropped(Push):
    """The logits taken for exact."""

    def summarise(self, x: Tensor) -> tuple[Tensor, Summary]:
        logits, summary = super().summarise(x)
        return logits, Summary(dict.fromkeys(summary.noise, 0.0), summary.steepest, summary.jacobian)


class OneRow(Push):
    """The norm of the other class's row instead of the distance of two rows."""

    def _pair_norm(self, chain: Chain) -> Tensor | None:
        found = super()._pair_norm(chain)
        return None if found is None else found / 2**0.5


class OuterNormForgotten(Push):
    """Products of linear maps in which the outer one counts for 1."""

    def _operator_norm(self, chain: Chain) -> float | None:
        return super()._operator_norm(chain[-1:])


@dataclass(frozen=True)
class PushMutant:
    """A broken push, and the graph that shows it."""

    make: Callable[[Graph], Push]
    graph: Graph


def _square(kind: str | None) -> Graph:
    """Square dense layers of equal widths, each behind a diagonal of very unequal entries."""
    b = Builder((3,), 2)
    b.add(Dense((3,), torch.tensor([[3.0, 0.1, 0.0], [0.0, 0.1, 0.2], [0.1, 0.0, 0.1]]), None))
    b.add(Diagonal((3,), torch.tensor([4.0, 0.1, 0.1]).flip(0), torch.zeros(3)))
    b.add(Dense((3,), torch.tensor([[0.1, 0.0, 2.0], [0.1, 0.2, 3.0], [0.0, 0.1, -3.0]]), None))
    b.add(Diagonal((3,), torch.tensor([5.0, 1.0, 0.1]), torch.zeros(3)))
    if kind is not None:
        b.activation(kind)
        b.dense(3)
    return b.graph()


def _aligned(kind: str) -> Graph:
    """W2 . g . W1 with W2 W1 = 0: all that can reach the output does so through the 1-Lipschitz half."""
    b = Builder((1,), 0)
    b.add(Dense((1,), torch.tensor([[1.0], [-1.0]]), None))
    b.activation(kind)
    b.add(Dense((2,), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), None))
    return b.graph()


def _bent() -> Graph:
    """tanh around one of its tails: flat at the sample, steep further on."""
    b = Builder((1,), 0)
    b.add(Dense((1,), torch.tensor([[1.0], [0.9]]), torch.tensor([1.5, -1.5])))
    b.activation("Tanh")
    b.add(Dense((2,), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), None))
    return b.graph()


def _inflected() -> Graph:
    """One tanh, near where its second derivative is largest."""
    b = Builder((1,), 0)
    b.add(Dense((1,), torch.tensor([[0.2]]), torch.tensor([0.7])))
    b.activation("Tanh")
    b.add(Dense((1,), torch.tensor([[1.0], [-1.0]]), None))
    return b.graph()


def _replaced(graph: Graph, old: type, new: Callable[[Any], Any]) -> Graph:
    nodes = [Node(n.name, new(n.layer) if isinstance(n.layer, old) else n.layer, n.inputs) for n in graph.nodes]
    return Graph(nodes, graph.input_shape, dtype=graph.dtype)


def _doubled() -> Graph:
    """x + x through two branches, and their concatenation."""
    b = Builder((3,), 0)
    one, two = b.dense(3), b.dense(3, "input")
    b.add(Concat(1), one, two)
    b.dense(2)
    return b.graph()


class _JumpBetween(Softplus):
    """A modulus of its own, and no jump for products with the neighbours and Taylor's theorem."""

    def jump(self, rho: Tensor, at: Tensor | None) -> Tensor:
        return torch.zeros_like(rho)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return Softplus(self.input_shape, self.beta, self.threshold).modulus(*radii, at=at)


def _without_jump(layer: Softplus) -> Softplus:
    return _JumpBetween(layer.input_shape, layer.beta, layer.threshold)


def _jumping() -> Graph:
    """Softplus whose entries all cross their threshold together."""
    b = Builder((1,), 0)
    b.add(Dense((1,), torch.tensor([[0.1], [0.1]]), torch.tensor([0.25, 0.25])))
    b.add(Softplus((2,), 1.0, 0.251))
    b.add(Dense((2,), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), None))
    return b.graph()


def push_mutants() -> dict[str, PushMutant]:
    """All of them, by what is wrong; the last three push rightly through a broken layer."""
    return {
        "half dropped": PushMutant(HalfDropped, _aligned("ReLU")),
        "middle with its sign": PushMutant(SignedMiddle, mlp(2, "LeakyReLU -3", seed=23)),
        "half halved": PushMutant(HalfOfHalf, _aligned("ReLU")),
        "activation pushed through": PushMutant(PushedThrough, _aligned("LeakyReLU 0.1")),
        "half dropped, steep": PushMutant(HalfDropped, _aligned("LeakyReLU 3")),
        "curvature dropped": PushMutant(CurvatureDropped, _bent()),
        "curvature dropped, random": PushMutant(CurvatureDropped, mlp(3, "Tanh", seed=1)),
        "curvature halved": PushMutant(CurvatureHalved, _inflected()),
        "jacobian halved": PushMutant(JacobianHalved, _inflected()),
        "folded on the wrong side": PushMutant(FoldedOnTheWrongSide, _square("ReLU")),
        "folded on the wrong side, linear": PushMutant(FoldedOnTheWrongSide, _square(None)),
        "diagonal dropped": PushMutant(DiagonalDropped, _square("ReLU")),
        "noise dropped": PushMutant(NoiseDropped, mlp(3, "ReLU", seed=2)),
        "noise dropped, convolutional": PushMutant(NoiseDropped, convolutional("ReLU", "max", seed=3)),
        "pairs too close": PushMutant(OneRow, linear_chain(seed=4)),
        "outer norm forgotten": PushMutant(OuterNormForgotten, convolutional_chain(seed=5)),
        "sum taken as maximum": PushMutant(Push, _replaced(residual("ReLU", seed=6), Add, lambda _: AddMaximum())),
        "jump forgotten between layers": PushMutant(Push, _replaced(_jumping(), Softplus, _without_jump)),
        "concatenation taken as maximum": PushMutant(
            Push, _replaced(_doubled(), Concat, lambda layer: ConcatMaximum(layer.dim))
        ),
    }
