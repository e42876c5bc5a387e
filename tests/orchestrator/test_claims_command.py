"""`pruneyard claims` on made-up runs: the table, JSON, and what is said where no run speaks to a claim."""

import json
from pathlib import Path

from in_process_command import Pruneyard
from made_up_evidence import write_rigged

from pruneyard.orchestrator.errors import ExitCode


def test_the_table_and_json_have_verdicts_and_confounds(tmp_path: Path, pruneyard: Pruneyard) -> None:
    folder = str(write_rigged(tmp_path / "out"))
    said = pruneyard("claims", folder).out
    assert "appears" in said
    assert "What weakens the published comparisons" in said
    assert "47.8% lower ECE at density 0.01 (0.0571 to 0.0298), 24% at 0.05 [P]; ResNet-50, CIFAR-10" in " ".join(said.split())
    tables = json.loads(pruneyard("claims", folder, "--json", "--method", "CigL").out)
    assert {row["verdict"] for row in tables["claims"]} >= {"appears", "mechanism inert under published settings"}
    assert all(row["command"] == "pruneyard run cigl-evidence" for row in tables["claims"])
    assert "test/ece" in pruneyard("claims", folder, "--format", "markdown").out
    nothing = pruneyard("claims", folder, "--method", "AGENT")
    assert nothing.code == ExitCode.USAGE
    assert "no pair of settings that speaks to a claim; runs of these specs do: agent-evidence" in nothing.err
    assert "must be one of AGENT, CigL" in pruneyard("claims", folder, "--method", "Nobody").err
