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
import math
import os
import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ..core import devices, files
from ..core.devices import Machine
from ..data import loaders, records, sources, splits
from ..data.audit import audit_splits, leak_verdict, leaks
from ..data.phantoms import MARKER
from ..evaluation import calibration, thresholds
from ..evaluation.metrics import compute_metrics, headline, to_json
from ..models import checkpoints
from ..models.build import build, check_size, count
from ..training import loop, tuning
from ..training.loop import Fit, refuse_other
from .folder import NotARun, Run, alone, load, read_predictions, versions
from .recipes import Recipe
from .recipes import get as get_recipe
from .use import evaluate, frozen_features, predict, predict_records

__all__ = [
    "NotARun",
    "Run",
    "evaluate",
    "finish",
    "fit",
    "frozen_features",
    "load",
    "make_loaders",
    "make_model",
    "measure",
    "predict",
    "predict_records",
    "prepare",
    "read_predictions",
    "train",
    "train_seeds",
    "versions",
]


def train(
    recipe: Recipe | str,
    data: str | Path,
    out: str | Path,
    *,
    weights: str = "imagenet",
    limit: int = 0,
    device: str = "auto",
    precision: str = "auto",
    store: str | Path | None = "auto",
    compiled: bool = False,
    patient: str = "auto",
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
) -> Run:
    """Train and evaluate one recipe; the same call again goes on where a killed run stopped.

    A finished run is given back as it is, or goes on where more epochs are asked for. Other data, weights or settings
    in a run's folder are refused.

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
    with alone(out):
        run = prepare(
            recipe,
            data,
            out,
            weights=weights,
            limit=limit,
            machine=machine,
            patient=patient,
            show=show,
            log=log,
        )
        return _walk(run, machine, store, compiled, show, log)


def _walk(
    run: Run,
    machine: Machine,
    store: str | Path | None,
    compiled: bool,
    show: bool | None,
    log: Callable[[str], None],
) -> Run:
    """The street from a prepared run to its end."""
    if devices.by_first(
        lambda: run.finished and run.recipe == Recipe.from_dict(run.about["recipe"])
    ):  # else it goes on
        found = run.metrics
        log(
            f"{run.folder} is finished already{': ' + headline(found['test']) if 'test' in found else ''}"
        )
        return run
    model, parts = make_model(run), make_loaders(run)
    counts = count(model)
    log(
        f"{run.recipe.name}: {counts['total']:,} parameters, {counts['trainable']:,} of them trained; "
        f"{machine.device} in {machine.precision} ({machine.why})"
    )
    fit(run, model, parts, machine=machine, store=store, compiled=compiled, show=show, log=log)
    finish(run, model, parts, machine=machine, store=store, show=show, log=log)
    return run


def train_seeds(
    run: Run,
    seeds: int = 3,
    *,
    device: str = "auto",
    precision: str = "auto",
    store: str | Path | None = "auto",
    compiled: bool = False,
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
) -> list[Run]:
    """A finished run and the same with the next seeds: other first weights, views and orders, the same division.

    seeds : how many runs in all. The further ones lie in <run>/seed-<number>. Returns them, the given one first.

    Taught in notebook 06.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it wants a whole number of runs, 1 or more")
    log = log if log and devices.rank() == 0 else (lambda line: None)
    machine, several = devices.choose(device, precision), [run]
    for seed in range(run.recipe.seed + 1, run.recipe.seed + seeds):
        with alone(run.folder / f"seed-{seed}"):
            sibling = devices.by_first(lambda: _sibling(run, seed, machine, log))
            several.append(_walk(sibling, machine, store, compiled, show, log))
    return several


def _sibling(run: Run, seed: int, machine: Machine, log: Callable[[str], None]) -> Run:
    """The same run with another seed but the same images on the same sides."""
    recipe = dataclasses.replace(run.recipe, seed=seed, split_seed=run.recipe.division_seed)
    folder = run.folder / f"seed-{seed}"
    if _is_begun(folder):
        sibling, data = load(folder), run.about["data"]
        _same_run(sibling, recipe, run.weights, run.about["limit"], data.get("patient"), run.root)
        if sibling.about["data"]["fingerprint"] != data["fingerprint"]:
            raise _another_run(folder, ["its images were others"])
        if sibling.root != run.root:
            _move(sibling, run.root, data["asked"], log)
        return _gone_on(sibling, recipe, log)
    about = {**run.about, "machine": machine.describe(), "started": _now(), "versions": versions()}
    sibling = Run(folder, recipe, run.records, run.root, about)
    records.save(run.records, folder / "records.csv")
    sibling.settle()
    return sibling


def _is_begun(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("recipe.json", "records.csv"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def prepare(
    recipe: Recipe | str,
    data: str | Path,
    out: str | Path,
    *,
    weights: str = "imagenet",
    limit: int = 0,
    machine: Machine | None = None,
    patient: str = "auto",
    show: bool | None = None,
    log: Callable[[str], None] = print,
) -> Run:
    """Settle what a run is made of: read the data, divide it, and write recipe.json and records.csv.

    A folder that holds the same run already is taken up: its images are read once more, to see that they are those
    that it began with. It may train longer, be more patient, or take fewer images at once.

    Raises
    ------
    ValueError where the folder holds another run, or the data do not suffice; files.Busy where another process trains
    into it.
    """
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    out, machine = Path(out), machine or devices.choose()
    if limit < 0:
        raise ValueError(f"limit is {limit}; it wants a number of images, or 0 for all")
    if not isinstance(patient, (str, type(None))):
        raise ValueError(
            f"patient is {patient!r}, which recipe.json cannot keep; give auto, None, or a pattern with a "
            "group named patient"
        )
    with alone(out):
        return devices.by_first(
            lambda: _settled(recipe, data, out, str(weights), limit, machine, patient, show, log)
        )


def _settled(
    recipe: Recipe,
    data: str | Path,
    out: Path,
    weights: str,
    limit: int,
    machine: Machine,
    patient: str | None,
    show: bool | None,
    log: Callable[[str], None],
) -> Run:
    """The run that the folder holds, if it is this one; else a new one."""
    run = load(out) if _is_begun(out) else None
    if run is None:
        _refuse_remains(out)
        check_size(recipe.backbone, recipe.size, machine.device, recipe.head)
    source = sources.get(data)
    root = (source.parent if source.is_file() else source).resolve()
    if run:
        _same_run(run, recipe, weights, limit, patient, root)
    table = splits.sample(records.scan(source, patient=patient), limit, recipe.seed)
    table = records.inspect(table, root, decode=run is None, progress=show)
    if run is None:
        return _begun(recipe, data, table, root, out, weights, limit, machine, patient, log)
    _same_images(run, table)
    if run.root != root:
        _move(run, root, str(data), log)
    return _gone_on(run, recipe, log)


def _move(run: Run, root: Path, asked: str, log: Callable[[str], None]) -> None:
    """Write down that the same images lie elsewhere now."""
    log(f"the images of {run.folder} have moved from {run.root} to {root}")
    run.root = root
    run.about["data"] |= {"asked": asked, "root": str(root), "top": _top(run.records, root)}
    run.settle()


def _refuse_remains(out: Path) -> None:
    """Refuse a folder with results or weights of a run that nobody can tell of what: they would pass for the new run's."""
    for name in ("metrics.json", "best.pt", "last.pt", "head.pt"):
        if (out / name).is_file():
            raise ValueError(
                f"{out} has a {name} but not both recipe.json and records.csv, so of what run it is cannot be "
                "told. Put those back, choose another folder, or remove this one first"
            )


def _begun(
    recipe: Recipe,
    data: str | Path,
    table: pd.DataFrame,
    root: Path,
    out: Path,
    weights: str,
    limit: int,
    machine: Machine,
    patient: str | None,
    log: Callable[[str], None],
) -> Run:
    bad, good = records.problems(table), records.readable(table)
    if len(good) == 0:
        raise ValueError(
            f"none of the {len(table)} files in {root} is a readable image, e.g. {bad['path'].iloc[0]}: "
            f"{bad['problem'].iloc[0]}; fetch or copy the data again"
        )
    if len(bad):
        log(
            f"left out {len(bad)} of {len(table)} files that are no whole images, e.g. {bad['path'].iloc[0]} "
            f"({bad['problem'].iloc[0]}); records.csv names them all"
        )
    seed = recipe.division_seed
    table, how = splits.divide(table, recipe.split, recipe.val, recipe.test, seed)
    log(how)
    classes = records.classes_of(table)
    if len(classes) < 2:
        raise ValueError(
            f"found only the class {classes[0]!r} in {root}; a classifier needs two or more class folders"
        )
    if recipe.threshold and len(classes) != 2:
        raise ValueError(
            f"threshold is {recipe.threshold!r} and {root} has {len(classes)} classes; a threshold divides "
            'two, so leave it "" here'
        )
    build(
        **recipe.model_arguments(len(classes)), weights="random", device="meta"
    )  # raises where it cannot be
    _warn_of_missing(table, classes)
    audit = audit_splits(table)
    about = {
        "recipe": recipe.to_dict(),
        "weights": {"asked": weights},
        "limit": limit,
        "data": {
            "asked": str(data),
            "root": str(root),
            "top": _top(table, root),
            "patient": patient,
            "classes": classes,
            "images": len(table),
            "fingerprint": records.fingerprint(table),
            "own_splits": _own_splits(good),
            "split": how,
        },
        "audit": {"verdict": leak_verdict(audit), "leak": leaks(audit)},
        "machine": machine.describe(),
        "versions": versions(),
        "started": _now(),
    }
    about["notes"] = _notes(root / table["path"].iloc[0], weights, about["audit"])
    run = Run(out, recipe, table, root, about)
    records.save(table, out / "records.csv")
    run.settle()
    return run


def _own_splits(good: pd.DataFrame) -> str:
    """16 hexadecimal digits that change where the data set itself divides its images in another way."""
    return records.fingerprint(good.assign(label=good["split"]))


def _top(table: pd.DataFrame, root: Path) -> str:
    """The folder below which all images lie; a manifest may name some that are not below its own."""
    return os.path.commonpath(
        [root, *(os.path.normpath(root / path) for path in table["path"] if ".." in path)]
    )


def _warn_of_missing(table: pd.DataFrame, classes: list[str]) -> None:
    for split in ("train", "val", "test"):
        missing = sorted(
            set(classes)
            - set(table.loc[(table["split"] == split) & (table["problem"] == ""), "label"])
        )
        if missing and split == "train":
            raise ValueError(
                f"no readable training image of {', '.join(missing)} is left; add images, raise the limit, "
                "or take the class out"
            )
        if missing:
            warnings.warn(f"the {split} images lack {', '.join(missing)}", stacklevel=6)


def _notes(image: Path, weights: str, audit: dict) -> list[str]:
    """What must be said beside every result; phantoms are known by a file above them, also where a manifest names them."""
    drawn = any((folder / MARKER).exists() for folder in Path(os.path.realpath(image)).parents)
    notes = ["phantom images (drawings, not patients)"] if drawn else []
    notes += (
        ["random weights, no pretraining"]
        if weights == "random"
        else [f"weights: {Path(str(weights)).name}"]
    )
    return notes + [audit["verdict"]]


def _same_run(
    run: Run, recipe: Recipe, weights: str, limit: int, patient: str | None, root: Path
) -> None:
    """Refuse what another recipe, other weights or another place of the images was asked for; images that have moved
    are told from others by their contents."""
    free = {"epochs", "patience", "micro_batch"}
    then, now = _plain(run.recipe.to_dict()), _plain(recipe.to_dict())
    rows = [(name, then[name], now[name]) for name in now if name not in free]
    rows += [
        ("weights", run.weights, weights),
        ("limit", run.about["limit"], limit),
        ("patient", run.about["data"].get("patient"), patient),
    ]
    if run.root.exists():
        rows.append(("data", str(run.root), str(root)))
    if differing := [f"{name} was {a!r} and is {b!r}" for name, a, b in rows if a != b]:
        raise _another_run(run.folder, differing)


def _another_run(folder: Path, differing: list[str]) -> ValueError:
    return ValueError(
        f"{folder} holds another run: {'; '.join(differing)}. Choose another folder, or remove this one "
        "first"
    )


def _same_images(run: Run, table: pd.DataFrame) -> None:
    """Refuse a table of other images, labels, patients or own splits; a file that was left out as unreadable does not
    matter, whatever has become of it."""
    broken = set(run.records.loc[run.records["problem"] != "", "path"])
    then, now = (
        {
            row[0]: row[1:]
            for row in zip(*(part[name] for name in ("path", "label", "patient", "sha256")))
            if row[0] not in broken
        }
        for part in (run.records, table)
    )
    differing = {
        "new": sorted(now.keys() - then.keys()),
        "gone": sorted(then.keys() - now.keys()),
        "changed": sorted(path for path in then.keys() & now.keys() if then[path] != now[path]),
    }
    if any(differing.values()):
        raise _another_run(
            run.folder,
            [
                f"{len(paths):,} of its images {'is' if len(paths) == 1 else 'are'} {what}, "
                f"e.g. {paths[0]}"
                for what, paths in differing.items()
                if paths
            ],
        )
    if run.about["data"].get("own_splits") not in (
        None,
        _own_splits(table[~table["path"].isin(broken)]),
    ):
        raise _another_run(run.folder, ["the data set divides its images in another way"])


def _gone_on(run: Run, recipe: Recipe, log: Callable[[str], None]) -> Run:
    """The run with the epochs, patience and micro_batch of now; a finished one only where more can be learned."""
    asked = dataclasses.replace(
        run.recipe, epochs=recipe.epochs, patience=recipe.patience, micro_batch=recipe.micro_batch
    )
    if run.finished and not _learns_more(run, asked, log):
        return run
    by_length = asked.schedule in ("cosine", "one-cycle")
    if asked.epochs != run.recipe.epochs and by_length and (run.folder / "last.pt").is_file():
        raise _another_run(
            run.folder,
            [
                f"epochs was {run.recipe.epochs} and is {asked.epochs}, and with the schedule "
                f"{asked.schedule!r} every rate depends on it"
            ],
        )
    if run.finished:
        log(f"{run.folder} is finished and goes on: it was asked for more epochs or more patience")
    run.recipe = asked
    return run


def _learns_more(run: Run, asked: Recipe, log: Callable[[str], None]) -> bool:
    """Whether a finished run has epochs to go if it gets the epochs and patience asked for."""
    then = run.recipe
    longer = asked.epochs > then.epochs
    if not longer and (asked.patience or math.inf) <= (then.patience or math.inf):
        return False
    if not (run.folder / "last.pt").is_file():
        log(f"{run.folder} has no last.pt to go on from")
        return False
    last = checkpoints.read(run.folder / "last.pt")
    done = len(last["history"])
    if asked.patience and done - last["best_epoch"] >= asked.patience:
        log(
            f"{run.folder} had stopped early, with no better {asked.monitor} in {asked.patience} epochs, so more "
            "epochs change nothing; more patience would"
        )
        return False
    return asked.epochs > done


def _unfinish(run: Run) -> None:
    """Take away what was measured: it is not that of the weights to come."""
    for name in ("metrics.json", "predictions.csv"):
        (run.folder / name).unlink(missing_ok=True)


def make_model(run: Run) -> nn.Module:
    """The recipe's model, its weights resolved; what they are is written into recipe.json."""
    made: list[nn.Module] = []

    def first() -> dict:
        made.append(build(**run.recipe.model_arguments(len(run.classes)), weights=run.weights))
        found = {**made[0].tl["weights"], "asked": run.weights}
        if found != run.about["weights"]:
            run.about["weights"] = found
            run.settle()
        return found

    run.about["weights"] = devices.by_first(first)  # which may fetch them, for all
    return (
        made[0]
        if made
        else build(**run.recipe.model_arguments(len(run.classes)), weights=run.weights)
    )


def make_loaders(
    run: Run, parts: Iterable[str] = ("train", "val", "test")
) -> dict[str, loaders.Loader]:
    """A loader for each split that has images; the training one in a new order each epoch."""
    return {
        part: loaders.make(
            run.part(part),
            run.root,
            run.classes,
            batch_size=run.recipe.batch_size,
            shuffle=part == "train",
            seed=run.recipe.seed,
            weights=_balance(run.part(part)) if part == "train" and run.recipe.balanced else None,
            rank=devices.rank(),
            world=devices.world(),
            **run.recipe.reading(),
        )
        for part in parts
        if len(records.readable(run.part(part)))
    }


def _balance(part: pd.DataFrame) -> np.ndarray:
    return (1 / part["label"].map(part["label"].value_counts())).to_numpy(float)


def fit(
    run: Run,
    model: nn.Module,
    parts: dict[str, loaders.Loader],
    *,
    machine: Machine | None = None,
    store: str | Path | None = "auto",
    compiled: bool = False,
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
) -> Fit:
    """Train the run's model, or go on training it; writes last.pt each epoch, then history.csv and best.pt."""
    store, machine = run.store(store), machine or devices.choose()
    used, recipe = {part: parts[part] for part in ("train", "val") if part in parts}, run.recipe
    place = {
        "machine": machine,
        "store": store,
        "checkpoint": run.folder / "last.pt",
        "compiled": compiled,
        "show": show,
        "log": log,
    }
    with alone(run.folder):
        run.about["machine"] = machine.describe()
        devices.by_first(lambda: _begin_to_fit(run, model, used))
        done = (
            tuning.head_then_rest(
                model,
                used,
                recipe.options(),
                recipe.head_epochs,
                recipe.head_learning_rate,
                **place,
            )
            if recipe.head_epochs
            else loop.fit(model, used, recipe.options(), **place)
        )
        devices.by_first(lambda: _keep(run, model, done))
    return done


def _begin_to_fit(run: Run, model: nn.Module, used: dict[str, loaders.Loader]) -> None:
    """Take the old measurements away, once it is sure that training can go on from the weights that they are of."""
    refuse_other(run.folder / "last.pt", model, used, run.recipe.options())
    _unfinish(run)
    run.settle()


def _keep(run: Run, model: nn.Module, done: Fit) -> None:
    epochs = len(done.history) - run.recipe.head_epochs
    if epochs > run.recipe.epochs:  # fewer were asked for than it had already
        run.recipe = dataclasses.replace(run.recipe, epochs=epochs)
        run.settle()
    records.save(done.history, run.folder / "history.csv")
    checkpoints.save(
        run.folder / "best.pt",
        model,
        run.classes,
        recipe=_plain(run.recipe.to_dict()),
        epoch=done.best_epoch,
        monitor=done.monitor,
        notes=list(run.about["notes"]),
    )


def _plain(values: dict) -> dict:
    return json.loads(json.dumps(values))


def finish(
    run: Run,
    model: nn.Module,
    parts: dict[str, loaders.Loader],
    *,
    machine: Machine | None = None,
    store: str | Path | None = "auto",
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
) -> dict:
    """Predict validation and test images, measure, and write predictions.csv and metrics.json."""
    with alone(run.folder):
        tables = [
            predict_records(run, model, run.part(part), part, machine, show, store=run.store(store))
            for part in ("val", "test")
            if part in parts
        ]
        return devices.by_first(lambda: _measured(run, pd.concat(tables, ignore_index=True), log))


def _measured(run: Run, predictions: pd.DataFrame, log: Callable[[str], None] | None) -> dict:
    threshold = _chosen_threshold(run.recipe.threshold, predictions)
    if threshold is not None:
        predictions = thresholds.apply_threshold(predictions, threshold)
    records.save(predictions, run.folder / "predictions.csv")
    chosen = {"temperature": _fitted_temperature(predictions), "threshold": threshold}
    checkpoints.write(
        run.folder / "best.pt", {**checkpoints.read(run.folder / "best.pt"), **chosen}
    )
    metrics = {**measure(predictions, run.about, threshold), "temperature": chosen["temperature"]}
    files.write_text(run.folder / "metrics.json", to_json(metrics))
    if log:
        for part in ("val", "test"):
            if part in metrics:
                log(f"{part}: {headline(metrics[part])}")
        log(f"({run.caption})")
    return run.metrics


def _chosen_threshold(rule: str, predictions: pd.DataFrame) -> float | None:
    """The threshold that the recipe's rule chooses on the validation images; None without a rule or such images."""
    val = predictions[predictions["split"] == "val"]
    if rule and val["label"].nunique() < 2:
        warnings.warn(
            "there are no validation images of both classes to choose a threshold on, so the likelier class "
            "is answered",
            stacklevel=3,
        )
    return thresholds.choose_threshold(val, rule) if rule and val["label"].nunique() == 2 else None


def _fitted_temperature(predictions: pd.DataFrame) -> float | None:
    """The temperature of the validation images; None where there are none."""
    val = predictions[predictions["split"] == "val"]
    if val.empty:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # an answer without an error has no temperature; 1 is kept then
        return round(calibration.fit_temperature(val), 6)


def measure(predictions: pd.DataFrame, about: dict, threshold: float | None = None) -> dict:
    """metrics.json: for each split its numbers, at a threshold chosen on validation, or at that of `predicted`."""
    metrics = {
        split: compute_metrics(
            part.reset_index(drop=True), seed=about["recipe"]["seed"], threshold=threshold
        )
        for split, part in predictions.groupby("split")
    }
    return {
        **metrics,
        "audit": about["audit"],
        "notes": about["notes"],
        "interval": {
            "level": 0.95,
            "method": "bootstrap over patients",
            "repeats": 1000,
            "seed": about["recipe"]["seed"],
        },
    }
