// Sorting, filtering, columns, copying and the drawer of runs. The page is complete without it; every text is set as text.
const byId = (id) => document.getElementById(id);
const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
};
const shortNumber = (value) => value === null ? "n/a" : String(Number(value.toPrecision(4)));
const seconds = (value) => value === null ? "n/a" : `${shortNumber(value)} s`;
const say = (text) => { byId("status").textContent = text; };
const data = JSON.parse(byId("run-data").textContent);
const runs = data.columns;
const placeOf = new Map(runs.run_key.map((key, place) => [key, place]));
const UNITS = {k: 1e3, M: 1e6, G: 1e9, T: 1e12, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600};
const NUMBER = /^(infinite|[-−+]?[\d,]*\.?\d+(e[-+]?\d+)?x?( ± \S+)?( (k|M|G|T|µs|ms|s|min|h))?)$/;
const MISSING = new Set(["n/a", "–", "-", ""]);
const collator = new Intl.Collator("en", {numeric: true});

// The number that a cell starts with, in its unit; NaN for words.
function numberOf(text) {
  const found = /^([-−+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)\s*(\S*)/i.exec(text);
  if (!found) return text === "infinite" ? Infinity : NaN;
  return Number(found[1].replaceAll(",", "").replace("−", "-")) * (UNITS[found[2]] ?? 1);
}

function textOf(cell) {
  const parts = [...cell.childNodes].filter((node) => !node.classList?.contains("remark"));
  return parts.map((node) => node.textContent).join("").trim();
}

function compare(one, other, numeric) {
  if (!numeric) return collator.compare(one, other);
  const [left, right] = [numberOf(one), numberOf(other)];
  // What is not a number comes last in either direction.
  if (Number.isNaN(left) || Number.isNaN(right)) return null;
  return left - right;
}

// Every word must occur; a word that begins with a minus sign must not.
function matcher(query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return (text) => {
    const low = text.toLowerCase();
    return words.every((word) => word.length > 1 && word[0] === "-" ? !low.includes(word.slice(1)) : low.includes(word));
  };
}

const FORMATS = {
  Markdown: (rows) => {
    const clean = (text) => text.replace(/([\\|`*_<>])/g, "\\$1");
    const lines = rows.map((row) => `| ${row.map((cell) => clean(cell.text)).join(" | ")} |`);
    lines.splice(1, 0, `|${" --- |".repeat(rows[0].length)}`);
    return lines.join("\n") + "\n";
  },
  LaTeX: (rows) => {
    const special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "−": "$-$"};
    const clean = (text) => text.replace(/[\\~^±−&%$#_{}]/g, (character) => special[character] ?? `\\${character}`);
    const lines = rows.map((row) => row.map((cell) => cell.best ? `\\textbf{${clean(cell.text)}}` : clean(cell.text)).join(" & ") + " \\\\");
    const sides = rows[0].map((cell) => cell.words ? "l" : "r").join("");
    return [`\\begin{tabular}{${sides}}`, "\\toprule", lines[0], "\\midrule", ...lines.slice(1), "\\bottomrule", "\\end{tabular}", ""].join("\n");
  },
  CSV: (rows) => rows.map((row) => row.map((cell) => quoted(cell.text)).join(",")).join("\r\n") + "\r\n",
};
const quoted = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers that give a local file no clipboard still copy a selection.
    const area = element("textarea", {class: "offscreen"});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function download(name, text) {
  const link = element("a", {download: name, href: URL.createObjectURL(new Blob([text], {type: "text/csv"}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function csvOfRuns(places) {
  const names = ["run_key", "setting", "seed", "status", "attempt", "parent_key", "wall_s", "train_s", "device", "artifact"];
  const lines = places.map((place) => [
    ...names.map((name) => name === "setting" ? data.labels[runs.cell[place]] : runs[name][place]),
    ...data.values.map((column) => column[place]),
  ]);
  return [[...names, ...data.measures], ...lines].map((line) => line.map((value) => quoted(String(value ?? ""))).join(",")).join("\r\n") + "\r\n";
}

// ---- the drawer
const drawer = byId("drawer");
const listed = (pairs) => element("dl", {}, ...pairs.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, String(text))]));
const runName = (place) => `${data.labels[runs.cell[place]]}, seed ${runs.seed[place]}`;
const runLink = (key) => placeOf.has(key)
  ? element("button", {type: "button", onclick: () => showRun(placeOf.get(key))}, runName(placeOf.get(key)), element("code", {}, key))
  : element("code", {}, `${key} (not in these folders)`);
const parentsOf = (place) => (runs.parent_key[place] ?? "").split(",").filter(Boolean);

function show(title, ...parts) {
  byId("drawer-title").textContent = title;
  byId("drawer-body").replaceChildren(...parts.filter(Boolean));
  byId("drawer-body").scrollTop = 0;
  if (!drawer.open) drawer.showModal();
}

// The evaluations of a run as a small line, with its first and last values in words.
function curveOf(place) {
  const values = data.curve?.values[place];
  if (!values || values.length < 2) return null;
  const steps = data.curve.steps[data.curve.of[place]];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [width, height] = [320, 90];
  const at = (value, place) => [(steps[place] - steps[0]) / (steps.at(-1) - steps[0]) * width, (1 - (value - low) / (high - low || 1)) * height];
  const words = `${data.curve.title}: ${shortNumber(values[0])} at step ${steps[0]}, ${shortNumber(values.at(-1))} at step ${steps.at(-1)}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS(svg.namespaceURI, "polyline");
  for (const [name, value] of Object.entries({viewBox: `-3 -3 ${width + 6} ${height + 6}`, class: "curve", role: "img", "aria-label": words})) svg.setAttribute(name, value);
  line.setAttribute("points", values.map((value, place) => at(value, place).map((x) => x.toFixed(1)).join(",")).join(" "));
  svg.append(line);
  return element("div", {}, svg, element("p", {class: "note"}, `${words}; range ${shortNumber(low)} to ${shortNumber(high)}.`));
}

// The generations of a run's ancestors, the first runs first; its data stands before them.
function generations(place) {
  const found = [];
  for (let keys = parentsOf(place); keys.length; keys = [...new Set(keys.flatMap((key) => placeOf.has(key) ? parentsOf(placeOf.get(key)) : []))]) {
    if (found.length > 20) break;  // a lineage that runs in a circle
    found.unshift(keys);
  }
  return found;
}

function lineageOf(place, children) {
  const source = `data ${runs.data[place]}${runs.data_fingerprint[place] === null ? "" : `, fingerprint ${runs.data_fingerprint[place]}`}`;
  const step = (title, ...content) => element("li", {}, element("span", {class: "half"}, title), ...content);
  return element("ol", {class: "lineage"}, step("Data", element("div", {}, source)),
    ...generations(place).map((keys, number, all) => step(number === all.length - 1 ? "Parents" : "Ancestors", links(keys))),
    step("This run", element("div", {}, runName(place))),
    ...(children.length ? [step("Children", links(children))] : []));
}

const part = (title, ...content) => element("section", {}, element("h3", {}, title), ...content);
const links = (keys) => element("ul", {}, ...keys.map((key) => element("li", {}, runLink(key))));

function showRun(place) {
  const key = runs.run_key[place];
  const children = runs.run_key.filter((_, other) => parentsOf(other).includes(key));
  const values = data.measures.map((name, column) => [name, data.values[column][place]]).filter(([, value]) => value !== null);
  const facts = [["run key", key], ["status", runs.status[place]], ["attempt", runs.attempt[place]], ["started (UTC)", runs.started_at[place]],
    ["wall time", seconds(runs.wall_s[place])], [data.train_time, seconds(runs.train_s[place])],
    ["device", runs.device[place]], ["artifacts", runs.artifact[place] === null ? "none" : `${data.folders[runs.folder[place]]}/${runs.artifact[place]}`]];
  const omitted = data.omitted ? [element("p", {}, `${data.omitted} more measures are in the table metrics.`)] : [];
  show(runName(place),
    listed(facts),
    runs.error[place] === null ? null : part("Error", element("pre", {tabindex: "0"}, data.errors[runs.error[place]])),
    curveOf(place) && part("Curve", curveOf(place)),
    part("Lineage", lineageOf(place, children)),
    part("Final values", listed(values), ...omitted),
    part("Settings", listed(Object.entries(data.settings[runs.cell[place]]))),
    element("details", {}, element("summary", {}, "Settings that all runs share"), listed(Object.entries(data.shared))));
}

function showSetting(cell) {
  const keys = runs.run_key.filter((_, place) => String(runs.cell[place]) === cell);
  show(data.labels[cell], part("Runs", links(keys)), part("Settings", listed(Object.entries(data.settings[cell]))));
}

byId("drawer-close").addEventListener("click", () => drawer.close());
drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); });

// ---- all runs, from the data
const runTexts = () => runs.run_key.map((key, place) => [
  data.labels[runs.cell[place]], String(runs.seed[place]), key, runs.status[place],
  ...data.values.slice(0, data.main).map((column) => shortNumber(column[place])),
  seconds(runs.wall_s[place]), runs.device[place], runs.started_at[place]]);
function makeRow({cells}) {
  const classes = views.runs.headers.map((header) => header.className);
  return element("tr", {}, ...cells.map((text, column) => element(column ? "td" : "th", {class: classes[column]}, text)));
}

const views = {};
for (const [number, box] of document.querySelectorAll(".scroll").entries()) {
  if (box.dataset.name === "runs") continue;
  box.dataset.name ||= `table-${number + 1}`;
  views[box.dataset.name] = new TableView(box);
}
const runsBox = document.querySelector('.scroll[data-name="runs"]');
views.runs = {headers: [...runsBox.querySelectorAll("thead th")]};
views.runs = new TableView(runsBox, {make: makeRow, texts: runTexts()});
byId("runs-note")?.remove();

// ---- the page's filter, which charts follow
const field = byId("filter");
function applyFilter() {
  const matches = matcher(field.value);
  for (const view of Object.values(views)) view.filter(matches);
  document.dispatchEvent(new Event("refilter"));
  const hash = field.value.trim() ? `#q=${encodeURIComponent(field.value.trim())}` : location.hash.startsWith("#q=") ? "#" : location.hash;
  if (hash !== location.hash) history.replaceState(null, "", hash);
  say(field.value.trim() ? `${views.runs.shown.length} of ${runs.run_key.length} runs match` : "");
}
let pending;
field.addEventListener("input", () => { clearTimeout(pending); pending = setTimeout(applyFilter, 120); });
byId("search").hidden = false;
if (location.hash.startsWith("#q=")) {
  field.value = decodeURIComponent(location.hash.slice(3));
  applyFilter();
}
