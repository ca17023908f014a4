// The state of all controls is in the page's address, as #section?name=value; a chart is drawn when it comes into view.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const nameOf = (part) => `${part.dataset}/${part.category}`;
const categoryName = (part) => (data.categories.some((other) => other.dataset !== part.dataset) ? `${part.dataset} / ${part.category}` : part.category);

const defaults = {
  dataset: "", category: "mean", method: "", columns: "key", search: "", sort: "",
  figure: Object.keys(data.figures)[0],
  part: nameOf(data.categories[0]), detector: data.methods[0], seed: String(data.cells[0].seed),
  verdict: "", defect: "", order: "verdict", truth: "1",
};
const state = { ...defaults };
let section = "";

// --- address and controls

function readAddress() {
  const [name, query] = location.hash.slice(1).split("?");
  section = name;
  Object.assign(state, defaults, Object.fromEntries(new URLSearchParams(query ?? "")));
  listDefects();
  for (const control of document.querySelectorAll("form.controls [name]")) {
    if (control.tagName === "SELECT" && ![...control.options].some((option) => option.value === state[control.name])) {
      state[control.name] = defaults[control.name];
    }
  }
}

function writeAddress() {
  const changed = Object.entries(state).filter(([name, value]) => name in defaults && value !== defaults[name]);
  const query = new URLSearchParams(changed).toString();
  history.replaceState(null, "", `#${section}${query ? `?${query}` : ""}`);
}

function showControls() {
  for (const control of document.querySelectorAll("form.controls [name]")) {
    if (control.type === "checkbox") control.checked = state[control.name] === control.value;
    else if (control.value !== state[control.name]) control.value = state[control.name];
  }
}

function update(change) {
  Object.assign(state, change);
  if ("part" in change || "detector" in change) {
    listDefects();
    if (![...defectControl().options].some((option) => option.value === state.defect)) state.defect = "";
  }
  writeAddress();
  showControls();
  render(Object.keys(change));
}

function goTo(id) {
  section = id;
  writeAddress();
  $(id)?.scrollIntoView();
}

const RENDERERS = [
  [["dataset", "category", "method", "columns", "search", "sort"], showBoard],
  [["dataset", "method"], () => stale("chart-cost")],
  [["dataset", "method", "figure"], showCategories],
  [["part", "detector", "seed"], showDetail],
  [["part", "detector", "verdict", "defect", "order", "truth"], showGallery],
];

function render(changed) {
  for (const [names, show] of RENDERERS) if (names.some((name) => changed.includes(name))) show();
}

// --- building what is shown

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const percent = (value, digits = 1) => (value === null ? "–" : (100 * value).toFixed(digits));
const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));
const interval = (figures, name) => (figures[name] === null ? "–" : `${percent(figures[name])} (${percent(figures[`${name}_lower`])} to ${percent(figures[`${name}_upper`])})`);

// --- leaderboard

const board = $("board");
const boardRows = [...board.tBodies[0].rows];
const sortKey = (row, key) => row.querySelector(`[data-key="${key}"]`).dataset.value;

function showBoard() {
  board.dataset.columns = state.columns;
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of boardRows) {
    const { dataset, category, method } = row.dataset;
    const isMean = row.classList.contains("mean");
    const inCategory = state.category === "" || (state.category === "mean" ? isMean : `${dataset}/${category}` === state.category && !isMean);
    const text = `${dataset} ${category} ${method}`.toLowerCase();
    row.hidden = !(inCategory && (!state.dataset || dataset === state.dataset) && (!state.method || method === state.method) && words.every((word) => text.includes(word)));
    count += !row.hidden;
  }
  $("board-count").textContent = `${count} of ${boardRows.length} rows`;
  board.classList.toggle("means", state.category === "mean");
  board.classList.toggle("one-dataset", new Set(boardRows.map((row) => row.dataset.dataset)).size === 1);
  sortBoard();
}

function sortBoard() {
  const [key, direction] = state.sort.split(" ");
  const headings = [...board.tHead.rows[0].cells];
  const heading = headings.find((cell) => cell.querySelector("button").dataset.sort === key);
  for (const cell of headings) cell.setAttribute("aria-sort", cell === heading ? direction : "none");
  const sign = direction === "descending" ? -1 : 1;
  const rows = !heading ? boardRows : [...boardRows].sort((one, other) => {
    const [a, b] = [sortKey(one, key), sortKey(other, key)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what does not exist comes last, either way
    const [x, y] = [Number(a), Number(b)];
    return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y);
  });
  board.tBodies[0].append(...rows);
}

board.tHead.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { sort, first } = button.dataset;
  const second = first === "ascending" ? "descending" : "ascending";
  update({ sort: state.sort === `${sort} ${first}` ? `${sort} ${second}` : `${sort} ${first}` });
});

// --- charts

const LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07A00", "#3F9FD6", "#6B6B6B", "#8C5BC9"];
const DARK = ["#4FA8DE", "#FF8A47", "#3FC79F", "#E3A2C8", "#E6B23C", "#8CCBF2", "#B5B5B5", "#B493E6"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = new Map(); // id to what gives its specification, null if there is nothing to draw
const waiting = new Set(); // ids that are to be drawn once they are in view
const views = new Map();
const inView = new Set();

function palette() {
  return dark.matches ? DARK : LIGHT;
}

function config() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const text = { labelColor: of("--muted"), titleColor: of("--muted"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  return {
    background: null,
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...text, gridColor: of("--grid"), domainColor: of("--line"), tickColor: of("--line"), labelLimit: 170 },
    legend: { ...text, labelColor: of("--ink"), orient: "top", title: null, columns: innerWidth < 640 ? 2 : 4, labelLimit: 170, symbolStrokeWidth: 2 },
    text: { color: of("--ink") },
    rule: { color: of("--ink") },
  };
}

function byMethod() {
  const colours = palette();
  return { field: "method", type: "nominal", sort: null, scale: { domain: data.methods, range: data.methods.map((_, index) => colours[index % colours.length]) } };
}

function register(id, specification) {
  charts.set(id, specification);
  watcher.observe($(id));
  stale(id);
}

function stale(id) {
  if (inView.has(id)) draw(id);
  else waiting.add(id);
}

async function draw(id) {
  waiting.delete(id);
  const place = $(id);
  const specification = charts.get(id)();
  views.get(id)?.finalize();
  views.delete(id);
  if (!specification) {
    place.replaceChildren(element("p", { class: "nothing" }, "There is nothing to draw."));
    return;
  }
  const whole = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height: 230, autosize: { type: "fit-x", contains: "padding" }, ...specification };
  views.set(id, await vegaEmbed(place, whole, { actions: false, renderer: "svg", ast: true, config: config(), tooltip: { theme: dark.matches ? "dark" : "light" } }));
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) inView.add(target.id);
    else inView.delete(target.id);
    if (isIntersecting && waiting.has(target.id)) draw(target.id);
  }
}, { rootMargin: "150px" });

function redrawAll() {
  for (const id of charts.keys()) stale(id);
}

const quantitative = (field, title, more = {}) => ({ field, type: "quantitative", title, ...more });

function costChart() {
  const values = boardRows.filter((row) => row.classList.contains("mean")).map((row) => ({
    dataset: row.dataset.dataset, method: row.dataset.method,
    ms: Number(sortKey(row, "inference_ms")) || null,
    auroc: sortKey(row, "image_auroc") === "" ? null : 100 * Number(sortKey(row, "image_auroc")),
  })).filter((row) => row.ms && row.auroc !== null && chosen(row));
  if (!values.length) return null;
  const several = new Set(values.map((row) => row.dataset)).size > 1;
  return {
    data: { values },
    mark: { type: "point", filled: true, size: 90, opacity: 0.9 },
    encoding: {
      x: quantitative("ms", "ms per image, log", { scale: { type: "log", nice: true }, axis: { format: "~s", tickCount: 5 } }),
      y: quantitative("auroc", "image AUROC, %", { scale: { zero: false, nice: true } }),
      color: byMethod(),
      ...(several ? { shape: { field: "dataset", type: "nominal" } } : {}),
      tooltip: [{ field: "method" }, { field: "dataset" }, { field: "auroc", title: "image AUROC", format: ".2f" }, { field: "ms", title: "ms per image", format: ".0f" }],
    },
  };
}

const chosen = (row) => (!state.dataset || row.dataset === state.dataset) && (!state.method || row.method === state.method);

const INTERVALS = {
  image_auroc: "95 % interval of a bootstrap over the test images, mean over seeds",
  false_alarms: "exact 95 % interval, bounds averaged over seeds",
  misses: "exact 95 % interval, bounds averaged over seeds",
};

function showCategories() {
  $("categories-note").textContent = `In percent. Lines: ${INTERVALS[state.figure] ?? "sample standard deviation over seeds"}. Follows the leaderboard's filters for dataset and method.`;
  stale("chart-categories");
}

function categoriesChart() {
  const values = data.means.filter(chosen).filter((row) => row.figures[state.figure][0] !== null).map((row) => {
    const [value, lower, upper] = row.figures[state.figure].map((each) => (each === null ? null : 100 * each));
    return { ...row, place: categoryName(row), value, lower: lower ?? value, upper: upper ?? value };
  });
  if (!values.length) return null;
  const places = [...new Set(values.map((row) => row.place))];
  return {
    data: { values },
    height: places.length * (14 + 11 * new Set(values.map((row) => row.method)).size),
    encoding: {
      y: { field: "place", type: "nominal", sort: places, title: null, axis: { grid: true, tickBand: "extent", ticks: false, labelLimit: innerWidth < 640 ? 90 : 200 } },
      yOffset: { field: "method", type: "nominal", sort: data.methods },
      color: byMethod(),
      tooltip: [{ field: "place", title: "category" }, { field: "method" }, ...["value", "lower", "upper"].map((field) => ({ field, format: ".2f" }))],
    },
    layer: [
      { mark: { type: "rule", strokeWidth: 1.6 }, encoding: { x: quantitative("lower", `${data.figures[state.figure]}, %`, { scale: { zero: false, nice: true }, axis: { tickCount: innerWidth < 640 ? 5 : 10 } }), x2: { field: "upper" } } },
      { mark: { type: "point", filled: true, size: 42, opacity: 1 }, encoding: { x: quantitative("value") } },
    ],
  };
}

// --- one category

const cellsOfPart = () => data.cells.filter((cell) => nameOf(cell) === state.part);
const cellsOfSeed = () => cellsOfPart().filter((cell) => String(cell.seed) === state.seed);
const shownCell = () => cellsOfSeed().find((cell) => cell.method === state.detector);

function showDetail() {
  const cell = shownCell();
  const part = data.categories.find((each) => nameOf(each) === state.part);
  $("detail-title").textContent = `One category: ${part.dataset} / ${part.category}`;
  $("detail-note").textContent = cell
    ? `${part.test_good} normal and ${part.test_defective} defective test images, ${part.test_masks} masks. Image threshold of ${cell.method}, seed ${cell.seed}: ${short(cell.threshold)}.${part.missing ? ` It has ${part.missing}.` : ""}`
    : `${state.detector} with seed ${state.seed} has no results here.`;
  showConfusion(cell);
  showVerdicts();
  for (const id of ["chart-histogram", "chart-roc", "chart-pro"]) stale(id);
  showTraining();
}

function showConfusion(cell) {
  const place = $("confusion");
  if (!cell) return place.replaceChildren();
  const count = (verdict, kind) => element("td", { class: kind }, element("strong", {}, String(cell.counts[verdict])), verdict);
  const row = (name, ...cells) => element("tr", {}, element("th", { scope: "row" }, name), ...cells);
  const heading = (name) => element("th", { scope: "col" }, name);
  const rate = (name, words, more) => element("p", {}, `${words}: ${interval(cell.figures, name)} %${more}`);
  place.replaceChildren(
    element("div", { class: "scroll" }, element("table", { class: "confusion" },
      element("thead", {}, element("tr", {}, element("td"), heading("called normal"), heading("called anomalous"))),
      element("tbody", {}, row("normal", count("passed", "right"), count("false alarm", "wrong")), row("defective", count("missed", "wrong"), count("found", "right"))))),
    rate("false_alarms", "False alarms", `, expected ${percent(cell.figures.expected_false_alarms)} %`),
    rate("misses", "Misses", ""),
    element("p", { class: "note" }, "In brackets: exact 95 % intervals."),
  );
}

function showVerdicts() {
  const columns = [
    ["false alarms, %", (cell) => interval(cell.figures, "false_alarms")],
    ["misses, %", (cell) => interval(cell.figures, "misses")],
    ["calibration images", (cell) => short(cell.figures.calibration_images)],
    ["expected, %", (cell) => interval(cell.figures, "expected_false_alarms")],
    ["shift, p", (cell) => (cell.figures.shift_p === null ? "–" : String(Number(cell.figures.shift_p.toPrecision(2))))],
    ["image AUROC", (cell) => percent(cell.figures.image_auroc, 2)],
    ["pixel AUROC", (cell) => percent(cell.figures.pixel_auroc, 2)],
    ["AUPRO@0.3", (cell) => percent(cell.figures.aupro_30, 2)],
  ];
  const heading = element("tr", {}, element("th", { scope: "col" }, "method"), ...columns.map(([title]) => element("th", { scope: "col", class: "number" }, title)));
  const rows = cellsOfSeed().map((cell) => element("tr", cell.method === state.detector ? { class: "chosen" } : {},
    element("th", { scope: "row" }, cell.method), ...columns.map(([, text]) => element("td", { class: "number" }, text(cell)))));
  $("verdicts").replaceChildren(element("thead", {}, heading), element("tbody", {}, ...rows));
}

function histogramChart() {
  const cell = shownCell();
  if (!cell) return null;
  const { edges, counts, lowest, threshold } = cell.histogram;
  const kinds = data.kinds.map((kind, index) => ({ kind, of: counts[index], total: counts[index].reduce((sum, each) => sum + each, 0) })).filter((each) => each.total);
  const values = kinds.flatMap(({ kind, of, total }) => edges.map((x, bin) => ({ kind, x, share: (100 * (of[bin] ?? 0)) / total, held: kind !== data.kinds[0] && kind !== data.kinds[1] })));
  const colours = palette();
  const x = (field) => quantitative(field, "image score", { scale: { nice: false, domain: [edges[0], edges.at(-1)] }, axis: { grid: false, tickCount: 6, labelExpr: `format(pow(10, datum.value) - 1 + ${lowest}, '.3~g')` } });
  const color = { field: "kind", type: "nominal", scale: { domain: kinds.map((each) => each.kind), range: kinds.map((each) => colours[data.kinds.indexOf(each.kind)]) } };
  return {
    layer: [
      { data: { values: values.filter((each) => !each.held) }, mark: { type: "area", interpolate: "step-after", fillOpacity: 0.25, line: { strokeWidth: 1.6 } }, encoding: { x: x("x"), y: quantitative("share", "% of images", { stack: null }), color } },
      { data: { values: values.filter((each) => each.held) }, mark: { type: "line", interpolate: "step-after", strokeWidth: 1.6, strokeDash: [3, 2] }, encoding: { x: x("x"), y: quantitative("share", "% of images"), color } },
      { data: { values: [{ threshold }] }, mark: { type: "rule", strokeWidth: 1.5 }, encoding: { x: x("threshold") } },
      { data: { values: [{ threshold }] }, mark: { type: "text", align: "left", dx: 5, baseline: "top", y: 0, fontSize: 12, text: `threshold ${short(cell.threshold)}` }, encoding: { x: x("threshold") } },
    ],
  };
}

function rocChart() {
  const cells = cellsOfSeed().filter((cell) => cell.roc.length);
  if (!cells.length) return null;
  const values = cells.flatMap((cell) => cell.roc.map(([x, y], order) => ({ method: cell.method, x: 100 * x, y: 100 * y, order })));
  const points = cells.map((cell) => ({ method: cell.method, x: 100 * cell.figures.false_alarms, y: 100 * (1 - cell.figures.misses) }));
  const x = quantitative("x", "false alarms, % of normal images", { scale: { domain: [0, 100] } });
  const y = quantitative("y", "found, % of defective images", { scale: { domain: [0, 100] } });
  const tooltip = [{ field: "method" }, { field: "x", title: "false alarms, %", format: ".1f" }, { field: "y", title: "found, %", format: ".1f" }];
  return {
    encoding: { x, y, color: byMethod(), tooltip },
    layer: [
      { data: { values }, mark: { type: "line", strokeWidth: 1.8 }, encoding: { order: { field: "order" } } },
      { data: { values: points }, mark: { type: "point", filled: true, size: 70, opacity: 1 } },
    ],
  };
}

function proChart() {
  const cells = cellsOfSeed().filter((cell) => cell.pro.length);
  if (!cells.length) return null;
  const values = cells.flatMap((cell) => cell.pro.map(([x, y], order) => ({ method: cell.method, x, y, order })));
  return {
    layer: [
      { data: { values }, mark: { type: "line", strokeWidth: 1.8 }, encoding: {
        x: quantitative("x", "false positive rate of pixels", { scale: { domain: [0, 0.3] } }),
        y: quantitative("y", "mean overlap", { scale: { domain: [0, 1] } }),
        color: byMethod(), order: { field: "order" },
        tooltip: [{ field: "method" }, { field: "x", title: "false positive rate", format: ".3f" }, { field: "y", title: "overlap", format: ".3f" }] } },
      { data: { values: [{ x: 0.05 }] }, mark: { type: "rule", strokeDash: [4, 3], strokeWidth: 1 }, encoding: { x: { field: "x", type: "quantitative" } } },
    ],
  };
}

function showTraining() {
  const cells = cellsOfSeed();
  const quantities = [...new Set(cells.flatMap((cell) => Object.keys(cell.history)))].filter((name) => name !== "step");
  quantities.sort((one, other) => other.startsWith("validation") - one.startsWith("validation"));
  const place = $("training");
  for (const old of place.querySelectorAll(".chart")) {
    watcher.unobserve(old);
    views.get(old.id)?.finalize();
    for (const known of [charts, waiting, views, inView]) known.delete(old.id);
  }
  place.replaceChildren(...quantities.map((name, index) => element("div", {}, element("h4", {}, name), element("div", { class: "chart", id: `chart-training-${index}` }))));
  quantities.forEach((name, index) => register(`chart-training-${index}`, () => historyChart(cells, name)));
  if (!quantities.length) place.replaceChildren(element("p", { class: "nothing" }, "There is nothing to draw."));
}

function historyChart(cells, name) {
  const values = cells.flatMap((cell) => (cell.history[name] ?? []).map((value, index) => ({ method: cell.method, step: cell.history.step[index], value }))).filter((point) => point.value !== null);
  if (!values.length) return null;
  const color = byMethod();
  return {
    height: 130,
    data: { values },
    mark: { type: "line", strokeWidth: 1.8, point: values.length < 40 },
    encoding: {
      x: quantitative("step", null, { axis: { tickCount: 4, grid: false, format: "~s" } }),
      y: quantitative("value", null, { scale: { zero: false }, axis: { tickCount: 4, format: ".3~g" } }),
      color: { ...color, legend: null },
      tooltip: [{ field: "method" }, { field: "step" }, { field: "value", format: ".4~g" }],
    },
  };
}

// --- gallery

const defectControl = () => document.querySelector('#gallery [name="defect"]');
const galleryCell = () => cellsOfPart().find((cell) => cell.method === state.detector && cell.cases.length);

function listDefects() {
  const defects = [...new Set((galleryCell()?.cases ?? []).map((each) => each.defect))].sort();
  defectControl().replaceChildren(element("option", { value: "" }, "all"), ...defects.map((defect) => element("option", { value: defect }, defect)));
}

function showGallery() {
  const cell = galleryCell();
  if (!cell) {
    $("gallery-note").textContent = `There are no pictures of ${state.detector} on ${state.part}.`;
    return $("cases").replaceChildren();
  }
  const shown = cell.cases.filter((each) => (!state.verdict || each.verdict === state.verdict) && (!state.defect || each.defect === state.defect));
  if (state.order === "verdict") shown.sort((one, other) => data.verdicts.indexOf(one.verdict) - data.verdicts.indexOf(other.verdict));
  else shown.sort((one, other) => (state.order === "high" ? other.score - one.score : one.score - other.score));
  const pictured = (verdict) => cell.cases.filter((each) => each.verdict === verdict).length;
  const kept = data.verdicts.filter((verdict) => cell.counts[verdict]).map((verdict) => `${verdict} ${pictured(verdict)} of ${cell.counts[verdict]}`).join(", ");
  $("gallery-note").textContent = `${shown.length} shown. Pictures are of seed ${cell.seed}, the most telling images of each verdict: ${kept}. scores.csv of the cell lists every image.`;
  $("cases").replaceChildren(...shown.map((each) => caseOf(cell, each)));
}

function caseOf(cell, shown) {
  const [source, truth] = data.images[cell.dataset][shown.path];
  const image = element("div", { class: "tile" }, element("img", { src: source, alt: `Test image ${shown.path}`, loading: "lazy" }));
  if (truth && state.truth) {
    const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    drawing.setAttribute("viewBox", `0 0 ${data.picture} ${data.picture}`);
    drawing.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", truth);
    drawing.append(path);
    image.append(drawing);
  }
  const heat = element("div", { class: "tile" }, element("img", { src: shown.heat, alt: "Its heat map", loading: "lazy" }));
  const wrong = data.verdicts.indexOf(shown.verdict) < 2;
  const sign = shown.verdict === "false alarm" || shown.verdict === "found" ? ">" : "≤";
  return element("li", {}, element("figure", {}, element("div", { class: "tiles" }, image, heat),
    element("figcaption", {}, element("b", { class: wrong ? "wrong" : "right" }, shown.verdict), element("span", {}, shown.defect),
      element("span", {}, `${short(shown.score)} ${sign} ${short(cell.threshold)}`), element("span", { class: "path" }, shown.path))));
}

// --- begin

for (const form of document.querySelectorAll("form.controls")) form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("input", ({ target }) => {
  if (!target.closest("form.controls")) return;
  update({ [target.name]: target.type === "checkbox" ? (target.checked ? target.value : "") : target.value });
});
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  const row = link.closest("tr");
  if (row && "open" in link.dataset) update({ part: `${row.dataset.dataset}/${row.dataset.category}`, detector: row.dataset.method });
  goTo(link.getAttribute("href").slice(1));
});
addEventListener("hashchange", () => {
  readAddress();
  showControls();
  render(Object.keys(defaults));
  $(section)?.scrollIntoView();
});
dark.addEventListener("change", redrawAll);
addEventListener("beforeprint", () => [...waiting].forEach(draw));

readAddress();
showControls();
register("chart-cost", costChart);
register("chart-categories", categoriesChart);
register("chart-histogram", histogramChart);
register("chart-roc", rocChart);
register("chart-pro", proChart);
render(Object.keys(defaults));
$(section)?.scrollIntoView();
