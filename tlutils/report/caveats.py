"""What a run's result does not say, computed from the facts of the run.

Each check looks at one fact and gives a `Limit` where that fact narrows what may be concluded.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from ..data import records
from ..runs.folder import Run
from .facts import images, is_phantom, kept_epoch, main_split, over_seeds, percent

ENOUGH_TO_CHOOSE = (
    100  # validation images; with fewer the accuracy moves in steps of more than a point
)
ENOUGH_OF_A_CLASS = (
    30  # images; 30 of 30 right still leaves a recall of 0.89 within the 95 % interval
)
WIDE = 0.10  # from one end of the accuracy's interval to the other
MISCALIBRATED = 0.10  # expected calibration error
SHIFTED = 0.10  # a class's share of the test images less its share of the training images


class Limit(NamedTuple):
    """title : a few words. text : sentences with the run's own numbers."""

    title: str
    text: str


def of(run: Run, audit: pd.DataFrame) -> list[Limit]:
    """The limits of a finished run, the gravest first.

    audit : what `audit.audit_all` found in the run's records.

    Raises
    ------
    NotARun where the run was not finished.
    """
    metrics = run.metrics
    of_run = [check(run) for check in (_phantoms, _random_weights, _leak)]
    of_numbers = [check(metrics) for check in (_constant, _interval, _disagreement, _validation)]
    of_making = [
        _seeds(run),
        _still_learning(run),
        _shortcuts(audit),
        _unknown_patients(run),
        _shares(run),
        _part(run),
    ]
    of_use = [check(metrics) for check in (_few_of_a_class, _calibration, _elsewhere)]
    return [limit for limit in of_run + of_numbers + of_making + of_use if limit]


def _phantoms(run: Run) -> Limit | None:
    return (
        Limit(
            "The images are phantoms",
            "They are drawings, not scans of patients. The result shows that the "
            "steps work; it says nothing about real images.",
        )
        if is_phantom(run)
        else None
    )


def _random_weights(run: Run) -> Limit | None:
    if run.weights != "random":
        return None
    frozen = "" if run.recipe.freeze == "none" else " The frozen layers stayed as they were drawn."
    return Limit(
        "The weights were random",
        "Nothing was transferred from other pictures, so this is no measure of "
        f"what transfer learning gives.{frozen}",
    )


def _leak(run: Run) -> Limit | None:
    what = run.about["audit"]["verdict"].removeprefix("LEAK: ")
    return (
        Limit("The splits leak", f"{what}. The numbers are higher than new patients would give.")
        if run.about["audit"]["leak"]
        else None
    )


def _constant(metrics: dict) -> Limit | None:
    found = metrics[main_split(metrics)]
    if found["accuracy"]["low"] > found["baseline"]:
        return None
    return Limit(
        "Not shown to be better than a constant answer",
        "Always giving the commonest answer would be right "
        f"for {percent(found['baseline'])}; the accuracy's interval begins at "
        f"{percent(found['accuracy']['low'])}.",
    )


def _interval(metrics: dict) -> Limit | None:
    found = metrics[main_split(metrics)]
    width = found["accuracy"]["high"] - found["accuracy"]["low"]
    if width < WIDE:
        return None
    return Limit(
        "The interval is wide",
        f"{images(found['n'])} of {found['patients']:,} patients leave "
        f"{100 * width:.0f} points between its ends. A model that is a few points better or worse cannot be "
        "told from this one by looking at the two numbers; compare both on the same patients.",
    )


def _disagreement(metrics: dict) -> Limit | None:
    if not {"val", "test"} <= metrics.keys():
        return None
    val, test = (metrics[split]["accuracy"] for split in ("val", "test"))
    if val["low"] <= test["high"] and test["low"] <= val["high"]:
        return None
    return Limit(
        "Validation and test disagree",
        f"The accuracy is {percent(val['value'])} on validation images and "
        f"{percent(test['value'])} on test images, and the intervals do not meet. The test images may come "
        "from another place or time, and what was chosen on validation may not fit them.",
    )


def _validation(metrics: dict) -> Limit | None:
    if "val" not in metrics:
        return Limit(
            "There was no validation set",
            "The last epoch was kept, whatever it was worth, and no "
            "threshold or temperature could be chosen without looking at the test images.",
        )
    n, patients = metrics["val"]["n"], metrics["val"]["patients"]
    if n >= ENOUGH_TO_CHOOSE:
        return None
    return Limit(
        "The validation set is small",
        f"The epoch, and every threshold, was chosen by {images(n)} of "
        f"{patients:,} patients, where one image more or less right moves the accuracy by "
        f"{100 / n:.1f} points.",
    )


def _seeds(run: Run) -> Limit:
    row = over_seeds(run)
    if row is None:
        return Limit(
            "One seed",
            f"Everything was drawn once, with seed {run.recipe.seed}. Other first weights and "
            "another order would give other numbers, and the intervals do not cover that; train it with "
            "--seeds 3.",
        )
    return Limit(
        f"{int(row['runs'])} seeds, one division",
        f"Their accuracies run from {percent(row['min'])} to "
        f"{percent(row['max'])} (mean {percent(row['mean'])}). All other numbers of this page are those of "
        "the first, and all seeds share one division of the patients.",
    )


def _still_learning(run: Run) -> Limit | None:
    history = run.history
    done = len(history) >= run.recipe.epochs and kept_epoch(run) == len(history)
    return (
        Limit(
            "It was still learning",
            f"The best epoch was the last one that it was allowed ({len(history)}), so "
            "more of them may give more.",
        )
        if done and history["val_loss"].notna().any()
        else None
    )


def _shortcuts(audit: pd.DataFrame) -> Limit | None:
    told = audit[(audit["check"] == "label shown by file properties") & (audit["verdict"] != "ok")]
    return (
        Limit("The label shows in the files themselves", told["meaning"].iloc[0])
        if len(told)
        else None
    )


def _unknown_patients(run: Run) -> Limit | None:
    unknown = int(records.unknown_patient(run.records).sum())
    return (
        Limit(
            "Patients are unknown",
            f"For {unknown:,} of {images(len(run.records))} no patient is known. Each "
            "counts as a patient of its own, so a person on two sides would go unseen and the intervals may be "
            "too narrow.",
        )
        if unknown
        else None
    )


def _shares(run: Run) -> Limit | None:
    """Whether a class is much commoner in training than in test."""
    shares = {
        split: run.part(split)["label"].value_counts(normalize=True) for split in ("train", "test")
    }
    if not all(map(len, shares.values())):
        return None
    moved = shares["test"].sub(shares["train"], fill_value=0).abs()
    name = moved.idxmax()
    then, now = (percent(shares[split].get(name, 0.0)) for split in ("train", "test"))
    return (
        Limit(
            "The classes are mixed differently",
            f"{name} is {then} of the training images and {now} of the "
            "test images. Probabilities, thresholds and predictive values depend on that share.",
        )
        if moved[name] >= SHIFTED
        else None
    )


def _part(run: Run) -> Limit | None:
    limit = run.about.get("limit")
    return (
        Limit("Part of the data", f"The run was limited to about {images(limit)}.")
        if limit
        else None
    )


def _few_of_a_class(metrics: dict) -> Limit | None:
    few = [
        f"{found['n']:,} of {name}"
        for name, found in metrics[main_split(metrics)]["per_class"].items()
        if found["n"] < ENOUGH_OF_A_CLASS
    ]
    return (
        Limit("Few images of a class", f"What is said of each class rests on {', '.join(few)}.")
        if few
        else None
    )


def _calibration(metrics: dict) -> Limit | None:
    error = metrics[main_split(metrics)]["ece"]
    return (
        Limit(
            "The probabilities are off",
            f"They miss how often the answers are right by {100 * error:.0f} points "
            "on average; do not read them as chances.",
        )
        if error > MISCALIBRATED
        else None
    )


def _elsewhere(metrics: dict) -> Limit:
    common = (
        " The predictive values hold only where the disease is as common as here."
        if "ppv" in metrics[main_split(metrics)]
        else ""
    )
    return Limit(
        "Other places",
        "All images come from one collection. Other machines, hospitals and people were not "
        f"looked at, nor images that show none of these classes.{common}",
    )
