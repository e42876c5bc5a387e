// One chart of all runs whose axes, colour and level the reader chooses. It zooms, and follows the page's filter.
const explorer = byId("explore");
const numeric = (list) => list.filter((value) => value !== null && value !== "");
const settingNames = [...new Set(Object.values(data.settings).flatMap(Object.keys))];
const parsed = (text) => text === undefined || text === "null" || text.trim() === "" || Number.isNaN(Number(text)) ? null : Number(text);
const COSTS = {num_active: "active parameters", train_flops: "training FLOPs", train_s: data.train_time, wall_s: "wall time (s)"};

// Every quantity by its title: a function from the place of a run to its number.
const quantities = new Map([
  ...data.measures.map((title, column) => [title, (place) => data.values[column][place]]),
  ...Object.entries(COSTS).map(([name, title]) => [title, (place) => runs[name]?.[place] ?? null]),
  ...settingNames.map((name) => [name, (place) => parsed(data.settings[runs.cell[place]][name])]),
].filter(([, of]) => new Set(numeric(runs.run_key.map((_, place) => of(place)))).size > 1));
const groups = new Map([
  ["setting", (place) => data.labels[runs.cell[place]]],
  ...settingNames.filter((name) => new Set(Object.values(data.settings).map((each) => each[name])).size <= 24)
    .map((name) => [name, (place) => data.settings[runs.cell[place]][name] ?? "–"]),
]);

function chooser(label, names, chosen) {
  const box = element("select", {onchange: () => redraw()}, ...names.map((name) => element("option", {selected: name === chosen}, name)));
  explorer.querySelector(".choices").append(element("label", {}, `${label} `, box));
  return box;
}

function points(choice) {
  const matches = matcher(field.value);
  const rows = runs.run_key.map((key, place) => ({
    x: quantities.get(choice.x)(place), y: quantities.get(choice.y)(place), group: String(groups.get(choice.color)(place)),
    setting: data.labels[runs.cell[place]], seed: runs.seed[place], status: runs.status[place], key,
  })).filter((row) => row.status === "COMPLETED" && row.x !== null && row.y !== null && matches(`${row.setting} ${row.seed} ${row.key}`));
  if (choice.level === "runs") return rows;
  const cells = Map.groupBy(rows, (row) => `${row.group}\n${row.setting}`);
  const mean = (list, name) => list.reduce((sum, row) => sum + row[name], 0) / list.length;
  return [...cells.values()].map((list) => ({...list[0], x: mean(list, "x"), y: mean(list, "y"), seed: `${list.length} runs`, key: ""}));
}

function exploreSpec(choice) {
  const rows = points(choice);
  const least = (name) => Math.min(...rows.map((row) => row[name]));
  const axis = (name, log) => ({field: name, type: "quantitative", title: choice[name], axis: {tickCount: 8},
    scale: {type: log && least(name) > 0 ? "log" : "linear", zero: false, nice: false, padding: 12}});
  const tooltip = [["setting"], ["seed"], ["x", choice.x], ["y", choice.y], ["key", "run"]];
  return {
    width: "container", height: 340, data: {values: rows}, autosize: {type: "fit-x", contains: "padding"}, config: data.config,
    params: [
      {name: "view", select: {type: "interval", zoom: "wheel![event.altKey]"}, bind: "scales"},
      {name: "series", select: {type: "point", fields: ["group"]}, bind: "legend"},
    ],
    mark: {type: "point", filled: true, size: 60},
    encoding: {
      x: axis("x", choice.logX), y: axis("y", choice.logY),
      color: {field: "group", type: "nominal", title: choice.color, scale: {scheme: "tableau20"}, legend: rows.length ? {symbolLimit: 24} : null},
      opacity: {condition: {param: "series", value: 0.85}, value: 0.06},
      tooltip: tooltip.map(([name, title]) => ({field: name, title: title ?? name})),
    },
  };
}

let explored = null;
let choices = null;
async function redraw() {
  const choice = Object.fromEntries(Object.entries(choices).map(([name, box]) => [name, box.type === "checkbox" ? box.checked : box.value]));
  const embed = await vega();
  explored?.finalize();
  explored = await embed(explorer.querySelector(".plot"), exploreSpec(choice), options());
  explorer.querySelector(".plot").setAttribute("aria-label", `${choice.y} against ${choice.x}, one point per ${choice.level === "runs" ? "run" : "setting"}`);
}

if (quantities.size > 1) {
  explorer.hidden = false;
  const names = [...quantities.keys()];
  const x = ["method.density", "active parameters"].find((name) => quantities.has(name)) ?? names.at(-1);
  choices = {
    y: chooser("Vertical", names, names.includes(data.headline) ? data.headline : names[0]),
    x: chooser("Horizontal", names, x),
    color: chooser("Colour", [...groups.keys()], groups.has("method.name") ? "method.name" : "setting"),
    level: chooser("Points", ["settings", "runs"], "settings"),
  };
  for (const [name, label] of [["logX", "log horizontal"], ["logY", "log vertical"]]) {
    choices[name] = element("input", {type: "checkbox", onchange: () => redraw()});
    explorer.querySelector(".choices").append(element("label", {}, choices[name], ` ${label}`));
  }
  new IntersectionObserver((entries, seen) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      seen.disconnect();
      redraw();
      document.addEventListener("refilter", redraw);
    }
  }, {rootMargin: "100px"}).observe(explorer);
}
