"""What goes into the network, batch by batch: views of the images, or the frozen part's outputs.

Both kinds are the same batches of the same views in the same order, so training does not notice
which it gets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..core import devices
from ..core.devices import Machine
from ..data.augment import AS_IT_IS, Views, normalize
from ..data.loaders import Loader
from ..models.feature_store import Store


class Batches:
    """The batches of every epoch, from the image files or the store of the frozen part's outputs.

    Images that cannot be read are left out and named in the loader. A batch of which none can be
    read is given all the same, empty: the other processes may have images of it, and all take part
    in every step.

    Parameters
    ----------
    loader : Loader, gives the images
    machine : Machine, where the inputs are wanted
    mean, std : tuple of float, of the pixels that the model's weights expect
    augmentation : Views, such as an Augmentation: what a view may change
    views : int, 0 is a new view every epoch; V are V views in turn
    seed : int, of the views
    store : Store, optional
        Opened for the same images and views; without it they come from the files.
    """

    def __init__(
        self,
        loader: Loader,
        machine: Machine,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augmentation: Views = AS_IT_IS,
        views: int = 1,
        seed: int = 0,
        store: Store | None = None,
    ) -> None:
        self.loader, self.machine, self.mean, self.std = loader, machine, mean, std
        self.augmentation, self.views, self.seed, self.store = augmentation, views, seed, store
        loader.pinned = machine.device.type == "cuda"

    @property
    def n(self) -> int:
        """Images in an epoch."""
        return len(self.loader.records)

    def __len__(self) -> int:
        return len(self.loader)

    def view_of(self, epoch: int) -> int:
        """Which view an epoch shows.

        Parameters
        ----------
        epoch : int, from 0

        Returns
        -------
        int, always a new one, or one of `views` in turn
        """
        return epoch % self.views if self.views else epoch

    def prepare(self, epoch: int, show: bool | None = None) -> float:
        """Compute what the store lacks of the view of an epoch.

        Parameters
        ----------
        epoch : int, from 0
        show : bool, optional, progress bar or not; None decides

        Returns
        -------
        float, the seconds it took
        """
        if self.store is None:
            return 0.0
        before = self.store.seconds
        self.store.fill(self.view_of(epoch), show)
        self.store.forget_pages()
        return self.store.seconds - before

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        """The batches of an epoch.

        Parameters
        ----------
        epoch : int, from 0

        Yields
        ------
        tuple of (Tensor, Tensor, int)
            Inputs and labels of this process's share, on the device; images in the whole batch.
        """
        self.loader.set_epoch(epoch)
        whole = self.loader.sampler.batches()
        number = self.view_of(epoch)
        shares = self._from_store(number, whole) if self.store else self._from_files([number])
        for rows, (inputs, labels) in zip(whole, shares, strict=True):
            yield self.machine.place(inputs), self.machine.place(labels), len(rows)

    def every_view(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All `views` of this process's share of the images, each of which is read once.

        Yields
        ------
        tuple of (Tensor, Tensor), inputs and labels, on the device
        """
        numbers, whole = range(self.views), self.loader.sampler.batches()
        stored = (self._from_store(number, whole) for number in numbers)
        shares = itertools.chain.from_iterable(stored) if self.store else self._from_files(numbers)
        for inputs, labels in shares:
            yield self.machine.place(inputs), self.machine.place(labels)

    def _from_files(self, numbers: Iterable[int]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader.shares():
            images = batch.images.to(self.machine.device, non_blocking=self.machine.non_blocking)
            for number in numbers:
                shown = images
                if len(batch.rows):
                    shown = self.augmentation.view(images, batch.keys, number, self.seed)
                    shown = normalize(shown, self.mean, self.std)
                yield shown, batch.labels

    def _from_store(self, number: int, whole: list) -> Iterator[tuple[Tensor, Tensor]]:
        labels, unreadable = self.loader.labels, self.store.bad(number)
        for batch in whole:
            rows = batch[devices.rank() :: devices.world()]
            rows = rows[~np.isin(rows, unreadable)]
            yield self.store.read(number, rows), labels[torch.from_numpy(rows)]

    def not_finite(self, epoch: int) -> list[str]:
        """Paths of images whose stored outputs hold NaN or infinity in the view of an epoch.

        Parameters
        ----------
        epoch : int, from 0

        Returns
        -------
        list of str
        """
        wrong: list[str] = []
        for rows in self.store.chunks() if self.store else ():
            rows = np.setdiff1d(rows, self.store.bad(self.view_of(epoch)))
            values = self.store.read(self.view_of(epoch), rows).float().flatten(1)
            there = ~values.isfinite().all(1)
            wrong += self.loader.records["path"].iloc[rows[there.numpy()]].tolist()
        return wrong
