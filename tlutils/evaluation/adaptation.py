"""A threshold and a temperature chosen anew on labelled images of another place.

In comes a predictions table of local images, as a run answers them. What the choice is worth is
measured by cross-fitting: each patient is judged by what was chosen on other patients.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from ..core.intervals import check_bootstrap, json_number, resamples
from ..core.words import many
from . import calibration, comparison, thresholds
from .metrics import BINS, as_text, compute_metrics, in_bins, patients_of
from .thresholds import checked_classes, classes_of, scores_of

_WITHIN = 0.02  # of balanced accuracy: what a steady choice may differ from that on all patients
_RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv")
_OF_ALL_CLASSES = ("accuracy", "balanced_accuracy")
_OF_DRAWS = ("threshold", "sensitivity", "specificity", "balanced_accuracy", "loss")
_ENDS = (0.025, 0.975)  # of all intervals and ranges


class Choice(NamedTuple):
    """What is chosen for a place.

    Parameters
    ----------
    threshold : float or None
        From which probability on, before the temperature, the second of two classes is answered.
        None where there are more than two.
    temperature : float, that makes the local probabilities likeliest
    """

    threshold: float | None
    temperature: float


def fit(
    predictions: pd.DataFrame,
    rule: str = "youden",
    *,
    draws: int = 100,
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[dict, pd.DataFrame]:
    """Choose for a place on all its labelled images, and say what that is worth there.

    Parameters
    ----------
    predictions : DataFrame
        Of local images, one split, with labels; `predicted` as the run answers elsewhere.
    rule : str
        See `thresholds.choose_threshold`; of no account where there are more than two classes.
    draws : int, see `by_patients`
    repeats : int, of the bootstrap over patients
    seed : int, of folds, draws and bootstrap

    Returns
    -------
    dict of plain values
        threshold (None for more than two classes) and temperature: {"value", "low", "high"} (95 %,
        chosen anew on resampled patients), and "undefined", the resamples without one of the
        classes, where it is not 0; of the threshold also "at_temperature", where it lies among the
        probabilities at that temperature. auc, which they do not change. before, after, and
        difference (after less before, paired): of accuracy, balanced_accuracy, for two classes
        sensitivity, specificity, ppv, npv; loss (nats an image) and ece. steady, see `steadiness`,
        None where there are more than two classes.
    DataFrame, the answers of `cross_fit`

    Raises
    ------
    ValueError
        For less than two patients of a class, training or test images, an unknown rule.
    """
    held_out = cross_fit(predictions, rule, seed=seed)
    found = _choice_with_intervals(predictions, rule, repeats, seed)
    if threshold := found["threshold"]:
        at = calibration.threshold_at(threshold["value"], found["temperature"]["value"])
        threshold["at_temperature"] = at
    found |= _before_and_after(predictions, held_out, repeats, seed)
    two = len(classes_of(predictions)) == 2
    found["steady"] = steadiness(by_patients(predictions, rule, None, draws, seed)) if two else None
    return found, held_out


def check_enough(table: pd.DataFrame, classes: Sequence[str]) -> int:
    """Refuse images of a place on which nothing can be chosen and measured.

    Parameters
    ----------
    table : DataFrame, records or predictions: path, label, patient
    classes : list of str, that there must be

    Returns
    -------
    int, patients of the class that fewest have

    Raises
    ------
    ValueError
        For less than two patients of a class.
    """
    counts = patients_of(table).groupby(table["label"]).nunique().reindex(classes, fill_value=0)
    if counts.min() < 2:
        found = ", ".join(f"{n} of {name}" for name, n in counts.items())
        raise ValueError(
            f"the labelled images are of too few patients ({found}); it takes 2 or more of each "
            "class, so that each can be judged by what was chosen on others. Label images of more "
            "patients of the place"
        )
    return int(counts.min())


def choose(predictions: pd.DataFrame, rule: str = "youden") -> Choice:
    """The threshold and the temperature that labelled images ask for.

    Parameters
    ----------
    predictions : DataFrame, with labels; no training and no test images
    rule : str, see `thresholds.choose_threshold`

    Returns
    -------
    Choice

    Examples
    --------
    >>> names = ["NORMAL", "PNEUMONIA", "NORMAL", "PNEUMONIA"]
    >>> local = pd.DataFrame({"split": "local", "label": names, "p_PNEUMONIA": [0.5, 0.75, 0.6, 1]})
    >>> local.insert(2, "p_NORMAL", 1 - local["p_PNEUMONIA"])
    >>> choose(local).threshold
    0.675
    """
    two = len(classes_of(predictions)) == 2
    threshold = thresholds.choose_threshold(predictions, rule) if two else None
    with warnings.catch_warnings():
        # Where every answer is right no temperature is likeliest, and 1 is kept.
        warnings.simplefilter("ignore")
        return Choice(threshold, calibration.fit_temperature(predictions))


def cross_fit(
    predictions: pd.DataFrame, rule: str = "youden", folds: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Answer each image by what was chosen on the patients of the other folds.

    Parameters
    ----------
    predictions : DataFrame, with labels
    rule : str, see `thresholds.choose_threshold`
    folds : int, at most; never more than the patients of a class
    seed : int, of the folds, which hold whole patients and the classes in their shares

    Returns
    -------
    DataFrame
        See `calibration.answered`, in the given order, with the columns fold (from 0), threshold
        (NaN without one) and temperature: those that the image was judged by.

    Raises
    ------
    ValueError
        For less than two folds, or two patients of a class.
    """
    if folds < 2:
        raise ValueError(
            f"folds is {folds}; it wants 2 or more, to choose on one and judge another"
        )
    predictions = predictions.reset_index(drop=True)
    patients, labels = patients_of(predictions), predictions["label"]
    n = min(folds, check_enough(predictions, checked_classes(predictions)))
    splitter, parts = StratifiedGroupKFold(n, shuffle=True, random_state=seed), []
    for fold, (mine, held) in enumerate(splitter.split(predictions, labels, patients)):
        choice = choose(predictions.iloc[mine], rule)
        by = {"threshold": np.nan if choice.threshold is None else choice.threshold}
        by["temperature"] = choice.temperature
        held_out = calibration.answered(predictions.iloc[held], *choice)
        parts.append(held_out.assign(fold=fold, **by))
    return pd.concat(parts).sort_index()


def _choice_with_intervals(predictions: pd.DataFrame, rule: str, repeats: int, seed: int) -> dict:
    """What is chosen on all images, and how far it moves with other patients."""
    check_bootstrap(repeats, 0.95)
    value, scores = choose(predictions, rule), scores_of(predictions)
    truth = predictions["label"].map(classes_of(predictions).index).to_numpy(int)
    patient, names = pd.factorize(patients_of(predictions))
    spread = []
    for block in resamples(len(names), repeats, seed, len(truth)):
        for often in block[:, patient].astype(int):
            drawn = np.repeat(np.arange(len(truth)), often)
            spread.append(_chosen_on(scores[drawn], truth[drawn], rule))
    spread = np.array(spread)
    return {
        name: None if value[i] is None else _with_ends(value[i], spread[:, i])
        for i, name in enumerate(Choice._fields)
    }


def _chosen_on(scores: np.ndarray, truth: np.ndarray, rule: str) -> tuple[float, float]:
    """The choice on bare numbers; NaN where all are of one class, and for no threshold."""
    if (truth == truth[0]).all():
        return np.nan, np.nan
    two = scores.shape[1] == 2
    threshold = thresholds.best_threshold(truth == 1, scores[:, 1], rule) if two else np.nan
    return threshold, calibration.likeliest_temperature(scores, truth)


def _with_ends(value: float, spread: np.ndarray) -> dict[str, float | int]:
    """A number that is no share with its percentile interval, stretched up to it."""
    kept = spread[~np.isnan(spread)]
    low, high = np.quantile(kept, _ENDS) if len(kept) else (value, value)
    # Unrounded: a threshold may lie between two neighboring numbers.
    ends = {"value": value, "low": min(low, value), "high": max(high, value)}
    lost = {"undefined": len(spread) - len(kept)} if len(kept) < len(spread) else {}
    return {name: float(number) for name, number in ends.items()} | lost


def _before_and_after(
    before: pd.DataFrame, after: pd.DataFrame, repeats: int, seed: int
) -> dict[str, dict]:
    """How good the answers are before a choice and, those of `cross_fit`, after it."""
    own, new = (compute_metrics(table, repeats, seed) for table in (before, after))
    rates = _RATES if len(classes_of(before)) == 2 else _OF_ALL_CLASSES
    apart = {
        name: comparison.paired_bootstrap(before, after, name, repeats, seed) for name in rates
    }
    found = {
        "before": {name: own[name] for name in rates},
        "after": {name: new[name] for name in rates},
        "difference": {
            name: {end: apart[name][end] for end in ("value", "low", "high")} for name in rates
        },
    }
    one, other = (_of_probabilities(table, repeats, seed) for table in (before, after))
    for name in one:
        found["before"][name] = _with_ends(one[name][0], one[name][1:])
        found["after"][name] = _with_ends(other[name][0], other[name][1:])
        gained = other[name] - one[name]
        found["difference"][name] = _with_ends(gained[0], gained[1:])
    return {"auc": own["auc"], **found}


def _of_probabilities(table: pd.DataFrame, repeats: int, seed: int) -> dict[str, np.ndarray]:
    """Loss and calibration error, first of all patients, then of each resample."""
    table = table.sort_values("path")  # both tables are resampled alike
    patient, names = pd.factorize(patients_of(table))
    found, bin_ = in_bins(table)
    sums = np.zeros((len(names), BINS + 2))  # of a patient: images, loss, and a gap in each bin
    np.add.at(sums, (patient, 0), 1)
    np.add.at(sums, (patient, 1), table["loss"].to_numpy())
    np.add.at(sums, (patient, bin_.astype(int) + 1), found["confidence"] - found["right"])
    draws = [np.ones((1, len(names))), *resamples(len(names), repeats, seed)]
    n, loss, *gaps = np.concatenate([often @ sums for often in draws]).T
    return {"loss": loss / n, "ece": np.abs(gaps).sum(0) / n}


def by_patients(
    predictions: pd.DataFrame,
    rule: str = "youden",
    numbers: Sequence[int] | None = None,
    draws: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose the threshold on few patients and on more, and measure it on the others.

    Parameters
    ----------
    predictions : DataFrame, with labels, two classes
    rule : str, see `thresholds.choose_threshold`
    numbers : list of int, optional
        Patients to choose on, half of them of each class (one with images of both may stand for
        either); None takes 4, 8, 16 ... and the largest number that leaves as many of the rarer
        class to measure on.
    draws : int, of patients, for each number
    seed : int, of the draws

    Returns
    -------
    DataFrame
        A row a draw: patients, images (chosen on), threshold, sensitivity, specificity and
        balanced_accuracy (on the others), and loss: how much more balanced accuracy the threshold
        that is chosen on all would have on those same others. No row where there are too few
        patients.

    Raises
    ------
    ValueError
        For other than two classes, too few patients, or a number that cannot be drawn.
    """
    positive = thresholds.positive_of(checked_classes(predictions))
    patient, most = patients_of(predictions).to_numpy(), _most(predictions)
    numbers = _numbers(most) if numbers is None else numbers
    if odd := [n for n in numbers if not 2 <= n <= most or n % 2]:
        raise ValueError(
            f"{many(odd[0], 'patient')} cannot be drawn; the number is even and from 2 to {most} "
            "here, so that as many of the rarer class are left to measure on"
        )
    ill = (predictions["label"] == positive).to_numpy()
    score = predictions[f"p_{positive}"].to_numpy(float)
    of_classes = [np.unique(patient[rows]) for rows in (~ill, ill)]
    draw, whole = np.random.default_rng(seed), thresholds.choose_threshold(predictions, rule)
    rows = []
    for n in np.repeat(numbers, draws):
        taken = np.concatenate([draw.permutation(names)[: n // 2] for names in of_classes])
        mine = np.isin(patient, taken)
        chosen = thresholds.best_threshold(ill[mine], score[mine], rule)
        others = score[~mine], ill[~mine]
        sensitivity, specificity = _rates(*others, chosen)
        balanced, best = (np.mean(_rates(*others, at)) for at in (chosen, whole))
        rows.append((n, mine.sum(), chosen, sensitivity, specificity, balanced, best - balanced))
    return pd.DataFrame(rows, columns=["patients", "images", *_OF_DRAWS])


def _most(predictions: pd.DataFrame) -> int:
    """So many patients may be drawn, half of each class, that as many are left."""
    patients = patients_of(predictions)
    fewest = check_enough(predictions, classes_of(predictions))
    return min(2 * (fewest // 2), patients.nunique() // 2 // 2 * 2)


def _numbers(most: int) -> list[int]:
    """4, 8, 16 ... and the largest."""
    powers = [2**i for i in range(2, most.bit_length())]
    return [*(n for n in powers if n < most), *[most] * (most >= 4)]


def _rates(score: np.ndarray, ill: np.ndarray, threshold: float) -> tuple[float, float]:
    """Sensitivity and specificity, NaN without images of the class."""
    called = score >= threshold
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum(called & ill) / np.sum(ill), np.sum(~called & ~ill) / np.sum(~ill)


def steadiness(draws: pd.DataFrame) -> dict:
    """From how many patients on the choice of a threshold is steady.

    That is the smallest number from which, there and at each larger one, 95 % of the draws have a
    balanced accuracy that is not further than 0.02 from that of the threshold chosen on all.

    Parameters
    ----------
    draws : DataFrame, see `by_patients`

    Returns
    -------
    dict of plain values
        patients, and images that these had (median), both None where no number is steady; within
        (0.02); numbers: a list with, for each number of patients, patients, images (median), and
        for each column of the draws {"value" (median), "low", "high" (95 % of the draws)}.

    Examples
    --------
    >>> columns = {"images": 4, "threshold": 0.5, "sensitivity": 1.0, "specificity": 0.8}
    >>> draws = pd.DataFrame({"patients": [4, 4, 8, 8], "loss": [0.3, 0.0, 0.01, 0.0], **columns})
    >>> steadiness(draws.assign(balanced_accuracy=0.9))["patients"]
    8
    """
    numbers = [_of_a_number(int(n), part) for n, part in draws.groupby("patients")]
    steady = None
    for row in numbers[::-1]:
        ends = [row["loss"][end] for end in ("low", "high")]
        if None in ends or max(map(abs, ends)) > _WITHIN + 1e-9:
            break
        steady = row
    known = {name: steady and steady[name] for name in ("patients", "images")}
    return {**known, "within": _WITHIN, "numbers": numbers}


def _of_a_number(patients: int, draws: pd.DataFrame) -> dict:
    """Median and range of each column; draws that left no patient of a class are passed over."""
    found = draws[list(_OF_DRAWS)].quantile([0.5, *_ENDS])
    ends = {
        name: dict(zip(("value", "low", "high"), map(json_number, found[name]))) for name in found
    }
    return {"patients": patients, "images": int(draws["images"].median()), **ends}


def table(found: dict) -> pd.DataFrame:
    """Before and after, for a person.

    Parameters
    ----------
    found : dict, see `fit`

    Returns
    -------
    DataFrame of str, a row a measure: "as the run answers", "adapted", "difference"
    """
    names = {"before": "as the run answers", "after": "adapted", "difference": "difference"}
    columns = {
        words: {name.replace("_", " "): as_text(value) for name, value in found[part].items()}
        for part, words in names.items()
    }
    return pd.DataFrame(columns)


def table_of_numbers(steady: dict) -> pd.DataFrame:
    """The numbers of patients and what a choice on so many is worth, one row a measure and number.

    Parameters
    ----------
    steady : dict, see `steadiness`

    Returns
    -------
    DataFrame, measure, patients, images, value, low, high
    """
    about = ("patients", "images")
    rows = [
        {"measure": name.replace("_", " "), **{of: one[of] for of in about}, **one[name]}
        for name in _OF_DRAWS
        for one in steady["numbers"]
    ]
    return pd.DataFrame(rows, columns=["measure", *about, "value", "low", "high"])


def in_words(found: dict) -> str:
    """Whether the choice is steady, in a few sentences, and whether it was measured to be a loss.

    Parameters
    ----------
    found : dict, see `fit`

    Returns
    -------
    str
    """
    steady, told = found["steady"], ""
    if steady is None:
        return (
            "More than two classes have no threshold: the temperature alone was chosen, so the "
            "answers are the same and their probabilities are not."
        )
    before, after, apart = (
        found[side]["balanced_accuracy"] for side in ("before", "after", "difference")
    )
    if apart["high"] is not None and apart["high"] < 0:
        told = f"It costs balanced accuracy: {before['value']:.3f} as the run answers and "
        told += f"{after['value']:.3f} adapted, measured on others; a difference of "
        told += f"{as_text(apart)}. "
    if not steady["numbers"]:
        return told + (
            "How many patients it takes until the choice is steady cannot be told from so few: it "
            "takes 4 of each class, and 8 in all; take the threshold for a guess, and label images "
            "of more patients."
        )
    if steady["patients"] is None:
        last = steady["numbers"][-1]
        most = f"up to {as_text(last['loss']['high'])}"
        return told + (
            f"The choice is not steady with {last['patients']} patients yet (no more can be tried, "
            f"as the others measure it): chosen on other draws of so many, it loses {most} of "
            f"the balanced accuracy of the choice on all in 95 % of the draws, where "
            f"{steady['within']:g} is allowed. "
            "Label images of more patients."
        )
    return told + (
        f"The choice is steady from {steady['patients']} patients (about {steady['images']} "
        f"images) on: in 95 % of the draws it stays within {steady['within']:g} of the balanced "
        "accuracy of the choice on all."
    )
