"""Numbers with intervals from a predictions table, and the tables behind its pictures.

Everything works on the predictions table alone (split, path, patient, label, predicted,
p_<class>..., loss), so it serves any model that can fill one. `rates` of a confusion matrix and
`weighted_auc` give each number; its interval is from the same of resampled patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from ..core.intervals import (
    auc_sides,
    check_bootstrap,
    interval,
    interval_of_mean,
    is_told,
    json_number,
    patients_of_mean,
    resamples,
    weighted_auc,
)
from .thresholds import (
    apply_threshold,
    checked_classes,
    classes_of,
    negative_of,
    positive_of,
    scores_of,
)

_OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "auc")
_MEANS = {"balanced_accuracy": "recall", "macro_f1": "f1", "auc": "auc"}  # of the classes
_OF_TWO_CLASSES = ("sensitivity", "specificity", "ppv", "npv")
_OF_A_CLASS = ("recall", "precision", "f1", "auc")
_Found = TypeVar("_Found")
BINS = 15  # of the calibration error, as in Guo et al. 2017


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
    predictions : DataFrame of one split, with labels
    repeats : int, of the bootstrap
    seed : int, of the bootstrap
    threshold : float, two classes only: answer `positive` from this probability on
        None takes `predicted` as it is.
    level : float, of the intervals
    positive : str, the second of two classes unless named

    Returns
    -------
    dict of plain values, None where a number is undefined
        n, patients; accuracy, balanced_accuracy, macro_f1, auc (one against the rest; means over
        the classes that occur), each {"value", "low", "high"} (see `intervals.interval`); for two
        classes sensitivity, specificity, ppv, npv likewise, threshold and positive; top2, top3...
        up to 5; baseline (accuracy of always giving the commonest answer); loss; ece and
        ece_by_chance (see `calibration_error_by_chance`); brier (squares summed over the classes, 0
        to 2); level; per_class {class: {n, recall, precision,
        f1, auc}}; confusion (rows true, columns predicted); classes.

    Raises
    ------
    ValueError
        For an empty table, several splits, labels that the model does not know, a threshold for
        other than two classes, no repeats, or a level that is no share.

    Examples
    --------
    >>> table = pd.DataFrame({
    ...     "split": "test", "path": list("abcd"), "patient": list("1123"), "label": list("NNPP"),
    ...     "predicted": list("NPPP"), "p_N": [0.9, 0.3, 0.2, 0.4], "p_P": [0.1, 0.7, 0.8, 0.6],
    ...     "loss": [0.11, 1.2, 0.22, 0.51]})
    >>> metrics = compute_metrics(table, repeats=100)
    >>> metrics["n"], metrics["patients"], metrics["accuracy"]["value"], metrics["auc"]["value"]
    (4, 3, 0.75, 0.75)
    >>> as_text(metrics["sensitivity"]), as_text(metrics["specificity"])
    ('1.000 (0.342-1.000)', '0.500 (0.055-0.945)')
    """
    check_bootstrap(repeats, level)
    classes = checked_classes(predictions)
    two = len(classes) == 2 or positive is not None or threshold is not None
    positive = positive_of(classes, positive) if two else None
    if threshold is not None:
        predictions = apply_threshold(predictions, threshold, positive)
    coded, found = _coded(predictions), resampled(predictions, repeats, seed, positive)
    names = (*_OVERALL, *(_OF_TWO_CLASSES if two else ()))
    overall = {name: found.interval(name, level) for name in names}
    per_class = {name: {"n": int(n)} for name, n in zip(classes, coded.counts, strict=True)}
    for name, rate in product(classes, _OF_A_CLASS):
        per_class[name][rate] = found.interval(f"{rate} of {name}", level)
    if two:
        likeliest = (coded.predicted == coded.scores.argmax(1)).all()  # else there was a threshold
        used = float(threshold) if threshold is not None else 0.5 if likeliest else None
        overall |= {"positive": positive, "threshold": used}
    squares = ((coded.scores - np.eye(len(classes))[coded.truth]) ** 2).sum(1)
    ks = range(2, min(len(classes), 6))
    return {
        "n": len(predictions),
        "patients": coded.patients,
        "unknown_patients": unknown_patients(predictions),
        **overall,
        **{f"top{k}": json_number(top_k_accuracy(predictions, k)) for k in ks},
        "baseline": json_number(coded.counts.max() / coded.counts.sum()),
        "loss": json_number(predictions["loss"].mean()),
        "ece": json_number(expected_calibration_error(predictions)),
        "ece_by_chance": json_number(calibration_error_by_chance(predictions, seed=seed)),
        "brier": json_number(squares.mean()),
        "level": level,
        "per_class": per_class,
        "confusion": confusion(predictions).to_numpy().tolist(),
        "classes": classes,
    }


class Resampled(NamedTuple):
    """The numbers of a split, and the same on resampled patients.

    Parameters
    ----------
    values : dict of str to float
        accuracy, balanced_accuracy, macro_f1, auc; "recall of", "precision of", "f1 of" and "auc
        of" each class; for two classes sensitivity, specificity, ppv, npv. NaN where undefined.
    spreads : dict of str to ndarray (repeats,), the same
    patients : dict of str to int or tuple of int
        How many patients each rests on, of an AUC how many of both sides; for a predictive value
        those who were called so.
    fixed : set of str
        Those of which resamples tell no interval: balanced accuracy and macro F1 where all images
        have one answer, an AUC where all have one score.
    """

    values: dict[str, float]
    spreads: dict[str, np.ndarray]
    patients: dict[str, int | tuple[int, int]]
    fixed: set[str]

    def rests_on(self, name: str) -> int:
        """How many patients a number rests on, of an AUC those of the rarer side.

        Of a mean over classes it is how many it counts for (see `intervals.patients_of_mean`).

        Parameters
        ----------
        name : str, one of the values

        Returns
        -------
        int
        """
        parts = [
            (self.spreads[one], int(np.min(self.patients[one]))) for one in self.parts_of(name)
        ]
        parts = [part for part in parts if is_told(*part)]
        return int(patients_of_mean(parts) if parts else np.min(self.patients[name]))

    def interval(self, name: str, level: float, few: bool = True) -> dict[str, float | int | None]:
        """A number with its interval.

        Parameters
        ----------
        name : str, one of the values
        level : float, such as 0.95
        few : bool, see `intervals.interval`

        Returns
        -------
        dict, see `intervals.interval`
        """
        of = self.values[name], self.spreads[name], level
        if name in self.fixed:
            return interval(*of, None, few)
        parts = self.parts_of(name)
        every = [(self.values[one], self.spreads[one], self.patients[one]) for one in parts]
        return interval_of_mean(*of, self.patients[name], every, self.are_apart(parts), few)

    def parts_of(self, name: str) -> list[str]:
        """The numbers of the classes that one is the mean of, where it is; undefined ones are not.

        Parameters
        ----------
        name : str, one of the values

        Returns
        -------
        list of str
        """
        of = _MEANS.get(name) if name != "auc" or "sensitivity" not in self.values else None
        known = [one for one in self.values if of and one.startswith(f"{of} of ")]
        return [one for one in known if not np.isnan(self.values[one])]

    def are_apart(self, parts: Sequence[str]) -> bool:
        """Whether numbers of classes are recalls, each of patients of its own.

        Parameters
        ----------
        parts : list of str, see `parts_of`

        Returns
        -------
        bool
        """
        recalls = all(one.startswith("recall of ") for one in parts)
        return recalls and sum(map(self.rests_on, parts)) <= self.rests_on("accuracy")


def resampled(
    predictions: pd.DataFrame, repeats: int = 1000, seed: int = 0, positive: str | None = None
) -> Resampled:
    """The numbers of a split, and the same on resampled patients.

    Two tables of the same images in the same order are resampled alike, so their rows may be
    subtracted.

    Parameters
    ----------
    predictions : DataFrame of one split, with labels
    repeats : int
    seed : int
    positive : str, optional, the second of two classes unless named

    Returns
    -------
    Resampled
    """
    classes, coded = checked_classes(predictions), _coded(predictions)
    if positive is None and len(classes) == 2:
        positive = positive_of(classes)

    def of(draws: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
        found = _measured(coded, draws)
        return _overall(found, coded, positive) | _of_each(
            lambda rate, i: found[rate][:, i], classes, positive
        )

    values, spreads = of(coded.once), of(coded.draws(repeats, seed))
    values = {name: float(value[0]) for name, value in values.items()}
    several, fixed = len(set(coded.truth)) > 1, set()
    if several and len(set(coded.predicted)) == 1:
        fixed |= {"balanced_accuracy", "macro_f1"}
    if several and not np.ptp(coded.scores, 0).any():
        fixed |= {"auc", *(f"auc of {name}" for name in classes)}
    return Resampled(values, spreads, _rests_on(coded, positive), fixed)


def rates(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The rates of confusion matrices, NaN where undefined.

    Parameters
    ----------
    counts : ndarray (..., classes, classes), rows true and columns predicted

    Returns
    -------
    dict of accuracy (...), and recall, precision, f1 (..., classes)
    """
    right, is_, called = np.einsum("...ii->...i", counts), counts.sum(-1), counts.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": right.sum(-1) / is_.sum(-1),
            "recall": right / is_,
            "precision": right / called,
            "f1": np.where(is_, 2 * right / (is_ + called), np.nan),
        }


def two_class_rates(
    rate_of: Callable[[str, str], object], classes: Sequence[str], positive: str
) -> dict[str, object]:
    """The rates of two classes under the names that medicine has for them.

    Parameters
    ----------
    rate_of : Callable, gives a rate ("recall", "precision") of a class: (rate, class)
    classes : list of str, two
    positive : str, one of them

    Returns
    -------
    dict of sensitivity, specificity, ppv, npv
    """
    negative = negative_of(classes, positive)
    return {
        "sensitivity": rate_of("recall", positive),
        "specificity": rate_of("recall", negative),
        "ppv": rate_of("precision", positive),
        "npv": rate_of("precision", negative),
    }


def patients_of(predictions: pd.DataFrame) -> pd.Series:
    """Whose each image is; one of unknown patient is of a patient of its own.

    Parameters
    ----------
    predictions : DataFrame, or records: path and patient ("" or missing where unknown)

    Returns
    -------
    Series of str
    """
    known = predictions["patient"].notna() & (predictions["patient"] != "")
    return predictions["patient"].astype(str).where(known, "?" + predictions["path"])


def unknown_patients(predictions: pd.DataFrame) -> int:
    """Count the images whose patient is unknown.

    Parameters
    ----------
    predictions : DataFrame, as for `patients_of`

    Returns
    -------
    int
    """
    return int(patients_of(predictions).str.startswith("?").sum())


class _Coded(NamedTuple):
    """A predictions table as numbers: truth, predicted, patient are indices (n,)."""

    classes: list[str]
    truth: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray  # (n, classes)
    patient: np.ndarray
    patients: int

    @property
    def counts(self) -> np.ndarray:
        """Images of each class."""
        return np.bincount(self.truth, minlength=len(self.classes))

    @property
    def once(self) -> list[np.ndarray]:
        """Every patient once, in place of resamples."""
        return [np.ones((1, self.patients))]

    def draws(self, repeats: int, seed: int) -> Iterable[np.ndarray]:
        """How often each patient is drawn, (some repeats, patients) at a time."""
        return resamples(self.patients, repeats, seed, len(self.truth))


def _coded(predictions: pd.DataFrame) -> _Coded:
    classes = classes_of(predictions)
    index = {name: i for i, name in enumerate(classes)}
    truth, predicted = (
        predictions[column].map(index).to_numpy(int) for column in ("label", "predicted")
    )
    patient, names = pd.factorize(patients_of(predictions))
    return _Coded(classes, truth, predicted, scores_of(predictions), patient, len(names))


def _measured(coded: _Coded, draws: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """For each row of the draws accuracy (repeats,), and recall... auc (repeats, classes)."""
    k, blocks = len(coded.classes), []
    pairs = np.zeros((coded.patients, k * k))  # a confusion matrix is a sum over patients
    np.add.at(pairs, (coded.patient, coded.truth * k + coded.predicted), 1)
    for often in draws:
        weights = often[:, coded.patient]
        auc = [weighted_auc(coded.truth == i, coded.scores[:, i], weights) for i in range(k)]
        blocks.append(rates((often @ pairs).reshape(-1, k, k)) | {"auc": np.stack(auc, 1)})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _overall(
    of_classes: dict[str, np.ndarray], coded: _Coded, positive: str | None
) -> dict[str, np.ndarray]:
    """Means over the classes that the table holds; NaN for a resample that lacks one of them."""
    occur, auc = coded.counts > 0, of_classes["auc"]
    return {
        "accuracy": of_classes["accuracy"],
        "balanced_accuracy": of_classes["recall"][:, occur].mean(1),
        "macro_f1": of_classes["f1"][:, occur].mean(1),
        "auc": auc[:, coded.classes.index(positive)] if positive else auc[:, occur].mean(1),
    }


def _of_each(
    of: Callable[[str, int], _Found], classes: Sequence[str], positive: str | None
) -> dict[str, _Found]:
    """What is found of each rate and class, by name; of two classes under medicine's names too."""
    names = list(product(_OF_A_CLASS, enumerate(classes)))
    found = {f"{rate} of {name}": of(rate, i) for rate, (i, name) in names}
    if positive is None:
        return found
    return found | two_class_rates(lambda rate, name: found[f"{rate} of {name}"], classes, positive)


def _rests_on(coded: _Coded, positive: str | None) -> dict[str, int | tuple[int, int]]:
    """How many patients each number rests on, see `Resampled`."""
    patient = pd.Series(coded.patient)
    each = patient.groupby(coded.truth).nunique()
    called = patient.groupby(coded.predicted).nunique()

    def of(rate: str, i: int) -> int | tuple[int, int]:
        if rate == "auc":
            return auc_sides(coded.truth == i, coded.patient)
        return int((called if rate == "precision" else each).get(i, 1))

    rarest, sides = int(each.min()), auc_sides(coded.truth, coded.patient)
    found = {"accuracy": coded.patients, "balanced_accuracy": rarest, "macro_f1": rarest}
    return found | {"auc": sides} | _of_each(of, coded.classes, positive)


def top_k_accuracy(predictions: pd.DataFrame, k: int) -> float:
    """Share of images whose true class is among the most probable ones.

    Parameters
    ----------
    predictions : DataFrame
    k : int, clipped to 1 ... number of classes

    Returns
    -------
    float

    Examples
    --------
    >>> scores = {"p_A": [0.5, 0.2], "p_B": [0.3, 0.3], "p_C": [0.2, 0.5]}
    >>> table = pd.DataFrame({"label": ["B", "C"], **scores})
    >>> top_k_accuracy(table, 1), top_k_accuracy(table, 2)
    (0.5, 1.0)
    """
    index = {name: i for i, name in enumerate(classes_of(predictions))}
    best = np.argsort(-scores_of(predictions), axis=1, kind="stable")[:, : max(k, 1)]
    return float((best == predictions["label"].map(index).to_numpy()[:, None]).any(1).mean())


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """How many images of each class were predicted to be of each.

    Parameters
    ----------
    predictions : DataFrame

    Returns
    -------
    DataFrame of int, rows true and columns predicted, in class order

    Examples
    --------
    >>> labels, predicted = ["A", "A", "B"], ["A", "B", "B"]
    >>> table = pd.DataFrame({"label": labels, "predicted": predicted, "p_A": 0.5, "p_B": 0.5})
    >>> confusion(table).to_numpy().tolist()
    [[1, 1], [0, 1]]
    """
    classes = classes_of(predictions)
    counts = sk.confusion_matrix(predictions["label"], predictions["predicted"], labels=classes)
    return pd.DataFrame(counts, pd.Index(classes, name="true"), pd.Index(classes, name="predicted"))


def per_class_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The numbers of each class without intervals.

    Top-1 goes by the probabilities and recall by `predicted`: they differ only after
    `apply_threshold`.

    Parameters
    ----------
    predictions : DataFrame

    Returns
    -------
    DataFrame
        A row a class: n, top-1, top-2, top-5 (those that can be wrong), loss, recall, precision,
        f1. NaN where undefined.
    """
    classes, counts = classes_of(predictions), confusion(predictions).to_numpy()
    parts = [predictions[predictions["label"] == name] for name in classes]
    columns = {"n": counts.sum(1)}
    for k in [1, *(k for k in (2, 5) if k < len(classes))]:
        shares = [top_k_accuracy(part, k) if len(part) else np.nan for part in parts]
        columns[f"top-{k}"] = shares
    columns["loss"] = [part["loss"].mean() for part in parts]
    of_classes = rates(counts)
    columns |= {name: of_classes[name] for name in ("recall", "precision", "f1")}
    return pd.DataFrame(columns, pd.Index(classes, name="class"))


def calibration_table(
    predictions: pd.DataFrame, bins: int = BINS, repeats: int = 1000
) -> pd.DataFrame:
    """The likeliest classes by their probability, in bins of equal width.

    A threshold plays no part. Source: Guo et al., On Calibration of Modern Neural Networks, ICML
    2017.

    Parameters
    ----------
    predictions : DataFrame
    bins : int
    repeats : int, of the bootstrap over the bin's patients

    Returns
    -------
    DataFrame
        confidence (mean), accuracy, n, and low and high, the 95 % interval of the accuracy; empty
        bins are left out.
    """
    table, bin_ = in_bins(predictions, bins)
    means = table.groupby(bin_)["confidence"].mean()
    groups = _by_group(table["right"], patients_of(predictions), bin_, repeats)
    columns = ["confidence", "accuracy", "n", "low", "high"]
    return pd.concat([means, groups], axis=1)[columns].reset_index(drop=True)


def in_bins(predictions: pd.DataFrame, bins: int = BINS) -> tuple[pd.DataFrame, pd.Series]:
    """Confidence and rightness of each image's likeliest class, and its bin of confidence.

    Parameters
    ----------
    predictions : DataFrame
    bins : int

    Returns
    -------
    table : DataFrame of confidence and right (0 or 1), float
    bin : Series of float, from 1 on
    """
    scores, classes = scores_of(predictions), np.array(classes_of(predictions))
    right = classes[scores.argmax(1)] == predictions["label"].to_numpy()
    columns = {"confidence": scores.max(1), "right": right.astype(float)}
    table = pd.DataFrame(columns, predictions.index)
    return table, np.ceil(table["confidence"] * bins).clip(1, bins)


def expected_calibration_error(predictions: pd.DataFrame, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over the bins of `calibration_table`.

    Parameters
    ----------
    predictions : DataFrame
    bins : int, weighted by their images

    Returns
    -------
    float, 0 to 1
    """
    table, bin_ = in_bins(predictions, bins)
    sums = table.groupby(bin_).sum()
    return float((sums["confidence"] - sums["right"]).abs().sum() / len(table))


def calibration_error_by_chance(
    predictions: pd.DataFrame, bins: int = BINS, draws: int = 200, seed: int = 0
) -> float:
    """What the calibration error exceeds in 1 of 20 draws though every probability is true.

    In each draw an image is right as often as its confidence says, and those of a patient have
    their luck together. The fewer images, the larger it is.

    Parameters
    ----------
    predictions : DataFrame
    bins : int, as for `expected_calibration_error`
    draws : int
    seed : int, of the draws

    Returns
    -------
    float, 0 to 1
    """
    table, bin_ = in_bins(predictions, bins)
    confidence, bin_ = table["confidence"].to_numpy(), bin_.to_numpy(int)
    patient, names = pd.factorize(patients_of(predictions))
    random, errors = np.random.default_rng(seed), []
    for _ in range(draws):
        right = random.random(len(names))[patient] < confidence
        errors.append(np.abs(np.bincount(bin_, confidence - right)).sum() / len(table))
    return float(np.quantile(errors, 0.95))


def accuracy_by(
    predictions: pd.DataFrame,
    values: pd.Series | str,
    bins: int | Sequence[float] | None = None,
    repeats: int = 1000,
) -> pd.DataFrame:
    """Accuracy of each group of images.

    The interval (95 %) is by bootstrap over the group's patients, see `intervals.interval`.

    Parameters
    ----------
    predictions : DataFrame
    values : str, a column's name, or a Series with the table's index
        Images without a value are a group too.
    bins : int or list of float, for numbers: how many groups of about equal size, or their edges
    repeats : int, of the bootstrap

    Returns
    -------
    DataFrame, the group as index: n, patients, accuracy, low, high
        Without bins, most images come first.

    Raises
    ------
    ValueError
        For an empty table, labels that the model does not know, fewer than one bin or repeat.

    Examples
    --------
    >>> table = pd.DataFrame({"path": list("abc"), "patient": list("123"), "p_A": 0.5, "p_B": 0.5,
    ...                       "label": ["A", "B", "B"], "predicted": ["A", "B", "A"]})
    >>> accuracy_by(table, "label")[["n", "patients", "accuracy"]].to_dict("index")["B"]
    {'n': 2, 'patients': 2, 'accuracy': 0.5}
    """
    values = predictions[values] if isinstance(values, str) else values
    if unknown := sorted(set(predictions["label"].astype(str)) - set(classes_of(predictions))):
        raise ValueError(
            f"found the labels {', '.join(map(repr, unknown))}, which the model does not know; "
            "leave out images without a known label, as none of them can be right"
        )
    if predictions.empty or repeats < 1:
        raise ValueError(
            f"found {len(predictions)} predictions and {repeats} repeats; pass at least one of both"
        )
    groups = values if bins is None else _binned(values, bins)
    right = (predictions["label"] == predictions["predicted"]).astype(float)
    table = _by_group(right, patients_of(predictions), groups, repeats)
    return table if bins is not None else table.sort_values("n", ascending=False, kind="stable")


def _by_group(
    right: pd.Series, patient: pd.Series, groups: pd.Series, repeats: int
) -> pd.DataFrame:
    """n, patients, accuracy, low, high of each; a patient with images in two counts in each."""
    table = pd.DataFrame({"right": right, "patient": patient})
    found = table.groupby(groups, observed=True, dropna=False)
    ends = [share(part["right"], part["patient"], repeats) for _, part in found]
    table = found.agg(
        n=("right", "size"), patients=("patient", "nunique"), accuracy=("right", "mean")
    )
    return table.assign(**{end: [one[end] for one in ends] for end in ("low", "high")})


def share(
    holds: pd.Series, patient: pd.Series, repeats: int = 1000
) -> dict[str, float | int | None]:
    """Of how many images something holds, with its interval (95 %) by bootstrap over patients.

    Parameters
    ----------
    holds : Series of bool, or of 0 and 1
    patient : Series, whose the images are
    repeats : int, of the bootstrap

    Returns
    -------
    dict of "value", "low", "high", see `intervals.interval`
    """
    each = holds.astype(float).groupby(patient, sort=False).agg(["sum", "size"]).to_numpy()
    sums = np.concatenate([often @ each for often in resamples(len(each), repeats, seed=0)])
    return interval(holds.mean(), sums[:, 0] / sums[:, 1], 0.95, len(each))


def _binned(values: pd.Series, bins: int | Sequence[float]) -> pd.Series:
    numbers = pd.to_numeric(values).astype(float)
    if np.ndim(bins) == 0 and bins < 1:
        raise ValueError(f"bins is {bins}; it wants 1 group or more, or the groups' edges")
    if numbers.isna().all():
        return numbers
    if np.ndim(bins) == 0:
        bins = np.nanquantile(numbers, np.linspace(0, 1, bins + 1))
    edges = np.unique(bins)
    edges = edges if len(edges) > 1 else np.array([edges[0], np.nextafter(edges[0], np.inf)])
    for digits in range(6, 18):  # as few as tell the groups apart
        names = [f"{low:.{digits}g} to {high:.{digits}g}" for low, high in zip(edges, edges[1:])]
        if len(set(names)) == len(names):
            break
    return pd.cut(numbers, edges, include_lowest=True, labels=names).rename(values.name)


def as_text(value: object) -> str:
    """A number, or one with its interval, for a person.

    Parameters
    ----------
    value : float, int, None, or a dict of "value", "low", "high"

    Returns
    -------
    str, such as "0.873 (0.842-0.901)" or "-0.020 (-0.100 to 0.050)"
    """
    if isinstance(value, dict):
        low, high = as_text(value["low"]), as_text(value["high"])
        between = " to " if low.startswith("-") else "-"
        ends = f" ({low}{between}{high})" if value["low"] is not None else ""
        return as_text(value["value"]) + ends
    if value is None:
        return "undefined"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def denominator(metrics: Mapping, of: str = "") -> str:
    """On how many images of how many patients something was measured.

    Parameters
    ----------
    metrics : mapping with n, patients and, where some are unknown, unknown_patients (images, each
        of which counts as a patient of its own)
    of : str, which images, such as "test"

    Returns
    -------
    str

    Examples
    --------
    >>> denominator({"n": 212, "patients": 71}, "test")
    '212 test images of 71 patients'
    >>> denominator({"n": 9, "patients": 9, "unknown_patients": 9})
    "9 images, each counted as a patient's of its own"
    """
    counts = ("n", "patients", "unknown_patients")
    n, patients, unknown = (int(metrics.get(key, 0)) for key in counts)
    told = f"{n:,} {of} image{'s' * (n != 1)}".replace("  ", " ")
    if unknown < n:
        told += f" of {patients:,} patient{'s' * (patients != 1)}"
    if unknown:
        each = f", {unknown:,} of them" if unknown < n else ", each" if n > 1 else ""
        told += f"{each} counted as a patient's of its own"
    return told


def headline(metrics: dict) -> str:
    """The main numbers in a line.

    Parameters
    ----------
    metrics : dict, see `compute_metrics`

    Returns
    -------
    str: "accuracy 0.873 (95 % interval 0.842-0.901, 212 images of 71 patients), AUC ..."; images
        whose patient is unknown count as patients of their own, which is said
    """
    accuracy = metrics["accuracy"]
    more = ("sensitivity", "specificity") if "sensitivity" in metrics else ("balanced_accuracy",)
    rest = [f"{name.replace('_', ' ')} {as_text(metrics[name])}" for name in more]
    if "positive" in metrics:
        rest[0] = rest[0].replace("sensitivity", f"sensitivity for {metrics['positive']}", 1)
    rest += [f"AUC {as_text(metrics['auc'])}"]
    return (
        f"accuracy {as_text(accuracy['value'])} ({100 * metrics.get('level', 0.95):g} % interval "
        f"{as_text(accuracy['low'])}-{as_text(accuracy['high'])}, {denominator(metrics)}), "
        f"{', '.join(rest)}"
    )
