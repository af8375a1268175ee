"""How unlike the training images an image is: novelty detection, of what is out of distribution.

It is looked at twice, where it enters the network (the image, made small) and where it enters the
head (the features). Either sees what the other misses: features hardly know an inverted film or a
blank, the small image knows no texture. Of the training images a `Reference` keeps mean and spread,
not the images; the distance from them is Mahalanobis', relative to a limit that validation images
set.

Sources: Mahalanobis distance in features, Lee et al. 2018, here of vectors of length 1, as in Sun
et al. 2022; the covariance is that of probabilistic PCA (few directions, one variance for all
others), Tipping and Bishop 1999, as there may be fewer images than features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

FEWEST = 16  # training images
ENOUGH = 100  # validation patients; where they are fewer, their number is told with the limit
_SHARE = 0.01  # of the validation patients, that lie beyond the limit
_ROUNDING = 1e-4  # the image that sets the limit must not lie beyond it by another batch's rounding
_SIDE = 8  # of the small image
_DIRECTIONS, _IMAGES_A_DIRECTION = 32, 8


@dataclass(frozen=True)
class Spread:
    """Mean and spread of vectors.

    Parameters
    ----------
    mean : ndarray, float32 (width,)
    directions : ndarray, float32 (k, width), orthonormal, along which they vary most
    variances : ndarray, float32 (k,), along these
    noise : float, the variance along every other direction

    Raises
    ------
    ValueError
        Where their shapes do not fit.
    """

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    noise: float

    def __post_init__(self) -> None:
        shapes = self.mean.shape, self.directions.shape, self.variances.shape
        if len(shapes[1]) != 2 or shapes[1] != (*shapes[2], *shapes[0]):
            raise ValueError(f"mean, directions and variances have the shapes {shapes}")

    def distance(self, vectors: np.ndarray) -> np.ndarray:
        """Mahalanobis distance from the mean.

        Parameters
        ----------
        vectors : ndarray, float (n, width)

        Returns
        -------
        ndarray, float64 (n,)
        """
        away = np.asarray(vectors, dtype=np.float64) - self.mean
        along = away @ self.directions.T
        rest = np.maximum((away**2).sum(1) - (along**2).sum(1), 0)
        return np.sqrt((along**2 / self.variances).sum(1) + rest / self.noise)


@dataclass(frozen=True)
class Reference:
    """Where the training images of a model lie.

    Parameters
    ----------
    small, features : Spread, of small images and of features, as `seen` makes them
    limits : tuple of float, the distances in both that count as 1; NaN before they are set
    patients : int, that set the limits
    """

    small: Spread
    features: Spread
    limits: tuple[float, float] = (math.nan, math.nan)
    patients: int = 0

    def distance(self, vectors: np.ndarray) -> np.ndarray:
        """How far images lie from the training images.

        Parameters
        ----------
        vectors : ndarray, float (n, 64 + width), see `seen`

        Returns
        -------
        ndarray, float64 (n,), from 0 on: the larger of both distances; 1 is the limit
        """
        return (_distances(self, vectors) / self.limits).max(1)

    def describe(self, images: np.ndarray, features: np.ndarray) -> pd.DataFrame:
        """The columns that a predictions table gets.

        Parameters
        ----------
        images : ndarray, uint8 (n, C, S, S)
        features : ndarray, float (n, width), what enters the head with them

        Returns
        -------
        DataFrame, n rows: distance (float), unlike (bool: beyond the limit)
        """
        distance = self.distance(seen(images, features))
        return pd.DataFrame({"distance": distance, "unlike": distance > 1 + _ROUNDING})


def seen(images: np.ndarray, features: np.ndarray) -> np.ndarray:
    """What is looked at of images: each made small, less its mean; its features; of length 1 both.

    Parameters
    ----------
    images : ndarray, uint8 (n, C, S, S)
    features : ndarray, float (n, width), what enters the head with them

    Returns
    -------
    ndarray, float32 (n, 64 + width)
    """
    size = images.shape[-1]
    edges = np.arange(_SIDE) * size // _SIDE  # with sides below 8 some pixels count twice
    small = images.mean(1, dtype=np.float64)
    for axis in (1, 2):
        small = np.add.reduceat(small, edges, axis)
    counts = np.maximum(np.diff([*edges, size]), 1)
    small = (small / np.outer(counts, counts)).reshape(len(images), -1)
    small -= small.mean(1, keepdims=True)
    small[np.abs(small).max(1) < 1] = 0  # grey level: a blank, whatever noise it has
    parts = small, np.asarray(features, dtype=np.float64)
    return np.hstack([_of_length_1(part) for part in parts]).astype(np.float32)


def _of_length_1(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A blank, nothing felt, or no numbers: away from all that has a picture or features.
    nothing, some = -1 / math.sqrt(vectors.shape[1]), (lengths > 0) & np.isfinite(lengths)
    return np.where(some, vectors / np.where(some, lengths, 1), nothing)


def fit(vectors: np.ndarray) -> Reference:
    """Where the training images lie, with no limit yet.

    Parameters
    ----------
    vectors : ndarray, float (n, 64 + width), of training images, see `seen`

    Returns
    -------
    Reference

    Raises
    ------
    ValueError
        For fewer than 16 images, or where all are the same.

    Examples
    --------
    >>> draw = np.random.default_rng(0)
    >>> def some(n, mean):
    ...     return seen(draw.integers(0, 256, (n, 1, 32, 32)), draw.normal(mean, size=(n, 20)))
    >>> reference = limited(fit(some(400, 1)), some(100, 1), np.arange(100))
    >>> print(reference.distance(some(5000, 1)).mean().round(1))
    0.9
    >>> bool(reference.distance(some(9, -1)).min() > 1)
    True
    """
    if len(vectors) < FEWEST:
        found = f"{len(vectors)} training image{'s are' if len(vectors) != 1 else ' is'}"
        raise ValueError(f"{found} too few; {FEWEST} are the fewest")
    return Reference(*map(_spread, _parts(vectors)))


def _parts(vectors: np.ndarray) -> list[np.ndarray]:
    return np.split(np.asarray(vectors, dtype=np.float64), [_SIDE**2], axis=1)


def _spread(vectors: np.ndarray) -> Spread:
    if np.ptp(vectors, axis=0).max() < 1e-6:
        raise ValueError("all training images are the same to the network")
    most = min(_DIRECTIONS, len(vectors) // _IMAGES_A_DIRECTION, vectors.shape[1] - 1)
    found = PCA(most, svd_solver="full").fit(vectors)
    arrays = (found.mean_, found.components_, found.explained_variance_)
    # Float32 keeps 7 digits, so what has less spread than that has none.
    noise = max(float(found.noise_variance_), 1e-14)
    return Spread(*(one.astype(np.float32) for one in arrays), noise)


def _distances(reference: Reference, vectors: np.ndarray) -> np.ndarray:
    """Both distances, (n, 2)."""
    both = zip((reference.small, reference.features), _parts(vectors))
    return np.stack([spread.distance(part) for spread, part in both], axis=1)


def limited(reference: Reference, vectors: np.ndarray, patients: np.ndarray) -> Reference:
    """The reference with the limits that validation images set.

    A patient is as far as the furthest of his images, and 1 % of the patients lie beyond. Of fewer
    than 99 the furthest is the limit; then of n new patients 1 in n + 1 is expected beyond it (as
    in split conformal prediction).

    Parameters
    ----------
    reference : Reference
    vectors : ndarray, float (n, 64 + width), of validation images, see `seen`
    patients : array (n,), whose they are

    Returns
    -------
    Reference
    """
    distances = pd.DataFrame(_distances(reference, vectors)).groupby(np.asarray(patients)).max()
    of_each = distances.apply(_limit)
    together = _limit((distances / of_each).max(axis=1))
    return replace(reference, limits=tuple(of_each * together), patients=len(distances))


def _limit(furthest: pd.Series) -> float:
    rank = min(math.ceil((1 - _SHARE) * (len(furthest) + 1)), len(furthest))
    return float(np.sort(furthest)[rank - 1])
