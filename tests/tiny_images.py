"""Drawn images so small that a test trains on them."""

from __future__ import annotations

import numpy as np
from PIL import Image

TINY_CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")


def draw_tiny(label: str, seed: int) -> Image.Image:
    """A grey 64x48 image: lying bars, standing bars, a disc or an even slope by class; place and noise by seed."""
    rng = np.random.default_rng([seed, TINY_CLASSES.index(label)])
    y, x = np.mgrid[0:48, 0:64]
    shift = rng.integers(0, 8)
    pattern = {
        "CNV": 120 * ((y + shift) // 6 % 2),
        "DME": 120 * ((x + shift) // 6 % 2),
        "DRUSEN": 150 * (np.hypot(y - 20 - shift, x - 28 - shift) < 12),
        "NORMAL": 2 * x + shift,
    }[label]
    noisy = 50 + pattern + rng.normal(0, 12, (48, 64))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
