"""Sorting, filtering, columns, copying, downloads, legends and the drawer of runs, by clicks and keys in headless Chromium."""

import csv
import io
import time

import pytest
from chromium import MARKS, emulate, num_pages, printed, resize
from made_up_chain import write_chain
from made_up_study import write_study
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from pruneyard.reports.page import write_page
from pruneyard.reports.study import Study

pytestmark = MARKS

HOSTILE = "</script><img src=x onerror=alert(1)>"
WAIT_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "out"
    return write_study(path, methods=("dense", "rigl", "static", HOSTILE), densities=(0.2, 0.05), evaluations=3)


@pytest.fixture(scope="module")
def page(folder):
    return write_page([folder], folder / "report.html")


def opened(browser, page):
    emulate(browser)
    resize(browser, 1280, 1000)
    browser.get(page.as_uri())
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")


def press(browser, selector, text=None):
    """Clicks the first element of the selector, or the first one with this text, and waits for what the click has queued.

    A part that opens fills its table when it is told so, after the click.
    """
    found = browser.find_elements("css selector", selector)
    chosen = next(each for each in found if text is None or each.get_attribute("textContent").strip() == text)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chosen)
    chosen.click()
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => setTimeout(done))")
    return chosen


def search(browser, text):
    field = browser.find_element("css selector", "#filter")
    browser.execute_script("scrollTo(0, 0)")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text or Keys.DELETE)
    time.sleep(0.3)  # the field waits for the end of typing


def column(browser, number, table="summary"):
    script = f"return [...document.querySelectorAll('[data-name={table}] tbody tr')].map(r => r.cells[{number}].textContent)"
    return browser.execute_script(script)


def status(browser):
    return browser.find_element("css selector", "#status").text


def copied(browser):
    return browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")


def test_a_header_sorts_by_click_and_by_key_and_says_so(browser, page):
    opened(browser, page)
    before = column(browser, 3)
    press(browser, "[data-name=summary] .sort", "test accuracy")
    values = [float(text.split()[0]) for text in column(browser, 3) if text != "n/a"]
    assert values == sorted(values, reverse=True)
    headers = browser.find_elements("css selector", "[data-name=summary] thead th")
    assert [header.get_attribute("aria-sort") for header in headers][2:5] == ["none", "descending", "none"]
    button = headers[3].find_element("css selector", "button")
    button.send_keys(Keys.ENTER)
    assert headers[3].get_attribute("aria-sort") == "ascending"
    values = [float(text.split()[0]) for text in column(browser, 3) if text != "n/a"]
    assert values == sorted(values)
    button.send_keys(Keys.SPACE)
    assert headers[3].get_attribute("aria-sort") == "none"
    assert column(browser, 3) == before
    press(browser, "[data-name=summary] .sort", "active parameters")
    place = [header.text.partition(" ▼")[0] for header in headers].index("active parameters")
    assert [text for text in column(browser, place) if text != "n/a"][0::3] == ["85 k", "17 k", "4.25 k"], "not an order of texts"


def test_words_are_sorted_as_words_even_where_they_begin_with_a_number(browser, page):
    opened(browser, page)
    press(browser, "#runs > summary")
    names = [button.get_attribute("textContent") for button in browser.find_elements("css selector", "[data-name=runs] .sort")]
    place = names.index("started (UTC)")
    press(browser, "[data-name=runs] .sort", "started (UTC)")
    assert column(browser, place, "runs") == sorted(column(browser, place, "runs"))
    press(browser, "[data-name=runs] .sort", "started (UTC)")
    assert column(browser, place, "runs") == sorted(column(browser, place, "runs"), reverse=True)
    assert len(set(column(browser, place, "runs"))) > 5


def test_the_filter_reaches_every_table_and_chart(browser, page):
    opened(browser, page)
    search(browser, "rigl 0.05")
    assert column(browser, 0) == ["rigl"]
    assert column(browser, 0, "runs") == ["rigl · density 0.05"] * 3
    assert status(browser) == "3 of 21 runs match"
    is_hidden = "return [...document.querySelectorAll('#learning-val-accuracy figure')].map(f => f.hidden)"
    assert sorted(browser.execute_script(is_hidden)) == [False, True, True]
    browser.execute_script("document.querySelector('#against-density figure').scrollIntoView()")
    points = "return document.querySelectorAll('#against-density .live .mark-symbol path').length"
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(points) == 1)
    assert browser.current_url.endswith("#q=rigl%200.05")
    search(browser, "-rigl -static")
    assert set(column(browser, 0)) == {"dense", HOSTILE}
    search(browser, "")
    assert len(column(browser, 0)) == 7
    assert status(browser) == ""
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_a_click_on_the_legend_hides_a_series(browser, page):
    opened(browser, page)
    browser.execute_script("document.querySelector('#against-density figure').scrollIntoView()")
    points = "return document.querySelectorAll('#against-density .live .mark-symbol path').length"
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(points) == 6)
    button = press(browser, "#against-density .legend button", "rigl")
    assert button.get_attribute("aria-pressed") == "false"
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(points) == 4)
    button.click()
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(points) == 6)


def test_a_chart_shows_another_metric_a_linear_axis_and_a_part(browser, page, folder):
    """The points of the chart, read by its axis, are the means of the chosen metric, which the page computes anew."""
    opened(browser, page)
    browser.execute_script("document.querySelector('#against-density figure').scrollIntoView()")
    read = """
        const texts = (role) => [...document.querySelectorAll('#against-density .live .' + role + ' text')];
        const at = (node) => node.getAttribute('transform').match(/[-\\d.]+/g).map(Number);
        return {
            titles: texts('role-axis-title').map((node) => node.textContent),
            ticks: texts('role-axis-label').map((node) => [Number(node.textContent), ...at(node)]),
            points: [...document.querySelectorAll('#against-density .live .mark-symbol path')].map(at),
        };
    """
    WebDriverWait(browser, WAIT_S).until(lambda driver: len(driver.execute_script(read)["points"]) == 6)
    press(browser, "#against-density .legend button", "dense (reference)")
    select = browser.find_element("css selector", "#against-density .axes select")
    browser.execute_script("arguments[0].value = 'test NLL'; arguments[0].dispatchEvent(new Event('change'))", select)
    WebDriverWait(browser, WAIT_S).until(lambda driver: "test NLL" in driver.execute_script(read)["titles"])
    assert browser.find_element("css selector", "#against-density h2").text == "Test NLL versus density"
    assert not browser.execute_script("return document.querySelector('#against-density .live .mark-rect path')")  # the dense band
    shown = browser.execute_script(read)
    (first, _, low), *_, (last, _, high) = [tick for tick in shown["ticks"] if tick[1] < 0]
    # The baseline of a label is 3 pixels below its tick.
    means = sorted(first + (y + 3 - low) * (last - first) / (high - low) for _, y in shown["points"])
    table = Study.read([folder]).cells
    expected = sorted(table.loc[table["method"] != "dense", "test/nll"])
    assert means == pytest.approx(expected, abs=0.01 * (max(expected) - min(expected)))

    positions = sorted({x for x, _ in shown["points"]})
    press(browser, "#against-density .axes input")  # log horizontal, which was on
    WebDriverWait(browser, WAIT_S).until(lambda driver: len([t for t in driver.execute_script(read)["ticks"] if t[1] >= 0]) > 2)
    # Where there are two densities, they stay at the ends.
    assert sorted({x for x, _ in browser.execute_script(read)["points"]}) == pytest.approx(positions)
    ticks = browser.execute_script(read)["ticks"]
    press(browser, "#against-density .zoom button", "+")
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(read)["ticks"] != ticks)
    press(browser, "#against-density .zoom button", "Whole")
    WebDriverWait(browser, WAIT_S).until(lambda driver: sorted(driver.execute_script(read)["ticks"]) == sorted(ticks))
    emulate(browser, media="print")
    assert browser.find_element("css selector", "#against-density .live").is_displayed()  # the chart as chosen
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_learning_curves_show_another_metric_and_each_panel_zooms_alone_until_it_is_reset(browser, page, folder):
    """The last point of a line, read by its axis, is the mean of the chosen metric; a drag moves the axes of one panel."""
    opened(browser, page)
    browser.execute_script("document.querySelector('#learning-val-accuracy figure').scrollIntoView()")
    read = """
        return [...document.querySelectorAll('#learning-val-accuracy figure')].map((figure) => {
            const texts = (role) => [...figure.querySelectorAll('.live .' + role + ' text')];
            const at = (node) => node.getAttribute('transform').match(/[-\\d.]+/g).map(Number);
            return {
                name: figure.querySelector('h3').textContent,
                titles: texts('role-axis-title').map((node) => node.textContent),
                ticks: texts('role-axis-label').map((node) => [Number(node.textContent), ...at(node)]),
                ends: [...figure.querySelectorAll('.live .mark-line path')].map(
                    (path) => path.getAttribute('d').match(/[-\\d.]+/g).map(Number).at(-1)),
            };
        });
    """

    def wait(condition):
        WebDriverWait(browser, WAIT_S).until(lambda driver: condition(panels()))

    def panels():
        found = browser.execute_script(read)
        return [{**panel, "ticks": sorted(panel["ticks"])} for panel in found]  # Vega puts labels back in another order

    wait(lambda found: all(panel["ends"] for panel in found))
    select = browser.find_element("css selector", "#learning-val-accuracy .axes select")
    browser.execute_script("arguments[0].value = 'val NLL'; arguments[0].dispatchEvent(new Event('change'))", select)
    wait(lambda found: all("val NLL" in panel["titles"] for panel in found))
    assert browser.find_element("css selector", "#learning-val-accuracy h2").text == "Learning curves: val NLL"
    rigl = next(panel for panel in panels() if panel["name"] == "rigl")
    (first, _, low), *_, (last, _, high) = [tick for tick in rigl["ticks"] if tick[1] < 0]
    shown = sorted(first + (y + 3 - low) * (last - first) / (high - low) for y in rigl["ends"])
    study = Study.read([folder])
    cell_of = study.cells.set_index("cell").loc[study.labelled["cell"]]
    own = study.by_run["val/nll"].reindex(study.labelled["run_key"])
    means = own.groupby(study.labelled["cell"].to_numpy()).mean()
    expected = sorted(means[cell] for cell in set(cell_of.index) if cell_of["method"][cell].iloc[0] in ("rigl", "dense"))
    assert shown == pytest.approx(expected, abs=0.02 * (last - first))

    before = panels()
    panel = browser.find_elements("css selector", "#learning-val-accuracy figure .live svg.marks")[1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
    ActionChains(browser).move_to_element(panel).click_and_hold().move_by_offset(60, 25).release().perform()
    wait(lambda found: found[1]["ticks"] != before[1]["ticks"])
    assert panels()[0]["ticks"] == before[0]["ticks"], "the other panel stays"
    ActionChains(browser).double_click(panel).perform()
    wait(lambda found: found[1]["ticks"] == before[1]["ticks"])
    press(browser, "#learning-val-accuracy .zoom button", "+")
    wait(lambda found: all(panel["ticks"] != old["ticks"] for panel, old in zip(found, before, strict=True)))
    press(browser, "#learning-val-accuracy .zoom button", "Whole")
    wait(lambda found: [panel["ticks"] for panel in found] == [old["ticks"] for old in before])
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_tables_copy_what_they_show(browser, page):
    opened(browser, page)
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    search(browser, "rigl")
    press(browser, "#summary .columns > summary")
    press(browser, "#summary .columns label", "test NLL")
    press(browser, "#summary .columns > summary")
    press(browser, "#summary .tools button", "CSV")
    assert status(browser) == "copied 2 rows as CSV"
    rows = list(csv.reader(io.StringIO(copied(browser))))
    assert rows[0][:4] == ["method", "density", "seeds", "test accuracy"]
    assert "test NLL" not in rows[0]
    assert [row[3] for row in rows[1:]] == column(browser, 3)
    press(browser, "#summary .tools button", "Markdown")
    assert copied(browser).startswith("| method | density | seeds | test accuracy |")
    press(browser, "#summary .tools button", "LaTeX")
    text = copied(browser)
    assert text.startswith("\\begin{tabular}{llr")
    assert "$\\pm$" in text


def test_the_runs_behind_a_table_are_downloaded(browser, page, folder, tmp_path):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    opened(browser, page)
    search(browser, "static 0.2")
    press(browser, "#summary .behind")
    path = tmp_path / "summary-runs.csv"
    WebDriverWait(browser, WAIT_S).until(lambda _: path.exists() and path.stat().st_size)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_run = Study.read([folder]).by_run
    assert {row["setting"] for row in rows} == {"static · density 0.2"}
    assert len(rows) == 3
    for row in rows:
        assert float(row["test accuracy"]) == pytest.approx(by_run["test/accuracy"][row["run_key"]], rel=1e-5)


def test_hostile_names_are_text_in_tables_and_in_the_drawer(browser, page):
    opened(browser, page)
    search(browser, "onerror")
    assert column(browser, 0) == [HOSTILE] * 2
    press(browser, "[data-name=summary] .open")
    assert HOSTILE in browser.find_element("css selector", "#drawer-title").text
    press(browser, "#drawer li button")
    assert "ValueError: loss is NaN" not in browser.find_element("css selector", "#drawer-body").text
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    browser.find_element("css selector", "body").send_keys(Keys.ESCAPE)
    assert not browser.execute_script("return document.querySelector('#drawer').open")
    assert [entry["message"] for entry in browser.get_log("browser")] == []


@pytest.fixture(scope="module")
def chain_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder, seeds=2)
    return write_page([folder], folder / "report.html")


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.slow)])
def test_the_drawer_walks_from_a_run_to_its_parent_and_its_children(browser, chain_page, width):
    opened(browser, chain_page)
    resize(browser, width, 1000)
    press(browser, "#runs > summary")
    press(browser, "[data-name=runs] .open", "isotonic · judge")
    text = browser.find_element("css selector", "#drawer-body").text
    assert "artifacts/c" in text
    assert "data digits" in text
    parents = "return [...document.querySelectorAll('#drawer .lineage > li')].find(s => s.firstChild.textContent === '{}')"
    browser.execute_script(parents.format("Parents") + ".querySelector('button').click()")
    assert browser.find_element("css selector", "#drawer-title").text.startswith("dense · train, seed")
    children = browser.execute_script(parents.format("Children") + ".querySelectorAll('button').length")
    assert children == 3
    box = "const b = document.querySelector('#drawer').getBoundingClientRect(); return [b.left >= 0, b.right <= innerWidth]"
    assert browser.execute_script(box) == [True, True]
    press(browser, "#drawer-close")
    assert [entry["message"] for entry in browser.get_log("browser")] == []


@pytest.mark.slow
def test_the_table_of_runs_shows_all_of_them_a_hundred_at_a_time(browser, tmp_path):
    folder = write_study(tmp_path / "out", methods=("rigl",), densities=(0.5, 0.2), seeds=60, evaluations=1, troubles=False)
    opened(browser, write_page([folder], folder / "report.html"))
    press(browser, "#runs > summary")
    assert len(column(browser, 0, "runs")) == 100
    press(browser, "#runs .scroll + button", "Show more rows")
    assert len(column(browser, 0, "runs")) == 120


def test_the_drawer_draws_the_evaluations_of_a_run(browser, page, folder):
    opened(browser, page)
    press(browser, "#runs > summary")
    press(browser, "[data-name=runs] .open")
    line = "return document.querySelector('#drawer .curve polyline').getAttribute('points')"
    points = len(browser.execute_script(line).split(" "))
    words = browser.execute_script("return document.querySelector('#drawer .curve').getAttribute('aria-label')")
    history = Study.read([folder]).history
    key = browser.execute_script("return document.querySelector('#drawer dd').textContent")
    own = history[(history["run_key"] == key) & (history["measure"] == "val/accuracy")].sort_values("step")
    assert points == len(own)
    assert words.startswith(f"val accuracy: {own['value'].iloc[0]:.4g} at step {own['step'].iloc[0]}, ")


def test_vega_is_compiled_only_when_a_chart_is_in_view(browser, page):
    resize(browser, 1280, 200)
    opened(browser, page)
    resize(browser, 1280, 200)
    browser.get("about:blank")
    browser.get(page.as_uri())
    assert browser.execute_script("return typeof window.vegaEmbed") == "undefined"
    browser.execute_script("document.querySelector('figure').scrollIntoView()")
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script("return typeof window.vegaEmbed") == "function")


def test_one_chart_shows_any_metric_zooms_and_follows_the_filter(browser, page):
    opened(browser, page)
    chart = "document.querySelector('#explore .plot')"
    browser.execute_script(f"{chart}.scrollIntoView()")
    marks = f"return {chart}.querySelectorAll('.mark-symbol.role-mark path').length"
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(marks) > 5)
    settings = browser.execute_script(marks)
    for label, choice in (("Vertical", "val NLL"), ("Points", "runs")):
        box = "[...document.querySelectorAll('#explore label')].find(l => l.textContent.startsWith(arguments[0]))"
        choose = f"const b = {box}.querySelector('select'); b.value = arguments[1]; b.dispatchEvent(new Event('change'))"
        browser.execute_script(choose, label, choice)
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(marks) > 2 * settings)
    assert "val NLL against" in browser.execute_script(f"return {chart}.getAttribute('aria-label')")
    ticks = f"return [...{chart}.querySelectorAll('.role-axis-label text')].map(t => t.textContent).join(' ')"
    before = browser.execute_script(ticks)
    wheel = {"deltaY": -400, "altKey": True, "bubbles": True}
    browser.execute_script(
        f"const s = {chart}.querySelector('.background'), b = s.getBoundingClientRect();"
        "const at = {clientX: b.left + b.width / 2, clientY: b.top + b.height / 2};"
        "s.dispatchEvent(new WheelEvent('wheel', {...arguments[0], ...at}))",
        wheel,
    )
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(ticks) != before)
    search(browser, "static 0.2")
    WebDriverWait(browser, WAIT_S).until(lambda driver: driver.execute_script(marks) == 3)
    assert [entry["message"] for entry in browser.get_log("browser")] == []


@pytest.mark.slow
def test_a_long_table_begins_with_a_part_and_is_filtered_and_printed_whole(browser, tmp_path):
    densities = [place / 250 for place in range(1, 221)]
    folder = write_study(tmp_path / "out", methods=("rigl",), densities=densities, seeds=1, evaluations=1, troubles=False)
    opened(browser, write_page([folder], folder / "report.html"))
    assert len(column(browser, 0)) == 80
    assert "220 rows" in browser.find_element("css selector", "#summary .count").text
    search(browser, "0.88")
    assert column(browser, 0) == ["0.88"]
    search(browser, "")
    press(browser, "#summary .scroll + button", "Show more rows")
    assert len(column(browser, 0)) == 220
    search(browser, "0.")
    assert len(column(browser, 0)) == 100
    part = printed(browser, pageRanges="1")
    whole = printed(browser)
    assert len(column(browser, 0)) == 220
    assert num_pages(part) == 1
    assert num_pages(whole) >= 220 * 2 / 100  # at most 100 rows fit on a page, and charts and reliability tables follow
    assert b"/FontFile" in whole
