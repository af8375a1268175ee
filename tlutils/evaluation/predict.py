"""From a model and a loader to the predictions table: the model's answer to each image.

The table (split, path, patient, label, predicted, p_<class>..., loss) is all that measuring needs;
this module and `acquisition` alone of the package know torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..core import devices
from ..core.devices import Machine
from ..core.dicom import LACKS_PACKAGE
from ..core.progress import bar
from ..data.augment import AS_IT_IS, Augmentation
from ..data.loaders import Loader
from ..models import feature_store, prefix
from ..models.build import head_name, normalization, prepared, probabilities
from ..models.prefix import eval_mode
from .acquisition import DEALING, Acquisition

_Part = tuple[Tensor, Tensor, Tensor]  # rows, labels, outputs
_ChangedPart = tuple[Tensor, Tensor, Tensor, list[str]]  # and the change of each
Describe: TypeAlias = Callable[[np.ndarray, np.ndarray], pd.DataFrame]


class NothingToPredict(ValueError):
    """None of so many images can be read.

    Parameters
    ----------
    images : int
    """

    def __init__(self, images: int) -> None:
        super().__init__(images)
        self.images = images

    def __str__(self) -> str:
        return (
            f"none of the {self.images} images can be read, so there is nothing to predict; "
            "look at the files"
        )


class PackageMissing(NothingToPredict, ImportError):
    """None of so many images can be read for want of a package.

    Parameters
    ----------
    images : int
    why : str, what to install
    """

    def __init__(self, images: int, why: str) -> None:
        super(ValueError, self).__init__(images, why)
        self.images, self.why = images, why

    def __str__(self) -> str:
        return f"none of the {self.images} images can be read: {self.why}"


def predict(
    model: nn.Module,
    loader: Loader,
    machine: Machine | None = None,
    split: str = "test",
    progress: bool | None = None,
    store: str | Path | None = None,
    views: int = 0,
    augmentation: Augmentation = AS_IT_IS,
    seed: int = 0,
    describe: Describe | None = None,
) -> pd.DataFrame:
    """A model's answer to each image of a loader.

    Parameters
    ----------
    model : nn.Module, moved to the machine; the mode of each of its modules is put back at the end
    loader : Loader, gives each image once (no `weights`, one process)
    machine : None chooses
    split : str, written into the table
    progress : bool, a bar or not; None shows one where a person watches
    store : str or Path, folder for the outputs of the frozen part (see `feature_store`)
        It pays where the same images are predicted again or were trained on; None runs the whole
        model.
    views : int, of test-time augmentation; 0 is the image alone
        Probabilities are the mean over the image as it is and so many views of it (see
        `Augmentation.view`), and no store is used.
    augmentation : Augmentation, of the views
    seed : int, of the views
    describe : Callable, of some images as they are to a DataFrame with a row about each
        It is given the images, uint8 (N, C, S, S), and what enters the head with them, float32
        (N, width); its columns are added to the table. The model is one that `build` has made.

    Returns
    -------
    DataFrame
        One row a readable image in the order of the loader's records; `loss` is the negative
        log-likelihood of the true class in nats, NaN without a label. Unreadable images are left
        out with a warning that names them.

    Raises
    ------
    NothingToPredict
        Where no image can be read; it is an ImportError too where all lack a package.
    ValueError
        Where the loader does not give each image once, or the model answers NaN.
    """
    machine = machine or devices.choose()
    machine.place(model)
    loader.pinned = machine.device.type == "cuda"
    shown = bar(what=f"predicting {split}", total=len(loader.records), show=progress)
    described = _Described(model, describe) if describe else None
    with eval_mode(model), shown as tick, described or nullcontext():
        cut = prefix.split(model) if store is not None and not views else None
        if cut:
            filled = _filled_store(cut, model, loader, machine, store)
            parts = list(_outputs_from_store(*filled, cut, loader, machine, tick, described))
        else:
            also = [(augmentation, number, seed) for number in range(views)]
            parts = list(_outputs(model, loader, machine, also, tick, described))
    table, order = _in_order(parts, loader, split)
    return table.join(described.rows(order)) if described else table


class _Described:
    """What `describe` says of the images, batch by batch, while a model sees them."""

    def __init__(self, model: nn.Module, describe: Describe) -> None:
        self.describe, self.parts, self.entered = describe, [], torch.empty(0)
        # The tail of a cut model calls the layers of the head, not the head itself.
        layers = model.get_submodule(head_name(model)).modules()
        learning = (one for one in layers if any(p.requires_grad for p in one.parameters(False)))
        self.layer = next(learning)

    def __enter__(self) -> None:
        def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.entered = inputs[0]

        self.hook = self.layer.register_forward_pre_hook(keep)

    def __exit__(self, *error: object) -> None:
        self.hook.remove()

    def add(self, images: Tensor) -> None:
        """Describe the images that the model has seen last."""
        self.parts.append(self.describe(images.numpy(), self.entered.float().cpu().numpy()))

    def rows(self, order: Tensor) -> pd.DataFrame:
        """All of it, in the order of the table."""
        whole = pd.concat(self.parts, ignore_index=True)
        return whole.iloc[order.numpy()].reset_index(drop=True)


@torch.inference_mode()
def _outputs(
    model: nn.Module,
    loader: Loader,
    machine: Machine,
    also: list[tuple],
    tick: tqdm,
    described: _Described | None,
) -> Iterator[_Part]:
    """What the whole model gives, the mean over the views `also` shown."""
    for batch in loader:
        mean = _mean_over_views(model, batch.images, batch.keys, machine, also, described)
        yield batch.rows, batch.labels, mean
        tick.update(len(batch.rows))


def _mean_over_views(
    model: nn.Module,
    images: Tensor,
    keys: Tensor,
    machine: Machine,
    also: list[tuple],
    described: _Described | None = None,
) -> Tensor:
    """What the model gives; the images as they are, not their views, are described."""
    found = [_outputs_of(model, images, machine)]
    if described:
        described.add(images)
    for augmentation, *settings in also:
        seen = augmentation.view(images.to(machine.device), keys, *settings)
        found.append(_outputs_of(model, seen, machine))
    if not also:
        return found[0]
    # The log of mean probabilities is an output that means the same.
    return torch.stack([probabilities(one) for one in found]).mean(0).log()


def _outputs_of(model: nn.Module, images: Tensor, machine: Machine) -> Tensor:
    inputs = prepared(model, images, machine)
    with machine.autocast():
        return model(inputs)


def _filled_store(
    cut: prefix.Split,
    model: nn.Module,
    loader: Loader,
    machine: Machine,
    folder: str | Path,
    **views: object,
) -> tuple[feature_store.Store, np.ndarray]:
    """The frozen part's outputs, and the rows of images that could be read in every view."""
    mean, std = normalization(model)
    how = {"machine": machine, "mean": mean, "std": std, **views}
    store = feature_store.open_store(folder, cut.prefix, loader, **how)
    for number in range(store.views):
        store.fill(number)
    return store, np.setdiff1d(np.arange(store.n), store.bad())


@torch.inference_mode()
def _outputs_from_store(
    store: feature_store.Store,
    good: np.ndarray,
    cut: prefix.Split,
    loader: Loader,
    machine: Machine,
    tick: tqdm,
    described: _Described | None = None,
    number: int = 0,
) -> Iterator[_Part]:
    """The same from the frozen part's outputs."""
    wanted = np.array_split(good, -(-len(good) // 256)) if len(good) else []
    # To be described images are read as well; what has gone since is left out.
    batches = loader.reader(wanted) if described else ()
    read = ((batch.rows.numpy(), batch.images) for batch in batches if len(batch.rows))
    for rows, images in read if described else ((rows, None) for rows in wanted):
        inputs, chosen = machine.place(store.read(number, rows)), torch.from_numpy(rows)
        with machine.autocast():
            outputs = cut.tail(inputs)
        if described:
            described.add(images)
        yield chosen, loader.labels[chosen], outputs
        tick.update(len(rows))


def predict_changed(
    model: nn.Module,
    loader: Loader,
    acquisition: Acquisition,
    shown: int,
    machine: Machine | None = None,
    split: str = "val",
    progress: bool | None = None,
    store: str | Path | None = None,
    views: int = 0,
    augmentation: Augmentation = AS_IT_IS,
    seed: int = 0,
) -> pd.DataFrame:
    """A model's answers to images whose acquisition was changed; each image is read once.

    Parameters
    ----------
    model, loader
        As for `predict`.
    acquisition : Acquisition, the changes, dealt over the images as in training
    shown : int, views of each image; as many as there are changes show it under each of them
    machine, split, progress
        As for `predict`.
    store : str or Path, folder for the outputs of the frozen part under the changes
        None runs the whole model.
    views, augmentation, seed
        As for `predict`: of test-time augmentation, here of the changed images.

    Returns
    -------
    DataFrame
        As of `predict`, with a row for each view of a readable image, those of one image one after
        the other; `change` is the name of the change, "" for the image as it is.

    Raises
    ------
    NothingToPredict
        Where no image can be read.
    ValueError
        As `predict`.
    """
    machine = machine or devices.choose()
    machine.place(model)
    loader.pinned = machine.device.type == "cuda"
    what, total = f"predicting {split} under changes", shown * len(loader.records)
    with eval_mode(model), bar(what=what, total=total, show=progress) as tick:
        cut = prefix.split(model) if store is not None and not views else None
        if cut:
            of = (cut, model, loader, machine, store, tick)
            parts = list(_changed_from_store(acquisition, shown, *of))
        else:
            also = [(augmentation, number, seed) for number in range(views)]
            of = (model, loader, machine, also, tick)
            parts = list(_changed_outputs(acquisition, shown, *of))
    table, order = _in_order([numbers for *numbers, _ in parts], loader, split, shown)
    return table.assign(change=np.concatenate([names for *_, names in parts])[order.numpy()])


@torch.inference_mode()
def _changed_outputs(
    acquisition: Acquisition,
    shown: int,
    model: nn.Module,
    loader: Loader,
    machine: Machine,
    also: list[tuple],
    tick: tqdm,
) -> Iterator[_ChangedPart]:
    """What the whole model gives of each batch in each view, and what was changed there."""
    for batch in loader:
        images = batch.images.to(machine.device)
        for number in range(shown):
            seen = acquisition.view(images, batch.keys, number, DEALING)
            outputs = _mean_over_views(model, seen, batch.keys, machine, also)
            names = acquisition.names(batch.keys, number, DEALING)
            yield batch.rows, batch.labels, outputs, names
            tick.update(len(batch.rows))


def _changed_from_store(
    acquisition: Acquisition,
    shown: int,
    cut: prefix.Split,
    model: nn.Module,
    loader: Loader,
    machine: Machine,
    folder: str | Path,
    tick: tqdm,
) -> Iterator[_ChangedPart]:
    """The same from the frozen part's outputs, one view after the other."""
    views = {"augmentation": acquisition, "views": shown, "seed": DEALING}
    filled = _filled_store(cut, model, loader, machine, folder, **views)
    for number in range(shown):
        for part in _outputs_from_store(*filled, cut, loader, machine, tick, number=number):
            yield *part, acquisition.names(loader.keys_of(part[0]), number, DEALING)


def _in_order(
    parts: list[_Part], loader: Loader, split: str, views: int = 1
) -> tuple[pd.DataFrame, Tensor]:
    """The table in the order of the records, and the rows of the parts in that order."""
    if bad := loader.unreadable:
        named = "; ".join(f"{path} ({why})" for path, why in bad[:3])
        warnings.warn(
            f"left out {len(bad)} of {len(loader.records)} images that cannot be read: {named}"
            f"{'; ...' if len(bad) > 3 else ''}",
            stacklevel=3,
        )
    if not parts:
        raise _nothing(loader)
    rows, labels, outputs = (torch.cat(one).cpu() for one in zip(*parts))  # the one wait for it
    _check_once(rows, loader, views)
    order = torch.argsort(rows, stable=True)
    return _table(loader, rows[order], labels[order], outputs[order].float(), split), order


def _nothing(loader: Loader) -> NothingToPredict:
    """What to raise where no image could be read."""
    whys = [why for _, why in loader.unreadable]
    if whys and all(LACKS_PACKAGE in why for why in whys):
        return PackageMissing(len(loader.records), whys[0][whys[0].index(LACKS_PACKAGE) :])
    return NothingToPredict(len(loader.records))


def _check_once(rows: Tensor, loader: Loader, views: int) -> None:
    """Refuse a loader that did not give each image once, to be shown in so many views."""
    expected = len(loader.records) - len(loader.unreadable)
    different, times = rows.unique(return_counts=True)
    if len(different) != expected or times.ne(views).any():
        raise ValueError(
            f"the loader gave {len(rows) // views} images, {len(different)} different ones, of "
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
    # From the logits, as log(p) is -inf where p rounds to 0; a logit z is two logits (0, z).
    single = outputs.shape[1] == 1
    logits = torch.cat([torch.zeros_like(outputs), outputs], 1) if single else outputs
    losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none").double().numpy()
    table = records[["path", "patient"]].assign(
        label=["" if pd.isna(label) else label for label in records["label"]],
        predicted=np.array(loader.classes)[scores.argmax(1)],
    )
    table.insert(0, "split", split)
    answers = pd.DataFrame(scores, columns=[f"p_{name}" for name in loader.classes])
    return table.join(answers).assign(loss=np.where(labels.numpy() < 0, np.nan, losses))
