"""Studies as files of experiment trackers, written and read by the trackers' own packages; skipped where one is not installed."""

import struct
import sys

import pytest
from made_up_study import metric, record

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

pytestmark = pytest.mark.slow  # the packages take seconds to load, and are in no extra of the tests

SPEC = '{"optimizer": {"lr": 0.1, "name": "sgd"}, "method": {"name": "rigl"}}'


@pytest.fixture
def folder(tmp_path):
    store = Store(RunFolder(tmp_path / "study"))
    rows = [metric(0.1 * epoch, step=10 * epoch, split="val") for epoch in (1, 2, 3)]
    store.write(record("k0", spec_json=SPEC), [*rows, metric(0.75, step=30)], [])
    store.write(record("k1", seed=1, spec_json=SPEC, status=Status.FAILED, error="loss is NaN"), rows[:1], [])
    return tmp_path / "study"


def offline_records(content):
    """Yields the serialized records of a file of an offline run of W&B, for which its client has no reader.

    It is a log of LevelDB after a header of 7 bytes: blocks of 32 KiB with parts of records, each after its checksum (4 bytes),
    length (2), and type (1): whole, first, middle or last.
    """
    assert content[:4] == b":W&B"
    block, place, record = 32 * 1024, 7, b""
    while place + 7 <= len(content):
        length, kind = struct.unpack_from("<4xHB", content, place)
        if block - place % block < 7 or kind == 0:  # the rest of a block is empty
            place += block - place % block
            continue
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_tensorboard_reads_every_value_and_hyperparameter(folder, tmp_path, pruneyard):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert pruneyard("export", folder, "--format", "tensorboard", "--out", tmp_path / "logs").code == 0
    events = accumulators.EventAccumulator(str(tmp_path / "logs" / "k0")).Reload()
    assert [each.step for each in events.Scalars("val/accuracy")] == [10, 20, 30]
    assert [each.value for each in events.Scalars("val/accuracy")] == pytest.approx([0.1, 0.2, 0.3])
    assert events.Scalars("test/accuracy")[0].value == 0.75
    assert events.Scalars("val/accuracy")[1].wall_time - events.Scalars("val/accuracy")[0].wall_time == pytest.approx(1)
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert b"optimizer.lr" in events.summary_metadata["_hparams_/session_start_info"].plugin_data.content


@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_every_run_with_status_times_and_history(folder, tmp_path, pruneyard):
    mlflow = pytest.importorskip("mlflow")
    assert pruneyard("export", folder, "--format", "mlflow", "--out", tmp_path / "mlruns").code == 0
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (experiment,) = [each for each in client.search_experiments() if each.name == "density-sweep"]
    by_key = {run.data.tags["pruneyard.run_key"]: run for run in client.search_runs([experiment.experiment_id])}
    assert {key: run.info.status for key, run in by_key.items()} == {"k0": "FINISHED", "k1": "FAILED"}
    first = by_key["k0"]
    assert first.data.params["optimizer.lr"] == "0.1"
    assert first.data.metrics["test/accuracy"] == 0.75
    assert first.info.end_time - first.info.start_time == 42_000
    history = client.get_metric_history(first.info.run_id, "val/accuracy")
    assert [each.step for each in history] == [10, 20, 30]
    assert [each.value for each in history] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.filterwarnings("ignore")
def test_wandb_reads_its_offline_files(folder, tmp_path, pruneyard):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    assert pruneyard("export", folder, "--format", "wandb", "--out", tmp_path / "offline").code == 0
    files = sorted((tmp_path / "offline").glob("wandb/offline-run-*/*.wandb"))
    assert [path.stem for path in files] == ["run-k0", "run-k1"]
    values, config = [], {}
    for data in offline_records(files[0].read_bytes()):
        found = wandb_internal_pb2.Record()
        found.ParseFromString(data)
        values += [(item.nested_key or [item.key], item.value_json) for item in found.history.item]
        config |= {item.key: item.value_json for item in found.run.config.update}
    told = [(names[0], value) for names, value in values]
    assert ("test/accuracy", "0.75") in told
    assert [float(value) for name, value in told if name == "val/accuracy"] == pytest.approx([0.1, 0.2, 0.3])
    assert config["optimizer.lr"] == "0.1"


def test_a_package_that_is_missing_is_named_with_how_to_install_it(folder, tmp_path, pruneyard, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    found = pruneyard("export", folder, "--format", "wandb", "--out", tmp_path / "offline")
    assert found.code == 2
    assert "pip install 'pruneyard[wandb]'" in found.err


def test_runs_are_not_written_twice_and_not_without_a_folder(folder, tmp_path, pruneyard):
    assert "needs --out DIR" in pruneyard("export", folder, "--format", "mlflow").err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "is not empty" in pruneyard("export", folder, "--format", "mlflow", "--out", tmp_path / "full").err
