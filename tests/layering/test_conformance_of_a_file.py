"""`pytest --pyargs pruneyard.testing --plugin FILE` as a third party runs it: outside the checkout, on their own file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = '''"""Learning rate: falls to nothing by a power of what is left.

Reference: Chen et al. 2017, Rethinking atrous convolution (arXiv:1706.05587), the "poly" policy
"""

from dataclasses import dataclass

__all__ = ["Poly"]


@dataclass(frozen=True, kw_only=True)
class Poly:
    power: float = 0.9

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"power is {self.power}; it must be above 0")

    def factor(self, step: int, num_steps: int) -> float:
        return (1 - step / num_steps) ** self.power
'''


def conformance_of(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the suites in a folder without a pytest configuration."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    words = ["-p", "pruneyard.testing.selection", "-p", "no:cacheprovider", "-q"]  # -p: where no entry point is installed
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--pyargs", "pruneyard.testing", "--plugin", str(path), *options],
        cwd=path.parent,
        env=kept,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_broken_file_fails_by_the_rules_it_breaks_and_passes_the_others(tmp_path: Path) -> None:
    broken = tmp_path / "sinking.py"
    broken.write_text(GOOD.replace("return (1 -", "return -(1 -").replace("Reference:", "See"))
    failed = conformance_of(broken)
    assert failed.returncode == 1
    lines = [line.partition("::")[2] for line in failed.stdout.splitlines() if line.startswith("FAILED")]
    assert [line.partition("[")[0] for line in lines] == [
        "test_is_one_frozen_dataclass_that_says_what_it_does",
        "test_every_step_of_any_budget_has_a_finite_factor_that_is_not_negative",
    ]
    assert "2 failed, 3 passed" in failed.stdout
    assert "must have a line that starts with `Reference:`" in failed.stdout


def test_a_file_of_no_family_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "poly.py"
    path.write_text(GOOD.replace("def factor(self, step: int, num_steps: int)", "def factor(self, step: int)"))
    refused = conformance_of(path)
    assert refused.returncode == 4
    assert "Poly satisfies the protocol of no family. Nearest is schedules; of RateSchedule it lacks factor" in refused.stderr
