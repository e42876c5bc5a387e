"""Figures of the page: Vega-Lite charts, each also rendered as a static SVG for print, mail and browsers without scripts."""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import altair as alt
import vl_convert

from pruneyard.reports.tables import Table

_LOG = logging.getLogger(__name__)

Chart = alt.Chart | alt.LayerChart | alt.FacetChart

MAX_PANELS = 12
STILL_WIDTHS = {"wide": 880, "half": 430, "third": 290}
_COORDINATES = re.compile(r' (d|transform|x|y|x2|y2)="([^"]*)"')
_KEPT = r"\1"
# One decimal of a pixel is enough.
_LONG_NUMBER = re.compile(r"(\d+\.\d)\d+")
_SIZE = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
_IDENTIFIER = re.compile(r'\bid="([A-Za-z_]\w*)"')

_CONFIG: dict[str, Any] = {
    # The page states the text alternative itself, see `Panel.words`.
    "aria": False,
    "background": None,
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        # The colour of the page's text, which differs between light and dark mode.
        "labelColor": "currentColor",
        "labelOpacity": 0.75,
        "labelFontSize": 11,
        "titleColor": "currentColor",
        "titleOpacity": 0.9,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "gridColor": "currentColor",
        "gridOpacity": 0.1,
        "domainColor": "currentColor",
        "domainOpacity": 0.35,
        "tickColor": "currentColor",
        "tickOpacity": 0.35,
        "labelOverlap": True,
    },
}


def config(*parts: str) -> dict[str, Any]:
    """Returns the configuration of the page's charts; `parts`, such as `legend`, also get the colour of the page's text."""
    texts = {"labelColor": "currentColor", "labelFontSize": 11, "titleColor": "currentColor", "titleFontSize": 12}
    return {**_CONFIG, **dict.fromkeys(parts, texts), "title": {"color": "currentColor", "fontWeight": "normal"}}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One legend entry: a name, its colour, and one of Vega's symbols, `line` or `dashes`."""

    label: str
    color: str
    symbol: str = "line"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One rendered chart.

    `still` is the static SVG, `spec` the Vega-Lite JSON for the browser, `words` the text alternative, `note` a line above
    the chart, `chart` the interactive chart before rendering.
    """

    title: str
    words: str
    still: str
    spec: str
    chart: Chart
    note: str = ""

    @property
    def size(self) -> tuple[str, str]:
        """Width and height of the static SVG, in pixels."""
        found = _SIZE.search(self.still)
        return (found[1], found[2]) if found else ("3", "2")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels with a shared legend and caption, and optionally a table below. `width` is a key of `STILL_WIDTHS`.

    `folded` are panels that the page shows only when they are unfolded, under `folded_title`. `table_title` is the heading of
    the table, `table_note` the explanation below it.
    """

    name: str
    title: str
    caption: str
    width: str
    panels: Sequence[Panel]
    legend: Sequence[Entry] = ()
    folded: Sequence[Panel] = ()
    folded_title: str = ""
    table: Table | None = None
    table_title: str = "All measurements"
    table_note: str = ""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A chart before rendering; `hover` is a layer that only the interactive chart has."""

    title: str
    words: str
    chart: Chart
    hover: alt.Chart | None = None
    note: str = ""


@cache
def vega_lite_version() -> str:
    """Returns the Vega-Lite version that Altair writes, or the newest version that vl-convert bundles."""
    wanted = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    known: list[str] = vl_convert.get_vegalite_versions()
    return wanted if wanted in known else known[-1]


@cache
def script_bundle() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed as one script that needs no network."""
    expose = "window.vegaEmbed = vegaEmbed;"
    bundle: str = vl_convert.javascript_bundle(expose, vl_version=vega_lite_version())
    # HTML would end the script element at a closing tag inside a string.
    return bundle.replace("</script", "<\\/script")


def draw(
    plots: Sequence[Callable[[], Plot]],
    *,
    name: str,
    title: str,
    caption: str,
    legend: Sequence[Entry] = (),
    table: Table | None = None,
    width: str = "",
    num_open: int = MAX_PANELS,
    folded_title: str = "",
) -> list[Figure]:
    """Renders plots as a list with one figure, or an empty list without plots. A figure that fails becomes `undrawn`.

    The panels after the first `num_open` are folded, under `folded_title`. Renders at most `MAX_PANELS` panels; the caption
    then says how many plots there are. Plots are functions, so that no more than these are made. The default `width` follows the
    number of plots.
    """
    if not plots:
        return []
    try:
        figure = _figure(plots, name=name, title=title, caption=caption, legend=legend, table=table, width=width)
    # The renderer is a JavaScript engine that fails in its own ways; whatever it is, the page can do without one figure.
    except Exception as error:
        return [undrawn(title, error, name=name, table=table)]
    if len(figure.panels) > num_open:
        figure = replace(figure, panels=figure.panels[:num_open], folded=figure.panels[num_open:], folded_title=folded_title)
    return [figure]


def undrawn(title: str, error: Exception, *, name: str, table: Table | None = None) -> Figure:
    """Returns what the page shows in place of a figure that could not be drawn: its title, the error, and its table."""
    _LOG.warning("the figure %r could not be drawn: %s: %s", title, type(error).__name__, error)
    _LOG.debug("traceback", exc_info=error)
    caption = f"This figure could not be drawn: {type(error).__name__}: {error}. The other parts of the page are not affected."
    return Figure(name=name, title=title, caption=caption, width="wide", panels=(), table=table)


def _figure(
    plots: Sequence[Callable[[], Plot]],
    *,
    name: str,
    title: str,
    caption: str,
    legend: Sequence[Entry],
    table: Table | None,
    width: str,
) -> Figure:
    width = width or ("wide" if len(plots) == 1 else "half" if len(plots) in (2, 4) else "third")
    panels = [
        _panel(plot(), width=width, name=f"{name}-{place}") for place, plot in enumerate(plots[:MAX_PANELS])
    ]
    if len(plots) > MAX_PANELS:
        caption += f" Only the first {MAX_PANELS} of {len(plots)} panels are shown; the tables have all settings."
    return Figure(name=name, title=title, caption=caption, width=width, panels=panels, legend=legend, table=table)


def _panel(plot: Plot, *, width: str, name: str) -> Panel:
    spec = _specification(plot.chart)
    interactive = plot.chart if plot.hover is None else alt.layer(plot.chart, plot.hover)
    return Panel(
        title=plot.title,
        words=plot.words,
        still=still({**spec, "width": STILL_WIDTHS[width]}, name=name),
        spec=embeddable_json({**_specification(interactive), "width": "container"}),
        chart=interactive,
        note=plot.note,
    )


def still(spec: Mapping[str, Any], *, name: str) -> str:
    """Returns a static SVG of a Vega-Lite specification; `name` makes its identifiers unique on a page."""
    # No base URL is allowed, so that rendering loads nothing from the network.
    svg = vl_convert.vegalite_to_svg(dict(spec), vl_version=vega_lite_version(), allowed_base_urls=[])
    return _embeddable(svg, name)


def _specification(chart: Chart) -> dict[str, Any]:
    fitted = {"autosize": {"type": "fit-x", "contains": "padding"}}
    # Checking against the schema takes a sixth of a page's time; tests/reports/test_page.py does it.
    return {**chart.to_dict(validate=False), "config": _CONFIG, **fitted}


def embeddable_json(value: Mapping[str, Any]) -> str:
    """Returns JSON that is safe inside a script element for any text. Raises `ValueError` for NaN, which JSON lacks."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    # `<` could end the script element; the last two end a line in older JavaScript, though not in JSON.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _embeddable(svg: str, name: str) -> str:
    """Returns the SVG with shorter numbers and with identifiers that are unique on the page."""
    svg = svg[svg.index("<svg") :]
    # Every SVG has clip paths of the same names, and the page embeds them all.
    for identifier in set(_IDENTIFIER.findall(svg)):
        svg = svg.replace(f'id="{identifier}"', f'id="{name}-{identifier}"')
        svg = svg.replace(f"url(#{identifier})", f"url(#{name}-{identifier})")
    return _COORDINATES.sub(_shorten, svg)


def _shorten(attribute: re.Match[str]) -> str:
    return f' {attribute[1]}="{_LONG_NUMBER.sub(_KEPT, attribute[2])}"'
