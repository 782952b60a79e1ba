"""The figures of the page with their headings and captions: which there are for a run, and what a reader must know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from matplotlib.figure import Figure

from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.report.about import norm, noun
from pertbound.report.figures import accuracy_curves, bracket_figure
from pertbound.report.histograms import bound_histogram, ratio_histogram, witness_histogram
from pertbound.report.layer_figures import factor_figure, factors, loss_figure, losses
from pertbound.report.rounding import nearest
from pertbound.report.tables import checks
from pertbound.report.words import headline
from pertbound.samples import methods


@final
@dataclass(frozen=True, eq=False)
class Plate:
    """A figure, and the words around it; `says` is for readers who cannot see it."""

    name: str
    figure: Figure
    heading: str
    caption: str
    says: str = ""


def bracket_plate(run: Run, counted: str) -> Plate:
    """Every sample's bracket, or what there is of it."""
    kinds = _kinds(run)
    if {CERTIFIED, WITNESS} <= kinds:
        what = "bracket"
        caption = "Each sample's smallest perturbation that changes the class lies between its two marks."
    elif CERTIFIED in kinds:
        what, caption = "certified radius", "No perturbation smaller than a sample's mark changes its class."
    elif WITNESS in kinds:
        what, caption = "nearest witness", "A perturbation of the size of a sample's mark changes its class."
    else:
        what, caption = "estimate", "What a formula says that is not proven: it guarantees nothing."
    return Plate("bracket", bracket_figure(run), f"The {what} of each of the {counted}", caption, headline(run))


def curve_plate(run: Run) -> Plate:
    """Certified accuracy and attack accuracy."""
    kinds = _kinds(run)
    parts = [
        *(["the share that is certified for r"] if CERTIFIED in kinds else []),
        *(["the share for which the attacks find nothing within r"] if WITNESS in kinds else []),
        *(["dashed, what estimates say of it"] if ESTIMATE in kinds else []),
    ]
    caption = f"Of all {noun(run)}: {', and '.join(parts)}."
    if {CERTIFIED, WITNESS} <= kinds:
        caption += " The true share lies in the grey band. Against labels these are certified and attack accuracy."
    return Plate("curves", accuracy_curves(run), "How many withstand a perturbation of size r", caption)


def layer_plates(run: Run) -> list[Plate]:
    """What each layer costs the certificates."""
    plates: list[Plate] = []
    figure, of = loss_figure(run), losses(run)
    if figure is not None and of is not None:
        real = float(of.values[:, 0].mean())
        method = str(run.layers["losses"].get("method", "the relaxation"))
        caption = (
            f"At its certified radius, {method} has used up the whole margin: the lead of the sample's class over the "
            "nearest other one. Only a part of that is really gone at the worst input that was found within the radius "
            f"({100 * real:.1f}\u00a0% on average). The rest is the price of bounding the network layer by layer: what "
            "each layer's step gives away at that input. A bound that is exact would lose nothing in any step."
        )
        says = "; ".join(f"{name} {100 * share:.1f} %" for name, share in zip(of.names, of.values.mean(0), strict=True))
        plates.append(Plate("layer-losses", figure, "Where the margin goes, layer by layer", caption, says))
    figure, of = factor_figure(run), factors(run)
    if figure is not None and of is not None:
        total = nearest(float(np.exp(np.nanmean(np.log(of.values[:, -1])))))
        box = " The input's factor is that of the L2 ball around it." if norm(run) != "L2" else ""
        caption = (
            "The Lipschitz certificate bounds how far the values of each layer can move. The bars hold that against "
            "how far they do move on the way to the nearest witness: so many times further goes each layer's step. "
            f"Multiplied, the steps go {total}\u00a0× too far, which is about the ratio of witness and radius. A "
            f"factor below 1 makes up for an earlier one: a joint norm of several layers.{box}"
        )
        heading = "How much further each layer's bound goes than the layer"
        plates.append(Plate("layer-factors", figure, heading, caption))
    return plates


def histogram_plates(run: Run) -> list[Plate]:
    """The paper's Figures 2 to 4 for this run."""
    kinds, where = _kinds(run), "" if norm(run) == "L2" else f", but in {norm(run)}"
    plates: list[Plate] = []
    if WITNESS in kinds:
        caption = f"As in the paper's Figure 2{where}."
        plates.append(Plate("figure2", witness_histogram(run), "Distances to witnesses", caption))
    if kinds - {WITNESS}:
        caption = f"As in the paper's Figure 3{where}; one panel per method."
        plates.append(Plate("figure3", bound_histogram(run), "Lower bounds", caption))
    if any(check.compared for check in checks(run)):
        caption = (
            "As in the paper's Figure 4: 1 means that the witness is ten times as far as the bound reaches. Not shown "
            "are samples without a witness or with a bound of 0."
        )
        plates.append(Plate("figure4", ratio_histogram(run), "Witness over bound", caption))
    return plates


def _kinds(run: Run) -> set[str]:
    return {method.guarantee for method in methods(run)}
