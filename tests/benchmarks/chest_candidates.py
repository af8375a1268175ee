"""Which recipe for chest X-rays stands changes of acquisition best: candidates beside each other, plain and stressed.

python tests/benchmarks/chest_candidates.py --data chest_xray --weights mobilenet_v2.pth --work /tmp/candidates

Trained on patients of the training folder of Kermany et al. (2018) alone, judged on its validation patients alone; no
official test image is read. Each candidate is the recipe `chest-best` with some fields changed. Rules for the threshold
are applied to validation and measured on patients of the training folder that are held out of all this. Every run lies
in --work, so that a stopped script goes on. Writes chest_candidates.csv and chest_candidates_thresholds.csv beside this
file; chest_fit.csv is of those named "chosen", chest_best.csv of the recipe at its own size. Not one of the benchmarks of
`run.py`: it measures no time.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from common import FOLDER, machine_facts, say, write_csv
from torch import Tensor
from torch.optim import swa_utils

from tlutils.data import cleaning, loaders, records, sources, splits
from tlutils.evaluation.acquisition import Acquisition
from tlutils.evaluation.comparison import paired_bootstrap
from tlutils.evaluation.metrics import compute_metrics
from tlutils.evaluation.thresholds import apply_threshold, choose_threshold, split_rule
from tlutils.runs import recipes
from tlutils.runs.folder import Run
from tlutils.runs.stress import stress
from tlutils.runs.train import train
from tlutils.training import loop

CROP = "augmentation.crop"
BEFORE = {  # what chest-best had before this table
    CROP: (0.4, 1.0),
    "augmentation.brightness": 0.2,
    "augmentation.contrast": 0.4,
    "augmentation.gamma": 0.6,
    "augmentation.noise": 0.0,
}
JITTER = BEFORE | {
    "augmentation.brightness": 0.3,
    "augmentation.contrast": 0.6,
    "augmentation.gamma": 1.0,
}
WIDE = {CROP: (0.08, 1.0)}
GRAIN = {"augmentation.sharpness": 0.9, "augmentation.noise": 0.06}
NOTHING = ("shift", "rotate", "brightness", "contrast", "gamma", "noise")
CANDIDATES: dict[str, dict] = {
    "flips alone": {
        CROP: (1.0, 1.0),
        "augmentation.zoom": (1.0, 1.0),
        **{f"augmentation.{name}": 0.0 for name in NOTHING},
    },
    "crop 0.4-1": BEFORE,
    "crop 0.2-1": BEFORE | {CROP: (0.2, 1.0)},
    "crop 0.08-1": BEFORE | WIDE,
    "crop 0.08-1, aspect 0.75-1.33": BEFORE | WIDE | {"augmentation.aspect": (0.75, 4 / 3)},
    "crop 0.08-1, jitter": JITTER | WIDE,
    "crop 0.08-1, jitter, sharpness and noise": JITTER | WIDE | GRAIN,
    "crop 0.08-1, jitter, noise": JITTER | WIDE | {"augmentation.noise": 0.05},
    "crop 0.4-1, sharpness and noise": BEFORE | GRAIN,
    "crop 0.2-1, jitter": JITTER | {CROP: (0.2, 1.0)},
    "crop 0.08-1, jitter, balanced batches": JITTER
    | WIDE
    | {"balanced": True, "class_weights": None},
    "crop 0.08-1, jitter, label smoothing 0.1": JITTER | WIDE | {"label_smoothing": 0.1},
    "crop 0.08-1, jitter, epoch by stress": JITTER | WIDE | {"monitor": "stress_auc"},
}
CHOSEN = CANDIDATES["crop 0.08-1, jitter, noise"]
CANDIDATES |= {
    "chosen": CHOSEN,
    "chosen, balanced batches": CHOSEN | {"balanced": True, "class_weights": None},
    "chosen, layer decay 0.9": CHOSEN | {"layer_decay": 0.9},
    "chosen, half as many epochs again": CHOSEN | {"epochs": 1.5},
    "chosen, 4 views at test time": CHOSEN | {"test_views": 4},
    "chosen, mean of weights": CHOSEN,
    "chosen, MixUp 0.2": CHOSEN,
    "chosen, layer decay 0.9, mean of weights": CHOSEN | {"layer_decay": 0.9},
}
RULES = ("youden", "specificity>=0.98", "stressed youden", "stressed specificity>=0.9")
MEASURES = ("auc", "accuracy", "sensitivity", "specificity")


@contextlib.contextmanager
def mean_of_weights(decay: float = 0.99) -> Iterator[None]:
    """Validate, and keep, the exponential moving mean of the weights of all steps so far."""
    step, validate, means = loop.step, loop.validate, {}

    def step_and_average(state: loop.State, inputs: Tensor, labels: Tensor) -> Tensor:
        if state.net not in means:
            averaging = swa_utils.get_ema_multi_avg_fn(decay)
            mean = swa_utils.AveragedModel(state.net, multi_avg_fn=averaging, use_buffers=True)
            means[state.net] = mean, None
        mean, own = means[state.net]
        if own:  # the mean was validated since
            state.net.load_state_dict(own)
            means[state.net] = mean, None
        totals = step(state, inputs, labels)
        mean.update_parameters(state.net)
        return totals

    def validate_mean(state: loop.State, *sources: object) -> dict:
        mean = means[state.net][0]
        means[state.net] = mean, copy.deepcopy(state.net.state_dict())
        state.net.load_state_dict(mean.module.state_dict())
        return validate(state, *sources)

    with mock.patch.multiple(loop, step=step_and_average, validate=validate_mean):
        yield


@contextlib.contextmanager
def mixup(alpha: float = 0.2) -> Iterator[None]:
    """Train on mixtures of two images each (Zhang et al., ICLR 2018), of a share of Beta(alpha, alpha)."""
    step, of_each, mixed, rng = loop.step, loop._losses, [], np.random.default_rng(0)

    def step_on_mixtures(state: loop.State, inputs: Tensor, labels: Tensor) -> Tensor:
        share = rng.beta(alpha, alpha)
        order = torch.from_numpy(rng.permutation(len(labels)))
        mixed[:] = [share, labels[order]]
        try:
            return step(state, share * inputs + (1 - share) * inputs[order], labels)
        finally:
            mixed.clear()

    def losses(state: loop.State, outputs: Tensor, labels: Tensor) -> Tensor:
        if not mixed:
            return of_each(state, outputs, labels)
        share, others = mixed
        own = of_each(state, outputs, labels)
        return share * own + (1 - share) * of_each(state, outputs, others)

    with mock.patch.multiple(loop, step=step_on_mixtures, _losses=losses):
        yield


# What `fit` does not have, as no candidate has shown that it should.
WAYS = {
    "chosen, mean of weights": mean_of_weights,
    "chosen, MixUp 0.2": mixup,
    "chosen, layer decay 0.9, mean of weights": mean_of_weights,
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
    parser.add_argument("--held-out", type=int, default=400, help="images for the thresholds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--out", type=Path, default=FOLDER / "chest_candidates.csv")
    given = parser.parse_args()
    manifest, held_out = divided(given)
    rows, thresholds = [], []
    for seed in given.seeds:
        first = None
        for name in given.only:
            which = {"candidate": name, "seed": seed}
            run = trained(name, seed, manifest, given)
            answers = stressed(run)
            first = answers if first is None else first
            rows.append(which | summed_up(run, answers) | gained(first, answers))
            others = stressed(run, held_out)
            thresholds += [which | one for one in at_each_rule(answers, others)]
            about = described(run, records.load(manifest), records.load(held_out), given)
            write_csv(pd.DataFrame(rows), about, given.out)
            write_csv(
                pd.DataFrame(thresholds), about, given.out.with_stem(f"{given.out.stem}_thresholds")
            )


def divided(given: argparse.Namespace) -> tuple[Path, Path]:
    """Manifests of the training folder's images, small, divided by patient: some to train on with those to validate on,
    and some that are held out."""
    root = sources.get(given.data)
    table = records.readable(records.inspect(records.scan(root), root, progress=False))
    table = table[table["split"] != "test"].assign(split="").reset_index(drop=True)
    table = splits.divide(table, "patient", val=0.15, test=0.15, seed=0)[0]
    parts = {split: part.reset_index(drop=True) for split, part in table.groupby("split")}
    parts["train"] = splits.sample(parts["train"], given.images, seed=0)
    parts["test"] = splits.sample(parts["test"], given.held_out, seed=0)
    table = pd.concat([parts["train"], parts["val"], parts["test"]], ignore_index=True)
    small = loaders.write_small(table, root, given.work / "images", given.size)
    manifests = [
        small / f"candidates-{given.images}.csv",
        small / f"held-out-{given.held_out}.csv",
    ]
    held_out = table["split"] == "test"
    cleaning.write(table[~held_out].reset_index(drop=True), small, manifests[0])
    others = table[held_out].assign(split="").reset_index(drop=True)
    cleaning.write(others, small, manifests[1])
    return manifests[0], manifests[1]


def trained(name: str, seed: int, manifest: Path, given: argparse.Namespace) -> Run:
    """The run of one candidate."""
    same = {"size": given.size, "epochs": given.epochs, "split": "official", "threshold": ""}
    changes = same | {"seed": seed, "split_seed": 0} | CANDIDATES[name]
    if isinstance(changes["epochs"], float):  # so many times as many
        changes["epochs"] = round(changes["epochs"] * given.epochs)
    folder = given.work / f"{name.replace(' ', '-').replace(',', '')}-{given.size}-s{seed}"
    recipe = recipes.get("chest-best").changed(changes)
    with WAYS.get(name, contextlib.nullcontext)():
        how = {"weights": given.weights, "precision": given.precision, "log": say}
        return train(recipe, manifest, folder, **how)


def stressed(run: Run, held_out: Path | None = None) -> pd.DataFrame:
    """The answers to validation images, or to others, as they are and under all changes."""
    where = "stress_predictions.csv" if held_out is None else f"evaluations/{held_out.stem}-*.csv"

    def files() -> list[Path]:
        return [file for file in run.folder.glob(where) if file.stem.endswith("predictions")]

    if not files():
        stress(run.folder, data=held_out, log=say)
    table = pd.read_csv(files()[0], dtype={"patient": str}, keep_default_na=False)
    return table.assign(loss=pd.to_numeric(table["loss"]))


def summed_up(run: Run, answers: pd.DataFrame) -> dict:
    """Of plain and of stressed validation images, at the threshold that stress asks for."""
    plain, dealt = in_two(answers)
    rule = choose_threshold(dealt, "youden")
    found = {"threshold": rule, "epoch": len(run.history)}
    for part, table in (("plain", plain), ("stressed", dealt)):
        found |= numbers(part, table, rule)
    each = apply_threshold(dealt, rule).assign(
        right=lambda of: of["predicted"] == of["label"],
    )
    balanced = each.groupby(["change", "label"])["right"].mean().unstack().mean(axis=1)
    return found | {"worst": balanced.idxmin(), "worst_balanced_accuracy": balanced.min()}


def gained(first: pd.DataFrame, answers: pd.DataFrame) -> dict:
    """The stressed AUC less that of the first candidate of the same seed, over the same patients."""
    pair = [in_two(of)[1] for of in (first, answers)]
    pair = [of.assign(path=of["change"] + " of " + of["path"]) for of in pair]
    found = paired_bootstrap(*pair, metric="auc", repeats=200)
    return {
        f"stressed_auc_gain{end and '_'}{end}": found[end or "value"] for end in ("", "low", "high")
    }


def at_each_rule(answers: pd.DataFrame, others: pd.DataFrame) -> list[dict]:
    """Each rule's threshold, chosen on validation, and the numbers of held-out patients at it."""
    plain, dealt = in_two(answers)
    found = []
    for how in RULES:
        of_stressed, rule = split_rule(how)
        threshold = choose_threshold(dealt if of_stressed else plain, rule)
        row = {"rule": how, "threshold": threshold}
        for part, table in zip(("plain", "stressed"), in_two(others)):
            row |= numbers(part, table, threshold)
        found.append(row)
    return found


def in_two(answers: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those to unchanged images, and those under changes."""
    plain = answers[answers["change"] == ""].reset_index(drop=True)
    dealt = answers[answers["change"].isin(Acquisition().changes)].reset_index(drop=True)
    return plain, dealt


def numbers(part: str, table: pd.DataFrame, threshold: float) -> dict:
    """The measures at a threshold, with their intervals."""
    metrics = compute_metrics(apply_threshold(table, threshold), threshold=threshold)
    return {
        f"{part}_{measure}{end and '_'}{end}": metrics[measure][end or "value"]
        for measure in MEASURES
        for end in ("", "low", "high")
    }


def described(
    run: Run, table: pd.DataFrame, held_out: pd.DataFrame, given: argparse.Namespace
) -> dict:
    """What the tables were made by."""
    parts = dict(list(table.groupby("split"))) | {"held out": held_out}
    return {
        "images": f"chest X-rays of Kermany et al. (2018), training folder only, {given.size} px",
        **{
            split: f"{len(part)} images of {part['patient'].nunique()} patients"
            for split, part in parts.items()
        },
        "training": f"chest-best with the named changes, {given.epochs} epochs after the head's",
        "threshold": "a candidate's is Youden's of the stressed validation images that are measured",
        **machine_facts(),
        "precision": run.about["machine"]["precision"],
    }


if __name__ == "__main__":
    main()
