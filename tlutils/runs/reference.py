"""What tells images unlike a run's training images, kept in the run as reference.pt.

It belongs to the weights of best.pt: beside others it is not used but made anew, as it is for a run
of before that has none, while the images are still there.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..core import devices
from ..core.words import many
from ..data import records, splits
from ..evaluation import novelty
from ..evaluation.metrics import patients_of
from ..evaluation.novelty import Reference, Spread
from ..models import checkpoints
from ..models.weights import refuse_swollen
from .folder import Run

FILE = "reference.pt"
# Images looked at. With 60, 128, 256 films of a chest a blank was 1.5, 2.1, 3.5 limits away.
_TRAINING, _VALIDATION = (64, 256), 1024
_SPREADS = ("small", "features")
_VERSION = 2  # of what `novelty.seen` looks at
_Answers = Callable[..., pd.DataFrame]


def lacking(run: Run) -> str:
    """Why a run's own images can set no reference.

    Parameters
    ----------
    run : Run, begun

    Returns
    -------
    str, "" where they can
    """
    train, val = (len(records.readable(run.part(part))) for part in ("train", "val"))
    if not val:
        return "the run has no validation images to set a limit"
    if train < novelty.FEWEST:
        found = many(train, "training image is", "training images are")
        return f"{found} too few; {novelty.FEWEST} are the fewest"
    return ""


def limit_in_words(run: Run) -> str:
    """What the limit is, with the number of validation patients where they are few.

    Parameters
    ----------
    run : Run, whose images can set one

    Returns
    -------
    str, such as "the limit that the validation patients set"
    """
    val = records.readable(run.part("val"))
    n = patients_of(val).nunique()
    if n >= novelty.ENOUGH:
        return "the limit that the validation patients set"
    who = "validation image" if records.unknown_patient(val).all() else "validation patient"
    return (
        f"the limit that the furthest of only {many(n, who)} set; of new ones that are like them "
        f"about 1 in {n + 1} is expected beyond it"
    )


def known(run: Run, model: nn.Module, answers: _Answers) -> Reference | None:
    """The run's reference, as it is kept, or made now and kept.

    Parameters
    ----------
    run : Run, trained
    model : nn.Module, the run's
    answers : Callable, `use.predict_records` of run and model

    Returns
    -------
    Reference or None
        None where the run's images can set none, see `lacking`, and, with a warning that says why,
        where it cannot be made for another reason.
    """
    if lacking(run):
        return None
    file, weights = run.folder / FILE, run.fingerprint
    if kept := devices.by_first(lambda: _read(file, weights)):
        return kept
    try:
        made = make(run, answers)
    except (OSError, ValueError) as error:
        if devices.rank() == 0:
            warnings.warn(
                f"whether images are unlike the training images of {run.folder} cannot be told: "
                f"{error}",
                stacklevel=3,
            )
        return None
    with contextlib.suppress(OSError):  # a run that may not be written to: made anew each time
        devices.by_first(lambda: _write(file, made, weights))
    return made


def make(run: Run, answers: _Answers) -> Reference:
    """Look at training images, then at validation images for the limit.

    Of the training images a quarter is looked at, but 64 to 256, and of validation at most 1,024;
    of every class its share.

    Parameters
    ----------
    run : Run, trained
    answers : Callable, `use.predict_records` of run and model

    Returns
    -------
    Reference

    Raises
    ------
    ValueError
        Where none of the validation images, or too few training images, can be read.
    """
    some = int(np.clip(len(records.readable(run.part("train"))) // 4, *_TRAINING))
    fitted = novelty.fit(_seen(run, "train", some, answers)[0])
    return novelty.limited(fitted, *_seen(run, "val", _VALIDATION, answers))


def _seen(run: Run, split: str, limit: int, answers: _Answers) -> tuple[np.ndarray, pd.Series]:
    """What `novelty` looks at of some images of a split, and whose they are."""

    def describe(images: np.ndarray, features: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(novelty.seen(images, features))

    some = splits.sample(records.readable(run.part(split)), limit, run.recipe.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an image that has gone since is one fewer
        found = answers(some, split, views=0, describe=describe)
    numbers = [name for name in found if isinstance(name, int)]
    return found[numbers].to_numpy(), patients_of(found)


def _write(file: Path, made: Reference, weights: str) -> None:
    spreads = {
        part: {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in vars(getattr(made, part)).items()
        }
        for part in _SPREADS
    }
    content = {"limits": list(made.limits), "patients": made.patients}
    checkpoints.write(file, {"version": _VERSION, "weights": weights} | content | spreads)


def _read(file: Path, weights: str) -> Reference | None:
    """What `_write` wrote for these weights; None where it is another's, damaged or not there."""
    damage = (OSError, ValueError, TypeError, KeyError, AttributeError)
    with contextlib.suppress(*damage), np.errstate(all="ignore"):
        content = checkpoints.read(file)
        if (content["version"], content["weights"]) == (_VERSION, weights):
            spreads = [_spread(content[part], file) for part in _SPREADS]
            kept = Reference(*spreads, tuple(content["limits"]), content["patients"])
            nowhere = np.zeros((1, sum(one.mean.size for one in spreads)))
            return kept if np.isfinite(kept.distance(nowhere)).all() else None
    return None


def _spread(content: dict, file: Path) -> Spread:
    refuse_swollen(content, file)
    arrays = (content[name].numpy() for name in ("mean", "directions", "variances"))
    return Spread(*arrays, content["noise"])
