"""`pruneyard watch` of a folder in an object store: the page follows the store, and the command ends with the study."""

import json
import subprocess
import sys
import time
import urllib.request

import pytest
from made_up_study import metric, record
from object_store import ObjectStore

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.planned import write_plan
from pruneyard.reports.store import Store

pytestmark = pytest.mark.slow

WAIT_S = 120


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=WAIT_S) as answer:
        return str(answer.read().decode())


def test_a_page_of_an_object_store_follows_its_study_and_ends_with_it(store: ObjectStore, folder: ObjectPath) -> None:
    study = RunFolder(folder)
    write_plan(study, ["k0", "k1"])
    Store(study).write(record("k0"), [metric(0.9)], [])
    arguments = [sys.executable, "-m", "pruneyard", "watch", str(folder), "--once-done"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert "1 of 2 planned runs completed" in get(address)
            before = json.loads(get(f"{address}version"))
            Store(study).write(record("k1", seed=1), [metric(0.8)], [])
            page = get(address)  # the first request after a change renders it
            while "2 of 2 planned runs completed" not in page:  # unless rendering has just taken its tenth of the time
                time.sleep(0.5)
                page = get(address)
            after = json.loads(get(f"{address}version"))
            assert before["has_ended"] is False
            assert after["has_ended"] is True
            assert after["version"] != before["version"]
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
