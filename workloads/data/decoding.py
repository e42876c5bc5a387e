"""Decodes image files or encoded images into one uint8 array with several threads, upright as their EXIF orientation says."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import joblib
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

T = TypeVar("T")

GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
UPRIGHT = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # width and height change places
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

    def check_size(i: int, found: tuple[int, int]) -> None:
        if resize is None and found != size:
            came, allowed = _format_size(found), _format_size(size)
            raise ValueError(
                f"{where(i)} is {came} pixels and {where(0)} is {allowed}; give all images one size, or set resize"
            )

    for i, (_, found) in enumerate(headers):
        check_size(i, found)
    # Filled in place by the threads, without a list of single images.
    pixels = np.empty((len(encoded), size[1], size[0], len(mode)), dtype=np.uint8)

    def fill(i: int) -> None:
        image = _decode_one(encoded[i], where(i), mode=mode)
        check_size(i, image.size)  # a PNG may say only after its pixels that it lies on its side
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        pixels[i] = cast(npt.NDArray[np.uint8], np.asarray(image)).reshape(pixels[i].shape)

    _map_in_threads(fill, len(encoded))
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _open(encoded: bytes | Path) -> Image.Image:
    return Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)


def _read_header(encoded: bytes | Path, where: str) -> tuple[str, tuple[int, int]]:
    """Reads mode and (width, height) of the upright image without decoding the pixels."""
    try:
        with _open(encoded) as image:
            mode, size = image.mode, image.size
            # PIL has turned the size of a TIFF already, and would decode a PNG to search it for EXIF data.
            if image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info) and _orientation(image) in SIDEWAYS:
                size = size[::-1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is not a readable image: {error}") from error
    if mode not in GREY_MODES + COLOUR_MODES:
        raise ValueError(f"{where} has pixels of mode {mode}; they must have 8 bits per channel")
    return mode, size


def _decode_one(encoded: bytes | Path, where: str, *, mode: str) -> Image.Image:
    """Returns one upright image in this mode."""
    try:
        with _open(encoded) as image:
            # `convert` decodes the pixels; `open` alone reads the header.
            converted = image.convert(mode)
            # Read after the pixels: decoding a TIFF turns it, and EXIF data of a PNG may follow them.
            turn = UPRIGHT.get(_orientation(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is damaged: {error}") from error
    # Converted before it is resized, because palette indices (mode P) cannot be interpolated.
    return converted if turn is None else converted.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 if there is none."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _map_in_threads(work: Callable[[int], T], num: int) -> list[T]:
    """Returns `work(0), ..., work(num - 1)`. Threads help because PIL releases the interpreter lock while it decodes."""

    def run_chunk(start: int) -> list[T]:
        return [work(i) for i in range(start, min(start + CHUNK, num))]

    with ThreadPoolExecutor(max_workers=joblib.cpu_count()) as pool:
        return [result for results in pool.map(run_chunk, range(0, num, CHUNK)) for result in results]


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
