"""Headless Chromium that records its console and every request, and reaches no network, for tests of pages."""

import base64
import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)

WITHIN_S = 120  # for what takes seconds on an idle machine
OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"
    ),
]


@contextmanager
def open_browser(profile: Path, *, scripts: bool = True, online: bool = False):
    """Starts a fresh Chromium that records its console and every request, and reaches no network; online: only this machine."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    hosts = "MAP * ~NOTFOUND" + (", EXCLUDE 127.0.0.1" if online else "")
    for flag in (*FLAGS, f"--host-resolver-rules={hosts}", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        if not online:
            browser.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
        if not scripts:
            browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        yield browser
    finally:
        browser.quit()


def show(browser, page, *, width, scheme="light"):
    """Opens the page in a window of that width, tall enough for all of it, and waits for every chart."""
    emulate(browser, scheme=scheme)
    resize(browser, width, 1200)
    browser.get(page.as_uri())

    def every_chart_is_drawn(driver):
        # A chart is drawn when it is in view, and the page grows while it is laid out.
        resize(driver, width, driver.execute_script("return document.documentElement.scrollHeight"))
        return driver.execute_script(
            "return [...document.querySelectorAll('figure')].every(f => f.matches('.interactive') || !f.checkVisibility())"
        )

    WebDriverWait(browser, WITHIN_S).until(every_chart_is_drawn)
    resize(browser, width, browser.execute_script("return document.documentElement.scrollHeight"))


def emulate(browser, *, scheme="light", media="screen"):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})


def resize(browser, width, height):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def requests(browser):
    """Returns the addresses of everything that the browser requested."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def printed(browser, **options):
    """Returns the PDF that the browser makes of the page."""
    found = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, **options})
    return base64.b64decode(found["data"])


def num_pages(pdf):
    """Returns the number of pages of a PDF."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))
