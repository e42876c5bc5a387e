"""Images of synthetic or selected sets, small enough to embed in the page.

One final image per setting, and for some settings a row of small images over the course of distillation.
"""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from PIL import Image

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.study import Study

_LOG = logging.getLogger(__name__)

MAX_PICTURES = 36
MAX_BYTES = 1_200_000  # all images as embedded in the page
MAX_SIDE = 1400  # pixels; further downscaled if the file exceeds its share of MAX_BYTES
SHOWN_SIDE = 180  # pixels on screen to which small images are enlarged, by a whole factor
MAX_ROWS = 6  # settings with images during distillation
MAX_ROWS_BYTES = 800_000  # images of all these settings
_JPEG_QUALITY = 85
_MEASURES = ("test/accuracy", "val/accuracy")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The images of one setting; `uri` is the embedded file, `width` and `height` the display size.

    `caption` gives the iteration if there are several images of a run.
    """

    label: str
    seed: int
    uri: str
    width: int
    height: int
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images in the order of the summary table, and the number of omitted ones.

    Each of `rows` is one run over the course of distillation, from its first image to its last.
    """

    pictures: list[Picture]
    num_left_out: int
    rows: list[list[Picture]]
    num_rows_left_out: int


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The completed run of a setting with the smallest seed."""

    label: str
    seed: int
    key: str


def gallery(study: Study) -> Gallery:
    """Returns the images of the completed run with the smallest seed of each setting, if it has a readable image."""
    runs = list(_first_runs(study))
    files = [(run, content) for run in runs if (content := _content(study, run)) is not None]
    share = MAX_BYTES // max(1, min(len(files), MAX_PICTURES))
    pictures = [picture for run, content in files[:MAX_PICTURES] if (picture := _readable(run, content, share=share))]
    ways = [(run, taken) for run in runs if len(taken := _taken(study, run)) > 1]
    share = MAX_ROWS_BYTES // max(1, min(len(ways), MAX_ROWS))
    rows = [_row(study, run, taken, share=share) for run, taken in ways[:MAX_ROWS]]
    return Gallery(
        pictures=pictures,
        num_left_out=max(0, len(files) - MAX_PICTURES),
        rows=[row for row in rows if row],
        num_rows_left_out=max(0, len(ways) - MAX_ROWS),
    )


def _first_runs(study: Study) -> Iterator[_Run]:
    """Yields the first completed run of each setting, in the order of the summary table."""
    completed = study.labelled[study.labelled["status"] == Status.COMPLETED].sort_values("seed", kind="stable")
    first = completed.drop_duplicates("cell").set_index("cell")
    for cell, label in zip(study.cells["cell"], study.cells["label"], strict=True):
        if cell in first.index:
            yield _Run(label=str(label), seed=int(first.loc[cell, "seed"]), key=str(first.loc[cell, "run_key"]))


def _content(study: Study, run: _Run) -> bytes | None:
    for folder in study.folders:
        path = RunFolder(folder.path).picture(run.key)
        if path.is_file():
            return path.read_bytes()
    return None


def _taken(study: Study, run: _Run) -> dict[int, bytes]:
    """Returns small images by iteration."""
    for folder in study.folders:
        if paths := RunFolder(folder.path).pictures_on_the_way(run.key):
            return {step: path.read_bytes() for step, path in paths.items()}
    return {}


def _row(study: Study, run: _Run, taken: Mapping[int, bytes], *, share: int) -> list[Picture]:
    """Returns the images of one run, captioned with the accuracy at the same iteration; `share` is their total size limit."""
    own = study.history[study.history["run_key"] == run.key]
    measure = next((name for name in _MEASURES if name in set(own["measure"])), "")
    points = own[own["measure"] == measure]
    reached = dict(zip(points["step"], points["value"], strict=True))
    row = []
    for step, content in taken.items():
        value = reached.get(step, math.nan)
        caption = f"iteration {step:,}" + ("" if math.isnan(value) else f": {measure.replace('/', ' ')} {value:.3f}")
        picture = _readable(run, content, share=share // len(taken), caption=caption, lossy=True)
        row += [picture] if picture else []
    return row


def _readable(
    run: _Run, content: bytes, *, share: int, caption: str = "", lossy: bool = False
) -> Picture | None:
    """Returns the image; logs a warning and returns None if the file is not an image."""
    try:
        return _picture(run, content, share=share, caption=caption, lossy=lossy)
    # Pillow raises SyntaxError for some broken PNG files.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        _LOG.warning("skipping the image of %s: %s", run.label, problem)
        return None


def _picture(run: _Run, content: bytes, *, share: int, caption: str, lossy: bool) -> Picture:
    """Downscales an image by whole factors until its URI has at most `share` characters.

    `lossy`: compresses with loss before downscaling, and keeps the display size of the original.
    """
    # PNG only: no other decoder of Pillow gets to see the file.
    with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
        whole = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    factor = max(1, -(-max(whole.size) // MAX_SIDE))
    while True:
        image = whole.reduce(factor) if factor > 1 else whole
        uri = _uri(image, "png", optimize=True)
        if lossy and len(uri) > share:
            uri = _uri(image, "jpeg", quality=_JPEG_QUALITY, subsampling=0)
        # A single pixel cannot become smaller, whatever its share.
        if len(uri) <= share or max(image.size) <= 1:
            break
        factor += 1
    width, height = _shown(whole if lossy else image)
    return Picture(label=run.label, seed=run.seed, uri=uri, width=width, height=height, caption=caption)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    written = io.BytesIO()
    image.save(written, format=kind, **options)
    return f"data:image/{kind};base64," + base64.b64encode(written.getvalue()).decode()


def _shown(image: Image.Image) -> tuple[int, int]:
    """Returns width and height on screen."""
    zoom = max(1, SHOWN_SIDE // max(image.size))
    return zoom * image.width, zoom * image.height
