"""Messages of the command that name what is meant: kinds, lengths of trainings, runs by the beginning of their key."""

from pathlib import Path

import pytest
from in_process_command import Pruneyard

from pruneyard.orchestrator.commands.latency import _line
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.records import LatencyRow
from pruneyard.testing.cases import each_case

SPEC = """\
name: small
kind: sparse
data: {name: digits, max_train: 100, max_test: 50}
model: {name: mlp, width: 8, depth: 1}
method: {name: static, density: 0.5}
budget: {steps: 4, batch_size: 16}
seeds: 2
"""

KINDS = "it must be one of calibrate, distill, features, function, merge, nodes, probe, sparse"
DISTIL = {"name": "d", "kind": "distill", "data": "digits", "method": {"name": "dc", "ipc": 1}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SPEC)
    run(folder / "small.yaml", out=folder / "out", local=True)
    return folder


@each_case(
    ("tables", "message"),
    [
        ({"name": "a"}, f"kind: is missing; {KINDS}"),
        ({"name": "a", "kind": 5}, f"kind: is 5; {KINDS}"),
        ({"name": "a", "kind": "sprase"}, f'kind: is "sprase"; {KINDS}; did you mean sparse?'),
        ({**DISTIL, "budget": {"steps": 5}}, "; here method.iterations, evaluation.epochs, evaluation.max_steps set"),
        ({**DISTIL, "grid": {"budget.steps": [5]}}, "budget is a key of kind nodes and sparse"),
        ({**DISTIL, "methd": "dm"}, "did you mean method?"),
    ],
)
def test_a_key_that_does_not_fit_is_answered_with_what_does(tables: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(tables)
    assert message in str(caught.value)


@each_case(
    ("words", "hint"),
    [
        (("list", "mehods"), "Did you mean methods?"),
        (("init", "--template", "distil"), "Did you mean distill?"),
    ],
)
def test_a_misspelt_topic_or_template_is_answered_with_the_nearest(
    pruneyard: Pruneyard, words: tuple[str, ...], hint: str
) -> None:
    answer = pruneyard(*words)
    assert (answer.code, hint in answer.err) == (2, True)


def test_every_verb_takes_the_eight_digits_that_the_live_table_shows(
    pruneyard: Pruneyard, finished: Path, tmp_path: Path
) -> None:
    key = str(Results(finished / "out").runs()["run_key"].iloc[0])
    out = finished / "out"
    assert pruneyard("explain", key[:8], "--out", out).out.startswith(f"{key}: COMPLETED")
    assert pruneyard("export", out, "--network", key[:8], "--out", "network.safetensors").code == 0
    assert (tmp_path / "network.safetensors").exists()
    timed = pruneyard("latency", out, "--run-key", key[:8], "--format", "dense", "--batch-size", "1")
    assert (timed.code, timed.out.splitlines()[1].split()[0]) == (0, key)
    for arguments in (("explain", "0" * 8, "--out", out), ("latency", out, "--run-key", "0" * 8)):
        result = pruneyard(*arguments)
        assert (result.code, "is no run in" in result.err) == (2, True)
    short = pruneyard("latency", out, "--run-key", key[:4])
    assert (short.code, "give at least 8 digits" in short.err) == (2, True)


def test_explain_tells_a_difference_of_many_jobs_once(pruneyard: Pruneyard, finished: Path) -> None:
    arguments = ("explain", finished / "small.yaml", "--out", finished / "out", "--set", "method.density=0.25")
    lines = pruneyard(*arguments, "--set", "seeds=4").out.splitlines()
    assert sum("runs because no run of this key is in" in line for line in lines) == 4
    assert sum("method.density: 0.5 there, 0.25 here" in line for line in lines) == 3  # seeds 0 and 1 together; 2 and 3 alone
    same = pruneyard(*arguments).out
    assert same.count("method.density: 0.5 there, 0.25 here") == 1
    assert "the most similar runs there" in same


def test_a_speedup_within_the_noise_is_called_that() -> None:
    """Medians of separate measurements may come from busy and idle moments; the speedup is measured in turns."""
    from datetime import UTC, datetime

    facts = {"run_key": "k", "format": "csr", "batch_size": 1, "threads": 1, "device": "cpu", "median_s": 71.9e-6}
    facts |= {"low_s": 70e-6, "high_s": 160e-6, "dense_median_s": 150e-6, "speedup": 1.01, "speedup_low": 0.5}
    facts |= {"speedup_high": 2.1, "num_repeats": 11, "measured_at": datetime.now(UTC), "torch_version": "2"}
    known = {name: facts.get(name, 0) for name in LatencyRow.__dataclass_fields__}
    message = _line(LatencyRow(**known))  # type: ignore[arg-type]
    assert message.endswith("71.9 µs, dense 150 µs; in turns 1.01 times as fast (0.50 to 2.10), no difference beyond the noise")
