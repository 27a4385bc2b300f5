
"use strict";
// Draws the charts over the tables of the page; makes both searchable and linked.
const root = document.documentElement;
addEventListener("error", event => { root.dataset.error = event.message; });
addEventListener("unhandledrejection", event => { root.dataset.error = String(event.reason); });

const byId = id => document.getElementById(id);
const made = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

// ---- charts

async function loadPlotly() {
  const packed = Uint8Array.from(atob(byId("plotly").textContent), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(made("script", { textContent: await new Response(stream).text() }));
}

// A copy of part of a figure in which the colours that name a variable of the style sheet have its value.
function coloured(value, key = "") {
  if (Array.isArray(value)) return value.map(entry => coloured(entry, key));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, coloured(entry, name)]));
  const variable = /color/.test(key) && /^var\((--\w+)\)$/.exec(value);
  return variable ? getComputedStyle(root).getPropertyValue(variable[1]).trim() : value;
}

async function draw(figures) {
  const config = { displayModeBar: false, responsive: true };
  for (const [key, { data, layout }] of Object.entries(figures))
    await Plotly.react(byId(`chart-${key}`), coloured(data), coloured(layout), config);
}

async function charts() {
  const figures = JSON.parse(byId("figures").textContent);
  if (figures.front && matchMedia("(pointer: fine)").matches) figures.front.layout.dragmode = "zoom";
  await loadPlotly();
  await draw(figures);
  if (figures.front) linkFront();
  linkTensors();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(figures));
  root.dataset.charts = Object.keys(figures).join(" ");
}

function linkFront() {
  byId("chart-front").on("plotly_click", ({ points }) => {
    const allocation = byId(`point-${points[0].customdata}`);
    allocation.open = true;
    allocation.scrollIntoView({ block: "nearest" });
  });
}

function linkTensors() {
  const chart = byId("chart-tensors");
  const bars = chart.data[0].customdata;
  chart.on("plotly_click", ({ points }) => {
    const row = rows[points[0].customdata];
    rows.forEach(other => other.classList.toggle("marked", other === row));
    row?.scrollIntoView({ block: "center" });
  });
  rows.forEach((row, place) => {
    const pointNumber = bars.indexOf(place);
    if (pointNumber < 0) return;
    row.addEventListener("mouseenter", () => Plotly.Fx.hover(chart, [{ curveNumber: 0, pointNumber }]));
    row.addEventListener("mouseleave", () => Plotly.Fx.unhover(chart));
  });
}

// ---- the table of tensors

const table = byId("table-tensors");
const rows = [...table.tBodies[0].rows];

function sortable(heading, column) {
  const number = heading.classList.contains("number");
  const value = row => row.cells[column].textContent;
  const compare = (a, b) => number
    ? parseFloat(value(a).replaceAll(",", "")) - parseFloat(value(b).replaceAll(",", ""))
    : value(a).localeCompare(value(b), "en", { numeric: true });
  const button = made("button", { type: "button", textContent: heading.textContent });
  button.addEventListener("click", () => {
    const falls = heading.getAttribute("aria-sort") === (number ? null : "ascending");
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falls ? "descending" : "ascending");
    table.tBodies[0].append(...rows.toSorted((a, b) => falls ? compare(b, a) : compare(a, b)));
  });
  heading.replaceChildren(button);
}

function filter() {
  const count = made("output", {});
  const input = made("input", { type: "search", placeholder: "Filter: name, format, coder" });
  input.setAttribute("aria-label", "Filter the table of tensors");
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
  };
  input.addEventListener("input", apply);
  apply();
  table.parentElement.before(made("div", { className: "filter" }, input, count));
}

// ---- texts to copy

function copyable(text) {
  const button = made("button", { type: "button", className: "copy", textContent: "Copy" });
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(text);
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  });
  text.after(button);
}

[...table.tHead.rows[0].cells].forEach(sortable);
filter();
document.querySelectorAll("pre").forEach(copyable);
charts();
