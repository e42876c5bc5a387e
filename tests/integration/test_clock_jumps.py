"""A wall clock that is set forth and back under a study changes stamps in its records and nothing else."""

import signal
from pathlib import Path

import pytest
from comparing import assert_same_numbers
from driving import Patience, driving
from watching import checkpoints, in_the_middle
from yaml_spec import FEW

from orchestrator.results import Results
from reports.layout import RunFolder
from reports.store import Store

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
def test_clock_jumps_cost_neither_a_number_nor_an_attempt(
    short_spec: Path, short_reference: Path, env: dict[str, str], tmp_path: Path
) -> None:
    folder, clock, patience = tmp_path / "out", tmp_path / "clock", Patience(tmp_path, 0.1)
    told = env | patience.env | {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    clock.write_text("+10d")
    with driving("run", short_spec, "--out", "out", "--local", folder=tmp_path, env=told) as driver:
        driver.wait_until(lambda: bool(in_the_middle(folder)), within_s=120)
        clock.write_text("-10d")
        before = checkpoints(folder)
        driver.wait_until(lambda: bool(checkpoints(folder) - before), within_s=60)
        clock.write_text("+20d")
        driver.send(signal.SIGTERM)
        assert driver.wait(within_s=60) == 3, driver.said()
    clock.write_text("-20d")
    patience.set(0)
    with driving("resume", "out", "--local", folder=tmp_path, env=told) as driver:
        assert driver.wait(within_s=180) == 0, driver.said()
    assert_same_numbers(folder, short_reference)
    attempts = Store(RunFolder(folder)).runs(latest=False).to_pandas()
    assert sorted(attempts["status"]) == ["COMPLETED"] * len(FEW) + ["INTERRUPTED"]
    stopped = attempts[attempts["status"] == "INTERRUPTED"].iloc[0]
    newest = Results(folder).runs().set_index("run_key").loc[stopped["run_key"]]
    assert (newest["attempt"], newest["status"]) == (2, "COMPLETED")
    assert newest["ended_at"] < stopped["ended_at"], "the clock was not set back"
    assert (attempts["wall_s"] < 200).all(), "durations are read from the clock that was set"
    assert (attempts["wall_s"] > 0).all()
