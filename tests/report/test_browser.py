"""The page in a real browser: no complaints on its console; pictures; tables that sort, filter and download; keys."""

from __future__ import annotations

import csv
import io
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path

import pytest

from browser import BROWSER, Tab, tab
from pertbound import store
from pertbound.records import Run
from pertbound.report import write_report

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")

SAMPLES = """
const section = document.querySelector(".samples");
const heads = [...section.querySelectorAll("th")];
const status = () => section.querySelector(".count").textContent;
const column = (i) => [...section.querySelectorAll("tbody tr")].map((row) => row.cells[i].textContent);
const set = (query, value) => {
  const control = section.querySelector(query);
  control.value = value;
  control.dispatchEvent(new Event("input"));
};
const turn = (text) => [...section.querySelectorAll(".turn")].find((button) => button.textContent === text).click();
const downloaded = async (button) => {
  let blob = null;
  URL.createObjectURL = (given) => { blob = given; return "#"; };
  button.click();
  return blob.text();
};
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Generator[Tab]:
    with tab(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def written(typical: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("typical")
    store.write(folder, typical)
    return write_report([folder], folder / "page.html")


@pytest.fixture
def page(chromium: Tab, written: Path) -> Tab:
    """The page of a typical run, in a window as wide as that of a small laptop."""
    return shown(chromium, written)


def shown(chromium: Tab, path: Path, width: int = 1000) -> Tab:
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    chromium.open(path)
    return chromium


def evaluate(page: Tab, script: str) -> object:
    return page.run(f"(async () => {{ {SAMPLES} {script} }})()")


def numbers(texts: object) -> list[float]:
    assert isinstance(texts, list)
    return [float(str(text).replace("∞", "inf").replace("–", "nan")) for text in texts]


def test_it_opens_without_complaints_and_loads_nothing(page: Tab):
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_the_pictures_are_there(page: Tab):
    sizes = page.run('[...document.querySelectorAll("img")].map((i) => [i.complete, i.naturalWidth, i.clientWidth])')
    assert len(sizes) == 24
    assert all(complete and natural == 8 and wide > 60 for complete, natural, wide in sizes)
    drawn = page.run('[...document.querySelectorAll("figure svg")].map((s) => s.getBoundingClientRect().height)')
    assert len(drawn) == 7
    assert min(drawn) > 100


def test_the_table_of_samples_sorts_over_all_pages(page: Tab):
    assert evaluate(page, "return status()") == "1–50 of 60 rows"
    read = "const first = column(5); turn('Last'); return [first, column(5), status(), heads.map((h) => h.ariaSort)]"
    up, rest, status, marks = evaluate(page, f"heads[5].querySelector('button').click(); {read}")  # type: ignore[misc]
    assert status == "51–60 of 60 rows, sorted by upper, smallest first"
    assert marks == ["none"] * 5 + ["ascending"] + ["none"] * 2
    values = numbers(up + rest)
    assert len(values) == 60
    assert values == sorted(values)
    assert values[-1] == float("inf")
    down, rest, _, marks = evaluate(page, f"heads[5].querySelector('button').click(); {read}")  # type: ignore[misc]
    assert numbers(down + rest) == values[::-1]
    assert marks[5] == "descending"


def test_it_filters_and_downloads_what_is_left(page: Tab, typical: Run):
    missed = sum(1 for row in typical.rows.to_pylist() if row["guarantee"] == "none")
    kinds = evaluate(page, "return [...section.querySelector('.kind').options].map((o) => o.textContent)")
    assert kinds == ["all", f"without a witness ({missed})"]
    left = evaluate(page, "set('.kind', 1); return [status(), column(5)]")
    assert left == [f"{missed} rows that fit, of 60", ["∞"] * missed]
    text = evaluate(page, "set('.kind', 1); return downloaded(section.querySelector('.csv'))")
    rows = list(csv.reader(io.StringIO(str(text))))
    assert rows[0] == ["sample", "label", "prediction", "lower", "certified by", "upper", "found by", "ratio"]
    assert len(rows) == 1 + missed
    assert all(len(row[3]) > 8 for row in rows[1:]), "exact values, not rounded ones"
    labels = evaluate(page, "set('.kind', 0); set('.class', '4'); return column(1)")
    assert labels == ["4"] * 5
    assert evaluate(page, "set('.class', ''); set('input', 'interval'); return column(4)") == ["interval"] * 2
    assert evaluate(page, "set('input', 'INTERVAL '); return status()") == "2 rows that fit, of 60"
    assert evaluate(page, "set('input', '?'); return [status(), column(0).length]") == ["0 rows that fit, of 60", 0]


def test_the_other_tables_sort_and_download_too(page: Tab):
    script = """
    const table = document.querySelector('.data:not(.samples)');
    const before = [...table.querySelectorAll('tbody th')].map((cell) => cell.textContent);
    [...table.querySelectorAll('th button')].find((b) => b.textContent === 'mean').click();
    const after = [...table.querySelectorAll('tbody th')].map((cell) => cell.textContent);
    return [before, after, await downloaded(table.querySelector('.csv'))]"""
    before, after, text = evaluate(page, script)  # type: ignore[misc]
    assert before == ["lipschitz", "interval", "published(softplus)", "fgs"]
    assert after == ["published(softplus)", "interval", "lipschitz", "fgs"]
    assert text.splitlines()[0].startswith("method,kind,found,")
    assert text.splitlines()[1].startswith("published(softplus),estimate,60,")


def test_pictures_can_be_saved(page: Tab):
    text = evaluate(page, "return downloaded(document.querySelector('figure.plot .svg'))")
    assert str(text).startswith("<svg ")
    assert 'xmlns="http' in str(text)
    assert "currentColor" not in str(text)
    assert "var(" not in str(text)


def test_everything_can_be_done_with_the_keyboard(page: Tab):
    """Tab through the page: every control is reached, in the order of the page, and one sees where one is."""
    stops = """(() => {
      const on = document.activeElement, style = getComputedStyle(on);
      const named = on.textContent.trim() || on.ariaLabel || on.labels?.[0]?.textContent;
      return [on.tagName, named, on.getBoundingClientRect().top + scrollY, style.outlineStyle, style.outlineWidth];
    })()"""
    reached = []
    for _ in range(80):
        page.press("Tab")
        reached.append(page.run(stops))
        if reached[-1][0] == "BODY":
            break
    visited = [stop for stop in reached if stop[0] != "BODY"]
    assert len(visited) == page.run(
        'document.querySelectorAll("a, button:not(:disabled), input, select, summary, [tabindex]").length'
    ) - page.run('document.querySelectorAll("details:not([open]) :is(a, button, [tabindex])").length')
    assert all(named for _, named, *_ in visited)
    tops = [top for _, _, top, *_ in visited]
    assert all(later > earlier - 60 for earlier, later in pairwise(tops)), "in the order of the page"
    assert all(outline != "none" and width != "0px" for *_, outline, width in visited)


@pytest.mark.parametrize("key", ["Enter", " "])
def test_keys_sort(page: Tab, key: str):
    page.run('document.querySelectorAll(".samples th button")[3].focus()')
    page.press(key)
    assert page.run('document.querySelectorAll(".samples th")[3].ariaSort') == "ascending"
    assert page.run("document.activeElement.textContent") == "lower", "one stays where one was"
    page.press(key)
    assert page.run('document.querySelectorAll(".samples th")[3].ariaSort') == "descending"


def test_whoever_turns_to_the_last_page_can_turn_back(page: Tab):
    page.run('[...document.querySelectorAll(".turn")].find((button) => button.textContent === "Next").focus()')
    page.press("Enter")
    assert page.run('document.querySelector(".samples .count").textContent') == "51–60 of 60 rows"
    assert page.run("document.activeElement.textContent") == "First", "what was pressed is idle now"


@pytest.mark.parametrize("width", [360, 1000])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_nothing_is_wider_than_the_window(page: Tab, width: int, scheme: str):
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    low = page.run("""(() => {
      const parts = (text) => text.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (node) => {
        for (let on = node; on; on = on.parentElement) {
          const [r, g, b, a = 1] = parts(getComputedStyle(on).backgroundColor);
          if (a > 0) return [r, g, b];
        }
        return [255, 255, 255];
      };
      const found = [];
      for (const node of document.querySelectorAll("main *")) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
        const style = getComputedStyle(node);
        if (!own || node.closest("svg, script, noscript, :disabled") || node.tagName === "OPTION") continue;
        const [a, b] = [light(parts(style.color)), light(behind(node))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5 || parseFloat(style.fontSize) < 12) {
          found.push([node.className, node.textContent.slice(0, 30), (a + 0.05) / (b + 0.05), style.fontSize]);
        }
      }
      return found;
    })()""")
    page.ask("Emulation.setEmulatedMedia", features=[])
    assert low == []


def test_ten_thousand_samples_sort_and_filter_quickly(chromium: Tab, ten_thousand: Path):
    page = shown(chromium, ten_thousand)
    script = """
    const begun = performance.now();
    heads[3].querySelector("button").click();
    set("input", "77");
    return [performance.now() - begun, section.querySelectorAll("tbody tr").length, column(3), status()]"""
    milliseconds, rows, values, status = evaluate(page, script)  # type: ignore[misc]
    assert milliseconds < 2000
    assert rows == 50
    assert numbers(values) == sorted(numbers(values))
    assert status.endswith("rows that fit, of 10000, sorted by lower, smallest first")
    assert page.complaints == []
