"""SIGKILL to a trial's process or to the driver costs time, never a number."""

import signal
from pathlib import Path

import pytest
from comparing import assert_same_numbers
from driving import AGENTS, Driver, Patience, driving
from watching import completed, in_the_middle, with_two_checkpoints
from yaml_spec import METHODS

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store
from pruneyard.workloads.plugins import names

pytestmark = pytest.mark.ray

STEP_S = 0.08  # a trial takes some four seconds, with a checkpoint in five a second


@pytest.fixture(scope="module")
def after_a_death(
    short_spec: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Driver, int]:
    home = tmp_path_factory.mktemp("worker")
    patience = Patience(home, STEP_S)
    with driving("run", short_spec, "--out", "out", folder=home, env=env | patience.env) as driver:
        driver.wait_until(lambda: bool(in_the_middle(home / "out")), within_s=180)
        driver.actors()[0].kill()
        patience.set(0)
        code = driver.wait(within_s=180)
        driver.seconds_until_gone()
    return home / "out", driver, code


def test_a_killed_trial_goes_on_from_its_checkpoint_in_the_same_call(
    after_a_death: tuple[Path, Driver, int],
) -> None:
    folder, driver, code = after_a_death
    assert code == 0, driver.said()
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas().sort_values("attempt")
    counts = attempts["run_key"].value_counts()
    (twice,) = counts[counts > 1].index
    first, second = (row for _, row in attempts[attempts["run_key"] == twice].iterrows())
    assert (first["attempt"], first["status"]) == (1, "FAILED")
    assert "process of this trial died" in first["error"]
    assert (second["attempt"], second["status"]) == (2, "COMPLETED")
    assert f"the process of {twice}" in driver.stderr
    assert set(counts[counts.index != twice]) == {1}


def test_a_killed_trial_ends_with_the_numbers_of_an_undisturbed_one(
    after_a_death: tuple[Path, Driver, int], reference: Path
) -> None:
    assert_same_numbers(after_a_death[0], reference)


def test_a_killed_driver_is_resumed_bit_equal_even_from_a_damaged_checkpoint(
    spec: Path, env: dict[str, str], reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    slow = env | Patience(tmp_path, STEP_S).env
    with driving("run", spec, "--out", "out", folder=tmp_path, env=slow) as driver:
        driver.wait_until(
            lambda: bool(completed(folder)) and bool(in_the_middle(folder) & with_two_checkpoints(folder)),
            within_s=180,
        )
        driver.send(signal.SIGKILL)
        driver.wait(within_s=10)
        print(f"driver killed to no process left: {driver.seconds_until_gone(besides=AGENTS):.1f} s")
    finished = completed(folder)
    rows_before = Results(folder).runs().set_index("run_key")
    (damaged, *_) = with_two_checkpoints(folder)
    newest = max(RunFolder(folder).checkpoints(damaged).glob("step-*"))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])

    with driving("resume", "out", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=180) == 0, driver.said()
        assert newest.name in driver.stderr, "the damaged checkpoint is not reported"
        assert "the one before" in driver.stderr
    assert_same_numbers(folder, reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    assert sorted(attempts["method"]) == names(METHODS), "a finished job ran twice, or none ran"
    rows_after = Results(folder).runs().set_index("run_key")
    for key in finished:
        assert rows_after.loc[key, "started_at"] == rows_before.loc[key, "started_at"]
        assert rows_after.loc[key, "attempt"] == 1
