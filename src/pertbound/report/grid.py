"""A small table of texts, and how it looks in Markdown, in LaTeX, as CSV and in plain text."""

from __future__ import annotations

import csv
import io
import re
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


def to_latex(grid: Grid, label: str = "") -> str:
    r"""The grid as a LaTeX table with booktabs' rules (`\usepackage{booktabs}`), numbers set as formulas.

    >>> print(to_latex(Grid("Sizes & norms", ("a_b", "mean"), (("x", "7.27e-8"), ("y", "∞"))), "tab:sizes"))
    \begin{table}
      \centering
      \caption{Sizes \& norms}
      \label{tab:sizes}
      \begin{tabular}{lr}
        \toprule
        a\_b & mean \\
        \midrule
        x & $7.27 \times 10^{-8}$ \\
        y & $\infty$ \\
        \bottomrule
      \end{tabular}
    \end{table}
    <BLANKLINE>
    """
    texts, numbers = grid.text_columns, len(grid.header) - grid.text_columns

    def line(row: tuple[str, ...]) -> str:
        return "    " + " & ".join(_latex(cell) for cell in row) + r" \\"

    parts = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_latex(grid.caption)}}}",
        *([rf"  \label{{{label}}}"] if label else []),
        rf"  \begin{{tabular}}{{{'l' * texts}{'r' * numbers}}}",
        r"    \toprule",
        line(grid.header),
        r"    \midrule",
        *(line(row) for row in grid.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def to_csv(grid: Grid) -> str:
    """The grid as CSV (RFC 4180), without its caption.

    >>> to_csv(Grid("Sizes", ("name", "mean"), (('a "b", c', "1"),)))
    'name,mean\\r\\n"a ""b"", c",1\\r\\n'
    """
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([grid.header, *grid.rows])
    return stream.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "∞": r"$\infty$",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "<": r"$<$",
    ">": r"$>$",
} | {sign: rf"\{sign}" for sign in "&%$#_{}"}


def _latex(text: str) -> str:
    r"""The text with what LaTeX reads as commands made harmless; numbers with an exponent become formulas.

    >>> print(_latex("L∞, 5 % of $x_1$"))
    $L_\infty$, 5 \% of \$x\_1\$
    """
    text = _one_line(text)
    if number := re.fullmatch(r"(-?[\d.]+)e(-?\d+)", text):
        return rf"${number[1]} \times 10^{{{number[2]}}}$"
    escaped = "".join(_LATEX.get(sign, sign) for sign in text)
    return re.sub(r"\bL(1|2|\$\\infty\$)(?=\W|$)", lambda found: f"$L_{found[1].strip('$')}$", escaped)


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
