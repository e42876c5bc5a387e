"""`pruneyard watch`: an open page follows a study, and the command ends with it."""

import subprocess
import sys

import pytest
from chromium import MARKS, open_browser
from made_up_study import metric, record
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.support.wait import WebDriverWait

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.planned import write_plan
from pruneyard.reports.store import Store

pytestmark = [*MARKS, pytest.mark.slow]

WAIT_S = 120


def test_an_open_page_follows_the_study_and_the_command_ends_with_it(tmp_path):
    folder = RunFolder(tmp_path / "out")
    write_plan(folder, ["k0", "k1"])
    Store(folder).write(record("k0"), [metric(0.9)], [])
    arguments = [sys.executable, "-m", "pruneyard", "watch", str(folder.path), "--once-done"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:")
            with open_browser(tmp_path / "profile", online=True) as browser:
                browser.get(address)

                wait = WebDriverWait(browser, WAIT_S, ignored_exceptions=[StaleElementReferenceException])
                wait.until(lambda driver: driver.find_element("css selector", ".headline").text.startswith("1 of 2 planned runs"))
                Store(folder).write(record("k1", seed=1), [metric(0.8)], [])
                wait.until(lambda driver: driver.find_element("css selector", ".headline").text.startswith("2 of 2 planned runs"))
                wait.until(lambda driver: driver.find_element("css selector", "#live").text.startswith("The study has ended"))
                assert [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
