"""The charts of a study by name: all of them for the page, or one as an Altair chart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import altair as alt

from pruneyard.reports.charts.against import against_density, against_ipc
from pruneyard.reports.charts.analyses import importance, pareto, profile, time_to_target
from pruneyard.reports.charts.cost import cost
from pruneyard.reports.charts.distillation import minimised, over_time
from pruneyard.reports.charts.figure import Figure, config, still, undrawn
from pruneyard.reports.charts.latency import latency
from pruneyard.reports.charts.layers import layers
from pruneyard.reports.charts.learning import learning
from pruneyard.reports.charts.lineages import settings_over_time
from pruneyard.reports.charts.reliability import reliability
from pruneyard.reports.glossary import measure_title
from pruneyard.reports.study import Study

AnyChart = alt.Chart | alt.LayerChart | alt.ConcatChart

TAKE_A_MEASURE = ("density", "ipc", "learning", "cost", "time-to-target", "pareto", "profile", "importance")
"""The charts that show any one measure; the others show what their name says."""
ALIASES = {"accuracy-density": "density", "accuracy-ipc": "ipc"}
_WIDTHS = {1: 560, 2: 340}  # pixels of a panel, by the number of panels in a row
_COLUMNS = 3
_WIDTH = 250


@dataclass(frozen=True, kw_only=True)
class Maker:
    """A chart of the page: the title that is shown if it fails, and the function that returns its figures."""

    title: str
    figures: Callable[[], list[Figure]]


def makers(study: Study, measure: str | None = None) -> dict[str, Maker]:
    """Returns the makers of all charts by name, in the order of the page.

    measure: what the charts of `TAKE_A_MEASURE` show; by default the first measure of the summary, and for learning curves
        accuracy and NLL.
    """
    shown = measure or next(iter(study.measures), None)
    found = {
        "schedules": Maker(title="Hyperparameter schedules", figures=partial(settings_over_time, study)),
        "distillation": Maker(title="Accuracy over distillation time", figures=partial(over_time, study)),
        "learning": Maker(title="Learning curves", figures=partial(learning, study, measure)),
        "losses": Maker(title="Minimised losses", figures=partial(minimised, study)),
        "reliability": Maker(title="Reliability diagrams", figures=partial(reliability, study)),
        "layers": Maker(title="Density per layer", figures=partial(layers, study)),
    }
    if shown is not None:
        name = measure_title(shown)
        first = {
            "density": Maker(title=f"{name} versus density", figures=partial(against_density, study, shown)),
            "ipc": Maker(title=f"{name} versus images per class", figures=partial(against_ipc, study, shown)),
        }
        against_cost = measure or study.main_measure or shown
        title = f"{measure_title(against_cost)} versus cost"
        found = {**first, **found, "cost": Maker(title=title, figures=partial(cost, study, against_cost))}
    return found | {"latency": Maker(title="Measured latency", figures=partial(latency, study))}


def further_makers(study: Study, measure: str | None = None) -> dict[str, Maker]:
    """Returns the makers of the charts that the page leaves to `pruneyard figure`, by name.

    measure: by default the first measure of the summary, and for the share of runs at a target the same name on val.
    """
    shown = measure or next(iter(study.measures), None)
    if shown is None:
        return {}
    on_val = f"val/{shown.partition('/')[2]}"
    evaluated = measure or (on_val if on_val in study.by_run else shown)
    return {
        "time-to-target": Maker(title="Runs at the target", figures=partial(time_to_target, study, evaluated)),
        "pareto": Maker(title="Pareto front", figures=partial(pareto, study, shown)),
        "profile": Maker(title="Performance profile", figures=partial(profile, study, shown)),
        "importance": Maker(title="Importance of hyperparameters", figures=partial(importance, study, shown)),
    }


def figures(study: Study) -> list[Figure]:
    """Returns every figure of the page that the study has data for, in its order. One that fails becomes `undrawn`."""
    return [figure for maker in makers(study).values() for figure in _made(maker)]


def _made(maker: Maker) -> list[Figure]:
    try:
        return maker.figures()
    # Whatever it is, the page can do without one figure, and says which.
    except Exception as error:
        return [undrawn(maker.title, error, name=f"undrawn-{maker.title.replace(' ', '-')}")]


def figure_named(study: Study, name: str | None = None, measure: str | None = None) -> Figure | None:
    """Returns the first figure of a chart, by default of the first chart that the study has data for; None without data.

    Raises `ValueError` for a chart that there is not or that shows no chosen measure, and for one that cannot be drawn.
    """
    found = makers(study, measure) | further_makers(study, measure)
    name = ALIASES.get(name or "", name)
    if name is not None and name not in found:
        raise ValueError(f"there is no chart {name!r}; it must be one of {', '.join(found)}")
    if name is not None and measure is not None and name not in TAKE_A_MEASURE:
        raise ValueError(f"chart {name!r} shows what its name says; only {', '.join(TAKE_A_MEASURE)} show a chosen metric")
    names = TAKE_A_MEASURE if measure is not None else tuple(found)
    for each in (name,) if name is not None else names:
        drawn = found[each].figures()
        if drawn:
            if not drawn[0].panels:
                raise ValueError(drawn[0].caption)
            return drawn[0]
    return None


def standalone(figure: Figure) -> AnyChart:
    """Returns the panels of a figure as one Altair chart with a title and legends, which the page draws itself."""
    columns = min(len(figure.panels), _COLUMNS)
    width = _WIDTHS.get(columns, _WIDTH)
    # Inline, because only a whole chart may have a table of data sets, and these charts become parts of one.
    with alt.data_transformers.enable(consolidate_datasets=False):
        parts = [panel.chart.to_dict() for panel in figure.panels]
    charts = [
        alt.Chart.from_dict({**_with_legends(part), "title": panel.title, "width": width})
        for part, panel in zip(parts, figure.panels, strict=True)
    ]
    for chart in charts:
        chart.config = alt.Undefined
    if len(charts) == 1:
        whole: AnyChart = charts[0]
        title = " · ".join(filter(None, (figure.title, figure.panels[0].title)))
    else:
        whole, title = alt.concat(*charts, columns=columns), figure.title
    dashed = [f"dashed: {entry.label}" for entry in figure.legend if entry.symbol == "dashes"]
    titled: AnyChart = whole.properties(title=alt.Title(title, subtitle=dashed)).configure_view(stroke=None)
    return titled


def picture(figure: Figure, *, name: str) -> str:
    """Returns the panels of a figure with their legends as one static SVG, whose text has the colour of the text around it."""
    return still({**standalone(figure).to_dict(), "config": config("legend")}, name=name)


def _with_legends(spec: Any) -> Any:
    """Returns a specification with a legend wherever a colour or a symbol was told to have none."""
    if isinstance(spec, list | tuple):
        return [_with_legends(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    # Its entries are names of settings, which need no title; a layer that is faint, or only shows tooltips, would hide them.
    legend = {"title": None, "symbolOpacity": 1}
    return {
        key: legend if key == "legend" and value is None else _with_legends(value)
        for key, value in spec.items()
        if key != "$schema"
    }
