"""What a ball promises: its minimum is a proof, is attained, has the right derivative; its bounds contain it.

Every contract takes the class of ball, so that broken ones (`mutants.sets`) run through the very same checks. True
values come from `oracles.balls`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from oracles.balls import true_minimum
from oracles.exact import WIDER
from pertbound.sets import Ball

Kind = Callable[..., Ball]
Ends = tuple[float | Tensor, float | Tensor]
Contract = Callable[[Kind, torch.Generator], None]

NORMS = (1.0, 2.0, math.inf)
NOTHING = 1e-138
"""What a bound on a ball may lose to underflow in float64, in units of eps max abs(a) and for a few entries."""


@dataclass(frozen=True)
class Case:
    """A batch of questions for `minimum`; `a` and `x` float64 (batch, *shape)."""

    name: str
    a: Tensor
    x: Tensor
    eps: Tensor
    box: Ends | None = None


def rows(case: Case, p: float) -> Iterator[tuple[int, float, float]]:
    """Position, and a lower and an upper end for the true minimum, as close as the oracle is exact."""
    low, high = ends(case)
    for i in range(len(case.a)):
        a, x, lo, hi = (t[i].flatten() for t in (case.a, case.x, low, high))
        yield i, *true_minimum(p, a, x, lo, hi, float(case.eps[i]))


def ends(case: Case) -> tuple[Tensor, Tensor]:
    """The box's ends for each entry of the batch; infinite without a box."""
    low, high = (-math.inf, math.inf) if case.box is None else case.box
    return tuple(torch.as_tensor(end, dtype=torch.float64).expand(case.x.shape) for end in (low, high))  # type: ignore[return-value]


def cases(generator: torch.Generator) -> list[Case]:
    """Ordinary and degenerate ones; all of x inside the box."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def of(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    radii = of(0.0, 1e-9, 0.01, 0.2, 0.7, 1.3, 3.0, 40.0)
    x = uniform(8, 23)
    a = normal(8, 23)
    low, high = -uniform(23), 1 + uniform(23)
    low[::5], high[2::5] = -math.inf, math.inf
    pinned = x[:1].expand(8, -1).clone()
    held = pinned[0].clone()
    held[5:] = 2.0
    found = [
        Case("no box", a, x, radii),
        Case("unit box", a, x, radii, (0.0, 1.0)),
        Case("images", normal(4, 2, 3, 4), uniform(4, 2, 3, 4), of(0.1, 1.0, 2.0, 9.0), (0.0, 1.0)),
        Case("a box for each channel", normal(3, 2, 3, 3), uniform(3, 2, 3, 3), of(0.1, 1.0, 2.0),
             (of(-1.0, 0.0).reshape(2, 1, 1), of(1.0, 4.0).reshape(2, 1, 1))),
        Case("some ends infinite", a, x, radii, (low, high)),
        Case("one end, below", a, x, radii, (0.0, math.inf)),
        Case("one end, above", a, x, radii, (-math.inf, 1.0)),
        Case("no ends", a, x, radii, (-math.inf, math.inf)),
        Case("on the faces", a, x.round(), radii, (0.0, 1.0)),
        Case("half on the faces", a, torch.where(uniform(8, 23) < 0.5, x.round(), x), radii, (0.0, 1.0)),
        Case("low = high", a, torch.full_like(a, 0.3), radii, (0.3, 0.3)),
        Case("some low = high", a, pinned, radii, (torch.minimum(pinned[0], held), torch.maximum(pinned[0], held))),
        Case("a = 0", torch.zeros_like(a), x, radii, (0.0, 1.0)),
        Case("mostly a = 0", torch.where(uniform(8, 23) < 0.8, 0.0, a), x, radii, (0.0, 1.0)),
        Case("equal a", a.sign(), x, radii, (0.0, 1.0)),
        Case("equal a and x", a.sign(), torch.full_like(x, 0.5), radii, (0.0, 1.0)),
        Case("heavy tails", a**9, x, radii, (0.0, 1.0)),
        Case("a from 1e-20 to 1e20", normal(8, 23) * 10 ** (40 * uniform(8, 23) - 20), x, radii, (0.0, 1.0)),
        Case("ends from 1e-20 to 1e20", a, torch.zeros_like(a), 10 ** of(-25, -19, -9, -1, 3, 9, 19, 25),
             (-(10 ** (40 * uniform(23) - 20)), 10 ** (40 * uniform(23) - 20))),
        Case("tiny", 1e-20 * a, 1e-20 * x, 1e-20 * radii, (0.0, 1e-20)),
        Case("huge", 1e20 * a, 1e20 * x, 1e20 * radii, (0.0, 1e20)),
        Case("one entry", normal(4, 1), uniform(4, 1), of(0.0, 0.05, 0.3, 5.0), (0.0, 1.0)),
        Case("one entry, no box", normal(4, 1), uniform(4, 1), of(0.0, 0.05, 0.3, 5.0)),
        Case("many entries", normal(3, 400), uniform(3, 400), of(0.5, 3.0, 12.0), (0.0, 1.0)),
        Case("many entries, sparse x", normal(3, 400) ** 3, (2 * uniform(3, 400) - 1).clamp_min(0), of(0.3, 5.0, 9.0),
             (0.0, 1.0)),
    ]  # fmt: skip
    return found


def _values(kind: Kind, p: float, case: Case) -> Tensor:
    value = kind(p=p, box=case.box).minimum(case.a, case.x, case.eps)
    assert value.shape == case.eps.shape, f"{case.name}: shape {tuple(value.shape)}"
    assert value.dtype == case.a.dtype, f"{case.name}: {value.dtype}"
    return value


def check_value(kind: Kind, p: float, case: Case, *, tight: float = 1e-9) -> None:
    """Never above the true minimum, and within `tight` of it, relatively."""
    values = _values(kind, p, case)
    for i, below, above in rows(case, p):
        value = float(values[i])
        where = f"p = {p:g}, {case.name}, row {i}: {value!r}, but the minimum is {above!r}"
        nothing = NOTHING * float(case.eps[i]) * float(case.a[i].abs().max()) + 1e-300
        assert not WIDER or value <= above, where
        assert value <= above + 1e-14 * abs(above), where
        assert value >= below - tight * abs(below) - nothing, where
        if case.eps[i] == 0 or not case.a[i].any():
            assert value == 0, where


def check_values(kind: Kind, generator: torch.Generator) -> None:
    """`check_value` on every case and norm."""
    for case in cases(generator):
        for p in NORMS:
            check_value(kind, p, case)


def check_rounding(kind: Kind, generator: torch.Generator) -> None:
    """Never above the true minimum, on many small rows, where a result that is merely rounded often is."""
    for case in _small(generator):
        for p in NORMS:
            if p == 2 and not WIDER:
                continue
            values = _values(kind, p, case)
            for i, _, above in rows(case, p):
                value = float(values[i])
                assert value <= above, f"p = {p:g}, {case.name}, row {i}: {value!r}, but the minimum is {above!r}"


def _small(generator: torch.Generator) -> Iterator[Case]:
    for n in (1, 2, 5):
        for name, box in (("no box", None), ("a box", (0.1, 0.9))):
            a = torch.randn(60, n, generator=generator, dtype=torch.float64)
            x = 0.1 + 0.8 * torch.rand(60, n, generator=generator, dtype=torch.float64)
            yield Case(f"{n} entries, {name}", a, x.clamp(0.1, 0.9), a[:, 0].abs() / 3, box)


def check_float32(kind: Kind, generator: torch.Generator) -> None:
    """As much where a and x, or x alone, are float32, for ends and radii that float32 does not hold; less tight."""
    for case in cases(generator):
        if any(part in case.name for part in ("1e", "tiny", "huge", "heavy")):
            continue  # beyond float32, or beyond its precision
        single = Case(case.name, case.a.float().double(), case.x.float().double(), case.eps, case.box)
        low, high = ends(single)
        x = torch.minimum(torch.maximum(single.x, low), high).float()
        inside = _reaching(Case(case.name, single.a, x.double(), case.eps, case.box))
        for p in NORMS:
            for a, tight, end in ((single.a.float(), 1e-4, 1e-6), (single.a, 1e-9, 0.0)):  # end: what rounding one adds
                value = kind(p=p, box=case.box).minimum(a, x, case.eps)
                assert value.dtype == a.dtype
                for i, below, above in rows(inside, p):
                    found = float(value[i])
                    where = f"p = {p:g}, {case.name}, row {i}: {found!r}, {a.dtype}, the minimum is {above!r}"
                    least = below * (1 + tight) - end * float(case.a[i].abs().sum()) - 1e-14 * float(case.eps[i])
                    assert found <= above, where
                    assert found >= least - 1e-33, where


def _reaching(case: Case) -> Case:
    """The box enlarged to reach x, where rounding has moved x out of it."""
    low, high = ends(case)
    if case.box is None or bool(((case.x >= low) & (case.x <= high)).all()):
        return case
    return Case(case.name, case.a, case.x, case.eps,
                (torch.minimum(low, case.x).amin(0), torch.maximum(high, case.x).amax(0)))  # fmt: skip


def check_samples(kind: Kind, generator: torch.Generator) -> None:
    """No point of the set is below: random directions, corners, and the steepest feasible point, shrunk into it."""
    for case in cases(generator):
        low, high = ends(case)
        for p in NORMS:
            value = _values(kind, p, case)
            for k in range(12):
                direction = torch.randn(case.a.shape, generator=generator, dtype=torch.float64)
                direction = (direction, direction.sign(), direction**7, -case.a, -case.a.sign())[k % 5]
                size = torch.linalg.vector_norm(direction.flatten(1), ord=p, dim=1).clamp_min(1e-300)
                step = direction * (case.eps / size).reshape(-1, *[1] * (case.a.ndim - 1))
                z = torch.minimum(torch.maximum(case.x + step, low), high)  # x is in the box: clipping shortens
                move = z - case.x
                reached = (case.a * move).flatten(1).sum(1)
                noise = 1e-13 * ((case.a * move).abs() + case.a.abs() * case.x.abs() * 1e-2).flatten(1).sum(1)
                assert bool((value <= reached + noise).all()), f"p = {p:g}, {case.name}: a point lies below"


def check_monotone(kind: Kind, generator: torch.Generator) -> None:
    """Larger balls have no larger minimum, and none is below that of the box, or of the ball, alone."""
    n = 30
    a = torch.randn(1, n, generator=generator, dtype=torch.float64).expand(200, -1)
    x = torch.rand(1, n, generator=generator, dtype=torch.float64).expand(200, -1)
    eps = torch.linspace(0, 4, 200, dtype=torch.float64)
    for p in NORMS:
        value = kind(p=p, box=(0.0, 1.0)).minimum(a, x, eps)
        assert bool((value.diff() <= 1e-12 * value[1:].abs()).all()), f"p = {p:g}: the minimum increases with eps"
        assert bool((value.diff().diff() >= -1e-11).all()), f"p = {p:g}: the minimum is not convex in eps"
        free = kind(p=p).minimum(a, x, eps)
        box = torch.where(a > 0, -a * x, a * (1 - x)).sum(1)
        assert bool((value >= torch.maximum(free, box) * (1 + 1e-12)).all()), f"p = {p:g}: looser than one part alone"


def check_gradients(kind: Kind, generator: torch.Generator) -> None:
    """The derivative in a is feasible and attains the minimum, that in eps is a difference quotient; all finite."""
    for case in cases(generator):
        for p in NORMS:
            check_gradient(kind, p, case)


def check_gradient(kind: Kind, p: float, case: Case) -> None:
    """`check_gradients` on one case; where two derivatives are right, either will do."""
    ball = kind(p=p, box=case.box)
    a, eps = case.a.clone().requires_grad_(), case.eps.clone().requires_grad_()
    value = ball.minimum(a, case.x, eps)
    weights = torch.linspace(1, 2, len(eps), dtype=torch.float64)
    move, slope = torch.autograd.grad(value, (a, eps), weights)
    assert bool(torch.isfinite(move).all() & torch.isfinite(slope).all()), f"p = {p:g}, {case.name}: not finite"
    move, slope = move / weights.reshape(-1, *[1] * (a.ndim - 1)), slope / weights
    low, high = ends(case)
    scale = 1e-9 * case.eps.reshape(-1, *[1] * (a.ndim - 1))
    outside = torch.maximum(low - case.x - move, move - (high - case.x))
    assert bool((outside <= scale).all()), f"p = {p:g}, {case.name}: the minimiser is outside the box"
    moved = torch.linalg.vector_norm(move.flatten(1), ord=p, dim=1)
    assert bool((moved <= case.eps * (1 + 1e-9)).all()), f"p = {p:g}, {case.name}: the minimiser is outside the ball"
    attained = (case.a * move).flatten(1).sum(1)
    nothing = NOTHING * case.eps * case.a.flatten(1).abs().amax(1)
    close = (attained - value.detach()).abs() <= 1e-9 * value.detach().abs() + nothing
    assert bool(close.all()), f"p = {p:g}, {case.name}: {attained.tolist()} attained, {value.tolist()} said"
    smallest = 1e-3 * float(min((e for e in case.eps.tolist() if e > 0), default=1e-9))
    step = torch.where(case.eps > 0, 1e-6 * case.eps, smallest)
    with torch.no_grad():
        before = ball.minimum(case.a, case.x, (case.eps - step).clamp_min(0))
        here = ball.minimum(case.a, case.x, case.eps)
        after = ball.minimum(case.a, case.x, case.eps + step)
    size = case.a.flatten(1).abs().amax(1)
    falls = (here - before) / torch.where(case.eps > 0, step, 1), (after - here) / step
    noise = 1e-4 * falls[1].abs() + 1e-7 * size + 1e-12 * here.abs() / step
    least = torch.where(case.eps > 0, falls[0], falls[1]) - noise  # the minimum is convex in eps
    assert bool((slope >= least).all()), f"p = {p:g}, {case.name}: slope {slope.tolist()} below {least.tolist()}"
    assert bool((slope <= falls[1] + noise).all()), (
        f"p = {p:g}, {case.name}: {slope.tolist()} above {falls[1].tolist()}"
    )


def check_fails_closed(kind: Kind, generator: torch.Generator) -> None:
    """NaN anywhere, and radii that are none, give NaN or -inf in their own row and change no other."""
    a = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    x = torch.rand(4, 9, generator=generator, dtype=torch.float64)
    eps = torch.full((4,), 0.7, dtype=torch.float64)
    for p in NORMS:
        for box in (None, (0.0, 1.0), (-math.inf, 1.0)):
            ball = kind(p=p, box=box)
            good = ball.minimum(a, x, eps)
            for entry in range(9):
                for wrong in (math.nan, math.inf, -math.inf):
                    worse = a.clone()
                    worse[1, entry] = wrong
                    _closed(ball.minimum(worse, x, eps), good, f"p = {p:g}, a = {wrong}")
                if box is not None:
                    worse = x.clone()
                    worse[1, entry] = math.nan
                    _closed(ball.minimum(a, worse, eps), good, f"p = {p:g}, x = nan")
            for wrong in (math.nan, math.inf, -math.inf, -1e-9):
                worse = eps.clone()
                worse[1] = wrong
                _closed(ball.minimum(a, x, worse), good, f"p = {p:g}, eps = {wrong}")
                found = ball.bounds(x, worse)
                assert bool(found.lower[1].isnan().all() & found.upper[1].isnan().all()), f"bounds for eps = {wrong}"
                assert math.isnan(float(ball.l2_radius(worse, (9,))[1])), f"l2_radius for eps = {wrong}"
                assert ball.contains(x, x, worse).tolist() == [True, False, True, True], f"contains for eps = {wrong}"
            overflown = ball.minimum(a * 1e300, x, eps * 1e200)
            assert bool((overflown <= -(a * 1e300).abs().amax(1) * (0 if box else 1)).all()), f"p = {p:g}: overflow"


def _closed(value: Tensor, good: Tensor, what: str) -> None:
    assert math.isnan(float(value[1])) or float(value[1]) == -math.inf, f"{what}: {float(value[1])}"
    others = [0, 2, 3]
    assert bool((value[others] - good[others]).abs().max() <= 1e-12 * good.abs().max()), f"{what} changes other rows"


def check_bounds(kind: Kind, generator: torch.Generator) -> None:
    """The box contains the set, exactly, and is at most two roundings larger; float64 and float32."""
    for case in cases(generator):
        for dtype in (torch.float64, torch.float32):
            if dtype == torch.float32 and any(part in case.name for part in ("1e", "tiny", "huge")):
                continue
            x = case.x.to(dtype)
            for p in NORMS:
                found = kind(p=p, box=case.box).bounds(x, case.eps)
                assert found.lower.dtype == found.upper.dtype == dtype
                low, high = ends(case)
                low, high = torch.minimum(low, x.double()), torch.maximum(high, x.double())
                for i in range(len(x)):
                    eps = Fraction(float(case.eps[i]))
                    parts = zip(
                        *(t[i].flatten().tolist() for t in (x, low, high, found.lower, found.upper)), strict=True
                    )
                    for center, lo, hi, lower, upper in parts:
                        least, most = Fraction(center) - eps, Fraction(center) + eps
                        least = max(least, Fraction(lo)) if lo > -math.inf else least
                        most = min(most, Fraction(hi)) if hi < math.inf else most
                        where = f"p = {p:g}, {case.name}, {dtype}: [{lower}, {upper}] around {center} +- {float(eps)}"
                        assert Fraction(lower) <= least, where
                        assert Fraction(upper) >= most, where
                        slack = 3 * torch.finfo(dtype).eps * (abs(center) + float(eps)) + 1e-300
                        assert float(least) - lower <= slack, where
                        assert upper - float(most) <= slack, where
                        assert eps > 0 or (lower == center == upper), where


def check_l2_radius(kind: Kind, generator: torch.Generator) -> None:
    """At least the L2 norm of the farthest point, exactly; attained."""
    eps = torch.cat([torch.zeros(1), torch.rand(40, generator=generator)]).double() * 7
    for shape in ((1,), (7,), (3, 5, 11), (784,)):
        d = math.prod(shape)
        for p in NORMS:
            radius = kind(p=p).l2_radius(eps, shape)
            assert radius.dtype == torch.float64
            for value, found in zip(eps.tolist(), radius.tolist(), strict=True):
                true = Fraction(value) ** 2 * (d if p == math.inf else 1)
                assert Fraction(found) ** 2 >= true, f"p = {p:g}, d = {d}: {found} for {value}"
                assert Fraction(found) ** 2 <= true * (1 + Fraction(1, 10**14)), (
                    f"p = {p:g}, d = {d}: {found} for {value}"
                )


def check_contains(kind: Kind, generator: torch.Generator) -> None:
    """Points on the segment to a far point: inside up to the radius and the end of the box, outside beyond."""
    x = torch.rand(50, 2, 3, generator=generator, dtype=torch.float64)
    step = torch.randn(50, 2, 3, generator=generator, dtype=torch.float64)
    for p in NORMS:
        ball = kind(p=p)
        size = torch.linalg.vector_norm(step.flatten(1), ord=p, dim=1)
        assert torch.allclose(ball.norms(step), size, rtol=1e-14)
        assert bool(ball.contains(x + step, x, size * (1 + 1e-12)).all())
        assert not bool(ball.contains(x + step, x, size * (1 - 1e-9)).any())
        assert bool(ball.contains(x, x, torch.zeros(50)).all())
        boxed = kind(p=p, box=(0.0, 1.0))
        inside = ((x + step >= 0) & (x + step <= 1)).flatten(1).all(1)
        assert torch.equal(boxed.contains(x + step, x, 2 * size), inside)
        assert 0 <= int(inside.sum()) < 50
        near = x + step / 20
        assert torch.equal(boxed.contains(near, x, size), ((near >= 0) & (near <= 1)).flatten(1).all(1))
    worse = x.clone()
    worse[3, 0, 0] = math.nan
    assert not bool(kind(p=math.inf).contains(worse, x, torch.ones(50))[3])


CONTRACTS: dict[str, Contract] = {
    "values": check_values,
    "rounding": check_rounding,
    "float32": check_float32,
    "samples": check_samples,
    "monotone": check_monotone,
    "gradients": check_gradients,
    "fails closed": check_fails_closed,
    "bounds": check_bounds,
    "L2 radius": check_l2_radius,
    "contains": check_contains,
}
