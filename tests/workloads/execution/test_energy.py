"""The energy meter of the benchmarks reads the counters of a machine, and is absent where it has none."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from energy import EnergyMeter, counters, rapl_counters


def zone(folder: Path, name: str, *, label: str, microjoules: int) -> Path:
    """Writes a zone as Linux shows it below /sys/class/powercap."""
    path = folder / name
    path.mkdir()
    for file, content in (("name", label), ("energy_uj", microjoules), ("max_energy_range_uj", 10_000_000)):
        (path / file).write_text(f"{content}\n")
    return path


def test_joules_of_packages_are_counted_across_the_end_of_the_range(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", label="package-0", microjoules=9_000_000)
    zone(tmp_path, "intel-rapl:0:0", label="core", microjoules=1)  # a part of the package
    meter = EnergyMeter(rapl_counters(tmp_path))
    assert meter.joules() == {"package-0": 0.0}
    for microjoules, expected in ((9_500_000, 0.5), (1_500_000, 2.5), (1_000_000, 12.0)):
        (package / "energy_uj").write_text(str(microjoules))
        assert meter.joules() == {"package-0": pytest.approx(expected)}


def test_a_machine_that_counts_nothing_has_no_meter(tmp_path: Path) -> None:
    assert rapl_counters(tmp_path) == {}
    assert not [name for name in counters(tmp_path) if name.startswith("package")]
