"""The page in a real browser: no complaints on its console, and a table that sorts, filters and downloads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from pertbound import records
from pertbound.records import Run
from pertbound.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PROBE = """<script>
addEventListener("load", async () => {
  const section = document.querySelector(".samples");
  const heads = [...section.querySelectorAll("th")];
  const column = (i) => [...section.querySelectorAll("tbody tr:not([hidden])")].map((r) => r.cells[i].textContent);
  const result = { tools: !section.querySelector(".tools").hidden };
  result.status = section.querySelector(".count").textContent;
  heads[5].querySelector("button").click();
  result.ascending = column(5);
  heads[5].querySelector("button").click();
  result.descending = column(5);
  result.sort = heads.map((head) => head.ariaSort);
  const input = section.querySelector("input");
  input.value = "∞";
  input.dispatchEvent(new Event("input"));
  result.filtered = column(5);
  let blob = null;
  URL.createObjectURL = (given) => { blob = given; return "#"; };
  section.querySelector(".csv").click();
  result.csv = await blob.text();
  result.wide = document.documentElement.scrollWidth <= innerWidth;
  const out = document.createElement("pre");
  out.id = "result";
  out.textContent = JSON.stringify(result);
  document.body.append(out);
});
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
def test_the_page_works_in_a_browser(typical: Run, tmp_path: Path):
    records.write(tmp_path / "run", typical)
    page = write_report([tmp_path / "run"], tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", PROBE), encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1000,800",
            "--enable-logging=stderr",
            "--virtual-time-budget=3000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None
    result = json.loads(unescape(found.group(1)))
    assert result["tools"]
    assert result["wide"]
    assert result["status"] == "60 of 60 rows"
    numbers = [float(text.replace("∞", "inf")) for text in result["ascending"]]
    assert numbers == sorted(numbers)
    assert [float(text.replace("∞", "inf")) for text in result["descending"]] == numbers[::-1]
    assert result["sort"] == ["none"] * 5 + ["descending"] + ["none"] * 2
    missed = sum(value == float("inf") for value in numbers)
    assert result["filtered"] == ["∞"] * missed
    lines = result["csv"].strip().split("\r\n")
    assert lines[0] == "sample,label,prediction,lower,certified by,upper,found by,ratio"
    assert len(lines) == 1 + missed
    assert all(len(line.split(",")[3]) > 8 for line in lines[1:])
