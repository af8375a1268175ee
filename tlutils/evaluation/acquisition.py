"""Plausible changes of acquisition: the same image as another hospital might have taken it.

A named battery for images as they go into the network, squares of uint8. Each change is a pure
function of an image and its key, so it is the same pixels in any batch, order and process.
`changed` makes one of them; an `Acquisition` deals them over the images, a different one for each
view of an image, so that a few views of each stand for all changes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..core.words import did_you_mean
from ..data.augment import Views

# The seed of every dealing, so that epochs, seeds of training and recipes are judged alike.
DEALING = 0
_NOISE = 12  # grey levels, 5 % of the range
_LEFT_AND_RIGHT = ("R", "AP")  # of many films, burned in
_NEVER_A_SEED = 2**64 - 1  # so noise shares no stream with the dealing


class Change(NamedTuple):
    """One change of acquisition.

    Parameters
    ----------
    name : str
    family : str, "framing", "exposure", "detector" or "marks"
    words : str, what it is, for people
    function : Callable, from uint8 Tensor (N, 1 or 3, H, W) and keys (N,) to such a Tensor
    """

    name: str
    family: str
    words: str
    function: Callable[[Tensor, Tensor], Tensor]


def changed(images: Tensor, keys: Tensor, name: str) -> Tensor:
    """Change the acquisition of each image of a batch.

    Parameters
    ----------
    images : uint8 Tensor (N, 1 or 3, H, W), on any device
    keys : int64 Tensor (N,), what tells the images apart (see `loaders.image_key`)
    name : str, one of `CHANGES`, or "" for the images as they are

    Returns
    -------
    uint8 Tensor (N, 1 or 3, H, W) on the same device
        Another make of device may round a pixel differently, by one grey level.

    Raises
    ------
    ValueError
        For an unknown name, or images of another kind or shape.

    Examples
    --------
    >>> image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    >>> changed(image, torch.tensor([5]), "mirrored")
    tensor([[[[2, 1, 0],
              [5, 4, 3],
              [8, 7, 6]]]], dtype=torch.uint8)
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; "
            "changes of acquisition want uint8 (N, 1 or 3, H, W)"
        )
    _check_names([name])
    return CHANGES[name].function(images, keys) if name and len(images) else images


def _check_names(names: Iterable[str]) -> None:
    if unknown := [name for name in names if name not in CHANGES and name != ""]:
        raise ValueError(
            f"there is no change of acquisition {unknown[0]!r}"
            f"{did_you_mean(unknown[0], CHANGES)}; those there are: {', '.join(CHANGES)}"
        )


@dataclass(frozen=True)
class Acquisition(Views):
    """Changes dealt over images: a view of an image is one of them, another view another one.

    It can stand where an `Augmentation` can. Which change the first view of an image is depends on
    its key and the seed; the next ones are so many places further in the list, so that as many
    views as there are changes show each of them once, and a few come from several families.
    Over many images all changes are dealt about equally often.

    Parameters
    ----------
    changes : tuple of str, names of `CHANGES`, or "" for the image as it is
        None given are all but "inverted": films are inverted by a wrong tag, by no hospital.
    version : int, of the battery's pixels, which stores of features depend on

    Raises
    ------
    ValueError
        For an unknown change.

    Examples
    --------
    >>> two = Acquisition(("mirrored", "inverted"))
    >>> [two.names(torch.tensor([3, 4, 5]), view, seed=0) for view in (0, 1)]
    [['inverted', 'mirrored', 'mirrored'], ['mirrored', 'inverted', 'inverted']]
    """

    changes: tuple[str, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", tuple(self.changes) or _DEALT)
        _check_names(self.changes)

    @property
    def identity(self) -> bool:
        """Whether a view is always the image itself."""
        return set(self.changes) == {""}

    def names(self, keys: Tensor, number: int, seed: int) -> list[str]:
        """Which change a view of each image is.

        Parameters
        ----------
        keys : int64 Tensor (N,)
        number : int, of the view
        seed : int

        Returns
        -------
        list of str
        """
        n = len(self.changes)
        first = [int(_generator(key, seed).integers(n)) for key in keys.tolist()]
        return [self.changes[(start + number * _stride(n)) % n] for start in first]

    def view(self, images: Tensor, keys: Tensor, number: int, seed: int) -> Tensor:
        """Show one view of each image of a batch.

        Parameters
        ----------
        images : uint8 Tensor (N, 1 or 3, H, W), on any device
        keys : int64 Tensor (N,)
        number : int, of the view
        seed : int

        Returns
        -------
        uint8 Tensor (N, 1 or 3, H, W) on the same device
        """
        names, out = np.array(self.names(keys, number, seed)), torch.empty_like(images)
        for name in np.unique(names):
            rows = torch.from_numpy(np.flatnonzero(names == name))
            there = rows.to(images.device)
            out[there] = changed(images[there], keys[rows.to(keys.device)], str(name))
        return out


def _generator(key: int, seed: int) -> np.random.Generator:
    """Random numbers of an image: counter-based, so neither batch nor order can matter."""
    return np.random.Generator(np.random.Philox(key=key % 2**64 + (seed % 2**64 << 64)))


@cache
def _stride(n: int) -> int:
    """About n divided by the golden ratio's square and prime to n: any few steps lie far apart."""
    return next(step for step in range(max(1, round(0.382 * n)), n + 2) if math.gcd(step, n) == 1)


def _cut(
    images: Tensor,
    keys: Tensor,
    left: float = 0.0,
    right: float = 0.0,
    top: float = 0.0,
    bottom: float = 0.0,
) -> Tensor:
    """Without shares of its sides, stretched to the full size as films are when they are read."""
    height, width = images.shape[-2:]
    rows = slice(round(top * height), height - round(bottom * height))
    columns = slice(round(left * width), width - round(right * width))
    return _resized(images[..., rows, columns], height, width)


def _bordered(images: Tensor, keys: Tensor, across: float, down: float) -> Tensor:
    """Shrunk to shares of its width and height, in the middle of black."""
    from torchvision.transforms.v2 import functional as tv

    height, width = images.shape[-2:]
    h, w = round(down * height), round(across * width)
    left, top = (width - w) // 2, (height - h) // 2
    return tv.pad(_resized(images, h, w), [left, top, width - w - left, height - h - top])


def _coarse(images: Tensor, keys: Tensor, share: float) -> Tensor:
    height, width = images.shape[-2:]
    small = _resized(images, max(1, round(share * height)), max(1, round(share * width)))
    return _resized(small, height, width)


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    """In float, as torchvision's uint8 way is another one on another CPU."""
    from torchvision.transforms.v2 import functional as tv

    return _as_uint8(tv.resize(images.float(), [height, width], antialias=True))


def _as_uint8(images: Tensor) -> Tensor:
    return images.add(0.5).clamp_(0, 255).to(torch.uint8)


def _gamma(images: Tensor, keys: Tensor, exponent: float) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.adjust_gamma(images, exponent)


def _brightness(images: Tensor, keys: Tensor, factor: float) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.adjust_brightness(images, factor)


def _contrast(images: Tensor, keys: Tensor, factor: float) -> Tensor:
    """About the image's mean, of whole numbers: a sum of floats would depend on the batch."""
    total = images.sum((1, 2, 3), dtype=torch.int64, keepdim=True)
    mean = total.float() / images[0].numel()
    return _as_uint8((images - mean) * factor + mean)


def _window(images: Tensor, keys: Tensor, lost: float) -> Tensor:
    """All grey levels for the middle of the image's own ones; a share at either end is lost."""
    pixels = images.flatten(1)
    ranks = [1 + round(share * (pixels.shape[1] - 1)) for share in (lost, 1 - lost)]
    low, high = (pixels.kthvalue(rank, 1).values.view(-1, 1, 1, 1).float() for rank in ranks)
    return _as_uint8((images - low) * (255 / (high - low).clamp(min=1)))


def _blur(images: Tensor, keys: Tensor, sigma: float) -> Tensor:
    """By so many pixels of an image of 224, one by one: a convolution may depend on the batch."""
    from torchvision.transforms.v2 import functional as tv

    sigma = max(0.6, sigma * images.shape[-1] / 224)
    side = [2 * math.ceil(2 * sigma) + 1] * 2
    return torch.cat([tv.gaussian_blur(image, side, [sigma] * 2) for image in images.split(1)])


def _noise(images: Tensor, keys: Tensor, deviation: float) -> Tensor:
    """The same in all channels, so that a grey image stays grey."""
    shape = (1, *images.shape[-2:])
    noise = [
        _generator(key, _NEVER_A_SEED).standard_normal(shape, np.float32) for key in keys.tolist()
    ]
    return _as_uint8(images + deviation * torch.from_numpy(np.stack(noise)).to(images.device))


def _jpeg(images: Tensor, keys: Tensor, quality: int) -> Tensor:
    """By Pillow, as torchvision is about to give its own JPEG up."""
    found = np.empty(images.movedim(1, -1).shape, np.uint8)
    for image, place in zip(images.cpu().movedim(1, -1).numpy(), found):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            file, "JPEG", quality=quality
        )
        place[:] = np.array(Image.open(file)).reshape(place.shape)
    return torch.from_numpy(found).movedim(-1, 1).contiguous().to(images.device)


def _lettered(images: Tensor, keys: Tensor) -> Tensor:
    """White letters in both upper corners, a twelfth of the height."""
    height, width = images.shape[-2:]
    margin, out = round(height / 24), images.clone()
    for text, at_left in zip(_LEFT_AND_RIGHT, (True, False)):
        ink = _letters(text, max(4, round(height / 12))).to(images.device)
        h, w = ink.shape
        left = margin if at_left else max(0, width - margin - w)
        corner = out[..., margin : margin + h, left : left + w]
        corner.masked_fill_(ink[: corner.shape[-2], : corner.shape[-1]], 255)
    return out


@cache
def _letters(text: str, height: int) -> Tensor:
    """bool (height, width), in Pillow's one font that is the same wherever it is installed."""
    font = ImageFont.load_default_imagefont()
    drawn = Image.new("L", font.getbbox(text)[2:])
    ImageDraw.Draw(drawn).text((0, 0), text, fill=255, font=font)
    drawn = drawn.crop(drawn.getbbox())
    size = (max(1, round(height * drawn.width / drawn.height)), height)
    return torch.from_numpy(np.array(drawn.resize(size, Image.Resampling.NEAREST)) > 127)


_BATTERY = {
    "framing": {
        **{
            f"{side}_{percent}": (
                f"{words} at the {side} cut off",
                partial(_cut, **{side: percent / 100}),
            )
            for percent, words in ((10, "a tenth"), (25, "a quarter"))
            for side in ("left", "right", "top", "bottom")
        },
        "wider": ("wider framing, dark borders", partial(_bordered, across=0.8, down=0.8)),
        "shorter": ("a quarter of the height cut off", partial(_cut, top=0.125, bottom=0.125)),
        "narrower": ("a quarter of the width cut off", partial(_cut, left=0.125, right=0.125)),
    },
    "exposure": {
        "gamma_low": ("gamma 0.6, lighter midtones", partial(_gamma, exponent=0.6)),
        "gamma_high": ("gamma 1.6, darker midtones", partial(_gamma, exponent=1.6)),
        "dark": ("darker by 30 %", partial(_brightness, factor=0.7)),
        "bright": ("brighter by 30 %", partial(_brightness, factor=1.3)),
        "contrast_low": ("contrast lower by 40 %", partial(_contrast, factor=0.6)),
        "contrast_high": ("contrast higher by 50 %", partial(_contrast, factor=1.5)),
        "window": ("window, outer 5 % of pixels lost", partial(_window, lost=0.05)),
    },
    "detector": {
        "blur": ("blurred", partial(_blur, sigma=1.5)),
        "noise": ("noise of 5 % of the range", partial(_noise, deviation=_NOISE)),
        "jpeg": ("JPEG of quality 20", partial(_jpeg, quality=20)),
        "coarse": ("resolution of 40 %", partial(_coarse, share=0.4)),
    },
    "marks": {
        "letters": ("letters in the upper corners", _lettered),
        "mirrored": ("mirrored", lambda images, keys: images.flip(-1)),
        "letterbox": ("black bars above and below", partial(_bordered, across=1.0, down=0.75)),
        "inverted": ("inverted, black for white", lambda images, keys: 255 - images),
    },
}

CHANGES: Mapping[str, Change] = {
    name: Change(name, family, words, function)
    for family, changes in _BATTERY.items()
    for name, (words, function) in changes.items()
}

_DEALT = tuple(name for name in CHANGES if name != "inverted")
