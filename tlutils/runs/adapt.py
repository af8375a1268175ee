"""A finished run for another place: its threshold and temperature chosen anew on local images.

Nothing of the run is changed. What was chosen lies in <run>/adaptations, and `use.evaluate` and
`use.predict` answer by it where they are given its name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from .. import __version__
from ..core import devices, files
from ..core.words import differences
from ..data import records
from ..data.splits import comparable
from ..evaluation import adaptation, calibration, thresholds
from ..evaluation.metrics import as_text, denominator, patients_of, unknown_patients
from .folder import Run, timestamp
from .use import checked_views, other_images, patient_rule, predict_records, readable_name


def adapt(
    folder: str | Path,
    data: str | Path,
    rule: str | None = None,
    name: str | None = None,
    *,
    split: str | None = None,
    patient: str | None = "run",
    views: int | None = None,
    draws: int = 100,
    repeats: int = 1000,
    device: str = "auto",
    precision: str = "auto",
    show: bool | None = None,
    log: Callable[[str], None] | None = None,
) -> dict:
    """Choose a run's threshold and temperature anew for a place, on its labelled images.

    What they are worth there is measured by cross-fitting (see `adaptation.cross_fit`), so no image
    is judged by what was chosen on its patient. Of more than two classes the temperature alone is
    chosen. Written are <run>/adaptations/<name>.json, which holds what is returned, and .csv: the
    run's answers with the sha256 of each image, and the fold, threshold, temperature and answer
    that it was judged by.

    Parameters
    ----------
    folder : str or Path, the run
    data : str or Path, labelled images of the place: a source's name, a folder or a manifest
    rule : str, optional
        See `thresholds.choose_threshold`; None takes the recipe's, or "youden" where it has none.
    name : str, optional
        Of the adaptation; None makes one of the data's last two folders. What has it already is
        chosen anew where all else that is requested is the same, and stays where it is not.
    split : str, optional
        "train", "val" or "test", where the images are divided: those alone, so that the others are
        left to measure on. None takes all.
    patient : str or None
        How the images tell their patients (see `records.with_patients`); "run" is as the run's.
    views : int, optional, of test-time augmentation (see `use.predict_records`)
    draws, repeats : int, see `adaptation.fit`
    device, precision : str, see `Run.machine`
    show : bool, optional, progress bars or not; None decides
    log : Callable, optional, called with lines for a person

    Returns
    -------
    dict
        name; used (data, split, patient rule, views, images, patients, fingerprint of the data,
        weights, which is that of the run's); rule (None for more than two classes); own_threshold;
        what `adaptation.fit` gives; notes, time, tlutils (version).

    Raises
    ------
    ValueError
        For images that the run was trained or is tested on, less than two patients of a class, an
        unknown rule, a name that cannot be, or that an adaptation to other data or by other
        settings has.
    files.Busy
        Where a training went on meanwhile and best.pt is another.
    """
    run = Run.load(folder)
    best_file = devices.by_first(lambda: run.best_file)
    files.check_writable(run.folder / "adaptations")
    machine = run.machine(device, precision)
    rule = rule or thresholds.split_rule(run.recipe.threshold)[1] or "youden"
    thresholds.check_rule(rule)
    asked = {"split": split, "patient": patient_rule(run, patient, data)}
    asked["views"] = checked_views(run, views)
    about = {"rule": rule if len(run.classes) == 2 else None, "own_threshold": run.threshold}
    table, root, used, name = devices.by_first(
        lambda: _local_images(run, data, name, about["rule"], asked, show)
    )
    model = run.model()
    found = predict_records(run, model, table, "local", machine, show, root, views=asked["views"])
    found = calibration.answered(found, about["own_threshold"])
    how = {"draws": draws, "repeats": repeats, "seed": run.recipe.seed}
    about = {"name": name, "used": used} | about
    devices.by_first(lambda: run.check_best_file(best_file))
    return devices.by_first(lambda: _choose(run, table, found, about, how, log))


def _local_images(
    run: Run,
    data: str | Path,
    name: str | None,
    rule: str | None,
    asked: dict,
    show: bool | None,
) -> tuple[pd.DataFrame, Path, dict, str]:
    """Records, the folder they start from, what is used, and the adaptation's name."""
    split = asked["split"]
    table, root, source = other_images(run, data, split, asked["patient"], show, stacklevel=6)
    if split is not None and (table["split"] != split).any():
        raise ValueError(f"{data} has no {split!r} images; leave the split out to take all")
    asked = {"data": str(source), **asked}
    name = readable_name(source) if name is None else name
    _refuse_name(run, name, {"rule": rule, **asked})
    _refuse_own_images(run, table)
    unreadable, table = len(records.problems(table)), records.readable(table)
    adaptation.check_enough(table, run.classes)
    used = asked | {
        "requested": str(data),
        "images": len(table),
        "unreadable": unreadable,
        "patients": int(patients_of(table).nunique()),
        "unknown_patients": unknown_patients(table),
        "fingerprint": records.fingerprint(table),
        "weights": run.fingerprint,
    }
    return table, root, used, name


def _refuse_name(run: Run, name: str, asked: dict) -> None:
    """Refuse a name that cannot be, or that an adaptation of other things has."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ValueError(
            f"an adaptation cannot be called {name!r}; take letters, digits and . _ - alone, a "
            "letter or digit first"
        )
    file = run.folder / "adaptations" / f"{name}.json"
    if not file.is_file():
        return
    kept = run.adaptation(name, any_weights=True)
    # Once the patient rule was that of the run, and not written down.
    then = {"patient": patient_rule(run, "run", None), "rule": kept.get("rule"), **kept["used"]}
    if differing := differences(then, asked):
        raise ValueError(
            f"{run.folder} has an adaptation {name!r} already: {'; '.join(differing)}. Give this "
            f"one another name (--name), or remove {file} first"
        )


def _refuse_own_images(run: Run, table: pd.DataFrame) -> None:
    """Refuse what the model knows by heart, and what its result was measured on.

    Of its validation images it is warned.
    """
    whole = table[comparable(table)]
    for split, why in (
        ("train", "which it knows by heart, so nothing about a place can be learned from them"),
        ("test", "on which a choice would fit the errors that its own result is about"),
    ):
        known = whole[whole["sha256"].isin(run.part(split)["sha256"])]
        if len(known):
            raise ValueError(
                f"{len(known)} of {len(table)} images, e.g. {known['path'].iloc[0]}, are {split} "
                f"images of {run.folder} itself, {why}. Give labelled images of the other place"
            )
    if chosen_by := int(whole["sha256"].isin(run.part("val")["sha256"]).sum()):
        warnings.warn(
            f"{chosen_by} of {len(table)} images are validation images of {run.folder} itself, by "
            "which its epoch, and its threshold and temperature, were chosen: they say nothing "
            "about another place, and what follows is too good",
            stacklevel=6,
        )


def _choose(
    run: Run,
    table: pd.DataFrame,
    predictions: pd.DataFrame,
    about: dict,
    how: dict,
    log: Callable[[str], None] | None,
) -> dict:
    """Choose, measure, write, and tell."""
    found, held_out = adaptation.fit(predictions, about["rule"] or "youden", **how)
    found = about | found | {"notes": run.about["notes"], "tlutils": __version__}
    found["time"] = timestamp()
    target = run.folder / "adaptations" / about["name"]
    judged = held_out[["fold", "threshold", "temperature"]].assign(held_out=held_out["predicted"])
    content = predictions["path"].map(table.set_index("path")["sha256"])
    # The table first: `Run.adaptation` looks for the .json.
    records.save(predictions.assign(sha256=content).join(judged), f"{target}.csv")
    files.write_json(f"{target}.json", found)
    steady = found["steady"]
    if steady and steady["patients"] is None and not log:  # the lines say it, too
        warnings.warn(adaptation.in_words(found), stacklevel=5)
    for line in _told(found, str(target)) if log else ():
        log(line)
    return found


def _told(found: dict, target: str) -> list[str]:
    """Lines for a person."""
    used, name = found["used"], found["name"]
    behind = denominator({**used, "n": used["images"]})
    lines = [f"{name}: {behind}; intervals of 95 % by bootstrap over patients"]
    if found["threshold"]:
        own = 0.5 if found["own_threshold"] is None else found["own_threshold"]
        what = f"threshold {as_text(found['threshold'])} by {found['rule']}, in place of {own:.3f}"
        at = f"at the temperature it is {found['threshold']['at_temperature']:.3f}"
        lines.append(
            f"{what}, on probabilities as the run gives them; {at}, which evaluate, predict, "
            "serve and export go by"
        )
    lines.append(f"temperature {as_text(found['temperature'])}; AUC {as_text(found['auc'])}")
    lines.append(
        "\nWhat to expect there, each patient judged by what was chosen on others:\n"
        f"{adaptation.table(found).to_string()}\n"
    )
    if found["steady"] and found["steady"]["numbers"]:
        lines += [f"By patients chosen on, measured on the others:\n{_numbers(found['steady'])}\n"]
    return [
        *lines,
        adaptation.in_words(found),
        f"All numbers are in {target}.json, the answers in {target}.csv. The run is as it was; "
        f"evaluate, predict, serve and export answer by this with --adapted {name}",
    ]


def _numbers(steady: dict) -> str:
    """A row a number of patients: median and range of what a choice on so many gives."""
    measures = ("threshold", "sensitivity", "specificity", "balanced_accuracy")
    rows = [
        {"patients": one["patients"], "images": one["images"]}
        | {measure.replace("_", " "): as_text(one[measure]) for measure in measures}
        for one in steady["numbers"]
    ]
    return pd.DataFrame(rows).to_string(index=False)
