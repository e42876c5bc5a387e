"""The table of barriers in reports/results/merging.md, from a finished folder of `pruneyard run matching-small`.

Values are means over pairs of networks that share none, ± half of the 95% t interval.
Run: python tests/benchmarks/matching_tables.py out/matching-small
"""

import argparse
import json
from collections.abc import Sequence

import numpy as np

from pruneyard import Results
from pruneyard.reports.statistics.intervals import estimate

PATHS = ("path", "path_matched", "path_train", "path_matched_train")


def interval(values: Sequence[float]) -> str:
    """Returns the mean with half of its 95% interval."""
    found = estimate(np.array(values))
    return f"{float(found.mean):.4f} ± {float(found.high - found.mean):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    results = Results(parser.parse_args().folder)
    runs, final = results.runs().set_index("run_key"), results.final().set_index("run_key")
    networks, probes = runs[runs["kind"] == "sparse"], runs[runs["kind"] == "probe"]
    width_of = {key: int(json.loads(spec)["model"]["width"]) for key, spec in networks["spec_json"].items()}
    widths = probes["parent_key"].map(lambda keys: width_of[keys.split(",")[0]])
    for width in sorted(set(widths)):
        keys = widths.index[widths == width]
        alone = final.loc[[key for key, of in width_of.items() if of == width], "test/accuracy"]
        print(f"width {width}: {len(keys)} pairs, accuracy of single networks {interval(alone.tolist())}")
        for barrier in ("loss_barrier", "accuracy_barrier"):
            found = {path: final.loc[keys, f"{path}/{barrier}"] for path in PATHS}
            for path, values in found.items():
                print(f"  {path}/{barrier} {interval(values.tolist())}")
            print(f"  {barrier} removed by matching {interval((found['path'] - found['path_matched']).tolist())}")


if __name__ == "__main__":
    main()
