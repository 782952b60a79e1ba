"""The smallest adversarial perturbation of a small piecewise linear network, by mixed-integer programming.

A known adversarial example, at distance R, bounds the search: whatever is nearer lies in the ball of radius R, so
every value in the network has finite bounds l <= z <= u there (intervals, tightened by linear programs), and y =
max(z, 0) is described exactly by y >= 0, y >= z, y <= u a, y <= z - l (1 - a) with a in {0, 1}; the maximum of a
window by y >= z_i, y <= z_i + (u - l_i) (1 - a_i), sum a_i = 1. For each wrong class one program minimises
norm(r)_p / R. HiGHS solves the linear ones (p = 1 and infinity), SCIP those with a second-order cone (p = 2).

Accuracy: solvers work to tolerances, so `distance_lower` is approximate and no proof. A tolerance lets rows be
violated, hence errs towards smaller distances: against the enumeration of all linear pieces (test_milp.py; 400
questions) it was never above the distance by more than 1e-14 of it, and below it by at most 1e-13 (HiGHS) and 5e-8
(SCIP). `distance_upper` is the norm of a real witness, at most 5e-8 above the distance there. Where logits change by
far less per unit than the weights suggest both are less tight; their difference shows it.

Nothing here uses the library's bounds: of a layer it asks the forward pass and the numbers in its fields, no more.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import final

import highspy
import numpy as np
import pyscipopt
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor

from oracles.dense import matrix
from oracles.loops import windows
from pertbound.graph import INPUT, Graph, in_float64
from pertbound.layers import Add, Concat, Layer, LeakyReLU, Linear, MaxPool, ReLU

Array = NDArray[np.float64]
Box = tuple[Tensor | float, Tensor | float]

HIGHS_TOLERANCE = 1e-9
SCIP_TOLERANCE = 1e-7
"""Feasibility and integrality, with distances scaled to 1. SCIP asks its LP solver for a thousandth of that in need,
and below 1e-10 that one gives up."""
GAP = 1e-9
ROOM = 1e-6
"""How much larger than R, relatively, the ball is that a program searches, so that its optimum is not at the rim."""
ENOUGH = 1e-6
GAINS = (1e-7, 1e-5, 1e-3)
"""How near to a solver's point, relatively, a witness should be; else it is sought where the logits differ by more."""
RESERVE = 1e-12
"""By how much, relative to the largest logit, a witness's class must win: more than float64 rounds."""


@final
@dataclass(frozen=True)
class Exact:
    """The true distance lies between the two, up to the solvers' tolerances in the first.

    `distance_lower` is the dual bound of the solvers, smallest over the classes. `distance_upper` is the norm of
    `witness` - x, where the graph, in float64, prefers another class; without a witness it is infinite.
    """

    distance_lower: float
    distance_upper: float
    witness: Tensor | None


def smallest_perturbation(
    graph: Graph, x: Tensor, reference: int, *, p: float, box: Box | None = None, time_limit: float = 60.0
) -> Exact:
    """min norm(r)_p over x + r in `box` where some other class has at least the logit of `reference`.

    `x` is one sample, of the graph's input shape; p is 1, 2 or infinity. Both distances are infinite where no class
    can win in the box; where there is no box and nothing was found, `distance_lower` is the radius searched. After
    `time_limit` seconds, over all classes, the bounds reached so far are returned: 0 for classes not yet looked at.
    """
    question = _Question(graph, x, reference, p, box)
    deadline = time.monotonic() + time_limit
    best = question.search()
    lower = math.inf
    for target in range(graph.classes):
        if target == reference or question.distance(best) == 0.0:
            continue
        radius, dual = math.inf, 0.0
        while min(question.distance(best), question.horizon) < radius / 4:  # a large ball costs accuracy
            radius = min(question.distance(best), question.horizon)
            dual, point = _nearest(question, target, radius, 0.0, deadline)
            best = min(best, question.repaired(point, target), key=question.distance)
            for gain in GAINS:  # where the nearest point is the tip of a narrow region: a point inside
                if point is None or question.distance(best) <= (1 + ENOUGH) * question.distance(point):
                    break
                _, inner = _nearest(question, target, radius, gain, deadline)
                best = min(best, question.repaired(inner, target), key=question.distance)
        if best is not None and question.winner(best) == target and dual > (1 + ROOM / 2) * question.distance(best):
            raise RuntimeError(f"a solver says that class {target} is farther than {dual}, but {best} shows otherwise")
        lower = min(lower, dual)
    upper = question.distance(best)
    return Exact(min(lower, upper), upper, None if best is None else question.sample(best))


# --- the question, and adversarial examples by simple means ---------------------------------------------------------


@final
class _Question:
    """A sample, the class to leave, the norm and the box: in float64, flattened."""

    def __init__(self, graph: Graph, x: Tensor, reference: int, p: float, box: Box | None) -> None:
        if p not in (1, 2, math.inf):
            raise ValueError(f"the oracle knows p = 1, 2 and infinity, got {p}")
        if tuple(x.shape) != graph.input_shape:
            raise ValueError(f"the oracle takes one sample of shape {graph.input_shape}, got {tuple(x.shape)}")
        self.graph, self.reference, self.p = graph.derive(in_float64), reference, p
        self.x = x.to(torch.float64).numpy().ravel()
        low, high = (-math.inf, math.inf) if box is None else box
        self.low, self.high = (
            torch.as_tensor(side, dtype=torch.float64).expand(x.shape).numpy().ravel() for side in (low, high)
        )
        reach = np.maximum(np.abs(self.low - self.x), np.abs(self.high - self.x))
        far = 1e4 * (1 + np.abs(self.x).max())
        self.bounded = bool((reach <= far).all())  # then the horizon holds the whole box
        self.horizon = self.norm(np.minimum(reach, far))

    def norm(self, r: Array) -> float:
        return float(np.linalg.norm(r, self.p))

    def distance(self, point: Array | None) -> float:
        return math.inf if point is None else self.norm(point - self.x)

    def sample(self, point: Array) -> Tensor:
        return torch.from_numpy(point).reshape(self.graph.input_shape)

    def inside(self, points: Array) -> Array:
        return np.clip(points, self.low, self.high)

    def logits(self, points: Array) -> Array:
        with torch.no_grad():
            return self.graph(torch.from_numpy(points).reshape(len(points), *self.graph.input_shape)).numpy()

    def winner(self, point: Array) -> int:
        return int(self.logits(point[None]).argmax())

    def wrong(self, points: Array) -> NDArray[np.bool_]:
        """At which of (count, entries) points another class wins."""
        logits = self.logits(points)
        other = np.delete(logits, self.reference, axis=1).max(1)
        return other - logits[:, self.reference] > RESERVE * (1 + np.abs(logits).max(1))

    def ascent(self, point: Array, target: int) -> Array:
        """The direction of unit norm in which target gains fastest on the reference, the box left in mind."""
        at = self.sample(point)[None].clone().requires_grad_(True)
        logits = self.graph(at)[0]
        (gradient,) = torch.autograd.grad(logits[target] - logits[self.reference], at)
        g = gradient.numpy().ravel().copy()
        g[((g > 0) & (point >= self.high)) | ((g < 0) & (point <= self.low))] = 0.0
        if self.p == 1:
            g[np.arange(len(g)) != np.abs(g).argmax()] = 0.0
        direction = np.sign(g) if self.p == math.inf else g
        return direction / max(self.norm(direction), 1e-300)

    def shoot(self, directions: Array) -> Array | None:
        """The nearest adversarial example met along rays from x, each bisected down to where it enters."""
        size = np.linalg.norm(directions, self.p, axis=1, keepdims=True)
        directions = directions[size[:, 0] > 0] / size[size[:, 0] > 0]
        steps = np.append(0.0, np.geomspace(1e-8, 1.0, 90) * self.horizon)
        points = self.inside(self.x + steps[:, None, None] * directions)
        wrong = self.wrong(points.reshape(-1, len(self.x))).reshape(points.shape[:2])
        hit = wrong.any(0)
        first = wrong[:, hit].argmax(0)
        short, long, directions = steps[np.maximum(first - 1, 0)], steps[first], directions[hit]
        for _ in range(50):
            middle = (short + long) / 2
            wrong = self.wrong(self.inside(self.x + middle[:, None] * directions))
            short, long = np.where(wrong, short, middle), np.where(wrong, middle, long)
        found = self.inside(self.x + long[:, None] * directions)
        return min(found, key=self.distance, default=None)

    def search(self) -> Array | None:
        """An adversarial example, not far above the nearest: rays along axes, gradients, and near the best so far."""
        rng = np.random.default_rng(0)
        n = len(self.x)
        best = self.shoot(np.concatenate([np.eye(n), -np.eye(n), rng.standard_normal((64, n))]))
        for round_ in range(12):
            start = self.inside(self.x) if best is None else best
            ascents = [self.ascent(start, j) for j in range(self.graph.classes) if j != self.reference]
            noise = rng.standard_normal((32, n))
            noise *= self.distance(start) * 0.6**round_ / np.linalg.norm(noise, self.p, axis=1, keepdims=True)
            best = min(best, self.shoot(np.concatenate([ascents, start - self.x + noise])), key=self.distance)
        return best

    def repaired(self, point: Array | None, target: int) -> Array | None:
        """The nearest adversarial example beside a solver's point, which may miss the boundary by a tolerance."""
        if point is None:
            return None
        point = self.inside(point)
        r = point - self.x
        steps = np.append(0.0, 1e-14 * 1.25 ** np.arange(120))[:, None] * max(self.norm(r), 1e-9)
        beside = [point + steps * r / max(self.norm(r), 1e-300), point + steps * self.ascent(point, target)]
        points = self.inside(np.concatenate(beside))
        return min(points[self.wrong(points)], key=self.distance, default=None)


# --- programs ---------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Affine:
    """weights @ variables + constant, one row for each entry of a value of that shape; later variables count 0."""

    weights: Array
    constant: Array
    shape: tuple[int, ...]

    def __getitem__(self, rows: ArrayLike) -> _Affine:
        rows = np.asarray(rows)
        return _Affine(self.weights[rows.ravel()], self.constant[rows.ravel()], rows.shape)

    def __add__(self, other: _Affine) -> _Affine:
        width = max(self.weights.shape[1], other.weights.shape[1])
        weights, more = (np.pad(a.weights, [(0, 0), (0, width - a.weights.shape[1])]) for a in (self, other))
        return _Affine(weights + more, self.constant + other.constant, self.shape)

    def __sub__(self, other: _Affine) -> _Affine:
        return self + other.scaled(-1.0)

    def scaled(self, by: ArrayLike) -> _Affine:
        factor = np.broadcast_to(np.asarray(by, dtype=np.float64), self.constant.shape)
        return _Affine(factor[:, None] * self.weights, factor * self.constant, self.shape)

    def plus(self, constant: ArrayLike) -> _Affine:
        return _Affine(self.weights, self.constant + constant, self.shape)

    def mapped(self, a: Array, shift: Array, shape: tuple[int, ...]) -> _Affine:
        return _Affine(a @ self.weights, a @ self.constant + shift, shape)


def _stacked(parts: list[_Affine]) -> _Affine:
    width = max(part.weights.shape[1] for part in parts)
    weights = [np.pad(part.weights, [(0, 0), (0, width - part.weights.shape[1])]) for part in parts]
    constant = np.concatenate([part.constant for part in parts])
    return _Affine(np.concatenate(weights), constant, constant.shape)


@final
class _Program:
    """Minimise variable `goal` >= norm(s)_p over rows that are at least 0, or equal to 0.

    The first variables are s = r / R, in a ball of norm 1 + ROOM.
    """

    def __init__(self, low: Array, high: Array, p: float) -> None:
        self.low, self.high, self.integer = np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool)
        self.at_least: list[_Affine] = []
        self.equal: list[_Affine] = []
        self.inputs, self.p = len(low), p
        self.dual_norm = {1: math.inf, 2: 2, math.inf: 1}[p]
        self.s = self.variables(low, high)
        self.goal = self.variables([0.0], [1 + ROOM])
        if p == 2:
            return  # the cone is the solver's
        sizes = self.goal[[0] * self.inputs] if p == math.inf else self.variables(0 * low, np.maximum(-low, high))
        self.at_least += [sizes - self.s, sizes + self.s]
        if p == 1:
            self.at_least.append(self.goal - sizes.mapped(np.ones((1, self.inputs)), np.zeros(1), (1,)))

    def variables(self, low: ArrayLike, high: ArrayLike, *, integer: bool = False) -> _Affine:
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        before, count = len(self.low), len(low)
        self.low, self.high = np.append(self.low, low), np.append(self.high, high)
        self.integer = np.append(self.integer, np.full(count, integer))
        return _Affine(np.eye(count, before + count, before), np.zeros(count), (count,))

    def range(self, value: _Affine) -> tuple[Array, Array]:
        """Bounds of each entry: the ball (Hoelder) or the bounds of s, whichever are tighter; intervals for the rest.

        Wider than that by what the solvers tolerate in the variables, and by more than the rounding here.
        """
        width, n = value.weights.shape[1], self.inputs
        up, down = np.maximum(value.weights, 0), np.minimum(value.weights, 0)
        low, high = self.low[:width], self.high[:width]
        ball = (1 + ROOM) * np.linalg.norm(value.weights[:, :n], self.dual_norm, axis=1)
        least = np.maximum(up[:, :n] @ low[:n] + down[:, :n] @ high[:n], -ball)
        most = np.minimum(up[:, :n] @ high[:n] + down[:, :n] @ low[:n], ball)
        least = value.constant + least + up[:, n:] @ low[n:] + down[:, n:] @ high[n:]
        most = value.constant + most + up[:, n:] @ high[n:] + down[:, n:] @ low[n:]
        slack = 1e-12 * np.abs(value.constant) + SCIP_TOLERANCE * (1 + np.abs(value.weights) @ np.maximum(-low, high))
        return least - slack, most + slack


def _nearest(
    question: _Question, target: int, radius: float, gain: float, deadline: float
) -> tuple[float, Array | None]:
    """A lower bound on the distance to where target wins, by gain * R, and the nearest such point found in the ball."""
    x = question.x
    low = np.maximum((question.low - x) / radius, -1 - ROOM)
    high = np.minimum((question.high - x) / radius, 1 + ROOM)
    nothing = math.inf if question.bounded and radius == question.horizon else (1 + ROOM) * radius
    if (low > high).any():
        return nothing, None
    program = _Program(low, high, question.p)
    values = {INPUT: program.s.plus(x / radius)}
    for node in question.graph.nodes:
        values[node.name] = _encoded(program, node.layer, [values[name] for name in node.inputs], radius)
    logits = values[question.graph.output.name]
    program.at_least.append((logits[[target]] - logits[[question.reference]]).plus(-gain))
    solve = _scip if question.p == 2 else _highs
    dual, s = solve(program, max(deadline - time.monotonic(), 0.01))
    return (nothing if dual == math.inf else radius * dual), (None if s is None else x + radius * s)


def _encoded(program: _Program, layer: Layer, inputs: list[_Affine], radius: float) -> _Affine:
    """The layer's output / R as an affine function of the program's variables, new ones added where it bends.

    All values are divided by R, which every layer here commutes with, shifts apart: then what is undecided is of
    the size of its weights, and a tolerance means the same at every distance.
    """
    value = inputs[0]
    match layer:
        case Linear():
            with torch.no_grad():
                shift = layer.forward(torch.zeros(1, *layer.input_shape, dtype=torch.float64))[0]
            return value.mapped(matrix(layer), shift.numpy().ravel() / radius, tuple(shift.shape))
        case ReLU():
            return _relu(program, value)
        case LeakyReLU():
            return value.scaled(layer.slope) + _relu(program, value).scaled(1 - layer.slope)
        case MaxPool():
            return _max_pool(program, layer, value)
        case Add():
            return sum(inputs[1:], start=value)
        case Concat():
            ends = np.cumsum([len(part.constant) for part in inputs])
            numbers = [np.arange(e - len(v.constant), e).reshape(v.shape) for e, v in zip(ends, inputs, strict=True)]
            return _stacked(inputs)[np.concatenate(numbers, axis=layer.dim - 1)]
        case _:
            raise NotImplementedError(f"{type(layer).__name__} is not piecewise linear, or unknown to the oracle")


def _relu(program: _Program, z: _Affine) -> _Affine:
    """max(z, 0): z or 0 where its sign is known, else a new variable and a binary one."""
    low, high = program.range(z)
    undecided = np.flatnonzero((low < 0) & (high > 0))
    low[undecided], high[undecided] = _relaxed_range(program, z[undecided], low[undecided], high[undecided])
    undecided = np.flatnonzero((low < 0) & (high > 0))
    result = z.scaled(low >= 0)
    if not len(undecided):
        return result
    z, low, high = z[undecided], low[undecided], high[undecided]
    y = program.variables(0 * high, high)
    active = program.variables(0 * high, 0 * high + 1, integer=True)
    program.at_least += [y - z, active.scaled(high) - y, z.plus(-low) + active.scaled(low) - y]
    return result + y.mapped(np.eye(len(result.constant))[:, undecided], 0.0, result.shape)


def _max_pool(program: _Program, layer: MaxPool, value: _Affine) -> _Affine:
    """For each window the entry that is known to be the largest, or a new variable and a binary one per candidate."""
    low, high = program.range(value)
    channels, *spatial = layer.input_shape
    places = list(windows(tuple(spatial), layer.window, layer.stride, layer.padding, layer.dilation, layer.ceil_mode))
    results: list[_Affine] = []
    for channel in range(channels):
        for _, inside in places:
            entries = np.array([np.ravel_multi_index((channel, *at), layer.input_shape) for at in inside])
            entries = entries[high[entries] >= low[entries].max()]
            if len(entries) == 1:
                results.append(value[entries])
                continue
            least, most = low[entries], high[entries]
            y = program.variables([0.0], [most.max() - least.max()]).plus(least.max())
            chosen = program.variables(0 * least, 0 * least + 1, integer=True)
            above = y[[0] * len(entries)] - value[entries]
            gap = most.max() - least
            program.at_least += [above, chosen.scaled(-gap).plus(gap) - above]
            program.equal.append(chosen.mapped(np.ones((1, len(entries))), -1.0, (1,)))
            results.append(y)
    shape = tuple(max(place[i] for place, _ in places) + 1 for i in range(len(spatial)))
    return _stacked(results)[np.arange(len(results)).reshape(channels, *shape)]


# --- solvers ----------------------------------------------------------------------------------------------------------


def _rows(program: _Program) -> tuple[csr_array, Array, Array]:
    """(a, lower, upper) of the rows lower <= a v <= upper over all variables."""
    free, tied = _stacked(program.at_least), [_stacked(program.equal)] if program.equal else []
    rows = _stacked([free, *tied])
    weights = np.pad(rows.weights, [(0, 0), (0, len(program.low) - rows.weights.shape[1])])
    upper = np.full(len(weights), math.inf)
    upper[len(free.constant) :] = -rows.constant[len(free.constant) :]
    return csr_array(weights), -rows.constant, upper


def _highs_model(program: _Program, integer: Array) -> highspy.Highs:
    a, lower, upper = _rows(program)
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = a.shape
    lp.col_cost_ = np.arange(lp.num_col_) == program.inputs
    lp.col_lower_, lp.col_upper_, lp.row_lower_, lp.row_upper_ = program.low, program.high, lower, upper
    lp.integrality_ = [highspy.HighsVarType.kInteger if i else highspy.HighsVarType.kContinuous for i in integer]
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = a.indptr, a.indices, a.data
    solver = highspy.Highs()
    options = {"output_flag": False, "threads": 1, "mip_rel_gap": GAP, "mip_abs_gap": GAP}
    feasibility = ("mip_feasibility_tolerance", "primal_feasibility_tolerance", "dual_feasibility_tolerance")
    for name, option in (options | dict.fromkeys(feasibility, HIGHS_TOLERANCE)).items():
        assert solver.setOptionValue(name, option) == highspy.HighsStatus.kOk, name
    assert solver.passModel(lp) == highspy.HighsStatus.kOk
    return solver


def _relaxed_range(program: _Program, value: _Affine, low: Array, high: Array) -> tuple[Array, Array]:
    """Bounds of each entry where binary variables may be fractional, a little wider; `low`, `high` where those fail."""
    if not program.integer.any() or not len(low):
        return low, high
    solver = _highs_model(program, np.zeros_like(program.integer))
    every = np.arange(len(program.low), dtype=np.int32)
    weights = np.pad(value.weights, [(0, 0), (0, len(every) - value.weights.shape[1])])
    found = np.stack([low, high])
    for side, sign in enumerate((1.0, -1.0)):
        for i, row in enumerate(weights):
            solver.changeColsCost(len(every), every, sign * row)
            solver.run()
            if solver.getModelStatus() == highspy.HighsModelStatus.kOptimal:
                least = solver.getInfo().objective_function_value + sign * value.constant[i]
                found[side, i] = sign * (least - 1e-6 * (1 + abs(least)))
    return np.maximum(low, found[0]), np.minimum(high, found[1])


def _highs(program: _Program, limit: float) -> tuple[float, Array | None]:
    """The dual bound (infinite: no solution) and s."""
    solver = _highs_model(program, program.integer)
    solver.setOptionValue("time_limit", limit)
    solver.run()
    status, info = solver.getModelStatus(), solver.getInfo()
    if status == highspy.HighsModelStatus.kInfeasible:
        return math.inf, None
    if status not in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit):
        raise RuntimeError(f"HiGHS ended with {status}")
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    s = np.array(solver.getSolution().col_value[: program.inputs]) if found else None
    if program.integer.any():
        return max(info.mip_dual_bound, 0.0), s
    return (info.objective_function_value if found else 0.0), s


def _scip(program: _Program, limit: float) -> tuple[float, Array | None]:
    """The same, with norm(s)_2 <= goal."""
    a, lower, upper = _rows(program)
    model = pyscipopt.Model()
    model.hideOutput()
    model.setParams({"limits/time": limit, "limits/gap": GAP, "numerics/feastol": SCIP_TOLERANCE})
    model.setHeuristics(pyscipopt.SCIP_PARAMSETTING.OFF)  # a good solution is known already
    model.setSeparating(pyscipopt.SCIP_PARAMSETTING.FAST)
    bounds = zip(program.low, program.high, program.integer, strict=True)
    v = [model.addVar(lb=low, ub=high, vtype="B" if integer else "C") for low, high, integer in bounds]
    for row in range(a.shape[0]):
        entries = slice(a.indptr[row], a.indptr[row + 1])
        total = pyscipopt.quicksum(c * v[i] for i, c in zip(a.indices[entries], a.data[entries], strict=True))
        model.addCons(total >= lower[row])
        if upper[row] < math.inf:
            model.addCons(total <= upper[row])
    goal = v[program.inputs]
    if program.p == 2:
        model.addCons(pyscipopt.quicksum(s * s for s in v[: program.inputs]) <= goal * goal)
    model.setObjective(goal)
    model.optimize()
    status = model.getStatus()
    if status == "infeasible":
        return math.inf, None
    if status not in ("optimal", "gaplimit", "timelimit"):
        raise RuntimeError(f"SCIP ended with {status}")
    s = np.array([model.getVal(s) for s in v[: program.inputs]]) if model.getNSols() else None
    return max(model.getDualbound(), 0.0), s
