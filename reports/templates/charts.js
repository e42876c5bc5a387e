// Vega is text until a chart is in view: a browser compiles it for a tenth of a second.
let loaded = null;
function vega() {
  loaded ??= new Promise((ready) => {
    document.head.append(element("script", {}, byId("vega").textContent));
    ready(window.vegaEmbed);
  });
  return loaded;
}

// Replaces each static SVG by its interactive chart when it scrolls into view. Without scripts the static SVG stays.
const dark = matchMedia("(prefers-color-scheme: dark)");
// Where a filter leaves a layer without rows, Vega warns that its axis has no range of its own; errors are always shown.
const [ERRORS, WARNINGS] = [1, 2];
const options = () => ({
  renderer: "svg",
  logLevel: isFiltering() ? ERRORS : WARNINGS,
  actions: {export: true, source: false, compiled: false, editor: false},
  tooltip: {theme: dark.matches ? "dark" : "light"},
});
const specOf = (figure) => JSON.parse(figure.querySelector("script").textContent);
const drawn = new Map();

// Static charts are text until they are near the view or printed: a browser would lay out ten thousand elements of them.
function showStill(figure) {
  const text = figure.querySelector(".still > noscript");
  if (text) text.parentNode.innerHTML = text.textContent;
}

async function activate(figure) {
  showStill(figure);
  fillBar(figure.closest(".drawing"));
  const spec = chosen(figure, specOf(figure));
  if (spec === null) return;
  const signals = withZoom(spec);
  const embed = await vega();
  const live = figure.querySelector(".live");
  live.setAttribute("aria-label", figure.querySelector(".still").getAttribute("aria-label"));
  try {
    drawn.get(figure)?.finalize();
    drawn.set(figure, {...await embed(live, spec, options()), signals});
    live.setAttribute("role", "img");
    live.removeAttribute("aria-hidden");
    figure.classList.add("interactive");
  } catch (problem) {
    live.remove();
    console.warn("Keeping the static chart:", problem);
  }
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      watcher.unobserve(entry.target);
      activate(entry.target);
    }
  }
}, {rootMargin: "300px"});
const figures = [...document.querySelectorAll("figure:has(.still)")];

// Hides the charts of which nothing is left, and draws the others again when they are in view.
function refilter() {
  for (const figure of figures) {
    // Nothing is hidden without a filter, so no data is parsed before its chart is in view.
    figure.hidden = isFiltering() && chosen(figure, specOf(figure)) === null;
    watcher.unobserve(figure);
    watcher.observe(figure);
  }
}
document.addEventListener("refilter", refilter);
addEventListener("beforeprint", () => figures.forEach(showStill));
refilter();
