"""What the page shows of a run: every number rounded, every figure drawn, ready for the template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from pertbound.records import CERTIFIED, WITNESS, Run
from pertbound.report import about
from pertbound.report.figures import accuracy_curves, bracket_figure
from pertbound.report.gallery import gallery_caption, gallery_figure, gallery_samples
from pertbound.report.grid import Grid
from pertbound.report.histograms import bound_histogram, ratio_histogram, witness_histogram
from pertbound.report.paper import normalised_grid, paper_grid
from pertbound.report.rounding import MISSING, down, up
from pertbound.report.sample_table import Cell, sample_table
from pertbound.report.samples import brackets, methods
from pertbound.report.save import to_svg
from pertbound.report.tables import Summary, checks, summary
from pertbound.report.words import Card, Verdict, cards, half_reach, half_within, headline, verdict

LONGEST = 2000
"""Rows of the per-sample table in the page; the run's rows.parquet has them all."""

_NOTES = 4
"""Different notes shown per method."""


@final
@dataclass(frozen=True)
class Picture:
    """A figure of the page with its heading and caption."""

    heading: str
    caption: str
    svg: Markup


@final
@dataclass(frozen=True)
class View:
    """What the template shows of one run."""

    id: str
    title: str
    sub: str
    headline: str
    notes: list[str]
    cards: list[Card]
    verdicts: list[Verdict]
    summaries: list[Summary]
    counts: list[tuple[str, list[int]]]
    method_notes: list[tuple[str, list[str]]]
    normalised: Grid | None
    paper: list[Grid]
    bracket: Picture
    curves: Picture
    histograms: list[Picture]
    gallery: Picture | None
    samples: list[list[Cell]]
    samples_in_all: int
    facts: list[about.Fact]
    guarantee: str
    scale: str
    glance: list[str]


def view(run: Run, folder: Path, name: str) -> View:
    """The run of a folder; `name` must differ between the runs of a page."""
    title = about.title(run, folder.resolve().name)
    best = brackets(run)
    rows = sample_table(run)
    counted = f"{len(best):,} {about.noun(run)}"
    parts = [about.text(run, "model", "name"), about.text(run, "data", "name"), counted, _day(run)]
    stored = about.entry(run, "data", "notes")
    notes = [f"About the data: {note}" for note in stored] if isinstance(stored, list) else []
    if about.entry(run, "complete") is False:
        notes.insert(0, f"This run was stopped early: it covers {counted} only.")
    gallery = gallery_figure(run, gallery_samples(run))
    scale = about.pixel_scale(run)
    both = bool((np.isfinite(best.upper) & ~np.isnan(best.lower)).any())
    says, summaries = headline(run), summary(run)
    kinds = {one.guarantee for one in summaries}
    return View(
        id=name,
        title=title,
        sub=" · ".join(part for part in parts if part),
        headline=says,
        notes=notes,
        cards=cards(run),
        verdicts=verdict(run),
        summaries=summaries,
        counts=_counts(summaries),
        method_notes=_method_notes(run),
        normalised=normalised_grid(run),
        paper=[grid for number in (1, 2) if (grid := paper_grid([run], number))],
        bracket=_picture(
            f"{name}a",
            bracket_figure(run),
            f"The bracket of each of the {counted}",
            "Each sample's smallest perturbation that changes the class lies between its two marks." if both else "",
            says,
        ),
        curves=_picture(
            f"{name}b",
            accuracy_curves(run),
            "How many withstand a perturbation of size r",
            "The share of samples that are certified for r, and the share for which the attack finds nothing within "
            "r. The true share lies in the grey band."
            if both
            else "The share of samples for each r.",
        ),
        histograms=[
            _picture(f"{name}{letter}", figure(run), heading, caption)
            for letter, there, figure, heading, caption in (
                ("c", WITNESS in kinds, witness_histogram, "Distances to witnesses", "As in the paper's Figure 2."),
                (
                    "d",
                    bool(kinds - {WITNESS}),
                    bound_histogram,
                    "Lower bounds",
                    "As in the paper's Figure 3, one panel per method.",
                ),
                (
                    "e",
                    any(check.compared for check in checks(run)),
                    ratio_histogram,
                    "Witness over bound",
                    "As in the paper's Figure 4: 1 means that the witness is ten times as far as the bound reaches. "
                    "Not shown are samples without a witness or with a bound of 0.",
                ),
            )
            if there
        ],
        gallery=gallery
        and _picture(
            f"{name}f",
            gallery,
            "The least and the most robust",
            gallery_caption(run),
        ),
        samples=rows[:LONGEST],
        samples_in_all=len(rows),
        facts=about.facts(run),
        guarantee=about.text(run, "guarantee"),
        scale="" if scale is None else f"{scale:g}",
        glance=_glance(run, counted),
    )


def _counts(of: list[Summary]) -> list[tuple[str, list[int]]]:
    """The columns of counts that say anything: those that are not 0 throughout."""
    columns = [
        ("none found", [s.none_found for s in of]),
        ("infinite", [s.infinite for s in of]),
        ("zero", [s.zero for s in of]),
    ]
    return [(name, values) for name, values in columns if any(values)]


def _picture(prefix: str, figure: Figure, heading: str, caption: str, details: str = "") -> Picture:
    alt = f"{heading}. {details or caption}"
    return Picture(heading, caption, Markup(to_svg(figure, alt, prefix)))


def _glance(run: Run, counted: str) -> list[str]:
    """A run's line in the table that compares several."""
    best, accuracy = brackets(run), about.number(run, "accuracy")
    radius, distance = half_reach(best.lower), half_within(best.upper)
    done = [check for check in checks(run) if check.guarantee == CERTIFIED]
    return [
        counted,
        MISSING if accuracy is None else f"{100 * accuracy:.1f} %",
        MISSING if radius is None else down(radius),
        MISSING if distance is None else up(distance),
        f"{sum(check.exceeded for check in done):,}" if any(check.compared for check in done) else MISSING,
    ]


def _method_notes(run: Run) -> list[tuple[str, list[str]]]:
    """What the rows of each method say about themselves, unless the run says it for all of them."""
    found: list[tuple[str, list[str]]] = []
    for method in methods(run):
        notes = [note for note in method.notes if note != about.text(run, "guarantee")]
        rest = len(notes) - _NOTES
        more = [f"and {rest:,} more notes in the rows"] if rest > 0 else []
        if notes:
            found.append((method.name, [*notes[:_NOTES], *more]))
    return found


def _day(run: Run) -> str:
    return about.text(run, "created")[:10]
