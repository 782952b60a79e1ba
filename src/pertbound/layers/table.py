"""The table of docs/layers.md, read off the layers: their methods, and what their docstrings say under fixed words."""

from __future__ import annotations

import inspect
from pathlib import Path

import pertbound.layers
from pertbound.layers.activation import Activation
from pertbound.layers.base import Layer

HEAD = """# Layers

What is known of each layer, and where it comes from. `make docs` writes this file from the docstrings in
`src/pertbound/layers/`, where the proofs stand; a test holds it to them, and another one holds every layer to its
contracts.

- *Modulus*: how far the output can move, in L2, when the input moves by at most rho, from anywhere.
- *At a known input*: a smaller modulus, from what is known of the sample.
- *Interval*: the box of the output for a box of the input. Rounded outwards, always.
- *Relaxation*: what linear and quadratic relaxation replace the layer by (docs/theory.md).
- *Source*: of the bounds; "elementary" where two lines of proof in the docstring are all there is.

"""
COLUMNS = ("Layer", "Computes", "Modulus", "At a known input", "Interval", "Relaxation", "Source")


def all_layers() -> list[type[Layer]]:
    """Every public layer that is not abstract, by name."""
    found = (getattr(pertbound.layers, name) for name in pertbound.layers.__all__)
    classes = [kind for kind in found if inspect.isclass(kind) and issubclass(kind, Layer)]
    return sorted((kind for kind in classes if not inspect.isabstract(kind)), key=lambda kind: kind.__name__.lower())


def layers_page() -> str:
    """The text of docs/layers.md."""
    lines = [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
    lines += [_row(facts(kind)) for kind in all_layers()]
    return HEAD + "\n".join(lines) + "\n"


def write(path: Path) -> None:
    """Write the file."""
    path.write_text(layers_page(), encoding="utf-8")


def facts(kind: type[Layer]) -> list[str]:
    """One row of the table. Raises `LookupError` where a docstring lacks a word that the table needs."""
    local = said(kind, "At a known input") if kind.local is not Layer.local else None
    if kind.pull_back is Layer.pull_back:
        relaxation = "the output's box"
    else:
        relaxation = _first(kind.least if issubclass(kind, Activation) else kind.pull_back)
    cells = [
        _first(kind),
        _said(kind, "Modulus"),
        local or "",
        _first(kind.interval),
        relaxation,
        _said(kind, "Source"),
    ]
    return [f"`{kind.__name__}`", *cells]


def said(kind: type[Layer], word: str) -> str | None:
    """What stands behind "word: " in a class's docstring, to the end of the paragraph or the next such word."""
    text = inspect.getdoc(kind) or ""
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith(f"{word}: ")]
        if starts:
            own = [lines[starts[0]].removeprefix(f"{word}: ")]
            for line in lines[starts[0] + 1 :]:
                if line.startswith(("Modulus: ", "At a known input: ", "Source: ")):
                    break
                own.append(line.strip())
            return " ".join(own)
    return None


def _said(kind: type[Layer], word: str) -> str:
    found = said(kind, word)
    if found is None:
        raise LookupError(f"the docstring of {kind.__name__} has no line that starts with '{word}: '")
    return found


def _first(documented: object) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    end = next((i for i, c in enumerate(text) if c == "." and (i + 1 == len(text) or text[i + 1] == " ")), len(text))
    return text[:end]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(cell: str) -> str:
    """Text that Markdown leaves as it is."""
    for mark, escaped in (("\\", "\\\\"), ("|", "\\|"), ("*", "\\*"), ("<", "&lt;"), (">", "&gt;")):
        cell = cell.replace(mark, escaped)
    return cell
