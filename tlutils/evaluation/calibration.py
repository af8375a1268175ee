"""Making probabilities true: a temperature from validation, a prior from unlabelled scores."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from .thresholds import (
    apply_threshold,
    checked_classes,
    classes_of,
    refuse_all_but_validation,
    scores_of,
)

_COLDEST, _HOTTEST = 0.05, 20.0
_SETTLED = 1e-8  # of a share, which moves no further


def fit_temperature(predictions: pd.DataFrame) -> float:
    """The temperature that makes the validation images likeliest.

    Above 1 the model was too sure, below 1 not sure enough. Where every answer is right no
    temperature is likeliest (the colder the likelier, without end): 1 is returned, which leaves the
    probabilities as they are, with a warning. Source: Guo et al., On Calibration of Modern Neural
    Networks, ICML 2017.

    Parameters
    ----------
    predictions : DataFrame, a predictions table of validation images, with labels

    Returns
    -------
    float, from 0.05 to 20

    Raises
    ------
    ValueError
        For test and training images.

    Examples
    --------
    >>> val = pd.DataFrame({"split": "val", "label": ["A", "A", "A", "B"], "p_A": 0.9, "p_B": 0.1})
    >>> temperature = fit_temperature(val)
    >>> round(temperature, 1)
    2.0
    >>> apply_temperature(val, temperature)["p_A"].round(2).tolist()
    [0.75, 0.75, 0.75, 0.75]
    """
    refuse_all_but_validation(predictions, "temperature")
    classes = checked_classes(predictions)
    scores = scores_of(predictions)
    truth = predictions["label"].map({name: i for i, name in enumerate(classes)}).to_numpy(int)
    if (scores.argmax(1) == truth).all():
        warnings.warn(
            f"all {len(truth)} validation images are answered rightly, which tells nothing about "
            "how sure the model may be; the temperature stays at 1. More validation images would "
            "help",
            stacklevel=2,
        )
        return 1.0
    found = likeliest_temperature(scores, truth)
    if found > 0.99 * _HOTTEST:
        warnings.warn(
            f"the temperature is at its end of {_HOTTEST:g}: on these {len(truth)} images even "
            "odds are likelier than the probabilities at any temperature; they may lean to one "
            "class, which a temperature cannot mend, so look at the confusion matrix",
            stacklevel=2,
        )
    return found


def likeliest_temperature(scores: np.ndarray, truth: np.ndarray) -> float:
    """The temperature of `fit_temperature` from bare numbers, where it is fitted many times over.

    Parameters
    ----------
    scores : ndarray, float (n, classes), probabilities
    truth : ndarray, int (n,), indices of the true classes

    Returns
    -------
    float, from 0.05 to 20; 1 where every answer is right
    """
    log_p, rows = np.log(np.maximum(scores, np.finfo(float).tiny)), np.arange(len(truth))
    if (log_p.argmax(1) == truth).all():
        return 1.0

    def loss(log_t: float) -> float:
        return -_normalized(log_p / math.exp(log_t))[rows, truth].mean()

    bounds = math.log(_COLDEST), math.log(_HOTTEST)
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def apply_temperature(predictions: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The same table with probabilities at this temperature.

    `predicted` stays, also where a threshold gave it: the likeliest class is the same at every
    temperature.

    Parameters
    ----------
    predictions : DataFrame
    temperature : float, above 0

    Returns
    -------
    DataFrame
        Losses renewed; the column `calibrated` (bool) is there so that a table read from a file
        still says so.

    Raises
    ------
    ValueError
        Where the temperature is not above 0, or infinite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it wants a finite number above 0")
    cooled = _with_scores(predictions, _normalized(_log_scores(predictions) / temperature))
    return cooled.assign(calibrated=True)


def answered(
    predictions: pd.DataFrame, threshold: float | None = None, temperature: float | None = None
) -> pd.DataFrame:
    """The same table answered by a threshold, then with probabilities at a temperature.

    Parameters
    ----------
    predictions : DataFrame
    threshold : float, on the probabilities as they are; None leaves the answers
    temperature : float, above 0; None leaves the probabilities

    Returns
    -------
    DataFrame, see `thresholds.apply_threshold` and `apply_temperature`
    """
    if threshold is not None:
        predictions = apply_threshold(predictions, threshold)
    return predictions if temperature is None else apply_temperature(predictions, temperature)


def threshold_at(threshold: float, temperature: float | None) -> float:
    """Where a threshold on probabilities as they are lies among those at a temperature.

    Parameters
    ----------
    threshold : float, of one of two classes; at 0 and below, at 1 and above it stays what it is
    temperature : float, above 0; None leaves it where it is

    Returns
    -------
    float

    Examples
    --------
    >>> round(threshold_at(0.9, 2.0), 3)
    0.75
    """
    if temperature is None or not 0 < threshold < 1:
        return threshold
    yes, no = (share ** (1 / temperature) for share in (threshold, 1 - threshold))
    return yes / (yes + no)


def adjust_prior(
    predictions: pd.DataFrame, train_shares: dict[str, float], rounds: int = 1000
) -> tuple[pd.DataFrame, dict[str, float], int]:
    """Estimate how common each class is among these images, and correct the probabilities for it.

    It assumes that only the shares differ between training and these images, and that the
    probabilities were true before. Source: Saerens, Latinne and Decaestecker, Neural Computation
    2002.

    Parameters
    ----------
    predictions : DataFrame of new images; their labels are not looked at (but for `loss`)
    train_shares : dict of str to float
        The share of each class that the model was trained with, as the loss or the sampler weighed
        it: the counts' shares for a plain loss, equal shares where class_weights="auto" made the
        classes count the same.
    rounds : int, at most, of the expectation maximization; all used means that it has not settled

    Returns
    -------
    DataFrame, with corrected probabilities and answers
    dict of str to float, the estimated shares
    int, the rounds it took

    Raises
    ------
    ValueError
        Where train_shares are not shares of the same classes, or there are no images.
    """
    classes = classes_of(predictions)
    if predictions.empty:
        raise ValueError("the predictions table is empty; look at which split it was taken from")
    if (
        set(train_shares) != set(classes)
        or not math.isclose(sum(train_shares.values()), 1, abs_tol=1e-6)
        or min(train_shares.values()) <= 0
    ):
        raise ValueError(
            f"train_shares is {train_shares}; it wants shares above 0 of {', '.join(classes)} that "
            "sum to 1"
        )
    old = np.array([train_shares[name] for name in classes])
    scores = np.exp(_log_scores(predictions))
    new, moved, done = old.copy(), math.inf, 0
    while done < rounds and not moved < _SETTLED:
        weighted = scores * (new / old)
        posterior = weighted / weighted.sum(1, keepdims=True)
        moved, new = np.abs(posterior.mean(0) - new).max(), posterior.mean(0)
        done += 1
    with np.errstate(divide="ignore"):
        corrected = _normalized(np.log(scores) + np.log(new / old))
    table = _with_scores(predictions, corrected)
    table["predicted"] = np.array(classes)[corrected.argmax(1)]
    return table, dict(zip(classes, map(float, new))), done


def _log_scores(predictions: pd.DataFrame) -> np.ndarray:
    return np.log(np.maximum(scores_of(predictions), np.finfo(float).tiny))


def _normalized(logits: np.ndarray) -> np.ndarray:
    top = logits.max(1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))


def _with_scores(predictions: pd.DataFrame, log_p: np.ndarray) -> pd.DataFrame:
    classes = classes_of(predictions)
    index = predictions["label"].map({name: i for i, name in enumerate(classes)})
    true = log_p[np.arange(len(log_p)), index.fillna(0).to_numpy(int)]
    columns = {f"p_{name}": np.exp(log_p[:, i]) for i, name in enumerate(classes)}
    return predictions.assign(**columns, loss=np.where(index.isna(), np.nan, -true))
