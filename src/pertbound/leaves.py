"""Domains whose activations all have a sign: the network is affine there, and what is left is a convex program.

Signs say s_j y_j >= 0 for entries y_j of hidden nodes, a wrong class says margin <= 0. Pulled down to the input, each
becomes a *row* h + <g, r> <= 0 that every such perturbation r fulfils, and says no less where all layers on the
way are affine. The smallest r that fulfils all rows is the domain's radius, infinite where signs contradict each other.

A solver only guesses. Its multipliers u >= 0 add the rows up to one inequality, and a ball in which that one has no
solution has no point of the domain that is misclassified (weak duality). This is evaluated in float64, roundings taken
off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from pertbound.ascent import Items, numbered
from pertbound.forms import Form, Signs, total
from pertbound.graph import INPUT
from pertbound.numerics import gamma
from pertbound.regions import take
from pertbound.relaxation import Ground, pull_to_input

ROUNDS = 30
"""How often the ends of the box that a solution violates become rows themselves."""
FAINT = 1e-9
"""By so much, in parts of the radius asked about, a solution may violate an end of the box."""
MEMORY = 2**28
"""Bytes for the rows of the domains that are looked at together."""
Array = np.ndarray


@final
@dataclass(frozen=True, eq=False)
class _Rows:
    """offset + <linear, r> <= 0; `domain` says whose each row is."""

    domain: Tensor
    linear: Tensor
    offset: Tensor


def smallest(items: Items, signs: Signs) -> Tensor:
    """The radius of each item, as far as it is proved and at most its reach, (items,); `items` in float64.

    The regions of `items` are cut to `signs`; what these say of entries deeper in the network is used as well.
    """
    given = sum(int((part != 0).flatten(1).sum(1).amax()) for part in signs.values())
    sizes = sum(region.value[0].numel() for region in items.regions.values())
    found = torch.zeros_like(items.reach)
    for part in numbered(items.reach).split(max(1, MEMORY // (8 * 20 * sizes * (1 + given)))):
        found[part] = _proved(items, part, _rows(items, signs, part))
    return found


def _rows(items: Items, signs: Signs, part: Tensor) -> _Rows:
    """All rows of some of the items; `domain` counts within the part."""
    graph = items.rest.graph
    regions = take(items.regions, part)
    margin = pull_to_input(graph, Form(items.form.linear[part]), graph.output.name, regions)
    rows = [_Rows(numbered(part), margin.form.linear, _down(items.margin[part], margin.constant))]
    for name, sign in signs.items():
        own = sign[part].flatten(1)
        domain, entry = own.nonzero(as_tuple=True)
        if len(domain) == 0:
            continue
        each, side = take(regions, domain), -own[domain, entry].to(torch.float64)
        unit = torch.zeros(len(domain), own.shape[1], dtype=torch.float64, device=own.device)
        unit.scatter_(1, entry[:, None], side[:, None])
        ground = pull_to_input(graph, Form(unit.reshape(-1, *sign.shape[1:])), name, each)
        # the exact value is off the computed one by at most the noise, which is part of the pulled form
        value = side * each[name].value.flatten(1)[numbered(domain), entry]
        rows.append(_Rows(domain, ground.form.linear, _down(value, ground.constant)))
    return _Rows(*(torch.cat([getattr(row, key) for row in rows]) for key in ("domain", "linear", "offset")))


def _proved(items: Items, part: Tensor, rows: _Rows) -> Tensor:
    """The radii at which the rows, added up with the solver's multipliers, have no solution."""
    x, reach, ball = items.regions[INPUT].value[part], items.reach[part], items.ball
    ends = ball.bounds(x, torch.full_like(reach, torch.finfo(torch.float64).max / 4))
    low, high = ((end - x).flatten(1).cpu().numpy() for end in (ends.lower, ends.upper))
    linear, constant = torch.zeros_like(x), torch.zeros_like(reach)
    far = ball.l2_radius(reach, tuple(x.shape[1:]))
    for domain in range(len(part)):
        own = (rows.domain == domain).nonzero().flatten()
        g, h = rows.linear[own].flatten(1), rows.offset[own]
        guess = _multipliers(g.cpu().numpy(), h.cpu().numpy(), low[domain], high[domain], ball.p, float(reach[domain]))
        u = torch.from_numpy(guess).to(g)
        lost = gamma(len(own) + 4) * torch.linalg.vector_norm(u @ g.abs()) * far[domain] * (1 + 1e-9)
        linear[domain] = (u @ g).reshape(x.shape[1:])
        constant[domain] = total((u * h)[None])[0] - lost
    nothing = torch.zeros_like(reach)
    return Ground(Form(linear), constant).proved(nothing, ball, x, reach, numbered(reach))


def _down(value: Tensor, constant: Tensor) -> Tensor:
    """The sum, rounded down."""
    return value + constant - 2.0**-51 * (value.abs() + constant.abs())


def _multipliers(g: Array, h: Array, low: Array, high: Array, p: float, reach: float) -> Array:
    """u >= 0 (rows,) for which the ball where u.h + <u g, r> > 0 is large; low <= r <= high is given besides."""
    size = np.linalg.norm(g, axis=1)
    none = size <= np.finfo(float).tiny * 1e20
    if (none & (h > 0)).any():
        return (none & (h > 0)).astype(float)
    size = np.where(none, 1.0, size)
    a, b = g / size[:, None], np.where(none, 0.0, h / (size * reach))
    solve = _least_distance if p == 2 else _linear_program
    with np.errstate(over="ignore"):
        u = solve(a, b, low / reach, high / reach, p)[: len(h)]
    u = np.nan_to_num(np.maximum(u, 0.0), posinf=0.0) / size
    return u / max(float(u.sum()), np.finfo(float).tiny)


def _least_distance(a: Array, b: Array, low: Array, high: Array, p: float) -> Array:
    """p = 2: least distance programming (Lawson and Hanson 1974, chapter 23) by nonnegative least squares.

    Ends of the box become rows as they are violated.
    """
    del p
    from scipy.optimize import nnls  # takes longer to import than all the rest

    d, count, u = a.shape[1], len(a), np.zeros(len(a))
    for _ in range(ROUNDS):
        system = np.vstack([-a.T, b])
        try:
            u, _ = nnls(system, np.append(np.zeros(d), 1.0))
        except RuntimeError:  # too many iterations: the last multipliers are sound as well
            break
        rest = system @ u
        rest[-1] -= 1.0
        if -rest[-1] < 1e-13:
            break  # a contradiction: no r at all
        r = -rest[:d] / rest[-1]
        below, above = (np.nonzero(v > FAINT)[0] for v in (low - r, r - high))
        if len(below) + len(above) == 0:
            break
        more = np.zeros((len(below) + len(above), d))
        more[np.arange(len(below)), below] = -1.0
        more[np.arange(len(below), len(more)), above] = 1.0
        a, b = np.vstack([a, more]), np.concatenate([b, low[below], -high[above]])
    return u[:count]


def _linear_program(a: Array, b: Array, low: Array, high: Array, p: float) -> Array:
    """p = 1 and inf: r = plus - minus; the dual values of the smallest ball, or of the smallest violation in a ball of
    radius 1 where the rows contradict each other.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    d, count = a.shape[1], len(a)
    # variables plus, minus, t: the ball's radius is t (p = inf) or the sum of plus and minus
    rows = sparse.csr_array(np.hstack([a, -a, np.zeros((count, 1))]))
    if p == 1:
        ball, size = sparse.csr_array(np.concatenate([np.ones(2 * d), [-1.0]])[None]), 1
    else:
        ball, size = sparse.hstack([sparse.eye_array(d), sparse.eye_array(d), -np.ones((d, 1))]), d
    whole = sparse.vstack([rows, ball]).tocsr()
    right = np.concatenate([-b, np.zeros(size)])
    bounds = np.column_stack(
        [np.zeros(2 * d + 1), np.concatenate([np.maximum(high, 0), np.maximum(-low, 0), [np.inf]])]
    )
    cost = np.append(np.zeros(2 * d), 1.0)
    found = linprog(cost, whole, right, bounds=bounds, method="highs")
    if found.status != 0:
        slack = sparse.csr_array(np.concatenate([-np.ones(count), np.zeros(size)])[:, None])
        bounds[-1, 1] = 1.0
        bounds = np.vstack([bounds, [-1.0, np.inf]])
        found = linprog(np.append(0 * cost, 1.0), sparse.hstack([whole, slack]).tocsr(), right, bounds=bounds)
    return np.zeros(count) if found.status != 0 else -found.ineqlin.marginals[:count]
