"""Calibrate jobs report more than calibration: true errors, classification rates, and what OOD scores cost in accuracy."""

from pathlib import Path

import numpy as np
import pytest

from pruneyard import run
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.predictions import read_predictions
from pruneyard.reports.study import Study
from pruneyard.reports.trust.calibrated_cells import calibrated_cells
from pruneyard.reports.trust.detection import detection_table
from pruneyard.workloads.data.sources.oracle import Oracle
from pruneyard.workloads.metrics.classification import softmax
from pruneyard.workloads.metrics.detection import confidence_scores

SOURCE = Oracle(num_classes=3, num_train=300, num_test=200, label_noise=0.2)
NOISE = {"name": "noise", "shape": [1, 8, 8], "num_test": 40}
SPEC = {
    "name": "known",
    "stages": {
        "train": {
            "kind": "sparse",
            "data": {"name": "oracle", "num_classes": 3, "num_train": 300, "num_test": 200, "label_noise": 0.2},
            "model": {"name": "mlp", "width": 8},
            "method": {"name": "dense"},
            "budget": {"steps": 60, "batch_size": 32},
            "ood": [NOISE],
        },
        "judge": {
            "kind": "calibrate",
            "input": {"from": "train"},
            "far": [NOISE],
            "scores": ["energy", {"name": "react", "quantile": 0.3}],
        },
    },
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("known")
    assert run(SPEC, folder, local=True).exit_code == 0
    return folder


def test_the_true_error_uses_true_probabilities_and_rates_count_correct_inputs_above_the_threshold(judged: Path) -> None:
    runs = Results(judged).runs().set_index("kind")
    found = Results(judged).metrics().set_index(["run_key", "split", "name"])["value"][runs.loc["calibrate", "run_key"]]
    stored = read_predictions(RunFolder(judged).predictions(runs.loc["sparse", "run_key"]))
    _, labels, logits = stored["test"]
    p = softmax(np.asarray(logits, dtype=np.float64))
    confidence, predicted = p.max(axis=1), p.argmax(axis=1)
    truth = SOURCE.probabilities(SOURCE.load().test.images)[np.arange(len(p)), predicted]
    bins = np.ceil(confidence * 15)
    gaps = [(truth - confidence)[bins == number].sum() for number in np.unique(bins)]
    assert found["test", "ece_true"] == pytest.approx(np.abs(gaps).sum() / len(p), abs=1e-9)
    assert found["test", "ece_true"] != pytest.approx(found["test", "ece"], abs=1e-3)
    assert found["test", "ece_floor"] < found["test", "ece_floor_95"]
    # The threshold at 10% of 40 OOD inputs is the fifth largest of their scores; four lie above it.
    known, correct = confidence_scores(logits), predicted == labels
    unknown = np.sort(confidence_scores(stored["ood.noise"][2]))
    rates = [(correct & (known > unknown[-1 - accepted])).mean() for accepted in (4, 0)]
    assert [found["ood", "ccr_10"], found["ood", "ccr_01"]] == pytest.approx(rates)


def test_scores_that_change_the_network_report_its_accuracy_then_and_the_page_shows_it(judged: Path) -> None:
    finals = Results(judged).metrics().query("split.str.startswith('test@')").set_index(["split", "name"])["value"]
    assert list(finals.index) == [("test@react", "accuracy")]
    study = Study.read([judged])
    table = detection_table(study, calibrated_cells(study), each_set=False)
    assert table is not None
    place = table.headers.index("accuracy of the changed network")
    scores = {row[table.headers.index("score")].text: row[place].text for row in table.rows}
    assert scores == {"confidence": "–", "energy": "–", "react": f"{finals['test@react', 'accuracy']:.4f}"}  # noqa: RUF001
