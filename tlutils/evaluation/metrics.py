"""Numbers with intervals from a predictions table, and the tables behind its pictures.

Everything works on the predictions table alone (split, path, patient, label, predicted, p_<class>..., loss),
so it serves any model that can fill one. scikit-learn computes each number; its interval comes from
resampling patients (`intervals`). How the table is made is in `predicting`, how a probability becomes an
answer in `thresholds`; both can be had from here as well.

Taught in notebook 04.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from ..core import files
from ..core.intervals import check_bootstrap, interval, json_number, resamples, weighted_auc
from .predict import predict
from .thresholds import (
    apply_threshold,
    checked,
    choose_threshold,
    classes_of,
    merge_classes,
    negative_of,
    positive_of,
    pr,
    roc,
)

__all__ = [
    "accuracy_by",
    "apply_threshold",
    "as_text",
    "calibration_table",
    "choose_threshold",
    "classes_of",
    "confusion",
    "expected_calibration_error",
    "headline",
    "merge_classes",
    "compute_metrics",
    "per_class_table",
    "pr",
    "predict",
    "resampled",
    "roc",
    "save_metrics",
    "top_k_accuracy",
]
BINS = 15  # of the calibration error, as in Guo et al. 2017
MEASURES = ("recall", "precision", "f1", "auc")


def compute_metrics(
    predictions: pd.DataFrame,
    repeats: int = 1000,
    seed: int = 0,
    threshold: float | None = None,
    level: float = 0.95,
    positive: str | None = None,
) -> dict:
    """The numbers of one split, with intervals by bootstrap over patients.

    Parameters
    ----------
    predictions : of one split, with labels.
    repeats, seed, level : of the bootstrap; intervals are percentiles.
    threshold : two classes only: answer `positive` from this probability on. None takes `predicted` as it is.
    positive : the second of two classes unless named.

    Returns
    -------
    dict of plain values, None where a number is undefined: n, patients; accuracy, balanced_accuracy,
    macro_f1, auc (one against the rest; means over the classes that occur), each {"value", "low", "high"}
    (see `intervals.interval`); for two classes sensitivity, specificity, ppv, npv likewise, threshold and
    positive; top2, top3... up to 5; baseline (accuracy of always giving the commonest answer); loss; ece;
    brier (squares summed over the classes, 0 to 2); level; per_class {class: {n, recall, precision, f1,
    auc}}; confusion (rows true, columns predicted); classes.

    Raises
    ------
    ValueError for an empty table, several splits, labels that the model does not know, a threshold for other
    than two classes, no repeats, or a level that is no share.

    Taught in notebook 04.
    """
    check_bootstrap(repeats, level)
    classes = checked(predictions)
    two = len(classes) == 2 or positive is not None or threshold is not None
    positive = positive_of(classes, positive) if two else None
    if threshold is not None:
        predictions = apply_threshold(predictions, threshold, positive)
    coded = _coded(predictions)
    overall, per_class = _with_intervals(coded, repeats, seed, level, positive)
    top = {
        f"top{k}": json_number(top_k_accuracy(predictions, k))
        for k in range(2, min(len(classes), 6))
    }
    return {
        "n": len(predictions),
        "patients": coded.patients,
        **overall,
        **(_binary(coded, per_class, threshold, positive) if two else {}),
        **top,
        **_without_intervals(coded, predictions),
        "level": level,
        "per_class": per_class,
        "confusion": confusion(predictions).to_numpy().tolist(),
        "classes": classes,
    }


def resampled(
    predictions: pd.DataFrame, repeats: int = 1000, seed: int = 0, positive: str | None = None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The overall numbers of a split, and the same on resampled patients.

    Two tables of the same images in the same order are resampled alike, so their rows may be subtracted.

    Returns
    -------
    {measure: value} and {measure: (repeats,)} of accuracy, balanced_accuracy, macro_f1, auc; for two classes also
    sensitivity, specificity, ppv, npv. NaN where undefined.
    """
    classes = checked(predictions)
    positive = positive_of(classes, positive) if len(classes) == 2 else None
    coded = _coded(predictions)
    blocks = [
        _resampled(coded, often)
        for often in resamples(coded.patients, repeats, seed, len(coded.truth))
    ]
    spread = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    values, spreads = (
        {**_overall(one, coded, positive), **_of_two(one, coded, positive)}
        for one in (_values(coded), spread)
    )
    return {name: float(value[0]) for name, value in values.items()}, spreads


def _of_two(
    of_classes: dict[str, np.ndarray], coded: _Coded, positive: str | None
) -> dict[str, np.ndarray]:
    if positive is None:
        return {}
    one, other = (
        coded.classes.index(name) for name in (positive, negative_of(coded.classes, positive))
    )
    return {
        "sensitivity": of_classes["recall"][:, one],
        "specificity": of_classes["recall"][:, other],
        "ppv": of_classes["precision"][:, one],
        "npv": of_classes["precision"][:, other],
    }


class _Coded(NamedTuple):
    """A predictions table as numbers: truth, said, patient are indices (n,), scores (n, classes)."""

    classes: list[str]
    truth: np.ndarray
    said: np.ndarray
    scores: np.ndarray
    patient: np.ndarray
    patients: int

    @property
    def counts(self) -> np.ndarray:
        """Images of each class."""
        return np.bincount(self.truth, minlength=len(self.classes))


def _coded(predictions: pd.DataFrame) -> _Coded:
    classes = classes_of(predictions)
    index = {name: i for i, name in enumerate(classes)}
    truth, said = (
        predictions[column].map(index).to_numpy(int) for column in ("label", "predicted")
    )
    patient, names = pd.factorize(who(predictions))
    return _Coded(classes, truth, said, _scores(predictions), patient, len(names))


def who(predictions: pd.DataFrame) -> pd.Series:
    """Whose each image of a table is; one of unknown patient ("" or none) is of a patient of its own."""
    known = predictions["patient"].notna() & (predictions["patient"] != "")
    return predictions["patient"].astype(str).where(known, "?" + predictions["path"])


def _scores(predictions: pd.DataFrame) -> np.ndarray:
    return predictions[[f"p_{name}" for name in classes_of(predictions)]].to_numpy(float)


def _with_intervals(
    coded: _Coded, repeats: int, seed: int, level: float, positive: str | None
) -> tuple[dict[str, dict], dict[str, dict]]:
    """The overall numbers and those of each class: values by scikit-learn, ends from resampled patients."""
    draws = resamples(coded.patients, repeats, seed, len(coded.truth))
    blocks = [_resampled(coded, often) for often in draws]
    spread = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    values, spreads = _values(coded), _overall(spread, coded, positive)
    patients = pd.Series(coded.patient).groupby(coded.truth).nunique()  # of each class
    trials = {"accuracy": coded.patients}
    overall = {
        name: interval(value[0], spreads[name], level, trials.get(name, patients.min()))
        for name, value in _overall(values, coded, positive).items()
    }
    per_class = {
        name: {"n": int(coded.counts[i])}
        | {
            measure: interval(
                values[measure][0, i], spread[measure][:, i], level, patients.get(i, 1)
            )
            for measure in MEASURES
        }
        for i, name in enumerate(coded.classes)
    }
    return overall, per_class


def _values(coded: _Coded) -> dict[str, np.ndarray]:
    """accuracy (1,) and the measures of each class (1, classes) by scikit-learn; NaN where undefined."""
    every, n = list(range(len(coded.classes))), coded.counts
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        coded.truth, coded.said, labels=every, zero_division=np.nan
    )
    auc = [
        sk.roc_auc_score(coded.truth == i, coded.scores[:, i]) if 0 < n[i] < n.sum() else np.nan
        for i in every
    ]
    return {
        "accuracy": np.array([sk.accuracy_score(coded.truth, coded.said)]),
        "recall": recall[None],
        "precision": precision[None],
        "f1": np.where(n, f1, np.nan)[None],
        "auc": np.array(auc)[None],
    }


def _resampled(coded: _Coded, often: np.ndarray) -> dict[str, np.ndarray]:
    """The same for each row of `often` (repeats, patients): its confusion matrix is a sum over patients."""
    k = len(coded.classes)
    pairs = np.zeros((coded.patients, k * k))
    np.add.at(pairs, (coded.patient, coded.truth * k + coded.said), 1)
    table = (often @ pairs).reshape(-1, k, k)
    right, is_, called = np.einsum("rii->ri", table), table.sum(2), table.sum(1)
    weights = often[:, coded.patient]
    auc = [weighted_auc(coded.truth == i, coded.scores[:, i], weights) for i in range(k)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": right.sum(1) / table.sum((1, 2)),
            "recall": right / is_,
            "precision": right / called,
            "f1": np.where(is_, 2 * right / (is_ + called), np.nan),
            "auc": np.stack(auc, 1),
        }


def _overall(
    of_classes: dict[str, np.ndarray], coded: _Coded, positive: str | None
) -> dict[str, np.ndarray]:
    """Means over the classes that the table holds; NaN for a resample that lacks one of them."""
    occur = coded.counts > 0
    auc = of_classes["auc"]
    return {
        "accuracy": of_classes["accuracy"],
        "balanced_accuracy": of_classes["recall"][:, occur].mean(1),
        "macro_f1": of_classes["f1"][:, occur].mean(1),
        "auc": auc[:, coded.classes.index(positive)] if positive else auc[:, occur].mean(1),
    }


def _binary(
    coded: _Coded, per_class: dict[str, dict], threshold: float | None, positive: str
) -> dict:
    of, other = per_class[positive], per_class[negative_of(coded.classes, positive)]
    at_half = bool(
        (coded.said == coded.scores.argmax(1)).all()
    )  # else some threshold was applied before
    return {
        "sensitivity": of["recall"],
        "specificity": other["recall"],
        "ppv": of["precision"],
        "npv": other["precision"],
        "positive": positive,
        "threshold": float(threshold) if threshold is not None else 0.5 if at_half else None,
    }


def _without_intervals(coded: _Coded, predictions: pd.DataFrame) -> dict[str, float | None]:
    squares = ((coded.scores - np.eye(len(coded.classes))[coded.truth]) ** 2).sum(1)
    return {
        "baseline": json_number(coded.counts.max() / coded.counts.sum()),
        "loss": json_number(predictions["loss"].mean()),
        "ece": json_number(expected_calibration_error(predictions)),
        "brier": json_number(squares.mean()),
    }


def top_k_accuracy(predictions: pd.DataFrame, k: int) -> float:
    """Share of images whose true class is among the k most probable; k is clipped to the classes' number."""
    index = {name: i for i, name in enumerate(classes_of(predictions))}
    best = np.argsort(-_scores(predictions), axis=1, kind="stable")[:, : max(k, 1)]
    return float((best == predictions["label"].map(index).to_numpy()[:, None]).any(1).mean())


def confusion(predictions: pd.DataFrame, normalize: bool = False) -> pd.DataFrame:
    """Counts, rows true and columns predicted, in class order; normalized, the shares of each row."""
    classes = classes_of(predictions)
    counts = sk.confusion_matrix(
        predictions["label"],
        predictions["predicted"],
        labels=classes,
        normalize="true" if normalize else None,
    )
    return pd.DataFrame(counts, pd.Index(classes, name="true"), pd.Index(classes, name="predicted"))


def per_class_table(predictions: pd.DataFrame, ks: Sequence[int] = (1, 2, 5)) -> pd.DataFrame:
    """A row a class: n, top-1, top-2, top-5 (those that can be wrong), loss, recall, precision, f1.

    Top-1 goes by the probabilities and recall by `predicted`: they differ only after `apply_threshold`. NaN
    where undefined.

    Taught in notebook 04.
    """
    classes = classes_of(predictions)
    precision, recall, f1, n = sk.precision_recall_fscore_support(
        predictions["label"], predictions["predicted"], labels=classes, zero_division=np.nan
    )
    parts = [predictions[predictions["label"] == name] for name in classes]
    tops = {
        f"top-{k}": [top_k_accuracy(part, k) if len(part) else np.nan for part in parts]
        for k in sorted({1, *(k for k in ks if 1 < k < len(classes))})
    }
    columns = {
        "n": n,
        **tops,
        "loss": [part["loss"].mean() for part in parts],
        "recall": recall,
        "precision": precision,
        "f1": np.where(n, f1, np.nan),
    }
    return pd.DataFrame(columns, pd.Index(classes, name="class"))


def calibration_table(
    predictions: pd.DataFrame, bins: int = BINS, repeats: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """The likeliest classes by their probability in bins of equal width: confidence (mean), accuracy, n.

    Also low and high, the 95 % interval of the accuracy by bootstrap over the bin's patients. Empty bins are left out; a
    threshold plays no part. Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.

    Taught in notebook 04.
    """
    table, bin_ = _in_bins(predictions, bins)
    means = table.groupby(bin_)["confidence"].mean()
    return pd.concat(
        [means, _by_group(table["right"], who(predictions), bin_, repeats, seed)], axis=1
    )[["confidence", "accuracy", "n", "low", "high"]].reset_index(drop=True)


def _in_bins(predictions: pd.DataFrame, bins: int) -> tuple[pd.DataFrame, pd.Series]:
    """Confidence and rightness of each image's likeliest class, and its bin, from 1 on."""
    scores, classes = _scores(predictions), np.array(classes_of(predictions))
    right = classes[scores.argmax(1)] == predictions["label"].to_numpy()
    table = pd.DataFrame(
        {"confidence": scores.max(1), "right": right.astype(float)}, predictions.index
    )
    return table, np.ceil(table["confidence"] * bins).clip(1, bins)


def expected_calibration_error(predictions: pd.DataFrame, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over the bins of `calibration_table`, weighted by images."""
    table, bin_ = _in_bins(predictions, bins)
    sums = table.groupby(bin_).sum()
    return float((sums["confidence"] - sums["right"]).abs().sum() / len(table))


def accuracy_by(
    predictions: pd.DataFrame,
    values: pd.Series | str,
    bins: int | Sequence[float] | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of each group of images, the group as index: n, patients, accuracy, low, high.

    values : a column's name, or a Series with the table's index; images without a value are a group too.
    bins : for numbers: how many groups of about equal size, or their edges. Without, most images come first.
    repeats, seed : of the bootstrap over the group's patients that low and high (95 %) are of; where all resamples agree,
        as with one patient, the interval is Wilson's for so many patients, see `intervals.interval`. Of fewer than
        about ten patients it is rather too narrow: mind the column patients.

    Raises ValueError for an empty table, labels that the model does not know, fewer than one bin or repeat.

    Taught in notebook 05.
    """
    values = predictions[values] if isinstance(values, str) else values
    if unknown := sorted(set(predictions["label"].astype(str)) - set(classes_of(predictions))):
        raise ValueError(
            f"found the labels {', '.join(map(repr, unknown))}, which the model does not know; leave out "
            "images without a known label, as none of them can be right"
        )
    if predictions.empty or repeats < 1:
        raise ValueError(
            f"found {len(predictions)} predictions and {repeats} repeats; pass at least one of both"
        )
    groups = values if bins is None else _binned(values, bins)
    right = (predictions["label"] == predictions["predicted"]).astype(float)
    table = _by_group(right, who(predictions), groups, repeats, seed)
    return table if bins is not None else table.sort_values("n", ascending=False, kind="stable")


def _by_group(
    right: pd.Series, who: pd.Series, groups: pd.Series, repeats: int, seed: int
) -> pd.DataFrame:
    """n, patients, accuracy, low, high of each group; a patient with images in two groups counts in each."""
    found = pd.DataFrame({"right": right, "who": who}).groupby(groups, observed=True, dropna=False)
    table = found.agg(n=("right", "size"), patients=("who", "nunique"), accuracy=("right", "mean"))
    ends = [_accuracy_of(part, repeats, seed) for _, part in found]
    return table.assign(**{end: [one[end] for one in ends] for end in ("low", "high")})


def _accuracy_of(images: pd.DataFrame, repeats: int, seed: int) -> dict[str, float]:
    each = images.groupby("who", sort=False)["right"].agg(["sum", "size"]).to_numpy()
    sums = np.concatenate([often @ each for often in resamples(len(each), repeats, seed)])
    return interval(images["right"].mean(), sums[:, 0] / sums[:, 1], 0.95, len(each))


def _binned(values: pd.Series, bins: int | Sequence[float]) -> pd.Series:
    numbers = pd.to_numeric(values).astype(float)
    if np.ndim(bins) == 0 and bins < 1:
        raise ValueError(f"bins is {bins}; it wants 1 group or more, or the groups' edges")
    if numbers.isna().all():
        return numbers
    edges = np.unique(
        np.nanquantile(numbers, np.linspace(0, 1, bins + 1)) if np.ndim(bins) == 0 else bins
    )
    edges = edges if len(edges) > 1 else np.array([edges[0], np.nextafter(edges[0], np.inf)])
    for digits in range(6, 18):  # as few as tell the groups apart
        names = [f"{low:.{digits}g} to {high:.{digits}g}" for low, high in zip(edges, edges[1:])]
        if len(set(names)) == len(names):
            break
    return pd.cut(numbers, edges, include_lowest=True, labels=names).rename(values.name)


def as_text(value: object) -> str:
    """A number, or one with its interval, for a person: "0.873 (0.842-0.901)"."""
    if isinstance(value, dict):
        ends = (
            f" ({as_text(value['low'])}-{as_text(value['high'])})"
            if value["low"] is not None
            else ""
        )
        return as_text(value["value"]) + ends
    return (
        "undefined"
        if value is None
        else f"{value:.3f}"
        if isinstance(value, float)
        else f"{value:,}"
    )


def headline(metrics: dict) -> str:
    """One line: "accuracy 0.873 (95 % interval 0.842-0.901, 212 images of 71 patients), AUC ..."."""
    n, patients, accuracy = metrics["n"], metrics["patients"], metrics["accuracy"]
    behind = f"{n:,} image{'s' * (n != 1)} of {patients:,} patient{'s' * (patients != 1)}"
    more = ("sensitivity", "specificity") if "sensitivity" in metrics else ("balanced_accuracy",)
    rest = [f"{name.replace('_', ' ')} {as_text(metrics[name])}" for name in more]
    rest += [f"AUC {as_text(metrics['auc'])}"]
    return (
        f"accuracy {as_text(accuracy['value'])} ({100 * metrics.get('level', 0.95):g} % interval "
        f"{as_text(accuracy['low'])}-{as_text(accuracy['high'])}, {behind}), {', '.join(rest)}"
    )


def save_metrics(path: str | Path, metrics: dict) -> None:
    """Write metrics as JSON, whole or not at all. Raises ValueError for NaN, which JSON does not have."""
    files.write_text(path, json.dumps(metrics, indent=1, allow_nan=False))
