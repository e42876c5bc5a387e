"""Each job of a trial has one owner: the trial that starts it, or the driver that took it back."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pruneyard.orchestrator.coordination.control_files import pruned_file
from pruneyard.orchestrator.ray_backend.claims import claim, take_back
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.storage import StorageError


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    pruned_file(RunFolder(tmp_path), "").mkdir()
    return RunFolder(tmp_path)


def test_the_driver_takes_back_what_follows_the_job_that_runs(folder: RunFolder) -> None:
    assert claim(folder, "t", 1)
    assert claim(folder, "t", 2)
    assert take_back(folder, "t", num_jobs=5) == 3
    assert not claim(folder, "t", 3)
    assert claim(folder, "another", 3)
    assert take_back(folder, "u", num_jobs=1) == 1  # the first has started
    assert take_back(folder, "u", num_jobs=2) == 1


def test_nothing_is_left_to_take_back_of_a_trial_that_started_its_last_job(folder: RunFolder) -> None:
    assert all(claim(folder, "t", place) for place in (1, 2))
    assert take_back(folder, "t", num_jobs=3) == 3


def test_of_two_that_claim_at_once_one_wins(folder: RunFolder) -> None:
    with ThreadPoolExecutor(8) as pool:
        for place in range(1, 30):
            assert sum(pool.map(lambda _, place=place: claim(folder, "t", place), range(8))) == 1


def test_a_folder_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        claim(RunFolder(tmp_path), "t", 1)
