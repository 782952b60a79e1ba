"""Rows to tables, figures and one self-contained HTML page. Sees records only."""

from pertbound.report.figures import accuracy_curves, bracket_figure
from pertbound.report.files import write_figures, write_files
from pertbound.report.gallery import gallery_figure
from pertbound.report.grid import Grid, to_csv, to_latex, to_markdown, to_text
from pertbound.report.histograms import bound_histogram, ratio_histogram, witness_histogram
from pertbound.report.html import write_report
from pertbound.report.layer_figures import factor_figure, loss_figure
from pertbound.report.paper import PAPER_TABLES, normalised_grid, paper_grid, summary_grid
from pertbound.report.save import save
from pertbound.report.tables import Check, Summary, checks, normalised, summary, violations
from pertbound.report.words import headline

__all__ = [
    "Check",
    "Grid",
    "PAPER_TABLES",
    "Summary",
    "accuracy_curves",
    "bound_histogram",
    "bracket_figure",
    "checks",
    "factor_figure",
    "gallery_figure",
    "headline",
    "loss_figure",
    "normalised",
    "normalised_grid",
    "paper_grid",
    "ratio_histogram",
    "save",
    "summary",
    "summary_grid",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_text",
    "violations",
    "witness_histogram",
    "write_files",
    "write_figures",
    "write_report",
]
