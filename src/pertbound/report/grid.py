"""A small table of texts, and how it looks in Markdown and in plain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from pertbound.errors import RunError


@final
@dataclass(frozen=True)
class Grid:
    """A caption, a header and rows of cells. The first `text_columns` columns are words, the others numbers."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise RunError(f"a row of {len(row)} cells under {len(self.header)} columns: {row}")


def to_markdown(grid: Grid) -> str:
    r"""The grid as a Markdown table under its caption.

    >>> print(to_markdown(Grid("Sizes", ("a|b", "mean"), (("x", "1"),))))
    Sizes
    <BLANKLINE>
    | a\|b | mean |
    |:-----|-----:|
    | x    |    1 |
    <BLANKLINE>
    """
    header = tuple(_markdown(cell) for cell in grid.header)
    rows = tuple(tuple(_markdown(cell) for cell in row) for row in grid.rows)
    widths = _widths(header, rows)
    rule = (
        ":" + "-" * (width + 1) if i < grid.text_columns else "-" * (width + 1) + ":" for i, width in enumerate(widths)
    )
    lines = ["| " + " | ".join(_padded(row, widths, grid.text_columns)) + " |" for row in (header, *rows)]
    return "\n".join([_one_line(grid.caption), "", lines[0], "|" + "|".join(rule) + "|", *lines[1:], ""])


def to_text(grid: Grid) -> str:
    """The grid for a terminal: columns two spaces apart, a rule under the header.

    >>> print(to_text(Grid("Sizes", ("name", "mean"), (("x", "1"),))))
    Sizes
    <BLANKLINE>
    name  mean
    ----  ----
    x        1
    <BLANKLINE>
    """
    header = tuple(_one_line(cell) for cell in grid.header)
    rows = tuple(tuple(_one_line(cell) for cell in row) for row in grid.rows)
    widths = _widths(header, rows)
    lines = ["  ".join(_padded(row, widths, grid.text_columns)).rstrip() for row in (header, *rows)]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([_one_line(grid.caption), "", lines[0], rule, *lines[1:], ""])


def _widths(header: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> list[int]:
    return [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]


def _padded(row: tuple[str, ...], widths: list[int], text_columns: int) -> list[str]:
    return [
        cell.ljust(width) if i < text_columns else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    return _one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
