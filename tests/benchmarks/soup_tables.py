"""The tables of reports/results/merging.md, from a finished folder of `pruneyard run sparse-soup-small`.

Differences are paired by seed: every soup has the seed of the dense network that its siblings come from, and IMP of equal seed
starts from the same random weights. Values are means over seeds ± half of the 95% t interval.
Run: python tests/benchmarks/soup_tables.py out/sparse-soup-small [--metric accuracy]
"""

import argparse
import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pruneyard import Results
from pruneyard.reports.statistics.intervals import estimate

BySeed = Mapping[int, float]
MEMBERS = ("ensemble", "best_member", "mean_member")


class Tables:
    """The final values of one metric in a folder of results."""

    def __init__(self, folder: str, metric: str) -> None:
        results = Results(folder)
        self.runs, metrics = results.runs(), results.metrics()
        self.metric = metric
        self.final = metrics.sort_values("step").groupby(["run_key", "split", "name"])["value"].last()

    def of(self, runs: pd.DataFrame, split: str = "test") -> BySeed:
        """Returns the values of some runs on a split, by seed."""
        return {int(run.seed): float(self.final[run.run_key, split, self.metric]) for run in runs.itertuples()}

    def stage(self, name: str, method: str = "") -> pd.DataFrame:
        """Returns the runs of a stage, or of one method of it."""
        of_stage = self.runs[self.runs["stage"] == name]
        return of_stage[of_stage["method"] == method] if method else of_stage


def interval(values: BySeed) -> str:
    """Returns the mean with half of its 95% interval."""
    found = estimate(np.array(list(values.values())))
    return f"{float(found.mean):.5f} ± {float(found.high - found.mean):.5f}"


def difference(one: BySeed, other: BySeed) -> str:
    """Returns the mean paired difference with half of its 95% interval."""
    return interval({seed: value - other[seed] for seed, value in one.items()})


def print_soups(tables: Tables) -> None:
    """Prints every soup with its members and their ensemble, and the last ones against IMP."""
    imp, total = (tables.of(tables.stage(name)) for name in ("imp", "imp-total"))
    print(f"imp {interval(imp)}, with the steps of all siblings {interval(total)}")
    for stage in ("soup-1", "soup-2", "soup-3"):
        for method in sorted(set(tables.stage(stage)["method"])):
            runs = tables.stage(stage, method)
            soup = tables.of(runs)
            print(f"{stage} {method}: {interval(soup)}")
            for name in MEMBERS:
                of_members = tables.of(runs, f"test@{name}")
                print(f"  {name} {interval(of_members)}, soup minus it {difference(soup, of_members)}")
            if stage == "soup-3":
                print(f"  minus imp {difference(soup, imp)}, minus imp-total {difference(soup, total)}")


def print_methods(tables: Tables) -> None:
    """Prints other merges of the last siblings, and their differences from the uniform soup."""
    uniform, runs = tables.of(tables.stage("soup-3", "uniform")), tables.stage("methods")
    for table, group in runs.groupby(runs["spec_json"].map(lambda spec: json.dumps(json.loads(spec)["method"]))):
        print(f"{table}: {interval(tables.of(group))}, minus uniform {difference(tables.of(group), uniform)}")


def print_widths(tables: Tables) -> None:
    """Prints the mean of two networks from random starts of their own over width, with and without matching."""
    widths = tables.runs.set_index("run_key")["spec_json"].map(lambda spec: json.loads(spec).get("model", {}).get("width"))
    for run in tables.stage("matched").itertuples():
        width = widths[run.parent_key.split(",")[0]]
        values = [f"{tables.final[run.run_key, split, tables.metric]:.4f}" for split in ("test", "test@mean_member")]
        print(f"width {int(width)} {run.method}: {values[0]}, mean member {values[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--metric", default="accuracy")
    options = parser.parse_args()
    tables = Tables(options.folder, options.metric)
    for show in (print_soups, print_methods, print_widths):
        show(tables)


if __name__ == "__main__":
    main()
