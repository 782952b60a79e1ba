"""Pushing a radius forwards: how far can each node's value move when the input moves by at most rho?

This is where the layers' moduli are composed, once, for every graph. For a radius rho the *radius of a node* is
an upper bound on norm(y(z) - Y(x))_2 over all z with norm(z - x) <= rho, where y(z) is the node's value at z in exact
arithmetic, and Y(x) its value at the sample *as computed*: each layer adds the rounding of that one computation
(`Layer.noise`). At rho = 0 what is left is the error of the computed logits.

Composition is tighter than one modulus after another, at three places:

1. *Products of linear maps.* For B W v, norm(B W) instead of norm(B) norm(W), wherever the product is small
   enough to write out, or a diagonal can be folded into W.
2. *Averaged activations* (a 1-Lipschitz increasing g is (identity + 1-Lipschitz) / 2). For u, v at the
   input of g with slopes in [low, high], middle and half their mean and half-difference:
   norm(B (g(u) - g(v))) <= abs(middle) norm(B (u - v)) + half norm(B) norm(u - v).
   Applied again to B (u - v) when u, v come from a linear map, this is the two-layer product
   (norm(B W) + norm(B) norm(W)) / 2 for ReLU, and its extension to any number of layers.
3. *Smooth activations at a known point*, g(W p + b): with D = diag(g'(z)), the first-order term is at most
   norm(D W)_F norm(p - p'), and the curvature term (1/2) sup abs(g'') norm(d * d) with d = W (p - p') is at most
   (1/2) sup abs(g'') max_i norm(w_i) norm(p - p') norm(d).

The smallest of all applicable bounds is taken at each node. For the decision between two classes B is the
difference of two rows of the last linear map, so that all of this holds for each pair of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, final

import torch
from torch import Tensor

from pertbound.environment import kept, known_state
from pertbound.graph import INPUT, Graph, Node, Visit, in_float64
from pertbound.layers import Activation, Conv, Dense, Diagonal, Linear, matrix_of
from pertbound.numerics import (
    UNIT32,
    UNIT64,
    gamma,
    pair_distances_upper,
    row_norms_upper,
    spectral_norm_upper,
)

_UNITS = {torch.float32: UNIT32, torch.float64: UNIT64}

CACHE = 2**20
"""Numbers of one layer's values that a thread computes at once in float64; more are slower, for want of cache."""

LONGEST, PRODUCTS, MOST_NAMES = 16, 1024, 64
"""Products of linear maps are of at most `LONGEST` factors, and of fewer in graphs of so many linear maps that more
than about `PRODUCTS` products would be needed, but always of two. A product of k factors behind activations counts
2^(1 - k) times in the bound of place 2, so longer ones would change radii by less than 1 part in 2^15, and all products
of n maps would be n^2 / 2. A product that is left out is bounded factor by factor: the bound holds without it."""

Chain = tuple[str, ...]
"""Names of linear nodes that follow one another through activations left out: outermost first."""


@final
@dataclass(frozen=True)
class Summary:
    """What the push needs to know of a batch; every tensor is float64 of shape (batch, 1)."""

    noise: dict[str, Tensor | float]
    """For each node, how far rounding can take its computed value at the sample from the exact one."""
    steepest: dict[str, Tensor]
    """What `Layer.local` says, (batch, 1, ...): for most smooth activations, max_i abs(g'(z_i))."""
    jacobian: dict[str, Tensor]
    """For each smooth activation behind a linear node, an upper bound on norm(diag(g'(z)) W)_F."""

    @staticmethod
    def joined(parts: Sequence[Summary]) -> Summary:
        """The summary of several batches, one after another."""
        noise: dict[str, Tensor | float] = {}
        for name, value in parts[0].noise.items():
            several = [v for part in parts if isinstance(v := part.noise[name], Tensor)]
            noise[name] = torch.cat(several) if several else value
        steepest = {name: torch.cat([part.steepest[name] for part in parts]) for name in parts[0].steepest}
        jacobian = {name: torch.cat([part.jacobian[name] for part in parts]) for name in parts[0].jacobian}
        return Summary(noise, steepest, jacobian)


class _Reader(Protocol):
    """Norms of what is read off a node's value: one operator, or one vector for each pair of classes."""

    def __call__(self, chain: Chain) -> float | Tensor | None:
        """The norm of the product of the chain, or None when it is not available."""
        ...


@final
class Push:
    """The push through one graph; holds the operator norms, which are computed once."""

    def __init__(self, graph: Graph) -> None:
        """Computes every norm that will be needed (the only expensive step)."""
        self.graph = graph
        self._nodes = {node.name: node for node in graph.nodes}
        self._norms: dict[Chain, float | None] = {}
        self._pairs: dict[Chain, Tensor | None] = {}
        self._longest = max(2, min(LONGEST, PRODUCTS // max(1, sum(map(_multiplies, graph.nodes)))))
        self._passed = self._passed_over()
        one = torch.ones(1, 1, dtype=torch.float64, device=graph.device)
        noise: dict[str, Tensor | float] = {node.name: 0.0 for node in graph.nodes}
        self.changes(Summary(noise, {}, {}), torch.zeros(1, dtype=torch.long, device=graph.device))(one)

    def summarise(self, x: Tensor, visit: Visit | None = None) -> tuple[Tensor, Summary]:
        """The logits of a batch, and its summary, in one forward pass in the dtype of x (float32 or float64).

        `visit` sees every node, as in `Graph.run`; without it a float64 batch is computed a few samples at a time.
        """
        if visit is None and x.dtype == torch.float64 and x.device.type == "cpu":
            at_once = torch.get_num_threads() * self._for_each_thread
            if len(x) > at_once:
                pieces = [self._summarise(piece, None) for piece in x.split(at_once)]
                return torch.cat([logits for logits, _ in pieces]), Summary.joined([summary for _, summary in pieces])
        return self._summarise(x, visit)

    @kept
    def _for_each_thread(self) -> int:
        """The number of samples whose values of any layer fit `CACHE`; at least one."""
        graph, sizes = self.graph.derive(in_float64), list[int]()
        zeros = torch.zeros(1, *graph.input_shape, dtype=graph.dtype, device=graph.device)
        graph.run(zeros, lambda node, arguments, value: sizes.append(value.numel()))
        return max(1, CACHE // max(sizes))

    def _summarise(self, x: Tensor, visit: Visit | None) -> tuple[Tensor, Summary]:
        graph = self.graph if x.dtype == self.graph.dtype else self.graph.derive(in_float64)
        summary = Summary({}, {}, {})
        with known_state(), torch.no_grad():
            logits = graph.run(x, partial(self._see, summary, visit))
        return logits, summary

    def _see(
        self, summary: Summary, visit: Visit | None, node: Node, arguments: tuple[Tensor, ...], value: Tensor
    ) -> None:
        if visit is not None:
            visit(node, arguments, value)
        layer = node.layer
        summary.noise[node.name] = 0.0
        if layer.rounds:
            assert all(value.dtype in _UNITS for value in arguments), "a layer changed the precision"
            unit = _UNITS[arguments[0].dtype]
            summary.noise[node.name] = layer.noise(*(_norm_of_samples(v) for v in arguments), unit=unit)
        local = layer.local(*arguments)
        if local is not None:
            summary.steepest[node.name] = local.unsqueeze(1)
            source = self._nodes.get(node.inputs[0])
            if isinstance(layer, Activation) and source is not None and isinstance(source.layer, Linear):
                rows = source.layer.row_norms_upper.to(arguments[0].device)
                slopes = layer.derivative_upper(arguments[0]).to(torch.float64)
                entries = (slopes * rows).flatten(1)
                summary.jacobian[node.name] = row_norms_upper(entries).unsqueeze(1)

    def _passed_over(self) -> set[str]:
        """Linear nodes read only by diagonals that fold into them: the logits do not need their own norm.

        Not so before smooth activations, whose Taylor bound (place 3) reads what the diagonal reads.
        """
        readers: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)

        def folds(diagonal: Node, name: str) -> bool:
            bent = (node.layer for node in readers.get(diagonal.name, []))
            smooth = any(isinstance(layer, Activation) and math.isfinite(layer.curvature) for layer in bent)
            return isinstance(diagonal.layer, Diagonal) and not smooth and len(self._fold((diagonal.name, name))) == 1

        return {
            node.name
            for node in self.graph.nodes
            if isinstance(node.layer, Dense | Conv)
            and all(folds(reader, node.name) for reader in readers.get(node.name, [node]))
        }

    def radii(self, rho: Tensor, summary: Summary, *, for_logits: bool = False) -> dict[str, Tensor]:
        """The radius of every node for input radii rho of shape (batch, 1) or (batch, k), float64.

        With `for_logits` two kinds of radii are coarser than they could be, because nothing better is read when only
        the changes of logits are asked for: the output's is its layer's modulus alone, and that of a layer with a
        diagonal folded into it comes from its absolute values.
        """
        radii = {INPUT: rho}
        for node in self.graph.nodes:
            layer = node.layer
            inputs = tuple(radii[name] for name in node.inputs)
            if for_logits and isinstance(layer, Linear) and node.name in self._passed:
                moved = layer.absolute_norm_upper * inputs[0]
            elif isinstance(layer, Linear) and not (for_logits and node is self.graph.output):
                moved = self._moved(self._operator_norm, (node.name,), node.inputs[0], radii, summary)
            else:
                moved = layer.modulus(*inputs, at=summary.steepest.get(node.name))
                if isinstance(layer, Activation) and node.name in summary.jacobian:
                    moved = torch.minimum(moved, self._taylor(node, layer, radii, summary))
            radii[node.name] = moved + summary.noise[node.name]
        return radii

    def changes(self, summary: Summary, reference: Tensor) -> Callable[[Tensor], Tensor]:
        """How much the difference of the reference's logit and each other one can change, as a function of rho.

        `reference` is (batch,) class numbers; the function takes rho (batch, 1) and returns (batch, classes).
        """
        gathered: dict[Chain, Tensor | None] = {}

        def reader(chain: Chain) -> Tensor | None:
            if chain not in gathered:
                pairs = self._pair_norm(chain)
                gathered[chain] = None if pairs is None else pairs[reference]
            return gathered[chain]

        def at_radius(rho: Tensor) -> Tensor:
            return self._moved(reader, (), self.graph.output.name, self.radii(rho, summary, for_logits=True), summary)

        return at_radius

    def _moved(self, reader: _Reader, chain: Chain, at: str, radii: dict[str, Tensor], summary: Summary) -> Tensor:
        """An upper bound on norm(B (Y(z) - Y(x))) for Y the value of node `at` and B the product of `chain`."""
        norm = reader(chain)
        assert norm is not None
        bound = norm * radii[at]
        node = self._nodes.get(at)
        if node is None:
            return bound
        layer = node.layer
        if isinstance(layer, Linear) and reader((*chain, at)) is not None:
            through = self._moved(reader, (*chain, at), node.inputs[0], radii, summary)
            return torch.minimum(bound, through + norm * summary.noise[node.name])
        if isinstance(layer, Activation):
            source = self._nodes.get(node.inputs[0])
            if source is None or not isinstance(source.layer, Linear):
                return bound
            if reader((*chain, source.name)) is None:
                return bound
            low, high = layer.slopes
            middle, half = (high + low) / 2, (high - low) / 2
            before = self._moved(reader, chain, source.name, radii, summary)
            jump = layer.jump(radii[source.name], summary.steepest.get(node.name))
            through = abs(middle) * before + norm * (half * radii[source.name] + jump)
            return torch.minimum(bound, through + norm * summary.noise[node.name])
        return bound

    def _taylor(self, node: Node, layer: Activation, radii: dict[str, Tensor], summary: Summary) -> Tensor:
        """Place 3 of the module's docstring: the Jacobian-plus-curvature modulus of g(W p + b)."""
        source = self._nodes[node.inputs[0]]
        assert isinstance(source.layer, Linear)
        known, moved = summary.steepest[node.name], radii[source.name]
        steepest = known[..., 0] if known.dim() == 3 else known
        before, rounding = radii[source.inputs[0]], summary.noise[source.name]
        first = torch.minimum(steepest * moved, summary.jacobian[node.name] * before + steepest * rounding)
        largest = torch.minimum(moved, float(source.layer.row_norms_upper.max()) * before + rounding)
        return first + 0.5 * layer.curvature * largest * moved + layer.jump(moved, known)

    def _operator_norm(self, chain: Chain) -> float | None:
        """The operator norm of the product; None when it cannot be had better than factor by factor."""
        if chain not in self._norms:
            layers = self._fold(chain)
            self._norms[chain] = self._compute_norm(layers, len(layers) < len(chain)) if self._short(chain) else None
        return self._norms[chain]

    def _short(self, chain: Chain) -> bool:
        """Whether the product of a chain is one of those that are computed; diagonals fold into what they follow."""
        return len(chain) <= MOST_NAMES and sum(_multiplies(self._nodes[name]) for name in chain) <= self._longest

    def _compute_norm(self, layers: tuple[Linear, ...], folded: bool) -> float | None:
        while len(layers) > 1 and layers[0].terms == 0:  # an isometry at either end changes nothing
            layers = layers[1:]
        while len(layers) > 1 and layers[-1].terms == 0:
            layers = layers[:-1]
        if len(layers) == 1:
            return layers[0].norm_upper + (_product_error(layers) if folded else 0.0)
        matrix = matrix_of(layers)
        return None if matrix is None else spectral_norm_upper(matrix) + _product_error(layers)

    def _pair_norm(self, chain: Chain) -> Tensor | None:
        """norm(row_c - row_j) of the product's matrix for all classes c, j: (classes, classes)."""
        if chain not in self._pairs:
            layers = self._fold(chain)
            self._pairs[chain] = self._compute_pairs(layers, len(layers) < len(chain)) if self._short(chain) else None
        return self._pairs[chain]

    def _compute_pairs(self, layers: tuple[Linear, ...], folded: bool) -> Tensor | None:
        if not layers:
            identity = torch.eye(self.graph.classes, dtype=torch.float64, device=self.graph.device)
            return pair_distances_upper(identity)
        matrix = matrix_of(layers)
        if matrix is None:
            return None
        return pair_distances_upper(matrix) + (2 * _product_error(layers) if folded or len(layers) > 1 else 0.0)

    def _fold(self, chain: Chain) -> tuple[Linear, ...]:
        """The layers of a chain, each diagonal folded into the dense or convolutional layer it follows."""
        layers: list[Linear] = []
        for name in reversed(chain):
            layer = self._nodes[name].layer
            assert isinstance(layer, Linear)
            if isinstance(layer, Diagonal) and layers and isinstance(layers[-1], Dense | Conv):
                folded = layers[-1].scaled(layer.scale)
                if folded is not None:
                    layers[-1] = folded
                    continue
            layers.append(layer)
        return tuple(reversed(layers))


def _multiplies(node: Node) -> bool:
    """Whether a node is a factor that makes a product longer."""
    return isinstance(node.layer, Linear) and node.layer.terms > 0 and not isinstance(node.layer, Diagonal)


def _product_error(layers: tuple[Linear, ...]) -> float:
    """How far, in norm, the product of the layers' matrices computed in float64 can be from the exact one.

    What the entries of diagonals were rounded by, also of folded ones, and their products, count as two terms each.
    """
    terms = sum(layer.terms + 2 for layer in layers)
    return gamma(2 * terms) * math.prod(layer.absolute_norm_upper for layer in layers)


def _norm_of_samples(value: Tensor) -> Tensor:
    """Upper bounds on the norm of each sample, (batch, 1) in float64.

    Summing n squares in float32 loses at most gamma_n; entries whose square underflows lose at most
    sqrt(n) 2^-63.
    """
    flat = value.flatten(1)
    n = flat.shape[1]
    norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True).to(torch.float64)
    return norm * (1 + gamma(n + 4, _UNITS[value.dtype])) + math.sqrt(n) * 2.0**-62
