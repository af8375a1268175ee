"""Which recipe for chest X-rays stands changes of acquisition best: candidates beside each other, plain and stressed.

python tests/benchmarks/chest_candidates.py --data chest_xray --weights mobilenet_v2.pth --work /tmp/candidates

Trained on patients of the training folder of Kermany et al. (2018) alone, judged on its validation patients alone; no
official test image is read. Each candidate is the recipe `chest-best` with some fields changed. Every run lies in
--work, so that a stopped script goes on. Writes chest_candidates.csv beside this file. Not one of the benchmarks of
`run.py`: it measures no time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from common import FOLDER, machine_facts

from tlutils.data import cleaning, loaders, records, sources, splits
from tlutils.evaluation.acquisition import Acquisition
from tlutils.evaluation.metrics import compute_metrics
from tlutils.evaluation.thresholds import apply_threshold, choose_threshold
from tlutils.runs import recipes
from tlutils.runs.folder import Run
from tlutils.runs.stress import stress
from tlutils.runs.train import train

CROP = "augmentation.crop"
JITTER = {
    "augmentation.brightness": 0.3,
    "augmentation.contrast": 0.6,
    "augmentation.gamma": 1.0,
}
WIDE = {CROP: (0.08, 1.0)}
GRAIN = {"augmentation.sharpness": 0.9, "augmentation.noise": 0.06}
CANDIDATES: dict[str, dict] = {
    "flips alone": {
        CROP: (1.0, 1.0),
        "augmentation.zoom": (1.0, 1.0),
        **dict.fromkeys(
            [
                f"augmentation.{name}"
                for name in ("shift", "rotate", "brightness", "contrast", "gamma")
            ],
            0.0,
        ),
    },
    "crop 0.4-1": {CROP: (0.4, 1.0)},
    "crop 0.2-1": {CROP: (0.2, 1.0)},
    "crop 0.08-1": WIDE,
    "crop 0.08-1, aspect 0.75-1.33": WIDE | {"augmentation.aspect": (0.75, 4 / 3)},
    "crop 0.08-1, jitter": WIDE | JITTER,
    "crop 0.08-1, jitter, sharpness and noise": WIDE | JITTER | GRAIN,
    "crop 0.4-1, sharpness and noise": {CROP: (0.4, 1.0)} | GRAIN,
    "crop 0.2-1, jitter": {CROP: (0.2, 1.0)} | JITTER,
    "crop 0.08-1, jitter, balanced batches": WIDE
    | JITTER
    | {"balanced": True, "class_weights": None},
    "crop 0.08-1, jitter, label smoothing 0.1": WIDE | JITTER | {"label_smoothing": 0.1},
    "crop 0.08-1, jitter, epoch by stress": WIDE | JITTER | {"monitor": "stress_auc"},
}


def main() -> None:
    """Train what is not trained yet, measure, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real X-rays")
    parser.add_argument("--weights", required=True, help="MobileNetV2's of ImageNet")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is trained")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=1600, help="to train on; 0 for all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--out", type=Path, default=FOLDER / "chest_candidates.csv")
    given = parser.parse_args()
    manifest, rows = divided(given), []
    for seed in range(given.seeds):
        for name in given.only:
            rows.append({"candidate": name, "seed": seed} | measured(name, seed, manifest, given))
            write(pd.DataFrame(rows), manifest, given)


def divided(given: argparse.Namespace) -> Path:
    """A manifest of the training folder's images, small, divided by patient; some to train on."""
    root = sources.get(given.data)
    table = records.readable(records.inspect(records.scan(root), root, progress=False))
    table = table[table["split"] != "test"].assign(split="").reset_index(drop=True)
    table = splits.divide(table, "patient", val=0.15, test=0.15, seed=0)[0]
    parts = [table[table["split"] == split].reset_index(drop=True) for split in ("train", "val")]
    parts[0] = splits.sample(parts[0], given.images, seed=0)
    table = pd.concat(parts, ignore_index=True)
    small = loaders.write_small(table, root, given.work / "images", given.size)
    manifest = small / f"candidates-{given.images}.csv"
    cleaning.write(table, small, manifest)
    return manifest


def measured(name: str, seed: int, manifest: Path, given: argparse.Namespace) -> dict:
    """The numbers of one candidate, on validation patients, as they are and under all changes."""
    same = {"size": given.size, "epochs": given.epochs, "split": "official", "threshold": ""}
    changes = same | {"seed": seed, "split_seed": 0} | CANDIDATES[name]
    folder = given.work / f"{name.replace(' ', '-').replace(',', '')}-{given.size}-s{seed}"
    recipe = recipes.get("chest-best").changed(changes)
    run = train(recipe, manifest, folder, weights=given.weights, log=say)
    file = run.folder / "stress_predictions.csv"
    if not file.is_file():
        stress(run.folder, log=say)
    return summed_up(run, pd.read_csv(file, dtype={"patient": str}, keep_default_na=False))


def summed_up(run: Run, answers: pd.DataFrame) -> dict:
    """Of plain and of stressed validation images, at the threshold that stress asks for."""
    answers = answers.assign(loss=pd.to_numeric(answers["loss"]))
    dealt = answers[answers["change"].isin(Acquisition().changes)].reset_index(drop=True)
    plain = answers[answers["change"] == ""].reset_index(drop=True)
    rule = choose_threshold(dealt, "youden")
    found = {"threshold": rule, "epoch": len(run.history)}
    for part, table in (("plain", plain), ("stressed", dealt)):
        metrics = compute_metrics(apply_threshold(table, rule), threshold=rule)
        for measure in ("auc", "accuracy", "sensitivity", "specificity"):
            number = metrics[measure]
            found |= {f"{part}_{measure}": number["value"]}
            found |= {f"{part}_{measure}_{end}": number[end] for end in ("low", "high")}
    each = apply_threshold(dealt, rule).assign(
        right=lambda of: of["predicted"] == of["label"],
    )
    balanced = each.groupby(["change", "label"])["right"].mean().unstack().mean(axis=1)
    return found | {"worst": balanced.idxmin(), "worst_balanced_accuracy": balanced.min()}


def say(line: str) -> None:
    """Print at once, for who watches a file."""
    print(line, flush=True)


def write(rows: pd.DataFrame, manifest: Path, given: argparse.Namespace) -> None:
    """The table, with what it was made by above it."""
    table = records.load(manifest)
    count = table.groupby("split").agg(images=("path", "size"), patients=("patient", "nunique"))
    about = {
        "images": f"chest X-rays of Kermany et al. (2018), training folder only, {given.size} px",
        **{
            split: f"{row.images} images of {row.patients} patients"
            for split, row in count.iterrows()
        },
        "training": f"chest-best with the named changes, {given.epochs} epochs after the head's",
        "threshold": "Youden's, chosen on the stressed validation images that are measured",
        **machine_facts(),
    }
    with open(given.out, "w", encoding="utf-8") as file:
        file.writelines(f"# {name}: {value}\n" for name, value in about.items())
        rows.to_csv(file, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
