"""A trained run put to use: measured anew, asked about new images, looked into."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ..core import devices, files
from ..core.devices import Machine
from ..core.words import answered_from, many, quoted, some
from ..data import layouts, loaders, records, sources
from ..data.splits import SPLITS, comparable, is_readable
from ..evaluation import calibration, thresholds
from ..evaluation.acquisition import Acquisition
from ..evaluation.metrics import as_text, compute_metrics, patients_of, share
from ..evaluation.predict import Describe, NothingToPredict, PackageMissing, predict_changed
from ..evaluation.predict import predict as predict_loader
from ..models import checkpoints, feature_store, prefix
from ..models.build import normalization
from . import openings, reference
from .folder import STRESS_FILES, Run

_TABLES = ("predictions.csv", "stressed_predictions.csv", *STRESS_FILES)  # that a run keeps


def predict_records(
    run: Run,
    model: nn.Module,
    table: pd.DataFrame,
    split: str,
    machine: Machine | None = None,
    show: bool | None = None,
    root: Path | None = None,
    store: str | Path | None = None,
    views: int | None = None,
    acquisition: Acquisition | None = None,
    shown: int = 1,
    describe: Describe | None = None,
) -> pd.DataFrame:
    """What a model answers for the images of a table.

    With several processes each takes a share, and all get the whole.

    Parameters
    ----------
    run : Run, whose recipe says how images are read
    model : nn.Module, the run's
    table : DataFrame, records
    split : str, written into the predictions
    machine : Machine, optional, what to compute on; None is `Run.machine`
    show : bool, optional, progress bar or not; None decides
    root : Path, optional, the folder that paths start from; None is the run's
    store : str or Path, optional, folder for the frozen part's outputs; None does without
    views : int, optional
        Of test-time augmentation, drawn as the recipe's training views; None as many as it says.
    acquisition : Acquisition, optional
        Changes under which the images are seen (see `evaluation.predict.predict_changed`).
    shown : int, how many of them each image is seen under
    describe : Callable, optional
        Adds columns made of the images and of what enters the head (see
        `evaluation.predict.predict`).

    Returns
    -------
    DataFrame, predictions, by path

    Raises
    ------
    NothingToPredict
        Where no image can be read; it is an ImportError too where all lack a package.
    """
    views = run.recipe.test_views if views is None else views
    machine = machine or run.machine()
    table = table[is_readable(table)]

    def answers(part: pd.DataFrame, **how: object) -> pd.DataFrame:
        reading = {"batch_size": 64, **run.recipe.reading()}
        loader = loaders.make(part, root or run.root, run.classes, **reading)
        if acquisition:
            of = (acquisition, shown, machine, split, show)
            return predict_changed(machine.place(model), loader, *of, **how)
        of = (machine, split, show)
        return predict_loader(machine.place(model), loader, *of, describe=describe, **how)

    # Processes share the filling of a store; the rest is quick. One alone need not ask for it here.
    if store is not None and not views and (devices.world() == 1 or prefix.split(model)):
        return _by_path(answers(table, store=store))
    mine = table.iloc[devices.rank() :: devices.world()]
    seen = {"augmentation": run.recipe.augmentation, "seed": run.recipe.seed}
    # Nothing of this share, maybe; the others may have images that can be read.
    try:
        share = answers(mine, views=views, **seen) if len(mine) else None
    except NothingToPredict as nothing:
        share = nothing
    shares = devices.gather(share)
    if found := [share for share in shares if isinstance(share, pd.DataFrame)]:
        return _by_path(pd.concat(found))
    lacking = [share.why for share in shares if isinstance(share, PackageMissing)]
    raise PackageMissing(len(table), lacking[0]) if lacking else NothingToPredict(len(table))


def _by_path(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions.sort_values("path", kind="stable").reset_index(drop=True)


def frozen_features(run: Run, table: pd.DataFrame, machine: Machine | None = None) -> np.ndarray:
    """What the frozen part of a run's model makes of the images of a table, each as it is.

    They are kept in the feature store beside the run.

    Parameters
    ----------
    run : Run, finished
    table : DataFrame, records
    machine : Machine, optional, what to compute on; None is `Run.machine`

    Returns
    -------
    ndarray, float32 (images, features), in the table's order

    Raises
    ------
    ValueError
        Where nothing is frozen, or an image cannot be read.
    """
    machine, model = machine or run.machine(), run.model()
    cut = prefix.split(model)
    if cut is None:
        raise ValueError(
            f"nothing of the model of {run.folder} is frozen, so all its layers have seen the "
            "labels; use the predictions of validation and test images instead"
        )
    loader = loaders.make(table, run.root, run.classes, batch_size=64, **run.recipe.reading())
    (mean, std), folder = normalization(model), run.folder / "features"
    held = feature_store.open_store(folder, cut.prefix, loader, machine, mean=mean, std=std)
    held.fill(0)
    if len(held.bad()):
        raise ValueError(
            f"{len(held.bad())} of {held.n} images cannot be read, e.g. {loader.unreadable[0][0]}; "
            "pass records.readable(...)"
        )
    return held.read(0, np.arange(held.n)).float().flatten(1).numpy()


def evaluate(
    folder: str | Path,
    data: str | Path | None = None,
    split: str = "test",
    *,
    patient: str | None = "run",
    device: str = "auto",
    precision: str = "auto",
    views: int | None = None,
    calibrated: bool = False,
    adapted: str | None = None,
    show: bool | None = None,
    log: Callable[[str], None] | None = None,
) -> dict:
    """Measure a run's model anew on one of its splits, or on other labelled images.

    Of other images the results are written to <run>/evaluations; the file's name tells data, split,
    patient rule, views, calibration and adaptation apart, and the .json says what they were, of
    which weights and choice the answers are, and how many of the images are the run's own or were
    chosen on.
    They say too which images are unlike the training images, as `predict` does. Nothing of the run
    is changed, but that each look at its own test images is counted (see `openings`).

    Parameters
    ----------
    folder : str or Path, the run
    data : str or Path, optional
        Other images: all of them, or those of `split` where they have splits.
    split : str, "train", "val" or "test"; images without splits are measured as "test"
    patient : str or None
        How other images tell their patients (see `records.with_patients`); "run" is as those of the
        adaptation, where one is named, or else as the run's.
    device, precision : str, see `Run.machine`
    views : int, optional, of test-time augmentation (see `predict_records`)
    calibrated : bool, whether to apply the temperature fitted on validation
    adapted : str, optional
        The name of an adaptation (see `adapt.adapt`): answer by its threshold, with its views
        unless others are given, and at its temperature.
    show : bool, optional, progress bars or not; None decides
    log : Callable, optional
        Called with lines that say where results are and how often the test images were scored.

    Returns
    -------
    dict
        The metrics of the split (see `metrics.compute_metrics`); of other images also unlike, the
        share of those that are unlike the training images, where it can be told.

    Raises
    ------
    ValueError
        Where the run, or other images with splits, have none of this split; where the run has no
        temperature that is wanted, or no such adaptation; for a patient rule without other images.
    files.Busy
        Where a training went on meanwhile and best.pt is another.
    """
    run = Run.load(folder)
    best_file = devices.by_first(lambda: run.best_file)
    machine = run.machine(device, precision)
    chosen = devices.by_first(lambda: run.adaptation(adapted)) if adapted is not None else None
    if chosen and patient == "run" and data is not None:
        patient = chosen["used"].get("patient", "run")
    patient = patient_rule(run, patient, data)
    views = checked_views(run, views, chosen)
    model = run.model()
    if data is not None:
        files.check_writable(run.folder / "evaluations")
    if data is None:
        table, root, store = run.part(split, required=True), run.root, run.store()
    else:
        others = partial(other_images, run, data, split, patient, show, stacklevel=4)
        found, root, source = devices.by_first(others)
        table = records.readable(found)
        store, divided = None, (table["split"] == split).all()
        split = split if divided else "test"  # the same file, whatever was asked
    known = {}
    if chosen:
        chosen_on = int(table["sha256"].isin(chosen["images"]).sum())
        _warn_of_chosen_on(chosen_on, len(table), adapted)
        known = {"chosen_on": chosen_on, "choice": chosen["choice"]}
    answers = partial(predict_records, run, model, machine=machine, show=show)
    asked = {"root": root, "store": store, "views": views}
    predict_them = answers if data is None else partial(_with_distance, run, model, answers)
    predictions = predict_them(table, split, **asked)
    predictions = as_the_run_answers(run, predictions, calibrated, chosen)
    threshold = threshold_in_use(run, chosen)
    plain = None if calibrated or chosen else threshold
    metrics = compute_metrics(predictions, seed=run.recipe.seed, threshold=plain)
    weights = run.fingerprint if data is not None else ""
    devices.by_first(lambda: run.check_best_file(best_file))
    if data is not None and predictions["unlike"].notna().all():
        metrics["unlike"] = share(predictions["unlike"], patients_of(predictions))
    if data is not None and devices.rank() == 0:
        known |= _count_own_images(run, table)
        _warn_of_own_images(run, known["own"], len(table))
    own_test = split == "test" if data is None else has_test_images(run, table)
    if own_test:
        used = openings.settings(views, threshold, calibrated, adapted)
        devices.by_first(lambda: _count_opening(run, used, log))
    if data is not None and devices.rank() == 0:
        if log and not divided:
            log(f"{source} has no splits: measured on all {many(len(predictions))}")
        used = {"data": str(source), "split": split, "patient": patient, "views": views}
        used |= {"calibrated": calibrated}
        used |= {"adapted": adapted} if adapted is not None else {}
        target = run.folder / "evaluations" / _file_name(used)
        records.save(predictions, f"{target}.csv")
        used |= {
            "requested": str(data),
            "images": len(table),
            "unreadable": len(found) - len(table),
            "precision": machine.precision,
            "fingerprint": records.fingerprint(table),
            "weights": weights,
            **known,
        }
        about = {split: metrics, "notes": run.about["notes"], "used": used}
        files.write_json(f"{target}.json", about)
        if log and "unlike" in metrics:
            limit = reference.limit_in_words(run)
            of = f"{as_text(metrics['unlike'])} of the images"
            log(f"unlike the training images: {of}, further from them than {limit}")
        if log:
            log(f"the predictions and all numbers are in {target}.csv and .json")
    if data is None and log and devices.rank() == 0:
        ended = run.folder / "metrics.json"
        kept = ended.is_file() and split in run.metrics
        beside = f"; those of the training's end are in {ended}" if kept else ""
        log(f"these numbers are not written{beside}")
    return metrics


def has_test_images(run: Run, table: pd.DataFrame) -> bool:
    """Whether some images are the run's own test images, wherever they lie.

    Parameters
    ----------
    run : Run, whose test images
    table : DataFrame, records, inspected

    Returns
    -------
    bool
    """
    known, test = table[comparable(table)], run.part("test")
    return bool(known["sha256"].isin(set(test["sha256"])).any())


def _count_own_images(run: Run, table: pd.DataFrame) -> dict:
    """How many of some images are the run's own, by split ("own") and in all ("own_images")."""
    known = table[comparable(table)]["sha256"]
    own = {split: int(known.isin(set(run.part(split)["sha256"])).sum()) for split in SPLITS}
    # Of a leaking run one may be in two splits.
    return {"own": own, "own_images": int(known.isin(set(run.records["sha256"])).sum())}


def _warn_of_own_images(run: Run, own: dict, of: int) -> None:
    """Say which of the run's own images flatter it."""
    for split, what in ("train", "was trained on"), ("val", "was chosen by"):
        if n := own[split]:
            warnings.warn(
                f"{n} of {many(of)} are among those that {run.folder} {what}, so what "
                "follows is too good, and says nothing about other images",
                stacklevel=3,
            )


def _count_opening(run: Run, used: dict, log: Callable[[str], None] | None) -> None:
    try:
        count = openings.record(run, "evaluate", used)
    except (OSError, files.Busy) as error:  # a colleague's run, say, that one may only read
        warnings.warn(f"this look at the test images could not be counted: {error}", stacklevel=5)
        return
    if log:
        log(openings.in_words(count))


def _warn_of_chosen_on(n: int, of: int, name: str) -> None:
    """Say how many of some images an adaptation was chosen on."""
    if n:
        warnings.warn(
            f"{n} of these {of} images are among those that {name} was chosen on, so what follows "
            f"is too good. What to expect there is in adaptations/{name}.json, measured by "
            "cross-fitting",
            stacklevel=3,
        )


def _file_name(used: dict) -> str:
    """A file's name that no other data, split or settings have: "siteA-images-test-1f0c..."."""
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:12]
    return "-".join([*_last_folders(Path(used["data"])), used["split"], digest])


def _last_folders(source: Path) -> list[str]:
    folders = [*source.parts[1:-1], source.stem if source.is_file() else source.name][-2:]
    return [folder[-40:] for folder in folders]


def readable_name(source: Path) -> str:
    """A name for what is made of some data, to be typed: its last two folders.

    Parameters
    ----------
    source : Path, a whole path, of a folder or a manifest

    Returns
    -------
    str
        Letters, digits and . _ - alone, a letter or digit first.

    Examples
    --------
    >>> readable_name(Path("/data/site A/images"))
    'site-A-images'
    """
    return re.sub(r"[^\w.-]+", "-", "-".join(_last_folders(source))).strip("._-") or "local"


def patient_rule(run: Run, patient: str | None, data: str | Path | None) -> str | None:
    """The rule by which other images tell their patients.

    Parameters
    ----------
    run : Run, whose rule "run" means
    patient : str or None, as asked for; "run" is the run's own
        Of a run whose images lie in class folders it is "auto" for a manifest that tells patients.
    data : str, Path or None, the other images

    Returns
    -------
    str or None

    Raises
    ------
    ValueError
        Where there are no other images to be read by a rule, or it cannot be written down.
    """
    if patient == "run":
        rule, requested = run.about["data"].get("patient", "auto"), run.about["data"]["requested"]
        from_names = not requested.lower().endswith(layouts.TABLES)
        return "auto" if data is not None and from_names and records.has_patients(data) else rule
    if data is None:
        raise ValueError(
            f"the patient rule {quoted(patient)} is for other images (data=..., on the command "
            "line --data); the patients of the run's own images are in "
            f"{run.folder / 'records.csv'}"
        )
    return checked_patient_rule(patient)


def checked_patient_rule(patient: object) -> str | None:
    """Refuse a patient rule that no file can keep, such as a function.

    Parameters
    ----------
    patient : object

    Returns
    -------
    str or None, the same

    Raises
    ------
    ValueError
        For what is neither text nor None.
    """
    if isinstance(patient, (str, type(None))):
        return patient
    raise ValueError(
        f"patient is {patient!r}, which the run's files cannot keep; give auto, dicom, "
        "dicom-hashed, None, or a pattern with a group named patient"
    )


def other_images(
    run: Run,
    data: str | Path,
    split: str | None,
    patient: str | None = "auto",
    show: bool | None = None,
    stacklevel: int = 2,
) -> tuple[pd.DataFrame, Path, Path]:
    """Labelled images that are not the run's own; warnings say what is wrong with them.

    They name those that cannot be read, and count those whose patient is unknown.

    Parameters
    ----------
    run : Run, whose classes they have
    data : str or Path, a source's name, a folder or a manifest
    split : str or None, of images that have splits those of this one; None takes all
    patient : str or None, how they tell their patients, see `records.with_patients`
    show : bool, optional, progress bar or not; None decides
    stacklevel : int
        How far above stands the line that the warning points at, as for `warnings.warn`.

    Returns
    -------
    DataFrame, records, inspected
    Path, the folder that their paths start from
    Path, what was read: that folder or a manifest

    Raises
    ------
    ValueError
        Where they have splits, but not this one, or none can be read.
    """
    source = sources.get(data).resolve()
    table = records.scan(source, classes=run.classes, patient=patient)
    root = records.root_of(source)
    if split is not None and (own := sorted(set(table["split"]) - {""})):
        if split not in own:
            raise ValueError(
                f"{data} has no {split!r} images; its splits are {', '.join(own)}: name one "
                "(split=..., on the command line --split)"
            )
        if without := int((table["split"] == "").sum()):
            warnings.warn(
                f"left out {many(without)} of {source} without a split, as others have one; give "
                "them one too, or take all splits away",
                stacklevel=stacklevel,
            )
        table = table[table["split"] == split].reset_index(drop=True)
    table = records.inspect(table, root, decode=True, progress=show)
    bad = records.problems(table)
    named = some(f"{path}: {why}" for path, why in zip(bad["path"], bad["problem"]))
    if len(bad) == len(table):
        raise ValueError(f"none of the {many(len(table))} of {source} can be read: {named}")
    if len(bad) > len(records.lacking_package(bad)):  # else `inspect` has told of them
        warnings.warn(
            f"left out {len(bad)} of {many(len(table))} of {source} that cannot be read: {named}",
            stacklevel=stacklevel,
        )
    good = records.readable(table)
    warn_of_unknown_patients(good, stacklevel=stacklevel + 1)
    return table, root, source


def warn_of_unknown_patients(good: pd.DataFrame, then: str = "", stacklevel: int = 2) -> None:
    """Say how many patients are unknown, what that spoils and how to tell them; nothing for none.

    Parameters
    ----------
    good : DataFrame, readable records
    then : str, what to do once they are told, as the end of the sentence
    stacklevel : int
        How far above stands the line that the warning points at, as for `warnings.warn`.
    """
    if unknown := int(records.unknown_patient(good).sum()):
        warnings.warn(
            f"the patients of {unknown} of {len(good)} images are unknown, so each counts as one "
            "of its own; if some are of one person, the intervals are too narrow, and what is "
            "chosen on them looks too good. Where file names tell the patient, say how (--patient "
            "RULE, in Python patient=...); else give a CSV manifest with a column patient, which "
            f"the rule auto reads{then}",
            stacklevel=stacklevel,
        )


def checked_views(run: Run, views: int | None, chosen: dict | None = None) -> int:
    """How many views to average over.

    Parameters
    ----------
    run : Run, whose recipe says it where nobody else does
    views : int, optional, as asked for
    chosen : dict, optional, an adaptation, which was chosen with so many

    Returns
    -------
    int

    Raises
    ------
    ValueError
        For a negative number.
    """
    usual = chosen["used"]["views"] if chosen else run.recipe.test_views
    if (chosen or run.recipe.threshold) and views not in (None, usual):
        warnings.warn(
            f"the {'adaptation' if chosen else 'threshold'} was chosen with {many(usual, 'view')} "
            f"and is used with {views}; it may not keep its rule",
            stacklevel=3,
        )
    views = usual if views is None else views
    if views < 0:
        raise ValueError(
            f"views is {views}; test-time augmentation wants a number of views, 0 for the image "
            "alone"
        )
    return views


def predict(
    folder: str | Path,
    images: Iterable[str | Path],
    out: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    views: int | None = None,
    calibrated: bool = False,
    adapted: str | None = None,
    show: bool | None = None,
) -> pd.DataFrame:
    """What a run's model answers for new images.

    The CSV is made for spreadsheets too, which take a cell that begins with = + - @ or a control
    character for a formula: there such a path begins with ./ (=1.png is ./=1.png, the same file),
    and any other such text with an apostrophe, which spreadsheets hide. The table that is returned
    has everything as it is.

    Parameters
    ----------
    folder : str or Path, the run
    images : iterable of str or Path, image files and folders of them
    out : str or Path, optional, CSV to write, or .parquet; None writes none
    device, precision, views, calibrated, adapted, show
        As for `evaluate`; columns say whether the answers are calibrated, and by which adaptation,
        if any, they are.

    Returns
    -------
    DataFrame
        Predictions (split "new", label ""); files that are no images are left out with a warning
        that names them. patient is whom the run's rule finds, a pattern in the path below the
        folder that is given or in the name of a file that is given, and "" where it finds nobody.
        distance says how far an image lies from the training images, 1 being the limit that the
        run's validation images set, and unlike whether it lies beyond; a warning names those that
        do. Both are empty where it cannot be told: with a warning that says why, or as the run has
        too few training or no validation images, which its training has said.

    Raises
    ------
    ValueError
        For a table that ends in neither .csv nor .parquet, is one of the images, or would replace a
        file that is no table of predictions or lies in a run's folder.
    OSError
        Where one may not write it, before anything is predicted.
    files.Busy
        As `evaluate`.
    """
    if out is not None:
        records.check_target(out)
    run = Run.load(folder)
    best_file = devices.by_first(lambda: run.best_file)
    machine, images = run.machine(device, precision), list(map(Path, images))
    chosen = devices.by_first(lambda: run.adaptation(adapted)) if adapted is not None else None
    views = checked_views(run, views, chosen)
    found = devices.by_first(lambda: layouts.image_files(images, layouts.images_in))
    if out is not None and os.path.realpath(out) in map(os.path.realpath, found):
        raise ValueError(f"{out} is one of the images; give the predictions another name")
    if out is not None:
        devices.by_first(lambda: _refuse_other_table(Path(out)))
    # Not resolved: a link to itself would raise.
    whole = {os.path.abspath(file): str(file) for file in found}
    patients = devices.by_first(lambda: _told_patients(run, [*whole.values()], images))
    table = pd.DataFrame({"path": list(whole), "split": "new", "label": "", "patient": patients})
    model, how = run.model(), {"root": Path("/"), "views": views}
    answers = partial(predict_records, run, model, machine=machine, show=show)
    predictions = _with_distance(run, model, answers, table, "new", **how)
    predictions = as_the_run_answers(run, predictions, calibrated, chosen)
    devices.by_first(lambda: run.check_best_file(best_file))
    predictions["path"] = predictions["path"].map(whole)
    _warn_of_unlike(run, predictions)
    if out is not None and devices.rank() == 0:
        records.save(_for_spreadsheets(predictions), out)
    return predictions


def _told_patients(run: Run, images: list[str], given: list[Path]) -> list[str]:
    """The patients of new images by the run's rule, "" where it tells none.

    A pattern sees a path from the given folder on, or the name of a given file alone: further
    above, it might take any folder for a patient.
    """
    rule, folders = patient_rule(run, "run", None), {one for one in given if one.is_dir()}
    paths = [*map(os.path.abspath, images)]
    if rule not in ("auto", "dicom", "dicom-hashed"):
        for i, file in enumerate(map(Path, images)):
            above = next((one for one in file.parents if one in folders), file.parent)
            paths[i] = file.relative_to(above).as_posix()
    table = pd.DataFrame({"path": paths})
    try:
        table = records.with_patients(table, rule, "/")
    except (ValueError, ImportError):  # it fits none of them, or lacks a package
        return [""] * len(images)
    return table["patient"].mask(records.unknown_patient(table), "").tolist()


def _refuse_other_table(out: Path) -> None:
    """Refuse to replace any file but a table of predictions, and the names of those a run keeps."""
    place = out.resolve().parent
    own = place.name in ("evaluations", "adaptations")
    folder = place.parent if own else place
    if (own or out.name in _TABLES) and all((folder / name).is_file() for name in files.BEGUN):
        raise ValueError(f"{out} is where a run keeps its own; give the predictions another name")
    if not out.is_file():
        return
    parquet = out.suffix.lower() == ".parquet"
    try:
        head = [*map(str, pd.read_parquet(out) if parquet else pd.read_csv(out, nrows=0))]
    except (OSError, ValueError):
        head = []
    if not (
        {"path", "split", "label", "predicted"} <= {*head} and "p_" in {*(n[:2] for n in head)}
    ):
        raise ValueError(
            f"{out} is there already and is no table of predictions; give the predictions another "
            "name"
        )


def _with_distance(
    run: Run,
    model: nn.Module,
    answers: Callable[..., pd.DataFrame],
    table: pd.DataFrame,
    split: str,
    **how: object,
) -> pd.DataFrame:
    """Predictions with distance and unlike, which are empty where they cannot be told."""
    known = reference.known(run, model, partial(answers, store=run.store()))
    if known is None:
        return answers(table, split, **how).assign(distance=np.nan, unlike=None)
    return answers(table, split, describe=known.describe, **how)


def _warn_of_unlike(run: Run, predictions: pd.DataFrame) -> None:
    far = predictions.loc[predictions["unlike"].eq(True), "path"]
    if len(far) and devices.rank() == 0:
        named = f"{', '.join(far[:3])}{', ...' if len(far) > 3 else ''}"
        warnings.warn(
            f"{len(far)} of {many(len(predictions))} {'is' if len(far) == 1 else 'are'} unlike "
            f"the training images (further from them than {reference.limit_in_words(run)}), so "
            f"what the model answers there may mean nothing: {named}",
            stacklevel=3,
        )


def _for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose texts no spreadsheet takes for formulas."""
    table = table.copy()
    for name in ("split", "path", "patient", "label", "predicted"):
        mark = "./" if name == "path" else "'"
        table[name] = [records.no_formula(text, mark) for text in table[name]]
    return table


def as_the_run_answers(
    run: Run, predictions: pd.DataFrame, calibrated: bool, chosen: dict | None = None
) -> pd.DataFrame:
    """Predictions at the run's threshold, and at its temperature if asked.

    Parameters
    ----------
    run : Run, trained
    predictions : DataFrame, as the model answers
    calibrated : bool, whether to apply the temperature fitted on validation
    chosen : dict, optional, an adaptation, whose threshold and temperature go before the run's own

    Returns
    -------
    DataFrame, columns say whether the answers are calibrated, and by which adaptation, if any
    """
    temperature = temperature_in_use(run, calibrated, chosen)
    found = calibration.answered(predictions, threshold_in_use(run, chosen), temperature)
    if temperature is None:
        return found.assign(calibrated=False)
    return found.assign(adapted=chosen["name"]) if chosen else found


def temperature_in_use(run: Run, calibrated: bool, chosen: dict | None) -> float | None:
    """The temperature that probabilities are brought to: an adaptation's, else the run's if asked.

    Parameters
    ----------
    run : Run, trained
    calibrated : bool, whether to apply the run's own
    chosen : dict or None, an adaptation of it (see `Run.adaptation`)

    Returns
    -------
    float or None; None leaves them as the model gives them

    Raises
    ------
    ValueError
        Where the run has none and it is wanted.
    """
    if chosen:
        return chosen["temperature"]["value"]
    if not calibrated:
        return None
    temperature = checkpoints.load(run.folder / "best.pt").get("temperature")
    if temperature is None:
        raise ValueError(
            f"{run.folder} has no temperature, as it has no validation images; leave calibrated out"
        )
    return temperature


def threshold_in_use(run: Run, chosen: dict | None) -> float | None:
    """The threshold that a run answers by: an adaptation's where there is one, else its own.

    Parameters
    ----------
    run : Run, trained
    chosen : dict or None, an adaptation of it (see `Run.adaptation`)

    Returns
    -------
    float or None
        Of the second of two classes, before any temperature; None answers the likeliest class.
    """
    return chosen["threshold"]["value"] if chosen and chosen["threshold"] else run.threshold


def threshold_in_words(run: Run, calibrated: bool = False, adapted: str | None = None) -> str:
    """The sentence that says from which of the probabilities shown on a class is answered.

    Parameters
    ----------
    run : Run, trained
    calibrated, adapted
        As for `evaluate`.

    Returns
    -------
    str, "" where there is no threshold, and the likeliest class is answered

    Raises
    ------
    ValueError
        As `evaluate`.
    """
    chosen = run.adaptation(adapted) if adapted is not None else None
    threshold = threshold_in_use(run, chosen)
    if threshold is None:
        return ""
    temperature, of = temperature_in_use(run, calibrated, chosen), adapted or "the run"
    if temperature and not chosen:
        of += ", brought to its temperature as the probabilities are"
    at = calibration.threshold_at(threshold, temperature)
    return answered_from(thresholds.positive_of(run.classes), at, of)
