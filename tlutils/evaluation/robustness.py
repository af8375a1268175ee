"""How a model fares when the acquisition changes: the numbers of each change beside those without.

In comes a predictions table of the same images under several changes, with a column `change`, which
is "" where the images are as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..core.intervals import check_bootstrap
from ..core.words import many, threshold_as_text
from .comparison import answer_alike, interval_of_difference
from .metrics import (
    as_text,
    denominator,
    resampled,
    unknown_patients,
)
from .thresholds import checked_classes

_LEVEL = 0.95  # of all intervals
_OF_TWO_CLASSES = ("accuracy", "sensitivity", "specificity", "balanced_accuracy", "auc")
_NAMES = {"auc": "AUC", "balanced_accuracy": "balanced accuracy"}
_OF_MORE = ("accuracy", "balanced_accuracy", "auc")


def measure(predictions: pd.DataFrame, repeats: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Numbers under each change, and what the change makes of them, with intervals over patients.

    Patients are drawn alike for all changes, so a difference is one of the same patients.

    Parameters
    ----------
    predictions : DataFrame of one split, with labels and `change`
    repeats : int, of the bootstrap
    seed : int, of the bootstrap

    Returns
    -------
    DataFrame
        A row a change in the order of the predictions, the unchanged images ("") first: change, n,
        patients; of accuracy, balanced_accuracy and auc, for two classes sensitivity and
        specificity too: <name>, <name>_low, <name>_high (95 %), and <name>_difference to the
        unchanged images, <name>_difference_low, <name>_difference_high. NaN where undefined.

    Raises
    ------
    ValueError
        Where the images are not the same under every change, or not there without one; and what
        `metrics.compute_metrics` refuses.

    Examples
    --------
    >>> plain = pd.DataFrame({"split": "val", "path": list("abcd"), "patient": list("1234"),
    ...     "label": list("NNPP"), "predicted": list("NNPP"), "p_N": [0.9, 0.8, 0.1, 0.2],
    ...     "p_P": [0.1, 0.2, 0.9, 0.8], "change": ""})
    >>> dark = plain.assign(predicted=list("NPPP"), change="dark")
    >>> found = measure(pd.concat([plain, dark]), repeats=100).set_index("change")
    >>> found.loc["dark", ["sensitivity", "specificity", "specificity_difference"]].tolist()
    [1.0, 0.5, -0.5]
    """
    check_bootstrap(repeats, _LEVEL)
    parts = _by_change(predictions)
    plain, unknown, rows = resampled(parts[""], repeats, seed), unknown_patients(parts[""]), []
    for name, part in parts.items():
        one = plain if answer_alike(part, parts[""]) else resampled(part, repeats, seed)
        row = {"change": name, "n": len(parts[name]), "patients": plain.rests_on("accuracy")}
        row["unknown_patients"] = unknown
        for of in _OF_TWO_CLASSES if "sensitivity" in one.values else _OF_MORE:
            row |= _with_ends(of, one.interval(of, _LEVEL))
            row |= _with_ends(f"{of}_difference", interval_of_difference(plain, one, of))
        rows.append(row)
    return pd.DataFrame(rows)


def _by_change(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each change, in one order of the images."""
    checked_classes(predictions)
    predictions = predictions.assign(change=predictions["change"].fillna(""))
    parts = {
        str(name): part.sort_values("path").reset_index(drop=True)
        for name, part in predictions.groupby("change", sort=False)
    }
    if "" not in parts:
        raise ValueError(
            "there are no predictions of the images as they are; changes are measured against "
            "those, whose `change` is ''"
        )
    parts = {"": parts.pop(""), **parts}
    for name, part in parts.items():
        if part["path"].tolist() != parts[""]["path"].tolist():
            raise ValueError(
                f"under the change {name!r} there are predictions of {many(len(part))}, and not of "
                f"the same {len(parts[''])} as without a change; predict the same ones under each"
            )
    return parts


def _with_ends(name: str, found: Mapping[str, float | None]) -> dict[str, float]:
    numbers = (np.nan if found[end] is None else found[end] for end in ("value", "low", "high"))
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers))


def number_of(row: Mapping, name: str) -> dict[str, float | None]:
    """A number of a row of `measure` with its ends, as metrics.json has it.

    Parameters
    ----------
    row : Mapping, a row of the table
    name : str, such as "auc" or "auc_difference"

    Returns
    -------
    dict of "value", "low", "high", None where undefined
    """
    numbers = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    found = (None if pd.isna(number) else float(number) for number in numbers)
    return dict(zip(("value", "low", "high"), found))


def worst(table: pd.DataFrame) -> pd.DataFrame:
    """The five changes that cost most balanced accuracy, which counts each class alike.

    Parameters
    ----------
    table : DataFrame, of `measure`

    Returns
    -------
    DataFrame
        Their rows, the worst first, of equal ones that which costs more AUC; changes that cost
        nothing are left out.
    """
    order = ["balanced_accuracy_difference", "auc_difference"]
    return table[table[order[0]] < 0].sort_values(order, kind="stable").head(5)


def measured_on(table: pd.DataFrame, split: str, threshold: float | None) -> str:
    """What a table was measured on, and how its cells are to be read, in a line.

    Parameters
    ----------
    table : DataFrame, of `measure`
    split : str, of which images in words, such as "validation"; "" of images without splits
    threshold : float or None, that was answered by

    Returns
    -------
    str

    Examples
    --------
    >>> table = pd.DataFrame({"change": ["", "dark"], "n": 17, "patients": 6})
    >>> measured_on(table, "validation", 0.885).partition("; ")[0]
    '17 validation images of 6 patients under 1 change, answered by threshold 0.885'
    """
    of = denominator(table.iloc[0], split)
    by = "" if threshold is None else f", answered by threshold {threshold_as_text(threshold)}"
    return (
        f"{of} under "
        f"{many(len(table) - 1, 'change')}{by}; {100 * _LEVEL:g} % intervals, then the difference "
        "to the unchanged images"
    )


def main_numbers(table: pd.DataFrame | Mapping) -> tuple[str, ...]:
    """The three numbers that say most: what depends on the threshold, for each class, and the AUC.

    Parameters
    ----------
    table : DataFrame of `measure`, or a row of it

    Returns
    -------
    tuple of str
    """
    of_two = ("sensitivity", "specificity", "auc")
    return of_two if "sensitivity" in table else ("balanced_accuracy", "accuracy", "auc")


def in_words(row: Mapping) -> str:
    """What a change does to a model, in a line.

    Parameters
    ----------
    row : Mapping, a row of `measure`; its `words`, where it has them, say what the change is

    Returns
    -------
    str

    Examples
    --------
    >>> low = {"sensitivity": 0.99, "sensitivity_difference": -0.005, "specificity": 0.6,
    ...        "specificity_difference": -0.375}
    >>> in_words({"change": "dark", "words": "darker by 30 %"} | low)
    'darker by 30 %: sensitivity 0.990 (lower by 0.005), specificity 0.600 (lower by 0.375)'
    """
    told = [_told(name, row[name], row[f"{name}_difference"]) for name in main_numbers(row)[:2]]
    return f"{_name(row)}: {', '.join(told)}"


def _told(name: str, value: float, difference: float) -> str:
    words = _NAMES.get(name, name)
    if pd.isna(value) or pd.isna(difference):
        return f"{words} undefined"
    if abs(difference) < 0.0005:
        return f"{words} {value:.3f} (the same)"
    side = "lower" if difference < 0 else "higher"
    return f"{words} {value:.3f} ({side} by {abs(difference):.3f})"


def where_none_costs(table: pd.DataFrame) -> str:
    """What is said where `worst` is empty: the AUC may be lost where no answer changes.

    A model that calls all ill has a balanced accuracy of one half whatever becomes of its images.

    Parameters
    ----------
    table : DataFrame, of `measure`

    Returns
    -------
    str
    """
    text = "none of them costs balanced accuracy"
    before = table[table["change"].fillna("") == ""]  # a file makes NaN of it
    if "sensitivity" in before and {*before["sensitivity"], *before["specificity"]} == {0, 1}:
        text += ", as there is none to lose: the unchanged images all get one answer"
    lost = table["auc_difference"]
    if not (lost < 0).any():
        return text
    row = table.loc[lost.idxmin()]
    return f"{text}; {_name(row)}: {_told('auc', row['auc'], row['auc_difference'])}"


def for_people(table: pd.DataFrame) -> pd.DataFrame:
    """The main numbers as text, each with its interval and what the change made of it.

    Parameters
    ----------
    table : DataFrame, of `measure`; its `words`, where it has them, name the rows

    Returns
    -------
    DataFrame of str, a row a change, its name in the first column, then a column a number
    """
    rows = table.to_dict("records")
    columns = {"change": table["change"].tolist()} | {
        _NAMES.get(name, name): [as_text(number_of(row, name)) + _signed(row, name) for row in rows]
        for name in main_numbers(table)
    }
    return pd.DataFrame(columns, [_name(row) for row in rows])


def _name(row: Mapping) -> str:
    return row.get("words") or row["change"] or "unchanged"


def _signed(row: Mapping, name: str) -> str:
    difference = row[f"{name}_difference"]
    return "" if row["change"] == "" or pd.isna(difference) else f" {difference:+.3f}"
