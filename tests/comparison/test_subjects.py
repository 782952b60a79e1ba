"""What cannot be compared is refused, and says what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pertbound as pb
from comparing import DATA, run
from pertbound import records, store
from pertbound.records import ESTIMATE, Run

A, B = run([1.0, 1.0], [2.0, 2.0], "a"), run([1.0, 1.0], [2.0, 2.0], "b")


def changed(**changes: Any) -> Run:
    return replace(B, about={**B.about, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm": "Linf"}, "norm is L2 in the first and Linf"),
        ({"guarantee": "L2 over inputs within [0, 1], for the network"}, r"box\) is all of R\^d in the first"),
        ({"data": DATA | {"pixel_scale": 255.0}}, "pixel_scale"),
        ({"data": DATA | {"input_shape": [3, 8, 8]}}, "shape of the input"),
        ({"data": DATA | {"sha256": "another"}}, "different data.*--same-data"),
        ({"data": {"name": "mnist"}}, "different data"),
        ({"norm": "L3"}, "known are"),
    ],
)
def test_another_question_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(pb.RunError, match=f"(?s){said}"):
        pb.compare([A, changed(**changes)])


def test_the_norm_of_the_runs_is_compared() -> None:
    runs = [replace(one, about={**one.about, "norm": "Linf"}) for one in (A, B)]
    assert pb.compare(runs).norm == "Linf"
    assert pb.compare(runs).models[0].lower.tolist() == [1, 1]


def test_runs_that_say_nothing_about_themselves_are_taken_as_they_are() -> None:
    found = pb.compare([Run(A.rows, {}), Run(B.rows, {})])
    assert [model.name for model in found.models] == ["run 1 (a model)", "run 2 (a model)"]


def test_other_data_pass_where_the_caller_vouches_or_the_kept_inputs_show_it() -> None:
    other = changed(data=DATA | {"sha256": "of the first 50"})
    assert pb.compare([A, other], same_data=True).pairs
    inputs = {"sample": np.array([0, 1, 1]), "original": np.arange(6.0).reshape(3, 2)}
    inputs["original"][2] = inputs["original"][1]
    assert pb.compare([replace(A, witnesses=inputs), replace(other, witnesses=inputs)]).pairs
    some = {"sample": inputs["sample"][:1], "original": inputs["original"][:1]}
    with pytest.raises(pb.RunError, match="different data"):
        pb.compare([replace(A, witnesses=inputs), replace(other, witnesses=some)])
    moved = inputs | {"original": inputs["original"] + 1}
    with pytest.raises(pb.RunError, match="sample 0 differs"):
        pb.compare([replace(A, witnesses=inputs), replace(B, witnesses=moved)], same_data=True)


def with_column(one: Run, name: str, values: list[Any]) -> Run:
    at = records.SCHEMA.get_field_index(name)
    field = records.SCHEMA.field(name)
    return replace(one, rows=one.rows.set_column(at, field, pa.array(values, type=field.type)))


def test_other_labels_are_other_data() -> None:
    relabelled = with_column(B, "label", [0, 7, 0, 7])
    with pytest.raises(pb.RunError, match=r"labels 1 samples otherwise.*sample 1"):
        pb.compare([A, relabelled])


@pytest.mark.parametrize("column", ["label", "reference", "predicted"])
def test_rows_of_one_sample_must_agree(column: str) -> None:
    with pytest.raises(pb.RunError, match="rows about sample 1 differ"):
        pb.compare([A, with_column(B, column, [0, 0, 0, 1])])


def test_a_run_must_say_which_class_was_to_be_left() -> None:
    with pytest.raises(pb.RunError, match="do not say which class"):
        pb.compare([A, with_column(B, "reference", [None] * 4)])
    assert pb.compare([A, with_column(B, "predicted", [None] * 4)]).models[1].lower.tolist() == [1, 1]


def test_a_certificate_beyond_a_witness_is_an_error_and_not_a_comparison() -> None:
    with pytest.raises(
        pb.ContradictionError, match=r"sample 1: c in run 2 .* smaller than 2\.1 .* a in run 2 .* of size 2"
    ):
        pb.compare([A, run([1.0, 2.1], [2.0, 2.0], "b")])
    assert pb.compare([A, run([1.0, 2.0 * (1 + 1e-15)], [2.0, 2.0], "b")]).pairs
    with pytest.raises(pb.ContradictionError, match="of size -1"):
        pb.compare([A, run([None, None], [2.0, -1.0], "b")])


def test_a_run_without_bounds_is_refused() -> None:
    estimates = B.rows.filter(pa.array([False] * len(B.rows)))
    with pytest.raises(pb.RunError, match="no rows"):
        pb.compare([A, replace(B, rows=estimates)])
    only = with_column(B, "guarantee", [ESTIMATE] * 4)
    with pytest.raises(pb.RunError, match="estimates only"):
        pb.compare([A, only])


def test_nan_and_negative_certificates_bound_nothing() -> None:
    found = pb.compare([A, run([float("nan"), -1.0], [2.0, float("nan")], "b")])
    assert found.models[1].lower.tolist() == [0, 0]
    assert found.models[1].upper.tolist() == [2, np.inf]


def test_interrupted_runs_are_named() -> None:
    assert "interrupted" in " ".join(pb.compare([A, changed(complete=False)]).notes)


def test_the_same_run_twice_is_refused(tmp_path: Any) -> None:
    store.write(tmp_path / "a", Run(A.rows, {}))
    with pytest.raises(pb.RunError, match="given more than once"):
        pb.compare([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(pb.RunError, match="weights are the same"):
        pb.compare([A, A])
