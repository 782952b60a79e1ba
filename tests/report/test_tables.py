from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from pertbound import records
from pertbound.errors import RunError
from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.report import checks, normalised, summary, violations
from pertbound.samples import brackets


def test_statistics_are_numpys_over_finite_values(typical: Run):
    rows = typical.rows.to_pylist()
    for one in summary(typical):
        values = np.array([r["l2"] for r in rows if r["method"] == one.method and r["l2"] is not None])
        assert one.found == len(values)
        assert (one.mean, one.median, one.std) == (values.mean(), np.median(values), values.std())
        assert (one.min, one.max, one.seconds) == (values.min(), values.max(), 0.5)
        assert one.samples == 60 == one.found + one.none_found + one.infinite


def test_certificates_come_first_and_attacks_last(make_run: Callable[..., Run]):
    run = make_run([("a", WITNESS, [1.0]), ("e", ESTIMATE, [0.1]), ("c", CERTIFIED, [0.2]), ("b", WITNESS, [None])])
    assert [(s.method, s.guarantee) for s in summary(run)] == [
        ("c", CERTIFIED),
        ("e", ESTIMATE),
        ("a", WITNESS),
        ("b", WITNESS),
    ]


def test_nulls_infinities_nan_and_zeros_are_counted_apart(make_run: Callable[..., Run]):
    run = make_run([("fgs", WITNESS, [1.0, None, np.inf, 0.0, 3.0, np.nan])])
    one = summary(run)[0]
    assert (one.samples, one.found, one.none_found, one.infinite, one.zero) == (6, 3, 2, 1, 1)
    assert one.mean == pytest.approx(4 / 3)


def test_a_method_that_found_nothing_has_no_statistics(make_run: Callable[..., Run]):
    one = summary(make_run([("fgs", WITNESS, [None, None])]))[0]
    assert (one.found, one.none_found) == (0, 2)
    assert all(np.isnan([one.mean, one.median, one.std, one.min, one.max]))


def test_huge_values_do_not_overflow(make_run: Callable[..., Run]):
    one = summary(make_run([("c", CERTIFIED, [1e308, 1.5e308])]))[0]
    assert one.mean == one.median == pytest.approx(1.25e308)
    assert one.std == pytest.approx(0.25e308)


def test_normalised_as_in_the_paper(make_run: Callable[..., Run]):
    one = summary(make_run([("c", CERTIFIED, [1.0, 3.0])]))[0]
    scaled = normalised(one, 784, 255.0)
    assert (scaled.mean, scaled.std, scaled.max) == (2 * 255 / 784, 1 * 255 / 784, 3 * (255 / 784))
    assert scaled.found == 2
    for dimension, scale in ((0, 255.0), (784, 0.0), (784, np.nan), (784, np.inf)):
        with pytest.raises(RunError, match="cannot normalise"):
            normalised(one, dimension, scale)


def test_violations_are_counted_against_the_nearest_witness(make_run: Callable[..., Run]):
    run = make_run(
        [
            ("good", CERTIFIED, [0.5, 0.5, 0.0, 9.0, 1.0]),
            ("bad", CERTIFIED, [1.5, 1.0 + 1e-9, 1e-300, 9.0, np.inf]),
            ("formula", ESTIMATE, [3.0, 0.1, 0.0, 9.0, 1.0]),
            ("far", WITNESS, [2.0, 3.0, 5.0, None, None]),
            ("near", WITNESS, [1.0, 1.0, 0.0, None, 2.0]),
        ]
    )
    assert violations(run) == {"good": 0, "bad": 4, "formula": 1}
    assert [(c.method, c.compared) for c in checks(run)] == [("good", 4), ("bad", 4), ("formula", 4)]


def test_a_bound_equal_to_the_witness_up_to_rounding_is_no_violation(make_run: Callable[..., Run]):
    run = make_run([("c", CERTIFIED, [1.0, 1.0 + 2e-16, 0.0]), ("a", WITNESS, [1.0, 1.0, 0.0])])
    assert violations(run) == {"c": 0}


def test_nothing_compared_is_told_apart_from_no_violations(make_run: Callable[..., Run]):
    run = make_run([("c", CERTIFIED, [1.0, 1.0]), ("a", WITNESS, [None, None])])
    assert violations(run) == {"c": 0}
    assert checks(run)[0].compared == 0


def test_brackets_take_the_best_of_each_side_and_no_estimates(make_run: Callable[..., Run]):
    run = make_run(
        [
            ("c1", CERTIFIED, [0.5, 0.0, 0.3]),
            ("c2", CERTIFIED, [0.4, 0.2, 0.3]),
            ("e", ESTIMATE, [0.9, 0.9, 0.9]),
            ("a1", WITNESS, [None, 2.0, None]),
            ("a2", WITNESS, [1.0, 3.0, None]),
        ]
    )
    best = brackets(run)
    assert best.lower.tolist() == [0.5, 0.2, 0.3]
    assert best.lower_method == ("c1", "c2", "c1")
    assert best.upper.tolist() == [1.0, 2.0, np.inf]
    assert best.upper_method == ("a2", "a1", "")
    assert best.label == (0, 1, 2)


def test_samples_need_be_neither_complete_nor_in_order():
    run = Run(
        records.table(
            {
                "sample": [9, 4, 9],
                "method": ["c", "c", "a"],
                "guarantee": [CERTIFIED, CERTIFIED, WITNESS],
                "l2": [2.0, 1.0, 1.5],
            }
        ),
        {},
    )
    best = brackets(run)
    assert best.sample.tolist() == [4, 9]
    assert best.lower.tolist() == [1.0, 2.0]
    assert np.isnan(best.upper[0])
    assert best.label == (None, None)
    assert violations(run) == {"c": 1}


def test_rows_that_cannot_be_meant_are_refused():
    wrong = records.table({"sample": [0], "method": ["c"], "guarantee": ["promised"], "l2": [1.0]})
    with pytest.raises(RunError, match="promised"):
        summary(Run(wrong, {}))
    nobody = records.table({"sample": pa.nulls(1, pa.int64()), "method": ["c"], "guarantee": [CERTIFIED]})
    with pytest.raises(RunError, match="which sample"):
        summary(Run(nobody, {}))


def test_an_empty_run_has_no_methods():
    run = Run(records.SCHEMA.empty_table(), {})
    assert summary(run) == []
    assert violations(run) == {}
    assert len(brackets(run)) == 0
