"""The packaged chain `whole-story`, in a reduced form: nothing runs twice, and a change runs what depends on it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from killed_driver import KillingDisplay

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.results import Results
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
