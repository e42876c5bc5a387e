"""The page in headless Chromium without a network: charts are interactive, nothing is fetched, nothing overflows."""

import json

import pytest
from chromium import MARKS, WITHIN_S, emulate, open_browser, requests, show
from made_up_chain import write_chain
from made_up_study import metric, record, write_study
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.store import Store

pytestmark = MARKS


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study") / "out")
    return write_page([folder], folder / "report.html")


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.slow)])
def test_charts_come_alive_without_errors_requests_or_overflow(browser, page, tmp_path, width):
    show(browser, page, width=width)
    assert browser.save_screenshot(str(tmp_path / f"page-{width}.png"))
    figures = browser.execute_script("return document.querySelectorAll('figure.interactive').length")
    drawn = browser.execute_script("return document.querySelectorAll('.live svg.marks path').length")
    assert figures == 16
    assert drawn > 10 * figures
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert [address for address in requests(browser) if not address.startswith("data:")] == [page.as_uri()]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = "return [...document.querySelectorAll('figure svg.marks')].filter(s => s.checkVisibility()"
    wide += " && s.getBoundingClientRect().right > innerWidth).length"
    assert browser.execute_script(wide) == 0


def test_hovering_shows_a_tooltip_and_print_gets_static_charts_and_open_tables(browser, page):
    show(browser, page, width=1280)
    mark = browser.find_element("css selector", "#against-density .live .mark-symbol path")
    webdriver.ActionChains(browser).move_to_element(mark).perform()
    WebDriverWait(browser, WITHIN_S).until(
        lambda driver: driver.find_element("css selector", "#vg-tooltip-element.visible")
    )
    text = browser.find_element("css selector", "#vg-tooltip-element").text
    assert "test accuracy" in text
    assert "seeds" in text
    papers = "const t = document.querySelector('#claims details table'); return t.checkVisibility()"
    papers += " && t.getBoundingClientRect().height > 100"
    assert not browser.execute_script(papers)
    emulate(browser, media="print")
    count = "return [...document.querySelectorAll('{}')].filter(e => e.checkVisibility()).length"
    assert browser.execute_script(count.format(".still svg")) == 16
    assert browser.execute_script(count.format(".live svg")) == 0
    assert browser.execute_script(papers)


@pytest.mark.slow
def test_dark_pages_are_dark_and_draw_every_chart(browser, page):
    colours = []
    for scheme in ("light", "dark"):
        show(browser, page, width=1280, scheme=scheme)
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(int(part) for part in colour[4:-1].split(",")) for colour in colours)
    assert light > 700
    assert dark < 100
    assert browser.execute_script("return document.querySelectorAll('.live svg.marks path').length") > 250
    assert [entry["message"] for entry in browser.get_log("browser")] == []


@pytest.mark.slow
def test_without_scripts_stills_and_tables_are_shown_and_papers_numbers_open(page, tmp_path):
    with open_browser(tmp_path / "profile", scripts=False) as browser:
        browser.get(page.as_uri())
        stills = browser.find_elements("css selector", ".still svg.marks")
        assert len(stills) == 25
        assert sum(still.is_displayed() for still in stills) == 16
        assert browser.find_element("css selector", "#summary table").is_displayed()
        table = browser.find_element("css selector", "#claims details table")
        assert not table.is_displayed()
        browser.find_element("css selector", "#claims summary").send_keys(Keys.ENTER)
        assert table.is_displayed()


@pytest.fixture(scope="module")
def wide_page(tmp_path_factory):
    """Writes a study that differs in so many settings that its summary is wider than a window."""
    folder = tmp_path_factory.mktemp("wide")
    for number in range(6):
        settings = {f"setting_number_{place}": number * place for place in range(1, 13)}
        spec = json.dumps({"optimizer": {"name": ("sgd", "adamw")[number % 2], **settings}})
        rows = [metric(0.5 + number / 100, name=name) for name in ("accuracy", "nll", "brier", "ece")]
        Store(RunFolder(folder)).write(record(f"k{number}", spec_json=spec), rows, [])
    return write_page([folder], folder / "report.html")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_a_wide_summary_scrolls_in_its_box_with_its_first_columns_in_sight(browser, wide_page, width):
    show(browser, wide_page, width=width)
    box = "document.querySelector('#summary .scroll')"
    assert browser.execute_script(f"return {box}.scrollWidth > {box}.clientWidth + 500")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    lefts = f"return [...{box}.querySelectorAll('tbody tr:first-child > *')].map(e => e.getBoundingClientRect().left)"
    before = browser.execute_script(lefts)
    browser.execute_script(f"{box}.scrollLeft = 500")
    after = browser.execute_script(lefts)
    num_kept = sum(abs(one - two) < 1 for one, two in zip(before, after, strict=True))
    assert num_kept >= (2 if width == 1200 else 1)
    assert after[-1] == pytest.approx(before[-1] - 500)
    edge = f"const e = {box}.querySelector('tbody tr').children[{num_kept - 1}].getBoundingClientRect();"
    on_top = browser.execute_script(
        f"{edge} return document.elementFromPoint(e.right - 3, e.top + 3).cellIndex"
    )
    assert on_top == num_kept - 1


@pytest.fixture(scope="module")
def trust_page(tmp_path_factory):
    """Writes calibrate runs with everything that they can report."""
    folder = tmp_path_factory.mktemp("trust")
    write_chain(folder)
    return write_page([folder], folder / "report.html")


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.slow)])
def test_charts_of_calibrate_runs_come_alive_without_errors_requests_or_overflow(browser, trust_page, width):
    show(browser, trust_page, width=width)
    for name in ("trust-reliability", "trust-risk", "trust-scores", "trust-sizes"):
        assert browser.find_element("css selector", f"#{name} ~ .drawing .live svg.marks").is_displayed()
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert [address for address in requests(browser) if not address.startswith("data:")] == [trust_page.as_uri()]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
