"""Selected rows as synthetic sets, and the whole set as one."""

from pathlib import Path

import numpy as np
import torch

from pruneyard.testing.cases import each_case
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.scoring import Scoring
from pruneyard.workloads.data.selection import Pool, Selector
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.distill.distiller import DistillContext, DistillState, RealSet
from pruneyard.workloads.distill.evaluate import Evaluation
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.el2n import EL2N
from pruneyard.workloads.distill.methods.herding import Herding
from pruneyard.workloads.distill.methods.whole import Whole
from pruneyard.workloads.distill.selected import SelectionDistiller
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.workload import Context

DATA = Digits(max_train=240, max_test=60)
MODEL = ConvNet(width=8, depth=2)
SCORING = Scoring(networks=2, epochs=2, batch_size=32)
RULES = [name for name in names("data.selectors") if name != "random"]


def context(seed: int = 0) -> DistillContext:
    data = DATA.load()
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    return DistillContext(real=RealSet.of(split, mean=data.mean, std=data.std, num_classes=10), model=MODEL, seed=seed)


def finished(method: SelectionDistiller, at: DistillContext) -> DistillState:
    state = method.start(at)
    for iteration in range(method.num_iterations):
        state = method.iterate(state, iteration, at)
    return state


def test_every_rule_for_rows_is_a_way_to_make_a_set() -> None:
    assert set(names("data.selectors")) <= set(names("distill.methods"))


@each_case("name", RULES)
def test_a_set_holds_the_rows_that_the_rule_chooses_by_itself(name: str) -> None:
    method: SelectionDistiller = find("distill.methods", name)(ipc=3, scoring=SCORING)
    rule: Selector = find("data.selectors", name)()
    assert method.asks == rule.asks
    at = context()
    state = method.start(at)
    for iteration in range(3):
        state = method.iterate(state, iteration, at)
    scorer = method._scorer(at)
    pool = scorer.build_pool(scorer.run_epoch({k: t for k, t in state.tensors.items() if k != "rows"}, 3))
    wanted = rule.select(pool, [3] * 10, at.stream("select"))
    last = method.iterate(state, 3, at)
    assert torch.equal(last.tensors["rows"], wanted)
    assert not any(name.startswith("velocity/") for name in last.tensors)
    made = method.synthetic_set(last, at)
    assert torch.equal((made.images * 255).round().byte(), at.real.split.images[wanted])
    assert torch.equal(made.labels, at.real.split.labels[wanted])


def test_all_rules_see_the_same_scoring_run() -> None:
    first, other = EL2N(ipc=1, scoring=SCORING), Herding(ipc=2, scoring=SCORING)
    states = [method.iterate(method.start(at), 0, at) for method, at in ((first, context()), (other, context()))]
    assert torch.equal(states[0].tensors["errors"], states[1].tensors["errors"])
    assert states[0].numbers == states[1].numbers
    assert 0 < states[0].numbers["scorer_accuracy"] < 1


def test_a_chosen_set_is_what_networks_are_trained_on_as_they_would_be_on_the_rows() -> None:
    """The normalised images are those of the data."""
    at, method = context(), EL2N(ipc=2, scoring=SCORING)
    state = finished(method, at)
    made = method.synthetic_set(state, at).training_images()
    torch.testing.assert_close(made, at.real.images(state.tensors["rows"]), rtol=0, atol=1e-6)


def test_the_whole_set_is_every_training_image_once_and_is_not_stored_again(tmp_path: Path) -> None:
    at, data = context(), DATA.load()
    made = Whole().synthetic_set(Whole().start(at), at)
    assert torch.bincount(made.labels).tolist() == np.bincount(data.train.labels).tolist()
    assert made.labels.tolist() == sorted(data.train.labels.tolist())
    pixels = (made.images * 255).round().byte().numpy()
    assert sorted(image.tobytes() for image in pixels) == sorted(image.tobytes() for image in data.train.images)
    job = DistillJob(
        data=DATA, method=Whole(), model=MODEL, evaluation=Evaluation(networks=1, epochs=1, batch_size=64)
    )
    assert job.ipc is None
    assert job.check(data) == []
    (progress,) = job.run(Context(checkpoints=CheckpointFolder(tmp_path)))
    assert progress.outcome is not None
    assert progress.outcome.files == {}


def test_a_rule_is_given_the_training_rows_alone() -> None:
    seen: list[int] = []

    class Watching(EL2N):
        def select(self, pool: Pool, counts: object, generator: torch.Generator) -> torch.Tensor:
            seen.append(len(pool.labels))
            return super().select(pool, counts, generator)  # type: ignore[arg-type]

    finished(Watching(ipc=1, scoring=SCORING), context())
    assert seen == [len(DATA.load().train)]
