"""What tells images unlike a run's training images, kept in the run as reference.pt.

It belongs to the weights of best.pt: beside others it is not used but made anew, as it is for a run
of before that has none, while the images are still there.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..core import devices
from ..data import records, splits
from ..evaluation import novelty
from ..evaluation.metrics import patients_of
from ..evaluation.novelty import Reference
from ..models import checkpoints
from ..models.weights import refuse_swollen
from .folder import Run

FILE = "reference.pt"
IMAGES = 256  # of training and of validation, at most
_Answers = Callable[..., pd.DataFrame]


def known(run: Run, model: nn.Module, answers: _Answers) -> Reference | None:
    """The run's reference, as it is kept, or made now and kept.

    Parameters
    ----------
    run : Run
        Trained.
    model : nn.Module
        The run's.
    answers : Callable
        `use.predict_records` of run and model.

    Returns
    -------
    Reference or None
        None, with a warning that says why, where it cannot be made.
    """
    file, weights = run.folder / FILE, checkpoints.fingerprint(model)
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

    At most 256 of each are looked at, of every class its share.

    Parameters
    ----------
    run : Run
        Trained.
    answers : Callable
        `use.predict_records` of run and model.

    Returns
    -------
    Reference

    Raises
    ------
    ValueError
        Where there are no validation images, or too few training images can be read.
    """
    if run.part("val").empty:
        raise ValueError("the run has no validation images to set a limit")
    seen = [_features(run, part, answers) for part in ("train", "val")]
    (train, _), (val, patients) = seen
    return novelty.limited(novelty.fit(train), val, patients)


def _features(run: Run, part: str, answers: _Answers) -> tuple[np.ndarray, pd.Series]:
    """What enters the head with some images, and whose they are."""
    some = splits.sample(records.readable(run.part(part)), IMAGES, run.recipe.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an image that has gone since is one fewer
        table = answers(some, part, views=0, describe=pd.DataFrame)
    numbers = [name for name in table if isinstance(name, int)]
    return table[numbers].to_numpy(np.float32), patients_of(table)


def _write(file: Path, made: Reference, weights: str) -> None:
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in asdict(made).items()
    }
    checkpoints.write(file, {"weights": weights, **tensors})


def _read(file: Path, weights: str) -> Reference | None:
    """What `_write` wrote for these weights; None where it is another's, damaged or not there."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        content = checkpoints.read(file)
        refuse_swollen(content, file)
        if content.pop("weights") == weights:
            arrays = {
                name: value.numpy() if isinstance(value, torch.Tensor) else value
                for name, value in content.items()
            }
            return Reference(**arrays)
    return None
