"""The served page: on loopback only, behind a token, rendered again when results are new and only then."""

import json
import socket
import urllib.error
import urllib.request

import pytest
from made_up_study import metric, record

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.planned import write_plan
from pruneyard.reports.records import Status
from pruneyard.reports.serving import HOST, LivePage, PageServer
from pruneyard.reports.store import Store


def add(path, key, *, status=Status.COMPLETED):
    Store(RunFolder(path)).write(record(key, seed=int(key[-1]), status=status), [metric(0.9)], [])


@pytest.fixture
def page(tmp_path):
    write_plan(RunFolder(tmp_path), ["k0", "k1"])
    add(tmp_path, "k0")
    return LivePage([tmp_path])


@pytest.fixture
def server(page):
    serving = PageServer(page)
    yield serving
    serving.close()


def get(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
        return answer.read().decode(), answer.headers


def test_a_page_is_rendered_again_when_results_are_new_and_only_then(tmp_path, page, server):
    text, headers = get(server.address)
    assert "1 of 2 planned runs completed" in text
    assert "connect-src 'self'" in text
    assert headers["Cache-Control"] == "no-store"
    first = json.loads(get(f"{server.address}version")[0])
    assert json.loads(get(f"{server.address}version")[0]) == first
    assert first["version"] in text
    assert (page.num_rendered, first["has_ended"]) == (1, False)
    add(tmp_path, "k1")
    page._render_again_at = 0.0  # the tenth of the time that rendering may take
    second = json.loads(get(f"{server.address}version")[0])
    assert second["version"] != first["version"]
    assert (page.num_rendered, second["has_ended"], page.is_newest) == (2, True, True)
    assert "2 of 2 planned runs completed" in get(server.address)[0]
    assert page.num_rendered == 2


def test_rendering_waits_until_it_has_taken_a_tenth_of_the_time(tmp_path, page):
    version, _ = page.current()
    page._render_again_at = float("inf")
    add(tmp_path, "k1")
    assert page.current()[0] == version
    assert not page.is_newest


def test_nothing_is_told_without_the_token_or_under_a_foreign_name(server):
    port = server.address.split(":")[2].split("/")[0]
    for address, headers in (
        (f"http://{HOST}:{port}/", {}),
        (f"http://{HOST}:{port}/wrong/", {}),
        (f"{server.address}other", {}),
        (server.address, {"Host": "attacker.example"}),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(address, **headers)
        assert caught.value.code == 404
        caught.value.close()


def test_no_other_interface_is_listened_on(server):
    port = int(server.address.split(":")[2].split("/")[0])
    with socket.socket(socket.AF_INET) as other:
        other.bind(("127.0.0.2", port))  # fails where the server listens on all addresses


def test_a_study_has_not_ended_while_runs_are_missing_or_interrupted(tmp_path, page):
    assert not page.has_ended()
    add(tmp_path, "k1", status=Status.INTERRUPTED)
    assert not page.has_ended()
    other = tmp_path / "other"
    add(other, "k0")
    assert not LivePage([other]).has_ended(), "there is no plan"


def test_a_folder_without_results_gets_a_page_that_waits(tmp_path):
    write_plan(RunFolder(tmp_path), ["k0"])
    version, text = LivePage([tmp_path]).current()
    assert b"No results yet" in text
    assert version.encode() in text
