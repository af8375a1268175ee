"""Two classes of noise, one with a bright patch, that a small net tells apart soon."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tlutils.data import loaders

CLASSES = ["noise", "patch"]


def draw(folder: Path, n: int, size: int, noise: tuple[int, int] = (40, 80)) -> pd.DataFrame:
    """Write the images, each of a patient of its own; of several processes each may. Returns their table."""
    folder.mkdir(exist_ok=True)
    square, random = slice(size // 4, size * 5 // 8), np.random.default_rng(0)
    for i in range(n):
        pixels = random.integers(*noise, (size, size))
        pixels[square, square] += 90 * (i % 2)
        part = folder / f"{i}-{os.getpid()}.part"
        Image.fromarray(pixels.astype(np.uint8)).save(part, "PNG")
        part.replace(folder / f"{i}.png")
    return pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(n)],
            "label": CLASSES * (n // 2),
            "patient": [str(i) for i in range(n)],
        }
    )


def parts(folder: Path, table: pd.DataFrame, size: int, at: int) -> dict[str, loaders.Loader]:
    """Loaders of the rows before `at` for training and of the others for validation, in batches of 16."""
    how = {"batch_size": 16, "workers": 0}
    return {
        "train": loaders.make(table[:at], folder, CLASSES, size, shuffle=True, **how),
        "val": loaders.make(table[at:], folder, CLASSES, size, **how),
    }
