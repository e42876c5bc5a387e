"""Decodes image files or encoded images into one uint8 array with several threads."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image

T = TypeVar("T")

GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
CHUNK = 256  # images per task of the thread pool


def decode(
    encoded: Sequence[bytes | Path], *, where: Callable[[int], str], resize: int | None
) -> npt.NDArray[np.uint8]:
    """Returns encoded images or image files as (N, C, H, W) uint8; `where(i)` names image i in error messages.

    C is 1 if all images are grey, otherwise 3. Images are resized to `resize` x `resize` (bilinear); without `resize` all
    must have the same size. Raises `ValueError` for an image that is damaged, of another size or of more than 8 bits.
    """
    if len(encoded) == 0:
        return np.zeros((0, 1, 1, 1), dtype=np.uint8)
    # All headers first, which needs no pixels: one colour image makes the whole array RGB.
    headers = _map_in_threads(lambda i: _read_header(encoded[i], where(i)), len(encoded))
    mode = "L" if all(mode in GREY_MODES for mode, _ in headers) else "RGB"
    size = (resize, resize) if resize else headers[0][1]
    for i, (_, found) in enumerate(headers):
        if resize is None and found != size:
            came, allowed = _format_size(found), _format_size(size)
            raise ValueError(
                f"{where(i)} is {came} pixels and {where(0)} is {allowed}; give all images one size, or set resize"
            )
    # Filled in place by the threads, without a list of single images.
    pixels = np.empty((len(encoded), size[1], size[0], len(mode)), dtype=np.uint8)

    def fill(i: int) -> None:
        pixels[i] = _decode_one(encoded[i], where(i), mode=mode, size=size)

    _map_in_threads(fill, len(encoded))
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _open(encoded: bytes | Path) -> Image.Image:
    return Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)


def _read_header(encoded: bytes | Path, where: str) -> tuple[str, tuple[int, int]]:
    """Reads mode and (width, height) without decoding the pixels."""
    try:
        with _open(encoded) as image:
            mode, size = image.mode, image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is not a readable image: {error}") from error
    if mode not in GREY_MODES + COLOUR_MODES:
        raise ValueError(f"{where} has pixels of mode {mode}; they must have 8 bits per channel")
    return mode, size


def _decode_one(encoded: bytes | Path, where: str, *, mode: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Returns the pixels of one image, (H, W, C) uint8."""
    try:
        with _open(encoded) as image:
            # `convert` decodes the pixels; `open` alone reads the header.
            converted = image.convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is damaged: {error}") from error
    if converted.size != size:
        # Converted first, because palette indices (mode P) cannot be interpolated.
        converted = converted.resize(size, Image.Resampling.BILINEAR)
    return cast(npt.NDArray[np.uint8], np.asarray(converted).reshape(size[1], size[0], len(mode)))


def _map_in_threads(work: Callable[[int], T], num: int) -> list[T]:
    """Returns `work(0), ..., work(num - 1)`. Threads help because PIL releases the interpreter lock while it decodes."""

    def run_chunk(start: int) -> list[T]:
        return [work(i) for i in range(start, min(start + CHUNK, num))]

    with ThreadPoolExecutor(max_workers=joblib.cpu_count()) as pool:
        return [result for results in pool.map(run_chunk, range(0, num, CHUNK)) for result in results]


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
