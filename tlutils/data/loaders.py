"""From a table of records to batches of uint8 tensors.

Loaders only read, decode and resize; augmentation and normalization happen on the device
(`augment`). There is one reader and one resize for training, evaluation and prediction, so no path
can see other pixels than another. A file that cannot be read is left out and named, never an
exception in the middle of an epoch. `write_small` keeps what was read and resized.
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

from ..core.files import replacing
from ..core.images import UnreadableImage, content, read, state
from ..core.words import many
from .splits import is_readable

RESIZES = ("squash", "pad", "crop")


class Batch(NamedTuple):
    """What a loader yields.

    Parameters
    ----------
    images : uint8 Tensor (N, C, S, S)
    labels : int64 Tensor (N,), -1 where there is no label.
    keys : int64 Tensor (N,), see `image_key`.
    rows : int64 Tensor (N,), positions in the loader's records.
    """

    images: Tensor
    labels: Tensor
    keys: Tensor
    rows: Tensor


def image_key(sha256: str) -> int:
    """A number that tells an image from all others: the first 63 bits of its file's SHA-256.

    It does not depend on the machine, the file's name and folder, or the order of the table; files
    of the same bytes have the same key.

    Parameters
    ----------
    sha256 : str of hexadecimal digits.

    Returns
    -------
    int

    Examples
    --------
    >>> image_key("ff" * 32) == 2**63 - 1
    True
    """
    return int(sha256[:16], 16) >> 1


def read_image(
    path: str | Path,
    size: int = 224,
    resize: str = "squash",
    channels: int = 1,
    data: bytes | None = None,
    window: tuple[float, float] | None = None,
) -> Tensor:
    """Read one image file as the network will see it.

    Parameters
    ----------
    path, size, resize, channels, data, window
        As for `read_pixels`.

    Returns
    -------
    uint8 Tensor (channels, size, size)

    Raises
    ------
    ValueError, UnreadableImage
        As there.
    """
    return torch.from_numpy(read_pixels(path, size, resize, channels, data, window))


def read_pixels(
    path: str | Path,
    size: int = 224,
    resize: str = "squash",
    channels: int = 1,
    data: bytes | None = None,
    window: tuple[float, float] | None = None,
) -> np.ndarray:
    """Read one image file as `read_image` does, into an array.

    Parameters
    ----------
    path : str or Path of a JPEG, PNG, TIFF, BMP, DICOM; grey or color, 8, 16 or 32 bit.
    size : int, height and width of the result, in pixels.
    resize : str, how a picture of another shape becomes a square. "squash" resizes both sides,
        "pad" keeps the shape and fills with black, "crop" resizes the short side to 256/224 of
        `size` and keeps the middle, as the usual ImageNet evaluation does (and loses the sides of a
        wide scan).
    channels : int, 1 for grey, 3 for color.
    data : bytes of the file where they have been read already; None reads them.
    window : (low, high), values of deep grey that are shown black and white, see `images.read`.

    Returns
    -------
    uint8 ndarray (channels, size, size), upright as viewers show it. Without a window, grey images
        of more than 8 bits are scaled by their own minimum and maximum, and DICOM files shown in
        their own window.

    Raises
    ------
    ValueError
        For another resize or number of channels.
    UnreadableImage
        Where the file is missing, empty, damaged or no image (see `images.read`).
    """
    if resize not in RESIZES:
        raise ValueError(f"resize is {resize!r}; it is one of {', '.join(RESIZES)}")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}; it is 1 (grey) or 3 (color)")
    # A JPEG may decode straight to what still covers the target twice: 1.5 times as fast on 768x496
    # scans, and the resize still averages.
    image = read(path, "L" if channels == 1 else "RGB", (2 * size, 2 * size), data, window)
    pixels = np.array(_resized(image, size, resize), dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _resized(image: Image.Image, size: int, resize: str) -> Image.Image:
    # Pillow's bilinear averages when it shrinks, unlike a plain tensor resize
    bilinear = Image.Resampling.BILINEAR
    if resize == "squash":
        return image.resize((size, size), bilinear)
    short, long = min(image.size), max(image.size)
    scale = size / long if resize == "pad" else round(size * 256 / 224) / short
    width, height = (max(1, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if resize == "pad":  # beyond the picture, Pillow's crop fills with black
        middle = (left, top, left + size, top + size)
        return image.resize((width, height), bilinear).crop(middle)
    # crop first: all of a strip of 65,000 x 1 would be 4 GB
    across, down = image.width / width, image.height / height
    kept = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), bilinear, box=kept)


class _ImageDataset(Dataset):
    """The images of a table of records, as (uint8 tensor or None, label, key, row, why)."""

    def __init__(
        self,
        records: pd.DataFrame,
        root: str | Path,
        classes: list[str],
        **reading: object,
    ) -> None:
        self.paths = records["path"].astype(str).tolist()
        self.root, self.reading = str(root), reading
        self.labels = [_index(classes, label) for label in records["label"]]
        sha256 = records.get("sha256", pd.Series("", records.index))
        self.sha256 = sha256.fillna("").astype(str).tolist()

    def __len__(self) -> int:
        return len(self.paths)

    def data(self, row: int) -> bytes | None:
        """The bytes of a file whose SHA-256 is unknown, as they are needed twice; else None."""
        return None if self.sha256[row] else content(Path(self.root, self.paths[row]))

    def key(self, row: int, data: bytes | None) -> int:
        """The key of an image, given what `data` gave."""
        return image_key(self.sha256[row] if data is None else hashlib.sha256(data).hexdigest())

    def __getitem__(self, row: int) -> tuple[Tensor | None, int, int, int, str]:
        path = os.path.join(self.root, self.paths[row])
        try:
            data = self.data(row)
            image = read_image(path, data=data, **self.reading)
        except UnreadableImage as error:  # the path is told with the row
            return None, self.labels[row], -1, row, str(error).removeprefix(f"{path}: ")
        return image, self.labels[row], self.key(row, data), row, ""

    def __getitems__(self, rows: list[int]) -> list[tuple[Tensor | None, int, int, int, str]]:
        """A batch of them: by threads on all cores, or one by one in a worker, one of several."""
        run = map if get_worker_info() else _threads().map
        return list(run(self.__getitem__, rows))


def _own_cores() -> int:
    """The cores of this process, as those that torchrun starts share their machine's."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Pillow lets other threads run while it decodes and resizes."""
    return ThreadPoolExecutor(_own_cores())


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
    numbers = [torch.tensor([item[i] for item in good], dtype=torch.int64) for i in (1, 2, 3)]
    return Batch(images, *numbers), bad


class EpochSampler(Sampler[list[int]]):
    """The batches of an epoch as lists of rows, a pure function of (seed, epoch).

    So a resumed run goes on as it would have. The rows are divided into batches of nearly equal
    size, so no tiny last batch upsets BatchNorm or the loss.

    Parameters
    ----------
    n : int, rows.
    batch_size : int, images of all processes together; with several, each takes its share of every
        batch, so the batches are the same for any number of processes.
    shuffle : bool, whether each epoch has an order of its own.
    seed : int
    weights : float array (n,); rows are then drawn with replacement in proportion to them (a
        balanced sampler). None draws each once.
    rank, world : int, this process and how many there are.

    Raises
    ------
    ValueError
        Where a batch has fewer images than there are processes.
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
        self.n, self.batch_size, self.shuffle, self.seed = n, batch_size, shuffle, seed
        self.weights, self.rank, self.world, self.epoch = weights, rank, world, 0
        if n // len(self) < world:
            raise ValueError(
                f"batches of {many(n // len(self))} cannot be divided among {world} processes; "
                f"use a batch_size of at least {world} or fewer processes"
            )

    def batches(self) -> list[np.ndarray]:
        """The rows of each whole batch of this epoch, of all processes.

        Returns
        -------
        list of int arrays
        """
        draw = np.random.default_rng([self.seed, self.epoch])
        order = np.arange(self.n)
        if self.weights is not None:
            order = draw.choice(self.n, self.n, p=self.weights / self.weights.sum())
        elif self.shuffle:
            order = draw.permutation(self.n)
        return np.array_split(order, len(self))

    def __iter__(self) -> Iterator[list[int]]:
        return iter([batch[self.rank :: self.world].tolist() for batch in self.batches()])

    def __len__(self) -> int:
        return (self.n + self.batch_size - 1) // self.batch_size


class Loader:
    """An iterable of `Batch`; made by `make`, which checks what it is given.

    Its attribute `pinned` says whether batches lie in page-locked memory, from which a CUDA GPU
    copies while the host goes on; whoever computes on one turns it on.

    Parameters
    ----------
    records : DataFrame, the table the batches come from.
    root : Path, the folder from which paths start.
    classes : list of str, class names in index order.
    settings : dict with size, resize, channels and, where there is one, window, see `read_image`.
    sampler : EpochSampler
    workers : int, reading processes.
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
        self._dataset = _ImageDataset(records, root, classes, **settings)
        self._loader = DataLoader(
            self._dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_collate,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator().manual_seed(0),  # leaves the global stream alone
        )

    @property
    def labels(self) -> Tensor:
        """int64 (len(records),): the class index of every image, row by row; -1 without a label."""
        return torch.tensor(self._dataset.labels, dtype=torch.int64)

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """(path, why) of every image that could not be read so far."""
        return sorted(self._unreadable.items())

    def keys_of(self, rows: Iterable[int]) -> Tensor:
        """The keys of some images.

        Parameters
        ----------
        rows : int iterable, positions in the records.

        Returns
        -------
        int64 Tensor (len(rows),)
        """
        images = self._dataset
        keys = [images.key(int(row), images.data(int(row))) for row in rows]
        return torch.tensor(keys, dtype=torch.int64)

    def add_unreadable(self, rows: Iterable[int], why: str) -> None:
        """Name images that turned out unreadable elsewhere, such as in another process.

        Parameters
        ----------
        rows : int iterable, positions in the records.
        why : str
        """
        for row in rows:
            self._unreadable.setdefault(self._dataset.paths[row], why)

    def forget_unreadable(self, rows: Iterable[int]) -> None:
        """Name images no longer that could be read when they were tried again.

        Parameters
        ----------
        rows : int iterable, positions in the records.
        """
        for row in rows:
            self._unreadable.pop(self._dataset.paths[row], None)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass.

        Parameters
        ----------
        epoch : int
        """
        self.sampler.epoch = epoch

    def reader(self, rows: list[np.ndarray]) -> Iterator[Batch]:
        """Read given rows instead.

        Parameters
        ----------
        rows : list of int arrays

        Yields
        ------
        Batch, one for each array (of fewer images where some are unreadable).
        """
        loader = DataLoader(
            self._dataset,
            batch_sampler=[list(map(int, part)) for part in rows],
            num_workers=self.workers if len(rows) > 4 else 0,
            collate_fn=_collate,
            pin_memory=self.pinned,
            generator=torch.Generator().manual_seed(0),
        )
        yield from self._noted(loader)

    def _noted(self, loader: DataLoader) -> Iterator[Batch]:
        for batch, bad in loader:
            self._unreadable.update({self._dataset.paths[row]: why for row, why in bad})
            yield batch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self.shares() if len(batch.rows))

    def shares(self) -> Iterator[Batch]:
        """Read this process's share of every batch of an epoch.

        Yields
        ------
        Batch of what can be read, maybe nothing.
        """
        self._loader.pin_memory, last = self.pinned, self._loader._iterator
        # Ctrl-C ends the workers too: begin with new ones
        if last and not all(worker.is_alive() for worker in last._workers):
            self._loader._iterator = None
        yield from self._noted(self._loader)


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
    window: tuple[float, float] | None = None,
) -> Loader:
    """Make a loader over a table of records.

    Parameters
    ----------
    records : DataFrame with path and label. Rows with a `problem` are left out.
    root : str or Path, the folder from which paths start.
    classes : list of str, class names in index order; None takes the sorted labels.
    size, resize, channels : int and str, see `read_image`.
    batch_size : int, images a batch, of all processes together.
    shuffle : bool, whether each epoch has a new order, from (seed, epoch) alone.
    seed : int
    weights : float array (len(records),), how often a row is drawn, relative to the others; None
        draws each once.
    workers : int, reading processes; None chooses: one a core and eight at most beside a GPU, none
        elsewhere and for a few images.
    rank, world : int, this process and how many there are.
    window : (low, high), see `read_image`.

    Returns
    -------
    Loader

    Raises
    ------
    ValueError
        Where there is nothing to load or a label is not among the classes.
    """
    fine = is_readable(records).to_numpy()
    records, weights = records[fine], None if weights is None else weights[fine]
    if len(records) == 0:
        raise ValueError(
            f"there is no readable image to load from {root}; look at the records table and its "
            "splits"
        )
    classes = sorted(records["label"].unique()) if classes is None else list(classes)
    sampler = EpochSampler(len(records), batch_size, shuffle, seed, weights, rank, world)
    workers = _default_workers(len(records)) if workers is None else workers
    settings = {"size": size, "resize": resize, "channels": channels}
    if window is not None:  # else stores of before keep their keys
        settings["window"] = window
    records = records.reset_index(drop=True)
    return Loader(records, Path(root), classes, settings, sampler, workers)


def write_small(
    records: pd.DataFrame,
    root: str | Path,
    folder: str | Path,
    size: int = 224,
    resize: str = "squash",
    channels: int = 1,
    window: tuple[float, float] | None = None,
) -> Path:
    """Write the images as a network will see them, once for many trainings.

    Reading such a file takes a fraction of decoding and resizing the original; the pixels are the
    same. A file bears the time of its original: it stays while that has not changed.

    Parameters
    ----------
    records : DataFrame with path. Rows with a `problem` are left out.
    root : str or Path, the folder from which paths start.
    folder : str or Path, where they go, under the same paths; each is a PNG, whatever its name.
    size, resize, channels, window : int, str and two numbers, see `read_image`.

    Returns
    -------
    Path, of the folder: the new root for the same records, size and channels, with "squash", which
        leaves such squares as they are.

    Raises
    ------
    ValueError
        Where a path leads out of `root`, and so out of `folder`.
    UnreadableImage
        Where an image cannot be read.
    """
    good = records[is_readable(records)]
    name = "-".join(map(str, (size, resize, channels, *(window or ()))))
    folder, paths = Path(folder) / name, good["path"].astype(str).tolist()
    if out := [path for path in paths if Path(path).is_absolute() or ".." in Path(path).parts]:
        raise ValueError(f"{out[0]} does not lie below {root}; give as root a folder above all")

    def write_one(path: str) -> None:
        original, small = Path(root) / path, folder / path
        when = _time_of(original)
        if when is None or _time_of(small) != when:
            pixels = read_image(original, size, resize, channels, window=window)
            pixels = pixels.movedim(0, -1).numpy()
            picture = Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
            with replacing(small) as part:
                picture.save(part, "PNG")
                os.utime(part, ns=(when, when))

    list(_threads().map(write_one, paths))
    return folder


def _time_of(file: Path) -> int | None:
    """When a file was changed, in nanoseconds; None where there is none."""
    found = state(file)
    return found[1] if found else None


def _default_workers(n_images: int) -> int:
    """How many reading processes pay: beside a GPU, one a core up to eight.

    None on a CPU: processes that read while it computes take its cores away from it, unevenly, so
    that a store fills with 21 images/s instead of 24.5 (2 cores); there all cores read a batch,
    then all compute. None for a few images either, where starting them costs more than they save
    (most of all on Windows and macOS, which start each from nothing).
    """
    beside = torch.cuda.is_available() or torch.backends.mps.is_available()
    return min(8, _own_cores()) if beside and n_images >= 500 else 0
