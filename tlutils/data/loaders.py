"""From a table of records to batches of uint8 tensors.

Loaders only read, decode and resize; augmentation and normalization happen on the device (`augment`). There is
one reader and one resize for training, evaluation and prediction, so no path can see other pixels than another.
A file that cannot be read is left out and named, never an exception in the middle of an epoch.

Taught in notebook 02.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from ..core.images import UnreadableImage, content, read

RESIZES = ("squash", "pad", "crop")


class Batch(NamedTuple):
    """What a loader yields.

    images : uint8 (N, C, S, S); labels : int64 (N,), -1 where there is no label; keys : int64 (N,), see
    `image_key`; rows : int64 (N,), positions in the loader's records.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    rows: Tensor


def image_key(sha256: str) -> int:
    """A number that tells an image from all others: the first 63 bits of the SHA-256 of its file, given in hex.

    It does not depend on the machine, the file's name and folder, or the order of the table; files of the same bytes
    have the same key.
    """
    return int(sha256[:16], 16) >> 1


def read_image(
    path: str | Path,
    size: int = 224,
    resize: str = "squash",
    channels: int = 1,
    data: bytes | None = None,
) -> Tensor:
    """Read one image file as the network will see it.

    Parameters
    ----------
    path : JPEG, PNG, TIFF, BMP; grey or color, 8, 16 or 32 bit.
    size : height and width of the result, in pixels.
    resize : how a picture of another shape becomes a square.
        "squash" resizes both sides, "pad" keeps the shape and fills with black, "crop" resizes the short side
        to 256/224 of `size` and keeps the middle, as the usual ImageNet evaluation does (and loses the sides of
        a wide scan).
    channels : 1 for grey, 3 for color.
    data : the file's bytes where they have been read already; None reads them.

    Returns
    -------
    uint8 tensor (channels, size, size), upright as viewers show it. Grey images of more than 8 bits are scaled by
    their own minimum and maximum.

    Raises
    ------
    UnreadableImage where the file is missing, empty, damaged or no image (see `image_files.read`).

    Taught in notebook 02.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}; it is one of {', '.join(RESIZES)}")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}; it is 1 (grey) or 3 (color)")
    # A JPEG may decode straight to what still covers the target twice: 1.5 times as fast on 768x496 scans, and
    # the resize still averages.
    image = _resized(
        read(path, "L" if channels == 1 else "RGB", (2 * size, 2 * size), data), size, resize
    )
    pixels = np.array(image, dtype=np.uint8)
    return torch.from_numpy(
        pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    )


def _resized(image: Image.Image, size: int, resize: str) -> Image.Image:
    bilinear = (
        Image.Resampling.BILINEAR
    )  # Pillow's bilinear averages when it shrinks, unlike a plain tensor resize
    if resize == "squash":
        return image.resize((size, size), bilinear)
    short, long = min(image.size), max(image.size)
    scale = size / long if resize == "pad" else round(size * 256 / 224) / short
    width, height = (max(1, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if resize == "pad":
        resized = image.resize((width, height), bilinear)
        return resized.crop(
            (left, top, left + size, top + size)
        )  # beyond the picture, crop fills with black
    across, down = image.width / width, image.height / height
    kept = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize(
        (size, size), bilinear, box=kept
    )  # all of a strip of 65,000 x 1 would be 4 GB


class ImageDataset(Dataset):
    """The images of a table of records, as (uint8 tensor or None, label, key, row, why)."""

    def __init__(
        self,
        records: pd.DataFrame,
        root: str | Path,
        classes: list[str],
        size: int,
        resize: str,
        channels: int,
    ) -> None:
        self.paths = records["path"].astype(str).tolist()
        self.root, self.size, self.resize, self.channels = str(root), size, resize, channels
        self.labels = [_index(classes, label) for label in records["label"]]
        self.sha256 = (
            records.get("sha256", pd.Series("", records.index)).fillna("").astype(str).tolist()
        )

    def __len__(self) -> int:
        return len(self.paths)

    def data(self, row: int) -> bytes | None:
        """The bytes of a file whose SHA-256 the records do not know, for they are needed twice; else None."""
        return None if self.sha256[row] else content(Path(self.root, self.paths[row]))

    def key(self, row: int, data: bytes | None) -> int:
        """The key of an image, given what `data` gave."""
        return image_key(self.sha256[row] if data is None else hashlib.sha256(data).hexdigest())

    def __getitem__(self, row: int) -> tuple[Tensor | None, int, int, int, str]:
        try:
            data = self.data(row)
            image = read_image(
                os.path.join(self.root, self.paths[row]),
                self.size,
                self.resize,
                self.channels,
                data,
            )
        except UnreadableImage as error:
            return None, self.labels[row], -1, row, str(error)
        return image, self.labels[row], self.key(row, data), row, ""

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor | None, int, int, int, str]]:
        """A batch of them: by threads on all cores, one after the other in a worker, which is one of several."""
        return list(
            map(self.__getitem__, rows)
            if get_worker_info()
            else _threads().map(self.__getitem__, rows)
        )


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Pillow lets other threads run while it decodes and resizes."""
    return ThreadPoolExecutor(
        max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    )


def _index(classes: list[str], label: str) -> int:
    if label == "" or pd.isna(label):
        return -1
    if label not in classes:
        raise ValueError(
            f"found the label {label!r} but the classes are {', '.join(classes)}; "
            "pass the classes the records have, or use the records the model was trained on"
        )
    return classes.index(label)


def _collate(items: list[tuple]) -> tuple[Batch, list[tuple[int, str]]]:
    good = [item for item in items if item[0] is not None]
    bad = [(row, why) for image, _, _, row, why in items if image is None]
    images = torch.stack([item[0] for item in good]) if good else torch.empty(0, dtype=torch.uint8)
    labels, keys, rows = (
        torch.tensor([item[i] for item in good], dtype=torch.int64) for i in (1, 2, 3)
    )
    return Batch(images, labels, keys, rows), bad


class EpochSampler(Sampler[list[int]]):
    """The batches of an epoch as lists of rows, a pure function of (seed, epoch): a resumed run goes on as it
    would have.

    The rows are divided into batches of nearly equal size, so no tiny last batch upsets BatchNorm or the loss.
    `batch_size` counts the images of all processes together: with several, each takes its share of every batch,
    so the batches are the same for any number of processes. With `weights`, rows are drawn with replacement in
    proportion to them (a balanced sampler).
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        weights: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.n, self.batch_size, self.shuffle, self.seed, self.weights = (
            n,
            batch_size,
            shuffle,
            seed,
            weights,
        )
        self.rank, self.world, self.epoch = rank, world, 0
        if n // len(self) < world:
            raise ValueError(
                f"batches of {n // len(self)} images cannot be divided among {world} processes; "
                f"use a batch_size of at least {world} or fewer processes"
            )

    def order(self) -> np.ndarray:
        """All rows of this epoch, of all processes."""
        draw = np.random.default_rng([self.seed, self.epoch])
        if self.weights is not None:
            return draw.choice(self.n, self.n, p=self.weights / self.weights.sum())
        return draw.permutation(self.n) if self.shuffle else np.arange(self.n)

    def batches(self) -> list[np.ndarray]:
        """The rows of each whole batch of this epoch."""
        return np.array_split(self.order(), len(self))

    def __iter__(self) -> Iterator[list[int]]:
        return iter([batch[self.rank :: self.world].tolist() for batch in self.batches()])

    def __len__(self) -> int:
        return -(-self.n // self.batch_size)


class Loader:
    """An iterable of `Batch`; made by `make`.

    Attributes
    ----------
    records : the table the batches come from. classes : class names in index order. unreadable : list of
    (path, why) found so far. pinned : whether batches lie in page-locked memory, from which a CUDA GPU copies while the
    host goes on; whoever computes on one turns it on.
    """

    def __init__(
        self,
        records: pd.DataFrame,
        root: Path,
        classes: list[str],
        settings: dict,
        sampler: EpochSampler,
        workers: int,
    ) -> None:
        self.records, self.root, self.classes, self.settings = records, root, classes, settings
        self.sampler, self.workers, self.pinned = sampler, workers, False
        self._unreadable: dict[str, str] = {}
        self._dataset = ImageDataset(records, root, classes, **settings)
        self._loader = DataLoader(
            self._dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_collate,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator().manual_seed(0),
        )  # leaves the global stream alone

    @property
    def keys(self) -> Tensor:
        """int64 (len(records),): the key of every image, row by row; reads files whose records have no sha256."""
        keys = [
            self._dataset.key(row, self._dataset.data(row)) for row in range(len(self._dataset))
        ]
        return torch.tensor(keys, dtype=torch.int64)

    @property
    def labels(self) -> Tensor:
        """int64 (len(records),): the class index of every image, row by row; -1 without a label."""
        return torch.tensor(self._dataset.labels, dtype=torch.int64)

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(path, why) of every image that could not be read so far."""
        return sorted(self._unreadable.items())

    def add_unreadable(self, rows: Iterable[int], why: str) -> None:
        """Name images that turned out unreadable elsewhere, such as in another process."""
        for row in rows:
            self._unreadable.setdefault(self._dataset.paths[row], why)

    def forget_unreadable(self, rows: Iterable[int]) -> None:
        """Name images no longer that could be read when they were tried again."""
        for row in rows:
            self._unreadable.pop(self._dataset.paths[row], None)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.sampler.epoch = epoch

    def reader(self, rows: list[np.ndarray]) -> Iterator[Batch]:
        """Read given rows instead, one batch for each array of rows (fewer where images are unreadable)."""
        loader = DataLoader(
            self._dataset,
            batch_sampler=[list(map(int, part)) for part in rows],
            num_workers=self.workers if len(rows) > 4 else 0,
            collate_fn=_collate,
            pin_memory=self.pinned,
            generator=torch.Generator().manual_seed(0),
        )
        for batch, bad in loader:
            self._unreadable.update({self._dataset.paths[row]: why for row, why in bad})
            yield batch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self.shares() if len(batch.rows))

    def shares(self) -> Iterator[Batch]:
        """What can be read of this process's share of every batch of an epoch, maybe nothing."""
        self._loader.pin_memory, last = self.pinned, self._loader._iterator
        if last and not all(
            worker.is_alive() for worker in last._workers
        ):  # Ctrl-C ends them too: begin with new ones
            self._loader._iterator = None
        for batch, bad in self._loader:
            self._unreadable.update({self._dataset.paths[row]: why for row, why in bad})
            yield batch


def make(
    records: pd.DataFrame,
    root: str | Path,
    classes: list[str] | None = None,
    size: int = 224,
    resize: str = "squash",
    channels: int = 1,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    weights: np.ndarray | None = None,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """Make a loader over a table of records.

    Parameters
    ----------
    records : table with the columns path (relative to root) and label. Rows with a `problem` are left out.
    root : folder the paths start from.
    classes : class names in index order; None takes the sorted labels.
    size, resize, channels : see `read_image`.
    batch_size : images a batch, of all processes together. shuffle, seed : a new order each epoch, from (seed, epoch)
        alone.
    weights : (len(records),) how often a row is drawn, relative to the others; None draws each once.
    workers : reading processes; None chooses (see `default_workers`).
    rank, world : this process and how many there are.

    Raises
    ------
    ValueError where there is nothing to load or a label is not among the classes.

    Taught in notebook 02.
    """
    if "problem" in records:
        fine = (records["problem"].fillna("") == "").to_numpy()
        records, weights = records[fine], None if weights is None else weights[fine]
    if len(records) == 0:
        raise ValueError(
            f"there is no readable image to load from {root}; look at the records table and its splits"
        )
    classes = sorted(records["label"].unique()) if classes is None else list(classes)
    sampler = EpochSampler(len(records), batch_size, shuffle, seed, weights, rank, world)
    workers = default_workers(len(records)) if workers is None else workers
    return Loader(
        records.reset_index(drop=True),
        Path(root),
        classes,
        {"size": size, "resize": resize, "channels": channels},
        sampler,
        workers,
    )


def default_workers(n_images: int) -> int:
    """How many reading processes pay: one a core and eight at most beside a GPU, which computes meanwhile. Processes
    that torchrun started share the cores of their machine.

    None on a CPU: processes that read while it computes take its cores away from it, unevenly, so that a store fills
    with 21 images/s instead of 24.5 (2 cores); there all cores read a batch, then all compute. None for a few images
    either, where starting them costs more than they save (most of all on Windows and macOS, which start each from
    nothing).
    """
    beside = torch.cuda.is_available() or torch.backends.mps.is_available()
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(8, max(1, cores)) if beside and n_images >= 500 else 0
