"""Score files that a job writes, and jobs that read them instead of training their own networks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.score_file import FILE, SavedScores
from pruneyard.workloads.data.scoring import Scoring
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.sources.selected import Selected as SelectedData
from pruneyard.workloads.distill.distiller import DistillContext, RealSet
from pruneyard.workloads.distill.evaluate import Evaluation
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.ccs import CCS
from pruneyard.workloads.distill.methods.el2n import EL2N
from pruneyard.workloads.distill.methods.forgetting import Forgetting
from pruneyard.workloads.distill.methods.grand import GraNd
from pruneyard.workloads.distill.methods.herding import Herding
from pruneyard.workloads.distill.methods.random import Random
from pruneyard.workloads.distill.selected import SelectionDistiller
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.plugins import find
from pruneyard.workloads.workload import Context, Outcome

DATA = Digits(max_train=240, max_test=60)
MODEL = ConvNet(width=8, depth=2)
SCORING = Scoring(networks=2, epochs=3, batch_size=32)


def outcome(method: Any, folder: Path, *, seed: int = 0) -> Outcome:
    job = DistillJob(
        data=DATA,
        method=method,
        model=MODEL,
        seed=seed,
        evaluation=Evaluation(networks=1, epochs=1, batch_size=64),
    )
    *_, last = job.run(Context(checkpoints=CheckpointFolder(folder)))
    assert last.outcome is not None
    return last.outcome


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the scores of a job by the last layer's gradients."""
    folder = tmp_path_factory.mktemp("scores")
    left = outcome(GraNd(ipc=1, scoring=SCORING, layers="classifier"), folder / "checkpoints")
    (folder / FILE).write_bytes(left.files[FILE])
    return folder / FILE


def read(path: Path, **fields: Any) -> Scoring:
    return Scoring(path=str(path), **fields)


def context(*, seed: int = 0, model: ConvNet = MODEL, data: Digits = DATA) -> DistillContext:
    loaded = data.load()
    split = DeviceSplit(loaded.train, mean=loaded.mean, std=loaded.std)
    real = RealSet.of(split, mean=loaded.mean, std=loaded.std, num_classes=10)
    return DistillContext(real=real, model=model, seed=seed, data=loaded.fingerprint)


def rows(method: SelectionDistiller, at: DistillContext) -> torch.Tensor:
    state = method.start(at)
    for iteration in range(method.num_iterations):
        state = method.iterate(state, iteration, at)
    return state.tensors["rows"]


@pytest.mark.parametrize("name", ["herding", "k_center", "k_means", "el2n", "forgetting", "ccs", "grand"])
def test_a_rule_chooses_by_read_scores_what_it_chooses_by_its_own(name: str, scores: Path) -> None:
    fields = {"layers": "classifier"} if name == "grand" else {}
    own = find("distill.methods", name)(ipc=3, scoring=SCORING, **fields)
    reading = replace(own, scoring=read(scores))
    assert (own.num_iterations, reading.num_iterations) == (6, 0)
    assert torch.equal(rows(own, context()), rows(reading, context()))


def test_scores_of_another_seed_choose_as_that_seed_scored(scores: Path) -> None:
    """What the job's seed still says is its own draws."""
    chosen = rows(EL2N(ipc=3, scoring=read(scores)), context(seed=5))
    assert torch.equal(chosen, rows(EL2N(ipc=3, scoring=SCORING), context(seed=0)))
    assert not torch.equal(chosen, rows(EL2N(ipc=3, scoring=SCORING), context(seed=5)))


def test_only_jobs_that_scored_leave_scores(scores: Path, tmp_path: Path) -> None:
    assert FILE in outcome(Forgetting(ipc=1, scoring=SCORING), tmp_path / "a").files
    for number, method in enumerate((Forgetting(ipc=1, scoring=read(scores)), Random(ipc=1))):
        assert FILE not in outcome(method, tmp_path / str(number)).files


def test_a_finished_job_that_is_resumed_writes_the_same_scores(tmp_path: Path) -> None:
    first, again = (outcome(EL2N(ipc=1, scoring=SCORING), tmp_path) for _ in range(2))
    assert first.files[FILE] == again.files[FILE]


def test_data_of_selected_rows_read_them_too(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path))
    rule = find("data.selectors", "el2n")()
    chosen = SelectedData(base=DATA, selector=rule, per_class=3, model=MODEL, scoring=read(scores))
    wanted = sorted(rows(EL2N(ipc=3, scoring=read(scores)), context()).tolist())
    assert chosen.load().train.row_ids.tolist() == DATA.load().train.row_ids[wanted].tolist()


def test_the_file_records_its_data_and_stores_no_momenta(scores: Path) -> None:
    kept = SavedScores.from_file(str(scores))
    assert (kept.data, kept.layers) == (DATA.load().fingerprint, "classifier")
    assert kept.tensors["errors"].shape == (2, 3, len(DATA.load().train))
    assert not any(name.startswith("velocity/") for name in kept.tensors)


def test_what_is_in_the_file_counts_and_not_where_it_lies(scores: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(scores.read_bytes())
    assert read(scores).digest == read(copy).digest
    assert repr(read(scores)) == repr(read(copy))
    with pytest.raises(ValueError, match=r"digest is 0123456789abcdef; .* has .*, so it holds other scores"):
        read(copy, digest="0123456789abcdef")
    reading = EL2N(ipc=1, scoring=read(copy))
    copy.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"copy\.safetensors has changed: its digest was"):
        reading.start(context())
    with pytest.raises(ValueError, match=r"copy\.safetensors is not a file of scores"):
        EL2N(ipc=1, scoring=read(copy)).start(context())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 3}, "epochs is 3, but scores are read from a file; leave epochs out"),
        ({"lr": 0.1}, "lr is 0.1, but scores are read from a file; leave lr out"),
        ({"runs": ("0123",)}, "path is .* and runs is .*; one of the two must be left out"),
    ],
)
def test_nothing_is_said_of_a_training_that_there_will_not_be(
    fields: dict[str, Any], message: str, scores: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(scores, **fields)


def test_scores_that_are_not_there_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"path is 'nowhere\.safetensors', which cannot be read"):
        Scoring(path="nowhere.safetensors")
    with pytest.raises(ValueError, match="digest is 01 without a path"):
        Scoring(digest="01")
    with pytest.raises(ValueError, match="only a study that contains this run can read its artifacts"):
        EL2N(ipc=1, scoring=Scoring(runs=("0123",))).start(context())


def test_scores_of_other_rows_or_without_what_is_asked_for_are_refused(scores: Path) -> None:
    with pytest.raises(ValueError, match=r"the scores are those of data .*; this job has"):
        CCS(ipc=1, scoring=read(scores)).start(context(data=Digits(max_train=200, max_test=60)))
    with pytest.raises(ValueError, match="no gradient norms of layers: all; they contain those of layers: classifier"):
        GraNd(ipc=1, scoring=read(scores)).start(context())
    with pytest.raises(ValueError, match="the scores come from a network of another model"):
        Herding(ipc=1, scoring=read(scores)).start(context(model=ConvNet(width=4, depth=2)))
