"""SIGKILL to the process of a trial or to the driver costs time and changes no number."""

import signal
from pathlib import Path

import pytest
from comparing import assert_nothing_lost, assert_same_numbers
from driving import AGENTS, Driver, StepDelay, driving
from shared_head import SharedHead
from watching import completed, runs_in_progress, wait_for_new_checkpoint, with_two_checkpoints
from yaml_spec import SHORT_METHODS

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = pytest.mark.ray

STEP_S = 0.08  # a trial takes about 4 s, with five checkpoints a second
WITHIN_S = 300


@pytest.fixture(scope="module")
def study_with_a_killed_trial(
    short_spec: Path, head: SharedHead, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Driver]:
    """Runs a study and kills the process of one of its trials."""
    home = tmp_path_factory.mktemp("worker")
    step_delay = StepDelay(home, STEP_S)
    with head.driving("run", short_spec, "--out", "out", folder=home, **step_delay.env) as driver:
        driver.wait_until(lambda: bool(runs_in_progress(home / "out")), within_s=WITHIN_S)
        head.trials()[0].kill()
        step_delay.set(0)
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()
    return home / "out", driver


@pytest.mark.slow
def test_a_killed_trial_resumes_from_its_checkpoint_in_the_same_call(study_with_a_killed_trial: tuple[Path, Driver]) -> None:
    folder, driver = study_with_a_killed_trial
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas().sort_values("attempt")
    counts = attempts["run_key"].value_counts()
    (twice,) = counts[counts > 1].index
    first, second = (row for _, row in attempts[attempts["run_key"] == twice].iterrows())
    assert (first["attempt"], first["status"]) == (1, "FAILED")
    assert "process of this trial died" in first["error"]
    assert (second["attempt"], second["status"]) == (2, "COMPLETED")
    assert f"the process of {twice}" in driver.stderr
    assert set(counts[counts.index != twice]) == {1}


@pytest.mark.slow
def test_a_killed_trial_ends_with_the_numbers_of_an_uninterrupted_one(
    study_with_a_killed_trial: tuple[Path, Driver], short_reference: Path
) -> None:
    assert_same_numbers(study_with_a_killed_trial[0], short_reference)


@pytest.mark.nodes
def test_a_killed_driver_is_resumed_bit_equal_even_from_a_damaged_checkpoint(
    short_spec: Path, one_trial_env: dict[str, str], head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    """The cluster that the driver started ends with it; the study resumes on another one."""
    folder = tmp_path / "out"
    slow_env = one_trial_env | StepDelay(tmp_path, STEP_S).env
    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=slow_env) as driver:
        driver.wait_until(
            lambda: bool(completed(folder)) and bool(runs_in_progress(folder) & with_two_checkpoints(folder)),
            within_s=WITHIN_S,
        )
        driver.send_signal(signal.SIGKILL)
        driver.wait(within_s=60)
        print(f"driver killed to no process left: {driver.seconds_until_gone(within_s=120, exclude=AGENTS):.1f} s")
    finished = completed(folder)
    rows_before = Results(folder).runs().set_index("run_key")
    (damaged, *_) = with_two_checkpoints(folder)
    newest = max(RunFolder(folder).checkpoints(damaged).glob("step-*"))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])

    driver = head.run("resume", "out", folder=tmp_path)
    assert newest.name in driver.stderr, "the damaged checkpoint is not reported"
    assert "the one before" in driver.stderr
    assert_same_numbers(folder, short_reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    assert sorted(attempts["method"]) == sorted(SHORT_METHODS), "a finished job ran twice, or none ran"
    rows_after = Results(folder).runs().set_index("run_key")
    for key in finished:
        assert rows_after.loc[key, "started_at"] == rows_before.loc[key, "started_at"]
        assert rows_after.loc[key, "attempt"] == 1


@pytest.mark.nodes
def test_trials_of_a_killed_driver_end_by_themselves_and_a_second_call_resumes(
    short_spec: Path, head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    """The cluster stays alive."""
    folder, step_delay = tmp_path / "out", StepDelay(tmp_path, STEP_S)
    with head.driving("run", short_spec, "--out", "out", folder=tmp_path, **step_delay.env) as driver:
        wait_for_new_checkpoint(driver, folder)
        assert head.trials()
        driver.send_signal(signal.SIGKILL)
        driver.wait(within_s=60)
        head.wait_until_idle()
    finished = completed(folder)
    head.run("resume", "out", folder=tmp_path)
    assert_nothing_lost(folder, short_reference, twice=0)
    attempts = Results(folder).runs().set_index("run_key")["attempt"]
    assert all(attempts[key] == attempt for key, attempt in finished.items())
