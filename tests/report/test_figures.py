from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pertbound import records
from pertbound.errors import RunError
from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.report import (
    accuracy_curves,
    bound_histogram,
    bracket_figure,
    ratio_histogram,
    save,
    witness_histogram,
)
from pertbound.report.figures import survival
from pertbound.report.save import to_svg

FIGURES = [bracket_figure, accuracy_curves, witness_histogram, bound_histogram, ratio_histogram]
Draw = Callable[[Run], Figure]

pytestmark = pytest.mark.filterwarnings("error")


def words(figure: Figure) -> str:
    figure.savefig(io.BytesIO(), format="png", dpi=50)
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


@pytest.mark.parametrize("draw", FIGURES)
def test_every_figure_draws_a_typical_run(typical: Run, draw: Draw):
    before = dict(mpl.rcParams)
    figure = draw(typical)
    assert words(figure)
    assert "<svg" in to_svg(figure, "alt", "p")
    assert dict(mpl.rcParams) == before
    assert figure.get_size_inches()[0] == 9


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize(
    "methods",
    [
        [],
        [("c", CERTIFIED, [0.5])],
        [("a", WITNESS, [None])],
        [("e", ESTIMATE, [0.5, 0.25])],
        [("c", CERTIFIED, [0.5]), ("a", WITNESS, [0.5])],
        [("c", CERTIFIED, [0.0, 0.0]), ("a", WITNESS, [0.0, 0.0])],
        [("c", CERTIFIED, [5e-324, np.inf, 1e-200, 0.0]), ("a", WITNESS, [1.7e308, 1e-310, 1e200, None])],
        [("c", CERTIFIED, [np.inf]), ("a", WITNESS, [np.inf])],
        [("c", CERTIFIED, np.geomspace(1e-3, 1, 1500)), ("a", WITNESS, np.geomspace(1, 9, 1500))],
        [
            ("$x_{1}", CERTIFIED, [1.0, 2.0]),
            ("_hidden\n\x00<b>", ESTIMATE, [1.0, 2.0]),
            ("n" * 300, WITNESS, [3.0, 4.0]),
        ],
    ],
)
def test_every_figure_draws_whatever_the_distances(make_run: Callable[..., Run], draw: Draw, methods: list[object]):
    run = make_run(methods) if methods else Run(records.SCHEMA.empty_table(), {})
    assert words(draw(run))


def test_an_estimate_is_dashed_and_named_so_and_a_certificate_is_solid(typical: Run):
    axes = accuracy_curves(typical).axes[0]
    styles = {str(line.get_label()): line.get_linestyle() for line in axes.get_lines()}
    assert styles["published(softplus) (estimate, not a guarantee)"] == "--"
    assert styles["lipschitz certifies r"] == "-"
    assert "(estimate, not a guarantee)" in words(bound_histogram(typical))
    assert "(estimate, not a guarantee)" in words(ratio_histogram(typical))


def test_survival_counts_values_of_at_least_r():
    values = np.array([0.0, 1.0, 1.0, np.inf])
    assert survival(values, np.array([0.0, 0.5, 1.0, 1.5])).tolist() == [1, 0.75, 0.75, 0.25]


def test_what_a_figure_cannot_show_it_counts(typical: Run, make_run: Callable[..., Run]):
    run = make_run([("c", CERTIFIED, [0.0, 0.1, np.inf]), ("a", WITNESS, [0.0, 1.0, None])])
    assert "certified radii of 0: 1 (33.3 %)" in words(bracket_figure(run))
    assert "infinite certified radii: 1" in words(bracket_figure(run))
    assert "no witness found" in words(bracket_figure(run))
    assert "2 not shown" in words(ratio_histogram(run))
    assert "1 without one" in words(witness_histogram(run))
    assert "7 at 0" in words(bound_histogram(typical))


def test_histograms_hold_every_value_in_normalised_units(make_run: Callable[..., Run]):
    run = make_run([("a", WITNESS, [1.0, 2.0, 3.0])])
    axes = witness_histogram(run).axes[0]
    assert axes.get_xlabel() == "L2 distance in pixel units ÷ 64 (entries of an input)"
    assert axes.get_xlim()[1] == pytest.approx(3 * 16 / 64 * 1.04)
    plain = witness_histogram(make_run([("a", WITNESS, [1.0])], {})).axes[0]
    assert plain.get_xlabel() == "L2 distance in units of the input"


def test_files_appear_in_the_formats_asked_for_and_are_reproducible(typical: Run, tmp_path: Path):
    figure = ratio_histogram(typical)
    paths = save(figure, tmp_path / "figures", "ratio", ("png", "pdf", "svg"))
    assert [path.name for path in paths] == ["ratio.png", "ratio.pdf", "ratio.svg"]
    with Image.open(paths[0]) as image:
        assert image.size[0] == 1800
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in save(figure, tmp_path / "figures", "ratio", ("png", "pdf", "svg"))] == first
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["ratio.pdf", "ratio.png", "ratio.svg"]
    with pytest.raises(RunError, match="bmp"):
        save(figure, tmp_path, "ratio", ("bmp",))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        save(figure, tmp_path / "file", "ratio")


def test_svgs_of_one_page_share_no_ids_and_take_the_pages_ink(typical: Run):
    one, two = (to_svg(bound_histogram(typical), 'a "b" <c>', prefix) for prefix in ("p1", "p2"))
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]*)\)", one)) <= ids[0]
    assert 'aria-label="a &quot;b&quot; &lt;c&gt;"' in one
    assert "currentColor" in one
    assert "://" not in one
