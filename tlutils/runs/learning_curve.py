"""How good ways to train are, by the number of patients that they may learn from.

Ways are recipes with the weights that they begin with ("frozen", "fine-tuned", "from scratch").
All of them learn from the same patients, few to many, and answer for the same other patients.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..core import devices
from ..core.devices import Machine
from ..core.images import state
from ..core.progress import bar
from ..core.words import many
from ..data import loaders, splits
from ..data.downloads import digest
from ..data.records import classes_of, fingerprint, readable, save
from ..evaluation.comparison import mean_of_runs
from ..evaluation.predict import predict
from ..models.build import build
from ..training import loop, tuning
from .folder import read_predictions
from .recipes import Recipe

_ASKED_AT_ONCE = 64  # images
_COLUMNS = ("arm", "patients", "images", "seed")


def train_by_patients(
    arms: Mapping[str, tuple[Recipe, str | Path]],
    records: pd.DataFrame,
    root: str | Path,
    patients: Sequence[int],
    out: str | Path,
    *,
    seeds: int = 3,
    steps: int = 100,
    machine: Machine | None = None,
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
) -> pd.DataFrame:
    """Train each arm on few and on more patients, several times, and let it answer the test images.

    What is trained already is read from `out`, so a sweep that was stopped goes on, and a further
    arm or number costs itself alone. There is no early stopping, as so few patients spare none for
    validation: every training has the same number of steps, and its last state answers.

    Parameters
    ----------
    arms : dict
        {name: (recipe, weights)}, weights as for `models.build.build`. Of the recipe, epochs,
        patience and seed do not count.
    records : DataFrame
        With split, of which the images of "train" are drawn from and those of "test" answered.
    root : str or Path, the folder from which paths start
    patients : list of int, how many to learn from; a seed's fewer are among its more
    out : str or Path, a folder for one small table a training, and for the frozen parts' outputs
    seeds : int
        Trainings of each arm and number; a seed draws the patients, the first weights, the order.
    steps : int
        Optimizer steps of each training, or a few more, to the end of an epoch; as many before
        them for the head alone where a recipe has head_epochs, whatever their number.
    machine : Machine, optional, what to compute on; None chooses, in fp32
    show : bool, optional, progress bar or not; None decides
    log : Callable, optional, called with a line a training; None for silence

    Returns
    -------
    DataFrame
        The predictions of all trainings, with the columns arm, patients, images, seed before them.

    Raises
    ------
    ValueError
        Where there are no training or no test images, fewer patients than asked for, or patients
        in both.
    """
    machine, log = machine or devices.choose(precision="fp32"), log or (lambda line: None)
    good = readable(records)
    parts = {part: good[good["split"] == part] for part in ("train", "test")}
    if lacking := [part for part, found in parts.items() if found.empty]:
        raise ValueError(f"there are no readable {lacking[0]} images; divide the records first")
    if shared := set.intersection(*(set(part["patient"]) for part in parts.values())) - {""}:
        who = many(len(shared), "patient has", "patients have")
        raise ValueError(f"{who} training and test images; divide by patient")
    todo = [(arm, n, seed) for n in patients for seed in range(seeds) for arm in arms]
    found, sources = [], {arm: _source_of(weights) for arm, (_, weights) in arms.items()}
    for arm, n, seed in bar(todo, "trainings", len(todo), "training", show=show):
        recipe, weights = arms[arm]
        recipe = replace(recipe, seed=seed)
        chosen = splits.take_patients(parts["train"], n, seed)
        images = [_mark(part, root) for part in (chosen, parts["test"])]
        key = _key(recipe, sources[arm], images, steps, machine)
        file = Path(out) / f"{key}.csv"
        if not file.is_file():
            learned, asked = _loaders(recipe, chosen, parts["test"], root)
            answers = _train_one(recipe, weights, learned, asked, steps, machine, out)
            save(answers, file)
        one = read_predictions(file)
        right = (one["label"] == one["predicted"]).mean()
        log(f"{arm}, {many(n, 'patient')} ({many(len(chosen))}), seed {seed}: accuracy {right:.3f}")
        found.append(one.assign(**dict(zip(_COLUMNS, (arm, n, len(chosen), seed)))))
    whole = pd.concat(found, ignore_index=True)
    return whole[[*_COLUMNS, *(name for name in whole if name not in _COLUMNS)]]


def _source_of(weights: str | Path) -> str:
    """What tells weights from others: their name, or the hash of their file."""
    file = Path(weights).expanduser()
    return digest(file) if file.is_file() else str(weights)


def _mark(part: pd.DataFrame, root: str | Path) -> str:
    """What changes with any path, label, patient or content, and with the files at root."""
    sizes = [str((state(Path(root) / path) or [""])[0]) for path in part["path"]]
    told = ["\0".join(row) for row in zip(part["label"], part["patient"], sizes)]
    return fingerprint(part.assign(label=told))


def _key(recipe: Recipe, source: str, images: list[str], steps: int, machine: Machine) -> str:
    """A name for a training that another one does not have."""
    settings = {**recipe.to_dict(), "name": "", "title": "", "epochs": 0, "patience": 0}
    told = json.dumps([settings, source, images, steps, machine.precision], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:20]


def _loaders(
    recipe: Recipe, chosen: pd.DataFrame, test: pd.DataFrame, root: str | Path
) -> tuple[loaders.Loader, loaders.Loader]:
    """The images to learn from, and those to answer."""
    classes = classes_of(pd.concat([chosen, test]), recipe.positive)
    of = {"batch_size": recipe.batch_size, "seed": recipe.seed, **recipe.reading()}
    learned = loaders.make(chosen, root, classes, shuffle=True, **of)
    return learned, loaders.make(test, root, classes, **of | {"batch_size": _ASKED_AT_ONCE})


def _train_one(
    recipe: Recipe,
    weights: str | Path,
    learned: loaders.Loader,
    asked: loaders.Loader,
    steps: int,
    machine: Machine,
    out: str | Path,
) -> pd.DataFrame:
    """The answers of a network that has learned."""
    model = build(**recipe.model_arguments(len(asked.classes)), weights=str(weights))
    store = Path(out) / "features" if recipe.views and recipe.freeze != "none" else None
    how = {"machine": machine, "store": store, "show": False, "log": None}
    parts, epochs = {"train": learned}, math.ceil(steps / len(learned))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="there is no validation set")
        if recipe.head_epochs:
            rate = recipe.head_learning_rate
            with tuning.head_alone(model):
                loop.fit(model, parts, tuning.head_options(recipe, epochs, rate), **how)
        loop.fit(model, parts, recipe, epochs=epochs, **how)
    return predict(model, asked, machine, progress=False, store=store)


def summarize(predictions: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """How good each arm was with so many patients, over its seeds.

    Parameters
    ----------
    predictions : DataFrame, as `train_by_patients` gives them
    metric : str, see `comparison.mean_of_runs`

    Returns
    -------
    DataFrame
        A row an arm and number of patients: arm, patients, images (on average), runs, and value,
        low and high (95 %, counting patients and runs) of the metric.
    """
    rows = []
    for (arm, n), part in predictions.groupby(["arm", "patients"], sort=False):
        runs = runs_of(part, arm, n)
        found = mean_of_runs(runs, metric)
        about = {"arm": arm, "patients": n, "images": part.groupby("seed")["images"].first().mean()}
        rows.append({**about, "runs": len(runs), **{k: found[k] for k in ("value", "low", "high")}})
    return pd.DataFrame(rows)


def runs_of(predictions: pd.DataFrame, arm: str, patients: int) -> list[pd.DataFrame]:
    """The predictions of one arm with so many patients, a table a seed, as comparisons take them.

    Parameters
    ----------
    predictions : DataFrame, as `train_by_patients` gives them
    arm : str
    patients : int

    Returns
    -------
    list of DataFrame

    Raises
    ------
    ValueError
        Where there are none.
    """
    part = predictions[(predictions["arm"] == arm) & (predictions["patients"] == patients)]
    if part.empty:
        raise ValueError(
            f"found no training of {arm!r} with {many(patients, 'patient')}; there are "
            f"{', '.join(predictions['arm'].unique())} with "
            f"{', '.join(map(str, sorted(predictions['patients'].unique())))} patients"
        )
    by_seed = part.groupby("seed")
    return [one.drop(columns=list(_COLUMNS)).reset_index(drop=True) for _, one in by_seed]
