"""Sources of the token, the machines that it is sent to, and facts about jobs that need no cluster."""

import os
import platform
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pruneyard.cluster.access import Access, access_to
from pruneyard.cluster.bundle import write_bundle
from pruneyard.cluster.jobs import JobView
from pruneyard.cluster.notes import Note, last_note, notes_folder, read_note, write_note
from pruneyard.cluster.pins import differences, extras, installed, requirements
from pruneyard.testing.cases import each_case

TOKEN = "f" * 64


@pytest.fixture(autouse=True)
def user_without_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes every setting of the user."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_token_is_searched_where_ray_searches_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert access_to("127.0.0.1:8265").token == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from home\n")
    assert access_to("127.0.0.1:8265").token == "from home"
    (tmp_path / "named").write_text(" named ")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert access_to("127.0.0.1:8265").token == "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert access_to("127.0.0.1:8265").token == TOKEN
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert access_to("127.0.0.1:8265").token == ""


def test_a_token_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(ValueError, match="RAY_AUTH_TOKEN_PATH names /nowhere/token, which is no file"):
        access_to("127.0.0.1:8265")


def test_a_token_is_never_shown() -> None:
    assert TOKEN not in repr(Access(address="http://127.0.0.1:8265", token=TOKEN))
    with pytest.raises(ValueError, match="must not hold a secret") as caught:
        Access(address="https://me:hidden@lab:8265", token=TOKEN)
    assert "hidden" not in str(caught.value)


@each_case(
    "address", ["http://10.0.0.1:8265", "https://lab.example", "http://[2001:db8::1]:8265"]
)
def test_no_other_machine_is_contacted_without_a_token(address: str) -> None:
    with pytest.raises(ValueError, match="not without a token"):
        Access(address=address)
    assert Access(address=address, token=TOKEN).sends_token_unencrypted == address.startswith("http:")


@each_case("address", ["http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265"])
def test_loopback_is_contacted_with_and_without_a_token(address: str) -> None:
    assert Access(address=address).mode == "without a token"
    assert not Access(address=address, token=TOKEN).sends_token_unencrypted


@each_case("address", ["ray://a:10001", "auto://", "http://", "http://a/b", "ftp://a"])
def test_what_is_no_job_server_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is no address to submit to; give the URL"):
        Access(address=address, token=TOKEN)


def test_notes_are_for_their_user_alone_and_found_by_the_jobs_name(tmp_path: Path) -> None:
    note = Note(job_id="sweep-1234abcd-1", address="http://127.0.0.1:8265", study="sweep", out="/shared/out")
    write_note(note)
    assert read_note(note.job_id) == note
    assert read_note("other") is None
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert read_note(f"../jobs/{note.job_id}") == note, "a name is a name, never a path"


NUMBERED = '{"job_id": 1, "address": "", "study": "", "out": ""}'


@each_case("text", ["", '{"job_id": "b-1"', "[]", "null", '{"job_id": "b-1"}', NUMBERED, "\xff"])
def test_a_damaged_note_is_skipped_with_a_line_that_names_its_file(text: str, caplog: pytest.LogCaptureFixture) -> None:
    older = Note(job_id="a-1", address="http://127.0.0.1:1", study="a", out="/out")
    write_note(older)
    damaged = notes_folder() / "b-1.json"
    damaged.write_text(text, encoding="latin-1")
    os.utime(damaged, (2**31, 2**31))
    assert last_note() == older
    assert (read_note("b-1"), last_note(besides="b-1")) == (None, older)
    assert [str(damaged) in record.getMessage() for record in caplog.records] == [True, True]
    caplog.clear()


@each_case("port", ["99999", "0", "-1", "http", "82 65"])
def test_an_address_with_an_impossible_port_is_refused(port: str) -> None:
    rule = "the port must be a number from 1 to 65535"
    with pytest.raises(ValueError, match=f"127.0.0.1:{port} is no address to submit to; {rule}"):
        access_to(f"127.0.0.1:{port}")


def test_a_bundle_runs_without_an_installation_and_knows_its_version(tmp_path: Path) -> None:
    write_bundle(tmp_path, spec="name: x\n", code={"mine/net.py": Path(__file__)})
    program = "from pruneyard.cluster import pins; print(pins.__file__, pins.version('pruneyard'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path / "pruneyard" / "cluster" / "pins.py"), installed()["pruneyard"]]
    assert (tmp_path / "spec.yaml").read_text() == "name: x\n"
    assert (tmp_path / "mine" / "net.py").read_bytes() == Path(__file__).read_bytes()
    same = subprocess.run([sys.executable, "-m", "pruneyard.cluster.pins", "pins.json"], cwd=tmp_path, check=False)
    assert same.returncode == 0


def test_installed_extras_are_passed_to_the_installer_and_test_tools_are_not() -> None:
    found = extras()
    assert ("onnx" in found) == (find_spec("onnx") is not None)
    assert not found.keys() & {"pruneyard", "pytest", "mypy", *installed()}


def test_builds_of_one_version_are_the_same_and_ray_is_the_clusters_own() -> None:
    pins = installed()
    plain = pins["torch"].partition("+")[0]
    assert differences({**pins, "torch": f"{plain}+cpu"}) == []
    assert differences({"torch": "1.0.0+cpu"}) == [
        f"torch is {pins['torch']} here; the study was submitted with 1.0.0+cpu"
    ]
    assert differences({"python": f"{platform.python_version().rpartition('.')[0]}.99"}) == []
    assert differences({"python": "3.1.4"}) == [
        f"python is {platform.python_version()} here; the study was submitted with 3.1.4"
    ]
    # One line however many there are: a bare interpreter lacks them all.
    assert differences({"no-such-package": "1"}) == ["no-such-package is missing here"]
    assert differences({"none-a": "1", "torch": "1.0.0", "none-b": "2"}, versions=False) == ["none-a, none-b are missing here"]
    wanted = requirements({"python": "3.11.7", "ray": "2.60.0", "torch": "2.9.1+cu128", "numpy": "2.4.0"})
    assert wanted == ["torch==2.9.1", "numpy==2.4.0"]


@each_case(
    ("status", "exit_code", "never_ran", "code"),
    [
        ("SUCCEEDED", 0, False, 0),
        ("STOPPED", None, False, 3),
        ("FAILED", 3, False, 3),
        ("FAILED", 2, False, 2),
        ("FAILED", -9, False, 1),
        ("FAILED", 137, False, 1),
        ("FAILED", 127, False, 4),
        ("FAILED", None, True, 4),
        ("FAILED", None, False, 1),
    ],
)
def test_every_end_has_an_exit_code(status: str, exit_code: int | None, never_ran: bool, code: int) -> None:
    view = JobView(
        job_id="j",
        status=status,
        message="",
        metadata={},
        submitted_at=0.0,
        ended_at=0.0,
        exit_code=exit_code,
        never_ran=never_ran,
        driver_pid=0,
        driver_node="",
    )
    assert view.ended
    assert view.code == code
