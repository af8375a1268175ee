"""How unlike the training images an image is, to a model: novelty detection, also called detection
of what is out of distribution.

What enters a model's head with each training image (its features) is a cloud of points. A
`Reference` holds the cloud's mean and spread, by which the distance of another image is measured
(Mahalanobis'), relative to a limit that validation images set. The images themselves are not kept.

Sources: Mahalanobis distance of features, Lee et al. 2018; with the covariance of probabilistic PCA
(few directions, and one variance for all others), Tipping and Bishop 1999, as features may be more
than images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

FEWEST = 8  # images that a spread can be told from
SHARE = 0.01  # of the validation patients, that lie beyond the limit
_IMAGES_A_DIRECTION = 8  # else what the directions say is of these very images
_MOST_DIRECTIONS = 64


@dataclass(frozen=True)
class Reference:
    """Where a model's features of the training images lie.

    Parameters
    ----------
    mean : ndarray, float32 (width,)
    directions : ndarray, float32 (k, width), orthonormal, in which the features vary most
    variances : ndarray, float32 (k,), along them
    noise : float, the variance along every other direction
    limit : float, the distance that counts as 1
    patients : int, that set the limit; 0 before any has
    """

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    noise: float
    limit: float = 1.0
    patients: int = 0

    def __post_init__(self) -> None:
        shapes = [one.shape for one in (self.mean, self.directions, self.variances)]
        if shapes != [shapes[1][1:], (*shapes[2], *shapes[0]), shapes[1][:1]]:
            raise ValueError(f"mean, directions and variances do not fit: they are {shapes}")

    def distance(self, features: np.ndarray) -> np.ndarray:
        """How far images lie from the training images.

        Parameters
        ----------
        features : ndarray, float (n, width)

        Returns
        -------
        ndarray, float64 (n,), from 0 on; 1 is the limit
        """
        away = np.asarray(features, dtype=np.float64) - self.mean
        along = away @ self.directions.T
        rest = np.maximum((away**2).sum(1) - (along**2).sum(1), 0)
        return np.sqrt((along**2 / self.variances).sum(1) + rest / self.noise) / self.limit

    def describe(self, features: np.ndarray) -> pd.DataFrame:
        """The columns that a predictions table gets.

        Parameters
        ----------
        features : ndarray, float (n, width)

        Returns
        -------
        DataFrame, n rows: distance (float), unlike (bool: beyond the limit)
        """
        distance = self.distance(features)
        return pd.DataFrame({"distance": distance, "unlike": distance > 1})


def fit(features: np.ndarray) -> Reference:
    """Where the features of the training images lie, with no limit yet.

    Parameters
    ----------
    features : ndarray, float (n, width), of training images

    Returns
    -------
    Reference, with limit 1

    Raises
    ------
    ValueError
        For fewer than 8 images, or where all are the same to the model.

    Examples
    --------
    >>> draw = np.random.default_rng(0)
    >>> training, validation = draw.normal(size=(400, 10)), draw.normal(size=(100, 10))
    >>> reference = limited(fit(training), validation, np.arange(100))
    >>> reference.distance(np.array([10 * [0.0], 10 * [9.0]])).round(1)
    array([0. , 6.1])
    """
    features = np.asarray(features, dtype=np.float64)
    if len(features) < FEWEST:
        raise ValueError(f"{len(features)} training images are too few, {FEWEST} the fewest")
    if not features.std(0).any():
        raise ValueError("to the model all training images are the same")
    most = min(_MOST_DIRECTIONS, len(features) // _IMAGES_A_DIRECTION, features.shape[1] - 1)
    found = PCA(most, svd_solver="full").fit(features)
    return Reference(
        found.mean_.astype(np.float32),
        found.components_.astype(np.float32),
        found.explained_variance_.astype(np.float32),
        float(found.noise_variance_),
    )


def limited(reference: Reference, features: np.ndarray, patients: np.ndarray) -> Reference:
    """The reference with the limit that validation images set.

    A patient is as far as the furthest of his images, and 1 % of the patients lie beyond the limit.
    Of fewer than 99 the furthest is the limit; then of n new patients beyond is expected 1 in n + 1
    (as in split conformal prediction).

    Parameters
    ----------
    reference : Reference
    features : ndarray, float (n, width), of validation images
    patients : array (n,), whose they are

    Returns
    -------
    Reference
    """
    distance = pd.Series(reference.distance(features) * reference.limit)
    furthest = np.sort(distance.groupby(np.asarray(patients)).max())
    rank = min(math.ceil((1 - SHARE) * (len(furthest) + 1)), len(furthest))
    return replace(reference, limit=float(furthest[rank - 1]), patients=len(furthest))
