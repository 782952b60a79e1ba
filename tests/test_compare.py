"""Comparisons: cases by hand, what must not matter, coverage in simulation, and broken copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertbound as pb
from comparing import run, shuffled
from pertbound import store
from pertbound.comparison import Comparison, MoreSamples, Pair, Tighten, Verdict
from pertbound.comparison.telling import rate
from pertbound.records import CERTIFIED, WITNESS, Run

A = run([1.0, 2.0, 0.7, 3.0], [2.0, None, 0.9, 3.0], "a", wrong=[2])
B = run([0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0], "b")


def only(comparison: Comparison, radius: float | None = None) -> Pair:
    (pair,) = [pair for pair in comparison.pairs if pair.radius == radius]
    return pair


def test_a_case_by_hand() -> None:
    found = pb.compare([A, B], radii=[1.0], names=["a", "b"])
    a, b = found.models
    assert found.cap == 3.0
    assert not found.cap_given
    assert a.lower.tolist() == [1, 2, 0, 3], "a misclassified sample has radius 0"
    assert a.upper.tolist() == [2, np.inf, 0, 3]
    assert (a.mean.lower, a.mean.upper) == (1.5, 2.0), "without a witness a sample counts up to the cap"
    assert (b.mean.lower, b.mean.upper) == (0.5, 1.0)
    assert (a.accuracy, b.accuracy) == (0.75, 1.0)
    assert (a.without_witness, b.without_witness) == (1, 0)
    assert (a.accuracies[0].lower, a.accuracies[0].upper) == (0.75, 0.75)
    assert (b.accuracies[0].lower, b.accuracies[0].upper) == (0.0, 1.0)
    by_mean, at_one = only(found), only(found, 1.0)
    assert (by_mean.difference.lower, by_mean.difference.upper) == (0.5, 1.5)
    assert by_mean.verdict is Verdict.FEW
    assert (by_mean.first_ahead, by_mean.second_ahead) == (0.5, 0.25)
    assert (at_one.difference.lower, at_one.difference.upper) == (-0.25, 0.75)
    assert at_one.verdict is Verdict.OVERLAP


def test_curves_by_hand() -> None:
    a = pb.compare([A, B]).models[0]
    radii = np.array([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    assert a.certified_accuracy(radii).tolist() == [0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0]
    assert a.attack_accuracy(radii).tolist() == [0.75, 0.75, 0.75, 0.75, 0.5, 0.5, 0.25]


def test_where_predictions_count_nothing_is_misclassified() -> None:
    found = pb.compare([A, B], against_labels=False)
    assert found.models[0].lower.tolist() == [1, 2, 0.7, 3]
    assert found.models[0].accuracy == 1
    assert "Against predictions" in " ".join(found.notes)
    assert "--labels" in " ".join(found.notes)


def test_without_labels_predictions_count() -> None:
    plain = [run([1.0], [2.0], name, labelled=False) for name in "ab"]
    assert not pb.compare(plain).against_labels
    with pytest.raises(pb.RunError, match="no label to measure against"):
        pb.compare(plain, against_labels=True)


def test_runs_against_labels_and_against_predictions_agree_where_labels_count() -> None:
    labelled = run([1.0, 0.0], [2.0, 0.0], "a", wrong=[1], against_labels=True)
    predicted = run([1.0, 0.3], [2.0, 0.4], "b", wrong=[1])
    found = pb.compare([labelled, predicted])
    assert found.against_labels
    np.testing.assert_array_equal(found.models[0].lower, found.models[1].lower)
    with pytest.raises(pb.RunError, match="was measured against labels"):
        pb.compare([labelled, predicted], against_labels=False)


def test_a_cap_cuts_every_bound() -> None:
    found = pb.compare([A, B], cap=0.75)
    assert (found.cap, found.cap_given) == (0.75, True)
    assert (found.models[0].mean.lower, found.models[0].mean.upper) == (0.5625, 0.5625)
    assert found.models[1].mean.upper == 0.75


def test_ties_do_not_make_a_model_more_robust() -> None:
    """A certified up to 0.5 and B attacked at 0.5: both may have the radius 0.5."""
    a, b = run([0.5] * 60, [0.9] * 60, "a"), run([0.1] * 60, [0.5] * 60, "b")
    found = pb.compare([a, b], radii=[0.5])
    assert only(found, 0.5).verdict is Verdict.OVERLAP
    assert only(found).verdict is Verdict.OVERLAP
    assert only(found).first_ahead == 0


def test_estimates_never_enter() -> None:
    huge = run([1.0, 2.0, 0.7, 3.0], [2.0, None, 0.9, 3.0], "a", wrong=[2], estimates=[9.0, 9.0, 9.0, 9.0])
    with_, without = pb.compare([huge, B], names=["a", "b"]), pb.compare([A, B], names=["a", "b"])
    assert with_.pairs == without.pairs
    assert "estimates take no part (e)" in " ".join(with_.notes)


def test_what_is_not_known_bounds_nothing() -> None:
    """No certificate: radius 0 from below. No witness anywhere: the cap from above, and nothing can be told."""
    found = pb.compare([run([1.0] * 99, [None] * 99, "a"), run([None] * 99, [None] * 99, "b")])
    a, b = found.models
    assert (a.mean.lower, a.mean.upper, b.mean.lower, b.mean.upper) == (1, 1, 0, 1)
    assert (b.uncertified, b.without_witness) == (99, 99)
    assert only(found).verdict is Verdict.OVERLAP


def test_all_zero_is_no_error() -> None:
    found = pb.compare([run([0.0] * 5, [0.0] * 5, name) for name in "ab"])
    assert only(found).verdict is Verdict.FEW
    assert only(found).cost == MoreSamples(None, None, None)


def sure(n: int = 60) -> list[Run]:
    """Three models that are told apart, but for the last two."""
    radii = np.random.default_rng(0).uniform(1, 2, n)
    return [run(scale * radii * 0.95, scale * radii, name) for scale, name in ((3.0, "a"), (1.0, "b"), (0.98, "c"))]


def test_the_ranking_is_a_partial_order() -> None:
    found = pb.compare(sure(), names=["a", "b", "c"], radii=[2.0])
    places = {place.model: (place.best, place.worst) for place in found.ranking()}
    assert places == {"a": (1, 1), "b": (2, 3), "c": (2, 3)}
    assert found.ranking()[0].above == ("b", "c")
    assert found.ranking(2.0)[0].model == "a"
    with pytest.raises(pb.InputError, match="not asked about the radius"):
        found.ranking(7.0)


def flipped(pair: Pair) -> tuple[Any, ...]:
    d = pair.difference
    verdict = {Verdict.FIRST: Verdict.SECOND, Verdict.SECOND: Verdict.FIRST}.get(pair.verdict, pair.verdict)
    ends = tuple(round(-end, 12) for end in (d.upper, d.lower, d.upper_limit, d.lower_limit))
    return pair.second, pair.first, pair.radius, ends, verdict, pair.second_ahead, pair.first_ahead


def plain(pair: Pair) -> tuple[Any, ...]:
    d = pair.difference
    ends = tuple(round(end, 12) for end in (d.lower, d.upper, d.lower_limit, d.upper_limit))
    return pair.first, pair.second, pair.radius, ends, pair.verdict, pair.first_ahead, pair.second_ahead


def test_neither_the_order_of_runs_nor_that_of_rows_matters() -> None:
    runs = dict(zip("abc", sure(20), strict=True))
    expected = pb.compare(list(runs.values()), names=list(runs), radii=[1.5])
    known = {plain(pair) for pair in expected.pairs} | {flipped(pair) for pair in expected.pairs}
    for order in permutations(runs):
        found = pb.compare([shuffled(runs[name]) for name in order], names=order, radii=[1.5])
        assert {plain(pair) for pair in found.pairs} <= known
        assert found.ranking() == expected.ranking()


def test_several_runs_of_one_model_are_put_together() -> None:
    below = run([1.0, 2.0], [None, None], "a")
    above = run([0.1, 0.1], [3.0, 4.0], "a")
    found = pb.compare([below, run([0.5, 0.5], [1.0, 1.0], "b"), above])
    assert len(found.models) == 2
    assert found.models[0].lower.tolist() == [1, 2]
    assert found.models[0].upper.tolist() == [3, 4]
    assert len(found.models[0].runs) == 2
    with pytest.raises(pb.RunError, match="needs two models"):
        pb.compare([below, above])


def test_only_common_samples_count() -> None:
    found = pb.compare([run([1.0] * 5, [2.0] * 5, "a"), run([1.0] * 5, [2.0] * 5, "b", first=3)])
    assert found.samples.tolist() == [3, 4]
    assert "3 of its 5 samples are left out" in " ".join(found.notes)
    with pytest.raises(pb.RunError, match="no sample in common"):
        pb.compare([run([1.0], [2.0], "a"), run([1.0], [2.0], "b", first=3)])


def test_all_verdicts_of_a_comparison_share_the_risk() -> None:
    """More questions make wider limits; the limits of single models stay."""
    one = pb.compare(sure(20)[:2], radii=[])
    more = pb.compare(sure(20), radii=[1.0, 2.0])
    assert more.pairs[0].difference.lower_limit < one.pairs[0].difference.lower_limit
    assert more.models[0].mean.lower_limit == pytest.approx(one.models[0].mean.lower_limit, rel=0.02)


def test_bad_arguments_are_refused() -> None:
    for bad in ({"cap": 0.0}, {"cap": np.inf}, {"radii": [-1.0]}, {"radii": [np.nan]}, {"confidence": 1.0}):
        with pytest.raises(pb.InputError):
            pb.compare([A, B], **bad)  # type: ignore[arg-type]
    for bad in ({"names": ["a"]}, {"names": ["a", "a"]}, {"resamples": 10}, {"confidence": 0.3}):
        with pytest.raises(pb.InputError):
            pb.compare([A, B], **bad)  # type: ignore[arg-type]
    assert "Beyond every finite bound" in " ".join(pb.compare([A, B], radii=[128.0]).notes)
    for runs in ([A], [], "runs/a"):
        with pytest.raises(pb.InputError, match="two runs"):
            pb.compare(runs)


def test_folders_are_read_and_named(tmp_path: Path) -> None:
    for name, one in (("x/bracket", A), ("y/bracket", B), ("z", B)):
        store.write(tmp_path / name, one)
    assert [m.name for m in pb.compare([tmp_path / "x/bracket", tmp_path / "z"]).models] == ["bracket", "z"]
    same = pb.compare([tmp_path / "x/bracket", str(tmp_path / "y/bracket")])
    assert [m.name for m in same.models] == [str(tmp_path / "x/bracket"), str(tmp_path / "y/bracket")]
    with pytest.raises(pb.RunError, match="not a run folder"):
        pb.compare([tmp_path / "x", tmp_path / "z"])


def test_json_holds_everything_and_no_infinity() -> None:
    found = pb.compare([A, B], radii=[1.0])
    said = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert said["pairs"][1]["verdict"] == "brackets overlap"
    assert said["pairs"][1]["cost"]["kind"] == "narrower brackets"
    assert said["models"][0]["mean"]["upper"] == 2.0
    assert said["ranking"][0]["places"][0]["best"] == 1
    assert said["curves"]["radius"] == sorted(said["curves"]["radius"])
    assert len(said["curves"]["certified"]) == 2


# What it would cost to tell


def test_narrower_brackets_by_hand() -> None:
    """100 samples; A in [1, 2], B in [1, 2] but for the first 40, which are in [0, 4]."""
    a = run([1.0] * 100, [2.0] * 100, "a")
    b = run([0.0] * 40 + [1.0] * 60, [4.0] * 40 + [2.0] * 60, "b")
    pair = only(pb.compare([a, b], names=["a", "b"]))
    assert pair.verdict is Verdict.OVERLAP
    cost = pair.cost
    assert isinstance(cost, Tighten)
    # lower ends: A - B: 1 - (0.4 * 4 + 0.6 * 2) = -1.8, and B - A: 0.6 - 2 = -1.4: B is nearer
    assert cost.towards == "b"
    assert cost.by == pytest.approx(pair.difference.upper_limit)
    assert cost.by > 1.4
    assert cost.share == pytest.approx(cost.by / 3.2)
    widest = int(np.ceil(cost.by * 100 / 5))  # 40 samples with 1 + 4 of room are enough
    assert cost.samples == tuple(range(len(cost.samples)))
    assert widest <= len(cost.samples) <= widest + 1
    assert cost.seconds is None, "one method on each side shows no rate"


def test_seconds_at_the_rate_of_the_last_rung() -> None:
    assert rate([(1.0, 0.5), (0.1, 0.2)]) == pytest.approx(0.3)
    assert rate([(0.1, 0.2), (1.0, 0.2)]) is None
    n = 50
    rungs = [("cheap", CERTIFIED, 0.01, [0.2] * n)]
    a = run([0.6] * n, [2.0] * n, "a", rungs=rungs, seconds=0.4)
    b = run([0.5] * n, [0.7] * n, "b", seconds=0.4)
    cost = only(pb.compare([a, b], names=["a", "b"])).cost
    assert isinstance(cost, Tighten)
    assert cost.towards == "a"
    assert cost.seconds == pytest.approx(cost.by / (0.4 / 0.4) * n)  # (0.6 - 0.2) in 0.4 s


def test_more_samples_would_tell_about_as_often_as_announced() -> None:
    generator = np.random.default_rng(7)
    told = 0
    cost = None
    for n in (60, 0):
        for _ in range(1 if n else 30):
            count = n or 60 + (cost.count or 0 if isinstance(cost, MoreSamples) else 0)
            shift = generator.normal(0, 1, count) if not n else np.linspace(-1.7, 1.7, count)
            radii = np.full(count, 9.0)
            pair = only(
                pb.compare([run(radii + 0.2 + shift, radii + 0.2 + shift, "a"), run(radii, radii, "b")], cap=20)
            )
            told += pair.verdict is Verdict.FIRST
            cost = pair.cost if n else cost
    assert isinstance(cost, MoreSamples)
    assert cost.count is not None
    assert 80 < cost.count < 260
    assert cost.seconds == pytest.approx(2 * 2 * 0.5 * cost.count)
    assert 0.55 < told / 30 < 1


def test_equal_samples_are_few_until_there_are_enough() -> None:
    for n, verdict in ((4, Verdict.FEW), (400, Verdict.FIRST)):
        pair = only(pb.compare([run([1.0] * n, [1.0] * n, "a"), run([0.5] * n, [0.5] * n, "b")]))
        assert pair.verdict is verdict
    few = only(pb.compare([run([1.0] * 4, [1.0] * 4, "a"), run([0.5] * 4, [0.5] * 4, "b")])).cost
    assert isinstance(few, MoreSamples)
    n = 4 + (few.count or 0)
    assert only(pb.compare([run([1.0] * n, [1.0] * n, "a"), run([0.5] * n, [0.5] * n, "b")])).verdict is Verdict.FIRST


# Simulation


class Population:
    """2,000 inputs on which the brackets of two models are known, and with them what is true of the population.

    With `shift` 1 the population's difference has 0 at its upper end: the second is only just not shown more robust.
    """

    def __init__(self, generator: np.random.Generator, shift: float, missing: float, cap: float) -> None:
        hard = generator.lognormal(0, 0.5, 2000)
        self.cap = cap
        self.lower = [hard * generator.uniform(0.7, 1, 2000), hard * generator.uniform(0.7, 1, 2000)]
        self.upper = [hard * generator.uniform(1, 1.3, 2000), hard * generator.uniform(1, 1.3, 2000)]
        for upper in self.upper:
            upper[generator.random(2000) < missing] = np.inf
        gap = shift * float((np.minimum(self.upper[0], self.cap) - self.lower[1]).mean())
        self.lower[1], self.upper[1] = self.lower[1] + gap, self.upper[1] + gap
        low = np.minimum(self.lower[0], self.cap) - np.minimum(self.upper[1], self.cap)
        high = np.minimum(self.upper[0], self.cap) - np.minimum(self.lower[1], self.cap)
        self.ends = float(low.mean()), float(high.mean())

    def draw(self, generator: np.random.Generator, count: int) -> Comparison:
        at = generator.integers(2000, size=count)
        uppers = [[None if np.isinf(u) else u for u in upper[at]] for upper in self.upper]
        runs = [run(lower[at], upper, name) for lower, upper, name in zip(self.lower, uppers, "ab", strict=True)]
        return pb.compare(runs, cap=self.cap, resamples=999)


def holds(draws: int, count: int, shift: float, missing: float = 0.1, cap: float = 3.0) -> tuple[float, float]:
    """How often the limits hold the whole interval, and how often the verdict is wrong."""
    generator = np.random.default_rng(11)
    population = Population(generator, shift, missing, cap)
    low, high = population.ends
    covered = wrong = 0
    for _ in range(draws):
        pair = population.draw(generator, count).pairs[0]
        covered += pair.difference.lower_limit <= low and high <= pair.difference.upper_limit
        wrong += (pair.verdict is Verdict.FIRST and high <= 0) or (pair.verdict is Verdict.SECOND and low >= 0)
        wrong += pair.verdict in (Verdict.FIRST, Verdict.SECOND) and low < 0 < high  # nothing can be told of these
    return covered / draws, wrong / draws


@pytest.mark.parametrize(("count", "shift", "missing"), [(20, 0.98, 0.0), (40, 0.98, 0.1), (80, 0.0, 0.1)])
def test_limits_hold_the_interval_and_verdicts_are_rarely_wrong(count: int, shift: float, missing: float) -> None:
    covered, wrong = holds(100, count, shift, missing)
    assert covered > 0.885  # 0.95 less three standard errors
    assert wrong < 0.06


Break = Callable[[pytest.MonkeyPatch], None]


def lower_for_upper(patch: pytest.MonkeyPatch) -> None:
    """Compares certificates with certificates, as if they were the radii."""
    from pertbound.compare import _Question

    def ends(self: Any, first: Any, second: Any) -> Any:
        (below, _), (below_other, _) = self.brackets(first), self.brackets(second)
        return below - below_other, below - below_other

    patch.setattr(_Question, "ends", ends)


def missing_witnesses_ignored(patch: pytest.MonkeyPatch) -> None:
    """Takes the certificate for the radius where no witness was found."""
    from pertbound.compare import _Question

    original = _Question.brackets

    def brackets(self: Any, model: Any) -> Any:
        below, above = original(self, model)
        return below, np.where(np.isinf(model.upper), below, above)

    patch.setattr(_Question, "brackets", brackets)


def without_chance(patch: pytest.MonkeyPatch) -> None:
    """Takes the samples for the population."""
    import sys

    patch.setattr(sys.modules["pertbound.compare"], "bootstrap", lambda values, *_: (values.mean(0), values.mean(0)))


@pytest.mark.parametrize("broken", [lower_for_upper, missing_witnesses_ignored, without_chance])
def test_broken_copies_do_not_hold_the_interval(monkeypatch: pytest.MonkeyPatch, broken: Break) -> None:
    broken(monkeypatch)
    covered, _ = holds(40, 40, 0.98, missing=0.3)
    assert covered < 0.7


def test_pairing_is_used() -> None:
    """Samples that are hard for both models cancel: the limits are those of the differences' spread."""
    generator = np.random.default_rng(2)
    hard = generator.uniform(1, 9, 80)
    a, b = hard + 0.3 + generator.normal(0, 0.1, 80), hard
    d = only(pb.compare([run(a, a, "a"), run(b, b, "b")])).difference
    half = 1.96 * (a - b).std() / np.sqrt(80)
    assert d.lower - d.lower_limit == pytest.approx(half, rel=0.25)
    unpaired = 1.96 * np.sqrt((a.var() + b.var()) / 80)
    assert unpaired > 10 * half


def test_an_unpaired_bootstrap_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from pertbound.compare import _Question

    def ends(self: Any, first: Any, second: Any) -> Any:
        (below, above), (below_other, above_other) = self.brackets(first), self.brackets(second)
        other = np.random.default_rng(0).permutation(len(below))
        return below - above_other[other], above - below_other[other]

    monkeypatch.setattr(_Question, "ends", ends)
    with pytest.raises(AssertionError):
        test_pairing_is_used()


@pytest.mark.slow
def test_what_no_sample_shows_is_not_allowed_for() -> None:
    """A limitation that docs/comparing.md states: rare inputs without a witness, and a cap far above all others."""
    _, wrong = holds(300, 50, 1.0, missing=0.02, cap=6.0)
    assert 0.05 < wrong < 0.25
    _, wrong = holds(300, 50, 1.0, missing=0.02, cap=2.0)
    assert wrong < 0.06


@pytest.mark.slow
def test_three_equal_models_are_rarely_told_apart() -> None:
    generator = np.random.default_rng(5)
    wrong = 0
    for _ in range(400):
        hard = generator.lognormal(0, 0.5, 40)
        radii = [hard * generator.lognormal(0, 0.3, 40) for _ in range(3)]
        found = pb.compare([run(r, r, name) for r, name in zip(radii, "abc", strict=True)], radii=[1.0], cap=5)
        wrong += any(pair.verdict in (Verdict.FIRST, Verdict.SECOND) for pair in found.pairs)
    assert wrong / 400 < 0.08


def test_a_witness_kind_of_row_is_needed_for_an_upper_bound() -> None:
    """A run with certificates of two methods: the larger counts; with two attacks: the nearer."""
    rungs = [("c2", CERTIFIED, 1.0, [0.9, 0.1]), ("a2", WITNESS, 1.0, [None, 1.5])]
    found = pb.compare([run([0.5, 0.5], [2.0, 2.0], "a", rungs=rungs), run([0.1, 0.1], [0.2, 0.2], "b")])
    assert found.models[0].lower.tolist() == [0.9, 0.5]
    assert found.models[0].upper.tolist() == [2.0, 1.5]
