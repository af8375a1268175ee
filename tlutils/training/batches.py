"""What goes into the network, batch by batch: views of the images, or what the frozen part made of them.

Both kinds give the same batches of the same views in the same order, so training does not notice which it gets.

Taught in notebook 03.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core import devices
from ..core.devices import Machine
from ..data.augment import Augmentation, normalize, view
from ..data.loaders import Loader
from ..models import feature_store


class FileBatches:
    """Batches of (inputs on the device, labels on the device, images in the whole batch) from the files.

    Images that cannot be read are left out and named in the loader. A batch of which none can be read is given all the
    same, empty: the other processes may have images of it, and all take part in every step.
    """

    where = "files"

    def __init__(
        self,
        loader: Loader,
        machine: Machine,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augmentation: Augmentation = Augmentation(),
        views: int = 1,
        seed: int = 0,
    ) -> None:
        self.loader, self.machine, self.mean, self.std = loader, machine, mean, std
        self.augmentation, self.views, self.seed = augmentation, views, seed
        loader.pinned = machine.device.type == "cuda"

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
        for size, batch in zip(sizes, self.loader.shares(), strict=True):
            images = batch.images.to(self.machine.device, non_blocking=self.machine.non_blocking)
            if len(batch.rows):
                images = view(images, batch.keys, self.view_of(epoch), self.seed, self.augmentation)
                images = normalize(images, self.mean, self.std)
            yield self.machine.place(images), self.machine.place(batch.labels), size

    def not_finite(self, epoch: int) -> list[str]:
        """Paths of images whose inputs hold NaN or infinity in the view of an epoch; pixels never do."""
        return []


class StoreBatches(FileBatches):
    """The same batches, of the frozen part's outputs, from the store."""

    where = "store"

    def __init__(
        self, prefix: nn.Module, folder: str | Path, compiled: bool, *what: object
    ) -> None:
        super().__init__(*what)
        self.store = feature_store.open_store(
            folder,
            prefix,
            self.loader,
            self.machine,
            self.augmentation,
            self.views,
            self.seed,
            self.mean,
            self.std,
            compiled,
        )

    def prepare(self, epoch: int, show: bool | None) -> float:
        before = self.store.seconds
        self.store.fill(self.view_of(epoch), show)
        self.store.forget_pages()
        return self.store.seconds - before

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        self.loader.set_epoch(epoch)
        labels, share = self.loader.labels, slice(devices.rank(), None, devices.world())
        for batch in self.loader.sampler.batches():
            rows = batch[share]
            values = self.store.read(self.view_of(epoch), rows)
            lost = values.flatten(1)[:, 0].isnan()  # of an unreadable image, all numbers are NaN
            if lost.any():
                self.loader.add_unreadable(
                    rows[lost.numpy()], "could not be read when its features were computed"
                )
                rows, values = rows[~lost.numpy()], values[~lost]
            yield (
                self.machine.place(values),
                self.machine.place(labels[torch.from_numpy(rows)]),
                len(batch),
            )

    def not_finite(self, epoch: int) -> list[str]:
        wrong: list[str] = []
        for rows in self.store.chunks():
            values = self.store.read(self.view_of(epoch), rows).float().flatten(1)
            there = ~values.isfinite().all(1) & ~values[:, 0].isnan()
            wrong += self.loader.records["path"].iloc[rows[there.numpy()]].tolist()
        return wrong
