"""Two models on the same images: what may be said of their difference.

Every function takes predictions tables of one split. Patients are drawn where intervals are given; the tests of McNemar
and DeLong treat images as independent and say so.

Taught in notebooks 06 and 07.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chi2, norm, t
from sklearn import metrics as sk

from ..core.intervals import check_bootstrap, json_number, wilson
from .metrics import resampled, who
from .thresholds import checked, classes_of, negative_of, positive_of


def matched(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the same order of images and of classes (the first one's).

    Raises
    ------
    ValueError where they are not of the same images, each once, with the same labels, patients and classes.
    """
    for table in (first, second):
        if (twice := table.loc[table["path"].duplicated(), "path"]).any():
            raise ValueError(
                f"{len(twice)} of {len(table)} rows repeat an image, e.g. {twice.iloc[0]}; a comparison "
                "pairs the rows by path, so give each image once"
            )
    if set(first["path"]) != set(second["path"]) or len(first) != len(second):
        alone = sorted(set(first["path"]) ^ set(second["path"]))
        raise ValueError(
            f"the tables have {len(first)} and {len(second)} images, {len(alone)} of them in one only"
            f"{f', e.g. {alone[0]}' if alone else ''}; compare models on the same test images"
        )
    first, second = (table.sort_values("path").reset_index(drop=True) for table in (first, second))
    if sorted(checked(first)) != sorted(checked(second)):
        raise ValueError(
            f"one model knows {', '.join(classes_of(first))}, the other {', '.join(classes_of(second))}"
        )
    for column in (
        "label",
        "patient",
    ):  # other patients would be drawn for one table than for the other
        one, two = (_as_words(table[column]) for table in (first, second))
        if (one != two).any():
            raise ValueError(
                f"the tables disagree about {column}s, e.g. of {first.loc[one != two, 'path'].iloc[0]}; "
                "compare two runs on the same records"
            )
    return first, _with_class_order(second, classes_of(first))


def _as_words(column: pd.Series) -> pd.Series:
    """As text, "" where nothing is known: a file makes NaN of it, and numbers of names that look like some."""
    return column.astype(object).where(column.notna(), "").astype(str)


def _with_class_order(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The class order says which of two classes is the positive one."""
    scores = iter(f"p_{name}" for name in classes)
    return table[[next(scores) if name.startswith("p_") else name for name in table]]


def mcnemar(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """McNemar's test of two models on the same images.

    Returns
    -------
    both_right, only_first, only_second, both_wrong (images); chi2 (without continuity correction, NaN without
    disagreement); p, exact: the two-sided binomial probability of so uneven a split of the disagreements.

    Source: McNemar, Psychometrika 1947. Images count as independent, which those of one patient are not.

    Taught in notebook 06.
    """
    first, second = matched(first, second)
    one, two = (table["label"] == table["predicted"] for table in (first, second))
    b, c = int((one & ~two).sum()), int((two & ~one).sum())
    statistic = (b - c) ** 2 / (b + c) if b + c else math.nan
    return pd.Series(
        {
            "both_right": int((one & two).sum()),
            "only_first": b,
            "only_second": c,
            "both_wrong": int((~one & ~two).sum()),
            "chi2": statistic,
            "p": binomtest(b, b + c, 0.5).pvalue if b + c else 1.0,
        },
        name="McNemar",
        dtype=object,
    )


def paired_bootstrap(
    first: pd.DataFrame,
    second: pd.DataFrame,
    measure: str = "accuracy",
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    positive: str | None = None,
) -> dict[str, float]:
    """The second model's number minus the first's, with its interval, by bootstrap over patients.

    measure : accuracy, balanced_accuracy, macro_f1, auc; for two classes also sensitivity, specificity, ppv, npv.

    Returns
    -------
    {"value", "low", "high", "second_better"}: the last is the share of resamples in which the second is ahead,
    a tie counting half. None where the measure is undefined. Where all resamples agree (there is one patient, or one
    model is always right and the other never) they say nothing: the ends are then Wilson's for so many patients,
    stretched from 0 ... 1 to -1 ... 1.

    Raises
    ------
    ValueError for tables that do not match, an unknown measure, no repeats, or a level that is no share.

    Taught in notebook 06.
    """
    check_bootstrap(repeats, level)
    first, second = matched(first, second)
    (a, of_a), (b, of_b) = _known(
        [resampled(table, repeats, seed, positive) for table in (first, second)], measure
    )
    value, spread = b[measure] - a[measure], of_b[measure] - of_a[measure]
    kept = spread[~np.isnan(spread)].round(12)  # a rounding of the 16th digit is no lead
    if math.isnan(value) or not len(kept):
        return dict.fromkeys(("value", "low", "high", "second_better"))
    low, high = _ends(value, kept, level, _patients(first, measure))
    return {
        "value": json_number(value),
        "low": json_number(low),
        "high": json_number(high),
        "second_better": json_number(np.mean(kept > 0) + np.mean(kept == 0) / 2),
    }


def _known(found: list[tuple[dict, dict]], measure: str) -> list[tuple[dict, dict]]:
    """What `resampled` gave of each table, which must know the measure."""
    if measure not in found[0][0]:
        raise ValueError(f"measure is {measure!r}; it is one of {', '.join(found[0][0])}")
    return found


def _ends(value: float, spread: np.ndarray, level: float, patients: int) -> tuple[float, float]:
    low, high = np.percentile(spread, [50 * (1 - level), 50 * (1 + level)])
    if low == high and (abs(value) > 1e-12 or patients == 1):
        low, high = (2 * end - 1 for end in wilson((value + 1) / 2 * patients, patients, level))
    return min(low, value), max(high, value)


def _patients(predictions: pd.DataFrame, measure: str) -> int:
    """Patients that a measure rests on: for all but accuracy those of the rarest class."""
    whose = who(predictions)
    return int(
        whose.nunique()
        if measure == "accuracy"
        else whose.groupby(predictions["label"]).nunique().min()
    )


def delong(
    first: pd.DataFrame, second: pd.DataFrame, positive: str | None = None, level: float = 0.95
) -> pd.Series:
    """DeLong's test of the difference of two AUCs on the same images (two classes).

    Returns
    -------
    auc_first, auc_second, difference (second minus first), low, high, z, p (two-sided). Where the placements do not
    vary at all and the areas differ (1 against 0), there is no error to measure by: low, high, z and p are NaN.

    Raises
    ------
    ValueError for tables that do not match, other than two classes, or fewer than two images of one.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988, by ranks as in Sun and Xu, IEEE SPL 2014. Images count
    as independent; `paired_bootstrap` with measure="auc" draws patients.

    Taught in notebook 06.
    """
    first, second = matched(first, second)
    positive = positive_of(classes_of(first), positive)
    is_ = (first["label"] == positive).to_numpy()
    if min(is_.sum(), (~is_).sum()) < 2:
        raise ValueError(
            f"{is_.sum()} of {len(is_)} images are {positive}; the error of an AUC wants two images or "
            "more of both classes"
        )
    placed = [_placements(table[f"p_{positive}"].to_numpy(), is_) for table in (first, second)]
    auc = [of_positives.mean() for of_positives, _ in placed]
    difference = auc[1] - auc[0]
    variance = sum(np.var(two - one, ddof=1) / len(one) for one, two in zip(*placed))
    error = math.sqrt(variance) if variance > 0 or difference == 0 else math.nan
    z = difference / error if error else 0.0
    half = norm.ppf(0.5 + level / 2) * error
    return pd.Series(
        {
            "auc_first": auc[0],
            "auc_second": auc[1],
            "difference": difference,
            "low": difference - half,
            "high": difference + half,
            "z": z,
            "p": 2 * norm.sf(abs(z)),
        },
        name="DeLong",
    )


def _placements(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive, the share of negatives below it; of each negative, the share of positives above it."""
    ranks = pd.Series(scores).rank().to_numpy()
    m, n = positive.sum(), (~positive).sum()
    among_own = pd.Series(scores).groupby(positive).rank().to_numpy()
    return (ranks - among_own)[positive] / n, 1 - (ranks - among_own)[~positive] / m


def two_proportions(
    hits_first: int, n_first: int, hits_second: int, n_second: int
) -> tuple[float, float]:
    """z and two-sided p of the difference of two shares in *different* samples, with the pooled variance.

    Raises ValueError where the hits are not 0 ... n of one image or more. Taught in notebook 06.
    """
    for hits, n in ((hits_first, n_first), (hits_second, n_second)):
        if not 0 <= hits <= n or n < 1:
            raise ValueError(
                f"found {hits} hits of {n}; a share wants 0 to n hits of n images, n at least 1"
            )
    pooled = (hits_first + hits_second) / (n_first + n_second)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_first + 1 / n_second))
    z = (hits_second / n_second - hits_first / n_first) / error if error else 0.0
    return z, float(chi2.sf(z * z, 1))


def compare_recipes(
    first: Sequence[pd.DataFrame],
    second: Sequence[pd.DataFrame],
    measure: str = "accuracy",
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    positive: str | None = None,
) -> dict[str, float]:
    """The second recipe's mean number minus the first's, with an interval that counts patients and runs.

    Parameters
    ----------
    first, second : predictions tables of two or more runs each, of different seeds, all of the same images.
    measure, repeats, seed, positive : as for `paired_bootstrap`. level : of the interval.

    Returns
    -------
    {"value", "low", "high", "patients_error", "runs_error", "df"}, all None where the measure is undefined. With the
    difference d of the means over r and s runs,

        error^2 = patients_error^2 + runs_error^2,    runs_error^2 = sd(first)^2 / r + sd(second)^2 / s,

    where patients_error is that of d by the paired bootstrap over patients (half the interval's width over the normal
    quantile), low and high are d -+ t(df) error, and df is Welch and Satterthwaite's of the three parts, with
    patients - 1, r - 1 and s - 1. What seeds and patients do together is in both errors, so the interval is rather too
    wide than too narrow. A bootstrap over so few runs would be too narrow: it knows of no seed but those drawn.

    Raises
    ------
    ValueError for fewer than two runs a side, a run given twice, and what `paired_bootstrap` refuses.

    Source: Welch, Biometrika 1947; the two errors as of cases and readers in Obuchowski and Rockette, Communications in
    Statistics 1995; why seeds count, Bouthillier et al., Accounting for variance in machine learning benchmarks, MLSys
    2021.

    Taught in notebook 06.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"found {len(first)} and {len(second)} runs; how much seeds differ wants two runs or more of each "
            "recipe, see runs.train_seeds"
        )
    check_bootstrap(repeats, level)
    tables = [matched(first[0], table)[1] for table in (*first, *second)]
    _check_all_differ(tables)
    found = [resampled(table, repeats, seed, positive) for table in tables]
    values, spreads = (
        np.array([one[measure] for one in part]) for part in zip(*_known(found, measure))
    )
    a, b = values[: len(first)], values[len(first) :]
    value, spread = (
        b.mean() - a.mean(),
        spreads[len(first) :].mean(0) - spreads[: len(first)].mean(0),
    )
    kept, patients = spread[~np.isnan(spread)].round(12), _patients(tables[0], measure)
    if math.isnan(value) or not len(kept):
        return dict.fromkeys(("value", "low", "high", "patients_error", "runs_error", "df"))
    low, high = _ends(value, kept, level, patients)
    errors = np.array(
        [
            (high - low) / 2 / norm.ppf(0.5 + level / 2),
            *(x.std(ddof=1) / math.sqrt(len(x)) for x in (a, b)),
        ]
    )
    parts, error = errors**4 / [max(patients - 1, 1), len(a) - 1, len(b) - 1], math.hypot(*errors)
    df = error**4 / parts.sum() if error > 0 else math.inf
    half = t.ppf(0.5 + level / 2, df) * error
    return {
        name: json_number(number)
        for name, number in {
            "value": value,
            "low": value - half,
            "high": value + half,
            "patients_error": errors[0],
            "runs_error": math.hypot(*errors[1:]),
            "df": df,
        }.items()
    }


def _check_all_differ(tables: Sequence[pd.DataFrame]) -> None:
    """A run given twice would look like two seeds that agree."""
    scores = [table[[f"p_{name}" for name in classes_of(table)]].to_numpy() for table in tables]
    for i, one in enumerate(scores):
        if any(np.array_equal(one, other) for other in scores[:i]):
            raise ValueError(
                f"run {i + 1} of {len(scores)} has exactly the probabilities of another one; give each run "
                "once, of seeds of their own"
            )


def verdict(
    first: pd.DataFrame | Sequence[pd.DataFrame],
    second: pd.DataFrame | Sequence[pd.DataFrame],
    names: Sequence[str],
    measure: str = "accuracy",
    repeats: int = 1000,
    seed: int = 0,
) -> str:
    """One or two sentences about which of two recipes is better, that follow from the numbers.

    first, second : the predictions of several runs each, of different seeds, on the same images. A recipe is called
    better where the 95 % interval of `compare_recipes` does not hold 0. A single table, or a list of one, is one
    training: that cannot rank recipes, and what is said then is about the first trained model of each alone.

    Taught in notebook 06.
    """
    first, second = (
        [side] if isinstance(side, pd.DataFrame) else list(side) for side in (first, second)
    )
    one = min(len(first), len(second)) == 1
    found = (
        paired_bootstrap(first[0], second[0], measure, repeats, seed)
        if one
        else compare_recipes(first, second, measure, repeats, seed)
    )
    word = measure.replace("_", " ")
    if found["value"] is None:
        return f"These images cannot tell {names[0]} and {names[1]} apart ({word} is undefined on them)."
    ahead = names[1] if found["value"] > 0 else names[0]
    apart = not found["low"] <= 0 <= found["high"]
    behind = (
        f"{word} of {names[1]} minus {names[0]}: {found['value']:+.3f}, 95 % interval {found['low']:+.3f} to "
        f"{found['high']:+.3f}"
    )
    if not one:
        behind += (
            f" by {len(first)} and {len(second)} runs; standard error {found['patients_error']:.3f} of the patients, "
            f"{found['runs_error']:.3f} of the runs"
        )
        return (
            f"{ahead} is better ({behind})."
            if apart
            else f"These runs and images cannot tell {names[0]} and {names[1]} apart ({behind})."
        )
    test = mcnemar(first[0], second[0])
    p = f"p = {test['p']:.3f}" if test["p"] >= 0.001 else "p < 0.001"
    behind += (
        f" by bootstrap over patients; of {len(first[0])} images {test['only_first']} were right with {names[0]} "
        f"alone and {test['only_second']} with {names[1]} alone, McNemar {p}"
    )
    said = (
        f"of these two trained models {ahead} is ahead"
        if apart
        else "these images cannot tell the two models apart"
    )
    lone = [name for name, side in zip(names, (first, second)) if len(side) == 1]
    return (
        f"One training of {'each' if len(lone) == 2 else lone[0]} cannot tell whether {names[0]} or {names[1]} is "
        f"better: {said} ({behind})."
    )


def over_seeds(metrics: Sequence[dict]) -> pd.DataFrame:
    """Mean, standard deviation, smallest and largest of each overall number over several runs' metrics of one split.

    A row a measure: mean, sd (of a sample, NaN for one run), min, max, runs. Raises ValueError where there are no runs
    or no numbers with a value. Taught in notebook 06.
    """
    if not len(metrics):
        raise ValueError("there are no metrics to sum up; pass those of one split of each run")
    names = [
        name for name, value in metrics[0].items() if isinstance(value, dict) and "value" in value
    ]
    if not names:
        raise ValueError(
            f"found no measure with a value among {', '.join(metrics[0])}; pass the metrics of one split, "
            "such as run.metrics['test']"
        )
    table = pd.DataFrame(
        [{name: one[name]["value"] for name in names} for one in metrics], dtype=float
    )
    return pd.DataFrame(
        {
            "mean": table.mean(),
            "sd": table.std(ddof=1),
            "min": table.min(),
            "max": table.max(),
            "runs": len(table),
        }
    )


def medmnist(predictions: pd.DataFrame) -> dict[str, float]:
    """AUC and accuracy as MedMNIST's evaluator counts them, to stand beside its tables.

    Two classes: AUC of the second class's score, accuracy at 0.5. More: mean AUC of each class against the rest,
    accuracy of the likeliest class. `predicted`, where a threshold may play a part, is not looked at.

    Source: Yang et al., MedMNIST v2, Scientific Data 2023.
    """
    classes = checked(predictions)
    scores = predictions[[f"p_{name}" for name in classes]].to_numpy(float)
    truth = predictions["label"].map({name: i for i, name in enumerate(classes)}).to_numpy(int)
    asked = [1] if len(classes) == 2 else range(len(classes))
    said = (scores[:, 1] > 0.5).astype(int) if len(classes) == 2 else scores.argmax(1)
    return {
        "auc": float(np.mean([sk.roc_auc_score(truth == i, scores[:, i]) for i in asked])),
        "accuracy": float((said == truth).mean()),
    }


def from_confusion(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], positive: str | None = None
) -> dict[str, float]:
    """The rates of a published 2 x 2 table, rows true and columns answered, each under its right name.

    Returns
    -------
    accuracy, balanced_accuracy, sensitivity, specificity, ppv, npv, false_omission_rate (1 - npv: of those called
    negative, who is positive), false_positive_rate (1 - specificity: of the negatives, who is called positive), n.
    NaN where nobody was called so.

    Taught in notebook 07.
    """
    table = np.asarray(matrix, float)
    if table.shape != (2, 2) or not (table >= 0).all() or not table.sum():
        raise ValueError(
            f"the matrix is {table.tolist()}; it should be 2 x 2 counts of some images, rows true"
        )
    classes = list(classes)
    i = classes.index(positive_of(classes, positive))
    j = classes.index(negative_of(classes, classes[i]))
    tp, fn, fp, tn = table[i, i], table[i, j], table[j, i], table[j, j]
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = np.divide(tp, tp + fn), np.divide(tn, tn + fp)
        ppv, npv = np.divide(tp, tp + fp), np.divide(tn, tn + fn)
    return {
        "accuracy": float((tp + tn) / table.sum()),
        "balanced_accuracy": float((sensitivity + specificity) / 2),
        "sensitivity": float(sensitivity),
        "specificity": float(specificity),
        "ppv": float(ppv),
        "npv": float(npv),
        "false_omission_rate": float(1 - npv),
        "false_positive_rate": float(1 - specificity),
        "n": float(table.sum()),
    }
