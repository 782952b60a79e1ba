"""The comparison's figure and words, whatever was compared."""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.text
import numpy as np
import pytest
from matplotlib.figure import Figure

import pertbound as pb
from comparing import run
from pertbound.comparison import Comparison
from pertbound.records import CERTIFIED
from pertbound.report.comparison import SHADES, comparison_figure
from pertbound.report.comparison_words import accuracy_grid, model_grid, pair_grid, sentences
from pertbound.report.grid import to_text
from pertbound.report.save import to_svg


def typical() -> Comparison:
    """Three models: the first ahead of the others, which cannot be told apart."""
    radii = np.random.default_rng(0).lognormal(0, 0.4, 60)
    uppers = [None if i == 7 else u for i, u in enumerate(radii)]
    runs = [
        run(3 * radii * 0.9, 3 * radii, "a", wrong=[3]),
        run(radii * 0.6, uppers, "b", rungs=[("cheap", CERTIFIED, 0.01, radii * 0.2)]),
        run(radii * 0.05, radii * 0.8, "c"),
    ]
    return pb.compare(runs, names=["the $first", "_second", "third"], radii=[0.5, 2.0])


ODD: dict[str, Callable[[], Comparison]] = {
    "typical": typical,
    "zeros": lambda: pb.compare([run([0.0], [0.0], name) for name in "ab"], radii=[0.0]),
    "no witness": lambda: pb.compare([run([1e-9, 5.0], [None, None], name) for name in "ab"]),
    "predictions": lambda: pb.compare([run([1.0], [2.0], name, labelled=False) for name in "ab"]),
    "all certain": lambda: pb.compare([run([np.inf], [None], name) for name in "ab"], radii=[3.0]),
    "all wrong": lambda: pb.compare([run([1.0], [2.0], name, wrong=[0]) for name in "ab"]),
    "huge": lambda: pb.compare([run([1e-250, 1e200], [1e-240, 1e300], name) for name in "ab"]),
    "eight models": lambda: pb.compare([run([1.0], [2.0], name) for name in "abcdefgh"], resamples=1200),
}


def words(figure: Figure) -> str:
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


@pytest.mark.parametrize("name", ODD)
def test_whatever_was_compared_can_be_drawn_and_said(name: str) -> None:
    found = ODD[name]()
    before = dict(mpl.rcParams)
    assert "mean L2 radius" in words(comparison_figure(found))
    assert dict(mpl.rcParams) == before
    for grid in (model_grid(found), accuracy_grid(found), pair_grid(found)):
        assert grid is None or "nan" not in to_text(grid)
    assert all("nan" not in line for line in sentences(found))


def test_the_figure_shows_every_model_and_difference() -> None:
    figure = comparison_figure(typical())
    said = words(figure)
    for text in (r"the \$first", "_second", "third", "accuracy at 0.5", "accuracy at 2", "95 % band"):
        assert text in said
    curves, means, differences = figure.axes
    assert len(means.get_yticks()) == 3
    assert len(differences.get_yticks()) == 9
    assert {line.get_color() for line in curves.get_lines()} >= set(SHADES[:3])
    assert "<svg" in to_svg(figure, "alt", "p")


def test_curves_are_the_models() -> None:
    found = pb.compare([run([1.0, 2.0], [2.0, 4.0], "a"), run([1.0, 1.0], [1.0, 1.0], "b")])
    lines = comparison_figure(found).axes[0].get_lines()
    x, low = lines[0].get_data()
    assert [float(low[np.searchsorted(x, r)]) for r in (0.5, 1.0, 1.5, 2.0, 3.0)] == [1, 1, 0.5, 0.5, 0]


def test_the_words_name_the_verdicts_and_what_they_cost() -> None:
    found = typical()
    said = "\n".join(sentences(found))
    assert "Ranking by mean radius: 1 the $first, 2 to 3" in said
    assert "_second and third by mean radius: cannot tell: the brackets overlap. _second is nearer" in said
    assert "of computing, and the pace falls" in said
    assert "times 16" in said
    assert "a misclassified sample has radius 0" in said
    rows = {row[:2]: row for row in pair_grid(found).rows}
    assert rows["the $first less third", "mean radius"][2] == "the $first more robust"
    assert model_grid(found).rows[0][:3] == ("the $first", "1", "98.3 %")
    few = pb.compare([run([1.0] * 5, [1.1] * 5, "a"), run([0.5] * 5, [0.9] * 5, "b")], names=["a", "b"])
    assert "more samples would tell, if a is as far ahead" in "\n".join(sentences(few))
    equal = pb.compare([run([1.0], [1.0], "a"), run([1.0], [1.0], "b")])
    assert "show no difference" in "\n".join(sentences(equal))
