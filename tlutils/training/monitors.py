"""The quantities that early stopping and the choice of the best epoch can look at; a run has one.

scikit-learn computes those that need every image's probabilities. Those that begin with "stress_"
are of validation images each seen under several changes of acquisition, all taken together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
from sklearn import metrics as sk

DIVERGED = 20.0  # nats; guessing among 1,000 classes has a loss of 6.9
_FROM_SUMS = {f"{part}_loss": min for part in ("val", "train", "stress")}
_FROM_SUMS |= {f"{part}_accuracy": max for part in ("val", "train", "stress")}
_FROM_PROBABILITIES = ("val_balanced_accuracy", "val_f1", "val_auc", "val_recall@0.95")
_QUANTITY = re.compile(r"(val|stress)_(balanced_accuracy|f1|auc|recall@(0?\.\d+))")


def better(monitor: str) -> Callable:
    """Which end of a monitored quantity is the good one.

    Parameters
    ----------
    monitor : str, its name

    Returns
    -------
    Callable, `min` or `max`

    Raises
    ------
    ValueError
        For an unknown name, naming those there are.

    Examples
    --------
    >>> better("val_loss"), better("val_recall@0.9")
    (<built-in function min>, <built-in function max>)
    """
    if monitor in _FROM_SUMS:
        return _FROM_SUMS[monitor]
    if _QUANTITY.fullmatch(monitor):
        return max
    raise ValueError(
        f"monitor is {monitor!r}; it is one of {', '.join((*_FROM_SUMS, *_FROM_PROBABILITIES))}, "
        "where val_recall@0.95 is the recall at a specificity of 0.95 and takes other numbers as "
        "well; stress_auc and the like are of validation images under changed acquisition"
    )


def beats(row: Mapping, best: Mapping, monitor: str, min_delta: float = 0.0) -> bool:
    """Whether an epoch is better than the best until then.

    Values are compared only between epochs that saw as many validation images (`val_images`, or
    `stress_images` where they are under changed acquisition). One that saw fewer, as a disk or a
    network failed it, is never better: what it could not read is left out of its value. One that
    saw more always is, as the best until then was chosen by fewer. What is monitored on training
    images is compared always.

    Parameters
    ----------
    row, best : Mapping, each epoch's row of the history
    monitor : str, the quantity compared
    min_delta : float, the difference must be larger

    Returns
    -------
    bool

    Examples
    --------
    >>> best = {"val_loss": 0.4, "val_images": 100}
    >>> beats({"val_loss": 0.3, "val_images": 100}, best, "val_loss")
    True
    >>> beats({"val_loss": 0.3, "val_images": 99}, best, "val_loss")
    False
    """
    part = monitor.partition("_")[0]
    seen, before = row.get(f"{part}_images"), best.get(f"{part}_images")
    if part != "train" and None not in (seen, before) and seen != before:
        return seen > before
    gain = row[monitor] - best[monitor]
    return (gain if better(monitor) is max else -gain) > min_delta


def needs_probabilities(monitor: str) -> bool:
    """Whether the quantity needs what the model answers for every image, not just sums over them.

    Parameters
    ----------
    monitor : str, its name

    Returns
    -------
    bool
    """
    return monitor not in _FROM_SUMS


def is_stressed(monitor: str) -> bool:
    """Whether the quantity is of images whose acquisition was changed.

    Parameters
    ----------
    monitor : str, its name

    Returns
    -------
    bool
    """
    return monitor.startswith("stress_")


def score(monitor: str, probabilities: np.ndarray, labels: np.ndarray) -> float:
    """A monitored quantity from the validation images.

    Parameters
    ----------
    monitor : str
        "val_balanced_accuracy" (mean recall of the classes), "val_f1" (of the second of two
        classes, or the mean over more), "val_auc" (of the second of two classes, or the mean of one
        against the rest), "val_recall@S" (the largest recall at a specificity of S or more,
        likewise), or the same with "stress_".
    probabilities : ndarray, (N, classes)
    labels : ndarray, int (N,)

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Where only one class occurs, so that nothing can be ranked.

    Examples
    --------
    >>> ill = np.array([0.1, 0.8, 0.4, 0.9])
    >>> score("val_auc", np.stack([1 - ill, ill], 1), np.array([0, 0, 1, 1]))
    0.75
    """
    n = probabilities.shape[1]
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"{monitor} wants validation images of two classes or more; monitor val_loss, or give "
            "the validation set images of each class"
        )
    predicted = probabilities.argmax(1)
    _, quantity, specificity = _QUANTITY.fullmatch(monitor).groups()
    if quantity == "balanced_accuracy":
        return float(sk.balanced_accuracy_score(labels, predicted))
    if quantity == "f1":
        each = sk.f1_score(labels, predicted, labels=range(n), average=None, zero_division=0.0)
        return float(each[1] if n == 2 else each.mean())
    ranked = [1] if n == 2 else [i for i in range(n) if 0 < (labels == i).sum() < len(labels)]
    curves = [(labels == i, probabilities[:, i]) for i in ranked]
    if quantity == "auc":
        return float(np.mean([sk.roc_auc_score(*curve) for curve in curves]))
    rates, least = [sk.roc_curve(*curve)[:2] for curve in curves], float(specificity) - 1e-12
    return float(np.mean([tpr[1 - fpr >= least].max() for fpr, tpr in rates]))
