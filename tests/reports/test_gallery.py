"""Images of synthetic sets on the page: which are shown, how large, and that images or labels cannot break the page."""

import base64
import hashlib
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from made_up_study import metric, record
from PIL import Image

from pruneyard.reports.gallery import MAX_BYTES, MAX_PICTURES, MAX_ROWS, MAX_ROWS_BYTES, gallery
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

HOSTILE = '"><img src=x onerror=alert(1)>'


def png(width: int, height: int, *, channels: int = 3, seed: int = 0) -> bytes:
    """Returns random pixels, which no compression makes smaller."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, format="PNG")
    return written.getvalue()


def write_run(folder: Path, method: str, seed: int, picture: bytes | None, status: Status = Status.COMPLETED) -> None:
    key = hashlib.sha256(f"{method} {seed}".encode()).hexdigest()[:12]
    spec = {"kind": "distill", "seed": seed, "data": {"name": "digits"}, "method": {"name": method}}
    run = record(key, kind="distill", seed=seed, method=method, density=None, ipc=1, status=status, spec_json=json.dumps(spec))
    Store(RunFolder(folder)).write(run, [metric(0.5)], [])
    if picture is not None:
        path = RunFolder(folder).picture(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)


def pixels(uri: str) -> np.ndarray:
    head, _, text = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))))


def test_each_setting_shows_the_images_of_its_first_completed_seed(tmp_path: Path) -> None:
    for seed in (3, 1, 2):
        write_run(tmp_path, "dm", seed, png(20, 10, seed=seed), Status.FAILED if seed == 1 else Status.COMPLETED)
    write_run(tmp_path, "random", 0, png(8, 80, channels=1))
    write_run(tmp_path, "whole", 0, None)
    found = gallery(Study.read([tmp_path]))
    assert [(picture.label, picture.seed) for picture in found.pictures] == [("dm", 2), ("random", 0)]
    np.testing.assert_array_equal(pixels(found.pictures[0].uri), np.asarray(Image.open(io.BytesIO(png(20, 10, seed=2)))))
    assert (found.pictures[0].width, found.pictures[0].height) == (180, 90)  # nine times as large
    assert pixels(found.pictures[1].uri).shape == (80, 8)


def test_a_downscaled_image_is_the_mean_of_its_pixels(tmp_path: Path) -> None:
    content = io.BytesIO()
    stripes = np.tile(np.array([[0, 200]], dtype=np.uint8), (10, 1000))
    Image.fromarray(stripes).save(content, format="PNG")
    write_run(tmp_path, "dm", 0, content.getvalue())
    (picture,) = gallery(Study.read([tmp_path])).pictures
    shown = pixels(picture.uri)
    assert shown.shape == (5, 1000)
    assert (shown == 100).all()


@pytest.mark.slow
def test_many_large_images_keep_the_page_below_three_megabytes_and_their_labels_cannot_break_it(tmp_path: Path) -> None:
    content = png(1600, 320)
    write_run(tmp_path, HOSTILE, 0, content)
    for number in range(MAX_PICTURES + 2):
        write_run(tmp_path, f"method{number:02}", 0, content)
    found = gallery(Study.read([tmp_path]))
    assert len(found.pictures) == MAX_PICTURES
    assert found.num_left_out == 3
    assert sum(len(picture.uri) for picture in found.pictures) <= MAX_BYTES
    text = write_page([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 3_000_000
    assert text.count('<img src="data:image/png;base64,') == MAX_PICTURES
    assert "3 more settings have images" in text
    assert 'href="#images"' in text
    assert "<img src=x" not in text


def write_previews(folder: Path, method: str, seed: int, pictures: dict[int, bytes], evaluated: dict[int, float]) -> None:
    """Writes a run with small previews, and accuracies at some iterations."""
    write_run(folder, method, seed, png(8, 8))
    key = hashlib.sha256(f"{method} {seed}".encode()).hexdigest()[:12]
    spec = {"kind": "distill", "seed": seed, "data": {"name": "digits"}, "method": {"name": method}}
    run = record(key, kind="distill", seed=seed, method=method, density=None, ipc=1, spec_json=json.dumps(spec))
    Store(RunFolder(folder)).write(run, [metric(value, step=step) for step, value in evaluated.items()], [])
    for step, content in pictures.items():
        RunFolder(folder).artifact(key).joinpath(f"images-{step:06d}.png").write_bytes(content)


def test_a_run_is_shown_from_its_first_preview_to_its_last_with_the_evaluated_images(tmp_path: Path) -> None:
    taken = {step: png(5, 10, seed=step) for step in (1000, 0, 40)}
    write_previews(tmp_path, "dm", 1, taken, {40: 0.25, 500: 0.4, 1000: 0.75})
    write_previews(tmp_path, "dm", 2, taken, {})
    write_previews(tmp_path, "dc", 1, {7: png(5, 10)}, {})
    found = gallery(Study.read([tmp_path]))
    (row,) = found.rows
    assert [picture.caption for picture in row] == [
        "iteration 0",
        "iteration 40: test accuracy 0.250",
        "iteration 1,000: test accuracy 0.750",
    ]
    assert {(picture.label, picture.seed) for picture in row} == {("dm", 1)}
    for step, picture in zip((0, 40, 1000), row, strict=True):
        np.testing.assert_array_equal(pixels(picture.uri), np.asarray(Image.open(io.BytesIO(taken[step]))))


def test_many_large_previews_are_bounded_and_cannot_break_the_page(tmp_path: Path) -> None:
    taken = {step: png(160, 320, seed=step) for step in range(7)}
    for number in range(MAX_ROWS):
        write_previews(tmp_path, f"method{number:02}", 0, taken, {})
    write_previews(tmp_path, HOSTILE, 0, taken, {})
    found = gallery(Study.read([tmp_path]))
    assert (len(found.rows), found.num_rows_left_out) == (MAX_ROWS, 1)
    assert [len(row) for row in found.rows] == [7] * MAX_ROWS
    assert sum(len(picture.uri) for row in found.rows for picture in row) <= MAX_ROWS_BYTES
    assert {(picture.width, picture.height) for row in found.rows for picture in row} == {(160, 320)}
    text = write_page([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 3_000_000
    assert text.count('<img src="data:image/') == MAX_ROWS + 1 + 7 * MAX_ROWS
    assert "1 more settings have such images" in text
    assert "<img src=x" not in text
    assert 'alt="Images of method00, seed 0, iteration 6"' in text


def test_a_damaged_preview_is_omitted_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_previews(tmp_path, "dm", 0, {0: png(5, 5), 3: b"no picture", 6: png(5, 5, seed=1)}, {})
    with caplog.at_level(logging.WARNING):
        (row,) = gallery(Study.read([tmp_path])).rows
    assert [picture.caption for picture in row] == ["iteration 0", "iteration 6"]
    assert "skipping the image of dm" in caplog.text


def test_a_damaged_image_is_omitted_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path, "dm", 0, png(8, 8)[:40])
    write_run(tmp_path, "dc", 0, b"GIF89a no picture")
    write_run(tmp_path, "random", 0, png(8, 8))
    with caplog.at_level(logging.WARNING):
        found = gallery(Study.read([tmp_path]))
    assert [picture.label for picture in found.pictures] == ["random"]
    assert "skipping the image of dm" in caplog.text
