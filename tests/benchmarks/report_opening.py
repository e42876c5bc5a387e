"""Measures how long headless Chromium takes to open pages of 1,000 runs: navigation timing, CPU of the main thread, DOM elements.

Without arguments it writes two made-up studies, one of 1,000 settings with a seed each and one of 50 settings with 20 seeds. The
pages are opened in turn in one browser, so that other work on the machine meets all of them.

    python tests/benchmarks/report_opening.py [--loads 7] [PAGE.html ...]
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from selenium.webdriver.remote.webdriver import WebDriver

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "browser"))

from chromium import open_browser, resize
from made_up_study import write_study

from pruneyard.reports.page import write_page

LOADED = "return document.readyState === 'complete' && performance.getEntriesByType('navigation')[0].loadEventEnd > 0"
TIMES = """
    const at = performance.getEntriesByType('navigation')[0];
    return [at.loadEventEnd, document.getElementsByTagName('*').length];
"""


def write_pages(folder: Path) -> list[Path]:
    """Writes the pages of both studies."""
    densities = [round(0.02 + 0.96 * place / 40, 4) for place in range(40)]
    methods = [f"method{place}" for place in range(24)] + ["static"]
    shapes = {"settings": (methods, densities, 1), "seeds": (methods[-5:], densities[::4], 20)}
    pages = []
    for name, (own, sizes, seeds) in shapes.items():
        study = write_study(folder / name, methods=own, densities=sizes, seeds=seeds, evaluations=10, troubles=False)
        pages.append(write_page([study], folder / f"{name}.html"))
    return pages


def cpu_s(browser: WebDriver) -> float:
    found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(float(each["value"]) for each in found if each["name"] == "TaskDuration")


def opened(browser: WebDriver, page: Path) -> tuple[float, float, int]:
    """Opens the page; returns seconds until it has loaded, after its scripts, CPU seconds, and the number of elements."""
    browser.get("about:blank")
    begun = cpu_s(browser)
    browser.get(page.resolve().as_uri())
    while not browser.execute_script(LOADED):
        pass
    used = cpu_s(browser) - begun
    loaded, elements = browser.execute_script(TIMES)
    return loaded / 1e3, used, elements


def main(pages: list[Path], *, loads: int) -> None:
    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as browser:
        resize(browser, 1280, 900)
        browser.execute_cdp_cmd("Performance.enable", {})
        found: dict[Path, list[tuple[float, float, int]]] = {page: [] for page in pages}
        for number in range(loads + 1):
            for page in pages:
                times = opened(browser, page)
                if number:  # the first load also fills the caches of the browser
                    found[page].append(times)
    for page, rows in found.items():
        loaded, used = ([row[place] for row in rows] for place in (0, 1))
        print(
            f"{page}: {page.stat().st_size / 1e6:.2f} MB, {rows[0][2]:,} elements, loaded in {min(loaded):.2f} to "
            f"{max(loaded):.2f} s (median {statistics.median(loaded):.2f}), {statistics.median(used):.2f} s of CPU, {loads} loads"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--loads", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        main(arguments.pages or write_pages(Path(temporary)), loads=arguments.loads)
