"use strict";
for (const section of document.querySelectorAll(".samples")) {
  const table = section.querySelector("table");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const search = section.querySelector("input");
  const count = section.querySelector(".count");
  const exact = (cell) => cell.dataset.v ?? cell.textContent;
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const number = (text) => (text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text));

  const compare = (column, numeric, sign) => (a, b) => {
    const x = exact(a.cells[column]);
    const y = exact(b.cells[column]);
    if (x === "" || y === "") return (x === "") - (y === ""); // what is missing comes last, either way
    if (!numeric) return sign * x.localeCompare(y);
    const left = number(x);
    const right = number(y);
    return left === right ? 0 : sign * (left < right ? -1 : 1);
  };

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      rows.sort(compare(column, head.classList.contains("n"), ascending ? 1 : -1));
      body.append(...rows);
    });
  });

  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.get(row).includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  search.addEventListener("input", filter);
  filter();

  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  section.querySelector(".csv").addEventListener("click", (event) => {
    const lines = [heads.map((head) => quoted(head.textContent.trim()))];
    for (const row of rows) if (!row.hidden) lines.push([...row.cells].map((cell) => quoted(exact(cell))));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.map((l) => l.join(",") + "\r\n").join("")], { type: "text/csv" }));
    link.download = event.currentTarget.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  section.querySelector(".tools").hidden = false;
}
