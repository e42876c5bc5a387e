"""Impossible requests are refused before any trial, with an exit code and the reason."""

import re
import time
from pathlib import Path

import pytest
import yaml_spec
from driving import StepDelay, driving
from shared_head import SharedHead

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder


def small_spec(folder: Path, **tables: object) -> Path:
    """Writes a spec of one short job."""
    return yaml_spec.write(
        folder / "spec.yaml", yaml_spec.spec_of([{"name": "dense"}], name="small", **tables)
    )


def started_nothing(folder: Path) -> bool:
    return not (folder / "artifacts").exists() and not (folder / "results").exists()


def test_a_second_driver_in_a_folder_is_refused_and_the_first_unharmed(
    env: dict[str, str], tmp_path: Path
) -> None:
    spec = small_spec(tmp_path)
    arguments = ("run", spec, "--out", "out", "--local")
    step_delay = StepDelay(tmp_path, 1)
    with driving(*arguments, folder=tmp_path, env=env | step_delay.env) as first:
        first.wait_until(lambda: (tmp_path / "out" / "artifacts").exists(), within_s=300)
        with driving(*arguments, folder=tmp_path, env=env) as second:
            assert second.wait(within_s=300) == 2, second.output()
            assert "pruneyard: out: another pruneyard is running in this folder" in second.stderr
            assert "Traceback" not in second.stderr
        step_delay.set(0)
        assert first.wait(within_s=300) == 0, first.output()
    assert list(Results(tmp_path / "out").runs()["attempt"]) == [1]


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_larger_than_the_cluster_is_refused_with_the_numbers(
    env: dict[str, str], tmp_path: Path
) -> None:
    spec = small_spec(tmp_path, resources={"cpus": 4096})
    with driving("run", spec, "--out", "out", folder=tmp_path, env=env) as driver:
        assert driver.wait(within_s=300) == 2, driver.output()
        assert "one trial needs 4096 CPUs and 0 GPUs; available are" in driver.stderr
        assert "Traceback" not in driver.stderr
        driver.seconds_until_gone()
    assert started_nothing(tmp_path / "out")


@pytest.mark.ray
def test_missing_data_is_refused_with_the_folders_searched(head: SharedHead, tmp_path: Path) -> None:
    """Missing data are refused on a cluster and without one."""
    spec = small_spec(tmp_path, data={"name": "mnist", "root": str(tmp_path / "nowhere")})
    variables = {"PRUNEYARD_DATA": str(tmp_path / "here-neither"), "HOME": str(tmp_path)}
    for cluster in (["--local"], ["--address", head.address]):
        with driving("run", spec, "--out", "out", *cluster, folder=tmp_path, env=head.env({}) | variables, report=True) as driver:
            assert driver.wait(within_s=300) == 2, driver.output()
        assert str(tmp_path / "nowhere") in driver.stderr
        assert str(tmp_path / "here-neither") in driver.stderr
        assert "Traceback" not in driver.stderr
    assert started_nothing(tmp_path / "out")
    assert not RunFolder(tmp_path / "out").report.exists()


NO_CLUSTER_FOR_AUTO = (  # depends on the other clusters of this machine, none of which accepts us
    r"no Ray cluster answers at auto: (none runs|several run) on this machine; give --address"
    r"|no token, or a wrong one, for the Ray cluster at [\w.:]+: set RAY_AUTH_TOKEN"
    r"|no Ray cluster answers at [\w.:]+, found on this machine: "
)


@pytest.mark.parametrize(
    ("address", "ray_address", "message"),
    [
        ("127.0.0.1:1", None, r"no Ray cluster answers at 127\.0\.0\.1:1: .*refused"),
        ("no-such-host.invalid:6379", None, r"no Ray cluster answers at no-such-host\.invalid:6379: "),
        ("nonsense", None, "no Ray cluster answers at nonsense: "),
        ("auto", "127.0.0.1:1", r"no Ray cluster answers at 127\.0\.0\.1:1, found on this machine: .*refused"),
        ("auto", None, NO_CLUSTER_FOR_AUTO),
    ],
)
def test_a_cluster_that_does_not_respond_is_reported_within_seconds(
    address: str, ray_address: str | None, message: str, env: dict[str, str], tmp_path: Path
) -> None:
    spec = small_spec(tmp_path)
    driver_env = env if ray_address is None else env | {"RAY_ADDRESS": ray_address}
    started = time.monotonic()
    with driving("run", spec, "--out", "out", "--address", address, folder=tmp_path, env=driver_env) as driver:
        assert driver.wait(within_s=300) == 4, driver.output()
        assert re.search(f"^pruneyard: ({message})", driver.stderr, re.MULTILINE), driver.stderr
        # besides a line of Ray's own where `auto` finds another cluster of this machine, and has no token for it
        progress = r"pruneyard: reading |small: 1 job,|0/1 done, .*(loading data|joining )|.*gcs_client\.cc"
        assert sum(not re.match(progress, line) for line in driver.stderr.splitlines()) == 1, driver.stderr
    assert time.monotonic() - started < 60, "Ray itself would try for minutes"
    assert started_nothing(tmp_path / "out")
