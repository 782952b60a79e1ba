"use strict";
const PAGE = 50; // rows at once of a long table
const number = (text) => (text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text));
const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function download(name, type, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// A column is { name, numeric, shown(i), exact(i) }; row(i) is the <tr> of row i.
function written(table) {
  const rows = [...table.tBodies[0].rows];
  const columns = [...table.tHead.rows[0].cells].map((head, at) => ({
    name: head.textContent.trim(),
    numeric: head.classList.contains("n"),
    shown: (i) => rows[i].cells[at].textContent.trim(),
    exact: (i) => rows[i].cells[at].dataset.v ?? rows[i].cells[at].textContent.trim(),
  }));
  return { columns, count: rows.length, row: (i) => rows[i], page: Infinity };
}

function stored(table, data) {
  const columns = data.map(({ name, shown, exact, words, at }) => {
    if (words) return { name, numeric: false, shown: (i) => words[at[i]] || "–", exact: (i) => words[at[i]] };
    const texts = shown.split(" ");
    const values = exact === undefined ? texts : exact.split(" ");
    return { name, numeric: true, shown: (i) => texts[i], exact: (i) => values[i] };
  });
  const row = (i) => {
    const cells = columns.map((c) => element("td", { className: c.numeric ? "n" : "", textContent: c.shown(i) }));
    return element("tr", {}, ...cells);
  };
  return { columns, count: data.find((column) => column.words).at.length, row, page: PAGE };
}

function enliven(section) {
  const table = section.querySelector("table");
  const data = section.querySelector('script[type="application/json"]');
  const { columns, count, row, page } = data ? stored(table, JSON.parse(data.textContent)) : written(table);
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const tools = element("div", { className: "tools" });
  const pages = data ? element("div", { className: "pages" }) : tools;
  const status = element("span", { className: "count" });
  status.setAttribute("role", "status");
  let order = Array.from({ length: count }, (_, i) => i); // of all rows, as sorted
  let kept = order; // those of them that pass the filters
  let first = 0; // place in `kept` of the first row shown
  let sorted = "";
  const filters = []; // functions of a row's number

  function draw() {
    body.replaceChildren(...kept.slice(first, first + page).map(row));
    const last = Math.min(first + page, kept.length);
    const some = kept.length === count ? `${count} rows` : `${kept.length} rows that fit, of ${count}`;
    const range = kept.length > page ? `${first + 1}–${last} of ` : "";
    status.textContent = [data ? range + some : "", sorted].filter(Boolean).join(", ");
    const here = pager.some(([button]) => button === document.activeElement);
    for (const [button, off] of pager) button.disabled = off();
    if (here && document.activeElement.disabled !== false) pager.find(([button]) => !button.disabled)?.[0].focus();
  }
  function filter() {
    kept = order.filter((i) => filters.every((fits) => fits(i)));
    first = 0;
    draw();
  }
  function sort(at, ascending) {
    const { exact, numeric, name } = columns[at];
    const keys = Array.from({ length: count }, (_, i) => exact(i));
    const values = numeric ? keys.map((key) => (key === "" || key === "–" ? NaN : number(key))) : keys;
    const missing = values.map((value) => (numeric ? Number.isNaN(value) : value === ""));
    const sign = ascending ? 1 : -1;
    order = Array.from({ length: count }, (_, i) => i).sort((a, b) => {
      if (missing[a] || missing[b]) return missing[a] - missing[b]; // last, either way
      if (!numeric) return sign * values[a].localeCompare(values[b]);
      return values[a] === values[b] ? 0 : sign * (values[a] < values[b] ? -1 : 1);
    });
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === at ? (ascending ? "ascending" : "descending") : "none"));
    const [low, high] = numeric ? ["smallest first", "largest first"] : ["A to Z", "Z to A"];
    sorted = `sorted by ${name}, ${ascending ? low : high}`;
    filter();
  }
  heads.forEach((head, at) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(at, head.getAttribute("aria-sort") !== "ascending"));
  });

  function labelled(text, control) {
    tools.append(element("label", {}, `${text} `, control));
    control.addEventListener("input", filter);
    return control;
  }
  const pager = [];
  if (data) {
    const column = (name) => columns.find((c) => c.name === name);
    const value = (name) => { const { exact } = column(name); return (i) => (exact(i) === "" ? NaN : number(exact(i))); };
    const [label, prediction, lower, upper] = ["label", "prediction", "lower", "upper"].map(value);
    const kinds = [
      ["all", () => true],
      ["misclassified as they stand", (i) => label(i) >= 0 && prediction(i) >= 0 && label(i) !== prediction(i)],
      ["without a certificate (lower is 0)", (i) => lower(i) === 0],
      ["without a witness", (i) => upper(i) === Infinity],
      ["upper less than 1.01 times lower", (i) => lower(i) > 0 && upper(i) < 1.01 * lower(i)],
      ["violations: lower above upper", (i) => lower(i) > upper(i) * (1 + 1e-12)],
    ].map(([name, fits]) => [name, fits, order.filter(fits).length]).filter(([, , size], i) => i === 0 || size > 0);
    const kind = labelled("Show", element("select", { className: "kind" }));
    kind.append(...kinds.map(([name, , size], i) => new Option(i ? `${name} (${size})` : name, i)));
    filters.push((i) => kinds[kind.value][1](i));
    const named = order.some((i) => label(i) >= 0) ? "label" : "prediction";
    const of = named === "label" ? label : prediction;
    const classes = [...new Set(order.map(of).filter((c) => c >= 0))].sort((a, b) => a - b);
    if (classes.length > 1 && classes.length <= 1000) {
      const chosen = labelled(named === "label" ? "Label" : "Prediction", element("select", { className: "class" }));
      chosen.append(new Option("all", ""), ...classes.map((c) => new Option(c, c)));
      filters.push((i) => chosen.value === "" || of(i) === Number(chosen.value));
    }
    const text = labelled("Containing", element("input", { type: "search", spellcheck: false, size: 12 }));
    let haystack = null;
    filters.push((i) => {
      const wanted = text.value.trim().toLowerCase();
      if (!wanted) return true;
      haystack ??= Array.from({ length: count }, (_, j) => columns.map((c) => c.shown(j)).join("\t").toLowerCase());
      return haystack[i].includes(wanted);
    });
  }
  const csv = element("button", { type: "button", className: "csv", textContent: "Download as CSV" });
  csv.addEventListener("click", () => {
    const lines = [columns.map((c) => c.name), ...kept.map((i) => columns.map((c) => c.exact(i).replace(/^–$/, "")))];
    download(`${section.dataset.name}.csv`, "text/csv", lines.map((line) => line.map(quoted).join(",") + "\r\n").join(""));
  });
  tools.append(csv);
  if (count > page) {
    const turn = (text, to, off) => {
      const button = element("button", { type: "button", className: "turn", textContent: text });
      button.addEventListener("click", () => { first = to(); draw(); });
      pager.push([button, off]);
      return button;
    };
    const end = () => Math.max(0, Math.ceil(kept.length / page) - 1) * page;
    pages.append(
      turn("First", () => 0, () => first === 0),
      turn("Previous", () => Math.max(0, first - page), () => first === 0),
      turn("Next", () => Math.min(end(), first + page), () => first >= end()),
      turn("Last", end, () => first >= end()),
    );
  }
  pages.append(status);
  if (data) tools.append(pages);
  if (data) section.prepend(tools);
  else section.append(tools);
  draw();
}

document.querySelectorAll(".data").forEach(enliven);

for (const figure of document.querySelectorAll("figure.plot")) {
  const button = element("button", { type: "button", className: "svg", textContent: "Save picture (SVG)" });
  button.addEventListener("click", () => {
    const copy = figure.querySelector("svg").cloneNode(true);
    copy.setAttribute("font-family", "DejaVu Sans, Verdana, sans-serif");
    const plain = new XMLSerializer().serializeToString(copy).replace(/var\([^,()]*, *(#\w+)\)/g, "$1");
    download(`${figure.dataset.name}.svg`, "image/svg+xml", plain.replaceAll("currentColor", "#1b1f24"));
  });
  figure.append(button);
}

// What can be scrolled can be reached by the keyboard; what cannot is no stop on the way.
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".wide, .canvas").forEach((box) => watch.observe(box));
