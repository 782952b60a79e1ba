"""What the push promises: no value of any node, and no difference of logits, moves further than it says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from contracts.graphs import exact
from oracles import ascent
from pertbound.graph import Graph, Node, in_float64
from pertbound.push import Push

RADII = (0.0, 1e-3, 0.05, 0.5, 3.0)


def check_push(graph: Graph, generator: torch.Generator, make: Callable[[Graph], Push] = Push) -> float:
    """At every node and every pair of classes, for the worst perturbation that gradient ascent finds.

    Returns the largest part of a bound that was reached, over all radii above 0.
    """
    push = make(graph)
    x = torch.randn(3, *graph.input_shape, generator=generator, dtype=torch.float64)
    x[2] *= 4
    reached = 0.0
    for dtype in dict.fromkeys((graph.dtype, torch.float64)):
        reached = max(reached, _check_at(push, graph, x.to(graph.dtype).to(dtype), generator))
    return reached


def _check_at(push: Push, graph: Graph, x: Tensor, generator: torch.Generator) -> float:
    logits, summary = push.summarise(x)
    computed: dict[str, Tensor] = {}

    def keep(node: Node, _: tuple[Tensor, ...], value: Tensor) -> None:
        computed[node.name] = value.to(torch.float64).flatten(1)

    with torch.no_grad():
        same = (graph if x.dtype == graph.dtype else in_float64(graph)).run(x, keep)
    assert torch.equal(same, logits), "summarise does not return the logits"
    reference = logits.argmax(1)
    reference[0] = (reference[0] + 1) % graph.classes  # a label other than the prediction
    rho = torch.tensor(RADII, dtype=torch.float64).expand(len(x), -1)
    radii = push.radii(rho, summary)
    assert set(radii) - {"input"} == set(computed), "radii leaves nodes out"
    change = push.changes(summary, reference)
    changes = torch.stack([change(rho[:, i : i + 1]) for i in range(len(RADII))], 1)  # (batch, radii, classes)
    assert bool((change(rho[:, :1]).gather(1, reference[:, None]) == 0).all()), "a class moves against itself"
    names = list(computed)
    bounds = torch.stack([radii[name].expand_as(rho) for name in names] + list(changes.unbind(2)), 2)
    assert bool((bounds.diff(dim=1) >= 0).all()), "a bound decreases with the radius"
    observe = _observer(graph, names, computed, reference)
    moved = _worst(observe, x.to(torch.float64), rho, bounds.shape[2], generator)
    sizes = torch.stack([torch.linalg.vector_norm(computed[name], dim=1) for name in names], 1)
    sizes = torch.cat([sizes, sizes[:, -1:].expand(-1, graph.classes)], 1)[:, None]
    excess = moved - bounds * (1 + 1e-9) - 1e-13 * (1 + sizes)
    sample, radius, target = (int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
    what = names[target] if target < len(names) else f"logit difference with class {target - len(names)}"
    assert bool((excess <= 0).all()), (
        f"{x.dtype}: {what} of sample {sample} moves by {float(moved[sample, radius, target]):.12g} at radius "
        f"{RADII[radius]:g}, the push says {float(bounds[sample, radius, target]):.12g}"
    )
    positive = bounds[:, 1:] > 1e-12
    return float((moved[:, 1:][positive] / bounds[:, 1:][positive]).max())


def _observer(
    graph: Graph, names: list[str], computed: dict[str, Tensor], reference: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """(perturbed inputs, the sample of each) to the movement of every target, (inputs, targets)."""
    true = exact(graph)

    def observe(z: Tensor, sample: Tensor) -> Tensor:
        found: dict[str, Tensor] = {}

        def see(node: Node, _: tuple[Tensor, ...], value: Tensor) -> None:
            found[node.name] = value.flatten(1) - computed[node.name][sample]

        true.run(z, see)
        norms = torch.stack([torch.linalg.vector_norm(found[name], dim=1) for name in names], 1)
        last = found[names[-1]]
        pairs = (last.gather(1, reference[sample][:, None]) - last).abs()
        return torch.cat([norms, pairs], 1)

    return observe


def _worst(
    observe: Callable[[Tensor, Tensor], Tensor], x: Tensor, rho: Tensor, targets: int, generator: torch.Generator
) -> Tensor:
    """The largest movements found, (batch, radii, targets)."""
    batch, count = rho.shape
    starts = torch.stack([ascent.directions(sample, generator, coordinates=8, random=4) for sample in x])
    many = starts.shape[1]
    shape = (batch, count, many, *x.shape[1:])
    r = starts[:, None] * rho.reshape(batch, count, 1, *(1 for _ in x.shape[1:]))
    z = (x[:, None, None] + r).expand(shape).reshape(-1, *x.shape[1:])
    sample = torch.arange(batch).repeat_interleave(count * many)
    with torch.no_grad():
        seen = observe(z, sample).reshape(batch, count, many, targets)
    best, which = seen.max(2)  # (batch, radii, targets)
    start = starts[torch.arange(batch)[:, None, None], which].reshape(-1, *x.shape[1:])
    sample = torch.arange(batch).repeat_interleave(count * targets)
    target = torch.arange(targets).repeat(batch * count)
    radius = rho[:, :, None].expand(-1, -1, targets).reshape(-1)

    def objective(z: Tensor) -> Tensor:
        return observe(z, sample).gather(1, target[:, None]).squeeze(1)

    ascended, _ = ascent.ascend(objective, x[sample], start, radius, steps=7)
    return torch.maximum(best, ascended.reshape(best.shape))
