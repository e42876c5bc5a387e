"""A folder that looks like a finished chain of networks and calibrate runs, with made-up numbers."""

import json

from made_up_study import START, metric, record

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import CurveRow
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

NLL = {"none": 0.5, "temperature": 0.3, "isotonic": 0.4}


def write_chain(path, *, seeds=3, unknown="noise", val_nll=NLL):
    """Writes dense networks and three calibrators on each; seeds differ far more than calibrators do.

    val_nll: on the validation split, by calibrator; None where there is no such split.
    """
    store = Store(RunFolder(path))
    for seed in range(seeds):
        parent = {"kind": "sparse", "method": {"name": "dense"}}
        run = record(
            f"p{seed}", seed=seed, stage="train", method="dense", density=1.0, spec_json=json.dumps(parent)
        )
        store.write(run, [metric(0.9, name="accuracy"), metric(0.5, name="ece")], [])
        for place, (name, nll) in enumerate(NLL.items()):
            spec = {
                "input": {"runs": parent},
                "method": {"name": name},
                "num_bins": 10,
                "sets": [{"name": "aps", "alpha": 0.2}],
            }
            made = record(
                f"c{seed}{place}",
                seed=seed,
                stage="judge",
                kind="calibrate",
                method=name,
                density=1.0,
                parent_key=f"p{seed}",
                spec_json=json.dumps(spec),
                started_at=START.replace(hour=10),
            )
            shift = 10.0 * seed
            rows = [metric(nll + shift, name="nll"), metric(0.9, name="accuracy"), metric(0.1, name="ece")]
            if val_nll is not None:
                rows += [metric(val_nll[name] + shift, name="nll", split="val")]
            rows += [metric(0.02, name="ece_floor"), metric(0.04 + 0.01 * place, name="ece_smooth")]
            rows += [metric(0.8 + 0.01 * seed, name="auroc", split=f"ood.far{at}") for at in ("", "@energy")]
            rows += [metric(0.6, name="auroc", split=f"ood.{unknown}")]
            rows += [
                metric(0.5, name="coverage", split="sets@aps"),
                metric(1.5, name="set_size", split="sets@aps"),
            ]
            curves = [CurveRow(name="reliability", step=10, key="test", x=0.95, y=0.9, count=80)]
            curves += [CurveRow(name="reliability", step=10, key="test", x=0.55, y=0.5, count=20)]
            curves += [
                CurveRow(name="risk", step=10, key="test", x=x, y=0.1 * x, count=int(100 * x))
                for x in (0.5, 1.0)
            ]
            for split in ("test", f"ood.{unknown}"):
                curves += [
                    CurveRow(name="score", step=10, key=split, x=-x, y=0.5, count=50) for x in (0.1, 0.2)
                ]
            curves += [
                CurveRow(name="set_size", step=10, key="aps", x=size, y=0.5, count=50) for size in (1.0, 2.0)
            ]
            store.write(made, rows, curves)
    return Study.read([path])
