from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from pertbound.errors import RunError
from pertbound.records import CERTIFIED, Run
from pertbound.report.layer_figures import (
    MOST,
    factor_figure,
    factor_grid,
    factors,
    loss_figure,
    loss_grid,
    losses,
)

With = Callable[[dict[str, Any]], Run]

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def run_with(make_run: Callable[..., Run]) -> With:
    return lambda layers: make_run([("c", CERTIFIED, [0.5])], layers=layers)


def words(figure: Figure | None) -> list[str]:
    assert figure is not None
    figure.savefig(io.BytesIO(), format="png", dpi=50)
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_losses_are_shares_of_the_margin_that_add_up(run_with: With, layers: dict[str, Any]):
    of = losses(run_with(layers))
    assert of is not None
    assert of.names[:2] == ("the network itself", "input: the ball")
    assert of.values[0].tolist() == [0.5, 0.0625, 0.125, 0.3125, 0, 0, 0]
    assert of.values.sum(1).tolist() == [1, 1]
    said = words(loss_figure(run_with(layers)))
    for word in (
        "the network itself",
        "relu",
        "37.5 %",
        "40.6 %",
        "share of the margin, the mean of 2 samples, a dot for each",
    ):
        assert word in said
    assert not {"flatten (Reshape)", "linear (Dense)", "not used up"} & set(said), "what loses nothing has no bar"


def test_the_bars_of_factors_multiply_to_the_last(run_with: With, layers: dict[str, Any]):
    of = factors(run_with({"factors": {**layers["factors"], "factor": [[1, 2, 2, 1, 2, 0.75], [1, 2, 2, 1, 1, 0.5]]}}))
    assert of is not None
    assert of.values[:, :-1].prod(1).tolist() == of.values[:, -1].tolist()
    said = words(factor_figure(run_with(layers)))
    for word in ("conv", "2.00 ×", "1.41 ×", "0.750 ×", "3.46 ×", "decision: two logits", "all together"):
        assert word in said
    assert "flatten (Reshape)" not in said


def test_tables_say_the_same(run_with: With, layers: dict[str, Any]):
    lost, factor = loss_grid(run_with(layers)), factor_grid(run_with(layers))
    assert lost is not None
    assert factor is not None
    assert ("relu", "40.62 %") in lost.rows
    assert ("linear (Dense)", "1.41") in factor.rows
    assert factor.rows[-1] == ("all together", "3.46")


def test_many_layers_share_a_bar(run_with: With):
    count = 60
    lost = np.full((1, count), 0.01)
    lost[0, 7] = 0.2
    part = {
        "nodes": [f"node{i}" for i in range(count)],
        "layers": ["Dense"] * count,
        "sample": [0],
        "margin": [1.0],
        "real": [0.21],
        "lost": lost.tolist(),
        "left": [0.0],
    }
    said = words(loss_figure(run_with({"losses": part})))
    assert "node7 (Dense)" in said
    assert f"{count + 1 - (MOST - 1)} other layers" in said
    names = [f"node{i}" for i in range(count)]
    loose = np.cumprod(np.full((1, count), 1.1), 1)
    part = {"nodes": names, "layers": ["Dense"] * count, "sample": [0]}
    part |= {"looseness": loose.tolist(), "factor": [[1.1] * count]}
    said = words(factor_figure(run_with({"factors": part})))
    assert "all together" in said
    assert f"{count + 1 - (MOST - 1)} other layers" in said


@pytest.mark.parametrize("nothing", [{}, {"losses": None, "factors": []}, {"losses": {"sample": []}}])
def test_a_run_that_says_nothing_has_no_figure(run_with: With, nothing: dict[str, Any]):
    run = run_with(nothing)
    assert loss_figure(run) is None
    assert factor_figure(run) is None
    assert loss_grid(run) is None
    assert factor_grid(run) is None


@pytest.mark.parametrize(("key", "value"), [("lost", [[1.0]]), ("margin", "many"), ("real", None), ("nodes", 5)])
def test_a_broken_file_is_refused(run_with: With, layers: dict[str, Any], key: str, value: object):
    layers["losses"][key] = value
    with pytest.raises(RunError, match=r"layers\.json"):
        loss_figure(run_with(layers))
