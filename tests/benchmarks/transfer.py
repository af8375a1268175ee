"""What ImageNet gives on real chest X-rays: accuracy against the number of patients learned from.

python tests/benchmarks/transfer.py --data chest_xray --weights mobilenet_v2.pth --work /tmp/transfer

Four ways to train a MobileNetV2, on the training images of Kermany et al. (2018) alone: 400 patients
of them are held out as the test, 150 others choose the learning rates. Every training that is done
lies in --work, so that a stopped script goes on. Writes transfer.csv beside this file and its
picture; notebook 07 shows both. Not one of the benchmarks of `run.py`: it measures no time.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import pandas as pd
from common import FOLDER, machine_facts, say, write_csv

from tlutils.core import devices
from tlutils.data import loaders, records, sources, splits
from tlutils.data.augment import Augmentation
from tlutils.plots import of_results
from tlutils.plots.style import style
from tlutils.runs import learning_curve
from tlutils.runs.recipes import Recipe

PATIENTS = [5, 10, 20, 40, 80, 160]
HELD_OUT, CHOOSING = 400, 150
SIZE, STEPS, SEEDS = 128, 100, 3
COMMON = {
    "data": "chest",
    "backbone": "mobilenet_v2",
    "head": "linear",
    "backbone_dropout": 0.0,
    "class_weights": "auto",
    "schedule": "one-cycle",
    "batch_size": 16,
    "size": SIZE,
}
FROZEN = Recipe("frozen", "the head alone", **COMMON, freeze="all", views=1)
TRAINED = Recipe(
    "trained",
    "all layers",
    **COMMON,
    freeze="none",
    views=0,
    augmentation=Augmentation(flip=0.5),
)
RATES = {"frozen": [3e-3, 1e-2, 3e-2], "trained": [1e-4, 3e-4, 1e-3, 3e-3]}


def main() -> None:
    """Train what is not trained yet, write the table and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real X-rays")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2's of ImageNet")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is trained")
    parser.add_argument("--out", type=Path, default=FOLDER / "transfer.csv")
    given = parser.parse_args()
    table, root = divided(given.data, given.work)
    how = {"machine": devices.choose("cpu", "fp32"), "show": False, "log": say}
    ways = {
        "random, frozen": (FROZEN, "random"),
        "ImageNet, frozen": (FROZEN, given.weights),
        "ImageNet, fine-tuned": (TRAINED, given.weights),
        "from scratch": (TRAINED, "random"),
    }
    arms = {name: chosen(name, *way, table, root, given.work, how) for name, way in ways.items()}
    of = {"seeds": SEEDS, "steps": STEPS, **how}
    found = learning_curve.train_by_patients(arms, table, root, PATIENTS, given.work / "runs", **of)
    write(found, arms, given.out)


def divided(data: Path, work: Path) -> tuple[pd.DataFrame, Path]:
    """The training images of the set, small, with test and choosing patients taken out of them."""
    root = sources.get(data)
    table = records.readable(records.inspect(records.scan(root), root, progress=False))
    table = table[table["split"] == "train"].reset_index(drop=True)
    test = set(splits.take_patients(table, HELD_OUT, seed=2018)["patient"])
    rest = table[~table["patient"].isin(test)]
    val = set(splits.take_patients(rest, CHOOSING, seed=2018)["patient"])
    table["split"] = [
        "test" if p in test else "val" if p in val else "train" for p in table["patient"]
    ]
    return table, loaders.write_small(table, root, work / "images", SIZE)


def chosen(
    name: str, recipe: Recipe, weights: str, table: pd.DataFrame, root: Path, work: Path, how: dict
) -> tuple[Recipe, str]:
    """The arm with the rate that was best on the choosing patients, after learning from 40 others."""
    ours = table[table["split"] != "test"]
    ours = ours.assign(split=ours["split"].replace({"val": "test"}))
    right = {}
    for rate in RATES[recipe.name]:
        arm = {name: (replace(recipe, learning_rate=rate), weights)}
        of = {"seeds": 2, "steps": STEPS, **how}
        found = learning_curve.train_by_patients(arm, ours, root, [40], work / "rates", **of)
        right[rate] = float((found["label"] == found["predicted"]).mean())
    best = max(right, key=right.get)
    say(f"{name}: accuracy by learning rate {right}, taken is {best}")
    return replace(recipe, learning_rate=best), weights


def write(found: pd.DataFrame, arms: dict, out: Path) -> None:
    """The table, with what it was made by above it, and its picture."""
    parts = [
        learning_curve.summarize(found, metric).assign(metric=metric)
        for metric in ("accuracy", "balanced_accuracy", "auc")
    ]
    rates = {name: recipe.learning_rate for name, (recipe, _) in arms.items()}
    one = found[found["seed"] == 0].query(f"patients == {PATIENTS[0]} and arm == 'from scratch'")
    baseline = one["label"].value_counts(normalize=True).max()
    about = {
        "images": f"chest X-rays of Kermany et al. (2018), training folder only, {SIZE} px",
        "test": f"{len(one)} images of {one['patient'].nunique()} held-out patients",
        "baseline": f"{baseline:.4f}",
        "training": f"{STEPS} steps of {COMMON['batch_size']} images or a few more, to the end of an "
        f"epoch; the last step's weights kept, {SEEDS} seeds",
        "learning rates": f"{rates}, chosen on {CHOOSING} other patients",
        **machine_facts(),
        "precision": "fp32",
    }
    columns = ["metric", "arm", "patients", "images", "runs", "value", "low", "high"]
    write_csv(pd.concat(parts)[columns], about, out)
    style()
    caption = f"MobileNetV2, {about['images']}; {about['test']}; {about['training']}"
    ax = of_results.accuracy_by_patients(parts[1], 0.5, "balanced accuracy", caption=caption)
    ax.figure.savefig(FOLDER.parents[1] / "notebooks" / "images" / "transfer.png", dpi=90)


if __name__ == "__main__":
    main()
