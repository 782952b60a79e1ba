"""The formulas of Peck, Roels, Goossens and Saeys (NIPS 2017), verbatim. Estimates, not guarantees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from pertbound.certificates.base import Estimator
from pertbound.errors import InputError, UnsupportedLayerError
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Activation, Conv, Dense, LeakyReLU, ReLU
from pertbound.problem import Estimate, Problem


@final
@dataclass(frozen=True)
class CurvatureFree:
    """Treat ReLU as linear around the sample: M -> 0 in Theorem 4.1, which leaves kappa / norm(J(x))."""

    def __str__(self) -> str:
        return "curvature-free"

    def slope(self, z: Tensor) -> Tensor:
        """1 where the unit is on, else 0."""
        return (z > 0).to(z.dtype)

    @property
    def curvature(self) -> float:
        """0: the limit that is taken."""
        return 0.0


@final
@dataclass(frozen=True, kw_only=True)
class Softened:
    """Put softplus, log(1 + exp(sharpness z)) / sharpness, in ReLU's place in Theorem 4.1: M is finite then."""

    sharpness: float = 10.0

    def __str__(self) -> str:
        return f"softplus sharpness={self.sharpness:g}"

    def slope(self, z: Tensor) -> Tensor:
        """The logistic function of sharpness * z."""
        return (self.sharpness * z).sigmoid()

    @property
    def curvature(self) -> float:
        """sup abs(g'') = sharpness / 4."""
        return self.sharpness / 4


@dataclass(frozen=True)
class _Block:
    """A run of dense layers, each with the activation behind it (or None): the h of Theorem 4.1."""

    layers: tuple[tuple[Dense, Activation | None], ...]
    names: tuple[str, ...]  # of the nodes whose values enter the activations


@final
@dataclass(frozen=True, kw_only=True)
class Published(Estimator):
    """The bound of the paper, from the output back to the input of a chain of layers.

    - softmax layer (Theorem A.3): kappa = min_c' abs((w_c' - w_c).y + b_c' - b_c) / norm(w_c' - w_c);
    - fully connected (Theorem 4.1): (sqrt(norm(J)^2 + 2 M sqrt(n) kappa) - norm(J)) / (M sqrt(n)), for each run of
      dense layers, n its outputs, J its Jacobian at the sample, M a bound on the entries of its second derivatives;
    - M (Theorem A.5): with D_l, M_l bounding first and second derivatives of layer l = g(V h + b),
      D_l = sup abs(g') norm(V)_inf D_{l-1}, D_0 = 1,
      M_l = sup abs(g'') (norm(V)_inf D_{l-1})^2 + sup abs(g') norm(V)_inf M_{l-1}, M_0 = 0,
      with norm(V)_inf = max_i sum_j abs(v_ij). The paper's appendix is not at hand: this is
      the plainest recursion that the chain rule gives. Bounding the first layer by its largest entry instead is as
      valid, and gives a smaller M, hence larger values.
    - convolution (Theorem 4.2) and pooling (Theorem 4.4): see those layers.

    These are estimates: Theorem 4.2 is false in general, Theorem 4.1 needs M to bound spectral norms of Hessians
    rather than their entries, and does not cover ReLU, which has no second derivative. `relu` says what stands in
    for M and J there. norm(J) comes from `iterations` steps of power iteration, which approaches it from below.
    The value is infinite where the formulas say so (J = 0 and M = 0).
    """

    relu: CurvatureFree | Softened = field(default_factory=lambda: Softened())
    iterations: int = 30

    @property
    def name(self) -> str:
        """published(...) with what stands in for ReLU."""
        return f"published({self.relu})"

    def estimate(self, problem: Problem) -> Estimate:
        """The value of the paper's kappa_1 for each sample of one batch. L2 over all of R^d only (`InputError`)."""
        network = problem.network
        if problem.within.p != 2 or problem.within.box is not None:
            raise InputError(f"the published formulas are about L2 over all of R^d, not {problem.within}; leave it out")
        steps = _steps(network)
        values: dict[str, Tensor] = {}

        def keep(node: Node, arguments: tuple[Tensor, ...], _: Tensor) -> None:
            if isinstance(node.layer, Activation):
                values[node.inputs[0]] = arguments[0]

        with torch.no_grad():
            logits = network.run(problem.x, keep).to(torch.float64)
            predicted = logits.argmax(1)
            reference = problem.reference(predicted)
            kappa = _softmax_kappa(network, logits, reference)
            for step in steps:
                if isinstance(step, _Block):
                    kappa = self._fully_connected(step, values, kappa)
                else:
                    kappa = step.layer.published_kappa(kappa)
        misclassified = predicted != reference
        finite = torch.isfinite(logits).all(1) & ~torch.isnan(kappa)
        kappa = torch.where(misclassified | ~finite, torch.zeros_like(kappa), kappa)
        return Estimate(kappa, reference, predicted, self.name, self._basis(steps))

    def _fully_connected(self, block: _Block, values: dict[str, Tensor], kappa: Tensor) -> Tensor:
        """Theorem 4.1, written as 2 kappa / (sqrt(J^2 + 2 M sqrt(n) kappa) + J), which allows M = 0."""
        n = block.layers[-1][0].weight.shape[0]
        curvature = self._second_derivative(block) * math.sqrt(n)
        jacobian = self._jacobian_norm(block, values, len(kappa))
        return 2 * kappa / ((jacobian.square() + 2 * curvature * kappa).sqrt() + jacobian)

    def _jacobian_norm(self, block: _Block, values: dict[str, Tensor], batch: int) -> Tensor:
        """norm(J(x))_2 for each sample by power iteration on J^T J; (batch,) float64."""
        slopes = [
            None if activation is None else self._slope(activation, values[name])
            for (_, activation), name in zip(block.layers, block.names, strict=True)
        ]
        weights = [dense.weight for dense, _ in block.layers]
        generator = torch.Generator(device=weights[0].device).manual_seed(0)
        vector = torch.randn(
            batch, weights[0].shape[1], generator=generator, dtype=weights[0].dtype, device=weights[0].device
        )
        size = torch.zeros(batch, 1, device=vector.device)
        for _ in range(self.iterations):
            vector = vector / torch.linalg.vector_norm(vector, dim=1, keepdim=True).clamp_min(1e-30)
            moved = vector
            for weight, slope in zip(weights, slopes, strict=True):
                moved = moved @ weight.T if slope is None else (moved @ weight.T) * slope
            size = torch.linalg.vector_norm(moved, dim=1, keepdim=True)
            vector = moved
            for weight, slope in zip(reversed(weights), reversed(slopes), strict=True):
                vector = vector @ weight if slope is None else (vector * slope) @ weight
        return size.squeeze(1).to(torch.float64)

    def _second_derivative(self, block: _Block) -> float:
        """M of Theorem A.5, for the block from its input to its output."""
        first, second = 1.0, 0.0
        for dense, activation in block.layers:
            steep, curved = self._derivative_bounds(activation)
            spread = float(dense.weight.abs().to(torch.float64).sum(1).max())
            second = curved * (spread * first) ** 2 + steep * spread * second
            first = steep * spread * first
        return second

    def _derivative_bounds(self, activation: Activation | None) -> tuple[float, float]:
        """sup abs(g') and sup abs(g'')."""
        if activation is None:
            return 1.0, 0.0
        if isinstance(activation, ReLU | LeakyReLU):
            low, high = activation.slopes
            return activation.steepest, (high - low) * self.relu.curvature
        if not math.isfinite(activation.curvature):
            raise UnsupportedLayerError(
                f"Theorem 4.1 needs a second derivative, which {type(activation).__name__} does not have; only ReLU "
                "has a stand-in here. Use pb.Lipschitz()"
            )
        return activation.steepest, activation.curvature

    def _slope(self, activation: Activation, z: Tensor) -> Tensor:
        """g'(z), with the stand-in for ReLU."""
        if isinstance(activation, ReLU):
            return self.relu.slope(z)
        if isinstance(activation, LeakyReLU):
            return activation.slope + (1 - activation.slope) * self.relu.slope(z)
        return activation.derivative_upper(z)

    def _basis(self, steps: Sequence[_Block | Node]) -> str:
        """What was assumed, for the output."""
        blocks = [step for step in steps if isinstance(step, _Block)]
        if not any(isinstance(a, ReLU | LeakyReLU) for b in blocks for _, a in b.layers):
            return "twice differentiable; M by Theorem A.5"
        if isinstance(self.relu, CurvatureFree):
            return "curvature-free limit (M = 0): ReLU has no second derivative"
        return f"ReLU replaced by softplus of sharpness {self.relu.sharpness:g} in M and J"


def _softmax_kappa(network: Graph, logits: Tensor, reference: Tensor) -> Tensor:
    """Theorem A.3; the last layer's weights, and its margins read off the logits. (batch,) float64."""
    last = network.output.layer
    assert isinstance(last, Dense)
    weight = last.weight.to(torch.float64)
    distances = torch.linalg.vector_norm(weight[:, None] - weight[None, :], dim=2)[reference]
    margins = (logits - logits.gather(1, reference[:, None])).abs()
    ratios = (margins / distances).scatter(1, reference[:, None], torch.inf)
    return ratios.amin(1)


def _steps(network: Graph) -> list[_Block | Node]:
    """The chain behind the softmax layer, from the output back to the input.

    Raises `UnsupportedLayerError` for graphs and layers that the paper does not treat.
    """
    nodes = list(network.nodes)
    expected = INPUT
    for node in nodes:
        if node.inputs != (expected,):
            raise UnsupportedLayerError(
                f"the published formulas treat chains of layers; {node.name!r}{_at(node)} reads "
                f"{list(node.inputs)}. Use pb.Lipschitz(), which takes any graph"
            )
        expected = node.name
    if not isinstance(nodes[-1].layer, Dense):
        raise UnsupportedLayerError(
            f"the published formulas need a dense layer before the softmax; the last layer is "
            f"{type(nodes[-1].layer).__name__}{_at(nodes[-1])}. Use pb.Lipschitz()"
        )
    steps: list[_Block | Node] = []
    rest = nodes[:-1]
    while rest:
        block = _trailing_block(rest)
        if block is not None:
            steps.append(block)
            taken = sum(1 if activation is None else 2 for _, activation in block.layers)
            rest = rest[:-taken]
            continue
        node = rest.pop()
        if isinstance(node.layer, ReLU) and rest and isinstance(rest[-1].layer, Conv):
            continue  # Theorem 4.2 is stated for ReLU(W * X + b)
        try:
            node.layer.published_kappa(torch.ones(1, dtype=torch.float64))
        except UnsupportedLayerError as error:
            raise UnsupportedLayerError(f"{node.name!r}{_at(node)}: {error}") from None
        steps.append(node)
    return steps


def _trailing_block(nodes: Sequence[Node]) -> _Block | None:
    """The longest run of dense layers, each with or without an activation, at the end of the nodes."""
    layers: list[tuple[Dense, Activation | None]] = []
    names: list[str] = []
    position = len(nodes) - 1
    while position >= 0:
        activation = None
        if isinstance(layer := nodes[position].layer, Activation):
            activation, position = layer, position - 1
        if position < 0 or not isinstance(dense := nodes[position].layer, Dense):
            break
        layers.insert(0, (dense, activation))
        names.insert(0, nodes[position].name)
        position -= 1
    return _Block(tuple(layers), tuple(names)) if layers else None


def _at(node: Node) -> str:
    return f" (at {node.where})" if node.where else ""
