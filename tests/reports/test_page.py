"""The HTML page: complete, escaped, and rendered for any content of the folder."""

import json
import re
from html.parser import HTMLParser

import pytest
from altair.vegalite.schema import Root
from made_up_study import metric, record, write_study

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.records import CurveRow, Status
from pruneyard.reports.store import Store

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\"'&{{7*7}}"
SCRIPT = re.compile(r"<script[^>]*>.*?</script>", re.DOTALL)


class Reader(HTMLParser):
    """Collects texts, attributes and the content of scripts as a browser would see them."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.texts, self.specs, self.open = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            self.open.pop()

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script":
            if attributes.get("type") == "application/json" and attributes.get("id") != "run-data":
                self.specs.append(json.loads(data))
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def read(path):
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    return text, reader


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study") / "out")
    return read(write_page([folder], folder / "report.html"))


def test_the_page_is_one_file_that_names_no_other(page):
    text, reader = page
    assert len(text.encode()) < 1_600_000
    for name, value in reader.attributes:
        if name in ("src", "srcset", "data", "action"):
            pytest.fail(f"{name}={value}")
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    own = SCRIPT.sub("", text)
    assert "url(http" not in own
    assert "@import" not in own
    assert "default-src 'none'" in text
    assert 'id="images"' not in text  # no run of this study left a picture


def test_the_summary_is_readable_without_scripts(page):
    _, reader = page
    assert "36 of 39 runs completed in 13 settings." in reader.text
    assert re.search(r"rigl 0\.1 3 0\.\d{2,4} ± 0\.0\d+ ", reader.text)
    assert "1 pruned, 1 failed, 1 interrupted" in reader.text


def test_every_figure_is_there_as_still_and_as_specification(page):
    text, reader = page
    stills = text.count('<div class="still"')
    assert stills == len(reader.specs) == 25
    assert text.count('<svg xmlns="http://www.w3.org/2000/svg"') == stills
    for spec in reader.specs:
        Root.from_dict(spec | {"config": {}})  # raises where a chart breaks the schema; `null` colors of a theme break it
    for title in (
        "Test accuracy versus density",
        "Learning curves: val accuracy",
        "Reliability diagrams (test split)",
        "Density per layer",
        "Test accuracy versus cost",
    ):
        assert title in reader.text


def test_identifiers_are_unique(page):
    _, reader = page
    names = [value for name, value in reader.attributes if name == "id"]
    assert len(names) == len(set(names))


def test_failures_come_with_their_traceback(page):
    _, reader = page
    assert "ValueError: loss is NaN" in reader.text
    assert 'File "loop.py", line 81, in run' in reader.text


def test_how_numbers_are_computed_is_said(page):
    _, reader = page
    assert "15 equal-width bins of confidence, weighted by samples. Bins are right-closed" in reader.text
    assert "95% Student t interval" in reader.text
    assert "pruneyard 0.1.0, torch 2.8.0, schema 1" in reader.text


def test_hostile_texts_stay_texts(tmp_path):
    folder = RunFolder(tmp_path)
    store = Store(folder)
    for number in range(3):
        run = record(
            f"k{number}",
            seed=number,
            study=HOSTILE,
            kind=HOSTILE,
            stage=HOSTILE,
            data=HOSTILE,
            model=HOSTILE,
            method=HOSTILE + str(number % 2),
            device=HOSTILE,
            code_version=HOSTILE,
            torch_version=HOSTILE,
            status=Status.FAILED if number == 2 else Status.COMPLETED,
            error=HOSTILE if number == 2 else None,
            spec_json=json.dumps({HOSTILE: {HOSTILE: number}}),
        )
        rows = [metric(0.5 + number / 10, step=step) for step in (10, 20)]
        rows += [metric(0.5, step=step, name=HOSTILE) for step in (10, 20)]
        curves = [
            CurveRow(name="density", step=1, key=HOSTILE, y=0.5),
            CurveRow(name="reliability", step=1, key=HOSTILE, x=0.5, y=0.5, count=3),
        ]
        store.write(run, rows, curves)
    folder.spec.write_text(HOSTILE, encoding="utf-8")
    text, reader = read(write_page([tmp_path], tmp_path / "report.html"))
    assert reader.tags.count("script") == len(reader.specs) + 3
    assert "img" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "alert(1)</script>" not in text
    assert "<!--" not in SCRIPT.sub("", text)
    assert "49" not in reader.texts
    assert HOSTILE in "".join(reader.texts)
    assert any(HOSTILE in json.dumps(spec, ensure_ascii=False).replace('\\"', '"') for spec in reader.specs)


def test_an_empty_folder_gets_a_page_that_says_so(tmp_path):
    text, reader = read(write_page([tmp_path], tmp_path / "report.html"))
    assert "No results yet" in reader.text
    assert str(tmp_path) in reader.text
    assert "<script" not in text


def test_one_seed_has_no_interval_and_no_ranking(tmp_path):
    folder = write_study(tmp_path / "out", seeds=1, troubles=False)
    text, reader = read(write_page([folder], tmp_path / "report.html"))
    assert "Every setting has a single seed" in reader.text
    assert ("class", "number best") not in reader.attributes
    ours = text[: text.index('<section id="claims">')]
    assert "±" in text
    assert not re.search(r"\d(<[^>]*>)* ± \d", ours)


def test_only_failures_are_a_page_without_figures(tmp_path):
    Store(RunFolder(tmp_path)).write(record(status=Status.FAILED, error="RuntimeError: no"), [], [])
    text, reader = read(write_page([tmp_path], tmp_path / "report.html"))
    assert "0 of 1 run completed in 1 setting." in reader.text
    assert "RuntimeError: no" in reader.text
    assert "Bold:" not in reader.text
    assert "without ±" not in reader.text
    assert "vegaEmbed" not in text


def test_a_failure_without_text_is_shown_too(tmp_path):
    Store(RunFolder(tmp_path)).write(record(status=Status.FAILED, error=None), [], [])
    _, reader = read(write_page([tmp_path], tmp_path / "report.html"))
    assert "no error text was recorded" in reader.text


def test_metrics_that_are_all_nan_draw_nothing_and_break_nothing(tmp_path):
    rows = [metric(float("nan"), step=step) for step in (1, 2, 3)]
    Store(RunFolder(tmp_path)).write(record(), rows, [])
    _, reader = read(write_page([tmp_path], tmp_path / "report.html"))
    assert "1 of 1 run completed" in reader.text


def test_several_folders_share_one_page_and_a_shared_run_counts_once(tmp_path):
    first = write_study(tmp_path / "a", methods=("dense", "rigl"), densities=(0.1,), seeds=2)
    second = write_study(tmp_path / "b", methods=("dense", "rigl"), densities=(0.1,), seeds=3)
    _, reader = read(write_page([first, second], tmp_path / "report.html"))
    assert "6 of 6 runs completed in 2 settings." in reader.text


def test_images_per_class_get_their_own_figure(tmp_path):
    store = Store(RunFolder(tmp_path))
    for ipc in (1, 10):
        for seed in range(2):
            spec = {"seed": seed, "method": {"name": "dm", "ipc": ipc}}
            run = record(
                f"k{ipc}{seed}", method="dm", density=None, ipc=ipc, seed=seed, spec_json=json.dumps(spec)
            )
            store.write(run, [metric(0.5 + ipc / 100 + seed / 1000)], [])
    _, reader = read(write_page([tmp_path], tmp_path / "report.html"))
    assert "Test accuracy versus images per class" in reader.text
    assert "versus density" not in reader.text


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="missing is no folder"):
        write_page([tmp_path / "missing"], tmp_path / "report.html")
    with pytest.raises(ValueError, match="at least one folder"):
        write_page([], tmp_path / "report.html")


@pytest.mark.slow
def test_a_large_study_stays_a_small_page(tmp_path):
    folder = write_study(
        tmp_path / "out",
        methods=("dense", "rigl", "set", "static", "gmp"),
        densities=[0.5 * 0.7**place for place in range(10)],
        seeds=2,
        evaluations=100,
    )
    text, reader = read(write_page([folder], tmp_path / "report.html"))
    assert len(text.encode()) < 3_000_000
    assert "at most 60 points per line" in reader.text
    assert "Only the first 12 of" in reader.text
