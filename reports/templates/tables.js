// One table: its rows may exist already, or are made when they are shown (`make` returns the cells' texts).
const STEP = 100;
const cellsOf = (row) => (row.dataset.cells ?? "").split(" ").filter(Boolean);
class TableView {
  constructor(box, {make = null, texts = null} = {}) {
    this.box = box;
    this.body = box.querySelector("tbody");
    this.headers = [...box.querySelectorAll("thead th")];
    this.name = box.dataset.name;
    // The further rows of a long table, which a browser with scripts reads as text: nothing is laid out before it is asked for.
    this.rest = box.nextElementSibling?.matches("noscript.rest") ? box.nextElementSibling : null;
    this.step = this.rest ? STEP : Infinity;
    this.limit = this.rest && !make ? this.body.rows.length : this.step;
    this.hidden = new Set();
    this.make = make;
    if (make) {
      this.rest.remove();
      this.rest = null;
      box.hidden = false;
    }
    this.rows = texts
      ? texts.map((cells, place) => ({cells, place}))
      : [...this.body.rows].map((row, place) => ({row, place, about: cellsOf(row)}));
    this.total = this.rest ? Number(this.rest.dataset.rows) + this.rows.length : this.rows.length;
    this.shown = this.rows;
    this.order = null;
    this.numeric = null;
    this.addTools();
    this.headers.forEach((header, column) => this.addSorting(header, column));
    // What is folded is made when it is unfolded.
    this.fold = make ? box.closest("details:not([open])") : null;
    this.fold?.addEventListener("toggle", () => { this.fold = null; this.render(); }, {once: true});
    this.render();
    addEventListener("beforeprint", () => { if (!make) this.showAll(); });
  }

  // Makes the further rows of a long table.
  load() {
    if (!this.rest) return;
    const holder = document.createElement("template");
    holder.innerHTML = this.rest.textContent;
    for (const row of holder.content.querySelectorAll("tbody tr")) this.rows.push({row, place: this.rows.length, about: cellsOf(row)});
    this.rest.remove();
    this.rest = null;
  }

  showAll() {
    this.load();
    this.limit = Infinity;
    this.render();
  }

  // Reads the texts of all cells, which only sorting, filtering and copying need.
  read() {
    if (this.numeric) return;
    this.load();
    for (const entry of this.rows) {
      entry.cells ??= [...entry.row.cells].map(textOf);
      entry.text = entry.cells.join(" ") + (entry.about ?? []).map((cell) => ` ${data.labels[cell]}`).join("");
    }
    this.numeric = this.headers.map((_, column) => {
      const texts = this.rows.map((entry) => entry.cells[column]).filter((text) => !MISSING.has(text));
      return texts.length > 0 && texts.every((text) => NUMBER.test(text));
    });
  }

  addSorting(header, column) {
    header.setAttribute("aria-sort", "none");
    const button = element("button", {type: "button", class: "sort", onclick: () => this.sort(column)}, ...header.childNodes);
    header.replaceChildren(button);
  }

  sort(column) {
    this.read();
    const before = this.headers[column].getAttribute("aria-sort");
    const first = this.numeric[column] && !this.headers[column].classList.contains("label") ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const next = before === "none" ? first : before === first ? second : "none";
    this.headers.forEach((header, place) => header.setAttribute("aria-sort", place === column ? next : "none"));
    this.order = next === "none" ? null : {column, sign: next === "ascending" ? 1 : -1};
    this.render();
    say(next === "none" ? "original order" : `sorted by ${this.headers[column].textContent}, ${next}`);
  }

  filter(matches) {
    this.fold = null;
    this.read();
    this.shown = this.rows.filter((entry) => matches(entry.text));
    this.limit = this.step;
    this.render();
  }

  render() {
    const all = this.total;
    const num = this.rest ? all : this.shown.length;
    const rows = `${all.toLocaleString("en")} ${all === 1 ? "row" : "rows"}`;
    this.count.textContent = num === all ? rows : `${num.toLocaleString("en")} of ${rows}`;
    this.more.hidden = num <= this.limit;
    if (this.fold) return;
    if (this.order) {
      const {column, sign} = this.order;
      const missing = (entry) => this.numeric[column] && Number.isNaN(numberOf(entry.cells[column]));
      this.shown.sort((one, other) => missing(one) - missing(other)
        || sign * (compare(one.cells[column], other.cells[column], this.numeric[column]) ?? 0) || one.place - other.place);
    } else {
      this.shown.sort((one, other) => one.place - other.place);
    }
    const visible = this.shown.slice(0, this.limit);
    for (const entry of visible) {
      entry.row ??= this.make(entry);
      if (!entry.linked) {
        this.addLinks(entry);
        this.hideColumns(entry.row);
        entry.linked = true;
      }
    }
    this.body.replaceChildren(...visible.map((entry) => entry.row));
  }

  addTools() {
    this.count = element("span", {class: "count"});
    this.more = element("button", {type: "button", hidden: true, onclick: () => { this.load(); this.limit += 10 * STEP; this.render(); }}, "Show more rows");
    const copies = Object.keys(FORMATS).map((format) => element("button", {type: "button", onclick: () => this.copyAs(format)}, format));
    const boxes = this.headers.map((header, column) => header.classList.contains("label") ? null : element("label", {},
      element("input", {type: "checkbox", checked: true, onchange: (event) => this.toggle(column, event.target.checked)}), header.textContent));
    const columns = element("details", {class: "columns"}, element("summary", {}, "Columns"), element("div", {}, ...boxes.filter(Boolean)));
    const tools = element("div", {class: "tools"}, this.count, element("span", {}, "Copy as"), ...copies, columns);
    if (this.make || this.rows.some((entry) => entry.about?.length)) {
      tools.append(element("button", {type: "button", class: "behind", onclick: () => this.downloadRuns()}, "Download the runs behind (CSV)"));
    }
    this.box.before(tools);
    this.box.after(this.more);
  }

  toggle(column, isShown) {
    if (isShown) this.hidden.delete(column);
    else this.hidden.add(column);
    this.headers[column].hidden = !isShown;
    for (const entry of this.rows) if (entry.row) entry.row.cells[column].hidden = !isShown;
  }

  hideColumns(row) {
    for (const column of this.hidden) row.cells[column].hidden = true;
  }

  async copyAs(format) {
    this.read();
    const columns = this.headers.map((_, column) => column).filter((column) => !this.hidden.has(column));
    const head = columns.map((column) => ({text: this.headers[column].textContent, words: !this.headers[column].classList.contains("number")}));
    const body = this.shown.map((entry) => columns.map((column) => ({text: entry.cells[column], best: entry.row?.cells[column].classList.contains("best")})));
    await copy(FORMATS[format]([head, ...body]));
    say(`copied ${body.length} rows as ${format}`);
  }

  downloadRuns() {
    this.load();
    const cells = new Set(this.shown.flatMap((entry) => entry.about ?? []).map(Number));
    const places = this.make ? this.shown.map((entry) => entry.place) : runs.cell.flatMap((cell, place) => cells.has(cell) ? [place] : []);
    download(`${this.name}-runs.csv`, csvOfRuns(places));
    say(`downloaded ${places.length} runs`);
  }

  addLinks(entry) {
    const first = entry.row.cells[0];
    const open = this.make ? () => showRun(entry.place) : entry.about?.length ? () => showSetting(entry.about[0]) : null;
    if (open) first.replaceChildren(element("button", {type: "button", class: "open", onclick: open}, ...first.childNodes));
  }
}

