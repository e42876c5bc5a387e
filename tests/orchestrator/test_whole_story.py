"""The packaged chain `whole-story`, in a reduced form: nothing runs twice, and a change runs what depends on it."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from killed_driver import KillingDisplay

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.planning.stage_graph import stage_graph
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.overrides import parse_assignment
from pruneyard.orchestrator.spec.yaml_document import read_text
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

TRAININGS = ("real", "siblings", "synthetic")
REDUCED: dict[str, Any] = {
    "distil.method.iterations": 5,
    "distil.evaluation.max_steps": 20,
    **{f"{name}.budget": {"steps": 20, "batch_size": 64, "evaluate_every": 0} for name in TRAININGS},
    **{f"{name}.seeds": 1 for name in ("distil", "real")},
    **{f"{name}.method.corruptions": ["rotation"] for name in ("shift-real", "shift-synthetic", "shift-soups")},
}
DEPENDS_ON_REAL = ("real", "siblings", "soups", "trust-real", "trust-soups", "shift-real", "shift-soups")


@pytest.mark.slow
def test_the_form_for_cifar10_that_its_comment_gives_is_valid_and_planned(tmp_path: Path) -> None:
    """The options of the comment are read from the packaged file, so they cannot go stale."""
    comment = [line.removeprefix("#") for line in read_text("whole-story")[0].splitlines() if line.startswith("#")]
    words = shlex.split(" ".join(comment).partition("CIFAR-10:")[2])
    changes = dict(parse_assignment(text, option=option) for option, text in batched(words) if option == "--set")
    assert len(changes) == 8
    plan = make_plan(load_spec("whole-story", overrides=changes), RunFolder(tmp_path))
    per_stage = {node.name: (node.num_jobs, node.counts) for node in stage_graph(plan)}
    as_packaged = stage_graph(make_plan(load_spec("whole-story"), RunFolder(tmp_path)))
    assert per_stage == {node.name: (node.num_jobs, {"missing": node.num_jobs}) for node in as_packaged}
    kinds = {node.kind for node in as_packaged}
    assert kinds == {"distill", "sparse", "merge", "calibrate", "probe"}
    data = {job.resolved["data"]["name"] for job in plan.spec.jobs if job.stage in ("distil", "real")}
    assert data == {"cifar10"}


def batched(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(words[::2], words[1::2], strict=True))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("story")
    assert run("whole-story", folder, overrides=REDUCED, local=True).exit_code == 0
    return folder


def attempts(folder: Path) -> pd.DataFrame:
    return Store(RunFolder(folder)).runs(latest=False).to_pandas()


def numbers(folder: Path) -> pd.DataFrame:
    order = ["run_key", "step", "split", "name"]
    frame = Results(folder).metrics().astype(dict.fromkeys(("run_key", "split", "name"), str))
    return frame[[*order, "value"]].sort_values(order, ignore_index=True)


def test_a_change_of_one_stage_runs_exactly_what_depends_on_it(story: Path) -> None:
    before = attempts(story)
    run("whole-story", story, overrides=REDUCED, local=True)
    assert len(attempts(story)) == len(before), "the second call ran something"
    changed = {**REDUCED, "real.optimizer.lr": 0.05}
    assert run("whole-story", story, overrides=changed, local=True).exit_code == 0
    after = attempts(story)
    new = after[~after["run_key"].isin(before["run_key"])]
    per_stage = Counter(before["stage"])
    assert Counter(new["stage"]) == {stage: per_stage[stage] for stage in DEPENDS_ON_REAL}
    assert len(after) == len(before) + len(new), "no old run ran again"


def test_a_story_that_is_killed_again_and_again_holds_what_an_undisturbed_one_does(story: Path, tmp_path: Path) -> None:
    num_kills = 0
    for number in (7, 13, 11, 17):
        try:
            run("whole-story", tmp_path, overrides=REDUCED, local=True, display=KillingDisplay(number))
        except KeyboardInterrupt:
            num_kills += 1
    assert num_kills >= 3
    assert run("whole-story", tmp_path, overrides=REDUCED, local=True).exit_code == 0
    ours = numbers(tmp_path)
    theirs = numbers(story)
    pd.testing.assert_frame_equal(ours, theirs[theirs["run_key"].isin(ours["run_key"])].reset_index(drop=True))
    assert set(attempts(tmp_path)["status"]) == {"COMPLETED"}


def test_quickstart_is_the_smallest_whole_story_around_the_jobs_of_a_plain_sweep() -> None:
    """All kinds of a chain, each of few jobs; the sweep's run keys do not depend on the stages around it."""
    spec = load_spec("quickstart")
    assert Counter(job.kind for job in spec.jobs) == {"sparse": 36, "distill": 3, "merge": 3, "calibrate": 6, "probe": 6}
    shared = {key: value for key, value in spec.tables.items() if key != "stages"}
    alone = load_spec({**shared, **spec.tables["stages"]["train"]})
    assert [job.key for job in alone.jobs] == [job.key for job in spec.jobs if job.stage == "train"]
    assert (alone.jobs[0].key, alone.jobs[-1].key) == ("9016fedd47637275", "6502693af7f06f5a")


def test_fewer_seeds_and_epochs_leave_quickstart_a_chain(tmp_path: Path) -> None:
    plan = make_plan(load_spec("quickstart", overrides={"seeds": 1, "budget.epochs": 1}), RunFolder(tmp_path))
    assert [node.num_jobs for node in stage_graph(plan)] == [9, 1, 1, 1, 1, 1, 1, 1, 1]
