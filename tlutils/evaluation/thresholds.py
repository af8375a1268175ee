"""From probabilities to answers: curves, thresholds chosen on validation images, coarser classes.

Predictions tables have the columns split, path, patient, label, predicted, p_<class>..., loss.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from sklearn import metrics as sk


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """Class names in index order.

    Parameters
    ----------
    predictions : DataFrame

    Returns
    -------
    list of str, in the order of the p_ columns
    """
    return [name[2:] for name in predictions if name.startswith("p_")]


def scores_of(predictions: pd.DataFrame) -> np.ndarray:
    """The probabilities.

    Parameters
    ----------
    predictions : DataFrame

    Returns
    -------
    ndarray, float64 (n, classes)
    """
    return predictions[[f"p_{name}" for name in classes_of(predictions)]].to_numpy(float)


def checked_classes(predictions: pd.DataFrame) -> list[str]:
    """The classes of a table that is fit for measuring.

    Parameters
    ----------
    predictions : DataFrame

    Returns
    -------
    list of str, see `classes_of`

    Raises
    ------
    ValueError
        For an empty table, several splits, labels that the model does not know, or missing
        probabilities.
    """
    classes, splits = classes_of(predictions), predictions["split"].astype(str).unique()
    if len(predictions) == 0:
        raise ValueError("the predictions table is empty; look at which split it was taken from")
    if len(splits) > 1:
        raise ValueError(
            f"the predictions are of several splits ({', '.join(splits)}); take one, "
            "e.g. predictions[predictions['split'] == 'test']"
        )
    if unknown := sorted(set(predictions["label"].astype(str)) - set(classes)):
        raise ValueError(
            f"found the labels {', '.join(map(repr, unknown))} but the model knows "
            f"{', '.join(classes)}; leave out images without a known label"
        )
    if lost := int(np.isnan(scores_of(predictions)).any(1).sum()):
        raise ValueError(
            f"{lost} of {len(predictions)} predictions have no probabilities (NaN); a training "
            "that diverged gives such answers, look at its losses"
        )
    return classes


def refuse_all_but_validation(predictions: pd.DataFrame, what: str) -> None:
    """Refuse test images, whose errors it would fit, and training images, known by heart.

    Parameters
    ----------
    predictions : DataFrame
    what : str, what is to be chosen, for the error

    Raises
    ------
    ValueError
        For such images.
    """
    if used := sorted({"test", "train"} & set(predictions["split"])):
        raise ValueError(
            f"these are {' and '.join(used)} images: a {what} chosen on test images fits the "
            "errors of exactly these patients, and training images the model knows by heart. "
            "Choose it on the validation images and apply it to the test images"
        )


def positive_of(classes: list[str], positive: str | None = None) -> str:
    """The positive one of two classes: as named, else the second (PNEUMONIA after NORMAL).

    Parameters
    ----------
    classes : list of str
    positive : str

    Returns
    -------
    str

    Raises
    ------
    ValueError
        For other than two classes, or an unknown name.
    """
    if len(classes) != 2:
        raise ValueError(
            f"a threshold divides two classes and there are {len(classes)} "
            f"({', '.join(classes)}); merge_classes makes two of them"
        )
    if positive not in (None, *classes):
        raise ValueError(f"positive is {positive!r}; it is one of {', '.join(classes)}")
    return positive or classes[1]


def negative_of(classes: list[str], positive: str) -> str:
    """The other one of two classes.

    Parameters
    ----------
    classes : list of str
    positive : str

    Returns
    -------
    str
    """
    return next(name for name in classes if name != positive)


def roc(predictions: pd.DataFrame, cls: str) -> pd.DataFrame:
    """The ROC curve of a class against the rest, from its probabilities.

    Parameters
    ----------
    predictions : DataFrame
    cls : str, the class

    Returns
    -------
    DataFrame of fpr, tpr, threshold
        The first row calls nothing positive (threshold inf), the last everything.

    Raises
    ------
    ValueError
        Where there are only images of the class, or none.
    """
    is_, scores = _one_against_rest(predictions, cls)
    fpr, tpr, threshold = sk.roc_curve(is_, scores, drop_intermediate=False)
    return pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": threshold})


def pr(predictions: pd.DataFrame, cls: str) -> pd.DataFrame:
    """The precision-recall curve of a class against the rest, from its probabilities.

    Parameters
    ----------
    predictions : DataFrame
    cls : str, the class

    Returns
    -------
    DataFrame of recall, precision, threshold

    Raises
    ------
    ValueError
        Where there are only images of the class, or none.
    """
    precision, recall, threshold = sk.precision_recall_curve(*_one_against_rest(predictions, cls))
    threshold = np.r_[threshold, np.inf]
    return pd.DataFrame({"recall": recall, "precision": precision, "threshold": threshold})


def _one_against_rest(predictions: pd.DataFrame, cls: str) -> tuple[pd.Series, pd.Series]:
    if cls not in (classes := classes_of(predictions)):
        raise ValueError(f"there is no class {cls!r}; the model knows {', '.join(classes)}")
    is_ = predictions["label"] == cls
    if not 0 < is_.sum() < len(is_):
        raise ValueError(
            f"{is_.sum()} of {len(is_)} images are {cls}; a curve wants images of it and of others"
        )
    return is_, predictions[f"p_{cls}"]


def choose_threshold(
    predictions: pd.DataFrame, how: str = "youden", positive: str | None = None
) -> float:
    """Choose, on validation images, from which probability on the answer is `positive`.

    Parameters
    ----------
    predictions : DataFrame of validation images, two classes
    how : str
        "youden" (largest sensitivity + specificity; Youden 1950), "sensitivity>=0.95" or
        "specificity>=0.95" (the best of the other where this holds), or "cost=5" (a missed positive
        costs as much as 5 false alarms).
    positive : str, the second of two classes unless named

    Returns
    -------
    float
        The middle between two neighboring scores, so that no image lies on it; above all scores
        where nothing may be called positive, 0 where everything must.

    Raises
    ------
    ValueError
        For test and training images, other than two classes, images of one class only, or an
        unknown rule.

    Examples
    --------
    >>> names = ["NORMAL", "PNEUMONIA", "PNEUMONIA"]
    >>> val = pd.DataFrame({"split": "val", "label": names, "p_PNEUMONIA": [0.25, 0.5, 0.75]})
    >>> val.insert(2, "p_NORMAL", 1 - val["p_PNEUMONIA"])
    >>> choose_threshold(val)
    0.375
    >>> apply_threshold(val, 0.625)["predicted"].tolist()
    ['NORMAL', 'NORMAL', 'PNEUMONIA']
    """
    refuse_all_but_validation(predictions, "threshold")
    positive = positive_of(checked_classes(predictions), positive)
    is_, scores = _one_against_rest(predictions, positive)
    return best_threshold(is_.to_numpy(), scores.to_numpy(float), how)


def best_threshold(is_: np.ndarray, scores: np.ndarray, how: str) -> float:
    """The threshold that a rule prefers, from bare numbers, where it is chosen many times over.

    Parameters
    ----------
    is_ : ndarray, bool (n,), which images are positive; both kinds must be there
    scores : ndarray, float (n,), probabilities of the positive class
    how : str, see `choose_threshold`

    Returns
    -------
    float, as there

    Examples
    --------
    >>> best_threshold(np.array([False, True, True]), np.array([0.25, 0.5, 0.75]), "youden")
    0.375
    """
    lower, place = np.unique(-scores, return_inverse=True)  # from the highest score down
    counts = (np.bincount(place, kind, len(lower)) for kind in (is_, ~is_))
    tpr, fpr = (np.r_[0, count.cumsum() / count.sum()] for count in counts)
    return _middle(np.r_[np.inf, -lower], _preferred(tpr, fpr, is_.mean(), how))


def split_rule(how: str) -> tuple[bool, str]:
    """A rule of `choose_threshold`, and whether it is for images under changed acquisition.

    Parameters
    ----------
    how : str
        A rule, maybe with the word stressed before it, or ""

    Returns
    -------
    bool
    str, the rule alone

    Raises
    ------
    ValueError
        As `check_rule`.

    Examples
    --------
    >>> split_rule("stressed specificity>=0.9")
    (True, 'specificity>=0.9')
    """
    stressed, rule = re.fullmatch(r"(stressed\s)?(.*)", how.strip(), re.DOTALL).groups()
    try:
        check_rule(rule)
    except ValueError as error:
        raise ValueError(
            f"{error}; after the word stressed (stressed specificity>=0.9) it holds for images "
            "under changes of acquisition"
        ) from None
    return bool(stressed), rule.strip()


def check_rule(how: str) -> re.Match | None:
    """The parts of a rule of `choose_threshold`.

    Parameters
    ----------
    how : str

    Returns
    -------
    re.Match, or None for "", which is no rule

    Raises
    ------
    ValueError
        For anything else.
    """
    found = re.fullmatch(
        r"(youden)|(sensitivity|specificity) *>= *(0?\.\d+|0|1|1\.0+)|cost *= *(\d*\.?\d+)",
        how.strip(),
    )
    if how and not found:
        raise ValueError(
            f"a threshold cannot be chosen by {how!r}; the rule is youden, sensitivity>=0.95, "
            "specificity>=0.95 or cost=5, with numbers of your own, rates from 0 to 1"
        )
    return found


def _preferred(tpr: np.ndarray, fpr: np.ndarray, share: float, how: str) -> int:
    """The row of a ROC curve that a rule prefers; of equal ones the highest threshold."""
    youden, rate, least, cost = check_rule(how or " ").groups()
    if youden:
        return int(np.argmax(tpr - fpr))
    if rate == "sensitivity":
        return int(np.argmax(tpr >= float(least) - 1e-12))  # 1 - 0.07 is a little less than 0.93
    if rate == "specificity":
        return int(np.argmax(np.where(1 - fpr >= float(least) - 1e-12, tpr, -1)))
    return int(np.argmin(float(cost) * share * (1 - tpr) + (1 - share) * fpr))


def _middle(thresholds: np.ndarray, row: int) -> float:
    """Between the lowest score called positive at this row (1 if none) and the next one below."""
    if row == len(thresholds) - 1:
        return 0.0
    upper, lower = min(thresholds[row], 1.0), thresholds[row + 1]
    middle = (upper + lower) / 2
    return float(middle if middle > lower else np.nextafter(lower, 2))


def apply_threshold(
    predictions: pd.DataFrame, threshold: float, positive: str | None = None
) -> pd.DataFrame:
    """The same table with `predicted` positive from a probability of the positive class on.

    Parameters
    ----------
    predictions : DataFrame, two classes
    threshold : float
    positive : str, the second of two classes unless named

    Returns
    -------
    DataFrame

    Examples
    --------
    >>> table = pd.DataFrame({"p_NORMAL": [0.75, 0.25], "p_PNEUMONIA": [0.25, 0.75]})
    >>> apply_threshold(table, 0.25)["predicted"].tolist()
    ['PNEUMONIA', 'PNEUMONIA']
    """
    classes = classes_of(predictions)
    positive = positive_of(classes, positive)
    called = predictions[f"p_{positive}"] >= threshold
    return predictions.assign(predicted=np.where(called, positive, negative_of(classes, positive)))


def merge_classes(predictions: pd.DataFrame, groups: dict[str, list[str]]) -> pd.DataFrame:
    """The same predictions for coarser classes: probabilities add up.

    Parameters
    ----------
    predictions : DataFrame
    groups : dict, such as {"NORMAL": ["NORMAL"], "disease": ["CNV", "DME", "DRUSEN"]}

    Returns
    -------
    DataFrame

    Raises
    ------
    ValueError
        Where the groups are not a division of the classes.

    Examples
    --------
    >>> table = pd.DataFrame({"split": "val", "path": ["1.png"], "patient": "1", "label": "DME"})
    >>> table = table.assign(p_CNV=0.375, p_DME=0.25, p_NORMAL=0.375)
    >>> merged = merge_classes(table, {"NORMAL": ["NORMAL"], "disease": ["CNV", "DME"]})
    >>> merged[["label", "predicted", "p_disease"]].values.tolist()
    [['disease', 'disease', 0.625]]
    """
    classes, named = classes_of(predictions), [name for group in groups.values() for name in group]
    if sorted(named) != sorted(classes):
        raise ValueError(
            f"the groups hold {', '.join(sorted(named))}; they must divide "
            f"{', '.join(sorted(classes))}"
        )
    columns = {name: [f"p_{part}" for part in parts] for name, parts in groups.items()}
    scores = pd.DataFrame({name: predictions[of].sum(axis=1) for name, of in columns.items()})
    group_of = {part: name for name, parts in groups.items() for part in parts}
    labels = [group_of.get(name, "") for name in predictions["label"]]
    label = pd.Series(labels, predictions.index, dtype=str)
    true = sum(scores[name].where(label == name, 0) for name in groups)
    loss = -np.log(true.clip(lower=np.finfo(float).tiny)).where(label != "")
    merged = predictions[["split", "path", "patient"]].assign(
        label=label, predicted=scores.idxmax(axis=1)
    )
    return merged.join(scores.add_prefix("p_")).assign(loss=loss)
