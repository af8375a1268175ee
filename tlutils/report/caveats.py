"""What a run's result does not say, computed from the facts of the run.

Each check looks at one fact and gives a `Caveat` where that narrows what may be concluded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from ..core.words import many
from ..data import records
from ..evaluation.metrics import denominator, patients_of
from ..evaluation.novelty import ENOUGH
from ..runs import openings, reference
from ..runs.folder import Run
from ..training import monitors
from .facts import by_likeliest, kept_epoch, main_split, over_seeds, percent

# Validation images; with fewer the accuracy moves in steps of more than a point.
_ENOUGH_TO_CHOOSE = 100
# Images; 30 of 30 right still leaves a recall of 0.89 within the 95 % interval.
_ENOUGH_OF_A_CLASS = 30
_WIDE = 0.10  # from one end of the accuracy's interval to the other
_MISCALIBRATED = 0.10  # expected calibration error
_SHIFTED = 0.10  # a class's share of the test images less its share of the training images


class Caveat(NamedTuple):
    """One thing that the result does not say.

    Parameters
    ----------
    title : str, a few words
    text : str, sentences with the run's own numbers
    """

    title: str
    text: str


def of(run: Run, audit: pd.DataFrame, sets: int | None = None) -> list[Caveat]:
    """Find what the result of a run does not say.

    Parameters
    ----------
    run : Run, finished
    audit : DataFrame, what the audit found in the run's records, files included
    sets : int, optional
        How many other sets of images the page tells of (see `facts.Elsewhere`); None where it tells
        of none, whatever was looked at.

    Returns
    -------
    list of Caveat, the gravest first
    """
    metrics = run.metrics
    found = metrics[main_split(metrics)]
    return [
        *_of_what_was_learned(run),
        *_of_accuracy(found),
        *_of_validation(metrics),
        *_of_novelty(run),
        *_of_openings(metrics),
        *_of_training(run),
        *_of_files(run, audit),
        *_of_classes(run),
        *_of_use(found, sets),
    ]


def _of_what_was_learned(run: Run) -> Iterator[Caveat]:
    if run.drawn:
        yield Caveat(
            "The images are phantoms",
            "They are drawings, not scans of patients. The result shows that the steps work; it "
            "says nothing about real images.",
        )
    if run.weights == "random":
        frozen = " The frozen layers stayed as they were drawn."
        yield Caveat(
            "The weights were random",
            "Nothing was transferred from other pictures, so this is no measure of what transfer "
            f"learning gives.{'' if run.recipe.freeze == 'none' else frozen}",
        )
    if run.about["audit"]["leak"]:
        what = run.about["audit"]["verdict"].removeprefix("LEAK: ")
        text = f"{what}. The numbers are higher than new patients would give."
        yield Caveat("The splits leak", text)


def _of_accuracy(found: dict) -> Iterator[Caveat]:
    low, high = found["accuracy"]["low"], found["accuracy"]["high"]
    if not low > found["baseline"]:
        yield Caveat(
            "Not shown to be better than a constant answer",
            f"Always giving the commonest answer would be right for {percent(found['baseline'])}; "
            f"the accuracy's interval begins at {percent(low)}.",
        )
    if not high - low < _WIDE:
        yield Caveat(
            "The interval is wide",
            f"{denominator(found)} leave "
            f"{100 * (high - low):.0f} points between its ends. A model that is a few points "
            "better or worse cannot be told from this one by looking at the two numbers; compare "
            "both on the same patients (comparison.paired_bootstrap of both predictions tables).",
        )


def _of_validation(metrics: dict) -> Iterator[Caveat]:
    if "val" not in metrics:
        yield Caveat(
            "There was no validation set",
            "The last epoch was kept, whatever it was worth, and no threshold or temperature could "
            "be chosen without looking at the test images.",
        )
        return
    val, test = (metrics.get(split, metrics["val"])["accuracy"] for split in ("val", "test"))
    if not (val["low"] <= test["high"] and test["low"] <= val["high"]):
        yield Caveat(
            "Validation and test disagree",
            f"The accuracy is {percent(val['value'])} on validation images and "
            f"{percent(test['value'])} on test images, and the intervals do not meet. The test "
            "images may come from another place or time, and what was chosen on validation may not "
            "fit them.",
        )
    n = metrics["val"]["n"]
    if n < _ENOUGH_TO_CHOOSE:
        yield Caveat(
            "The validation set is small",
            f"The epoch, and every threshold, was chosen by "
            f"{denominator(metrics['val'])}, where one image more or less right moves the accuracy "
            f"by {100 / n:.1f} points.",
        )


def _of_novelty(run: Run) -> Iterator[Caveat]:
    val = records.readable(run.part("val"))
    if patients_of(val).nunique() < ENOUGH and not reference.lacking(run):
        yield Caveat(
            "What is unlike the training images is told coarsely",
            f"An image is called so beyond {reference.limit_in_words(run)}. Of {ENOUGH} validation "
            "patients and more it would be about 1 in 100.",
        )


def _of_openings(metrics: dict) -> Iterator[Caveat]:
    count = openings.of(metrics)
    if count and count["settings"] > 1:
        yield Caveat(
            "The test images were looked at under several settings",
            f"{openings.in_words(count)} Views, threshold, temperature or weights differed. The "
            "best of several numbers is too good, as luck was picked with it; choose on validation "
            "images, and quote what was settled before the first look.",
        )


def _of_training(run: Run) -> Iterator[Caveat]:
    seeds, history = over_seeds(run), run.history
    if seeds is None:
        yield Caveat(
            "One seed",
            f"Everything was drawn once, with seed {run.recipe.seed}. Other first weights and "
            "another order would give other numbers, and the intervals do not cover that; train it "
            "with --seeds 3.",
        )
    else:
        yield Caveat(
            f"{int(seeds['runs'])} seeds, one division",
            f"Their accuracies run from {percent(seeds['min'])} to {percent(seeds['max'])} "
            f"(mean {percent(seeds['mean'])}). All other numbers of this page are those of the "
            "first, and all seeds share one division of the patients.",
        )
    loss = history["train_loss"].iloc[kept_epoch(run) - 1]
    if loss > monitors.DIVERGED:
        yield Caveat(
            "Training diverged",
            f"The training loss of the epoch that was kept is {loss:.3g}, far above that of "
            "guessing. Train anew with a smaller learning_rate before anything is made of it.",
        )
    validated = history["val_loss"].notna().any()
    allowed = run.recipe.epochs + run.recipe.head_epochs
    if validated and len(history) >= allowed and kept_epoch(run) == len(history):
        yield Caveat(
            "It was still learning",
            f"The best epoch was the last one that it was allowed ({run.recipe.epochs}), so more "
            "of them may give more.",
        )


def _of_files(run: Run, audit: pd.DataFrame) -> Iterator[Caveat]:
    told = audit[(audit["check"] == "label shown by file properties") & (audit["verdict"] != "ok")]
    for meaning in told["meaning"].head(1):
        yield Caveat("The label shows in the files themselves", meaning)
    whole = records.readable(run.records)
    if unknown := int(records.unknown_patient(whole).sum()):
        yield Caveat(
            "Patients are unknown",
            f"For {unknown:,} of {many(len(whole))} no patient is known. Each counts as a "
            "patient of its own, so a person on two sides would go unseen and the intervals may be "
            "too narrow.",
        )
    if several := records.of_several_classes(run.records):
        yield Caveat("Patients of more than one class", f"{several}.")


def _of_classes(run: Run) -> Iterator[Caveat]:
    train, test = (
        run.part(split)["label"].value_counts(normalize=True) for split in ("train", "test")
    )
    moved = test.sub(train, fill_value=0).abs()
    if len(train) and len(test) and moved.max() >= _SHIFTED:
        name = moved.idxmax()
        yield Caveat(
            "The classes are mixed differently",
            f"{name} is {percent(train.get(name, 0.0))} of the training images and "
            f"{percent(test.get(name, 0.0))} of the test images. Probabilities, thresholds and "
            "predictive values depend on that share.",
        )
    if limit := run.about.get("limit"):
        yield Caveat("Part of the data", f"The run was limited to about {many(limit)}.")


def _of_use(found: dict, sets: int | None) -> Iterator[Caveat]:
    few = [
        f"{of['n']:,} of {name}"
        for name, of in found["per_class"].items()
        if of["n"] < _ENOUGH_OF_A_CLASS
    ]
    if few:
        text = f"What is said of each class rests on {', '.join(few)}."
        yield Caveat("Few images of a class", text)
    chance = found.get("ece_by_chance", 0.0)
    if found["ece"] > max(_MISCALIBRATED, chance):
        by = "" if by_likeliest(found) else " (the answers go by the threshold, not by that class)"
        luck = f" (by chance up to {100 * chance:.0f}, a patient's images right or wrong together)"
        luck *= bool(chance)
        yield Caveat(
            "The probabilities are off",
            f"They miss how often the likeliest class is right by {100 * found['ece']:.0f} points "
            f"on average{by}{luck}; do not read them as chances.",
        )
    seen = "All images come from one collection. Other machines, hospitals and people"
    if sets is None:
        seen = "The run's own images come from one collection. For its result other machines, "
        seen += "hospitals and people"
    elif sets:
        counted = many(sets, "other set was looked at", "other sets were looked at")
        seen = "The run's own images come from one collection. "
        seen += f"{counted} (see Other images); machines, hospitals and people beyond these"
    common = " The predictive values hold only where the disease is as common as here."
    yield Caveat(
        "Other places",
        f"{seen} were not looked at, nor images that show none of these classes."
        f"{common if 'ppv' in found else ''}",
    )
