"""Seeded augmentation of whole uint8 batches: a view is a function of (image, seed, view number).

Every geometric augmentation used here (crop, flip, rotation, shift, zoom) is one affine map, and
brightness, contrast and gamma are one line, so a whole batch is warped by one `affine_grid` and one
`grid_sample` on the device. The parameters of a view come from a counter-based generator, not from
a stream: the same view of the same image is the same pixels in any batch, order, worker, process
and machine. Caching, resuming and distributing the work become easy because of this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_DRAWN = (
    "area aspect left top flip angle shift_x shift_y zoom brightness contrast gamma sharpness noise"
)
_BLURRED = 5  # pixels a side of the mean that sharpness is measured from


class Views(ABC):
    """What shows an image in views, such as an `Augmentation`.

    Its attributes are plain values, and a view depends on nothing but them, the image, its key, the
    number and the seed.
    """

    @property
    @abstractmethod
    def identity(self) -> bool:
        """Whether a view is always the image itself."""

    @abstractmethod
    def view(self, images: Tensor, keys: Tensor, number: int, seed: int) -> Tensor:
        """Show one view of each image of a batch.

        Parameters
        ----------
        images : uint8 Tensor (N, C, H, W), on any device.
        keys : int64 Tensor (N,), what tells the images apart (see `loaders.image_key`).
        number : int, of the view, 0 or more.
        seed : int

        Returns
        -------
        uint8 Tensor (N, C, H, W) on the same device.
        """


@dataclass(frozen=True)
class Augmentation(Views):
    """How far a view may lie from the image it shows. The defaults change nothing.

    Parameters
    ----------
    crop : (low, high), shares of the area in (0, 1]. A rectangle of a share between them is cut out
        and stretched to the full size, as in torchvision's RandomResizedCrop.
    aspect : (low, high), width over height of the crop relative to the image, used where `crop` is
        not (1, 1).
    flip : float, probability in [0, 1] of a left-right flip.
    rotate : float, largest rotation either way, in degrees.
    shift : float, largest shift either way, as a share of the width and height.
    zoom : (low, high), magnification; 1.1 shows a tenth less of the image.
    brightness : float, largest change either way, as a share of the full range (0.1 = 25 grey
        levels).
    contrast : float, largest relative change either way about mid-grey (0.2 = a factor of 0.8 to
        1.2).
    gamma : float, largest exponent minus one; the exponent is drawn log-uniformly in
        [1 / (1 + gamma), 1 + gamma].
    sharpness : float, largest relative change either way of what tells the image from its mean over
        5 x 5 pixels; 1 goes from that mean to details twice as strong.
    noise : float, largest standard deviation of noise of its own in each pixel, as a share of the
        full range (0.05 = 13 grey levels); the same in all channels.

    Raises
    ------
    ValueError
        For a value of another kind or out of its range.

    Examples
    --------
    >>> Augmentation(flip=0.5, zoom=[0.9, 1.1]).zoom
    (0.9, 1.1)
    >>> Augmentation(flip=2)
    Traceback (most recent call last):
    ValueError: flip is 2: a probability, so from 0 to 1
    """

    crop: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    sharpness: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "aspect", "zoom"):
            ends = getattr(self, name)
            pair = isinstance(ends, (tuple, list)) and len(ends) == 2
            if not (pair and all(map(is_number, ends))):
                raise ValueError(f"{name} is {ends!r}; it wants two numbers, low and high")
            object.__setattr__(self, name, tuple(ends))  # a list read from JSON is a tuple again
            low, high = ends
            if not 0 < low <= high:
                raise ValueError(f"{name} is {low, high}; it wants 0 < low <= high")
        if self.crop[1] > 1:
            raise ValueError(f"crop is {self.crop}: shares of the area, so 1 at most")
        amounts = ("rotate", "shift", "brightness", "contrast", "gamma", "sharpness", "noise")
        for name in ("flip", *amounts):
            if not is_number(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it wants a number")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}: a probability, so from 0 to 1")
        for name in amounts:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it wants 0 or more")

    @property
    def moves(self) -> bool:
        """Whether any geometric part is on."""
        cut = self.crop != (1, 1) or self.zoom != (1, 1)
        return cut or self.flip > 0 or self.rotate > 0 or self.shift > 0

    @property
    def _recolors(self) -> bool:
        """Whether any change of brightness, contrast or gamma is on."""
        return self.brightness > 0 or self.contrast > 0 or self.gamma > 0

    @property
    def identity(self) -> bool:
        """Whether a view is always the image itself."""
        return not (self.moves or self._recolors or self.sharpness > 0 or self.noise > 0)

    def view(self, images: Tensor, keys: Tensor, number: int, seed: int) -> Tensor:
        """Show one view of each image of a batch.

        Parameters
        ----------
        images : uint8 Tensor (N, C, H, W), on any device.
        keys : int64 Tensor (N,), what tells the images apart (see `loaders.image_key`).
        number : int, of the view, 0 or more; another number gives another view.
        seed : int, of the run.

        Returns
        -------
        uint8 Tensor (N, C, H, W) on the same device; `images` itself where the augmentation changes
            nothing. What lies outside the image is filled with its nearest edge pixels.

        Raises
        ------
        ValueError
            For images of another kind or shape.

        Examples
        --------
        >>> image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
        >>> Augmentation(flip=1.0).view(image, torch.tensor([5]), 0, seed=0)
        tensor([[[[2, 1, 0],
                  [5, 4, 3],
                  [8, 7, 6]]]], dtype=torch.uint8)
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; "
                "views want uint8 (N, C, H, W)"
            )
        if self.identity:
            return images
        drawn = parameters(keys.cpu(), number, seed, self)
        out = images.float()
        if self.moves:
            maps = _affine(drawn, *images.shape[-2:]).to(images.device)
            grid = F.affine_grid(maps, list(images.shape), align_corners=False)
            out = F.grid_sample(out, grid, padding_mode="border", align_corners=False)
        if self._recolors:
            out = _recolor(out, drawn)
        if self.sharpness > 0:
            blurred = _blurred(out)
            out = blurred + (out - blurred) * _by_image(drawn["sharpness"], out)
        if self.noise > 0:
            (height, width), used = out.shape[-2:], len(_DRAWN.split())
            grain = _uniforms(keys.cpu(), number, seed, used + height * width)[:, used:]
            grain = torch.from_numpy(grain).to(out).view(-1, 1, height, width)
            # A uniform number from 0 to 1 deviates by the root of 1/12.
            out = out + 255 * 12**0.5 * (grain - 0.5) * _by_image(drawn["noise"], out)
        return out.add_(0.5).clamp_(0, 255).to(torch.uint8)


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float, and not a bool.

    Parameters
    ----------
    value : object

    Returns
    -------
    bool
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


AS_IT_IS = Augmentation()  # its one view is the image itself


def _uniforms(keys: Tensor | np.ndarray, view: int, seed: int, n: int) -> np.ndarray:
    """float64 (len(keys), n) in [0, 1), from (seed, key, view) alone.

    The generator is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
    OOPSLA 2014) used as a hash: it has no state, so neither batch nor order can matter.
    """
    state = np.asarray(keys).astype(np.int64).view(np.uint64)[:, None]
    seed, view, column = np.uint64(seed % 2**64), np.uint64(view % 2**64), np.arange(n)[None]
    with np.errstate(over="ignore"):
        for word in (seed, view, column.astype(np.uint64)):
            state = _mix(state ^ _mix(word + np.uint64(0x9E3779B97F4A7C15)))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def parameters(
    keys: Tensor | np.ndarray, view: int, seed: int, augmentation: Augmentation
) -> dict[str, np.ndarray]:
    """Draw the parameters of one view of each image.

    Parameters
    ----------
    keys : int64 Tensor or array (N,), see `Views.view`.
    view : int, number of the view.
    seed : int, of the run.
    augmentation : Augmentation

    Returns
    -------
    dict of float64 arrays (N,)
        width, height (of the part shown, 1 = all), x, y (its centre, -1 to 1 across the image),
        flip (0 or 1), angle (degrees), brightness (share of the full range), contrast (factor),
        gamma (exponent), sharpness (factor), noise (share of the full range).
    """
    a = augmentation
    names = _DRAWN.split()
    u = dict(zip(names, _uniforms(keys, view, seed, len(names)).T))
    area = a.crop[0] + (a.crop[1] - a.crop[0]) * u["area"]
    ratio = _log_uniform(u["aspect"], *a.aspect) if a.crop != (1, 1) else np.ones(len(area))
    width = np.minimum(np.sqrt(area * ratio), 1)
    height = np.minimum(np.sqrt(area / ratio), 1)
    x = (2 * u["left"] - 1) * (1 - width) + 2 * a.shift * (2 * u["shift_x"] - 1)
    y = (2 * u["top"] - 1) * (1 - height) + 2 * a.shift * (2 * u["shift_y"] - 1)
    zoom = _log_uniform(u["zoom"], *a.zoom)
    return {
        "width": width / zoom,
        "height": height / zoom,
        "x": x,
        "y": y,
        "flip": (u["flip"] < a.flip).astype(float),
        "angle": a.rotate * (2 * u["angle"] - 1),
        "brightness": a.brightness * (2 * u["brightness"] - 1),
        "contrast": 1 + a.contrast * (2 * u["contrast"] - 1),
        "gamma": _log_uniform(u["gamma"], 1 / (1 + a.gamma), 1 + a.gamma),
        "sharpness": 1 + a.sharpness * (2 * u["sharpness"] - 1),
        "noise": a.noise * u["noise"],
    }


def _log_uniform(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low * (high / low) ** u


def _affine(drawn: dict[str, np.ndarray], height: int, width: int) -> Tensor:
    """Output -> input coordinates, both -1 to 1: flip, scale, rotate (in pixels), shift."""
    angle, aspect = np.deg2rad(drawn["angle"]), width / height
    sx, sy = drawn["width"] * (1 - 2 * drawn["flip"]), drawn["height"]
    rows = [
        [np.cos(angle) * sx, -np.sin(angle) * sy / aspect, drawn["x"]],
        [np.sin(angle) * sx * aspect, np.cos(angle) * sy, drawn["y"]],
    ]
    return torch.from_numpy(np.array(rows).transpose(2, 0, 1)).float()


def _recolor(images: Tensor, drawn: dict[str, np.ndarray]) -> Tensor:
    brightness, contrast, gamma = (
        _by_image(drawn[name], images) for name in ("brightness", "contrast", "gamma")
    )
    grey = (images / 255).clamp_(0, 1).pow(gamma)
    return ((grey - 0.5) * contrast + 0.5 + brightness).clamp_(0, 1) * 255


def _by_image(values: np.ndarray, images: Tensor) -> Tensor:
    return torch.from_numpy(values).to(images).view(-1, 1, 1, 1)


def _blurred(images: Tensor) -> Tensor:
    """The mean over squares, added up in one order: a convolution's may depend on the batch."""
    height, width = images.shape[-2:]
    wide = F.pad(images, [_BLURRED // 2] * 4, mode="replicate")
    rows = sum(wide[..., i : i + height, :] for i in range(_BLURRED))
    return sum(rows[..., i : i + width] for i in range(_BLURRED)) / _BLURRED**2


def normalize(
    images: Tensor, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Tensor:
    """Turn uint8 images into what an ImageNet network was trained on.

    Parameters
    ----------
    images : uint8 Tensor (N, 1 or 3, H, W); a grey image is repeated in all three channels.
    mean, std : tuple of float, per channel, for values scaled to [0, 1].

    Returns
    -------
    float32 Tensor (N, 3, H, W), roughly -2.1 to 2.6 with the ImageNet numbers.

    Raises
    ------
    ValueError
        For images of another kind or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; "
            "normalize wants uint8 (N, 1 or 3, H, W)"
        )
    mean, std = (torch.tensor(each, device=images.device).view(1, 3, 1, 1) for each in (mean, std))
    return images.float() * (1 / (255 * std)) - mean / std
