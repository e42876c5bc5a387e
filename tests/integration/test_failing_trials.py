"""A failed trial affects no other one, whatever state it leaves in a process that is reused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import Patience, driving
from shared_head import NUM_CPUS, SharedHead

from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder

WITHIN_S = 300
WITNESSES = [{"name": "witness", "density": 0.3}, {"name": "witness", "density": 0.1}]
ERROR = "RuntimeError: soiled <script>everything</script> [bold]here[/bold]"


def hard_spec(methods: list[dict[str, Any]], rates: list[float]) -> dict[str, Any]:
    """Two seeds; a trial takes all of the shared head, so that one process runs them all, in order."""
    return yaml_spec.spec_of(
        methods, name="hard", grid={"optimizer.lr": rates}, seeds=2, resources={"cpus": NUM_CPUS}
    )


@pytest.fixture(scope="module")
def clean(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The witnesses alone, in a fresh process."""
    home = tmp_path_factory.mktemp("clean")
    spec = yaml_spec.write(home / "spec.yaml", hard_spec(WITNESSES, [0.1]))
    told = env | {"WITNESSES": str(home / "witnesses.jsonl")}
    with driving("run", spec, "--out", "out", "--local", folder=home, env=told) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.said()
    return home


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("on Ray", marks=[pytest.mark.ray, pytest.mark.slow]),
        "in one process",
    ],
)
def soiled(
    request: pytest.FixtureRequest, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Witnesses before and after trials that raise, soil their process, or diverge."""
    home = tmp_path_factory.mktemp("soiled")
    methods = [WITNESSES[0], {"name": "soiling", "density": 0.5}, WITNESSES[1]]
    command = ("run", yaml_spec.write(home / "spec.yaml", hard_spec(methods, [0.1, 1e30])), "--out", "out")
    told = {"WITNESSES": str(home / "witnesses.jsonl")}
    if request.param == "on Ray":
        driven = request.getfixturevalue("head").driving(*command, folder=home, **told)
    else:
        driven = driving(*command, "--local", folder=home, env=env | told)
    with driven as driver:
        code = driver.wait(within_s=WITHIN_S)
        home.joinpath("said").write_text(driver.said())
        home.joinpath("code").write_text(str(code))
        driver.seconds_until_gone()
    return home


def witnesses(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.joinpath("witnesses.jsonl").read_text().splitlines()]


def test_the_others_complete_and_the_exit_code_says_that_some_failed(soiled: Path) -> None:
    assert soiled.joinpath("code").read_text() == "1", soiled.joinpath("said").read_text()
    runs = Results(soiled / "out").runs()
    assert len(runs) == 12
    lr = runs["spec_json"].map(lambda text: json.loads(text)["optimizer"]["lr"])
    fails = (runs["method"] == "soiling") | (lr > 1)
    assert set(runs[fails]["status"]) == {"FAILED"}
    assert set(runs[~fails]["status"]) == {"COMPLETED"}
    assert (~fails).sum() == 4


def test_a_failed_run_has_its_traceback(soiled: Path) -> None:
    runs = Results(soiled / "out").runs()
    for error in runs[runs["method"] == "soiling"]["error"]:
        assert error.startswith("Traceback (most recent call last)")
        assert error.rstrip().endswith(ERROR)
    diverged = runs[(runs["status"] == "FAILED") & (runs["method"] == "witness")]["error"]
    assert len(diverged) == 4
    assert all("NonFiniteError: train/loss is" in error for error in diverged)


def test_the_error_is_said_plainly_and_escaped_on_the_page(soiled: Path) -> None:
    page = RunFolder(soiled / "out").report.read_text()
    assert "soiled &lt;script&gt;everything&lt;/script&gt;" in page
    assert "<script>everything" not in page
    assert ERROR in soiled.joinpath("said").read_text()


def test_one_process_ran_them_all_and_was_like_new_for_each(soiled: Path, clean: Path) -> None:
    seen = witnesses(soiled)
    assert len({entry["pid"] for entry in seen}) == 1
    assert [entry["who"] for entry in seen] == ["witness"] * 4 + ["soiling"] * 4 + ["witness"] * 4
    facts = [entry["seen"] for entry in seen if entry["who"] == "witness"]
    for fact in facts:
        fact["environment"].pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets it when it is first asked for
    for fact in facts[1:]:
        assert fact == facts[0]
    fresh = witnesses(clean)[0]["seen"]
    same = facts[0].keys() - {"folder", "environment"}
    assert {name: facts[0][name] for name in same} == {name: fresh[name] for name in same}


def test_a_trial_after_a_dirty_one_has_the_numbers_of_a_fresh_process(soiled: Path, clean: Path) -> None:
    assert_same_numbers(soiled / "out", clean / "out")


@pytest.mark.ray
@pytest.mark.slow
def test_fail_fast_stops_the_others(head: SharedHead, tmp_path: Path) -> None:
    methods = [{"name": "soiling", "density": 0.5}, {"name": "static", "density": 0.5}]
    tables = yaml_spec.spec_of(methods, name="fast", seeds=4, resources={"cpus": NUM_CPUS})
    spec = yaml_spec.write(tmp_path / "spec.yaml", tables)
    told = {"WITNESSES": str(tmp_path / "witnesses.jsonl"), **Patience(tmp_path, 0.2).env}
    head.run("run", spec, "--out", "out", "--fail-fast", folder=tmp_path, code=1, **told)
    runs = Results(tmp_path / "out").runs()
    assert list(runs["status"]).count("FAILED") == 1
    assert set(runs["status"]) <= {"FAILED", "INTERRUPTED"}
    assert RunFolder(tmp_path / "out").report.is_file()
