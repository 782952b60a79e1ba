"""What the page shows of a run: every number rounded, every figure drawn, ready for the template."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import final

from markupsafe import Markup
from matplotlib.figure import Figure

from pertbound.records import CERTIFIED, Run
from pertbound.report import about
from pertbound.report.exhibits import ShownWall, shown
from pertbound.report.gallery import gallery_caption
from pertbound.report.grid import Grid
from pertbound.report.paper import normalised_grid, paper_grid
from pertbound.report.plates import Plate, bracket_plate, curve_plate, histogram_plates, layer_plates
from pertbound.report.rounding import MISSING, down, up
from pertbound.report.sample_table import Column, as_json, sample_columns
from pertbound.report.save import to_svg
from pertbound.report.tables import Summary, checks, summary
from pertbound.report.words import Card, Verdict, cards, half_reach, half_within, headline, verdict
from pertbound.samples import brackets, methods

FIRST = 50
"""Rows of the per-sample table that stand in the page itself; the script shows the others."""
_NOTES = 4
"""Different notes shown per method."""


@final
@dataclass(frozen=True)
class Picture:
    """A figure of the page with its heading and caption; `name` is that of its file when it is saved."""

    name: str
    heading: str
    caption: str
    svg: Markup


@final
@dataclass(frozen=True)
class View:
    """What the template shows of one run."""

    id: str
    slug: str
    title: str
    sub: str
    norm: str
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
    layers: list[Picture]
    histograms: list[Picture]
    gallery: list[ShownWall]
    gallery_caption: str
    columns: list[Column]
    rows: int
    data: Markup
    facts: list[about.Fact]
    guarantee: str
    units: str
    glance: list[str]

    @property
    def first(self) -> range:
        """The rows that stand in the page."""
        return range(min(FIRST, self.rows))


def view(run: Run, title: str, name: str) -> View:
    """The run under its title; `name` must differ between the runs of a page."""
    count = len(brackets(run))
    counted = f"{count:,} {about.noun(run)}"
    parts = [about.text(run, "model", "name"), about.text(run, "data", "name"), counted, about.domain(run), _day(run)]
    stored = about.entry(run, "data", "notes")
    notes = [f"About the data: {note}" for note in stored] if isinstance(stored, list) else []
    if about.entry(run, "complete") is False:
        notes.insert(0, f"This run was stopped early: it covers {counted} only.")
    walls, columns, summaries = shown(run), sample_columns(run), summary(run)
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or name

    def picture(plate: Plate) -> Picture:
        return _picture(plate, f"{name}-{plate.name}", f"{slug}-{plate.name}")

    return View(
        id=name,
        slug=slug,
        title=title,
        sub=" · ".join(part for part in parts if part),
        norm=about.norm(run),
        headline=headline(run),
        notes=notes,
        cards=cards(run),
        verdicts=verdict(run),
        summaries=summaries,
        counts=_counts(summaries),
        method_notes=_method_notes(run),
        normalised=normalised_grid(run),
        paper=[grid for number in (1, 2) if (grid := paper_grid([run], number))],
        bracket=picture(bracket_plate(run, counted)),
        curves=picture(curve_plate(run)),
        layers=[picture(plate) for plate in layer_plates(run)],
        histograms=[picture(plate) for plate in histogram_plates(run)],
        gallery=walls,
        gallery_caption=gallery_caption(run) if walls else "",
        columns=columns,
        rows=count,
        data=Markup(as_json(columns)),
        facts=about.facts(run),
        guarantee=about.text(run, "guarantee").replace("Linf", "L∞"),
        units=about.units(run),
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


def _picture(plate: Plate, prefix: str, name: str) -> Picture:
    alt = f"{plate.heading}. {plate.says or plate.caption}"
    figure: Figure = plate.figure
    return Picture(name, plate.heading, plate.caption, Markup(to_svg(figure, alt, prefix)))


def _glance(run: Run, counted: str) -> list[str]:
    """A run's line in the table that compares several."""
    best, accuracy = brackets(run), about.number(run, "accuracy")
    radius, distance = half_reach(best.lower), half_within(best.upper)
    done = [check for check in checks(run) if check.guarantee == CERTIFIED]
    return [
        about.norm(run),
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
