from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from pertbound import records
from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.report import PAPER_TABLES, headline, normalised_grid, paper_grid, summary_grid, to_markdown, to_text
from pertbound.report.about import facts, noun, shape, title
from pertbound.report.rounding import down, nearest, up
from pertbound.report.words import cards, verdict


def test_rounding_keeps_the_promised_direction():
    chance = random.Random(3)
    for _ in range(2000):
        value = math.exp(chance.uniform(-40, 40))
        assert float(down(value)) <= value <= float(up(value))
        assert abs(float(nearest(value)) - value) <= 0.0051 * value


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (5e-324, "4.94e-324"), (999.96, "1000"), (123456.0, "123000"), (1e9, "1.00e9"), (-0.5, "-0.500")],
)
def test_three_significant_digits(value: float, shown: str):
    assert nearest(value) == shown


def test_the_headline_says_what_half_are_certified_for_and_how_far_the_farthest_witness_is(
    make_run: Callable[..., Run],
):
    run = make_run([("c", CERTIFIED, [0.1, 0.2119, 0.3, 0.05]), ("a", WITNESS, [1.0, 1.2, 1.2901, 0.4])])
    assert headline(run) == (
        "For half of the 4 images no perturbation smaller than 0.211 changes the class; "
        "for every one of them one of at most 1.30 does."
    )


def test_the_headline_names_those_without_a_witness_and_those_misclassified(make_run: Callable[..., Run]):
    run = make_run([("c", CERTIFIED, [0.1, 0.2, 0.0, 0.3]), ("a", WITNESS, [1.0, None, 0.0, None])])
    assert "for 2 of them one of at most 1.00 does, and for the other 2 none was found." in headline(run)
    assert "1 of the 4 is misclassified as it stands." in headline(run)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ([("c", CERTIFIED, [0.5, 0.5])], "no attack was run"),
        (
            [("a", WITNESS, [0.5, 0.5])],
            "For every one of the 2 images a perturbation of at most 0.500 changes the class; nothing",
        ),
        ([("a", WITNESS, [None, None])], "was found for any of the 2 images"),
        ([("e", ESTIMATE, [0.5, 0.5])], "no guarantees"),
        ([("c", CERTIFIED, [0.0, 0.0]), ("a", WITNESS, [1.0, 1.0])], "For 0 of the 2 images a radius is certified"),
        ([("c", CERTIFIED, [0.5]), ("a", WITNESS, [0.7])], "the one image smaller than 0.500"),
        ([("c", CERTIFIED, [0.9]), ("a", WITNESS, [0.7])], "contradicts itself"),
    ],
)
def test_other_headlines(make_run: Callable[..., Run], methods: list[object], words: str):
    assert words in headline(make_run(methods))


def test_the_verdict_is_loud_about_certificates_and_plain_about_estimates(make_run: Callable[..., Run]):
    bad = verdict(make_run([("c", CERTIFIED, [2.0]), ("e", ESTIMATE, [2.0]), ("a", WITNESS, [1.0])]))
    assert [v.mark for v in bad] == ["bad", "warn"]
    good = verdict(make_run([("c", CERTIFIED, [0.5]), ("e", ESTIMATE, [0.5]), ("a", WITNESS, [1.0])]))
    assert [v.mark for v in good] == ["good", "open"]
    vacuous = verdict(make_run([("c", CERTIFIED, [0.5]), ("a", WITNESS, [None])]))
    assert [v.mark for v in vacuous] == ["open"]
    assert "Not checked" in vacuous[0].text


def test_cards_leave_out_what_is_not_known(make_run: Callable[..., Run]):
    names = [card.name for card in cards(make_run([("c", CERTIFIED, [0.5])], {}))]
    assert names == ["samples", "half are certified up to", "computing time"]


def test_run_json_may_hold_anything(make_run: Callable[..., Run]):
    rows = [("c", CERTIFIED, [0.5])]
    for about in ({}, {"model": None, "data": []}, {"data": {"input_shape": "1x8", "pixel_scale": "many"}, "x": [1]}):
        run = make_run(rows, about)
        assert title(run, "folder") == "folder"
        assert shape(run) == ()
        assert noun(run) == "samples"
        assert normalised_grid(run) is None
        assert all(fact.value for fact in facts(run))


def test_the_papers_numbers_are_consistent_with_its_text():
    """The text gives MNIST's smallest perturbation before normalisation: 0.0179."""
    assert PAPER_TABLES[1].rows["MNIST"].min * 28 * 28 == pytest.approx(0.0179, rel=0.02)
    for table in PAPER_TABLES.values():
        for row in table.rows.values():
            assert row.min < row.median < row.mean < row.max
            assert row.std < row.max
    assert PAPER_TABLES[2].rows["MNIST"].std == 4.229566e-8
    assert PAPER_TABLES[2].rows["CIFAR-10"].max == 2.098e-12


def test_our_statistics_stand_below_the_papers(make_run: Callable[..., Run]):
    about = {"data": {"name": "mnist", "input_shape": [1, 28, 28], "pixel_scale": 255.0}}
    run = make_run([("c", CERTIFIED, [1.0, 3.0]), ("fgs", WITNESS, [4.0, None])], about)
    one, two = paper_grid([run], 1), paper_grid([run], 2)
    assert one is not None
    assert two is not None
    assert one.rows[0][:4] == ("MNIST", "the paper", "test set", "0.933")
    assert one.rows[1][:4] == ("MNIST", "fgs (witness)", "1 of 2", nearest(4 * 255 / 784))
    assert two.rows[1][1] == "c (certified)"
    assert "| MNIST | the paper" in to_markdown(one)
    assert "MNIST  the paper" in to_text(one)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "", None])
def test_other_data_sets_are_not_compared_with_the_paper(make_run: Callable[..., Run], name: str | None):
    about = {"data": {"name": name, "input_shape": [1, 28, 28], "pixel_scale": 255.0}}
    assert paper_grid([make_run([("fgs", WITNESS, [4.0])], about)], 1) is None


def test_the_summary_as_markdown_has_a_line_per_method(typical: Run):
    lines = to_markdown(summary_grid(typical)).splitlines()
    assert len(lines) == 4 + 4
    assert len({len(line) for line in lines[2:]}) == 1


def test_an_empty_run_says_so():
    run = Run(records.SCHEMA.empty_table(), {})
    assert headline(run) == "This run has no rows."
    assert [v.mark for v in verdict(run)] == ["open"]
    assert np.array_equal([c.value for c in cards(run)], ["0"])
