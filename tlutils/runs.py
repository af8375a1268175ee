"""The whole street for one recipe; what comes out is a folder of plain files.

    recipe.json      the recipe as used, seeds, versions, device, precision, weights, data fingerprint
    records.csv      the table of images with its splits
    history.csv      one row an epoch
    best.pt last.pt  checkpoints of plain types
    predictions.csv  what the model said of each validation and test image
    metrics.json     numbers with intervals, the audit's verdict, what must be said beside them

`train` walks it at once; `prepare`, `make_loaders`, `make_model`, `fit`, `finish` are its steps.

Taught in notebooks 03 and 06.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from . import (calibration, checkpoints, devices, division, evaluation, files, loaders, models, sources, splits,
               training, tuning)
from . import records as records_room
from .devices import Machine
from .phantoms import MARKER
from .recipes import Recipe
from .recipes import get as get_recipe
from .run_folder import NotARun, Run, load, read_predictions, versions
from .run_use import evaluate, frozen_features, predict, predict_records

__all__ = ["NotARun", "Run", "evaluate", "finish", "fit", "frozen_features", "load", "make_loaders", "make_model",
           "measure", "predict", "predict_records", "prepare", "read_predictions", "train", "train_seeds", "versions"]


def train(recipe: Recipe | str, data: str | Path, out: str | Path, *, weights: str = "imagenet", limit: int = 0,
          device: str = "auto", precision: str = "auto", store: str | Path | None = "auto", compiled: bool = False,
          patient: str = "auto", show: bool | None = None, log: Callable[[str], None] | None = print) -> Run:
    """Train and evaluate one recipe; the same call again goes on where a killed run stopped.

    Parameters
    ----------
    recipe : a Recipe or its name. data : a source's name, a folder or a manifest. out : the run's folder.
    weights : "imagenet", "random" (said in every result) or a file. limit : images used, 0 for all.
    device, precision : see `devices.choose`. store : folder for the frozen part's outputs; "auto" puts them
    beside the run, None does without. patient : see `records.scan`.

    Returns
    -------
    Run, finished.

    Taught in notebook 06.
    """
    log = log if log and devices.rank() == 0 else (lambda line: None)
    machine = devices.choose(device, precision)
    run = prepare(recipe, data, out, weights=weights, limit=limit, machine=machine, patient=patient, show=show, log=log)
    return _walk(run, machine, store, compiled, show, log)


def _walk(run: Run, machine: Machine, store: str | Path | None, compiled: bool, show: bool | None,
          log: Callable[[str], None]) -> Run:
    """The street from a prepared run to its end."""
    if (run.folder / "metrics.json").is_file() and (run.folder / "best.pt").is_file():
        log(f"{run.folder} is finished already: {evaluation.headline(run.metrics['test'])}"
            if "test" in run.metrics else f"{run.folder} is finished already")
        return run
    model, parts = make_model(run), make_loaders(run)
    counts = models.count(model)
    log(f"{run.recipe.name}: {counts['total']:,} parameters, {counts['trainable']:,} of them trained; "
        f"{machine.device} in {machine.precision} ({machine.why})")
    fit(run, model, parts, machine=machine, store=store, compiled=compiled, show=show, log=log)
    finish(run, model, parts, machine=machine, store=store, show=show, log=log)
    return run


def train_seeds(run: Run, seeds: int = 3, *, device: str = "auto", precision: str = "auto",
                store: str | Path | None = "auto", compiled: bool = False, show: bool | None = None,
                log: Callable[[str], None] | None = print) -> list[Run]:
    """A finished run and the same with the next seeds: other first weights, views and orders, the same division.

    seeds : how many runs in all. The further ones lie in <run>/seed-<number>. Returns them, the given one first.

    Taught in notebook 06.
    """
    log = log if log and devices.rank() == 0 else (lambda line: None)
    machine, first = devices.choose(device, precision), run.recipe.seed
    return [run] + [_walk(_sibling(run, first + i), machine, store, compiled, show, log) for i in range(1, seeds)]


def _sibling(run: Run, seed: int) -> Run:
    """The same run with another seed but the same images on the same sides."""
    recipe = dataclasses.replace(run.recipe, seed=seed, split_seed=division.seed_of(run.recipe))
    folder = run.folder / f"seed-{seed}"
    about = {**run.about, "recipe": recipe.to_dict(), "started": _now(), "versions": versions()}
    if devices.rank() == 0 and not (folder / "recipe.json").is_file():
        records_room.save(run.records, folder / "records.csv")
        files.write_text(folder / "recipe.json", json.dumps(about, indent=1))
    devices.barrier()
    sibling = load(folder)
    _same_run(sibling, recipe, run.weights, run.about["limit"])
    return sibling


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def prepare(recipe: Recipe | str, data: str | Path, out: str | Path, *, weights: str = "imagenet", limit: int = 0,
            machine: Machine | None = None, patient: str = "auto", show: bool | None = None,
            log: Callable[[str], None] = print) -> Run:
    """Settle what a run is made of: read the data, divide it, and write recipe.json and records.csv.

    A folder that holds the same run already is taken up as it is.

    Raises
    ------
    ValueError where the folder holds another run, or the data do not suffice.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    out, machine = Path(out), machine or devices.choose()
    if (out / "recipe.json").is_file() and (out / "records.csv").is_file():
        run = load(out)
        _same_run(run, recipe, weights, limit)
        return run
    run = None
    if devices.rank() == 0:
        run = _begin(recipe, data, out, weights, limit, machine, patient, show, log)
    devices.barrier()
    return run or load(out)


def _begin(recipe: Recipe, data: str | Path, out: Path, weights: str, limit: int, machine: Machine, patient: str,
           show: bool | None, log: Callable[[str], None]) -> Run:
    models.check_size(recipe.backbone, recipe.size, machine.device, recipe.head)
    root = sources.get(data)
    table = records_room.scan(root, patient=patient)
    root = root.parent if root.is_file() else root
    table = records_room.inspect(division.sample(table, limit, recipe.seed), root, decode=True, progress=show)
    bad = records_room.problems(table)
    if len(bad) == len(table):
        raise ValueError(f"none of the {len(table)} files in {root} is a readable image, e.g. {bad['path'].iloc[0]}: "
                         f"{bad['problem'].iloc[0]}; fetch or copy the data again")
    if len(bad):
        log(f"left out {len(bad)} of {len(table)} files that are no whole images, e.g. {bad['path'].iloc[0]} "
            f"({bad['problem'].iloc[0]}); records.csv names them all")
    table, how = division.divide(table, recipe)
    log(how)
    classes = records_room.classes_of(table)
    if len(classes) < 2:
        raise ValueError(f"found only the class {classes[0]!r} in {root}; a classifier needs two or more class folders")
    if recipe.threshold and len(classes) != 2:
        raise ValueError(f"threshold is {recipe.threshold!r} and {root} has {len(classes)} classes; a threshold divides "
                         "two, so leave it \"\" here")
    _warn_of_missing(table, classes)
    audit = splits.audit(table)
    about = {"recipe": recipe.to_dict(), "weights": {"asked": str(weights)}, "limit": limit,
             "data": {"asked": str(data), "root": str(root.resolve()), "patient": str(patient), "classes": classes,
                      "images": len(table), "fingerprint": records_room.fingerprint(table), "split": how},
             "audit": {"verdict": splits.verdict(audit), "leak": bool(splits.leaks(audit))},
             "machine": machine.describe(), "versions": versions(),
             "started": _now()}
    about["notes"] = _notes(root / table["path"].iloc[0], weights, about["audit"])
    run = Run(out, recipe, table, root, about)
    records_room.save(table, out / "records.csv")
    files.write_text(out / "recipe.json", json.dumps(about, indent=1))
    return run


def _warn_of_missing(table: pd.DataFrame, classes: list[str]) -> None:
    for split in ("train", "val", "test"):
        missing = sorted(set(classes) - set(table.loc[(table["split"] == split) & (table["problem"] == ""), "label"]))
        if missing and split == "train":
            raise ValueError(f"no readable training image of {', '.join(missing)} is left; add images, raise the limit, "
                             "or take the class out")
        if missing:
            warnings.warn(f"the {split} images lack {', '.join(missing)}", stacklevel=4)


def _notes(image: Path, weights: str, audit: dict) -> list[str]:
    """What must be said beside every result; phantoms are known by a file above them, also where a manifest names them."""
    drawn = any((folder / MARKER).exists() for folder in image.resolve().parents)
    notes = ["phantom images (drawings, not patients)"] if drawn else []
    notes += ["random weights, no pretraining"] if weights == "random" else [f"weights: {Path(str(weights)).name}"]
    return notes + [audit["verdict"]]


def _same_run(run: Run, recipe: Recipe, weights: str, limit: int) -> None:
    then, now = run.recipe.to_dict(), json.loads(json.dumps(recipe.to_dict()))
    then = json.loads(json.dumps(then))
    free = {"epochs", "patience", "micro_batch"}
    differing = [f"{name} was {then[name]!r} and is {now[name]!r}" for name in now
                 if name not in free and now[name] != then.get(name)]
    differing += [f"{name} was {a!r} and is {b!r}" for name, a, b in
                  [("weights", run.weights, str(weights)), ("limit", run.about["limit"], limit)] if a != b]
    if differing:
        raise ValueError(f"{run.folder} holds another run: {'; '.join(differing)}. Choose another folder, "
                         "or remove this one first")
    run.recipe = dataclasses.replace(run.recipe, epochs=recipe.epochs, patience=recipe.patience,
                                     micro_batch=recipe.micro_batch)


def make_model(run: Run) -> nn.Module:
    """The recipe's model, its weights resolved; what they are is written into recipe.json."""
    model = models.build(**run.recipe.model_arguments(len(run.classes)), weights=run.weights)
    run.about["weights"] = {**model.tl["weights"], "asked": run.weights}
    if devices.rank() == 0:
        files.write_text(run.folder / "recipe.json", json.dumps(run.about, indent=1))
    return model


def make_loaders(run: Run, parts: Iterable[str] = ("train", "val", "test")) -> dict[str, loaders.Loader]:
    """A loader for each split that has images; the training one in a new order each epoch."""
    return {part: loaders.make(run.part(part), run.root, run.classes, batch_size=run.recipe.batch_size,
                               shuffle=part == "train", seed=run.recipe.seed,
                               weights=_balance(run.part(part)) if part == "train" and run.recipe.balanced else None,
                               rank=devices.rank(), world=devices.world(), **run.recipe.reading())
            for part in parts if len(records_room.readable(run.part(part)))}


def _balance(part: pd.DataFrame) -> np.ndarray:
    return (1 / part["label"].map(part["label"].value_counts())).to_numpy(float)


def fit(run: Run, model: nn.Module, parts: dict[str, loaders.Loader], *, machine: Machine | None = None,
        store: str | Path | None = "auto", compiled: bool = False, show: bool | None = None,
        log: Callable[[str], None] | None = print) -> training.Fit:
    """Train the run's model, or go on training it; writes last.pt each epoch, then history.csv and best.pt."""
    store = run.store(store)
    used, recipe = {part: parts[part] for part in ("train", "val") if part in parts}, run.recipe
    place = {"machine": machine, "store": store, "checkpoint": run.folder / "last.pt", "compiled": compiled,
             "show": show, "log": log}
    done = tuning.head_then_rest(model, used, recipe.options(), recipe.head_epochs, recipe.head_learning_rate,
                                 **place) if recipe.head_epochs else training.fit(model, used, recipe.options(), **place)
    if devices.rank() == 0:
        with files.replacing(run.folder / "history.csv") as part:
            done.history.to_csv(part, index=False)
        checkpoints.save(run.folder / "best.pt", model, run.classes, recipe=_plain(run.recipe.to_dict()),
                         epoch=done.best_epoch, monitor=done.monitor, notes=list(run.about["notes"]))
    devices.barrier()
    return done


def _plain(values: dict) -> dict:
    return json.loads(json.dumps(values))


def finish(run: Run, model: nn.Module, parts: dict[str, loaders.Loader], *, machine: Machine | None = None,
           store: str | Path | None = "auto", show: bool | None = None,
           log: Callable[[str], None] | None = print) -> dict:
    """Predict validation and test images, measure, and write predictions.csv and metrics.json."""
    tables = [predict_records(run, model, run.part(part), part, machine, show, store=run.store(store))
              for part in ("val", "test") if part in parts]
    predictions = pd.concat(tables, ignore_index=True)
    if devices.rank() == 0:
        threshold = _chosen_threshold(run.recipe.threshold, predictions)
        if threshold is not None:
            predictions = evaluation.apply_threshold(predictions, threshold)
        with files.replacing(run.folder / "predictions.csv") as part:
            predictions.to_csv(part, index=False)
        chosen = {"temperature": _fitted_temperature(predictions), "threshold": threshold}
        checkpoints.write(run.folder / "best.pt", {**checkpoints.read(run.folder / "best.pt"), **chosen})
        metrics = {**measure(predictions, run.about, threshold), "temperature": chosen["temperature"]}
        evaluation.save_metrics(run.folder / "metrics.json", metrics)
        if log:
            for part in ("val", "test"):
                if part in metrics:
                    log(f"{part}: {evaluation.headline(metrics[part])}")
            log(f"({run.caption})")
    devices.barrier()
    return run.metrics


def _chosen_threshold(rule: str, predictions: pd.DataFrame) -> float | None:
    """The threshold that the recipe's rule chooses on the validation images; None without a rule or such images."""
    val = predictions[predictions["split"] == "val"]
    if rule and val["label"].nunique() < 2:
        warnings.warn("there are no validation images of both classes to choose a threshold on, so the likelier class "
                      "is answered", stacklevel=3)
    return evaluation.choose_threshold(val, rule) if rule and val["label"].nunique() == 2 else None


def _fitted_temperature(predictions: pd.DataFrame) -> float | None:
    """The temperature of the validation images; None where there are none."""
    val = predictions[predictions["split"] == "val"]
    if val.empty:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer without an error has no temperature; 1 is kept then
        return round(calibration.fit_temperature(val), 6)


def measure(predictions: pd.DataFrame, about: dict, threshold: float | None = None) -> dict:
    """metrics.json: for each split its numbers, at a threshold chosen on validation, or at that of `predicted`."""
    metrics = {split: evaluation.metrics(part.reset_index(drop=True), seed=about["recipe"]["seed"], threshold=threshold)
               for split, part in predictions.groupby("split")}
    return {**metrics, "audit": about["audit"], "notes": about["notes"],
            "interval": {"level": 0.95, "method": "bootstrap over patients", "repeats": 1000,
                         "seed": about["recipe"]["seed"]}}
