"""The pictures of synthetic or chosen images that runs left, one for each setting, small enough to travel inside the page."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass

from PIL import Image

from reports.layout import RunFolder
from reports.records import Status
from reports.study import Study

_LOG = logging.getLogger(__name__)

MAX_PICTURES = 36
MAX_BYTES = 1_200_000  # of all pictures as they stand in the page
MAX_SIDE = 1400  # pixels of a picture file, before it is made smaller yet to fit its share
SHOWN_SIDE = 180  # pixels on the screen that a small picture is enlarged to, by a whole factor


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One setting's images; `uri` holds the file, `width` and `height` are how large it is shown."""

    label: str
    seed: int
    uri: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures in the order of the summary table, and how many more there would have been."""

    pictures: list[Picture]
    num_left_out: int


def gallery(study: Study) -> Gallery:
    """Of each setting the completed run of the smallest seed, where it left a picture that can be read."""
    files = _files(study)
    share = MAX_BYTES // max(1, min(len(files), MAX_PICTURES))
    pictures: list[Picture] = []
    for label, seed, content in files[:MAX_PICTURES]:
        try:
            pictures.append(_picture(label, seed, content, share=share))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            _LOG.warning("the picture of %s is left out: %s", label, problem)
    return Gallery(pictures=pictures, num_left_out=max(0, len(files) - MAX_PICTURES))


def _files(study: Study) -> list[tuple[str, int, bytes]]:
    """Label, seed and file of every setting that has one."""
    completed = study.labelled[study.labelled["status"] == Status.COMPLETED].sort_values("seed", kind="stable")
    first = completed.drop_duplicates("cell").set_index("cell")
    found = []
    for cell, label in zip(study.cells["cell"], study.cells["label"], strict=True):
        if cell in first.index and (content := _content(study, str(first.loc[cell, "run_key"]))) is not None:
            found.append((str(label), int(first.loc[cell, "seed"]), content))
    return found


def _content(study: Study, run_key: str) -> bytes | None:
    for folder in study.folders:
        path = RunFolder(folder.path).picture(run_key)
        if path.is_file():
            return path.read_bytes()
    return None


def _picture(label: str, seed: int, content: bytes, *, share: int) -> Picture:
    """Made smaller by whole factors until its text is at most `share` long."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
        whole = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    factor = max(1, -(-max(whole.size) // MAX_SIDE))
    while True:
        image = whole.reduce(factor) if factor > 1 else whole
        written = io.BytesIO()
        image.save(written, format="PNG", optimize=True)
        uri = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
        if len(uri) <= share or max(image.size) <= 1:
            break
        factor += 1
    zoom = max(1, SHOWN_SIDE // max(image.size))
    return Picture(label=label, seed=seed, uri=uri, width=zoom * image.width, height=zoom * image.height)
