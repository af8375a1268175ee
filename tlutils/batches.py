"""What goes into the network, batch by batch: views of the images, or what the frozen part made of them.

Both kinds give the same batches of the same views in the same order, so training does not notice which it gets.

Taught in notebook 03.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import devices, features
from .augment import Augmentation, normalise, view
from .devices import Machine
from .loaders import Loader


class FileBatches:
    """Batches of (inputs on the device, labels on the device, images in the whole batch) from the files."""

    where = "files"

    def __init__(self, loader: Loader, machine: Machine, mean: tuple[float, ...], std: tuple[float, ...],
                 augmentation: Augmentation = Augmentation(), views: int = 1, seed: int = 0) -> None:
        self.loader, self.machine, self.mean, self.std = loader, machine, mean, std
        self.augmentation, self.views, self.seed = augmentation, views, seed

    @property
    def n(self) -> int:
        """Images in an epoch."""
        return len(self.loader.records)

    def __len__(self) -> int:
        return len(self.loader)

    def view_of(self, epoch: int) -> int:
        """Which view an epoch shows: always a new one, or one of `views` in turn."""
        return epoch % self.views if self.views else epoch

    def prepare(self, epoch: int, show: bool | None) -> float:
        """Do what must precede an epoch; returns the seconds it took."""
        return 0.0

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """The batches of an epoch."""
        self.loader.set_epoch(epoch)
        sizes = [len(batch) for batch in self.loader.sampler.batches()]
        for size, batch in zip(sizes, self.loader):
            images = view(batch.images.to(self.machine.device, non_blocking=True), batch.keys, self.view_of(epoch),
                          self.seed, self.augmentation)
            yield (self.machine.place(normalise(images, self.mean, self.std)),
                   batch.labels.to(self.machine.device, non_blocking=True), size)


class StoreBatches(FileBatches):
    """The same batches, of the frozen part's outputs, from the store."""

    where = "store"

    def __init__(self, prefix: nn.Module, folder: str | Path, compiled: bool, *what: object) -> None:
        super().__init__(*what)
        self.store = features.open_store(folder, prefix, self.loader, self.machine, self.augmentation,
                                         self.views, self.seed, self.mean, self.std, compiled)
        self.bad = np.empty(0, dtype=int)

    def prepare(self, epoch: int, show: bool | None) -> float:
        before = self.store.seconds
        self.store.fill(self.view_of(epoch), show)
        self.bad = self.store.bad()
        self.store.forget_pages()
        return self.store.seconds - before

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        self.loader.set_epoch(epoch)
        labels, share = self.loader.labels, slice(devices.rank(), None, devices.world())
        for batch in self.loader.sampler.batches():
            batch = batch[~np.isin(batch, self.bad)] if len(self.bad) else batch
            if len(batch) == 0:  # none of it can be read
                continue
            rows = batch[share]
            yield (self.machine.place(self.store.read(self.view_of(epoch), rows)),
                   labels[torch.from_numpy(rows)].to(self.machine.device, non_blocking=True), len(batch))
