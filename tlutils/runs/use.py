"""A finished run put to use: measured anew, asked about new images, looked into.

Taught in notebooks 04 and 05.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ..core import devices, files
from ..core.devices import Machine
from ..data import loaders, records, sources
from ..evaluation import calibration, thresholds
from ..evaluation import predict as predict_module
from ..evaluation.metrics import compute_metrics, to_json
from ..evaluation.predict import NothingToPredict, normalization
from ..models import checkpoints, feature_store, prefix
from .folder import Run, load


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
) -> pd.DataFrame:
    """What a model says of the images of a table; with several processes each takes a share, all get the whole.

    views : of test-time augmentation, drawn as the recipe's training views are; None as many as the recipe says.
    """
    views = run.recipe.test_views if views is None else views
    machine = machine or devices.choose()
    table = records.readable(table) if "problem" in table else table
    if (
        store is not None and not views and prefix.split(model)
    ):  # processes share the filling; the rest is quick
        loader = loaders.make(
            table, root or run.root, run.classes, batch_size=64, **run.recipe.reading()
        )
        predictions = predict_module.predict(
            machine.place(model), loader, machine, split, show, store
        )
        return predictions.sort_values("path").reset_index(drop=True)
    mine = table.iloc[devices.rank() :: devices.world()]
    predictions = None
    if len(mine):
        loader = loaders.make(
            mine, root or run.root, run.classes, batch_size=64, **run.recipe.reading()
        )
        with contextlib.suppress(
            NothingToPredict
        ):  # of this share; the others may have images that can be read
            predictions = predict_module.predict(
                machine.place(model),
                loader,
                machine,
                split,
                show,
                None,
                views,
                run.recipe.augmentation,
                run.recipe.seed,
            )
    shares = [share for share in devices.gather(predictions) if share is not None]
    if not shares:
        raise NothingToPredict(len(table))
    return pd.concat(shares).sort_values("path").reset_index(drop=True)


def frozen_features(
    run: Run, table: pd.DataFrame, machine: Machine | None = None, store: str | Path | None = "auto"
) -> np.ndarray:
    """What the frozen part of a run's model says of the images of a table, each as it is.

    Returns float32 (images, features), in the table's order; kept in the store. Raises ValueError where nothing is
    frozen, or an image cannot be read.

    Taught in notebook 05.
    """
    machine, model = machine or devices.choose(), run.model()
    cut = prefix.split(model)
    if cut is None:
        raise ValueError(
            f"nothing of the model of {run.folder} is frozen, so all its layers have seen the labels; "
            "use the predictions of validation and test images instead"
        )
    loader = loaders.make(table, run.root, run.classes, batch_size=64, **run.recipe.reading())
    mean, std = normalization(model)
    held = feature_store.open_store(
        run.folder / "features" if store == "auto" else store,
        cut.prefix,
        loader,
        machine,
        mean=mean,
        std=std,
    )
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
    device: str = "auto",
    precision: str = "auto",
    views: int | None = None,
    calibrated: bool = False,
    show: bool | None = None,
    log: Callable[[str], None] | None = None,
) -> dict:
    """Measure a run's model anew on one of its splits, or on other labelled images.

    With `data`, all its images (or those of `split` where it has splits) are used and the results are written to
    <run>/evaluations; the file's name tells data, split, views and calibration apart, and the .json says what they
    were. Nothing of the run is changed. views : of test-time augmentation (see `predict_records`). calibrated :
    whether to apply the temperature fitted on validation. log : called with a line that says where the results are.

    Returns the metrics of the split (see `evaluation.compute_metrics`).
    """
    run, machine = load(folder), devices.choose(device, precision)
    views = _checked_views(run, views)
    model = run.model()
    if data is None:
        table, root, store = run.part(split), run.root, run.store()
        if table.empty:
            raise ValueError(
                f"the run has no {split!r} images; its splits are "
                f"{', '.join(sorted(set(run.records['split']) - {''}))}"
            )
    else:
        table, root, source = devices.by_first(lambda: _other_images(run, data, split, show))
        store = None
    predictions = predict_records(run, model, table, split, machine, show, root, store, views)
    predictions = _as_the_run_answers(run, predictions, calibrated)
    metrics = compute_metrics(
        predictions, seed=run.recipe.seed, threshold=None if calibrated else run.threshold
    )
    if data is not None and devices.rank() == 0:
        used = {"data": str(source), "split": split, "views": views, "calibrated": calibrated}
        target = run.folder / "evaluations" / _name_of(used)
        records.save(predictions, f"{target}.csv")
        about = {
            **used,
            "asked": str(data),
            "images": len(table),
            "fingerprint": records.fingerprint(table),
        }
        content = {split: metrics, "notes": run.about["notes"], "used": about}
        files.write_text(f"{target}.json", to_json(content))
        if log:
            log(f"the predictions and all numbers are in {target}.csv and .json")
    return metrics


def _name_of(used: dict) -> str:
    """A file's name that people recognise and no other data, split or settings have: "siteA-images-test-1f0c..."."""
    source = Path(used["data"])
    places = [*source.parts[1:-1], source.stem if source.is_file() else source.name][-2:]
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:12]
    return "-".join([*(place[-40:] for place in places), used["split"], digest])


def _other_images(
    run: Run, data: str | Path, split: str, show: bool | None
) -> tuple[pd.DataFrame, Path, Path]:
    """The records of other images, the folder they start from, and what was read: that folder or a manifest."""
    source = sources.get(data).resolve()
    table = records.scan(
        source, classes=run.classes, patient=run.about["data"].get("patient", "auto")
    )
    root = source.parent if source.is_file() else source
    if (table["split"] == split).any():
        table = table[table["split"] == split].reset_index(drop=True)
    return records.inspect(table, root, decode=True, progress=show), root, source


def _checked_views(run: Run, views: int | None) -> int:
    """How many views of test-time augmentation: as many as asked for, or as the recipe says."""
    views = run.recipe.test_views if views is None else views
    if views < 0:
        raise ValueError(
            f"views is {views}; test-time augmentation wants a number of views, 0 for the image alone"
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
    show: bool | None = None,
) -> pd.DataFrame:
    """Say what a run's model sees in new images.

    Parameters
    ----------
    folder : the run. images : image files and folders of them. out : CSV to write; None writes none. views : of
    test-time augmentation (see `predict_records`). calibrated : whether to apply the temperature fitted on validation;
    a column of that name says it.

    The CSV is made for spreadsheets too, which take a cell that begins with = + - @ or a control character for a
    formula: there such a path begins with ./ (=1.png is ./=1.png, the same file), and any other such text with an
    apostrophe, which spreadsheets hide. The table that is returned has everything as it is.

    Returns
    -------
    predictions table (split "new", label ""); files that are no images are left out with a warning that names
    them.
    """
    run, machine = load(folder), devices.choose(device, precision)
    views = _checked_views(run, views)
    found = devices.by_first(lambda: _image_files(images))
    whole = {
        os.path.abspath(file): str(file) for file in found
    }  # not resolved: a link to itself would raise
    table = pd.DataFrame({"path": list(whole), "split": "new", "label": "", "patient": ""})
    predictions = predict_records(
        run, run.model(), table, "new", machine, show, Path("/"), views=views
    )
    predictions = _as_the_run_answers(run, predictions, calibrated)
    predictions["path"] = predictions["path"].map(whole)
    if out is not None and devices.rank() == 0:
        records.save(_for_spreadsheets(predictions), out)
    return predictions


def _for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose texts no spreadsheet takes for formulas."""

    def plain(text: str, mark: str) -> str:
        return mark + text if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text

    return table.assign(
        **{
            name: [plain(text, "./" if name == "path" else "'") for text in table[name]]
            for name in ("split", "path", "patient", "label", "predicted")
        }
    )


def _image_files(images: Iterable[str | Path]) -> list[Path]:
    found, images = [], list(map(Path, images))
    for item in images:
        if not item.exists():
            raise FileNotFoundError(f"there is no image or folder {item}; look at the name")
        found += [item / name for name in records.images_in(item)] if item.is_dir() else [item]
    if not found:
        raise ValueError(
            f"found no image file in {', '.join(map(str, images))}; "
            "images end in .jpg, .jpeg, .png, .bmp, .tif or .tiff"
        )
    return list(dict.fromkeys(found))


def _as_the_run_answers(run: Run, predictions: pd.DataFrame, calibrated: bool) -> pd.DataFrame:
    """Predictions at the run's threshold, that say whether they are calibrated, and are if wanted."""
    if run.threshold is not None:
        predictions = thresholds.apply_threshold(predictions, run.threshold)
    if not calibrated:
        return predictions.assign(calibrated=False)
    temperature = checkpoints.load(run.folder / "best.pt").get("temperature")
    if temperature is None:
        raise ValueError(
            f"{run.folder} has no temperature, as it has no validation images; leave calibrated out"
        )
    return calibration.apply_temperature(predictions, temperature)
