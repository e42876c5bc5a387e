"""Random pictures, as arrays, PNG files, folders of classes and Parquet files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image


def picture(seed: int, *, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> np.ndarray:
    """Returns random pixels: (height, width, 3), or (height, width) for a grey one; size: (width, height)."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_folder(root: Path, part: str, *, per_class: int, seed: int = 0, mode: str = "RGB") -> None:
    """Writes images of the classes `bird` and `ant`; those of `bird` are older."""
    for number, name in enumerate(("bird", "ant")):
        folder = root / part / name
        folder.mkdir(parents=True)
        for i in range(per_class):
            (folder / f"{i:03}.png").write_bytes(png(picture(seed + 1000 * number + i, mode=mode)))


def write_parquet(
    file: Path, images: list[Any], labels: Any, *, image: str = "img", label: str = "label"
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({image: images, label: labels}).to_parquet(file)


def cells(num: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [{"bytes": png(picture(first + i)), "path": f"{i}.png"} for i in range(num)]


def expected(seeds: list[int], mode: str = "RGB") -> np.ndarray:
    """Returns the pixels of the images as sources read them: (N, C, H, W)."""
    stacked = np.stack([picture(seed, mode=mode) for seed in seeds])
    return stacked.transpose(0, 3, 1, 2) if mode == "RGB" else stacked[:, None]
