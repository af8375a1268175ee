"""The whole street for one recipe; what comes out is a folder of plain files.

    recipe.json      the recipe as used, seeds, versions, device, precision, weights, data fingerprint
    records.csv      the table of images with its splits
    history.csv      one row an epoch
    best.pt last.pt  checkpoints of plain types
    predictions.csv  what the model said of each validation and test image
    metrics.json     numbers with intervals, the audit's verdict, what must be said beside them

`train` walks it at once; `prepare`, `make_loaders`, `make_model`, `fit`, `finish` are its steps.

Taught in notebooks 03 and 08.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import nn

from . import (calibration, checkpoints, devices, division, evaluation, features, loaders, models, records as records_room,
               sources, splits, training, tuning)
from .devices import Machine
from .predicting import normalisation
from .recipes import Recipe
from .recipes import get as get_recipe

VERSION = "0.1.0"


class NotARun(FileNotFoundError):
    """A folder that holds no run, or only the beginning of one."""


@dataclass
class Run:
    """A run's folder and what was settled when it began.

    folder : where its files lie. recipe : as used. records : the table with its splits. root : where the images
    lie. about : the rest of recipe.json.
    """

    folder: Path
    recipe: Recipe
    records: pd.DataFrame
    root: Path
    about: dict = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Class names in index order."""
        return self.about["data"]["classes"]

    @property
    def weights(self) -> str:
        """What the backbone's weights were asked to be: "imagenet", "random" or a path."""
        return self.about["weights"]["asked"]

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch."""
        return pd.read_csv(self._file("history.csv"))

    @property
    def predictions(self) -> pd.DataFrame:
        """What the model said of each validation and test image."""
        return read_predictions(self._file("predictions.csv"))

    @property
    def metrics(self) -> dict:
        """Numbers with intervals, for each split."""
        return json.loads(self._file("metrics.json").read_text(encoding="utf-8"))

    def model(self) -> nn.Module:
        """The trained model with the weights of its best epoch, in eval mode, on the CPU."""
        return checkpoints.load_model(self._file("best.pt"))[0]

    def part(self, split: str) -> pd.DataFrame:
        """The records of one split."""
        return self.records[self.records["split"] == split].reset_index(drop=True)

    @property
    def caption(self) -> str:
        """What must be said beside every result of this run, in one line."""
        return "; ".join(self.about["notes"])

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise NotARun(f"{self.folder} has no {name}: the run was not finished. Run the same training again; "
                          "it goes on where it stopped")
        return path


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A predictions table from its file; patients and labels stay text."""
    return pd.read_csv(path, dtype={name: str for name in ("split", "path", "patient", "label", "predicted")},
                       keep_default_na=False, na_values={"loss": [""]})


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

    Taught in notebook 08.
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
        checkpoints.write_text(folder / "recipe.json", json.dumps(about, indent=1))
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
    _warn_of_missing(table, classes)
    audit = splits.audit(table)
    about = {"recipe": recipe.to_dict(), "weights": {"asked": str(weights)}, "limit": limit,
             "data": {"asked": str(data), "root": str(root.resolve()), "patient": str(patient), "classes": classes, "images": len(table),
                      "fingerprint": records_room.fingerprint(table), "split": how},
             "audit": {"verdict": splits.verdict(audit), "leak": bool(splits.leaks(audit))},
             "machine": machine.describe(), "versions": versions(),
             "started": _now()}
    about["notes"] = _notes(root, weights, about["audit"])
    run = Run(out, recipe, table, root, about)
    records_room.save(table, out / "records.csv")
    checkpoints.write_text(out / "recipe.json", json.dumps(about, indent=1))
    return run


def _warn_of_missing(table: pd.DataFrame, classes: list[str]) -> None:
    for split in ("train", "val", "test"):
        missing = sorted(set(classes) - set(table.loc[(table["split"] == split) & (table["problem"] == ""), "label"]))
        if missing and split == "train":
            raise ValueError(f"no readable training image of {', '.join(missing)} is left; add images, raise the limit, "
                             "or take the class out")
        if missing:
            warnings.warn(f"the {split} images lack {', '.join(missing)}", stacklevel=4)


def _notes(root: Path, weights: str, audit: dict) -> list[str]:
    """What must be said beside every result."""
    notes = ["phantom images (drawings, not patients)"] if (root / ".phantom.json").exists() else []
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
        checkpoints.write_text(run.folder / "recipe.json", json.dumps(run.about, indent=1))
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
    store = _store(run, store)
    used, recipe = {part: parts[part] for part in ("train", "val") if part in parts}, run.recipe
    place = {"machine": machine, "store": store, "checkpoint": run.folder / "last.pt", "compiled": compiled,
             "show": show, "log": log}
    done = tuning.head_then_rest(model, used, recipe.options(), recipe.head_epochs, recipe.head_learning_rate,
                                 **place) if recipe.head_epochs else training.fit(model, used, recipe.options(), **place)
    if devices.rank() == 0:
        with checkpoints.replacing(run.folder / "history.csv") as part:
            done.history.to_csv(part, index=False)
        checkpoints.save(run.folder / "best.pt", model, run.classes, recipe=_plain(run.recipe.to_dict()),
                         epoch=done.best_epoch, monitor=done.monitor, notes=list(run.about["notes"]))
    devices.barrier()
    return done


def _store(run: Run, store: str | Path | None) -> str | Path | None:
    """The folder of the store: beside the run unless another is named, and none where views never come back."""
    return None if run.recipe.views == 0 and not run.recipe.head_epochs else \
        run.folder / "features" if store == "auto" else store


def _plain(values: dict) -> dict:
    return json.loads(json.dumps(values))


def finish(run: Run, model: nn.Module, parts: dict[str, loaders.Loader], *, machine: Machine | None = None,
           store: str | Path | None = "auto", show: bool | None = None, log: Callable[[str], None] | None = print) -> dict:
    """Predict validation and test images, measure, and write predictions.csv and metrics.json."""
    tables = [predict_records(run, model, run.part(part), part, machine, show, store=_store(run, store))
              for part in ("val", "test") if part in parts]
    predictions = pd.concat(tables, ignore_index=True)
    if devices.rank() == 0:
        with checkpoints.replacing(run.folder / "predictions.csv") as part:
            predictions.to_csv(part, index=False)
        metrics = {**measure(predictions, run.about), "temperature": _keep_temperature(run, predictions)}
        evaluation.save_metrics(run.folder / "metrics.json", metrics)
        if log:
            for part in ("val", "test"):
                if part in metrics:
                    log(f"{part}: {evaluation.headline(metrics[part])}")
            log(f"({run.caption})")
    devices.barrier()
    return run.metrics


def _keep_temperature(run: Run, predictions: pd.DataFrame) -> float | None:
    """Fit the temperature on the validation images and put it into best.pt; None where there are none."""
    val = predictions[predictions["split"] == "val"]
    if val.empty:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer without an error has no temperature; 1 is kept then
        temperature = round(calibration.fit_temperature(val), 6)
    checkpoints.write(run.folder / "best.pt", {**checkpoints.read(run.folder / "best.pt"), "temperature": temperature})
    return temperature


def _calibrated(run: Run, predictions: pd.DataFrame, wanted: bool) -> pd.DataFrame:
    """Predictions that say whether they are calibrated, and are if wanted."""
    if not wanted:
        return predictions.assign(calibrated=False)
    temperature = checkpoints.load(run.folder / "best.pt").get("temperature")
    if temperature is None:
        raise ValueError(f"{run.folder} has no temperature, as it has no validation images; leave calibrated out")
    return calibration.apply_temperature(predictions, temperature)


def frozen_features(run: Run, table: pd.DataFrame, machine: Machine | None = None,
                    store: str | Path | None = "auto") -> np.ndarray:
    """What the frozen part of a run's model says of the images of a table, each as it is.

    Returns float32 (images, features), in the table's order; kept in the store. Raises ValueError where nothing is
    frozen, or an image cannot be read.

    Taught in notebook 05.
    """
    machine, model = machine or devices.choose(), run.model()
    cut = features.split(model)
    if cut is None:
        raise ValueError(f"nothing of the model of {run.folder} is frozen, so all its layers have seen the labels; "
                         "use the predictions of validation and test images instead")
    loader = loaders.make(table, run.root, run.classes, batch_size=64, **run.recipe.reading())
    mean, std = normalisation(model)
    held = features.open_store(run.folder / "features" if store == "auto" else store, cut.prefix, loader, machine,
                               mean=mean, std=std)
    held.fill(0)
    if len(held.bad()):
        raise ValueError(f"{len(held.bad())} of {held.n} images cannot be read, e.g. {loader.unreadable[0][0]}; "
                         "pass records.readable(...)")
    return held.read(0, np.arange(held.n)).float().flatten(1).numpy()


def predict_records(run: Run, model: nn.Module, table: pd.DataFrame, split: str, machine: Machine | None = None,
                    show: bool | None = None, root: Path | None = None,
                    store: str | Path | None = None, views: int = 0) -> pd.DataFrame:
    """What a model says of the images of a table; with several processes each takes a share, all get the whole.

    views : of test-time augmentation, drawn as the recipe's training views are.
    """
    machine = machine or devices.choose()
    table = records_room.readable(table) if "problem" in table else table
    if store is not None and not views and features.split(model):  # processes share the filling; the rest is quick
        loader = loaders.make(table, root or run.root, run.classes, batch_size=64, **run.recipe.reading())
        predictions = evaluation.predict(machine.place(model), loader, machine, split, show, store)
        return predictions.sort_values("path").reset_index(drop=True)
    mine = table.iloc[devices.rank()::devices.world()]
    predictions = None
    if len(mine):
        loader = loaders.make(mine, root or run.root, run.classes, batch_size=64, **run.recipe.reading())
        predictions = evaluation.predict(machine.place(model), loader, machine, split, show, None, views,
                                         run.recipe.augmentation, run.recipe.seed)
    shares = [share for share in devices.gather(predictions) if share is not None]
    return pd.concat(shares).sort_values("path").reset_index(drop=True)


def measure(predictions: pd.DataFrame, about: dict) -> dict:
    """metrics.json: for each split its numbers; a binary threshold is 0.5 unless chosen on validation elsewhere."""
    metrics = {split: evaluation.metrics(part.reset_index(drop=True), seed=about["recipe"]["seed"])
               for split, part in predictions.groupby("split")}
    return {**metrics, "audit": about["audit"], "notes": about["notes"],
            "interval": {"level": 0.95, "method": "bootstrap over patients", "repeats": 1000,
                         "seed": about["recipe"]["seed"]}}


def load(folder: str | Path) -> Run:
    """Open a run's folder.

    Raises
    ------
    NotARun where recipe.json or records.csv is missing.
    """
    folder = Path(folder)
    for name in ("recipe.json", "records.csv"):
        if not (folder / name).is_file():
            raise NotARun(f"{folder} is no run's folder: it has no {name}. Train one into it first "
                          f"(python -m tlutils train RECIPE --data DATA --out {folder})")
    about = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    return Run(folder, Recipe.from_dict(about["recipe"]), records_room.load(folder / "records.csv"),
               Path(about["data"]["root"]), about)


def evaluate(folder: str | Path, data: str | Path | None = None, split: str = "test", *, device: str = "auto",
             precision: str = "auto", views: int = 0, calibrated: bool = False,
             show: bool | None = None) -> dict:
    """Measure a run's model anew on one of its splits, or on other labelled images.

    With `data`, all its images (or those of `split` where it has splits) are used and the results are written to
    <run>/evaluations/<name of the folder>.{json,csv}; nothing of the run is changed. views : of test-time
    augmentation (see `predict_records`). calibrated : whether to apply the temperature fitted on validation.

    Returns the metrics of the split (see `evaluation.metrics`).
    """
    run, machine = load(folder), devices.choose(device, precision)
    model = run.model()
    if data is None:
        table, root, store = run.part(split), run.root, _store(run, "auto")
        if table.empty:
            raise ValueError(f"the run has no {split!r} images; its splits are "
                             f"{', '.join(sorted(set(run.records['split']) - {''}))}")
    else:
        (table, root), store = _other_images(run, data, split), None
    predictions = predict_records(run, model, table, split, machine, show, root, store, views)
    predictions = _calibrated(run, predictions, calibrated)
    metrics = evaluation.metrics(predictions, seed=run.recipe.seed)
    if data is not None:
        target = run.folder / "evaluations" / Path(data).name
        with checkpoints.replacing(target.with_name(target.name + ".csv")) as part:
            predictions.to_csv(part, index=False)
        evaluation.save_metrics(target.with_name(target.name + ".json"), {split: metrics, "notes": run.about["notes"]})
    return metrics


def _other_images(run: Run, data: str | Path, split: str) -> tuple[pd.DataFrame, Path]:
    root = sources.get(data)
    table = records_room.scan(root, classes=run.classes, patient=run.about["data"].get("patient", "auto"))
    root = root.parent if root.is_file() else root
    if (table["split"] == split).any():
        table = table[table["split"] == split].reset_index(drop=True)
    return records_room.inspect(table, root, decode=True, progress=False), root


def predict(folder: str | Path, images: Iterable[str | Path], out: str | Path | None = None, *, device: str = "auto",
            precision: str = "auto", views: int = 0, calibrated: bool = False,
             show: bool | None = None) -> pd.DataFrame:
    """Say what a run's model sees in new images.

    Parameters
    ----------
    folder : the run. images : image files and folders of them. out : CSV to write; None writes none. views : of
    test-time augmentation (see `predict_records`). calibrated : whether to apply the temperature fitted on validation;
    a column of that name says it.

    Returns
    -------
    predictions table (split "new", label ""); files that are no images are left out with a warning that names
    them.
    """
    run, machine = load(folder), devices.choose(device, precision)
    files = _image_files(images)
    table = pd.DataFrame({"path": [str(file.resolve()) for file in files], "split": "new", "label": "", "patient": ""})
    predictions = predict_records(run, run.model(), table, "new", machine, show, Path("/"), views=views)
    predictions = _calibrated(run, predictions, calibrated)
    predictions["path"] = predictions["path"].map({str(file.resolve()): str(file) for file in files})
    if out is not None and devices.rank() == 0:
        with checkpoints.replacing(out) as part:
            predictions.to_csv(part, index=False)
    return predictions


def _image_files(images: Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for item in map(Path, images):
        if not item.exists():
            raise FileNotFoundError(f"there is no image or folder {item}; look at the name")
        files += [item / name for name in records_room.images_in(item)] if item.is_dir() else [item]
    if not files:
        raise ValueError(f"found no image file in {', '.join(map(str, images))}; "
                         "images end in .jpg, .jpeg, .png, .bmp, .tif or .tiff")
    return list(dict.fromkeys(files))


def versions() -> dict[str, str]:
    """What the run was made with."""
    return {"tlutils": VERSION, "python": platform.python_version(), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "numpy": np.__version__, "pandas": pd.__version__,
            "platform": platform.platform()}
