"""How sure a number is: resampled patients, intervals for a share and an AUC, a guess beside it.

Numpy and scipy alone; knows nothing of images, tables or models. The images of one patient are
right or wrong together, so patients are drawn, each with all images: an interval over images would
be too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

_FEW = 5  # patients; fewer tell their own spread too badly to be mixed with others
_BLOCK = 4_000_000  # numbers in one block of weights: 32 MB


def check_bootstrap(repeats: int, level: float) -> None:
    """Refuse settings of a bootstrap that make no sense.

    Parameters
    ----------
    repeats : int, resamples, 1 or more.
    level : float, of the interval, between 0 and 1.

    Raises
    ------
    ValueError
        For no repeats, or a level that is no share.
    """
    if repeats < 1 or not 0 < level < 1:
        raise ValueError(
            f"repeats is {repeats} and level {level}; they want 1 or more and a share like 0.95"
        )


def resamples(patients: int, repeats: int, seed: int, images: int = 1) -> Iterator[np.ndarray]:
    """Draw patients with replacement, as many as there are, and count how often each is drawn.

    Repeat by repeat these are the rows of
    numpy.random.default_rng(seed).integers(patients, size=(repeats, patients)).

    Parameters
    ----------
    patients : int, how many there are.
    repeats : int, how often to draw.
    seed : int
    images : int, of how many numbers the caller makes weights; blocks are small enough for that.

    Yields
    ------
    float array (some repeats, patients), as memory is limited.
    """
    draw, size = np.random.default_rng(seed), max(1, _BLOCK // max(patients, images))
    for start in range(0, repeats, size):
        rows = min(size, repeats - start)
        drawn = draw.integers(patients, size=(rows, patients)) + patients * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * patients)
        yield counts.reshape(rows, patients).astype(float)


def weighted_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ROC areas for many weightings: how often a positive scores above a negative, ties half.

    The same as scikit-learn's roc_auc_score with sample_weight, which would sort for each repeat.

    Parameters
    ----------
    positive : bool array (n,)
    score : float array (n,)
    weights : float array (repeats, n)

    Returns
    -------
    float array (repeats,), NaN where a weighting lacks positives or negatives.
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
    value: float,
    spread: np.ndarray,
    level: float,
    trials: float | tuple[int, int] | None,
    few: bool = True,
) -> dict[str, float | int | None]:
    """A number from 0 to 1 with its interval, as plain values.

    It is Wilson's for a share of as many trials as would spread as the resamples do; so it holds
    the number in 95 of 100 cases also where percentiles of the resamples do in 87, as with 24
    patients of whom 85 % are right.

    Source: Korn and Graubard, Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data, Survey Methodology 1998, with Wilson's interval.

    Parameters
    ----------
    value : float, on all patients; NaN gives None throughout.
    spread : float array (repeats,), the same on resampled patients; NaN, where a resample lacks a
        class, is left out and counted.
    level : float, such as 0.95.
    trials : float, tuple of int or None
        Patients that it rests on, of an AUC how many positives and negatives. Where all resamples
        agree (all is right, or there is one patient) they say nothing: the interval is then
        Wilson's for so many trials, of an AUC Newcombe's (see `auc_ends`), and with None none.
    few : bool
        Whether to widen it, by Student's t, as few patients tell their own spread badly.

    Returns
    -------
    dict with "value", "low", "high", and "undefined" (resamples) where it is not 0.

    Examples
    --------
    >>> interval(0.8, np.linspace(0.7, 0.9, 201), level=0.95, trials=50)
    {'value': 0.8, 'low': 0.6605665729, 'high': 0.891559317}
    """
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    kept = spread[~np.isnan(spread)]
    lost = {"undefined": len(spread) - len(kept)} if len(kept) < len(spread) else {}
    patients = None if trials is None else float(np.min(trials))
    if not all_agree(spread):
        low, high = _by_spread(value, kept, level, patients, few)
    elif trials is None:
        return {"value": json_number(value), "low": None, "high": None, **lost}
    elif isinstance(trials, tuple):
        low, high = auc_ends(value, *trials, level)
    else:
        low, high = wilson(value * trials, trials, level)
    low, high = min(low, value), max(high, value)
    return {"value": json_number(value), "low": json_number(low), "high": json_number(high), **lost}


def all_agree(spread: np.ndarray) -> bool:
    """Whether a number is the same on all resamples where it is defined.

    Parameters
    ----------
    spread : float array (repeats,)

    Returns
    -------
    bool
    """
    kept = spread[~np.isnan(spread)]
    return not len(kept) or bool(np.ptp(kept) < 1e-12)


def _by_spread(
    value: float, kept: np.ndarray, level: float, patients: float | None, few: bool
) -> tuple[float, float]:
    """Wilson's ends for as many trials as spread so."""
    if patients == 1:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    widen = stdtrit(patients - 1, 0.5 + level / 2) / z if patients and few else 1.0
    variance = np.var(kept) * (patients / (patients - 1) if patients else 1.0)
    inside = min(max(value, 1e-6), 1 - 1e-6)
    trials = inside * (1 - inside) / (variance * widen**2)
    return wilson(value * trials, trials, level)


def interval_of_mean(
    value: float,
    spread: np.ndarray,
    level: float,
    trials: int | tuple[int, int] | None,
    parts: Sequence[tuple[float, np.ndarray, int | tuple[int, int]]],
    apart: bool,
    few: bool = True,
) -> dict[str, float | int | None]:
    """A mean of numbers of several classes, as balanced accuracy is, with its interval.

    It is that of `interval`, but where the resamples do not tell how far one of the parts spreads
    (see `is_told`): how far such a part may lie off, by its own interval, is then added.

    Parameters
    ----------
    value, spread, level, trials : see `interval`
    parts : sequence of (float, float array (repeats,), int or tuple), value, spread and trials of
        each number that it is the mean of
    apart : bool, see `widened`
    few : bool, see `interval`

    Returns
    -------
    dict, as `interval`
    """
    told = [part for part in parts if is_told(part[1], np.min(part[2]))]
    counts = patients_of_mean([(drawn, np.min(n)) for _, drawn, n in told]) if told else trials
    if np.isnan(value) or len(told) == len(parts):
        return interval(value, spread, level, trials if all_agree(spread) else counts, few)
    own, together = (None, None), sum(drawn for _, drawn, _ in told) / len(parts)
    if told and not all_agree(together):
        own = _by_spread(value, together[~np.isnan(together)], level, counts, few)
    ends = [
        interval(one, drawn, level, behind)
        for one, drawn, behind in parts
        if not is_told(drawn, np.min(behind))
    ]
    ends = [(one["value"], one["low"], one["high"]) for one in ends]
    low, high = widened((value, *own), ends, len(parts), apart)
    found = interval(value, spread, level, None)
    return found | {"low": json_number(max(0.0, low)), "high": json_number(min(1.0, high))}


def is_told(spread: np.ndarray, patients: int) -> bool:
    """Whether resamples tell how far a number spreads: they differ, and are of 5 patients or more.

    Parameters
    ----------
    spread : float array (repeats,)
    patients : int, that it rests on

    Returns
    -------
    bool
    """
    return patients >= _FEW and not all_agree(spread)


def patients_of_mean(parts: Sequence[tuple[np.ndarray, int]]) -> float:
    """For how many patients a mean over classes counts: one more than its degrees of freedom.

    Source: Satterthwaite, An approximate distribution of estimates of variance components,
    Biometrics Bulletin 1946.

    Parameters
    ----------
    parts : sequence of (float array (repeats,), int), each class's number on the resamples, which
        do not all agree, and how many patients it rests on, two or more

    Returns
    -------
    float, from the fewest to the most patients of a class
    """
    variances = np.array([np.nanvar(drawn) for drawn, _ in parts])
    free = np.array([patients - 1 for _, patients in parts])
    found = 1 + variances.sum() ** 2 / (variances**2 / free).sum()
    return float(min(found, 1 + free.max()))  # classes may share patients


def widened(
    mean: tuple[float, float | None, float | None],
    untold: Sequence[tuple[float, float, float]],
    parts: int,
    apart: bool,
) -> tuple[float, float]:
    """Both ends of an interval of a mean, with what its resamples do not tell.

    Source, for parts of different patients: Zou and Donner, Construction of confidence limits about
    effect measures, Statistics in Medicine 2008 (MOVER). Of the same patients the distances are
    added, which is as wide as can be.

    Parameters
    ----------
    mean : (value, low, high), the ends as the other parts make them, None where there are none
    untold : sequence of (value, low, high), of each part whose spread they do not tell
    parts : int, of how many numbers it is the mean
    apart : bool, whether the parts are of different patients

    Returns
    -------
    tuple of float (low, high)

    Examples
    --------
    >>> low, high = widened((0.9, 0.87, 0.92), [(1.0, 0.92, 1.0)], parts=2, apart=True)
    >>> print(f"{low:.2f} to {high:.2f}")
    0.85 to 0.92
    """
    value, *ends = mean
    below, above = (
        [0.0 if own is None else own - value, *((one[i] - one[0]) / parts for one in untold)]
        for i, own in enumerate(ends, 1)
    )
    if apart:
        return value - math.hypot(*below), value + math.hypot(*above)
    return value + sum(below), value + sum(above)


def json_number(value: float) -> float | None:
    """A number for JSON, of 10 digits, as a table's file may change the 16th.

    Parameters
    ----------
    value : float

    Returns
    -------
    float or None, which stands for what is not finite.
    """
    return round(float(value), 10) if np.isfinite(value) else None


def wilson(hits: float | np.ndarray, n: float | np.ndarray, level: float = 0.95) -> tuple:
    """Both ends of Wilson's score interval for a share.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.

    Parameters
    ----------
    hits : float, array or Series, how many of the trials.
    n : float, array or Series, independent trials, above 0.
    level : float, such as 0.95.

    Returns
    -------
    tuple (low, high) of the kind of `hits`, each from 0 to 1.

    Examples
    --------
    >>> low, high = wilson(9, 10)
    >>> print(f"{low:.3f} to {high:.3f}")
    0.596 to 0.982
    """
    z, p = NormalDist().inv_cdf(0.5 + level / 2), hits / n
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((centre + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return np.clip(np.minimum(low, p), 0, 1), np.clip(np.maximum(high, p), 0, 1)


def auc_ends(
    value: float, positives: int, negatives: int, level: float = 0.95
) -> tuple[float, float]:
    """Both ends of a score interval for an AUC; one has a width where all are ranked rightly, too.

    Source: Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney
    statistic, part 2, Statistics in Medicine 2006, method 5; the variance is that of Hanley and
    McNeil, Radiology 1982, for equal numbers of both.

    Parameters
    ----------
    value : float, 0 to 1
    positives, negatives : int, independent ones, above 0
    level : float, such as 0.95

    Returns
    -------
    tuple (low, high), each from 0 to 1

    Examples
    --------
    >>> low, high = auc_ends(1.0, 10, 10)
    >>> print(f"{low:.3f} to {high:.3f}")
    0.800 to 1.000
    """
    z, others = NormalDist().inv_cdf(0.5 + level / 2), (positives + negatives) / 2 - 1

    def is_beyond(area: float) -> bool:
        alike = (1 - area) / (2 - area) + area / (1 + area)
        variance = area * (1 - area) * (1 + others * alike) / (positives * negatives)
        return (value - area) ** 2 > z**2 * variance

    ends = []
    for outside in (0.0, 1.0):
        inside = value
        for _ in range(50):
            middle = (outside + inside) / 2
            outside, inside = (middle, inside) if is_beyond(middle) else (outside, middle)
        ends.append(outside)
    return ends[0], ends[1]


def auc_sides(truth: Sequence, patient: Sequence) -> tuple[int, int]:
    """How many patients an AUC rests on: those of the rarest class, and those of all others.

    Parameters
    ----------
    truth : list of str, int or bool, the labels (n,), of two classes or more
    patient : list of str or int, the patients (n,)

    Returns
    -------
    tuple of int, each 1 or more

    Examples
    --------
    >>> auc_sides(list("AABBB"), list("11234"))
    (1, 3)
    """
    truth, patient = np.asarray(truth), np.asarray(patient)
    each = {kind: len(set(patient[truth == kind])) for kind in np.unique(truth)}
    rarest = min(each, key=each.get)
    return each[rarest], max(1, len(set(patient[truth != rarest])))


def check_guess(guess: float, found: Mapping[str, float | None] | float) -> str:
    """Say how a guess that was made beforehand compares with what was measured.

    Parameters
    ----------
    guess : float, made before the measurement was seen.
    found : float, or dict of "value", "low" and "high", a measurement with its interval; a bound is
        None, in a row of a table NaN, where there is none.

    Returns
    -------
    str, a sentence with both numbers.

    Examples
    --------
    >>> check_guess(0.9, {"value": 0.779, "low": 0.683, "high": 0.868})
    'You guessed 0.900, measured was 0.779 (0.683 to 0.868): too high.'
    >>> check_guess(0.7, {"value": 0.779, "low": 0.683, "high": 0.868})
    'You guessed 0.700, measured was 0.779 (0.683 to 0.868): inside the interval.'
    >>> check_guess(0.1, 0.25)
    'You guessed 0.100, measured was 0.250: too low.'
    """
    if not hasattr(found, "get"):  # a row of a table has it too
        found = {"value": found, "low": None, "high": None}
    value, low, high = found["value"], found["low"], found["high"]
    low, high = (None if end is None or np.isnan(end) else end for end in (low, high))
    between = "" if low is None else f" ({low:.3f} to {high:.3f})"
    if guess > (value if high is None else high):
        verdict = "too high"
    elif guess < (value if low is None else low):
        verdict = "too low"
    else:
        verdict = "right" if low is None else "inside the interval"
    return f"You guessed {guess:.3f}, measured was {value:.3f}{between}: {verdict}."
