"""A finished run as an ONNX file for other programs, and predict.py beside it, which asks it.

Before the file is left, what predict.py answers by it is compared with what the run answers.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from .. import __version__
from ..core import devices, files, standalone
from ..core.images import refuse_among, state
from ..core.packages import needed
from ..core.words import many
from ..data import layouts, records
from ..data.downloads import digest
from ..evaluation import calibration
from ..models import predict_onnx, to_onnx
from ..models.build import normalization
from .folder import Run
from .use import as_the_run_answers, predict_records, temperature_in_use, threshold_in_use

# Of a probability. Most networks differ by 1e-6, EfficientNet-V2-S with random weights, where
# rounding weighs most, by 3e-4; a BatchNorm that is spoiled changes the first digit.
_LARGEST_DIFFERENCE = 1e-3
_IMAGES = 100  # compared
_SCRIPT = "predict.py"


class AnswersDiffer(ValueError):
    """The exported model answers otherwise than the run."""


def export(
    folder: str | Path,
    to: str | Path,
    *,
    calibrated: bool = False,
    adapted: str | None = None,
    show: bool | None = None,
    log: Callable[[str], None] | None = None,
) -> dict:
    """Write a run's model as an ONNX file, and predict.py beside it.

    The file takes uint8 (N, channels, size, size), images as `loaders.read_pixels` reads them, and
    gives the probabilities of the run, float32 (N, classes). What else its answers go by is in its
    metadata, each value as JSON: classes, threshold, reading (size, resize, channels), notes...
    predict.py needs onnxruntime, numpy and Pillow alone. It does not tell images unlike the
    training images.

    On 100 images, of validation first, then of training, the rest drawn noise, the probabilities
    may differ by 1e-3 from those of the run in fp32 on the CPU; else no file is left. Of a run that
    was measured in a coarser precision it is told how many of its answers are others, with a
    warning where these are more than 1 in 100.

    Parameters
    ----------
    folder : str or Path, the run
    to : str or Path, the file, which ends in .onnx; one that is there is replaced
    calibrated : bool, whether to apply the temperature fitted on validation, as for `use.predict`
    adapted : str, optional, the name of an adaptation, whose threshold and temperature are applied
    show : bool, optional, progress bar or not; None decides
    log : Callable, optional, called with lines for a person

    Returns
    -------
    dict
        model, script (paths), bytes, difference (the largest of a probability), compared (number
        of images by kind).

    Raises
    ------
    AnswersDiffer
        Where the exported model answers otherwise, saying by how much.
    NotARun
        Where the run was not finished.
    ImportError
        Where onnx, onnxscript or onnxruntime is not there.
    ValueError
        For a name that is not of an ONNX file, a model that cannot be converted, no temperature or
        adaptation that is wanted, and where another predict.py stands there.
    """
    run, to = Run.load(folder), Path(to)
    run.check_finished()
    script, text = to.with_name(_SCRIPT), standalone.source("models.predict_onnx")
    _check_places(run, to, script, text)
    onnx = needed("onnx", to_onnx.PACKAGES)
    needed("onnxscript", to_onnx.PACKAGES)
    needed("onnxruntime", to_onnx.PACKAGES)
    chosen = run.adaptation(adapted) if adapted is not None else None
    temperature = temperature_in_use(run, calibrated, chosen)
    _warn_of_views(run, chosen)
    measured = _measured_coarsely(run, calibrated, chosen)
    if log:
        log(f"converting the model and comparing it on {_IMAGES} images, which may take minutes")
    model, about = run.model(), _about(run, temperature, chosen)
    scale, shape = normalization(model), (run.recipe.size, run.recipe.channels)
    told = {name: json.dumps(value) for name, value in about.items()}
    with files.replacing(to) as part, tempfile.TemporaryDirectory() as drawn:
        paths, compared = _images(run, Path(drawn))
        table = pd.DataFrame({"path": paths, "split": "new", "label": "", "patient": ""})
        how = {"machine": devices.choose("cpu", "fp32"), "show": show, "root": Path("/")}
        wanted = predict_records(run, run.model(), table, "new", views=0, **how)
        wanted = as_the_run_answers(run, wanted, calibrated, chosen)
        for fused in (True, False):
            made = to_onnx.convert(model, *shape, *scale, temperature, fused)
            onnx.helper.set_model_props(made, told)
            part.write_bytes(made.SerializeToString())
            difference, otherwise = _difference(wanted, *predict_onnx.predict(part, paths)[:2])
            if difference <= _LARGEST_DIFFERENCE:
                break
        else:
            raise AnswersDiffer(
                f"the exported model answers otherwise than the run: on {many(len(wanted))} a "
                f"probability differs by up to {difference:.2g} (at most {_LARGEST_DIFFERENCE:g} "
                f"is allowed), and {many(otherwise, 'image gets', 'images get')} another class. No "
                "file was left. Another version of torch, onnxscript or onnxruntime may do better"
            )
    files.write_text(script, text)
    found = {"model": to, "script": script, "bytes": to.stat().st_size}
    found |= {"difference": difference, "compared": compared}
    for line in _told(found) if log else ():
        log(line)
    how = {"root": run.root, "precision": run.about["machine"]["precision"], "log": log}
    told = measured is not None and _tell_of_rounding(measured, wanted, **how)
    if not told and log and (used := run.machine().precision) != "fp32":
        log(
            f"`predict` computes in {used} on this machine, whose rounding moves probabilities "
            "more, and most where a temperature sharpens them; `predict --precision fp32` agrees"
        )
    return found


def _measured_coarsely(run: Run, calibrated: bool, chosen: dict | None) -> pd.DataFrame | None:
    """The run's own answers to single images, where they are there in a coarser precision."""
    views = chosen["used"]["views"] if chosen else run.recipe.test_views
    there = (run.folder / "predictions.csv").is_file()
    if run.about["machine"]["precision"] == "fp32" or views or not there:
        return None
    return as_the_run_answers(run, run.predictions, calibrated, chosen)


def _tell_of_rounding(
    measured: pd.DataFrame,
    exported: pd.DataFrame,
    root: Path,
    precision: str,
    log: Callable[[str], None] | None,
) -> bool:
    """Say how far answers in a coarser precision are from the export's; False of no image."""
    measured = measured.assign(path=[os.path.abspath(root / path) for path in measured["path"]])
    measured = measured[measured["path"].isin(exported["path"])]
    exported = exported.set_index("path").loc[measured["path"]]
    if not len(measured):
        return False
    columns = [name for name in measured if name.startswith("p_")]
    off = np.abs(measured[columns].to_numpy() - exported[columns].to_numpy())
    others = int((measured["predicted"].to_numpy() != exported["predicted"].to_numpy()).sum())
    told = (
        f"the run was trained and measured in {precision}; of {many(len(measured))} of its own, "
        f"{many(others, 'gets', 'get')} another answer from the exported model, and probabilities "
        f"differ by up to {off.max():.2g}"
    )
    if others > 0.01 * len(measured):
        told += (
            ", so the run's metrics are not the export's: measure it anew with `evaluate "
            "--precision fp32`, or train with --precision fp32"
        )
        warnings.warn(told, stacklevel=3)
    elif log:
        log(f"{told}; `predict --precision fp32` agrees with it")
    return True


def _check_places(run: Run, to: Path, script: Path, text: str) -> None:
    if to.suffix.lower() != ".onnx":
        raise ValueError(f"the model goes to a file that ends in .onnx; {to} does not")
    if script.exists() and not script.read_bytes().startswith(text.partition("\n")[0].encode()):
        raise ValueError(
            f"{script} is not one that an export has made, and would be replaced; move it, or "
            "export to another folder"
        )
    in_folders = not run.about["data"]["requested"].lower().endswith(layouts.TABLES)
    if in_folders and not to.parent.exists():
        beside = os.path.normpath(run.root / ".." / to.parent.name)
        refuse_among(to.parent, run.root, "model's folder", beside)
    files.check_writable(to.parent)


def _warn_of_views(run: Run, chosen: dict | None) -> None:
    if views := chosen["used"]["views"] if chosen else run.recipe.test_views:
        warnings.warn(
            f"the run's answers are means over the image and {many(views, 'view')} of it, the "
            "exported model's are of the image alone; its threshold and temperature may not fit",
            stacklevel=3,
        )


def _about(run: Run, temperature: float | None, chosen: dict | None) -> dict:
    """What the file says of itself."""
    threshold = threshold_in_use(run, chosen)
    if threshold is not None:
        # It was chosen before the temperature, and is applied behind it.
        threshold = calibration.threshold_at(threshold, temperature)
    return {
        "tlutils": __version__,
        "purpose": "teaching and research; not a medical device",
        "notes": run.about["notes"],
        "classes": run.classes,
        "threshold": threshold,
        "temperature": temperature,
        "adapted": chosen["name"] if chosen else None,
        "reading": run.recipe.reading(),
        "recipe": run.recipe.name,
        "checkpoint_sha256": digest(run.folder / "best.pt"),
        "data_fingerprint": run.about["data"]["fingerprint"],
    }


def _images(run: Run, folder: Path) -> tuple[list[str], dict[str, int]]:
    """Images to compare on, and how many are of which kind; noise is drawn into the folder."""
    paths: list[str] = []
    compared = {}
    for split in ("val", "train"):
        known = records.readable(run.part(split))
        some = known.sample(min(len(known), _IMAGES - len(paths)), random_state=0)
        there = [os.path.abspath(run.root / path) for path in some["path"]]
        there = [path for path in there if state(path)]
        paths += there
        compared[split] = len(there)
    draw, recipe = np.random.default_rng(0), run.recipe
    for number in range(_IMAGES - len(paths)):  # coarse and fine, dark and bright
        side = int(draw.integers(2, recipe.size + 2))
        values = draw.integers(0, draw.integers(64, 256), (side, side, recipe.channels), np.uint8)
        image = Image.fromarray(values.squeeze()).resize((recipe.size, recipe.size))
        image.save(folder / f"{number}.png")
        paths.append(os.path.abspath(folder / f"{number}.png"))
    return paths, compared | {"noise": _IMAGES - sum(compared.values())}


def _difference(wanted: pd.DataFrame, about: dict, answers: list[tuple]) -> tuple[float, int]:
    """The largest difference of a probability, and how many answers are others."""
    paths = [path for path, *_ in answers]
    if sorted(paths) != sorted(wanted["path"]):
        raise ValueError(
            f"the run could read {many(len(wanted))} to compare on and the exported model "
            f"{len(paths)}, so some were changed meanwhile. Run the same again"
        )
    wanted = wanted.set_index("path").loc[paths]
    columns = [f"p_{name}" for name in about["classes"]]
    off = np.abs(np.stack([scores for _, scores, _ in answers]) - wanted[columns].to_numpy())
    otherwise = [answer for *_, answer in answers] != wanted["predicted"].to_numpy()
    return float(off.max()), int(otherwise.sum())


def _told(found: dict) -> list[str]:
    names = {"val": "of validation", "train": "of training", "noise": "of drawn noise"}
    model, script = found["model"], found["script"]
    # predict.py takes the one model beside it.
    which = [] if [*model.parent.glob("*.onnx")] == [model] else ["--model", str(model)]
    kinds = ", ".join(
        f"{number} {names[kind]}" for kind, number in found["compared"].items() if number
    )
    return [
        f"{model} ({found['bytes'] / 1e6:.1f} MB, ONNX opset {to_onnx.OPSET}): compared "
        f"with the run on {many(sum(found['compared'].values()))} ({kinds}), both in fp32; "
        f"probabilities differ by at most {found['difference']:.1g}",
        f"{script} asks it, with onnxruntime, numpy and Pillow alone (for DICOM files "
        "pydicom, too): "
        f"{shlex.join(['python', str(script), *which])} IMAGE_OR_FOLDER --out answers.csv",
    ]
