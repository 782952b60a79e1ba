"""A search for the nearest misclassified input, in float64; it knows nothing of the library.

Each item moves along the gradient of a margin in a ball whose size adapts: it shrinks while the item is misclassified
and grows while it is not. What was found is pulled back towards the sample by bisection. The same steps in a ball of a
fixed size look for a misclassified point inside of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
EXACT = torch.float64


@final
@dataclass(frozen=True, eq=False)
class Question:
    """Float64 samples (n, *shape), the classes that are to be left, the norm, and a box or None."""

    model: Model
    x: Tensor
    reference: Tensor
    p: float
    box: tuple[float, float] | None = None

    def take(self, rows: Tensor) -> Question:
        """Some samples, or some more than once."""
        return Question(self.model, self.x[rows], self.reference[rows], self.p, self.box)

    def margins(self, z: Tensor, target: Tensor | None = None) -> Tensor:
        """How far the best other class (the target, if not -1) is above the reference: positive if misclassified."""
        logits = self.model(z)
        own = logits.gather(1, self.reference[:, None])[:, 0]
        others = logits.scatter(1, self.reference[:, None], -math.inf).amax(1)
        if target is None:
            return others - own
        chosen = logits.gather(1, target.clamp_min(0)[:, None])[:, 0]
        return torch.where(target >= 0, chosen, others) - own

    def distance(self, z: Tensor) -> Tensor:
        """Of each point from its sample, rounded up."""
        moved = (z - self.x).flatten(1)
        return torch.linalg.vector_norm(moved, self.p, dim=1) * (1 + 4e-16 * (8 + moved.shape[1]))

    def inside(self, moved: Tensor, size: Tensor) -> Tensor:
        """The displacements, no longer than `size`, such that x + moved is in the box."""
        flat = moved.flatten(1)
        if self.p == math.inf:
            flat = flat.clamp(-size[:, None], size[:, None])
        elif self.p == 2:
            length = torch.linalg.vector_norm(flat, dim=1).clamp_min(1e-300)
            flat = flat * (size / length).clamp_max(1.0)[:, None]
        else:
            flat = _onto_l1(flat, size)
        moved = flat.reshape(moved.shape)
        if self.box is None:
            return moved
        # towards the box each entry only becomes smaller, as the sample is in it
        return (self.x + moved).clamp(*self.box) - self.x


def _onto_l1(flat: Tensor, size: Tensor) -> Tensor:
    """Euclidean projection onto L1 balls: soft thresholding, the threshold from sorted sizes."""
    sizes = flat.abs().sort(1, descending=True)[0]
    excess = (sizes.cumsum(1) - size[:, None]) / torch.arange(1, flat.shape[1] + 1, dtype=flat.dtype)
    count = (sizes > excess).sum(1).clamp_min(1)
    threshold = excess.gather(1, (count - 1)[:, None]).clamp_min(0.0)
    return flat.sign() * (flat.abs() - threshold).clamp_min(0.0)


def _steepest(gradient: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """The direction of length 1 in which a margin grows most; for L1 one of the steepest entries; random where flat."""
    flat = torch.nan_to_num(gradient.flatten(1), 0.0, 0.0, 0.0)
    chance = torch.randn(flat.shape, dtype=EXACT, generator=generator)
    largest = flat.abs().amax(1, keepdim=True)
    flat = torch.where(largest > 0, flat / largest.clamp_min(1e-300), chance)
    if p == math.inf:
        return flat.sign().reshape(gradient.shape)
    if p == 2:
        return (flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True)).reshape(gradient.shape)
    worth = flat.abs() * (1 + 0.2 * chance)
    best = torch.zeros_like(flat).scatter(1, worth.argmax(1, keepdim=True), 1.0)
    return (best * flat.sign()).reshape(gradient.shape)


def _random(question: Question, size: Tensor, generator: torch.Generator) -> Tensor:
    """Displacements on the spheres of these sizes, in any direction, some along single entries."""
    chance = torch.randn(question.x.shape, dtype=EXACT, generator=generator)
    flat = chance.flatten(1)
    single = torch.rand(len(flat), generator=generator) < 0.3
    peak = torch.zeros_like(flat).scatter(1, flat.abs().argmax(1, keepdim=True), 1.0) * flat.sign()
    flat = torch.where(single[:, None], peak, flat.sign() if question.p == math.inf else flat)
    length = torch.linalg.vector_norm(flat, question.p, dim=1).clamp_min(1e-300)
    return question.inside((flat / length[:, None] * size[:, None]).reshape(chance.shape), size)


def _items(question: Question, restarts: int) -> tuple[Question, Tensor, Tensor]:
    """Each sample once for every other class, and once for any, `restarts` times: items, targets, their samples."""
    with torch.no_grad():
        classes = question.model(question.x[:1]).shape[1]
    count = len(question.x)
    targets = torch.arange(-1, classes).repeat(restarts)
    sample = torch.arange(count).repeat_interleave(len(targets))
    target = targets.repeat(count)
    keep = target != question.reference[sample]
    if classes == 2:  # any other class is the other class
        keep &= target >= 0
    sample, target = sample[keep], target[keep]
    return question.take(sample), target, sample


def _gradient(items: Question, moved: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Whether items are misclassified there, and the gradients of their margins."""
    with torch.enable_grad():
        z = (items.x + moved).requires_grad_(True)
        aimed = items.margins(z, target)
        (gradient,) = torch.autograd.grad(aimed.sum(), z)
    return items.margins(z.detach()) > 0, gradient


def nearest(
    question: Question, *, steps: int = 40, restarts: int = 2, seed: int = 0, start: Tensor | None = None
) -> Tensor:
    """For each sample the nearest misclassified point that was found, (n, *shape); NaN where none was.

    `start` are sizes to begin with, such as certified radii.
    """
    generator = torch.Generator().manual_seed(seed)
    items, target, sample = _items(question, restarts)
    best = torch.full_like(items.x, math.nan)
    length = torch.full((len(items.x),), math.inf, dtype=EXACT)
    scale = question.x.flatten(1).abs().amax(1).clamp_min(0.1)
    size = (scale if start is None else torch.where((start > 0) & (start < 1e6), 1.2 * start, scale))[sample]
    moved = torch.zeros_like(items.x)
    begun = torch.rand(len(size), dtype=EXACT, generator=generator)
    moved = _random(items, size * begun, generator)
    for step in range(steps):
        seen, gradient = _gradient(items, moved, target)
        here = items.distance(items.x + moved)
        nearer = seen & (here < length)
        best = torch.where(_wide(nearer, best), items.x + moved, best)
        length = torch.where(nearer, here, length)
        pace = 0.3 * (1 - step / steps) + 0.01
        size = torch.where(seen, torch.minimum(size, length) * (1 - 0.5 * pace), size * (1 + pace))
        size = torch.minimum(size, length)
        moved = moved + _wide(size * pace * 2, moved) * _steepest(gradient, items.p, generator)
        moved = items.inside(moved, size)
    return _nearest_of(question, _pulled(items, best), sample)


def within(question: Question, radius: Tensor, *, steps: int = 25, restarts: int = 2, seed: int = 0) -> Tensor:
    """A misclassified point in each sample's ball, begun at its boundary, (n, *shape); NaN where none was found."""
    generator = torch.Generator().manual_seed(seed)
    items, target, sample = _items(question, restarts)
    size = radius[sample].clamp_max(1e12) * (1 - 1e-9)
    moved = _random(items, size, generator)
    best = torch.full_like(items.x, math.nan)
    for step in range(steps):
        seen, gradient = _gradient(items, moved, target)
        best = torch.where(_wide(seen, best), items.x + moved, best)
        pace = 0.5 * (1 - step / steps) + 0.005
        moved = items.inside(moved + _wide(2 * size * pace, moved) * _steepest(gradient, items.p, generator), size)
    seen, _ = _gradient(items, moved, target)
    best = torch.where(_wide(seen, best), items.x + moved, best)
    return _nearest_of(question, _pulled(items, best), sample)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1 for _ in like.shape[1:]))


def _pulled(items: Question, found: Tensor) -> Tensor:
    """Each found point moved towards its sample as far as it stays misclassified, by bisection."""
    low = torch.zeros(len(found), dtype=EXACT)
    high = torch.ones(len(found), dtype=EXACT)
    moved = found - items.x
    with torch.no_grad():
        for _ in range(45):
            middle = (low + high) / 2
            seen = items.margins(items.x + _wide(middle, moved) * moved) > 0
            low, high = torch.where(seen, low, middle), torch.where(seen, middle, high)
    return items.x + _wide(high, moved) * moved


def _nearest_of(question: Question, found: Tensor, sample: Tensor) -> Tensor:
    length = question.take(sample).distance(found).nan_to_num(math.inf)
    best = torch.full_like(question.x, math.nan)
    for row in range(len(question.x)):
        own = (sample == row).nonzero().flatten()
        first = own[length[own].argmin()]
        if math.isfinite(float(length[first])):
            best[row] = found[first]
    return best
