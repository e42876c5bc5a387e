"""`pruneyard figure`: the chart that was asked for, as a file of the format that its ending says."""

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_study import write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("study")
    write_study(study)
    return study


@pytest.mark.parametrize(("name", "start"), [("chart.svg", b"<svg"), ("chart.pdf", b"%PDF-"), ("chart.PNG", b"\x89PNG")])
def test_the_ending_chooses_the_format(
    folder: Path, tmp_path: Path, pruneyard: Callable[..., Any], name: str, start: bytes
) -> None:
    found = pruneyard("figure", folder, "density", "--metric", "test/nll", "--out", tmp_path / name)
    assert found.code == 0, found.err
    assert found.out.strip() == str(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert content.startswith(start)
    if name == "chart.svg":
        assert b"NLL</text>" in content
        assert b"rigl</text>" in content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "chart.gif"], "--out chart.gif: must end in one of .svg, .pdf, .png"),
        (["densty", "--out", "chart.svg"], "there is no chart 'densty'; it must be one of density"),
        (["ipc", "--out", "chart.svg"], "has no data for chart ipc"),
        (["density", "--metric", "test/acc", "--out", "chart.svg"], "test/acc: no run has it"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, pruneyard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = pruneyard("figure", folder, *arguments)
    assert found.code == 2
    assert words in found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["accuracy-density", "time-to-target", "pareto"])
def test_a_pdf_embeds_every_font_that_it_uses(folder: Path, pruneyard: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    assert pruneyard("figure", folder, "--kind", kind, "--out", tmp_path / "chart.pdf").code == 0
    content = (tmp_path / "chart.pdf").read_bytes()
    streams = [zlib.decompress(found[1]) for found in re.finditer(rb"stream\r?\n(x.*?)\r?\nendstream", content, re.DOTALL)]
    whole = b"".join([content, *streams])
    descriptors = re.findall(rb"/Type\s*/FontDescriptor", whole)
    assert len(descriptors) == len(re.findall(rb"/FontFile[23]?\b", whole)) > 0
