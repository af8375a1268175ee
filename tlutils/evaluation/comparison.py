"""How two models differ, and how sure that is: on the same images, or by published numbers.

Most functions take predictions tables of the same images of one split. Their intervals draw
patients; the tests of McNemar and DeLong treat images as independent and say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chi2, norm, t

from ..core.intervals import (
    all_agree,
    check_bootstrap,
    interval,
    is_told,
    json_number,
    patients_of_mean,
    widened,
    wilson,
)
from ..core.words import many
from .metrics import Resampled, patients_of, rates, resampled, two_class_rates
from .thresholds import checked_classes, classes_of, negative_of, positive_of, scores_of

_LEVEL = 0.95  # of all intervals
_OF_BOTH_ERRORS = ("value", "low", "high", "patients_error", "runs_error", "df")
_WORDS = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}
_SAME = 1e-12  # what two equal numbers may differ by
_ROUNDING = 12  # digits; a rounding of the 16th is no lead


def mcnemar(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """McNemar's test of two models on the same images.

    Images count as independent, which those of one patient are not. Source: McNemar, Psychometrika
    1947.

    Parameters
    ----------
    first, second : DataFrame

    Returns
    -------
    Series
        both_right, only_first, only_second, both_wrong (images); chi2 (without continuity
        correction, NaN without disagreement); p, exact: the two-sided binomial probability of so
        uneven a split of the disagreements.

    Raises
    ------
    ValueError
        For tables that do not match.

    Examples
    --------
    >>> table = pd.DataFrame({"split": "test", "path": list("abcd"), "patient": list("1234"),
    ...                       "label": "A", "predicted": "A", "p_A": 0.9, "p_B": 0.1})
    >>> worse = table.assign(predicted=list("AABB"))
    >>> found = mcnemar(table, worse)
    >>> found["only_first"], found["only_second"], float(found["p"])
    (2, 0, 0.5)
    """
    first, second = _matched(first, second)
    one, two = (table["label"] == table["predicted"] for table in (first, second))
    b, c = int((one & ~two).sum()), int((two & ~one).sum())
    found = {
        "both_right": int((one & two).sum()),
        "only_first": b,
        "only_second": c,
        "both_wrong": int((~one & ~two).sum()),
        "chi2": (b - c) ** 2 / (b + c) if b + c else math.nan,
        "p": binomtest(b, b + c, 0.5).pvalue if b + c else 1.0,
    }
    return pd.Series(found, name="McNemar", dtype=object)


def paired_bootstrap(
    first: pd.DataFrame,
    second: pd.DataFrame,
    metric: str = "accuracy",
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """The second model's number minus the first's, with its interval, by bootstrap over patients.

    Parameters
    ----------
    first, second : DataFrame
    metric : str
        accuracy, balanced_accuracy, macro_f1, auc; "recall of", "precision of", "f1 of" or "auc of"
        a class; for two classes also sensitivity, specificity, ppv, npv.
    repeats : int, of the bootstrap
    seed : int, of the bootstrap

    Returns
    -------
    dict of value, low, high (95 %), second_better
        The last is the share of resamples in which the second is ahead, a tie counting half. All
        are None where the metric is undefined.

    Raises
    ------
    ValueError
        For tables that do not match, an unknown metric, or no repeats.
    """
    check_bootstrap(repeats, _LEVEL)
    first, second = _matched(first, second)
    both = _resampled([first, second], metric, repeats, seed)
    if answer_alike(first, second):
        both[1:] = both[:1]
    found = interval_of_difference(*both, metric)
    if found["value"] is None:
        return found | {"second_better": None}
    kept = _apart(*both, metric)
    kept = kept[~np.isnan(kept)]
    better = np.mean(kept > 0) + np.mean(kept == 0) / 2
    return found | {"second_better": json_number(better)}


def answer_alike(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether two tables of the same images have the same answers and probabilities.

    Parameters
    ----------
    first, second : DataFrame, in one order

    Returns
    -------
    bool
    """
    answers = (table["predicted"].to_numpy() for table in (first, second))
    return np.array_equal(*answers) and np.array_equal(scores_of(first), scores_of(second))


def interval_of_difference(
    first: Resampled, second: Resampled, metric: str, few: bool = True
) -> dict[str, float | None]:
    """A number of the second less that of the first with the interval of its resamples.

    It is that of `intervals.interval`, stretched from 0 ... 1 to -1 ... 1. Where all resamples
    agree, the two may still differ on other patients: on no disagreement among n patients as far as
    Wilson's interval for none of n reaches. A mean over classes is widened by what the difference
    of such a class may be (see `intervals.widened`).

    Parameters
    ----------
    first, second : Resampled, of the same images; the same one twice has no difference
    metric : str, one of their values
    few : bool, see `intervals.interval`

    Returns
    -------
    dict of value, low, high (95 %), all None where it is undefined
    """
    value = round(second.values[metric] - first.values[metric], _ROUNDING) + 0.0  # no -0.0
    spread = _apart(first, second, metric)
    if math.isnan(value) or np.isnan(spread).all():
        return dict.fromkeys(("value", "low", "high"))
    if first is second:
        return dict.fromkeys(("value", "low", "high"), 0.0)
    parts, patients = first.parts_of(metric), _patients((first, second), metric)
    each = {one: (_apart(first, second, one), _patients((first, second), one)) for one in parts}
    told = [part for part in each.values() if is_told(*part)]
    untold = [one for one, part in each.items() if not is_told(*part)]
    own = spread
    if untold:
        own = sum((drawn for drawn, _ in told), np.zeros_like(spread)) / len(parts)
    patients = patients_of_mean(told) if told else patients
    low = high = value
    if abs(value) > _SAME or not all_agree(own):
        found = interval((1 + value) / 2, (1 + own) / 2, _LEVEL, patients, few)
        low, high = (2 * found[end] - 1 for end in ("low", "high"))
    none = wilson(0.0, patients, _LEVEL)[1]  # one disagreement is not surer than none
    low = min(low, -none) if value <= 0 else low
    high = max(high, none) if value >= 0 else high
    if untold:
        mean = (value, low, high) if told else (value, None, None)
        ends = [tuple(interval_of_difference(first, second, one).values()) for one in untold]
        low, high = widened(mean, ends, len(parts), first.are_apart(parts))
    found = {"value": value, "low": max(-1.0, low), "high": min(1.0, high)}
    return {name: json_number(number) for name, number in found.items()}


def _apart(first: Resampled, second: Resampled, metric: str) -> np.ndarray:
    """What the second has more on each resample."""
    return (second.spreads[metric] - first.spreads[metric]).round(_ROUNDING)


def delong(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """DeLong's test of the difference of two AUCs on the same images (two classes).

    Images count as independent; `paired_bootstrap` of "auc" draws patients. Source: DeLong, DeLong
    and Clarke-Pearson, Biometrics 1988, by ranks as in Sun and Xu, IEEE SPL 2014.

    Parameters
    ----------
    first, second : DataFrame

    Returns
    -------
    Series
        auc_first, auc_second, difference (second minus first), low, high (95 %), z, p (two-sided).
        Where the placements do not vary at all and the areas differ (1 against 0), there is no
        error to measure by: low, high, z and p are NaN.

    Raises
    ------
    ValueError
        For tables that do not match, other than two classes, or fewer than two images of one.
    """
    first, second = _matched(first, second)
    positive = positive_of(classes_of(first))
    is_ = (first["label"] == positive).to_numpy()
    if min(is_.sum(), (~is_).sum()) < 2:
        raise ValueError(
            f"{is_.sum()} of {len(is_)} images are {positive}; the error of an AUC wants two "
            "images or more of both classes"
        )
    placed = [_placements(table[f"p_{positive}"].to_numpy(), is_) for table in (first, second)]
    auc = [of_positives.mean() for of_positives, _ in placed]
    difference = auc[1] - auc[0]
    variance = sum(np.var(two - one, ddof=1) / len(one) for one, two in zip(*placed))
    error = math.sqrt(variance) if variance > 0 or difference == 0 else math.nan
    z = difference / error if error else 0.0
    half = norm.ppf(0.5 + _LEVEL / 2) * error
    found = {
        "auc_first": auc[0],
        "auc_second": auc[1],
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "z": z,
        "p": 2 * norm.sf(abs(z)),
    }
    return pd.Series(found, name="DeLong")


def _placements(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive, the share of negatives below; of each negative, that of positives above."""
    ranks = pd.Series(scores).rank().to_numpy()
    m, n = positive.sum(), (~positive).sum()
    among_own = pd.Series(scores).groupby(positive).rank().to_numpy()
    return (ranks - among_own)[positive] / n, 1 - (ranks - among_own)[~positive] / m


def two_proportions(
    hits_first: int, n_first: int, hits_second: int, n_second: int
) -> tuple[float, float]:
    """The difference of two shares in *different* samples, with the pooled variance.

    Parameters
    ----------
    hits_first, n_first, hits_second, n_second : int

    Returns
    -------
    z and two-sided p

    Raises
    ------
    ValueError
        Where the hits are not 0 ... n of one image or more.
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
    metric: str = "accuracy",
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """The second recipe's mean number minus the first's; the interval counts patients and runs.

    With the difference d of the means over r and s runs,

        error^2 = patients_error^2 + runs_error^2,
        runs_error^2 = sd(first)^2 / r + sd(second)^2 / s,

    where patients_error is that of d by the paired bootstrap over patients (half the interval's
    width over the normal quantile), low and high are d -+ t(df) error, and df is Welch and
    Satterthwaite's of the three parts, with patients - 1, r - 1 and s - 1. What seeds and patients
    do together is in both errors, so the interval is rather too wide than too narrow. A bootstrap
    over so few runs would be too narrow: it knows of no seed but those drawn.

    Source: Welch, Biometrika 1947; the two errors as of cases and readers in Obuchowski and
    Rockette, Communications in Statistics 1995; why seeds count, Bouthillier et al., Accounting for
    variance in machine learning benchmarks, MLSys 2021.

    Parameters
    ----------
    first, second : list of DataFrame, of two or more runs each, all of the same images
        The runs are of different seeds.
    metric, repeats, seed : str and int, as for `paired_bootstrap`

    Returns
    -------
    dict of value, low, high (95 %), patients_error, runs_error, df
        All are None where the metric is undefined.

    Raises
    ------
    ValueError
        For fewer than two runs a side, a run given twice, and what `paired_bootstrap` refuses.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"found {len(first)} and {many(len(second), 'run')}; how much seeds differ wants two "
            "runs or more of each recipe, see runs.train.train_seeds"
        )
    found = _of_runs([*first, *second], metric, repeats, seed)
    sides = found[: len(first)], found[len(first) :]
    ends = interval_of_difference(*map(_mean, sides), metric, few=False)
    if ends["value"] is None:
        return dict.fromkeys(_OF_BOTH_ERRORS)
    a, b = (np.array([one.values[metric] for one in side]) for side in sides)
    ends = b.mean() - a.mean(), ends["low"], ends["high"]
    found = _of_both_errors(*ends, _patients(found, metric), (a, b))
    found |= {"low": max(-1.0, found["low"]), "high": min(1.0, found["high"])}
    return {name: json_number(number) for name, number in found.items()}


def _of_runs(runs: Sequence[pd.DataFrame], metric: str, repeats: int, seed: int) -> list[Resampled]:
    """What `_resampled` gives of runs of different seeds."""
    check_bootstrap(repeats, _LEVEL)
    tables = [_matched(runs[0], table)[1] for table in runs]
    _check_all_differ(tables)
    return _resampled(tables, metric, repeats, seed)


def _of_both_errors(
    value: float, low: float, high: float, patients: int, sides: Sequence[np.ndarray]
) -> dict[str, float]:
    """A mean over runs (or a difference of two) with the error of its patients and of its runs."""
    of_patients = (high - low) / 2 / norm.ppf(0.5 + _LEVEL / 2)
    errors = np.array([of_patients, *(x.std(ddof=1) / math.sqrt(len(x)) for x in sides)])
    free = [max(patients - 1, 1), *(len(x) - 1 for x in sides)]
    error = math.hypot(*errors)
    df = error**4 / (errors**4 / free).sum() if error > 0 else math.inf
    of_runs, z = math.hypot(*errors[1:]), norm.ppf(0.5 + _LEVEL / 2)
    below, above = (
        t.ppf(0.5 + _LEVEL / 2, df) * math.hypot(apart / z, of_runs)
        for apart in (value - low, high - value)
    )
    found = (value, value - below, value + above, of_patients, of_runs, df)
    return dict(zip(_OF_BOTH_ERRORS, found))


def mean_of_runs(
    runs: Sequence[pd.DataFrame], metric: str = "accuracy", repeats: int = 1000, seed: int = 0
) -> dict[str, float]:
    """A recipe's mean number over runs of different seeds; the interval counts patients and runs.

    The errors are those of `compare_recipes`, with one side.

    Parameters
    ----------
    runs : list of DataFrame, of two or more runs, all of the same images
    metric, repeats, seed : str and int, as for `paired_bootstrap`

    Returns
    -------
    dict of value, low, high (95 %, within 0 to 1), patients_error, runs_error, df
        All are None where the metric is undefined; all but the value where each run gives all
        images one answer (of the AUC, one score), as the metric is then the same for any patients.

    Raises
    ------
    ValueError
        For fewer than two runs, a run given twice, and what `paired_bootstrap` refuses.
    """
    if len(runs) < 2:
        raise ValueError(f"found {many(len(runs), 'run')}; how much seeds differ wants two or more")
    each = _of_runs(runs, metric, repeats, seed)
    values = np.array([one.values[metric] for one in each])
    ends = _mean(each).interval(metric, _LEVEL, few=False)
    if ends["low"] is None:
        return dict.fromkeys(_OF_BOTH_ERRORS) | {"value": ends["value"]}
    ends = values.mean(), ends["low"], ends["high"]
    found = _of_both_errors(*ends, _patients(each, metric), (values,))
    found |= {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}
    return {name: json_number(number) for name, number in found.items()}


def verdict(
    first: pd.DataFrame | Sequence[pd.DataFrame],
    second: pd.DataFrame | Sequence[pd.DataFrame],
    names: Sequence[str],
    metric: str = "accuracy",
    repeats: int = 1000,
    seed: int = 0,
) -> str:
    """One or two sentences about which of two recipes is better, that follow from the numbers.

    A recipe is called better where the interval of `compare_recipes` does not hold 0. One training
    cannot rank recipes, and the sentence is then about the first trained model of each alone.

    Parameters
    ----------
    first, second : list of DataFrame, of runs of different seeds on the same images
        A single table, or a list of one, is one training.
    names : list of str, of the two recipes
    metric, repeats, seed : str and int, as for `paired_bootstrap`

    Returns
    -------
    str
    """
    sides = [[one] if isinstance(one, pd.DataFrame) else list(one) for one in (first, second)]
    names = [f'"{name}"' for name in names]
    alone = [name for name, side in zip(names, sides) if len(side) == 1]
    if alone:
        found = paired_bootstrap(sides[0][0], sides[1][0], metric, repeats, seed)
    else:
        found = compare_recipes(*sides, metric, repeats, seed)
    word = _WORDS.get(metric, metric)
    both = f"{names[0]} and {names[1]}"
    if found["value"] is None:
        return f"These images cannot tell {both} apart ({word} is undefined on them)."
    ahead = names[1] if found["value"] > 0 else names[0]
    apart = not found["low"] <= 0 <= found["high"]
    numbers = (
        f"{word} of {names[1]} minus {names[0]}: {found['value']:+.3f}, 95 % interval "
        f"{found['low']:+.3f} to {found['high']:+.3f}"
    )
    if alone:
        return _of_trained_models(sides, names, metric, numbers, ahead if apart else "", alone)
    numbers += (
        f" by {len(sides[0])} and {len(sides[1])} runs; standard error "
        f"{found['patients_error']:.3f} of the patients, {found['runs_error']:.3f} of the runs"
    )
    result = f"{ahead} is better" if apart else f"These runs and images cannot tell {both} apart"
    return f"{result} ({numbers})."


def _of_trained_models(
    sides: list[list[pd.DataFrame]],
    names: Sequence[str],
    metric: str,
    numbers: str,
    ahead: str,
    alone: list[str],
) -> str:
    """The verdict where a side has one training alone."""
    tables = [side[0] for side in sides]
    of = metric.removeprefix("recall of ")
    if metric in ("sensitivity", "specificity"):
        positive = positive_of(classes := classes_of(tables[0]))
        of = positive if metric == "sensitivity" else negative_of(classes, positive)
    if of != metric:  # the images that it is about
        tables = [table[table["label"] == of] for table in tables]
    test = mcnemar(*tables)
    p = f"p = {test['p']:.3f}" if test["p"] >= 0.001 else "p < 0.001"
    # Of five disagreements, all on one side, no draw has another sign, and five tosses say little.
    if metric != "auc" and test["p"] >= 0.05 and not min(test["only_first"], test["only_second"]):
        p += ", which counts here, as no draw of disagreements on one side alone can turn the sign"
        ahead = ""
    result = "These images cannot tell the two models apart"
    if ahead:
        result = f"Of these two trained models {ahead} is ahead"
    return (
        f"{result} ({numbers} by bootstrap over patients; of "
        f"{len(tables[0])} images of {many(patients_of(tables[0]).nunique(), 'patient')} "
        f"{test['only_first']} were right with {names[0]} alone and "
        f"{test['only_second']} with {names[1]} alone, McNemar {p}). Which way to train is better, "
        f"one training of {'each' if len(alone) == 2 else alone[0]} cannot tell."
    )


def over_seeds(metrics: Sequence[dict]) -> pd.DataFrame:
    """The overall numbers of one split over several runs of different seeds.

    Parameters
    ----------
    metrics : list of dict, of one split of each run, see `metrics.compute_metrics`

    Returns
    -------
    DataFrame, a row a metric: mean, sd (of a sample, NaN for one run), min, max, runs (those that
        have it; npv, say, is not there where nobody was called negative)

    Raises
    ------
    ValueError
        Where there are no runs, or no numbers with a value.
    """
    if not len(metrics):
        raise ValueError("there are no metrics to sum up; pass those of one split of each run")
    first = metrics[0].items()
    names = [name for name, value in first if isinstance(value, dict) and "value" in value]
    if not names:
        raise ValueError(
            f"found no metric with a value among {', '.join(metrics[0])}; pass the metrics of one "
            "split, such as run.metrics['test']"
        )
    rows = [{name: one[name]["value"] for name in names} for one in metrics]
    table = pd.DataFrame(rows, dtype=float)
    columns = {"mean": table.mean(), "sd": table.std(ddof=1), "min": table.min()}
    return pd.DataFrame({**columns, "max": table.max(), "runs": table.count()})


def from_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> dict[str, float]:
    """The rates of a published 2 x 2 table, each under its right name.

    Parameters
    ----------
    matrix : 2 x 2 counts, rows true and columns predicted
    classes : list of str, the second is the positive one

    Returns
    -------
    dict of float
        accuracy, balanced_accuracy, sensitivity, specificity, ppv, npv, false_omission_rate (1 -
        npv: of those called negative, who is positive), false_positive_rate (1 - specificity: of
        the negatives, who is called positive), n. NaN where nobody was called so.

    Raises
    ------
    ValueError
        For a matrix of other than such counts.
    """
    counts = np.asarray(matrix, float)
    if counts.shape != (2, 2) or not (counts >= 0).all() or not counts.sum():
        raise ValueError(
            f"the matrix is {counts.tolist()}; it should be 2 x 2 counts of some images, rows true"
        )
    classes, of = list(classes), rates(counts)
    positive = positive_of(classes)
    two = two_class_rates(lambda rate, name: of[rate][classes.index(name)], classes, positive)
    found = {
        "accuracy": of["accuracy"],
        "balanced_accuracy": of["recall"].mean(),
        **two,
        "false_omission_rate": 1 - two["npv"],
        "false_positive_rate": 1 - two["specificity"],
        "n": counts.sum(),
    }
    return {name: float(number) for name, number in found.items()}


def _matched(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the same order of images and of classes (the first one's)."""
    for table in (first, second):
        if (twice := table.loc[table["path"].duplicated(), "path"]).any():
            raise ValueError(
                f"{len(twice)} of {len(table)} rows repeat an image, e.g. {twice.iloc[0]}; a "
                "comparison pairs the rows by path, so give each image once"
            )
    if alone := sorted(set(first["path"]) ^ set(second["path"])):
        raise ValueError(
            f"the tables have {len(first)} and {many(len(second))}, {len(alone)} of them in one "
            f"only, e.g. {alone[0]}; compare models on the same test images"
        )
    first, second = (table.sort_values("path").reset_index(drop=True) for table in (first, second))
    if sorted(checked_classes(first)) != sorted(checked_classes(second)):
        raise ValueError(
            f"one model knows {', '.join(classes_of(first))}, the other "
            f"{', '.join(classes_of(second))}"
        )
    for column in ("label", "patient"):  # of other patients, each table would draw its own
        one, two = (_as_words(table[column]) for table in (first, second))
        if (one != two).any():
            raise ValueError(
                f"the tables disagree about {column}s, e.g. of "
                f"{first.loc[one != two, 'path'].iloc[0]}; compare two runs on the same records"
            )
    # The class order says which of two classes is the positive one.
    scores = iter(f"p_{name}" for name in classes_of(first))
    return first, second[[next(scores) if name.startswith("p_") else name for name in second]]


def _as_words(column: pd.Series) -> pd.Series:
    """As text, "" where nothing is known: a file makes NaN of it, and numbers of such names."""
    return column.astype(object).where(column.notna(), "").astype(str)


def _resampled(
    tables: Sequence[pd.DataFrame], metric: str, repeats: int, seed: int
) -> list[Resampled]:
    """The numbers of each table and of its resamples, of which the metric is one."""
    found = [resampled(table, repeats, seed) for table in tables]
    if metric not in found[0].values:
        raise ValueError(f"metric is {metric!r}; it is one of {', '.join(found[0].values)}")
    return found


def _patients(found: Sequence[Resampled], metric: str) -> int:
    """How many patients a metric rests on, of several tables the fewest."""
    return min(one.rests_on(metric) for one in found)


def _mean(found: Sequence[Resampled]) -> Resampled:
    """Of each number the mean over several tables of the same images."""
    names = found[0].values
    return Resampled(
        {name: float(np.mean([one.values[name] for one in found])) for name in names},
        {name: np.mean([one.spreads[name] for one in found], 0).round(_ROUNDING) for name in names},
        {name: min(one.patients[name] for one in found) for name in names},
        set.intersection(*(one.fixed for one in found)),
    )


def _check_all_differ(tables: Sequence[pd.DataFrame]) -> None:
    """A run given twice would look like two seeds that agree."""
    scores = [scores_of(table) for table in tables]
    for i, one in enumerate(scores):
        if any(np.array_equal(one, other) for other in scores[:i]):
            raise ValueError(
                f"run {i + 1} of {len(scores)} has exactly the probabilities of another one; give "
                "each run once, of seeds of their own"
            )
