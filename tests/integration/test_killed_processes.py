"""SIGKILL to the process of a trial or to the driver costs time and changes no number."""

import signal
from pathlib import Path

import pytest
from comparing import assert_nothing_lost, assert_same_numbers
from driving import AGENTS, Driver, Patience, driving
from shared_head import SharedHead
from watching import completed, in_the_middle, meet, with_two_checkpoints
from yaml_spec import FEW

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

pytestmark = pytest.mark.ray

STEP_S = 0.08  # a trial takes some four seconds, with a checkpoint in five a second
WITHIN_S = 300


@pytest.fixture(scope="module")
def after_a_crash(
    short_spec: Path, head: SharedHead, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Driver]:
    """A study of which the process of one trial was killed."""
    home = tmp_path_factory.mktemp("worker")
    patience = Patience(home, STEP_S)
    with head.driving("run", short_spec, "--out", "out", folder=home, **patience.env) as driver:
        driver.wait_until(lambda: bool(in_the_middle(home / "out")), within_s=WITHIN_S)
        head.trials()[0].kill()
        patience.set(0)
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    return home / "out", driver


@pytest.mark.slow
def test_a_killed_trial_resumes_from_its_checkpoint_in_the_same_call(after_a_crash: tuple[Path, Driver]) -> None:
    folder, driver = after_a_crash
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
    after_a_crash: tuple[Path, Driver], short_reference: Path
) -> None:
    assert_same_numbers(after_a_crash[0], short_reference)


@pytest.mark.nodes
def test_a_killed_driver_is_resumed_bit_equal_even_from_a_damaged_checkpoint(
    short_spec: Path, env: dict[str, str], head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    """The cluster that the driver started ends with it; the study resumes on another one."""
    folder = tmp_path / "out"
    slow = env | Patience(tmp_path, STEP_S).env
    with driving("run", short_spec, "--out", "out", folder=tmp_path, env=slow) as driver:
        driver.wait_until(
            lambda: bool(completed(folder)) and bool(in_the_middle(folder) & with_two_checkpoints(folder)),
            within_s=WITHIN_S,
        )
        driver.send(signal.SIGKILL)
        driver.wait(within_s=60)
        print(f"driver killed to no process left: {driver.seconds_until_gone(within_s=120, besides=AGENTS):.1f} s")
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
    assert sorted(attempts["method"]) == sorted(FEW), "a finished job ran twice, or none ran"
    rows_after = Results(folder).runs().set_index("run_key")
    for key in finished:
        assert rows_after.loc[key, "started_at"] == rows_before.loc[key, "started_at"]
        assert rows_after.loc[key, "attempt"] == 1


@pytest.mark.nodes
def test_trials_of_a_killed_driver_end_by_themselves_and_a_second_call_resumes(
    short_spec: Path, head: SharedHead, short_reference: Path, tmp_path: Path
) -> None:
    """The cluster lives on."""
    folder, patience = tmp_path / "out", Patience(tmp_path, STEP_S)
    with head.driving("run", short_spec, "--out", "out", folder=tmp_path, **patience.env) as driver:
        meet(driver, folder)
        assert head.trials()
        driver.send(signal.SIGKILL)
        driver.wait(within_s=60)
        head.wait_until_idle()
    finished = completed(folder)
    head.run("resume", "out", folder=tmp_path)
    assert_nothing_lost(folder, short_reference, twice=0)
    attempts = Results(folder).runs().set_index("run_key")["attempt"]
    assert all(attempts[key] == attempt for key, attempt in finished.items())
