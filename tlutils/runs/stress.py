"""A finished run under changes of acquisition: how would it fare at another hospital?

Validation images alone cannot say, as they come from where the training images came from. The
battery of `evaluation.acquisition` stands for what another place may do; it is no such place.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..core import devices, files
from ..core.words import many
from ..data import records
from ..evaluation import calibration
from ..evaluation.acquisition import CHANGES, Acquisition
from ..evaluation.robustness import measure
from .folder import STRESS_FILES, Run, read_predictions, reserved
from .use import has_test_images, other_images, patient_rule, predict_records

_KEPT = (
    "the run's own test images, which are kept for one last look: a weakness that is found there "
    "would be mended to fit them. Take split val, or other images (data=..., on the command line "
    "--data)"
)
_ALL = "all"  # what images without splits are filed under, whatever was asked


def stress(
    folder: str | Path,
    split: str = "val",
    changes: Iterable[str] | None = None,
    data: str | Path | None = None,
    *,
    patient: str | None = "run",
    device: str = "auto",
    precision: str = "auto",
    show: bool | None = None,
    log: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Measure a run's model under changes of acquisition, at its own threshold and test views.

    Writes stress.csv (the table) and stress_predictions.csv into the run; of other images into
    <run>/evaluations, under names that tell images and patients apart. What was measured there
    under other changes stays, where the model answers the unchanged images as it did then; else a
    table of more or other changes is not replaced, and the new one gets a name of its own in
    <run>/evaluations. With several processes each takes a share.

    Parameters
    ----------
    folder : str or Path, the run
    split : str
        "val" or "train"; of other images that have splits "test" as well. The run's own test images
        are not for looking for weaknesses, which one would then mend.
    changes : iterable of str, optional, names of `acquisition.CHANGES`; None takes all
    data : str or Path, optional
        Other labelled images: all of them, or those of `split` where they have splits.
    patient : str or None
        How other images tell their patients (see `records.with_patients`); "run" is as the run's.
    device, precision : str, see `Run.machine`
    show : bool, optional, progress bar or not; None decides
    log : Callable, optional, called with a line that says where the results are

    Returns
    -------
    DataFrame
        A row a change of those that were requested, the unchanged images first (see
        `robustness.measure`), with the split, the change's family and what it is in words.

    Raises
    ------
    ValueError
        For an unknown change, a split that the run, or other images with splits, do not have, or
        the run's own test images; for a patient rule without other images.
    OSError
        Where one may not write into the run.
    files.Busy
        Where the run is at work, training or otherwise measured.
    """
    run = Run.load(folder)
    best_file = devices.by_first(lambda: run.best_file)
    patient = patient_rule(run, patient, data)
    machine = run.machine(device, precision)
    files.check_writable(run.folder if data is None else run.folder / "evaluations")
    acquisition = Acquisition(dict.fromkeys(["", *(CHANGES if changes is None else changes)]))
    # A training that goes on meanwhile would be left with a table of the weights it had before.
    with reserved(run.folder) if data is None else contextlib.nullcontext():
        table, root, split, targets = _images(run, split, data, patient, show)
        how = {"root": root, "acquisition": acquisition, "shown": len(acquisition.changes)}
        found = predict_records(run, run.model(), table, split, machine, show, **how)
        found = calibration.answered(found, run.threshold)
        devices.by_first(lambda: run.check_best_file(best_file))
        order = {name: place for place, name in enumerate(acquisition.changes)}
        found = found.sort_values("change", key=lambda names: names.map(order), kind="stable")
        result = _named(measure(found, seed=run.recipe.seed), split)
        if devices.rank() == 0:
            whole, targets = _keep(run, split, found, result, targets)
    if devices.rank() == 0 and log:
        kept = len(whole) - len(result)
        beside = f", with {many(kept, 'change')} measured before" if kept else ""
        if split == _ALL:
            log(f"{data} has no splits: measured on all {many(int(result['n'].max()))}")
        log(f"the table is in {targets[0]}{beside}, the predictions are in {targets[1]}")
    return result


def _keep(
    run: Run, split: str, found: pd.DataFrame, result: pd.DataFrame, targets: list[Path]
) -> tuple[pd.DataFrame, list[Path]]:
    """Write the answers and their table with what is kept of other changes; gives table, places."""
    # Else another process would read what this one is about to replace; a run's own are reserved.
    own = targets[0].parent == run.folder
    lock = files.locked(targets[0].parent / ".lock", "what was measured", -1)
    with contextlib.nullcontext() if own else lock:
        answers, result, targets = _with_kept(run, split, found, result, targets)
        # The table last: where it is, the answers that it is of are, too.
        for content, target in zip((answers, result), reversed(targets)):
            records.save(content, target)
    return result, targets


def _with_kept(
    run: Run, split: str, found: pd.DataFrame, result: pd.DataFrame, targets: list[Path]
) -> tuple[pd.DataFrame, pd.DataFrame, list[Path]]:
    """Answers and table with those kept of other changes, or places where these are not lost."""
    made, others = set(found["change"]), set()
    for target in targets:  # one of them may be cut off
        with contextlib.suppress(OSError, ValueError, KeyError):  # there is none, or no table
            others |= set(pd.read_csv(target)["change"].fillna("")) - made
    if not others:
        return found, result, targets
    # The answers have gone, are none, or some of them are damaged.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = read_predictions(targets[1])
        whole = others <= set(kept["change"])
        if whole and _are_the_same(*(every[every["change"] == ""] for every in (kept, found))):
            order = {name: place for place, name in enumerate(["", *CHANGES])}
            whole = pd.concat([found, kept[kept["change"].isin(others)]])
            key = {"key": lambda names: names.map(order), "kind": "stable"}
            whole = whole.sort_values("change", **key)
            return whole, _named(measure(whole, seed=run.recipe.seed), split), targets
    mark = hashlib.sha256(" ".join(sorted(made)).encode()).hexdigest()[:12]
    folder = run.folder / "evaluations"
    places = [folder / f"{split}-{mark}-{target.name}" for target in targets]
    return found, result, places


def _are_the_same(kept: pd.DataFrame, found: pd.DataFrame) -> bool:
    """Whether answers are those of one model to the same images of one split, but for rounding."""
    texts = ["split", "path", "patient", "label", "predicted"]
    numbers = [name for name in found if name.startswith("p_")]
    alike = kept[texts].to_numpy().tolist() == found[texts].to_numpy().tolist()
    return alike and np.allclose(kept[numbers], found[numbers], rtol=0, atol=1e-5)


def _images(
    run: Run, split: str, data: str | Path | None, patient: str | None, show: bool | None
) -> tuple[pd.DataFrame, Path, str, list[Path]]:
    """Records, the folder that they start from, their split, and where the results go."""
    if data is not None:
        others = partial(other_images, run, data, split, patient, show, stacklevel=5)
        table, root, source = devices.by_first(others)
        table = records.readable(table)  # so is the name of the file that of those measured
        if has_test_images(run, table):
            raise ValueError(f"among the images of {data} are {_KEPT}")
        of = table.assign(label=table["label"] + "\0" + table["patient"])
        split = split if (table["split"] == split).all() else _ALL
        name = f"{source.stem[-40:]}-{split}-{records.fingerprint(of)[:12]}"
        targets = [run.folder / "evaluations" / f"{name}-{file}" for file in STRESS_FILES]
        return table, root, split, targets
    if split == "test":
        raise ValueError(f"these are {_KEPT}")
    targets = [run.folder / file for file in STRESS_FILES]
    return run.part(split, required=True), run.root, split, targets


def _named(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """With the split, the family of each change, and what it is in words."""
    known = [(name, CHANGES.get(name)) for name in table["change"]]
    table.insert(1, "family", [change.family if change else "" for _, change in known])
    words = [change.words if change else name or "unchanged" for name, change in known]
    table.insert(2, "words", words)
    table.insert(0, "split", split)
    return table
