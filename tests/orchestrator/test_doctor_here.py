"""`pruneyard doctor` on this machine, without a cluster."""

from pathlib import Path

import pytest

from pruneyard.orchestrator.commands import doctor


def doctor_output(folder: Path) -> dict[str, tuple[bool, str]]:
    return {finding.name: (finding.good, finding.text) for finding in doctor.check_machine(folder)}


def test_little_room_is_a_fault_with_its_number_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds are such that no machine meets them."""
    monkeypatch.setattr(doctor, "MIN_DISK_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "MIN_SHARED_BYTES", 1 << 60)
    found = doctor_output(tmp_path)
    good, text = found["storage here"]
    assert not good
    assert text.endswith(f" GiB free in {tmp_path}; free some, or give another --out")
    if Path("/dev/shm").is_dir():
        good, text = found["shared memory here"]
        assert not good
        assert text.endswith(" MiB free in /dev/shm; start the container with --shm-size=2g or more")


def test_a_folder_that_cannot_be_written_is_a_fault_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    good, text = doctor_output(tmp_path / "file" / "out")["storage here"]
    assert not good
    assert text.startswith(f"{tmp_path}/file/out cannot be written: ")
    assert text.endswith("; give another --out, or fix its permissions")


def test_the_folder_is_left_as_it_was(tmp_path: Path) -> None:
    good, text = doctor_output(tmp_path)["storage here"]
    assert good, text
    assert not list(tmp_path.iterdir())
