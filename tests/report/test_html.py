from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pertbound import records, store
from pertbound.errors import RunError
from pertbound.records import CERTIFIED, ESTIMATE, WITNESS, Run
from pertbound.report import write_report

VOID = {"meta", "input", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Checks that elements nest, and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(folder: Path, *runs: Run) -> Page:
    folders = [folder / f"r{i}" for i in range(len(runs))]
    for path, run in zip(folders, runs, strict=True):
        store.write(path, run)
    written = write_report(folders, folder / "page")
    assert written == folder / "page" / "index.html"
    assert [path.name for path in written.parent.iterdir()] == ["index.html"]
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"https?:", text)
    page = Page(text)
    links = [value or "" for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    return page


def test_a_typical_run_is_all_there(typical: Run, tmp_path: Path):
    page = page_of(tmp_path, typical)
    assert ("html", {"lang": "en"}) in page.tags
    assert page.count("svg") == 7
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2 * 4 * 3
    assert all((attrs["src"] or "").startswith("data:image/png") and attrs["alt"] for attrs in images)
    assert page.count("table") == page.count("caption") == 3
    for words in (
        "For half of the 60 images no perturbation smaller than",
        "No violations: 1",
        "published(softplus)",
        "a surrogate",
        "two images are not exact",
        "pertbound bracket --data digits",
        "9f2c",
        "77ab",
        "1 × 8 × 8",
        "0.9667",
        "96.7 %",
        "L2 over all of R^d",
        "1 unit is 16 pixel units",
        "The least and the most robust",
        "Where the margin goes, layer by layer",
        "How much further each layer's bound goes than the layer",
    ):
        assert words in page.text, words
    assert sum(tag == "tr" for tag, _ in page.tags) == 1 + 50 + 2 * (1 + 4)
    ids = {attrs["id"] for _, attrs in page.tags if attrs.get("id")}
    assert all(link[1:] in ids for tag, attrs in page.tags if tag == "a" and (link := attrs["href"] or ""))
    assert not any(attrs.get("role") == "alert" for _, attrs in page.tags)


def test_a_violation_is_an_alert(make_run: Callable[..., Run], tmp_path: Path):
    run = make_run([("c", CERTIFIED, [2.0, 0.1]), ("a", WITNESS, [1.0, 1.0])])
    page = page_of(tmp_path, run)
    assert any(attrs.get("role") == "alert" for _, attrs in page.tags)
    assert "contradicts itself" in page.text
    assert "c (1 of 2)" in page.text


def test_a_run_that_was_stopped_says_so(make_run: Callable[..., Run], tmp_path: Path):
    page = page_of(tmp_path, make_run([("c", CERTIFIED, [0.0, 0.0])], {"complete": False}))
    assert "This run was stopped early: it covers 2 samples only." in page.text


def test_names_cannot_break_out_of_the_page(make_run: Callable[..., Run], tmp_path: Path):
    evil = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"' {{ 7*7 }}"
    about = {
        "title": evil,
        evil: evil,
        "model": {"name": evil},
        "data": {"name": evil, "notes": [evil], "input_shape": [1, 2, 2], "pixel_scale": 255.0},
        "guarantee": evil,
    }
    methods = [(evil, CERTIFIED, [1.0]), (evil + "e", ESTIMATE, [1.0]), (evil + "a", WITNESS, [2.0])]
    page = page_of(tmp_path, make_run(methods, about))
    assert page.count("script") == 2
    assert page.count("title") == 1
    assert page.count("img") == 0
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text


def test_several_runs_are_compared_first(make_run: Callable[..., Run], tmp_path: Path):
    one = make_run([("c", CERTIFIED, [0.5]), ("a", WITNESS, [1.0])], {"title": "<i>One</i>"})
    other = make_run([("c", CERTIFIED, [2.0]), ("a", WITNESS, [1.0])], {"title": "The other"})
    page = page_of(tmp_path, one, other)
    assert "<i>One</i>" in page.text
    assert "2 runs" in page.text
    assert any("wrong" in (attrs.get("class") or "") for tag, attrs in page.tags if tag == "td")
    assert ("a", {"href": "#run2"}) in page.tags
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))


def test_mnist_stands_beside_the_paper(make_run: Callable[..., Run], tmp_path: Path):
    about = {"data": {"name": "mnist", "input_shape": [1, 28, 28], "pixel_scale": 255.0}}
    page = page_of(tmp_path, make_run([("c", CERTIFIED, [1.0]), ("fgs", WITNESS, [2.0])], about))
    assert "Beside the paper's Table 1" in page.text
    assert "7.27e-8" in page.text


@pytest.mark.parametrize("about", [{}, {"data": {"name": None}, "accuracy": None, "seconds": {}}])
def test_a_single_sample_and_nothing_known_about_it(
    make_run: Callable[..., Run], tmp_path: Path, about: dict[str, object]
):
    page = page_of(tmp_path, make_run([("c", CERTIFIED, [0.5])], about))
    assert "No perturbation of the one sample smaller than 0.500 changes its class; no attack was run." in page.text
    assert "Not checked" in page.text
    assert "Distances to witnesses" not in page.text
    assert "None" not in page.text


def test_an_empty_run_is_a_page(tmp_path: Path):
    page = page_of(tmp_path, Run(records.SCHEMA.empty_table(), {}))
    assert "This run has no rows." in page.text


def test_huge_infinite_and_zero_distances_are_a_page(make_run: Callable[..., Run], tmp_path: Path):
    run = make_run([("c", CERTIFIED, [0.0, 5e-324, np.inf, 1e308]), ("a", WITNESS, [0.0, 1e-320, None, 1.7e308])], {})
    page = page_of(tmp_path, run)
    assert "∞" in page.text
    assert "4.94e-324" in page.text


@pytest.mark.parametrize(("norm", "shown"), [("L1", "L1"), ("Linf", "L∞")])
def test_other_norms(make_run: Callable[..., Run], typical: Run, tmp_path: Path, norm: str, shown: str):
    about = {**typical.about, "norm": norm, "guarantee": f"{norm} over inputs within [0, 1], for the network"}
    methods = [("c", CERTIFIED, [0.25, 0.5]), ("a", WITNESS, [0.5, 0.75])]
    page = page_of(tmp_path, make_run(methods, about, column=norm.lower()), make_run(methods))
    for words in (
        f"{shown}, inputs within [0, 1]",
        f"{shown} distance, units of the input",
        f"{shown} distances in units of the classifier's input",
        "The same in pixel units",
        "For at least one of the 2 images no perturbation smaller than 0.500 in " + shown,
    ):
        assert words in page.text, words
    assert ("td", {"class": ""}) in page.tags, "the norm of each run"


def test_ten_thousand_samples_are_all_there_and_the_page_stays_small(ten_thousand: Path):
    written = ten_thousand.read_text(encoding="utf-8")
    assert sum(tag == "tr" for tag, _ in Page(written).tags) == 1 + 50 + 2 * (1 + 2)
    assert len(written) < 2_500_000
    assert all(repr(float(value)) in written for value in np.random.default_rng(0).random(10_000)[::1000])


def test_what_is_no_run_or_cannot_be_written_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="not a run folder"):
        write_report([tmp_path / "absent"], tmp_path / "page")
    assert not (tmp_path / "page").exists()
    with pytest.raises(RunError, match="at least one"):
        write_report([], tmp_path / "page")
    store.write(tmp_path / "run", Run(records.SCHEMA.empty_table(), {}))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_report([tmp_path / "run"], tmp_path / "file" / "deeper")
    assert write_report([tmp_path / "run"], tmp_path / "mine.html") == tmp_path / "mine.html"
