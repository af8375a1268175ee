"""Contrast as WCAG 2.2 defines it: 4.5 to 1 is asked of words, 3 to 1 of what else must be seen."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba

WORDS, GRAPHICS = 4.5, 3.0
_ROOT = re.compile(r":root\s*\{(.*?)\}", re.DOTALL)
_VARIABLE = re.compile(r"--([\w-]+):\s*(#[0-9a-fA-F]{3,6})\b")


def contrast(front: Any, back: Any = "white") -> float:
    """From 1 to 21, of two colors that matplotlib knows; a transparent front shows the back."""
    rgba, behind = np.array(to_rgba(front)), np.array(to_rgba(back))[:3]
    low, high = sorted(map(_luminance, (rgba[3] * rgba[:3] + (1 - rgba[3]) * behind, behind)))
    return (high + 0.05) / (low + 0.05)


def _luminance(rgb: np.ndarray) -> float:
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def css_colors(css: str) -> dict[str, dict[str, str]]:
    """The color variables of a style sheet whose first :root is light and whose second is dark."""
    light, dark = (dict(_VARIABLE.findall(block)) for block in _ROOT.findall(css)[:2])
    return {"light": light, "dark": light | dark}
