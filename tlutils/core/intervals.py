"""How sure a number is: resampling patients, and Wilson's interval for a share.

Plain numpy; knows nothing of images, tables or models. The images of one patient are right or wrong together,
so patients are drawn, each with all his images: an interval over images would be too narrow.

Taught in notebook 04.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import pandas as pd

AT_ONCE = 4_000_000  # numbers in one block of weights: 32 MB


def check_bootstrap(repeats: int, level: float) -> None:
    """Raise ValueError for no repeats, or a level that is no share."""
    if repeats < 1 or not 0 < level < 1:
        raise ValueError(
            f"repeats is {repeats} and level {level}; they want 1 or more and a share like 0.95"
        )


def resamples(patients: int, repeats: int, seed: int, images: int = 1) -> Iterator[np.ndarray]:
    """How often each patient is drawn: float (some repeats, patients) at a time, as memory is limited.

    A repeat draws as many patients as there are, with replacement: a row of
    numpy.random.default_rng(seed).integers(patients, size=(repeats, patients)).
    """
    draw, size = np.random.default_rng(seed), max(1, AT_ONCE // max(patients, images))
    for start in range(0, repeats, size):
        rows = min(size, repeats - start)
        drawn = draw.integers(patients, size=(rows, patients)) + patients * np.arange(rows)[:, None]
        yield (
            np.bincount(drawn.ravel(), minlength=rows * patients)
            .reshape(rows, patients)
            .astype(float)
        )


def weighted_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ROC areas for many weightings: how often a positive scores above a negative, ties counting half.

    positive : bool (n,). score : (n,). weights : (repeats, n). Returns (repeats,), NaN without both kinds.
    The same as scikit-learn's roc_auc_score with sample_weight, which would sort anew for each repeat.
    """
    order = np.argsort(score, kind="stable")
    firsts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    weights = weights[:, order]
    plus, minus = (
        np.add.reduceat(weights * kind[order], firsts, axis=1) for kind in (positive, ~positive)
    )
    below = np.cumsum(minus, 1) - minus
    with np.errstate(invalid="ignore", divide="ignore"):
        return (plus * (below + minus / 2)).sum(1) / (plus.sum(1) * minus.sum(1))


def interval(
    value: float, spread: np.ndarray, level: float, trials: int
) -> dict[str, float | int | None]:
    """A number with its percentile interval, as plain values.

    value : on all patients; NaN gives None throughout. spread : (repeats,), the same on resampled patients;
    NaN, where a resample lacks a class, is left out and counted in "undefined". trials : where all resamples
    agree (all is right, or there is one patient) they say nothing; the interval is then Wilson's for so many
    trials. With few patients, or many resamples undefined, all percentiles may lie on one side of the value; the
    interval is then stretched up to it.

    Returns {"value", "low", "high"}, and "undefined" where it is not 0.
    """
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    kept = spread[~np.isnan(spread)]
    ends = [50 * (1 - level), 50 * (1 + level)]
    low, high = np.percentile(kept, ends) if len(kept) else (value, value)
    if low == high:
        low, high = wilson(value * trials, trials, level)
    low, high = min(low, value), max(high, value)
    lost = {"undefined": len(spread) - len(kept)} if len(kept) < len(spread) else {}
    return {"value": json_number(value), "low": json_number(low), "high": json_number(high), **lost}


def json_number(value: float) -> float | None:
    """A float for JSON, None where it is not finite; of 10 digits, as a table's file may change the 16th."""
    return round(float(value), 10) if np.isfinite(value) else None


def wilson(hits: float | pd.Series, n: float | pd.Series, level: float = 0.95) -> tuple:
    """Both ends of Wilson's score interval for a share of `hits` in `n` independent trials, in [0, 1].

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    z, p = NormalDist().inv_cdf(0.5 + level / 2), hits / n
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((centre + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return np.clip(np.minimum(low, p), 0, 1), np.clip(np.maximum(high, p), 0, 1)
