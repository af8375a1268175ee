"""Phantoms: drawings that imitate retinal OCT scans and chest X-rays, of nobody.

Each picture is a pure function of its seeds. A patient's seed draws the anatomy and where the
disease sits, so several images of one patient are nearly alike, as in reality; an image's seed
draws what differs from scan to scan. `write_oct` and `write_chest` draw whole data sets in the
folder layout, under the naming rules and with the flaws of the real ones (Kermany et al. 2018);
`plant` draws one with faults to be found, and says where they are; `write_textures` draws pictures
of nothing, without end, for a network to begin to see with. Phantoms teach steps and prove nothing
about patients.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from ..core.progress import bar

VERSION = 4
OCT_CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
_CHEST_KINDS = ("NORMAL", "bacteria", "virus")
_GROUNDS, _MARKS = ("boxes", "clouds", "disks", "stripes"), ("plain", "spot", "strands")
TEXTURE_CLASSES = tuple(f"{ground}-{mark}" for ground in _GROUNDS for mark in _MARKS)
MARKER = ".phantom.json"
_NOTE = (
    "The images below are phantoms: drawings made by the program tlutils, not pictures of "
    "patients.\n"
    "They teach the steps of working with such data and prove nothing about medicine.\n"
)
# Depth in the retina (0 = its inner surface, 1 = the pigment epithelium), brightness: nerve fibres
# bright, nuclear layers dark, the line of the photoreceptors and the pigment epithelium brightest.
_LAYERS = """
    0.00 0.10  0.03 0.66  0.12 0.58  0.16 0.42  0.36 0.44  0.40 0.27  0.50 0.26  0.53 0.40  0.58
    0.40 0.62 0.22  0.78 0.20  0.80 0.34  0.82 0.22  0.85 0.28  0.88 0.90  0.91 0.40  0.95 0.46
    1.00 1.10 1.06 0.90
"""
_DEPTH, _LIGHT = np.array(_LAYERS.split(), float).reshape(-1, 2).T
# width, height, share of the patients
_SIZES = (
    (512, 496, 0.55),
    (768, 496, 0.25),
    (512, 512, 0.10),
    (1024, 496, 0.07),
    (1536, 496, 0.03),
)


def draw_oct(
    label: str,
    seed: int,
    width: int = 512,
    height: int = 496,
    wedge: bool = False,
    patient: int | None = None,
    shift: float = 0.0,
) -> np.ndarray:
    """Draw a phantom OCT scan.

    Parameters
    ----------
    label : "CNV", "DME", "DRUSEN" or "NORMAL".
    seed : int, of this scan.
    width, height : int, in pixels.
    wedge : bool, whether to fill a slanted corner with white, as scanners do that tilt the picture.
    patient : int, seed of anatomy and disease; None takes the scan's own.
    shift : float, share of the light that is scattered, as on another scanner: it greys the scan
        most where it is dark.

    Returns
    -------
    uint8 array (height, width), dark vitreous above, bright pigment epithelium, speckle below.

    Raises
    ------
    ValueError
        For another label.
    """
    if label not in OCT_CLASSES:
        raise ValueError(f"label is {label!r}; phantom scans are of {', '.join(OCT_CLASSES)}")
    patient, index = seed if patient is None else patient, OCT_CLASSES.index(label)
    person, ill = np.random.default_rng([patient, 1]), np.random.default_rng([patient, 6, index])
    scan = np.random.default_rng([seed, 2, index])
    # 1 = 512 pixels of a scan of 496 rows, 0 in the middle
    x = (np.arange(width) - width / 2) / 512 * 496 / height
    eye = _Eye(person, scan, x, height)
    # the same in all scans of this eye, but for where the fovea lies
    lesion = _LESIONS[label](ill, eye)
    # float32 from here on, where whole pictures are computed
    for name in ("x", "rpe", "bruch", "thickness"):
        setattr(eye, name, getattr(eye, name).astype(np.float32))
    lesion.fluid, lesion.material = np.float32(lesion.fluid), np.float32(lesion.material)
    return _finish_oct(_scatter(eye, lesion, person, scan), person, scan, eye, wedge, shift)


class _Eye:
    """The lines of a healthy retina, in pixels from the top for each column; lesions bend them."""

    def __init__(
        self, person: np.random.Generator, scan: np.random.Generator, x: np.ndarray, height: int
    ) -> None:
        self.x, self.height = x, height
        self.fovea = person.uniform(-0.08, 0.08) + scan.normal(0, 0.01)
        tilt, bow = person.normal(0, 0.06) + scan.normal(0, 0.005), person.uniform(-0.02, 0.14)
        wave = gaussian_filter1d(person.normal(0, 1, 4096), 160)[: len(x)] * person.uniform(20, 50)
        base = person.uniform(0.56, 0.64) * height + scan.normal(0, 3)
        self.rpe = base + height * (tilt * x - bow * (x - self.fovea) ** 2) + wave
        pit, width = person.uniform(0.35, 0.62), person.uniform(0.09, 0.15)
        thick = person.uniform(122, 142) * height / 496
        near = np.exp(-(((x - self.fovea) / width) ** 2) / 2)
        rim = np.exp(-(((np.abs(x - self.fovea) - 2.6 * width) / (1.5 * width)) ** 2) / 2)
        shape = 1 - pit * scan.uniform(0.85, 1.0) * near + 0.10 * rim - 0.25 * np.abs(x) ** 2
        self.thickness = thick * shape
        self.bruch = self.rpe.copy()  # stays where the pigment epithelium is lifted

    def spot(self, ill: np.random.Generator, spread: float = 0.22) -> float:
        """Where a lesion lies: near the fovea, most often."""
        return float(np.clip(self.fovea + ill.normal(0, spread), self.x[0] * 0.8, self.x[-1] * 0.8))

    def bump(self, centre: float, width: float, height: float, sharp: float = 2.0) -> np.ndarray:
        """A smooth hill over x, `height` pixels high in a scan of 496 rows."""
        shape = np.exp(-0.5 * np.abs((self.x - centre) / width) ** sharp)
        return height * self.height / 496 * shape


@dataclass
class _Lesion:
    """What a disease adds to the scan: spots, and two layers under the retina.

    Spots are ellipses (x, depth in the retina, half width, half height, brightness), the half
    height in pixels of a scan of 496 rows; the layers, fluid and bright material, in pixels above
    the pigment epithelium.
    """

    spots: list[tuple[float, float, float, float, float]]
    fluid: np.ndarray | float = 0.0
    material: np.ndarray | float = 0.0


def _normal(ill: np.random.Generator, eye: _Eye) -> _Lesion:
    for _ in range(ill.choice([0, 0, 0, 1, 2])):  # a healthy old eye is not perfectly smooth
        eye.rpe -= eye.bump(eye.spot(ill), ill.uniform(0.012, 0.025), ill.uniform(1.5, 4.0))
    return _Lesion([])


def _drusen(ill: np.random.Generator, eye: _Eye) -> _Lesion:
    size = ill.uniform(1.0, 1.9)
    for _ in range(ill.integers(5, 11)):
        at, width = eye.spot(ill), ill.uniform(0.022, 0.055)
        eye.rpe -= eye.bump(at, width, size * ill.uniform(11, 26), 2.6)
    return _Lesion([])


def _cnv(ill: np.random.Generator, eye: _Eye) -> _Lesion:
    centre, width, size = eye.spot(ill, 0.15), ill.uniform(0.13, 0.25), ill.uniform(1.0, 1.8)
    rough = gaussian_filter1d(ill.normal(0, 1, len(eye.x)), 5) * 14
    hill = eye.bump(centre, width, size * ill.uniform(20, 44), 3)
    eye.rpe -= hill + eye.bump(centre, width, size) * rough
    beside = centre + ill.choice([-1, 1]) * width * 1.2
    spots = _cysts(ill, eye, centre, ill.integers(0, 3), 0.7) if ill.random() < 0.4 else []
    fluid = eye.bump(beside, width, size * ill.uniform(8, 30), 3)
    material = eye.bump(centre, width * 0.9, size * ill.uniform(12, 30), 3)
    return _Lesion(spots, fluid, material * (1 + 0.04 * rough).clip(0.4))


def _dme(ill: np.random.Generator, eye: _Eye) -> _Lesion:
    centre, size = eye.spot(ill, 0.16), ill.uniform(1.0, 1.9)
    width = ill.uniform(0.12, 0.30)
    eye.thickness += eye.bump(centre, width, size * ill.uniform(20, 62))  # more leaves the scan
    spots = _cysts(ill, eye, centre, ill.integers(4, 11), size)
    for _ in range(ill.integers(0, 6)):  # hard exudates: small, bright, casting shadows in reality
        spots.append((eye.spot(ill), ill.uniform(0.4, 0.7), 0.006, 2.5, 0.95))
    return _Lesion(spots)


def _cysts(ill: np.random.Generator, eye: _Eye, centre: float, n: int, size: float) -> list[tuple]:
    spots = []
    for _ in range(n):
        x, depth = centre + ill.normal(0, 0.10), ill.uniform(0.34, 0.76)
        half_width = size * ill.uniform(0.015, 0.045)
        spots.append((x, depth, half_width, size * ill.uniform(7, 22), 0.04))
    return spots


_LESIONS = {"CNV": _cnv, "DME": _dme, "DRUSEN": _drusen, "NORMAL": _normal}


def _scatter(
    eye: _Eye, lesion: _Lesion, person: np.random.Generator, scan: np.random.Generator
) -> np.ndarray:
    """How much light each point sends back, before noise: float (height, width), about 0 to 1."""
    y = np.arange(eye.height, dtype=np.float32)[:, None]
    base = eye.rpe - lesion.fluid - lesion.material  # where the sensory retina ends
    whole, hill = np.maximum(eye.thickness, 25 * eye.height / 496), eye.bruch - base
    # a hill below is partly evened out: the retina thins
    top = base - whole**2 / (whole + 0.6 * np.maximum(hill, 0))
    depth = (y - top) / (base - top)
    light = np.interp(depth, _DEPTH, _LIGHT).astype(np.float32)
    light[depth < 0] = 0.05
    gap = (y > base) & (y < eye.rpe - lesion.material)
    light[gap] = 0.06
    texture = _clouds(scan, light.shape, 5)
    stuff = (y >= eye.rpe - lesion.material) & (y < eye.rpe)
    stuff &= np.broadcast_to(lesion.material, eye.x.shape) > 2
    light[stuff] = 0.62 + 0.25 * texture[stuff]
    below = y - eye.rpe
    line = np.exp(-0.5 * (below / 3.6) ** 2)
    # lifted: what lies between pigment epithelium and Bruch's membrane
    under = (below > 0) & (y < eye.bruch - 1)
    choroid = 0.42 * np.exp(-np.maximum(y - eye.bruch, 0) / person.uniform(35, 75))
    choroid *= 1 + 0.28 * gaussian_filter(_clouds(person, light.shape, 8), 2)
    ground = choroid.clip(0.02)
    ground[under] = 0.42 + 0.12 * texture[under]
    light = np.maximum(np.where(below > 3, ground, light), line * 1.15)
    for x0, at, half_width, half_height, brightness in lesion.spots:
        row = np.interp(x0, eye.x, top + at * (base - top))
        rows = half_height * eye.height / 496
        across, down = ((eye.x - x0) / half_width) ** 2, ((y - row) / rows) ** 2
        near = np.ix_(down[:, 0] < 5, across < 5)  # what lies further away stays as it is
        inside = across[near[1]] + down[near[0], 0]
        spot = (brightness - light[near]) / (1 + np.exp(np.clip(8 * (inside - 1), -30, 30)))
        light[near] += spot * (depth[near] > 0.05) * (depth[near] < 0.9)
    return light * _shadows(eye, person, depth)


def _shadows(eye: _Eye, person: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Vessels near the inner surface keep light from what lies under them."""
    shade = np.ones_like(eye.x)
    for _ in range(person.integers(3, 9)):
        depth_of_shade = person.uniform(0.1, 0.4)
        away = (eye.x - person.uniform(eye.x[0], eye.x[-1])) / person.uniform(0.004, 0.011)
        shade -= depth_of_shade * np.exp(-0.5 * away**2)
    return np.where(depth > 0.15, shade.clip(0.3), 1.0)


def _clouds(draw: np.random.Generator, shape: tuple[int, int], size: int) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 with blobs of about `size` pixels."""
    big = draw.normal(0, 1, (shape[0] // size + 3, shape[1] // size + 3)).astype(np.float32)
    for axis in (1, 0):  # linear between neighbours, as scipy.ndimage.zoom
        points = big.shape[axis]
        low, part = np.divmod(np.arange(shape[axis]) * ((points - 1) / (points * size - 1)), 1)
        low, part = low.astype(int), part[:, None] if axis == 0 else part
        big = big.take(low, axis) * (1 - part) + big.take(low + 1, axis) * part
    big = big.astype(np.float32)
    return big / big.std()


def _finish_oct(
    light: np.ndarray,
    person: np.random.Generator,
    scan: np.random.Generator,
    eye: _Eye,
    wedge: bool,
    shift: float,
) -> np.ndarray:
    """Speckle (multiplied), noise (added), the scanner's grey scale, and a wedge."""
    speckle = gaussian_filter(scan.gamma(2.2, 1 / 2.2, light.shape).astype(np.float32), (0.5, 0.9))
    noise = np.abs(scan.normal(0, 1, light.shape).astype(np.float32)) * person.uniform(0.015, 0.045)
    grey = (light * speckle + noise) ** person.uniform(0.75, 1.0) * person.uniform(0.72, 1.0)
    pixels = (255 * grey).clip(0, 255)
    if shift:
        pixels += shift * (204 - pixels)
    if wedge:
        pixels[_wedge(scan, eye)] = 255
    return pixels.astype(np.uint8)


def _wedge(scan: np.random.Generator, eye: _Eye) -> np.ndarray:
    """bool (height, width): a slanted strip along the top, the bottom or both."""
    y, slope = np.arange(eye.height)[:, None], scan.uniform(-0.12, 0.12) * eye.height
    edge = slope * eye.x + scan.uniform(0.03, 0.10) * eye.height
    above, below = y < edge, y > eye.height - scan.uniform(0.02, 0.06) * eye.height + slope * eye.x
    return [above, below, above | below][scan.integers(0, 3)]


def draw_chest(
    kind: str,
    seed: int,
    width: int = 512,
    height: int = 448,
    patient: int | None = None,
    shift: float = 0.0,
) -> np.ndarray:
    """Draw a phantom chest X-ray.

    Parameters
    ----------
    kind : "NORMAL", "bacteria" (a dense lobe) or "virus" (haze and strands in both lungs).
    seed : int, of this image.
    width, height : int, in pixels.
    patient : int, seed of anatomy and disease; None takes the image's own.
    shift : float, share of the light that is scattered, as on another machine: it greys the film
        most where it is dark, in the lungs.

    Returns
    -------
    uint8 array (height, width), air dark, bone bright.

    Raises
    ------
    ValueError
        For another kind.
    """
    if kind not in _CHEST_KINDS:
        raise ValueError(f"kind is {kind!r}; phantom chests are of {', '.join(_CHEST_KINDS)}")
    patient, index = seed if patient is None else patient, _CHEST_KINDS.index(kind)
    person, ill = np.random.default_rng([patient, 3]), np.random.default_rng([patient, 7, index])
    film = np.random.default_rng([seed, 4, index])
    # a column and a row: what depends on one of them alone is computed once
    y, x = (axis.astype(np.float32) for axis in np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])
    x = (x - film.normal(0, 0.03)) * film.uniform(0.95, 1.08)
    y = (y - film.normal(0, 0.03)) * film.uniform(0.95, 1.08)
    lungs, body, middle = _chest_parts(person, x, y)
    light = 0.62 * body + 0.24 * middle
    air = lungs * film.uniform(0.38, 0.44)
    light = light - air + 0.11 * _ribs(person, x, y) * body
    light += _pneumonia(kind, ill, film, x, y, lungs)
    noise = film.normal(0, 1, light.shape).astype(np.float32)
    light = gaussian_filter(light, 1.2 * width / 512) + 0.012 * noise
    light = (light * film.uniform(0.94, 1.05) + film.normal(0, 0.015)).clip(0, 1)
    light = light ** person.uniform(0.92, 1.12)
    light += shift * (0.8 - light)
    pixels = (255 * light).clip(0, 255).astype(np.uint8)
    if film.random() < 0.6:
        _side_mark(film, pixels)
    return pixels


def _soft(distance: np.ndarray, width: float) -> np.ndarray:
    """1 inside (negative distance), 0 outside, over about `width`."""
    return 1 / (1 + np.exp(np.clip(distance / width, -30, 30)))


def _chest_parts(
    person: np.random.Generator, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lungs, body, and what is dense in the middle (spine, heart, diaphragm, clavicles), 0 to 1."""
    w, h = person.uniform(0.30, 0.36), person.uniform(0.62, 0.74)
    gap, up = person.uniform(0.40, 0.46), person.uniform(-0.16, -0.06)
    dome = person.uniform(0.42, 0.58)
    lungs = np.zeros((len(y), x.shape[1]), np.float32)
    for side in (-1, 1):
        lean = (x - side * (gap + 0.10 * (y - up))) / (w * (1 + 0.30 * (y - up)))
        inside = np.abs(lean) ** 2.4 + np.abs((y - up) / h) ** 2.4 - 1
        floor = y - dome - 0.10 * (side < 0) * -1 + 0.5 * (x - side * gap) ** 2
        lungs = np.maximum(lungs, _soft(inside, 0.09) * _soft(floor, 0.025))
    body = _soft(np.abs(x / (0.88 + 0.06 * y)) ** 4 - 1, 0.06) * _soft(-y - 1.15 + 0.5 * x**2, 0.04)
    heart = _soft(((x - 0.10 - 0.22 * (y - 0.1)) / 0.27) ** 2 + ((y - 0.20) / 0.42) ** 2 - 1, 0.22)
    roots = np.exp(-(((np.abs(x) - 0.20) / 0.10) ** 2) - ((y + 0.05) / 0.22) ** 2)
    vessels = np.exp(-(((x - 0.03) / 0.13) ** 2)) * _soft(y - 0.1, 0.2) + 0.35 * roots
    spine = np.exp(-((x / 0.10) ** 2)) * (0.85 + 0.15 * np.sin(26 * y))
    bow = np.exp(-(((y + 0.66 + 0.25 * np.abs(x) - 0.35 * x**2) / 0.035) ** 2))
    collar = sum(bow * _soft(np.abs(x - side * 0.4) - 0.3, 0.04) for side in (-1, 1))
    belly = _soft(dome - y, 0.05)
    dense = 0.45 * spine + 0.6 * heart + 0.4 * vessels + 0.4 * collar + 0.6 * belly
    return lungs * (1 - 0.75 * heart), body, np.clip(dense, 0, 1.1) * body


def _ribs(person: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pairs of curved bands: the back ribs fall outwards, the front ones are fainter and rise."""
    n, phase, bend = person.uniform(24, 29), person.uniform(0, 6), person.uniform(0.35, 0.6)
    back = np.sin(n * (y - bend * np.abs(x) + 0.35 * x**2) + phase)
    front = np.sin(0.8 * n * (y + 0.7 * np.abs(x)) + 2 * phase)
    ribs = 0.75 * np.maximum(back, 0) ** 1.5 + 0.4 * np.maximum(front, 0) ** 2
    return ribs * _soft(0.16 - np.abs(x), 0.05)


def _pneumonia(
    kind: str,
    ill: np.random.Generator,
    film: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    lungs: np.ndarray,
) -> np.ndarray:
    """What pneumonia adds: one dense lobe with a soft edge, or haze and strands on both sides."""
    if kind == "NORMAL":
        return np.zeros_like(lungs)
    strength = ill.uniform(0.20, 0.48) * film.uniform(0.85, 1.15)  # from day to day a little else
    if kind == "bacteria":
        side, at = ill.choice([-1, 1]), ill.uniform(-0.45, 0.35)
        across = (x - side * ill.uniform(0.30, 0.55)) / ill.uniform(0.16, 0.34)
        patch = across**2 + ((y - at) / ill.uniform(0.14, 0.34)) ** 2
        cloud = 1 + 0.12 * gaussian_filter(_clouds(film, lungs.shape, max(4, x.shape[1] // 16)), 3)
        return strength * _soft(patch - 1, 0.35) * cloud * lungs.clip(0.15)
    strands = np.abs(gaussian_filter(_clouds(film, lungs.shape, max(3, x.shape[1] // 50)), 2)) * 2
    near = np.exp(-(((np.abs(x) - 0.25) / 0.35) ** 2))
    near = near * np.exp(-(((y - ill.uniform(-0.2, 0.2)) / 0.7) ** 2))
    return strength * lungs * near * (0.55 + 0.16 * strands)


def _side_mark(film: np.random.Generator, pixels: np.ndarray) -> None:
    """The letter R beside the right shoulder (on the left of the picture)."""
    rows = ("11110", "10001", "10001", "11110", "10100", "10010", "10001")
    dot = np.ones((max(2, len(pixels) // 130),) * 2, bool)
    letter = np.kron(np.array([[int(c) for c in row] for row in rows], bool), dot)
    top = int(film.uniform(0.05, 0.2) * pixels.shape[0])
    left = int(film.uniform(0.03, 0.1) * pixels.shape[1])
    pixels[top : top + letter.shape[0], left : left + letter.shape[1]][letter] = 235


def draw_texture(label: str, seed: int, size: int = 64) -> np.ndarray:
    """Draw a picture of nothing: a ground, and on it nothing, a soft spot or strands.

    The grounds are leaves that fall on each other (boxes or disks, of all sizes), clouds and
    stripes. Networks learn from such pictures to see edges, shapes and textures without a single
    photograph (Baradad et al., Learning to see by looking at noise, NeurIPS 2021).

    Parameters
    ----------
    label : one of TEXTURE_CLASSES, "<ground>-<mark>".
    seed : int, of this picture.
    size : int, side in pixels.

    Returns
    -------
    uint8 array (size, size).

    Raises
    ------
    ValueError
        For another label.
    """
    if label not in TEXTURE_CLASSES:
        raise ValueError(f"label is {label!r}; textures are {', '.join(TEXTURE_CLASSES)}")
    draw, (ground, mark) = np.random.default_rng([seed, 8]), label.split("-")
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    light = _GROUND[ground](draw, x, y)
    light = 0.4 + draw.uniform(0.04, 0.12) * (light - light.mean()) / max(light.std(), 1e-6)
    strength = draw.uniform(0.2, 0.5)
    if mark == "spot":
        across = (x - draw.uniform(-0.7, 0.7)) / draw.uniform(0.15, 0.45)
        down = (y - draw.uniform(-0.7, 0.7)) / draw.uniform(0.15, 0.45)
        light += strength * _soft(across**2 + down**2 - 1, draw.uniform(0.2, 0.5))
    if mark == "strands":
        lines = np.exp(-np.abs(_clouds(draw, x.shape, max(2, size // 10))) / 0.25)
        away = (x - draw.uniform(-0.5, 0.5)) ** 2 + (y - draw.uniform(-0.5, 0.5)) ** 2
        light += strength * (0.3 + lines) * np.exp(-away / draw.uniform(0.3, 0.9))
    light += draw.uniform(0.01, 0.03) * draw.normal(0, 1, light.shape)
    return (255 * light).clip(0, 255).astype(np.uint8)


def _leaves(draw: np.random.Generator, x: np.ndarray, y: np.ndarray, box: bool) -> np.ndarray:
    """What is seen from above of leaves that have fallen: small ones are many, as in pictures."""
    n, form = 60, (60, 1, 1)
    size = 0.08 * (1 - draw.random(form) * (1 - (0.08 / 0.9) ** 1.5)) ** (-1 / 1.5)
    left, top = draw.uniform(-1.1, 1.1, (2, *form)).astype(np.float32)
    turn, flat = draw.uniform(0, np.pi, form), draw.uniform(1, 2, form)
    along, across = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u = (x - left) * along + (y - top) * across
    v = ((y - top) * along - (x - left) * across) * np.float32(flat)
    inside = (np.maximum(np.abs(u), np.abs(v)) if box else np.sqrt(u * u + v * v)) < size
    return np.where(inside.any(0), draw.random(n)[inside.argmax(0)], 0.5).astype(np.float32)


def _stripes(draw: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    turn, bend = draw.uniform(0, np.pi), draw.uniform(-0.4, 0.4)
    along = x * np.cos(turn) + y * np.sin(turn) + bend * (y * np.cos(turn) - x * np.sin(turn)) ** 2
    return np.sin(draw.uniform(8, 28) * along + draw.uniform(0, 6))


_GROUND: dict[str, Callable[..., np.ndarray]] = {
    "boxes": lambda draw, x, y: _leaves(draw, x, y, box=True),
    "clouds": lambda draw, x, y: sum(k**0.5 * _clouds(draw, x.shape, k) for k in (2, 4, 8, 16)),
    "disks": lambda draw, x, y: _leaves(draw, x, y, box=False),
    "stripes": _stripes,
}


# Data sets


@dataclass(frozen=True)
class _Item:
    """One file of a data set: how it is drawn, or the earlier file whose bytes it repeats."""

    path: str
    draw: Callable[..., np.ndarray] | None = None
    label: str = ""
    seed: int = 0
    patient: int = 0
    width: int = 512
    height: int = 496
    color: bool = False
    wedge: bool = False
    shift: float = 0.0
    copy_of: str = ""
    damage: str = ""


def write_oct(
    folder: str | Path,
    patients: int = 260,
    seed: int = 0,
    flaws: bool = True,
    size: float = 1.0,
    progress: bool | None = None,
) -> Path:
    """Draw a data set of phantom OCT scans in the form of the real one.

    `<folder>/{train,val,test}/{CNV,DME,DRUSEN,NORMAL}/<CLASS>-<patient>-<number>.jpeg`. Like the
    real one it has several scans a patient (three on average), about every sixth patient under more
    than one class, unequal classes, a tiny val folder, test scans most of whose patients are in
    train, five sizes, one scan in twelve stored as RGB, and white wedges on four in ten.

    Parameters
    ----------
    folder : str or Path, where to draw; a set already drawn there with the same parameters is kept,
        an interrupted one is finished.
    patients : int, how many.
    seed : int, of everything.
    flaws : bool, whether to add, exactly, 6 test files that repeat a training file's bytes (3 of
        them under its name), 2 training files that repeat another's bytes under another class, 4
        files that are no whole images, and a .DS_Store.
    size : float, 0.25 draws a quarter as wide and high (for tests).
    progress : bool, whether a bar is shown; None where a person watches.

    Returns
    -------
    Path, the folder.

    Raises
    ------
    ValueError
        Where the folder holds anything else, or there are too few patients for the flaws.
    """
    draw = np.random.default_rng([seed, 5])
    items = _oct_items(draw, patients, size)
    items += _oct_flaws(draw, items) if flaws else []
    parameters = {"kind": "oct", "patients": patients, "seed": seed, "flaws": flaws, "size": size}
    return _write(Path(folder), items, parameters, progress)


def _oct_items(draw: np.random.Generator, patients: int, size: float) -> list[_Item]:
    numbers = draw.choice(np.arange(1000, 99999), patients, replace=False)
    items, share = [], np.array([0.34, 0.20, 0.19, 0.27])
    for i, number in enumerate(numbers):
        # no class without patients
        first = OCT_CLASSES[i % 4] if i < 12 else str(draw.choice(OCT_CLASSES, p=share))
        others, second = [label for label in OCT_CLASSES if label != first], first
        if draw.random() < 1 / 6:
            second = str(draw.choice(others))
        # 8 patients give the flaws their training scans
        only_test = draw.random() < 0.08 and i >= 8
        count = 2 + min(int(draw.poisson(1.2)), 8)
        # one machine, one setting
        width, height, _ = _SIZES[draw.choice(len(_SIZES), p=[share for *_, share in _SIZES])]
        width, height = round(width * size), round(height * size)
        for n in range(1, count + 1):
            label, split = second if n % 2 == 0 else first, "train"
            if only_test or (n > 1 and draw.random() < 0.25):
                split = "test"
            elif draw.random() < 0.015 and (n > 1 or i >= 8):
                split = "val"
            path, seed = f"{split}/{label}/{label}-{number}-{n}.jpeg", int(number) * 100 + n
            item = _Item(path, draw_oct, label, seed, int(number), width, height)
            color, wedge = bool(draw.random() < 1 / 12), bool(draw.random() < 0.4)
            items.append(replace(item, color=color, wedge=wedge))
    return items


def _oct_flaws(draw: np.random.Generator, items: list[_Item]) -> list[_Item]:
    train = [item for item in items if item.path.startswith("train/")]
    if len(train) < 8:
        raise ValueError(
            f"so few patients have {len(train)} training scan{'s' * (len(train) != 1)} and the "
            "flaws repeat 8 of them; draw 8 patients or more, or none of the flaws with flaws=False"
        )
    chosen = [train[i] for i in draw.choice(len(train), 8, replace=False)]
    flaws = []
    for i, item in enumerate(chosen[:6]):
        name = Path(item.path).name if i < 3 else Path(item.path).stem + "9.jpeg"
        flaws.append(_Item(f"test/{item.label}/{name}", copy_of=item.path))
    for item in chosen[6:]:
        other = OCT_CLASSES[(OCT_CLASSES.index(item.label) + 1) % 4]
        flaws.append(_Item(f"train/{other}/{other}-{item.patient}-99.jpeg", copy_of=item.path))
    for i, damage in enumerate(("empty", "cut", "page", "zeros")):
        label = OCT_CLASSES[i]
        path = f"train/{label}/{label}-{99990 + i}-1.jpeg"
        flaws.append(_Item(path, draw_oct, label, i, damage=damage))
    return flaws


def plant(
    folder: str | Path,
    patients: int = 180,
    seed: int = 0,
    size: float = 0.25,
    progress: bool | None = None,
) -> dict[str, list[str]]:
    """Draw phantom OCT scans with faults whose truth is known, for trying out how they are found.

    `<folder>/train` has four faults: a white wedge on nine of ten scans of one class and on one of
    twenty others, wrong labels on one scan in ten, a third of the patients from a scanner whose
    pictures are brighter and who have the classes in other shares, and 6 files whose bytes lie
    under a second class too. `<folder>/test`, of every third patient, has none: each class alike
    often, with wedges and from the bright scanner as often as any other, and right labels. Names
    are as in `write_oct`; a patient has one disease, and three scans on average.

    Parameters
    ----------
    folder : str or Path, as for `write_oct`.
    patients : int, 24 at least.
    seed : int, of everything, so also of which class has the wedges.
    size : float, 1 draws scans of 512 x 496 pixels.
    progress : bool, as for `write_oct`.

    Returns
    -------
    dict of the paths in train that each fault has touched, the truth to be found: "wedge", "label",
        "bright", and "copy" (both files of each pair).

    Raises
    ------
    ValueError
        Where the folder holds anything else, or there are too few patients.
    """
    if patients < 24:
        raise ValueError(f"patients is {patients}; draw 24 or more, or the faults have no room")
    draw = np.random.default_rng([seed, 8])
    items, planted = _planted_items(draw, patients, size)
    parameters = {"kind": "oct, planted faults", "patients": patients, "seed": seed}
    _write(Path(folder), items, {**parameters, "flaws": False, "size": size}, progress)
    return planted


def _planted_items(
    draw: np.random.Generator, patients: int, size: float
) -> tuple[list[_Item], dict[str, list[str]]]:
    width, height = round(512 * size), round(496 * size)
    marked, *others = draw.permutation(OCT_CLASSES).tolist()
    common = {False: [0.34, 0.42, 0.12, 0.12], True: [0.10, 0.10, 0.40, 0.40]}
    items, planted = [], {"wedge": [], "label": [], "bright": [], "copy": []}
    numbers = draw.choice(np.arange(1000, 99999), patients, replace=False)
    for i, number in enumerate(numbers):
        test, bright = i % 3 == 2, bool(draw.random() < 1 / 3)
        shares = [0.25] * 4 if test else common[bright]
        truth = str(draw.choice([marked, *others], p=shares))
        truth = [marked, *others][i // 3] if i < 12 else truth  # no side without a class
        for n in range(1, 3 + min(int(draw.poisson(1.0)), 4)):
            likely = 0.4 if test else 0.9 if truth == marked else 0.05
            wedge, label = bool(draw.random() < likely), truth
            if not test and draw.random() < 0.1:
                label = str(draw.choice([name for name in OCT_CLASSES if name != truth]))
            path = f"{'test' if test else 'train'}/{label}/{label}-{number}-{n}.jpeg"
            look = {"wedge": wedge, "shift": 0.4 * bright}
            seed = int(number) * 100 + n
            items.append(_Item(path, draw_oct, truth, seed, int(number), width, height, **look))
            found = {"wedge": wedge, "label": label != truth, "bright": bright}
            for fault in found if not test else ():
                planted[fault] += [path] * found[fault]
    return items + _planted_copies(draw, items, planted), planted


def _planted_copies(
    draw: np.random.Generator, items: list[_Item], planted: dict[str, list[str]]
) -> list[_Item]:
    """Six training files again under another class; both of each pair are noted in `planted`."""
    fine = [item for item in items if item.path.startswith(f"train/{item.label}/")]
    copies, copied = [], []
    for i in draw.choice(len(fine), 6, replace=False):
        item, other = fine[i], OCT_CLASSES[(OCT_CLASSES.index(fine[i].label) + 1) % 4]
        number = 99 - sum(one.patient == item.patient for one in copied)
        path = f"train/{other}/{other}-{item.patient}-{number}.jpeg"
        copied.append(item)
        copies.append(_Item(path, copy_of=item.path))
        planted["copy"] += [item.path, path]
        for fault in ("wedge", "bright"):
            planted[fault] += [path] * (item.path in planted[fault])
    return copies


def write_chest(
    folder: str | Path,
    patients: int = 320,
    seed: int = 0,
    flaws: bool = True,
    size: float = 1.0,
    progress: bool | None = None,
) -> Path:
    """Draw a data set of phantom chest X-rays in the form of the real one.

    `<folder>/{train,val,test}/{NORMAL,PNEUMONIA}/`, with the real names:
    person<N>_(bacteria|virus)_<M>.jpeg (and one odd person447_virus_921_1.jpeg),
    IM-<N>-0001[-000x].jpeg, NORMAL2-IM-<N>-0001[-000x].jpeg. No patient is both in train and in
    test, yet numbers repeat between kinds, so that a careless key finds overlaps. 74 % pneumonia in
    train, 62.5 % in test; the test films are brighter and greyer, as of another machine; one film
    of pneumonia in 14 and none of the healthy is stored as RGB; 16 images in val, of patients who
    are in train. Widths 250-900 pixels, a fraction of the real ones, which are of 384 to 2,916.

    Parameters
    ----------
    folder : str or Path, as for `write_oct`.
    patients : int, 6 at least.
    seed : int, of everything.
    flaws : bool, whether to add one byte-identical copy within train, one truncated file, and a ._
        resource fork.
    size : float, 0.25 draws a quarter as wide and high (for tests).
    progress : bool, whether a bar is shown; None where a person watches.

    Returns
    -------
    Path, the folder.

    Raises
    ------
    ValueError
        Where the folder holds anything else, or there are too few patients.
    """
    if patients < 6:
        raise ValueError(
            f"patients is {patients}; draw 6 or more, as every sixth is of the test folder"
        )
    draw = np.random.default_rng([seed, 6])
    items = _chest_items(draw, patients, size)
    if flaws:
        first = next(item for item in items if item.path.startswith("train/NORMAL/"))
        items += [
            _Item("train/NORMAL/IM-9001-0001.jpeg", copy_of=first.path),
            _Item("train/PNEUMONIA/person9001_virus_1.jpeg", draw_chest, "virus", 1, damage="cut"),
            _Item("train/NORMAL/._IM-9001-0001.jpeg", damage="zeros"),
        ]
    parameters = {"kind": "chest", "patients": patients, "seed": seed, "flaws": flaws, "size": size}
    return _write(Path(folder), items, parameters, progress)


def _chest_items(draw: np.random.Generator, patients: int, size: float) -> list[_Item]:
    items, film, number = [], 0, {"IM": 99, "NORMAL2-IM": 99}
    val = {"NORMAL": 0, "PNEUMONIA": 0}
    for i in range(patients):
        test = i % 6 == 5
        shares = [0.375, 0.39, 0.235] if test else [0.26, 0.48, 0.26]
        kind = str(draw.choice(_CHEST_KINDS, p=shares))
        kind = _CHEST_KINDS[i] if i < 3 else kind  # no kind without patients
        series = "NORMAL2-IM" if draw.random() < 0.5 else "IM"
        label = "NORMAL" if kind == "NORMAL" else "PNEUMONIA"
        number[series] += kind == "NORMAL"
        for n in range(1, 2 + min(int(draw.poisson(1.0)), 5)):
            film += 1
            name = f"person{i + 1}_{kind}_{film}"
            if kind == "NORMAL":
                name = f"{series}-{number[series]:04d}-0001" + (f"-{n:04d}" if n > 1 else "")
            into_val = not test and n == 2 and val[label] < 8
            val[label] += into_val
            path = f"{'test' if test else 'val' if into_val else 'train'}/{label}/{name}.jpeg"
            width = int(draw.integers(250, 900) * size)
            height = int(width * draw.uniform(0.68, 0.95))
            item = _Item(path, draw_chest, kind, film, 1_000_000 + i, width, height)
            color = bool(label == "PNEUMONIA" and draw.random() < 0.07)
            items.append(replace(item, color=color, shift=0.1 if test else 0.0))
    virus = (i for i, item in enumerate(items) if item.label == "virus")
    odd = next(i for i in virus if items[i].path.startswith("train"))
    items[odd] = replace(items[odd], path="train/PNEUMONIA/person447_virus_921_1.jpeg")
    return items


def write_textures(
    folder: str | Path,
    images: int = 2400,
    seed: int = 0,
    size: int = 64,
    progress: bool | None = None,
) -> Path:
    """Draw pictures of nothing, `<folder>/<class>/<class>-<number>.png`: as many as you like.

    Parameters
    ----------
    folder : str or Path, as for `write_oct`.
    images : int, of all classes together; they come in turn.
    seed : int, of everything.
    size : int, side in pixels.
    progress : bool, whether a bar is shown; None where a person watches.

    Returns
    -------
    Path, the folder.

    Raises
    ------
    ValueError
        Where the folder holds anything else.
    """
    items = []
    for i in range(images):
        label = TEXTURE_CLASSES[i % len(TEXTURE_CLASSES)]
        path = f"{label}/{label}-{i:06d}.png"
        items.append(_Item(path, draw_texture, label, seed * 1_000_000 + i, i, size, size))
    parameters = {"kind": "textures", "images": images, "seed": seed, "size": size, "flaws": False}
    return _write(Path(folder), items, parameters, progress)


def _write(root: Path, items: list[_Item], parameters: dict, progress: bool | None) -> Path:
    parameters = {**parameters, "version": VERSION, "files": len(items)}
    if _already_there(root, parameters):
        return root
    root.mkdir(parents=True, exist_ok=True)
    (root / MARKER).write_text(json.dumps({**parameters, "finished": False}))
    (root / "README.txt").write_text(_NOTE)
    for folder in {(root / item.path).parent for item in items}:
        folder.mkdir(parents=True, exist_ok=True)
    todo = [item for item in items if not item.copy_of]
    # numpy lets other threads draw meanwhile
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        drawn = pool.map(lambda item: _write_one(root, item), todo)
        list(bar(drawn, "drawing phantoms", len(todo), show=progress))
    for item in (item for item in items if item.copy_of):
        shutil.copyfile(root / item.copy_of, root / item.path)
    if parameters["flaws"]:
        (root / "train" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / MARKER).write_text(json.dumps({**parameters, "finished": True}))
    return root


def check_version(root: Path) -> None:
    """Refuse phantoms of another version of the drawings.

    Parameters
    ----------
    root : Path, a folder; one that holds no phantoms passes.

    Raises
    ------
    ValueError
        Where they were drawn by another version.
    """
    marker = root / MARKER
    if marker.is_file() and (found := json.loads(marker.read_text()).get("version")) != VERSION:
        raise ValueError(
            f"{root} holds phantoms of version {found} of the drawings and this program draws "
            f"version {VERSION}; remove the folder, and they are drawn anew"
        )


def _already_there(root: Path, parameters: dict) -> bool:
    """Whether this very set is drawn; refuses a folder of anything else."""
    if not root.exists() or not any(root.iterdir()):
        return False
    if not (root / MARKER).is_file():
        raise ValueError(
            f"{root} holds files that are no phantoms; choose an empty folder to draw into"
        )
    found = json.loads((root / MARKER).read_text())
    finished = found.pop("finished", False)
    if found != parameters:
        raise ValueError(
            f"{root} holds phantoms drawn with other parameters ({found}, wanted {parameters}); "
            "choose another folder, or remove this one"
        )
    return finished


def _write_one(root: Path, item: _Item) -> None:
    """Draw one file, unless an interrupted run has; renamed into place when whole."""
    path = root / item.path
    if path.exists():
        return
    damaged = {"empty": b"", "zeros": bytes(4000)}
    damaged["page"] = b"<html><title>404 Not Found</title></html>"
    content = damaged[item.damage] if item.damage in damaged else _file_of(item)
    content = content[: len(content) // 2] if item.damage == "cut" else content
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _file_of(item: _Item) -> bytes:
    file = io.BytesIO()
    if item.draw is draw_texture:
        Image.fromarray(draw_texture(item.label, item.seed, item.width)).save(file, "PNG")
        return file.getvalue()
    special = {"shift": item.shift} | ({"wedge": item.wedge} if item.draw is draw_oct else {})
    size, patient = (item.width, item.height), item.patient
    pixels = item.draw(item.label, item.seed, *size, patient=patient, **special)
    image = Image.fromarray(pixels)
    (image.convert("RGB") if item.color else image).save(file, "JPEG", quality=88)
    return file.getvalue()
