"""Figures of probes: shifts, segments between networks, overlaps of masks, attributions, concepts and populations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import formats, palette, series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Figure, Plot, draw
from pruneyard.reports.charts.matrix import matrix
from pruneyard.reports.glossary import title
from pruneyard.reports.statistics.intervals import half_width
from pruneyard.reports.study import Study

MAX_LINES = 24
MAX_CELLS_OF_MATRIX = 40  # runs on one side of a matrix
MAX_RANKS = 41  # points of a curve over ranks
_RUN = ["label", "outer", "run_key"]


def probe_figures(study: Study, name: str, cells: pd.DataFrame) -> list[Figure]:
    """Returns the figures of one probe. cells: those of `Study.cells` that this probe measured."""
    cells = cells.assign(label=_of_input(list(cells["label"]), name))
    match name:
        case "shift":
            return shifts(study, cells)
        case "connectivity":
            return paths(study, cells)
        case "mask_overlap":
            return overlaps(study, cells)
        case "attribution" | "lima":
            return removals(study, cells, name)
        case "robust_explain":
            return populations(study, cells)
        case "craft":
            return matrices(study, cells, "concept_importance", title="Importance of concepts by class", x="concept")
        case "holistic_concepts":
            return matrices(study, cells, "strategy", title="Strategies: importances of concepts", x="concept")
        case "heavy_tail":
            return over_layers(study, cells, {"tail_exponent": "tail exponent"}, title="Tail exponents of layers")
        case "information_plane":
            names = {"information_input": "I(X; T), nats", "information_label": "I(Y; T), nats"}
            return over_layers(study, cells, names, title="Information in layers on inputs and labels")
        case "feature_complexity":
            names = {"feature_information": "V-information, share"}
            return over_layers(study, cells, names, title="What linear decoders find of the features in each layer")
        case "diffroar":
            return retrainings(study, cells)
        case "inductive_bias":
            return hypotheses(study, cells)
        case _:
            return []  # the table says all: traces and eigenvalues, numbers of functions


def _of_input(labels: Sequence[str], name: str) -> list[str]:
    """Returns labels without the name of the probe and the word that a setting is that of its input, which every one has."""
    parts = [[part.removeprefix("input's ") for part in label.split(" · ") if part != name] for label in labels]
    short = [" · ".join(each) or label for each, label in zip(parts, labels, strict=True)]
    return short if len(set(short)) == len(set(labels)) else list(labels)


def shifts(study: Study, cells: pd.DataFrame) -> list[Figure]:
    """Returns accuracy, ECE and NLL over severity, mean over corruptions; and folded, accuracy under every corruption."""
    cells, note = _at_most(cells, MAX_LINES)
    styles = palette.methods(list(cells["label"]))
    found = {name: _points(study, f"shift_{name}", cells) for name in ("accuracy", "ece", "nll")}
    if found["accuracy"].empty:
        return []

    def plot(name: str, points: pd.DataFrame, heading: str) -> Plot:
        return _lines(points, styles=styles, title=heading, x="severity", y=title(name), ticks=sorted(set(points["x"])))

    plots = [partial(plot, name, _means(points), title(name)) for name, points in found.items() if len(points)]
    accuracy = found["accuracy"]
    for corruption in dict.fromkeys(accuracy["key"]):
        plots.append(partial(plot, "accuracy", _means(accuracy[accuracy["key"] == corruption]), corruption))
    return draw(
        plots,
        name="probe-shift",
        title="Metrics over the severity of a shift",
        caption=f"Test images under corruptions of growing severity, 0: as they are. Mean over corruptions and seeds. "
        f"{marks.INTERVAL}{note}",
        legend=marks.entries(styles, styles, lines=True),
        width="third",
        num_open=3,
        folded_title="Accuracy under each corruption",
    )


def paths(study: Study, cells: pd.DataFrame) -> list[Figure]:
    """Returns the test loss between networks, a panel for each setting; after matching as a second line."""
    points = _points(study, "path_loss", cells)
    points = points[points["key"].str.startswith("test")]
    if points.empty:
        return []
    points = points.assign(line=np.where(points["key"].str.startswith("test-matched"), "after matching", "as trained"))
    styles = palette.methods(["as trained", "after matching"])

    def plot(cell: int, label: str) -> Plot:
        own = points[points["cell"] == cell]
        means = own.groupby(["line", "x"], sort=False)["y"].agg(["mean", "min", "max", "size"]).reset_index()
        means = means.rename(columns={"min": "low", "max": "high", "size": "num"})
        return _lines(means, styles=styles, title=label, x="place on the segment", y="test loss", ticks=[0, 0.5, 1], of="line")

    return draw(
        _by_setting(plot, cells, points),
        name="probe-connectivity",
        title="Test loss between networks",
        caption="Along the segment from the weights of one network (0) to those of another (1). Lines: mean over pairs of "
        "networks; bands: from the smallest to the largest of the pairs.",
        legend=marks.entries(styles, set(points["line"]), lines=True),
        width="third",
    )


def overlaps(study: Study, cells: pd.DataFrame) -> list[Figure]:
    """Returns the matrix of mask overlaps, a panel for each setting."""
    points = _points(study, "mask_overlap", cells)
    names = {row["run_key"]: marks.joined(row["method"], f"seed {row['seed']}") for _, row in study.labelled.iterrows()}

    def plot(cell: int, label: str) -> Plot:
        own = points[points["cell"] == cell]
        own = own[own["run_key"] == own["run_key"].iloc[0]]
        order = list(dict.fromkeys(own["key"]))[:MAX_CELLS_OF_MATRIX]
        own = own[own["key"].isin(order) & (own["x"] < len(order))]
        table = pd.DataFrame(
            {
                "row": own["key"].map(lambda key: order.index(key) + 1),
                "column": own["x"].astype(int) + 1,
                "value": own["y"],
                "one": own["key"].map(lambda key: names.get(key, key)),
                "other": own["x"].map(lambda place: names.get(order[int(place)], order[int(place)])),
            }
        )
        apart = table.loc[table["row"] != table["column"], "value"]
        span = f"{apart.min():.3f} to {apart.max():.3f} between two of them"
        words = f"Overlap of the masks of {len(order)} networks, {label}: {span}"
        return matrix(table, title=label, words=words, y="network", x="network", low=0.0)

    return draw(
        _by_setting(plot, cells, points),
        name="probe-mask-overlap",
        title="Overlap of masks between networks",
        caption="Share of the weights active in at least one of two networks that are active in both, in the order of the "
        f"probe's input runs; at most {MAX_CELLS_OF_MATRIX} networks, of the first probe of each setting.",
        width="third",
    )


def removals(study: Study, cells: pd.DataFrame, name: str) -> list[Figure]:
    """Returns the probability of the predicted class over the share of the image, removed or put back."""
    cells, note = _at_most(cells, MAX_LINES)
    parts = {part: _points(study, part, cells) for part in ("insertion", "deletion", "insertion_random")}
    points = pd.concat(parts.values())
    if points.empty:
        return []
    keys = set(points["key"]) - {"random"}
    points["line"] = points["label"] if len(keys) < 2 or name == "attribution" else points["label"] + " · " + points["key"]
    styles = palette.methods(list(dict.fromkeys(points["line"])))
    titles = {"insertion": "put back", "deletion": "removed", "insertion_random": "put back at random"}

    def plot(part: str) -> Plot:
        own = points[points["name"] == part]
        x, y = "share of the image", "probability"
        return _lines(_means(own, of="line"), styles=styles, title=titles[part], x=x, y=y, ticks=[0, 0.5, 1], of="line")

    return draw(
        [partial(plot, part) for part, own in parts.items() if len(own)],
        name=f"probe-{name}",
        title="Probability of the predicted class by what is left of the image",
        caption="In the order of the attribution, mean over test images and seeds. Curves also follow how confident a network "
        f"is. {marks.INTERVAL}{note}",
        legend=marks.entries(styles, styles, lines=True),
        width="third",
    )


def over_layers(study: Study, cells: pd.DataFrame, names: Mapping[str, str], *, title: str) -> list[Figure]:
    """Returns curves with a point for each layer, a panel for each; none for networks of a single layer.

    names: the title of each curve.
    """
    cells, note = _at_most(cells, MAX_LINES)
    styles = palette.methods(list(cells["label"]))
    found = {name: points.assign(x=points["x"] + 1) for name in names if len(points := _points(study, name, cells))}

    def plot(name: str, points: pd.DataFrame) -> Plot:
        ticks = sorted(set(points["x"]))
        return _lines(_means(points), styles=styles, title=names[name], x="layer", y=names[name], ticks=ticks)

    return draw(
        [partial(plot, name, points) for name, points in found.items() if points["x"].nunique() > 1],
        name=f"probe-{next(iter(names)).replace('_', '-')}",
        title=title,
        caption=f"Layers are numbered in the order of the network. Mean over seeds. {marks.INTERVAL}{note}",
        legend=marks.entries(styles, styles, lines=True),
        width="half",
    )


def retrainings(study: Study, cells: pd.DataFrame) -> list[Figure]:
    """Returns the accuracy of networks retrained on pixels of three rankings, a panel for each setting."""
    titles = {"largest": "largest gradients", "smallest": "smallest gradients", "random": "at random"}
    parts = [_points(study, "diffroar", cells), _points(study, "diffroar_random", cells).assign(key="random")]
    points = pd.concat(parts)
    if points["x"].nunique() < 2:
        return []
    points["line"] = points["key"].map(titles)
    styles = palette.methods(list(titles.values()))

    def plot(cell: int, label: str) -> Plot:
        means, x = _means(points[points["cell"] == cell], of="line"), "share of the pixels kept"
        return _lines(means, styles=styles, title=label, x=x, y="test accuracy", ticks=sorted(set(means["x"])), of="line")

    return draw(
        _by_setting(plot, cells, points),
        name="probe-diffroar",
        title="Accuracy after retraining on a share of the pixels",
        caption="New networks see only those pixels: of the largest gradients, of the smallest ones, or drawn at random. "
        f"{marks.INTERVAL}",
        legend=marks.entries(styles, styles, lines=True),
        width="third",
    )


def hypotheses(study: Study, cells: pd.DataFrame) -> list[Figure]:
    """Returns the losses of random networks by their rank, at most `MAX_RANKS` of them."""
    cells, note = _at_most(cells, MAX_LINES)
    points, shares = _points(study, "hypothesis_loss", cells), np.linspace(0, 1, MAX_RANKS)
    if points.empty:
        return []
    runs = points.groupby(_RUN, sort=False)["y"]
    table = runs.apply(lambda losses: pd.Series(np.quantile(losses, shares), index=shares)).rename_axis([*_RUN, "x"])
    styles = palette.methods(list(cells["label"]))

    def plot() -> Plot:
        x, y = "share of the random networks", "Brier score"
        means = _means(table.rename("y").reset_index())
        return _lines(means, styles=styles, title="random networks with a fitted last layer", x=x, y=y, ticks=[0, 0.5, 1])

    return draw(
        [plot],
        name="probe-inductive-bias",
        title="Losses of random networks",
        caption="From the smallest to the largest. The bits count how rare those are that reach the loss of the trained network, "
        f"which is in the table. {marks.INTERVAL}{note}",
        legend=marks.entries(styles, styles, lines=True),
        width="half",
    )


def populations(study: Study, cells: pd.DataFrame) -> list[Figure]:
    """Returns accuracy under shift and quality of attributions against accuracy, a point for each network."""
    titles = {"shifted_accuracy_of_runs": "accuracy under shift", "insertion_gain_of_runs": "insertion gain"}
    found = {name: _points(study, name, cells) for name in titles}
    methods = dict(zip(study.labelled["run_key"], study.labelled["method"], strict=True))
    names = sorted({str(methods.get(key, "other")) for points in found.values() for key in points["key"]})
    styles = palette.methods(names)

    def plot(name: str, points: pd.DataFrame) -> Plot:
        table = points.assign(method=points["key"].map(lambda key: methods.get(key, "other")))
        correlation = table["x"].corr(table["y"], method="spearman") if table["x"].nunique() > 1 else float("nan")
        told = f"rank correlation {formats.number(correlation, digits=2)}"
        words = f"{titles[name]} against accuracy of {len(table)} networks, {told}"
        scale = alt.Scale(zero=False, nice=True)
        chart = (
            alt.Chart(marks.rows(table, ["x", "y", "key", "method"]))
            .mark_point(filled=True, size=70)
            .encode(
                x=alt.X("x:Q", title="test accuracy", scale=scale),
                y=alt.Y("y:Q", title=titles[name], scale=scale),
                color=marks.color(styles, "method"),
                shape=marks.shape(styles, "method"),
                tooltip=[alt.Tooltip("method:N"), alt.Tooltip("key:N", title="run")],
            )
            .properties(height=230)
        )
        return Plot(title=titles[name], words=words, chart=chart)

    return draw(
        [partial(plot, name, points) for name, points in found.items() if len(points)],
        name="probe-robust-explain",
        title="Criteria of a population",
        caption="A point for each network that was probed.",
        legend=marks.entries(styles, styles),
        width="half",
    )


def matrices(study: Study, cells: pd.DataFrame, name: str, *, title: str, x: str) -> list[Figure]:
    """Returns one curve as a matrix of its keys and places, a panel for the first run of each setting."""
    points = _points(study, name, cells)

    def plot(cell: int, label: str) -> Plot:
        own = points[points["cell"] == cell]
        own = own[own["run_key"] == own["run_key"].iloc[0]]
        order = list(dict.fromkeys(own["key"]))[:MAX_CELLS_OF_MATRIX]
        own = own[own["key"].isin(order)]
        table = pd.DataFrame({"row": own["key"], "column": own["x"].astype(int) + 1, "value": own["y"]})
        table["one"], table["other"] = table["row"] + " (" + own["count"].astype(str) + " rows)", table["column"].astype(str)
        top = table.iloc[int(table["value"].to_numpy().argmax())]
        words = f"{title}, {label}: the largest is {x} {top['column']} of {top['row']}"
        return matrix(table, title=label, words=words, y="", x=x, order=order)

    return draw(
        _by_setting(plot, cells, points),
        name=f"probe-{name.replace('_', '-')}",
        title=title,
        caption="The run with the smallest seed of each setting. Concepts have no order: their numbers only tell them apart.",
        width="third",
    )


def _points(study: Study, name: str, cells: pd.DataFrame) -> pd.DataFrame:
    """Returns the points of a curve of completed runs of these cells, with columns `cell`, `outer` and `label`; by seed."""
    points = series.last_points(study.curves, name)
    runs = study.labelled[study.labelled["cell"].isin(cells["cell"]) & (study.labelled["status"] == "COMPLETED")]
    ordered = runs.sort_values("seed", kind="stable")[["run_key", "cell", "outer"]]
    return ordered.merge(points, on="run_key").merge(cells[["cell", "label"]], on="cell")


def _by_setting(
    plot: Callable[[int, str], Plot], cells: pd.DataFrame, points: pd.DataFrame
) -> list[Callable[[], Plot]]:
    """Returns what draws one panel for each setting that has points; `plot` is given its cell and label."""
    shown = cells[cells["cell"].isin(points["cell"])]
    return [partial(plot, int(cell), str(label)) for cell, label in zip(shown["cell"], shown["label"], strict=True)]


def _at_most(cells: pd.DataFrame, most: int) -> tuple[pd.DataFrame, str]:
    """Returns the first cells, and a sentence that says so if there are more."""
    note = f" Only the first {most} of {len(cells)} settings are drawn." if len(cells) > most else ""
    return cells.head(most), note


def _means(points: pd.DataFrame, of: str = "label") -> pd.DataFrame:
    """Returns the mean over keys and then over repetitions with its interval: columns `of, x, mean, low, high, num`."""
    by_run = points.groupby([of, "outer", "x"], sort=False)["y"].mean().reset_index()
    table = by_run.groupby([of, "x"], sort=False)["y"].agg(["mean", "std", "size"]).reset_index()
    half = half_width(table["std"], table["size"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half).rename(columns={"size": "num"})


def _lines(
    table: pd.DataFrame,
    *,
    styles: marks.Styles,
    title: str,
    x: str,
    y: str,
    ticks: Sequence[float],
    of: str = "label",
) -> Plot:
    """Returns lines with bands from `low` to `high`."""
    table = table.rename(columns={of: "name"}) if of != "name" else table
    low, high = float(table["mean"].min()), float(table["mean"].max())
    axis = alt.Axis(values=list(ticks), format="~g")
    base = alt.Chart(marks.rows(table, ["name", "x", "mean", "low", "high", "num"])).encode(
        x=alt.X("x:Q", title=x, axis=axis, scale=alt.Scale(nice=False)), color=marks.color(styles, "name")
    )
    up = alt.Axis(format=marks.distinct_ticks(low, high), tickCount=5)
    scale = alt.Scale(zero=False, nice=True)
    band = base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", title=y, scale=scale, axis=up), y2="high:Q")
    lines = base.mark_line(strokeWidth=1.8).encode(y=alt.Y("mean:Q", title=y, scale=scale, axis=up))
    dots = base.mark_point(size=60, opacity=0, filled=True).encode(
        y="mean:Q",
        tooltip=[alt.Tooltip("name:N", title="setting"), alt.Tooltip("x:Q", title=x), alt.Tooltip("mean:Q", format=".4f")],
    )
    ends = [
        f"{name} {own['mean'].iloc[0]:.4f} to {own['mean'].iloc[-1]:.4f}" for name, own in table.sort_values("x").groupby("name")
    ]
    words = f"{y} over {x}, {title}: {'; '.join(ends[:20])}"
    return Plot(title=title, words=words, chart=alt.layer(band, lines).properties(height=210), hover=dots)
