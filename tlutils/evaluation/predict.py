"""From a model and a loader to the predictions table: what the model says of each image.

The table (split, path, patient, label, predicted, p_<class>..., loss) is all that measuring needs.

Taught in notebook 04.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..core import devices
from ..core.devices import Machine
from ..core.progress import bar
from ..data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation, normalize, view
from ..data.loaders import Loader
from ..models import feature_store, prefix
from ..models.build import probabilities
from ..models.prefix import eval_mode


class NothingToPredict(ValueError):
    """None of so many images can be read."""

    def __init__(self, images: int) -> None:
        super().__init__(images)
        self.images = images

    def __str__(self) -> str:
        return f"none of the {self.images} images can be read, so there is nothing to predict; look at the files"


def predict(
    model: nn.Module,
    loader: Loader,
    machine: Machine | None = None,
    split: str = "test",
    progress: bool | None = None,
    store: str | Path | None = None,
    views: int = 0,
    augmentation: Augmentation = Augmentation(),
    seed: int = 0,
) -> pd.DataFrame:
    """What a model says of each image of a loader.

    Parameters
    ----------
    model : moved to the machine; the mode of each of its modules is put back at the end.
    loader : gives each image once (no `weights`, one process).
    machine : None chooses. split : written into the table.
    store : folder for the outputs of the frozen part (see `features`), which pays where the same images are
        predicted again or were trained on; None runs the whole model.
    views, augmentation, seed : test-time augmentation: probabilities are the mean over the image as it is and so many
        views of it (see `augment.view`), and no store is used; 0 views is the image alone.
    progress : bar or not; None shows one where a person watches.

    Returns
    -------
    predictions table, one row a readable image in the order of the loader's records; `loss` is the negative
    log-likelihood of the true class in nats, NaN without a label. Unreadable images are left out with a
    warning that names them.

    Raises
    ------
    NothingToPredict where no image can be read. ValueError where the loader does not give each once, or the model
    answers NaN.

    Taught in notebook 04.
    """
    machine = machine or devices.choose()
    machine.place(model)
    loader.pinned = machine.device.type == "cuda"
    with (
        eval_mode(model),
        bar(what=f"predicting {split}", total=len(loader.records), show=progress) as shown,
    ):
        cut = prefix.split(model) if store is not None and not views else None
        parts = list(
            _outputs_from_store(cut, model, loader, machine, store, shown)
            if cut
            else _outputs(model, loader, machine, shown, Views(views, augmentation, seed))
        )
    _name_unreadable(loader)
    if not parts:
        raise NothingToPredict(len(loader.records))
    rows, labels, outputs = (
        torch.cat(column).cpu() for column in zip(*parts)
    )  # the one wait for the device
    _check_once(rows, loader)
    order = torch.argsort(rows)
    return _table(loader, rows[order], labels[order], outputs[order].float(), split)


class Views(NamedTuple):
    """Which views an image is also shown in: so many, of this augmentation and seed."""

    number: int = 0
    augmentation: Augmentation = Augmentation()
    seed: int = 0


@torch.inference_mode()
def _outputs(
    model: nn.Module, loader: Loader, machine: Machine, shown: tqdm, also: Views
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for batch in loader:
        said = [_answer(model, batch.images, machine)]
        for number in range(also.number):
            seen = view(
                batch.images.to(machine.device), batch.keys, number, also.seed, also.augmentation
            )
            said.append(_answer(model, seen, machine))
        yield batch.rows, batch.labels, said[0] if len(said) == 1 else _mean(said)
        shown.update(len(batch.rows))


def _answer(model: nn.Module, images: Tensor, machine: Machine) -> Tensor:
    inputs = prepared(model, images, machine)
    with machine.autocast():
        return model(inputs)


def _mean(outputs: list[Tensor]) -> Tensor:
    """Log of the mean of probabilities: outputs that mean the same in `models.probabilities`."""
    return torch.stack([probabilities(one) for one in outputs]).mean(0).log()


@torch.inference_mode()
def _outputs_from_store(
    cut: prefix.Split,
    model: nn.Module,
    loader: Loader,
    machine: Machine,
    folder: str | Path,
    shown: tqdm,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same from the frozen part's outputs; what is missing in the store is computed first."""
    mean, std = normalization(model)
    store = feature_store.open_store(folder, cut.prefix, loader, machine, mean=mean, std=std)
    store.fill(0)
    good = np.setdiff1d(np.arange(store.n), store.bad())
    for rows in np.array_split(good, -(-len(good) // 256)) if len(good) else ():
        inputs = machine.place(store.read(0, rows))
        with machine.autocast():
            yield torch.from_numpy(rows), loader.labels[torch.from_numpy(rows)], cut.tail(inputs)
        shown.update(len(rows))


def normalization(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels that a model's weights expect."""
    description = getattr(model, "tl", {})
    return description.get("mean", IMAGENET_MEAN), description.get("std", IMAGENET_STD)


def prepared(model: nn.Module, images: Tensor, machine: Machine | None = None) -> Tensor:
    """Images as a model wants them: float32 (N, 3, H, W) on its machine, normalized as its weights expect.

    images : uint8 (N, 1 or 3, H, W). machine : None stays where the model lies; else the model is moved too.
    """
    at = next(model.parameters(), torch.empty(0)).device
    machine = machine or Machine(at)
    if at != machine.device:
        machine.place(model)
    return machine.place(
        normalize(
            images.to(machine.device, non_blocking=machine.non_blocking), *normalization(model)
        )
    )


def _name_unreadable(loader: Loader) -> None:
    if bad := loader.unreadable:
        named = "; ".join(f"{path} ({why})" for path, why in bad[:3]) + (
            "; ..." if len(bad) > 3 else ""
        )
        warnings.warn(
            f"left out {len(bad)} of {len(loader.records)} images that cannot be read: {named}",
            stacklevel=3,
        )


def _check_once(rows: Tensor, loader: Loader) -> None:
    expected = len(loader.records) - len(loader.unreadable)
    if not len(rows) == len(rows.unique()) == expected:
        raise ValueError(
            f"the loader gave {len(rows)} images, {len(rows.unique())} different ones, of "
            f"{expected} readable ones; predictions want each once, so make the loader without "
            "weights and for one process"
        )


def _table(
    loader: Loader, rows: Tensor, labels: Tensor, outputs: Tensor, split: str
) -> pd.DataFrame:
    records = loader.records.iloc[rows.numpy()].reset_index(drop=True)
    if (lost := outputs.isnan().any(1)).any():
        raise ValueError(
            f"the model answers NaN for {int(lost.sum())} of {len(rows)} images, e.g. "
            f"{records['path'][int(lost.int().argmax())]}; its training diverged (lower the "
            "learning rate) or the precision is too small for it (use fp32)"
        )
    scores = probabilities(outputs).double().numpy()
    # From the logits, as log(p) is -inf where p rounds to 0; one logit z is the same as two logits (0, z).
    logits = (
        torch.cat([torch.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs
    )
    losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none").double().numpy()
    answers = pd.DataFrame(scores, columns=[f"p_{name}" for name in loader.classes])
    return (
        pd.DataFrame(
            {
                "split": split,
                "path": records["path"],
                "patient": records["patient"],
                "label": ["" if pd.isna(label) else label for label in records["label"]],
                "predicted": np.array(loader.classes)[scores.argmax(1)],
            }
        )
        .join(answers)
        .assign(loss=np.where(labels.numpy() < 0, np.nan, losses))
    )
