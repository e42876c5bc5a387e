// What a reader chooses of a figure: its series, metric, axes and zoom. Each choice changes the specification of all its panels.
const drawings = new Map([...document.querySelectorAll(".drawing")].map((box) => [box, {hidden: new Set(), metric: null, logs: {}}]));
const choiceOf = (figure) => drawings.get(figure.closest(".drawing")) ?? {hidden: new Set(), metric: null, logs: {}};
const CHANNELS = ["x", "y"];
const isFiltering = () => field.value.trim() !== "" || [...drawings.values()].some((choice) => choice.hidden.size > 0);

// ---- series that a click on the legend hides
for (const [box, choice] of drawings) {
  for (const item of box.querySelectorAll(".legend [data-series]")) {
    const name = item.dataset.series;
    const button = element("button", {type: "button", "aria-pressed": "true"}, ...item.childNodes);
    button.addEventListener("click", () => {
      const isShown = choice.hidden.delete(name) || !choice.hidden.add(name);
      button.setAttribute("aria-pressed", String(isShown));
      document.dispatchEvent(new Event("refilter"));
    });
    item.replaceChildren(button);
  }
}

// ---- reading a specification
const unitsOf = (spec) => spec.layer ? spec.layer.flatMap(unitsOf) : [spec];
const isNumber = (channel) => channel?.field !== undefined && channel.type === "quantitative" && !channel.bin && !channel.aggregate;
const scaledOf = (spec, name) => unitsOf(spec).map((unit) => unit.encoding?.[name]).filter(isNumber);
const isLog = (spec, name) => scaledOf(spec, name).some((channel) => channel.scale?.type === "log");

// All numbers of the fields that an axis shows.
function numbersOf(spec, name) {
  const found = [];
  for (const unit of unitsOf(spec)) {
    const fields = [unit.encoding?.[name], unit.encoding?.[`${name}2`]].map((channel) => channel?.field).filter(Boolean);
    const rows = isNumber(unit.encoding?.[name]) ? spec.datasets?.[(unit.data ?? spec.data)?.name] ?? [] : [];
    for (const row of rows) found.push(...fields.map((name) => row[name]).filter(Number.isFinite));
  }
  return found;
}

// ---- another metric: means and 95% t intervals over independent repetitions, as the page has computed them for its own
const cellOfLabel = new Map(Object.entries(data.labels).map(([cell, label]) => [label, Number(cell)]));
const labelled = (spec) => Object.values(spec.datasets ?? {}).flat().filter((row) => "label" in row && "mean" in row);
const takesMetric = (spec) => labelled(spec).length > 0 && labelled(spec).every((row) => cellOfLabel.has(row.label)) && cellOfLabel.size === Object.keys(data.labels).length;

function estimateOf(cell, column) {
  const groups = new Map();
  for (const [place, own] of runs.cell.entries()) {
    if (own !== cell || runs.status[place] !== "COMPLETED") continue;
    if (column[place] === null) return null;
    groups.set(runs.outer[place], [...groups.get(runs.outer[place]) ?? [], column[place]]);
  }
  const average = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const means = [...groups.values()].map(average);
  if (!means.length) return null;
  const mean = average(means);
  const half = means.length < 2 ? null
    : data.t_quantiles[means.length - 2] * Math.sqrt(means.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (means.length - 1) / means.length);
  return {mean, low: half === null ? null : mean - half, high: half === null ? null : mean + half};
}

// Learning curves of another metric, which the page brings along.
const isCurve = (spec) => Object.values(spec.datasets ?? {}).flat().some((row) => "epoch" in row && "cell" in row);

function withCurves(spec, title) {
  const place = data.learning.titles.indexOf(title);
  const curves = data.learning.curves[place];
  const datasets = Object.fromEntries(Object.entries(spec.datasets).map(([name, rows]) => {
    const firsts = new Map(rows.map((row) => [row.cell, row]));
    return [name, [...firsts].flatMap(([cell, row]) => {
      const [epochs, means, lows, highs] = curves[cell] ?? [[], [], [], []];
      return epochs.map((epoch, at) => ({...row, epoch, mean: means[at], low: lows[at], high: highs[at]}));
    })];
  }));
  // One axis for all panels, as in the chart that the page draws.
  const values = Object.values(curves).flatMap(([, ...lists]) => lists.flat()).filter((value) => value !== null);
  rescale(spec, title, values, data.learning.bounds[place]);
  return {...spec, datasets};
}

function withMetric(spec, title) {
  if (isCurve(spec)) return withCurves(spec, title);
  const place = data.measures.indexOf(title);
  const datasets = Object.fromEntries(Object.entries(spec.datasets).map(([name, rows]) => [name, rows.flatMap((row) => {
    if (!("label" in row && "mean" in row)) return [row];
    const found = estimateOf(cellOfLabel.get(row.label), data.values[place]);
    return found === null ? [] : [{...row, ...found}];
  })]));
  const values = Object.values(datasets).flat().flatMap((row) => [row.mean, row.low, row.high]).filter(Number.isFinite);
  rescale(spec, title, values, data.bounds[place]);
  return {...spec, datasets};
}

// Gives the axis of means the title and the range of another metric.
function rescale(spec, title, values, bounds) {
  const [lowest, highest] = bounds.map((bound, end) => bound ?? [-Infinity, Infinity][end]);
  const clipped = values.map((value) => Math.min(Math.max(value, lowest), highest));
  const [low, high] = [Math.min(...clipped), Math.max(...clipped)];
  const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 0.01;
  const domain = [Math.max(lowest, low - margin), Math.min(highest, high + margin)];
  for (const unit of unitsOf(spec)) {
    // A band is cut at the end of the axis.
    for (const step of unit.transform ?? []) if (step.as === "bottom") step.calculate = `isValid(datum.low) ? max(datum.low, ${domain[0]}) : null`;
    for (const name of CHANNELS) {
      const channel = unit.encoding?.[name];
      if (!["mean", "low", "bottom"].includes(channel?.field)) continue;
      channel.title = title;
      channel.scale = {domain, nice: false};
      if (channel.axis?.values) channel.axis = {...channel.axis, values: undefined};
    }
    for (const told of [unit.encoding?.tooltip ?? []].flat()) if (told.field === "mean") Object.assign(told, {title, format: ".4~g"});
  }
}

function withScale(spec, name, log) {
  const numbers = numbersOf(spec, name);
  for (const channel of scaledOf(spec, name)) {
    const domain = channel.scale?.domain && (log ? [Math.min(...numbers), Math.max(...numbers)] : channel.scale.domain);
    channel.scale = {...channel.scale, type: log ? "log" : "linear", nice: false, zero: log ? undefined : false, domain};
    channel.axis = {...channel.axis, values: undefined, tickCount: 6, format: "~g"};
  }
}

// Binds the axes of the first layer that has most of them: dragging moves them, and the wheel zooms while Alt is held.
function withZoom(spec) {
  const countOf = (unit) => CHANNELS.filter((name) => isNumber(unit.encoding?.[name])).length;
  const units = unitsOf(spec).filter((unit) => unit.mark);
  const bound = units.toSorted((one, other) => countOf(other) - countOf(one))[0];
  if (!bound || !countOf(bound)) return {};
  const encodings = CHANNELS.filter((name) => isNumber(bound.encoding[name]));
  bound.params = [...bound.params ?? [], {name: "zoom", select: {type: "interval", encodings, zoom: "wheel![event.altKey]"}, bind: "scales"}];
  const signals = Object.fromEntries(encodings.map((name) => [name, `zoom_${bound.encoding[name].field}`]));
  for (const unit of units) {
    unit.mark = {...typeof unit.mark === "string" ? {type: unit.mark} : unit.mark, clip: true};
    for (const name of encodings) {
      const axis = unit.encoding?.[name]?.axis;
      // Chosen ticks are those of the whole range.
      if (Array.isArray(axis?.values)) axis.values = {expr: `isValid(${signals[name]}) ? null : ${JSON.stringify(axis.values)}`};
    }
  }
  return signals;
}

function zoomBy(view, signals, factor) {
  for (const [name, signal] of Object.entries(signals)) {
    const scale = view.scale(name);
    const [to, from] = scale.type === "log" ? [Math.log, Math.exp] : [Number, Number];
    const [low, high] = scale.domain().map(to);
    const half = (high - low) / 2 / factor;
    view.signal(signal, factor === 0 ? null : [from((low + high) / 2 - half), from((low + high) / 2 + half)]);
  }
  return view.runAsync();
}

// ---- the bar above the panels, which is filled when one of them is first in view
function fillBar(box) {
  const bar = box.querySelector(".axes");
  if (!bar || bar.childNodes.length) return;
  const choice = drawings.get(box);
  const specs = [...box.querySelectorAll("figure")].map(specOf);
  const changed = () => {
    // A printer gets what was chosen, and otherwise the static chart.
    box.classList.toggle("chosen", choice.metric !== null || Object.keys(choice.logs).length > 0);
    document.dispatchEvent(new Event("refilter"));
  };
  const values = specs.flatMap((spec) => scaledOf(spec, "y").concat(scaledOf(spec, "x"))).find((channel) => ["mean", "low"].includes(channel.field));
  // A chart at one density says it in the title of its axis.
  const ofCurves = specs.every(isCurve);
  const known = ofCurves ? data.learning.titles : data.measures.filter((_, place) => new Set(data.values[place]).size > 1);
  const own = values && (ofCurves ? known : data.measures).find((name) => values.title === name || values.title.startsWith(`${name} at `));
  const heading = box.parentElement.querySelector("h2, h3");
  if (own && (ofCurves ? heading.textContent.endsWith(own) : specs.every(takesMetric))) {
    const capital = (text) => ofCurves ? text : text[0].toUpperCase() + text.slice(1);
    let shown = capital(own);
    bar.append(element("label", {}, "Metric ", element("select", {onchange: (event) => {
      choice.metric = event.target.value === own ? null : event.target.value;
      if (ofCurves) {
        // Another metric begins with a linear axis.
        if (choice.metric === null) delete choice.logs.y;
        else choice.logs.y = false;
        const log = bar.querySelector("input[data-axis=y]");
        if (log) log.checked = choice.metric === null && specs.some((spec) => isLog(spec, "y"));
      }
      heading.textContent = heading.textContent.replace(shown, capital(event.target.value));
      shown = capital(event.target.value);
      changed();
    }}, ...known.map((name) => element("option", {selected: name === own}, name)))));
  }
  for (const [name, word] of [["x", "horizontal"], ["y", "vertical"]]) {
    const numbers = specs.flatMap((spec) => numbersOf(spec, name));
    if (!numbers.length || Math.min(...numbers) <= 0 || (Math.max(...numbers) < 3 * Math.min(...numbers) && !specs.some((spec) => isLog(spec, name)))) continue;
    bar.append(element("label", {}, element("input", {type: "checkbox", "data-axis": name, checked: specs.some((spec) => isLog(spec, name)),
      onchange: (event) => { choice.logs[name] = event.target.checked; changed(); }}), ` log ${word}`));
  }
  if (!specs.some((spec) => CHANNELS.some((name) => scaledOf(spec, name).length))) return;  // nothing but names on both axes
  const zoom = (text, label, factor) => element("button", {type: "button", "aria-label": label, title: `${label}. Or drag to move, hold Alt while scrolling to zoom, double-click for the whole.`,
    onclick: () => box.querySelectorAll("figure").forEach((figure) => { const own = drawn.get(figure); if (own) zoomBy(own.view, own.signals, factor); })}, text);
  bar.append(element("span", {class: "zoom"}, zoom("+", "Zoom in", 1.6), zoom("−", "Zoom out", 1 / 1.6), zoom("Whole", "Show the whole", 0)));
}

// Returns the chart as chosen: without the rows of hidden and filtered-out series; null if the filter leaves nothing of it.
function chosen(figure, spec) {
  const choice = choiceOf(figure);
  const matches = matcher(field.value);
  const title = figure.querySelector("h3")?.textContent ?? "";
  const isReference = choice.hidden.has("dense (reference)") ? (name) => /^dense( ·|$)/.test(name) : () => false;
  let [named, matching] = [0, 0];
  const keep = (row) => {
    const names = Object.values(row).filter((value) => typeof value === "string" && value !== "");
    if (!names.length) return true;
    const is = matches([title, ...names].join(" "));
    [named, matching] = [named + 1, matching + is];
    return is && !names.some((name) => choice.hidden.has(name) || isReference(name));
  };
  if (choice.metric !== null) spec = withMetric(spec, choice.metric);
  const datasets = Object.fromEntries(Object.entries(spec.datasets ?? {}).map(([name, rows]) => [name, rows.filter(keep)]));
  if (!(named ? matching > 0 : matches(title) || !title)) return null;
  for (const [name, log] of Object.entries(choice.logs)) {
    // A metric that has a zero or less has no logarithm.
    if (isLog(spec, name) !== log && (!log || Math.min(...numbersOf(spec, name)) > 0)) withScale(spec, name, log);
  }
  return {...spec, datasets};
}
