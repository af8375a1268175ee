"""The whole way of one recipe, from data to numbers; what comes out is a folder of plain files.

    recipe.json      the recipe as used, versions, device, precision, weights, data fingerprint
    records.csv      the table of images with its splits
    history.csv      one row an epoch
    best.pt last.pt  checkpoints of plain types
    reference.pt     what tells images unlike the training images
    predictions.csv  what the model answered for each validation and test image
    stressed_predictions.csv  and for validation images under changed acquisition, where a threshold
                     was chosen by that
    metrics.json     numbers with intervals, the audit's verdict, what must be said beside them
    openings.csv     each time that the test images were scored, and how

`train` goes it at once; `prepare`, `make_model`, `make_loaders`, `fit`, `finish` are its steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

from ..core import devices, files
from ..core.devices import Machine
from ..core.images import UnreadableImage, refuse_among
from ..core.words import differences, many, some, threshold_as_text
from ..data import layouts, loaders, records, sources, splits
from ..data.audit import audit_splits, leak_verdict, leaks
from ..data.augment import normalize
from ..data.phantoms import MARKER
from ..evaluation import calibration, thresholds
from ..evaluation.acquisition import Acquisition
from ..evaluation.metrics import compute_metrics, headline
from ..models import checkpoints, prefix
from ..models.build import build, check_size, count, normalization, train_mode
from ..models.feature_store import Store, open_store
from ..models.weights import describe, resolve
from ..training import loop, speed, tuning
from ..training.loop import Fit
from . import openings, recipes, reference
from .folder import REPORT, STRESS_FILES, Run, reserved, timestamp, versions
from .recipes import Recipe
from .use import checked_patient_rule, predict_records, warn_of_unknown_patients

_MEASURED = ("metrics.json", "predictions.csv", "stressed_predictions.csv")
_FEW = 2000  # images times views: too few for compiling to pay
_COMPARED = 32  # images, in both precisions
_NAMED = 5  # of what tells a run from another one
# Of what tells images apart; VGG16 and ResNets have 0.02 to 0.09 in bf16, MobileNetV2 0.13 to 0.4.
_BLURRED = 0.1


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
    compiled: bool | str = "auto",
    patient: str | None = "auto",
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
    on_epoch_end: Callable[[dict], None] | None = None,
) -> Run:
    """Train and evaluate one recipe; the same call again goes on where a killed run stopped.

    A finished run is given back as it is (a line says where fewer epochs are asked for), or goes on
    where more are; a report and the stress of before are removed then. Other data, weights or
    settings in a run's folder are refused.

    Curves in TensorBoard::

        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter("runs/board") as board:
            names = ["train_loss", "val_loss", "val_accuracy"]
            train(recipe, data, "runs/mine", on_epoch_end=lambda row: [
                board.add_scalar(name, row[name], row["epoch"]) for name in names])

    in MLflow::

        import mlflow

        with mlflow.start_run():
            names = ["train_loss", "val_loss", "val_accuracy"]
            train(recipe, data, "runs/mine", on_epoch_end=lambda row: mlflow.log_metrics(
                {name: row[name] for name in names}, row["epoch"]))

    in Weights & Biases::

        import wandb

        with wandb.init(project="mine") as board:
            train(recipe, data, "runs/mine", on_epoch_end=board.log)

    Parameters
    ----------
    recipe : Recipe or str
        Itself or its name.
    data : str or Path
        A source's name, a folder or a manifest.
    out : str or Path
        The run's folder.
    weights : str
        "imagenet", "random" (said in every result) or a file: a state dict, or the best.pt of
        another run, from which all but the head is taken.
    limit : int
        Images used, 0 for all.
    device, precision : str
        See `devices.choose`. On a CPU "auto" trains in the precision that is fastest there (see
        `speed.fastest`); a run that has begun goes on in its own.
    store : str, Path or None
        Folder for the frozen part's outputs; "auto" is beside the run, None does without.
    compiled : bool or str
        Whether to compile the frozen part, or the whole model where nothing is kept; "auto" does so
        with a frozen part on a CPU where it pays (see `speed.compiled`), and a run that has begun
        goes on in its own way.
    patient : str or None
        See `records.scan`.
    show : bool, optional
        Progress bars or not; None decides.
    log : Callable, optional
        Called with lines for a person; None for silence.
    on_epoch_end : Callable, optional
        Called by rank 0 after each epoch that is trained now, with its row of history.csv (plain
        values by name), once last.pt has it. What it raises ends the training; the same call goes
        on after that epoch.

    Returns
    -------
    Run
        Finished.

    Raises
    ------
    ValueError
        Where `compiled` is none of the three, and as `prepare`.
    ImportError
        Where the images want a package that is not there.
    """
    if compiled not in ("auto", True, False):
        raise ValueError(f"compiled is {compiled!r}; it is True, False or 'auto'")
    log, machine = _log_of_rank_0(log), devices.choose(device, precision)
    how = {"machine": machine, "show": show, "log": log}
    _refuse_among_images(out, data)  # in each process, as one that comes late is not waited for
    kept = store not in (None, "auto") and any(Path(store).glob("*/store.json"))
    if store not in (None, "auto") and not (kept and _is_begun(Path(out))):
        _refuse_among_images(store, data, "feature store")
    with reserved(out):
        run = prepare(recipe, data, out, weights=weights, limit=limit, patient=patient, **how)
        if not _is_done(run, log):
            made = _made(run, machine, precision, store, compiled, log)
            how["machine"], model, parts = made
            fit(run, model, parts, store=store, on_epoch_end=on_epoch_end, **how)
            finish(run, model, parts, store=store, **how)
    return run


def train_seeds(
    run: Run,
    seeds: int = 3,
    *,
    device: str = "auto",
    precision: str = "auto",
    store: str | Path | None = "auto",
    compiled: bool | str = "auto",
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
) -> list[Run]:
    """A finished run and the same with the next seeds: other first weights, views and orders.

    All share one division of the images.

    Parameters
    ----------
    run : Run
        Finished.
    seeds : int
        How many runs in all. The further ones lie in <run>/seed-<number>.
    device, precision, store, compiled, show, log
        As for `train`.

    Returns
    -------
    list of Run
        The given one first.

    Raises
    ------
    ValueError
        For less than one run, or where one of the further folders holds another run.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it wants a whole number of runs, 1 or more")
    log, machine, several = _log_of_rank_0(log), devices.choose(device, precision), [run]
    how = {"machine": machine, "show": show, "log": log}
    for seed in range(run.recipe.seed + 1, run.recipe.seed + seeds):
        log(f"seed {seed}, in {run.folder / f'seed-{seed}'}:")
        with reserved(run.folder / f"seed-{seed}"):
            several.append(devices.by_first(partial(_sibling, run, seed, machine, log)))
            if not _is_done(several[-1], log):
                if devices.rank() == 0 and (run.folder / REPORT).is_file():
                    (run.folder / REPORT).unlink()
                    log(f"removed {run.folder / REPORT}, which tells of fewer seeds")
                made = _made(several[-1], machine, precision, store, compiled, log, like=run)
                how["machine"], model, parts = made
                fit(several[-1], model, parts, store=store, **how)
                finish(several[-1], model, parts, store=store, **how)
    return several


def _log_of_rank_0(log: Callable[[str], None] | None) -> Callable[[str], None]:
    return log if log and devices.rank() == 0 else (lambda line: None)


def _is_done(run: Run, log: Callable[[str], None]) -> bool:
    """Whether the run is finished and shall not go on."""

    def done() -> bool:
        return run.finished and run.recipe == Recipe.from_dict(run.about["recipe"])

    if not devices.by_first(done):
        return False
    test = run.metrics.get("test")
    log(f"{run.folder} is finished already{f': {headline(test)}' if test else ''}")
    return True


def _made(
    run: Run,
    machine: Machine,
    precision: str,
    store: str | Path | None,
    compiled: bool | str,
    log: Callable[[str], None],
    like: Run | None = None,
) -> tuple[Machine, nn.Module, dict[str, loaders.Loader]]:
    """What the run is trained on and in, its model, its loaders."""
    model, parts = make_model(run), make_loaders(run)
    machine = _way_to_train(run, model, machine, store, like, precision, compiled)
    counts = count(model)
    log(
        f"{run.recipe.name}: {counts['total']:,} parameters, {counts['trainable']:,} of them "
        f"trained; {machine.device} in {machine.precision} ({machine.why})"
    )
    return machine, model, parts


def _way_to_train(
    run: Run,
    model: nn.Module,
    machine: Machine,
    store: str | Path | None,
    like: Run | None = None,
    precision: str = "auto",
    compiled: bool | str = "auto",
) -> Machine:
    """The fastest where much is to do, but that of before where the run has begun to train.

    A further seed is trained `like` the first: what another precision does is no spread of seeds.
    """
    cut = _cut(run, model, store)
    if precision == "auto" and "fp32" in devices.gather(machine.precision):  # not all have bf16
        why = machine.why if machine.precision == "fp32" else "another process has no bf16"
        machine = dataclasses.replace(machine, precision="fp32", why=why)
    begun = any((run.folder / name).is_file() for name in ("last.pt", "head.pt"))
    if before := run if begun else like:
        then, why = before.about["machine"], "as it began" if begun else "as the first seed"
        # Not the same number: each process has a GPU of its own, and all must train alike.
        same = str(then.get("device")).startswith(machine.device.type)
        kept = {name: then.get(name) for name in ("precision", "channels_last")}
        if precision == "auto" and same:
            machine = dataclasses.replace(machine, **kept, why=why)
        elif precision == "auto" and kept["precision"] == "fp32":
            machine = dataclasses.replace(machine, precision="fp32", why=why)
        if compiled == "auto":
            compiled = same and bool(then.get("compiled"))
    elif precision == "auto" and not cut:
        batch, micro = run.recipe.batch_size, run.recipe.micro_batch
        at_once = min(micro, batch) if isinstance(micro, int) and micro else batch
        machine = speed.fastest(model, machine, run.recipe.size, at_once)
    elif precision == "auto" and machine.precision != "fp32":
        machine = _exact_enough(run, model, cut.prefix, machine)
    views = min(run.recipe.views, run.recipe.epochs)
    if compiled != "auto":
        machine = dataclasses.replace(machine, compiled=bool(compiled))
    elif cut and views * len(run.records) >= _FEW:
        stores = partial(_stores, run, model, cut, store=store, begin=False)
        called = f"{run.recipe.backbone} up to {cut.name}"
        machine = speed.compiled(called, machine, views, stores)
    if cut and machine.compiled:  # or as it is, where torch cannot
        machine = _stores(run, model, cut, machine, store, ("train",))["train"].machine
    elif machine.compiled and not all(devices.gather(speed.can_compile(machine))):
        machine = dataclasses.replace(machine, compiled=False)
    return machine


def _exact_enough(run: Run, model: nn.Module, frozen: nn.Module, machine: Machine) -> Machine:
    """The machine, or it in fp32 where its precision blurs what the frozen part sees in images."""
    # A number alone is told to all: each process has a device of its own.
    blurred = devices.by_first(lambda: _blurred(run, model, frozen, machine))
    if blurred <= _BLURRED:
        return machine
    moved = f"{100 * blurred:.0f} % of what tells images apart"
    why = f"{machine.precision} would move its features by {moved}"
    return dataclasses.replace(machine, precision="fp32", why=why)


def _blurred(run: Run, model: nn.Module, frozen: nn.Module, machine: Machine) -> float:
    """How far the machine's precision blurs what the frozen part sees, see `prefix.rounding`."""
    table, images = records.readable(run.part("train")), []
    for path in table["path"].iloc[:: max(1, len(table) // _COMPARED)][:_COMPARED]:
        with contextlib.suppress(UnreadableImage):
            images.append(loaders.read_image(run.root / path, **run.recipe.reading()))
    if all(image.equal(images[0]) for image in images):  # nothing tells them apart
        return 0.0
    mean, std = normalization(model)
    return prefix.rounding(frozen, normalize(torch.stack(images), mean, std), machine)


def _cut(run: Run, model: nn.Module, store: str | Path | None) -> prefix.Split | None:
    """Where the model is cut, if the outputs of its frozen part are kept."""
    kept = run.store(store) is not None and run.recipe.views
    return prefix.split(train_mode(model)) if kept else None


def _sibling(run: Run, seed: int, machine: Machine, log: Callable[[str], None]) -> Run:
    """The same run with another seed but the same images on the same sides."""
    recipe = dataclasses.replace(run.recipe, seed=seed, split_seed=run.recipe.division_seed)
    made = {"machine": machine.describe(), "started": timestamp(), "versions": versions()}
    folder = run.folder / f"seed-{seed}"
    wanted = Run(folder, recipe, run.records, run.root, {**run.about, **made})
    if not _is_begun(folder):
        records.save(run.records, folder / "records.csv", parquet_beside=True)
        wanted.write()
        return wanted
    sibling = Run.load(folder)
    _refuse_other_run(sibling, wanted)
    if sibling.about["data"]["fingerprint"] != run.about["data"]["fingerprint"]:
        raise _another_run(folder, ["its images were others"])
    _write_new_root(sibling, wanted, log)
    return _go_on(sibling, recipe, log)


def _is_begun(folder: Path) -> bool:
    return all(os.path.isfile(folder / name) for name in files.BEGUN)


def prepare(
    recipe: Recipe | str,
    data: str | Path,
    out: str | Path,
    *,
    weights: str = "imagenet",
    limit: int = 0,
    machine: Machine | None = None,
    patient: str | None = "auto",
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
) -> Run:
    """Settle what a run is made of: read the data, divide it, write recipe.json and records.csv.

    A folder that holds the same run already is taken up: its images are read once more, to see that
    they are those that it began with. It may train longer, be more patient, or take fewer images at
    once.

    Parameters
    ----------
    recipe, data, out, weights, limit
        As for `train`.
    machine : Machine, optional
        What to compute on; None chooses.
    patient, show, log
        As for `train`.

    Returns
    -------
    Run
        Begun, or taken up.

    Raises
    ------
    ValueError
        Where the folder holds another run or would lie among the images, or the data do not
        suffice.
    weights.WeightsMissing
        Where a run is to begin with weights that are neither here nor to be had.
    files.Busy
        Where another process trains into it.
    """
    recipe = recipes.get(recipe) if isinstance(recipe, str) else recipe
    machine, log = machine or devices.choose(), _log_of_rank_0(log)
    if limit < 0:
        raise ValueError(f"limit is {limit}; it wants a number of images, or 0 for all")
    about = {
        "recipe": recipe.to_dict(),
        "weights": {"requested": str(weights)},
        "limit": limit,
        "data": {"requested": str(data), "patient": checked_patient_rule(patient)},
        "machine": machine.describe(),
    }
    wanted = Run(Path(out), recipe, pd.DataFrame(), Path(), about)
    _refuse_among_images(out, data)
    with reserved(out):
        return devices.by_first(lambda: _begin_or_go_on(wanted, data, machine.device, show, log))


def _refuse_among_images(out: str | Path, data: str | Path, what: str = "run's folder") -> None:
    """Refuse to begin a folder among images or below them: it would pass for a class there."""
    place = Path(os.path.realpath(out))
    given = Path("data", data) if str(data) in sources.SOURCES else Path(data)
    if place.is_relative_to(os.path.realpath(given)) and not _is_begun(place):
        beside = os.path.normpath(given / ".." / "runs" / place.name)
        refuse_among(out, sources.get(data), what, beside)
    with warnings.catch_warnings(action="ignore"):  # what is passed over among them
        held = layouts.images_in(place) if place.is_dir() and not _is_begun(place) else []
    if held:
        raise ValueError(
            f"the {what} would be {out}, which holds {many(len(held))} already ({some(held)}); "
            "choose a new folder, as what lies in a run's is not taken for data"
        )


def _begin_or_go_on(
    wanted: Run,
    data: str | Path,
    device: torch.device,
    show: bool | None,
    log: Callable[[str], None],
) -> Run:
    """The run that the folder holds, if it is the wanted one; else the wanted one, begun."""
    recipe, about = wanted.recipe, wanted.about
    run = Run.load(wanted.folder) if _is_begun(wanted.folder) else None
    if run is None:
        _refuse_remains(wanted.folder)
        check_size(recipe.backbone, recipe.size, device, recipe.head)
    source = sources.get(data)
    wanted.root = records.root_of(source).resolve()
    if run:
        _refuse_other_run(run, wanted)
    found = records.scan(source, patient=about["data"]["patient"])
    found = splits.sample(found, about["limit"], recipe.seed)
    if run is None:
        # Now, so that weights that cannot be had leave no folder that refuses others.
        resolve(recipe.backbone, wanted.weights)
    wanted.records = records.inspect(found, wanted.root, decode=run is None, progress=show)
    if run is None:
        return _begin(wanted, log)
    _refuse_other_images(run, wanted.records)
    _write_new_root(run, wanted, log)
    return _go_on(run, recipe, log)


def _write_new_root(run: Run, wanted: Run, log: Callable[[str], None]) -> None:
    """Write down where the same images lie now, if they have moved."""
    if run.root != wanted.root:
        log(f"the images of {run.folder} have moved from {run.root} to {wanted.root}")
        run.root, requested = wanted.root, wanted.about["data"]["requested"]
        top = _top(run.records, run.root)
        run.about["data"] |= {"requested": requested, "root": str(run.root), "top": top}
        run.write()


def _refuse_remains(out: Path) -> None:
    """Refuse files of an unknown run, or somebody's own, that would pass for this one's or go."""
    weights = ("best.pt", "last.pt", "head.pt", reference.FILE)
    for name in (*_MEASURED, "history.csv", *weights, *STRESS_FILES, REPORT):
        if (out / name).is_file():
            raise ValueError(
                f"{out} has a {name} but not both recipe.json and records.csv, so of what run it "
                "is cannot be told. Put those back, choose another folder, or move it away first"
            )


def _begin(run: Run, log: Callable[[str], None]) -> Run:
    """The run with its images divided, written down."""
    recipe, root, about = run.recipe, run.root, run.about
    good = _readable(run, log)
    run.records, how = splits.divide(
        run.records, recipe.split, recipe.val, recipe.test, recipe.division_seed
    )
    log(how)
    log(_counted(run.records))
    classes = records.classes_of(run.records)
    if len(classes) < 2:
        raise ValueError(
            f"found only the class {classes[0]!r} in {root}; a classifier needs two or more class "
            "folders"
        )
    classes = records.classes_of(run.records, recipe.positive)
    if len(classes) == 2 and not recipe.positive:
        log(
            f"the positive class is {classes[1]}, the second by name, so sensitivity is for it; "
            f"the recipe's field positive changes that (--set positive={classes[0]})"
        )
    if recipe.threshold and len(classes) != 2:
        raise ValueError(
            f"threshold is {recipe.threshold!r} and {root} has {len(classes)} classes; a threshold "
            'divides two, so leave it "" here'
        )
    # Raises where it cannot be, before the folder holds a run that could never be trained.
    if run.weights in ("random", "imagenet"):
        build(**recipe.model_arguments(len(classes)), weights="random", device="meta")
    else:
        build(**recipe.model_arguments(len(classes)), weights=run.weights)
    _warn_of_missing(run.records, classes)
    if not _is_drawn(run):  # drawings may be of nobody
        warn_of_unknown_patients(good, ", and train anew into another folder", stacklevel=6)
    about["data"] |= {
        "root": str(root),
        "top": _top(run.records, root),
        "classes": classes,
        "images": len(run.records),
        "fingerprint": records.fingerprint(run.records),
        "own_splits": _own_splits(good),
        "split": how,
    }
    found = audit_splits(run.records)
    audit = {"verdict": leak_verdict(found), "leak": leaks(found)}
    audit["unsure"] = bool((found["verdict"] == "unknown").any())
    about |= {"audit": audit, "versions": versions(), "started": timestamp(), "notes": _notes(run)}
    about["notes"].append(audit["verdict"])
    records.save(run.records, run.folder / "records.csv", parquet_beside=True)
    run.write()
    return run


def _readable(run: Run, log: Callable[[str], None]) -> pd.DataFrame:
    """The records of whole images; a line names one that is none."""
    table, bad = run.records, records.problems(run.records)
    if len(bad):
        example, problem = bad[["path", "problem"]].iloc[0]
    if len(bad) == len(table):
        raise ValueError(
            f"none of the {len(table)} files in {run.root} is a readable image, e.g. {example}: "
            f"{problem}; fetch or copy the data again"
        )
    if len(bad):
        log(
            f"left out {len(bad)} of {len(table)} files that are no whole images, e.g. {example} "
            f"({problem}); records.csv names them all"
        )
    return records.readable(table)


def _counted(table: pd.DataFrame) -> str:
    """How many images and, where some are known, patients each split got."""
    parts = [(split, table[table["split"] == split]) for split in splits.SPLITS]
    nobody = records.unknown_patient(table).all()
    return ", ".join(
        f"{split}: {many(len(part))}"
        + ("" if nobody else f" of {many(part['patient'].nunique(), 'patient')}")
        for split, part in parts
        if len(part)
    )


def _own_splits(good: pd.DataFrame) -> str:
    """16 hexadecimal digits that change where the data set divides its images in another way."""
    return records.fingerprint(good.assign(label=good["split"]))


def _top(table: pd.DataFrame, root: Path) -> str:
    """The folder below which all images lie; a manifest may name some not below its own."""
    above = [os.path.normpath(root / path) for path in table["path"] if ".." in path]
    return os.path.commonpath([root, *above])


def _warn_of_missing(table: pd.DataFrame, classes: list[str]) -> None:
    good = records.readable(table)
    for split in splits.SPLITS:
        there = good.loc[good["split"] == split, "label"]
        missing = ", ".join(sorted(set(classes) - set(there)))
        if missing and split == "train":
            raise ValueError(
                f"no readable training image of {missing} is left; add images, raise the limit, or "
                "take the class out"
            )
        if missing:
            told = f"the {split} images lack {missing}"
            told = told if len(there) else f"there are no {split} images"
            warnings.warn(told, stacklevel=6)


def _notes(run: Run) -> list[str]:
    """What must be said beside every result, but for the audit's verdict."""
    notes = ["phantom images (drawings, not patients)"] if _is_drawn(run) else []
    return [*notes, describe(run.weights)]


def _is_drawn(run: Run) -> bool:
    """Whether the images are phantoms: by a file above them, also where a manifest names them."""
    image = Path(os.path.realpath(run.root / run.records["path"].iloc[0]))
    return any((folder / MARKER).exists() for folder in image.parents)


def _refuse_other_run(run: Run, wanted: Run) -> None:
    """Refuse another recipe, other weights or another place of the images than the run's own.

    Images that have moved are told from others by their contents.
    """
    then, now = map(_settled, (run, wanted))
    if not run.root.exists():
        del now["data"]
    if differing := differences(then, now):
        raise _another_run(run.folder, differing)


def _settled(run: Run) -> dict:
    """What a run that goes on has to share with the run before."""
    free, kept = ("epochs", "patience", "micro_batch"), run.recipe.to_dict()
    kept = {name: value for name, value in kept.items() if name not in free}
    kept |= {"weights": run.weights, "limit": run.about["limit"], "data": str(run.root)}
    kept |= {"patient": run.about["data"].get("patient"), "title": kept.pop("title")}
    return {"recipe": kept.pop("name"), **kept}


def _another_run(folder: Path, differing: list[str]) -> ValueError:
    if (more := len(differing) - _NAMED) > 0:
        differing = [*differing[:_NAMED], f"and {more} more"]
    return ValueError(
        f"{folder} holds another run: {'; '.join(differing)}. Choose another folder, or remove "
        "this one first"
    )


def _refuse_other_images(run: Run, table: pd.DataFrame) -> None:
    """Refuse a table of other images, labels, patients or own splits.

    A file that was left out as unreadable does not matter, whatever has become of it. One that
    could be read then, and lacks a package now, is no other image.
    """
    broken = set(records.problems(run.records)["path"])
    lacking = records.lacking_package(table)
    lacking = lacking[~lacking["path"].isin(broken)]
    if len(lacking):
        raise ImportError(
            f"{many(len(lacking))} of {run.folder} can no longer be read: "
            f"{lacking['problem'].iloc[0]}"
        )
    columns = ["path", "label", "patient", "sha256"]
    then, now = (
        {
            path: about
            for path, *about in part[columns].itertuples(index=False)
            if path not in broken
        }
        for part in (run.records, table)
    )
    paths = {
        "new": sorted(now.keys() - then.keys()),
        "gone": sorted(then.keys() - now.keys()),
        "changed": sorted(path for path in then.keys() & now.keys() if then[path] != now[path]),
    }
    if any(paths.values()):
        raise _another_run(
            run.folder,
            [
                f"{len(found):,} of its images {'is' if len(found) == 1 else 'are'} {what}"
                f"{', file, label or patient' * (what == 'changed')}, e.g. {found[0]}"
                for what, found in paths.items()
                if found
            ],
        )
    own = _own_splits(table[~table["path"].isin(broken)])
    if run.about["data"].get("own_splits") not in (None, own):
        raise _another_run(run.folder, ["the data set divides its images in another way"])


def _go_on(run: Run, recipe: Recipe, log: Callable[[str], None]) -> Run:
    """The run with the epochs, patience, micro_batch of now; a finished one only to learn more."""
    free = {name: getattr(recipe, name) for name in ("epochs", "patience", "micro_batch")}
    wanted = dataclasses.replace(run.recipe, **free)
    if run.finished and not _learns_more(run, wanted, log):
        return run
    by_length = wanted.schedule in ("cosine", "one-cycle")
    if wanted.epochs != run.recipe.epochs and by_length and (run.folder / "last.pt").is_file():
        (changed,) = differences({"epochs": run.recipe.epochs}, {"epochs": wanted.epochs})
        why = f"with the schedule {wanted.schedule!r} every rate depends on it"
        raise _another_run(run.folder, [f"{changed}, and {why}"])
    if run.finished:
        log(f"{run.folder} is finished and goes on: it was asked for more epochs or more patience")
    run.recipe = wanted
    return run


def _learns_more(run: Run, wanted: Recipe, log: Callable[[str], None]) -> bool:
    """Whether a finished run has epochs to go if it gets the wanted epochs and patience."""
    then = run.recipe
    more_patient = (wanted.patience or math.inf) > (then.patience or math.inf)
    if wanted.epochs < then.epochs and (run.folder / "history.csv").is_file():
        n = len(run.history) - then.head_epochs
        if wanted.epochs < n:
            log(_keeps_more(run.folder, n, wanted.epochs))
    if wanted.epochs <= then.epochs and not more_patient:
        return False
    if not (run.folder / "last.pt").is_file():
        log(f"{run.folder} has no last.pt to go on from")
        return False
    last = checkpoints.read(run.folder / "last.pt")
    done = len(last["history"])
    if wanted.patience and done - last["best_epoch"] >= wanted.patience:
        log(
            f"{run.folder} had stopped early, with no better {wanted.monitor} in "
            f"{many(wanted.patience, 'epoch')}, so more epochs change nothing; more patience would"
        )
        return False
    return wanted.epochs > done


def _keeps_more(folder: Path, epochs: int, requested: int) -> str:
    return (
        f"{folder} has {many(epochs, 'epoch')} already, more than the {requested} requested, and "
        "keeps them; choose another folder to train fewer"
    )


def make_model(run: Run) -> nn.Module:
    """The recipe's model, its weights resolved; what they are is written into recipe.json.

    Parameters
    ----------
    run : Run
        Prepared.

    Returns
    -------
    nn.Module
        In train mode, on the CPU.
    """

    def made() -> nn.Module:
        return build(**run.recipe.model_arguments(len(run.classes)), weights=run.weights)

    models: list[nn.Module] = []

    def first() -> dict:
        models.append(made())
        found = {**models[0].tl["weights"], "requested": run.weights}
        if found != run.about["weights"]:
            run.about["weights"] = found
            run.write()
        return found

    run.about["weights"] = devices.by_first(first)  # which may fetch them, for all
    return models[0] if models else made()


def make_loaders(run: Run) -> dict[str, loaders.Loader]:
    """A loader for each split that has images; the training one in a new order each epoch.

    Parameters
    ----------
    run : Run
        Prepared.

    Returns
    -------
    dict
        {split: Loader}.
    """
    made = {}
    for part in splits.SPLITS:
        table, training = run.part(part), part == "train"
        balanced = training and run.recipe.balanced
        if len(records.readable(table)):
            made[part] = loaders.make(
                table,
                run.root,
                run.classes,
                batch_size=run.recipe.batch_size,
                shuffle=training,
                seed=run.recipe.seed,
                weights=compute_sample_weight("balanced", table["label"]) if balanced else None,
                rank=devices.rank(),
                world=devices.world(),
                **run.recipe.reading(),
            )
    return made


def open_stores(
    run: Run, *, machine: Machine | None = None, store: str | Path | None = "auto"
) -> dict[str, Store]:
    """The stores of a run's images that training and measuring will read, to be filled beforehand.

    They serve that training only where it computes on the same kind of device in the same
    precision, with the same packages, and compiled or not as they were. What it needs beside them
    (to train the head first, or for a monitor of changed acquisition) it computes itself.

    Parameters
    ----------
    run : Run
        Prepared.
    machine : Machine, optional
        What to compute on; None is what `train` chooses where nothing is asked of it, but that
        nothing is compiled that was not before.
    store : str, Path or None
        As for `train`.

    Returns
    -------
    dict
        {split: Store}, see `feature_store.Store`.

    Raises
    ------
    ValueError
        Where there are none: no part of the model is frozen, or views never come back.
    """
    model = make_model(run)
    cut = _cut(run, model, store)
    if cut is None:
        raise ValueError(
            f"the training of {run.folder} keeps no features that could be filled beforehand: "
            f"that wants a frozen part (freeze={run.recipe.freeze!r}), views "
            f"(views={run.recipe.views}) and a store ({store})"
        )
    if machine is None:
        before = run.machine()
        machine = _way_to_train(run, model, before, store, compiled=before.compiled)
    return _stores(run, model, cut, machine, store)


def _stores(
    run: Run,
    model: nn.Module,
    cut: prefix.Split,
    machine: Machine,
    store: str | Path | None,
    parts: tuple[str, ...] = splits.SPLITS,
    begin: bool = True,
) -> dict[str, Store]:
    (mean, std), folder = normalization(model), run.store(store)
    of = {"machine": machine, "mean": mean, "std": std, "begin": begin}
    views = {name: getattr(run.recipe, name) for name in ("augmentation", "views", "seed")}
    return {
        part: open_store(folder, cut.prefix, loader, **of, **(views if part == "train" else {}))
        for part, loader in make_loaders(run).items()
        if part in parts
    }


def fit(
    run: Run,
    model: nn.Module,
    parts: dict[str, loaders.Loader],
    *,
    machine: Machine | None = None,
    store: str | Path | None = "auto",
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
    on_epoch_end: Callable[[dict], None] | None = None,
) -> Fit:
    """Train the run's model, or go on training it; writes last.pt each epoch, then the rest.

    The rest is history.csv and best.pt.

    Parameters
    ----------
    run : Run
        Prepared.
    model : nn.Module
        As `make_model` makes it.
    parts : dict
        As `make_loaders` makes it.
    machine : Machine, optional
        What to compute on; None chooses as `train` does.
    store, show, log, on_epoch_end
        As for `train`.

    Returns
    -------
    Fit
        Its model is the given one, with the weights of its best epoch.
    """
    recipe = run.recipe
    machine = machine or _way_to_train(run, model, devices.choose(), store)
    used = {part: parts[part] for part in ("train", "val") if part in parts}
    how = {"machine": machine, "store": run.store(store), "show": show}
    how["log"] = tell = _log_of_rank_0(log)
    how["on_epoch_end"] = on_epoch_end
    with reserved(run.folder):
        run.about["machine"] = machine.describe()
        if gone := devices.by_first(lambda: _begin_to_fit(run, model, used)):
            tell(f"removed what tells of the run as it was: {', '.join(gone)}")
        if kept := sorted(file.name for file in run.folder.glob("evaluations/*stress.csv")):
            tell(f"in evaluations, these tables of stress are of the run as it was: {some(kept)}")
        if recipe.head_epochs:
            tell(f"first the head alone, {many(recipe.head_epochs, 'epoch')}")
            options = tuning.head_options(recipe, recipe.head_epochs, recipe.head_learning_rate)
            how["on_epoch_end"] = _of_part(on_epoch_end, "head", 0)
            with tuning.head_alone(model):
                head = loop.fit(model, used, options, checkpoint=run.folder / "head.pt", **how)
            how["on_epoch_end"] = _of_part(on_epoch_end, "all", len(head.history))
            state = checkpoints.copy_of_state(model)
            tell(f"now with freeze={recipe.freeze!r}")
        done = loop.fit(model, used, recipe, checkpoint=run.folder / "last.pt", **how)
        if recipe.head_epochs:
            done = tuning.better_of(head, done, state)
        devices.by_first(lambda: _write_fit(run, model, done, tell))
    return done


def _of_part(
    on_epoch_end: Callable[[dict], None] | None, part: str, before: int
) -> Callable[[dict], None] | None:
    """Called with a row as `tuning.better_of` will have it in the history of both parts."""
    if on_epoch_end is None:
        return None
    return lambda row: on_epoch_end({**row, "part": part, "epoch": row["epoch"] + before})


def _begin_to_fit(run: Run, model: nn.Module, used: dict[str, loaders.Loader]) -> list[str]:
    """Take what was measured away: it is not that of the weights to come, if they can come.

    Gives back the names of that which training does not write anew.
    """
    loop.refuse_other(run.folder / "last.pt", model, used, run.recipe)
    gone = [name for name in (*STRESS_FILES, REPORT) if (run.folder / name).is_file()]
    with openings.kept(run):
        for name in (*_MEASURED, reference.FILE, *gone):
            (run.folder / name).unlink(missing_ok=True)
    run.write()
    return gone


def _write_fit(run: Run, model: nn.Module, done: Fit, log: Callable[[str], None]) -> None:
    """Write history.csv and best.pt, and into recipe.json how many epochs there were."""
    epochs = len(done.history) - run.recipe.head_epochs
    if epochs > run.recipe.epochs:  # fewer were asked for than it had already
        log(_keeps_more(run.folder, epochs, run.recipe.epochs))
        run.recipe = dataclasses.replace(run.recipe, epochs=epochs)
        run.write()
    records.save(done.history, run.folder / "history.csv")
    checkpoints.save(
        run.folder / "best.pt",
        model,
        run.classes,
        recipe=run.recipe.to_dict(),
        epoch=done.best_epoch,
        monitor=done.monitor,
        notes=list(run.about["notes"]),
    )


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
    """Predict validation and test images, measure, write predictions.csv and metrics.json.

    Before it write reference.pt, where there are validation images.

    Parameters
    ----------
    run : Run
        Trained.
    model : nn.Module
        As `fit` left it.
    parts : dict
        As `make_loaders` makes it.
    machine : Machine, optional
        What to compute on; None is `Run.machine`.
    store, show, log
        As for `train`.

    Returns
    -------
    dict
        The metrics as written.
    """
    how = {"machine": machine, "show": show, "store": run.store(store)}
    answers = partial(predict_records, run, model, **how)
    with reserved(run.folder):
        if why := reference.lacking(run):
            _log_of_rank_0(log)(f"whether images are unlike the training images is not told: {why}")
        reference.known(run, model, answers)
        tables = [answers(run.part(part), part) for part in ("val", "test") if part in parts]
        stressed, shown = thresholds.split_rule(run.recipe.threshold)[0], run.recipe.stress_views
        dealt = None
        if stressed and "val" in parts:
            dealt = answers(run.part("val"), "val", acquisition=Acquisition(), shown=shown)
        predictions = pd.concat(tables, ignore_index=True)
        return devices.by_first(lambda: _measure(run, predictions, dealt, log))


def _measure(
    run: Run,
    predictions: pd.DataFrame,
    dealt: pd.DataFrame | None,
    log: Callable[[str], None] | None,
) -> dict:
    """Write predictions and metrics, and the chosen threshold and temperature into best.pt.

    The threshold is chosen on the validation images as they are, or as they were `dealt`.
    """
    val = predictions[predictions["split"] == "val"]
    rule = thresholds.split_rule(run.recipe.threshold)[1]
    threshold, temperature = _threshold(val if dealt is None else dealt, rule), _temperature(val)
    predictions = calibration.answered(predictions, threshold)
    if dealt is not None and threshold is not None:
        dealt = thresholds.apply_threshold(dealt, threshold)
        records.save(dealt, run.folder / "stressed_predictions.csv")
    records.save(predictions, run.folder / "predictions.csv")
    best, chosen = run.folder / "best.pt", {"temperature": temperature, "threshold": threshold}
    content = checkpoints.read(best)
    checkpoints.write(best, {**content, **chosen})
    metrics = _metrics(predictions, run, threshold) | {"temperature": temperature}
    metrics["weights"] = checkpoints.fingerprint(content)  # so that nobody need read them for it
    if "test" in metrics:
        used = openings.settings(run.recipe.test_views, threshold)
        openings.record(run, "train", used, metrics)
    else:
        files.write_json(run.folder / "metrics.json", metrics)
    if log:
        for part in ("val", "test"):
            if part in metrics:
                log(f"{part}: {headline(metrics[part])}")
            if part == "val" and threshold is not None:
                seen = "" if dealt is None else " under changes of acquisition"
                told = f"threshold {threshold_as_text(threshold)}, chosen by {rule}"
                log(f"{told} on the validation images{seen}")
                log("val and test are measured by it, the epochs above by the likeliest class")
        if earlier := run.of_earlier_weights(metrics["weights"]):
            log(
                f"{many(len(earlier), 'file')} of the run's earlier weights: {some(earlier)}; the "
                "report leaves them out, so evaluate or adapt anew, on the same images"
            )
        log(f"({run.caption})")
    return run.metrics


def _threshold(val: pd.DataFrame, rule: str) -> float | None:
    """What the rule chooses on validation images; None without a rule or such images."""
    if rule and val["label"].nunique() == 2:
        return thresholds.choose_threshold(val, rule)
    if rule:
        warnings.warn(
            "there are no validation images of both classes to choose a threshold on, so the "
            "likelier class is answered",
            stacklevel=3,
        )
    return None


def _temperature(val: pd.DataFrame) -> float | None:
    """The temperature of the validation images; None where there are none."""
    if val.empty:
        return None
    with warnings.catch_warnings():
        # An answer without an error has no temperature; 1 is kept then.
        warnings.simplefilter("ignore")
        return round(calibration.fit_temperature(val), 6)


def _metrics(predictions: pd.DataFrame, run: Run, threshold: float | None) -> dict:
    """metrics.json: each split's numbers, at the chosen threshold, or at that of `predicted`."""
    seed = run.recipe.seed
    metrics = {
        split: compute_metrics(part.reset_index(drop=True), seed=seed, threshold=threshold)
        for split, part in predictions.groupby("split")
    }
    interval = {
        "level": 0.95,
        "method": "Wilson by bootstrap over patients",
        "repeats": 1000,
        "seed": seed,
    }
    about = {name: run.about[name] for name in ("audit", "notes")}
    return {**metrics, **about, "interval": interval}
