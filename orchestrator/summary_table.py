"""The summary of a folder as a table for a terminal."""

import pandas as pd
from rich.table import Table
from rich.text import Text

from reports.formats import amount, duration, estimate

SHOWN = {"test/accuracy": "accuracy", "test/nll": "nll", "test/ece": "ece", "ood/auroc": "auroc", "ood/fpr95": "fpr95"}
MAX_ROWS = 60


def summary_table(summary: pd.DataFrame) -> Table:
    """One row per cell: what tells it apart, seeds, and `mean ± half of the 95% interval` on test and on unknown inputs."""
    settings = list(summary.attrs.get("settings", []))
    labels = [name for name in ("data", "model", "method", "density", "ipc") if _tells(summary, name)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in [*labels, *settings, "seeds", *(SHOWN[m] for m in SHOWN if m in summary), "active", "training"]:
        table.add_column(name, justify="left" if name in {"data", "model", "method"} else "right")
    for _, row in summary.head(MAX_ROWS).iterrows():
        cells = [_plain(row[name]) for name in [*labels, *settings]]
        cells.append(_seeds(row))
        cells += [_interval(row, measure) for measure in SHOWN if measure in summary]
        cells += [amount(row["num_active"]), duration(row["train_s"])]
        table.add_row(*(Text(cell) for cell in cells))
    if len(summary) > MAX_ROWS:
        table.add_row(Text(f"and {len(summary) - MAX_ROWS} more"))
    return table


def _tells(summary: pd.DataFrame, name: str) -> bool:
    return name in {"method", "density"} or summary[name].nunique(dropna=False) > 1


def _plain(value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(row: pd.Series) -> str:
    notes = [f"{row[name]} {name}" for name in ("failed", "interrupted", "censored") if row[name]]
    return ", ".join([str(row["num_seeds"]), *notes])


def _interval(row: pd.Series, measure: str) -> str:
    mean, half = estimate(row[measure], row[f"{measure}_low"], row[f"{measure}_high"])
    return f"{mean} ± {half}" if half else mean

