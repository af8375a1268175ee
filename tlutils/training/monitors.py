"""The quantities that early stopping and the choice of the best epoch can look at; one is chosen for a run.

Taught in notebook 07.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
from sklearn import metrics as sk

FROM_TOTALS: dict[str, Callable] = {
    "val_loss": min,
    "val_accuracy": max,
    "train_loss": min,
    "train_accuracy": max,
}
FROM_SCORES = ("val_balanced_accuracy", "val_f1", "val_auc", "val_recall@0.95")
_RECALL_AT = re.compile(r"val_recall@(0?\.\d+)")


def better(monitor: str) -> Callable:
    """min or max: which end of a monitored quantity is the good one.

    Raises
    ------
    ValueError for an unknown name, naming those there are.
    """
    if monitor in FROM_TOTALS:
        return FROM_TOTALS[monitor]
    if monitor in FROM_SCORES or _RECALL_AT.fullmatch(monitor):
        return max
    raise ValueError(
        f"monitor is {monitor!r}; it is one of {', '.join((*FROM_TOTALS, *FROM_SCORES))}, where "
        "val_recall@0.95 is the recall at a specificity of 0.95 and takes other numbers as well"
    )


def beats(row: Mapping, best: Mapping, monitor: str, min_delta: float = 0.0) -> bool:
    """Whether an epoch is better than the best until then; each is its row of the history.

    Values are compared only between epochs that saw as many validation images (`val_images`). One that saw fewer, as a
    disk or a network failed it, is never better: what it could not read is left out of its value. One that saw more
    always is, as the best until then was chosen by fewer. What is monitored on training images is compared always.
    """
    seen, before = row.get("val_images"), best.get("val_images")
    if monitor.startswith("val_") and None not in (seen, before) and seen != before:
        return seen > before
    gain = row[monitor] - best[monitor]
    return (gain if better(monitor) is max else -gain) > min_delta


def wants_scores(monitor: str) -> bool:
    """Whether the quantity needs what the model says of every image, not just sums over them."""
    return monitor not in FROM_TOTALS


def score(monitor: str, probabilities: np.ndarray, labels: np.ndarray) -> float:
    """A monitored quantity from the validation images.

    Parameters
    ----------
    probabilities : (N, classes). labels : int (N,).
    monitor : "val_balanced_accuracy" (mean recall of the classes), "val_f1" (of the second of two classes, or the
        mean over more), "val_auc" (of the second of two classes, or the mean of one against the rest),
        "val_recall@S" (the largest recall at a specificity of S or more, likewise).

    Raises
    ------
    ValueError where only one class occurs, so that nothing can be ranked.
    """
    n = probabilities.shape[1]
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"{monitor} wants validation images of two classes or more; monitor val_loss, or give the "
            "validation set images of each class"
        )
    predicted = probabilities.argmax(1)
    if monitor == "val_balanced_accuracy":
        return float(sk.balanced_accuracy_score(labels, predicted))
    if monitor == "val_f1":
        of = sk.f1_score(labels, predicted, labels=range(n), average=None, zero_division=0.0)
        return float(of[1] if n == 2 else of.mean())
    one = _auc if monitor == "val_auc" else _recall_at(float(_RECALL_AT.fullmatch(monitor)[1]))
    asked = [1] if n == 2 else [i for i in range(n) if 0 < (labels == i).sum() < len(labels)]
    return float(np.mean([one(labels == i, probabilities[:, i]) for i in asked]))


def _auc(positive: np.ndarray, score: np.ndarray) -> float:
    return float(sk.roc_auc_score(positive, score))


def _recall_at(specificity: float) -> Callable[[np.ndarray, np.ndarray], float]:
    def recall(positive: np.ndarray, score: np.ndarray) -> float:
        false_alarms, found, _ = sk.roc_curve(positive, score)
        return float(found[1 - false_alarms >= specificity - 1e-12].max())

    return recall
