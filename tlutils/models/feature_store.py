"""The frozen part of a network needs to run once per image: find it, run it, keep what it says.

`split` cuts a model after its longest leading part that is frozen and deterministic. `Store` keeps that part's
outputs in a file, one row per image and view, written in chunks with a completion map, so a killed run goes on
where it stopped. The store's name is a hash of everything its contents depend on, so a stale store is never used. What
another store of the same folder holds of the same image is copied: another division of the images, or some more of
them, costs only what is new.

Taught in notebook 03.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import mmap
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.features
import torch
import torchvision
from torch import Tensor, fx, nn

from ..core import files
from ..core.devices import Machine, barrier, broadcast, rank, world
from ..core.progress import bar
from ..data.augment import Augmentation, normalize, view
from ..data.loaders import Loader
from .prefix import eval_mode, fingerprint, ready

FORMAT = 3
HASH = "S32"
CHUNK = (
    64  # images: small enough to lose little when killed, large enough to fill a CPU's matrix units
)
CPU_PIXELS = 16 * 224**2  # at once on a CPU: VGG16 as fast as with 64, at a quarter of the memory
AWAY = 16  # images one after the other that cannot be read: it is the disk, not they
GOOD, BAD = (
    1,
    2,
)  # marks in the file `done`, one for each image and view: computed, or not to be read; 0: neither yet


@dataclass
class Store:
    """The outputs of a frozen prefix: a file of shape (views, images, *shape), read through memory mapping.

    Made by `open_store`. `fill(view)` computes what is missing; `read(view, rows)` gives the rows of a batch. Where
    the augmentation is the identity, all views are view 0.

    Attributes
    ----------
    folder : where it lies. images : one hash for each image, of what its features depend on. shape : of one image's
    features. dtype : of the numbers kept. description : all that the contents depend on.
    seconds : time spent filling so far, in this process. computed, copied : how many images that took.
    """

    folder: Path
    images: np.ndarray
    loader: Loader
    run_prefix: Callable[[Tensor], Tensor]
    machine: Machine
    augmentation: Augmentation
    seed: int
    views: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    description: dict
    seconds: float = 0.0
    computed: int = 0
    copied: int = 0
    _maps: dict = field(default_factory=dict)
    _bad: dict[int, np.ndarray] = field(default_factory=dict)  # of each view that was filled here
    _tried: set[int] = field(default_factory=set)  # rows that could not be read, in this process

    @property
    def n(self) -> int:
        """How many images."""
        return len(self.loader.records)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's features."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def chunks(self) -> list[np.ndarray]:
        """The rows of each chunk."""
        return _chunks(np.arange(self.n))

    def marks(self) -> np.ndarray:
        """uint8 (views, images): GOOD, BAD or 0. A copy of the file's present state."""
        return np.fromfile(self.folder / "done", dtype=np.uint8).reshape(self.views, self.n)

    def done(self) -> np.ndarray:
        """bool array (views, chunks): which chunks are complete. A copy of the file's present state."""
        return np.minimum.reduceat(self.marks(), np.arange(0, self.n, CHUNK), axis=1) > 0

    def fill(self, view_number: int, show: bool | None = None) -> bool:
        """Compute the missing rows of a view; with several processes each does its share.

        Returns whether anything was missing. Images that turn out unreadable are named in `loader.unreadable`; `bad`
        lists their rows, `read` gives NaN for them. They are tried again once each time the store is opened.

        Raises
        ------
        OSError where the disk is full, or so many images cannot be read that theirs must be away; what is complete is
        kept. RuntimeError where rows are missing after all.
        """
        view_number = self._view(view_number)
        missing = broadcast(
            self._missing(view_number)
        )  # as one process sees it: other runs may be writing
        if len(missing):
            self._fill(missing, view_number, show)
        marks = self.marks()[view_number]
        if not marks.all():
            raise RuntimeError(
                f"the feature store {self.folder} lacks {(marks == 0).sum()} of {self.n} images after "
                "it was filled; all processes must see one folder (--store DIR), or train without a "
                "store (--store none)"
            )
        self._bad[view_number] = bad = broadcast(np.flatnonzero(marks == BAD))
        self._tried.update(np.intersect1d(missing, bad).tolist())
        self.loader.forget_unreadable(np.setdiff1d(missing, bad))
        self.loader.add_unreadable(bad, "could not be read when its features were computed")
        return len(missing) > 0

    def _view(self, view_number: int) -> int:
        return 0 if self.augmentation.identity else view_number

    def _missing(self, view_number: int) -> np.ndarray:
        """The rows to compute or to copy: those without a mark, and unreadable ones not yet tried in this process."""
        marks = self.marks()[view_number]
        marks[[row for row in np.flatnonzero(marks == BAD) if row not in self._tried]] = 0
        return np.flatnonzero(marks == 0)

    def _fill(self, missing: np.ndarray, view_number: int, show: bool | None) -> None:
        started, there = time.perf_counter(), self.elsewhere(view_number)
        mine = np.concatenate([missing[:0], *_chunks(missing)[rank() :: world()]])
        known = np.array([row in there for row in mine], dtype=bool)
        what = f"frozen part, view {view_number + 1} of {self.views}"
        with bar(what=what, total=len(mine), show=show if rank() == 0 else False) as progress:
            for rows in _chunks(mine[known]):
                values = torch.from_numpy(
                    np.stack([held[row] for held, row in map(there.get, rows)])
                ).view(self.dtype)
                self._write(view_number, rows, values)
                self.copied += len(rows)
                progress.update(len(rows))
            for asked, rows, values in self._compute(_chunks(mine[~known]), view_number):
                if len(rows) < len(asked):
                    self._leave_out(view_number, asked, np.setdiff1d(asked, rows))
                self._write(view_number, rows, values)
                self.computed += len(rows)
                progress.update(len(asked))
        barrier()
        self.seconds += time.perf_counter() - started

    def _compute(
        self, parts: list[np.ndarray], view_number: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
        """Of each array of rows: itself, those of them that can be read, and their features."""
        for asked, batch in zip(parts, self.loader.reader(parts)):
            values = torch.empty((0, *self.shape), dtype=self.dtype)
            if len(batch.rows):
                images = batch.images.to(
                    self.machine.device, non_blocking=self.machine.non_blocking
                )
                images = view(images, batch.keys, view_number, self.seed, self.augmentation)
                values = self.run_prefix(images).to("cpu", self.dtype)
            yield asked, batch.rows.numpy(), values

    def _leave_out(self, view_number: int, asked: np.ndarray, bad: np.ndarray) -> None:
        """Mark images that cannot be read, unless it is plain that they are not to blame."""
        new = bad[self.marks()[view_number][bad] == 0]
        if len(bad) == len(asked) and len(new) >= min(self.n, AWAY):
            path = self.loader.records["path"][asked[0]]
            raise OSError(
                f"none of {len(asked)} images in {self.loader.root} could be read, e.g. {path} "
                f"({dict(self.loader.unreadable)[path]}). If the disk is away, bring it back and run the "
                f"same command again: what is complete in the feature store {self.folder} is kept. If the "
                "files are damaged, take them out of the records (records.inspect finds them)"
            )
        self._mark(view_number, new, BAD)

    def to_copy(self, view_number: int) -> int:
        """How many images' features of a view need no computing, as another store holds them."""
        missing = self._missing(self._view(view_number))
        there = self.elsewhere(view_number) if len(missing) else {}
        return sum(row in there for row in missing.tolist())

    def elsewhere(self, view_number: int) -> dict[int, tuple[np.ndarray, int]]:
        """Which images' features of a view other stores of this folder hold: row -> (their array, row in it).

        Those stores differ from this one in their images and number of views, in nothing else. What cannot be read in
        them is none of theirs to give; damaged ones are passed over with a warning.
        """
        view_number, found = self._view(view_number), {}
        for other in sorted(self.folder.parent.glob("*/store.json")):
            if other.parent == self.folder:
                continue
            try:
                theirs = json.loads(other.read_text(encoding="utf-8"))
                if not _same_but_for_images(self.description, theirs):
                    continue
                images = np.fromfile(other.with_name("images"), HASH)
                if hashlib.sha256(images.tobytes()).hexdigest() != theirs.get("images"):
                    raise ValueError("images are not those of store.json")
                marks = np.fromfile(other.with_name("done"), np.uint8).reshape(-1, len(images))
                held = _numbers(other.with_name("features"), self.dtype).reshape(
                    *marks.shape, *self.shape
                )
            except (OSError, ValueError) as error:
                warnings.warn(
                    f"passed over the feature store {other.parent}, which is damaged ({error}); remove it",
                    stacklevel=2,
                )
                continue
            if view_number < len(marks):
                good = np.flatnonzero(marks[view_number] == GOOD)
                where = dict(zip(images[good].tolist(), good.tolist()))
                found |= {
                    row: (held[view_number], where[image])
                    for row, image in enumerate(self.images.tolist())
                    if image in where
                }
        return found

    def _write(self, view_number: int, rows: np.ndarray, values: Tensor) -> None:
        """The data first, then the marks: a row that is marked is whole."""
        with _telling_of_the_disk(self.folder):
            with open(self.folder / "features", "r+b") as file:
                for run in _runs(rows):
                    file.seek((view_number * self.n + int(rows[run[0]])) * self.row_bytes)
                    file.write(values[run].contiguous().view(torch.uint8).numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
        self._mark(view_number, rows, GOOD)

    def _mark(self, view_number: int, rows: np.ndarray, mark: int) -> None:
        with _telling_of_the_disk(self.folder), open(self.folder / "done", "r+b") as file:
            for run in _runs(rows):
                file.seek(view_number * self.n + int(rows[run[0]]))
                file.write(bytes([mark]) * len(run))

    def _map(self) -> np.ndarray:
        if "array" not in self._maps:
            numbers = _numbers(self.folder / "features", self.dtype)
            self._maps["mmap"] = numbers._mmap
            self._maps["array"] = numbers.reshape(self.views, self.n, *self.shape)
        return self._maps["array"]

    def read(self, view_number: int, rows: np.ndarray) -> Tensor:
        """The features of some images: tensor (len(rows), *shape) of `dtype`, on the CPU; NaN for unreadable ones.

        Raises RuntimeError for a view that `fill` has not seen to.
        """
        view_number = self._view(view_number)
        if view_number not in self._bad:
            raise RuntimeError(
                f"view {view_number} of the feature store {self.folder} may lack rows; call "
                f"fill({view_number}) first"
            )
        values = torch.from_numpy(self._map()[view_number][rows]).view(self.dtype)
        values[torch.from_numpy(np.isin(rows, self._bad[view_number]))] = float("nan")
        return values

    def bad(self, view_number: int | None = None) -> np.ndarray:
        """The rows of images that could not be read in a view; None asks of all views that are complete.

        Of a view filled by this object it says what `fill` found, in all processes the same.
        """
        marks = self.marks()
        for filled, rows in self._bad.items():
            marks[filled] = GOOD
            marks[filled, rows] = BAD
        chosen = marks[marks.all(1)] if view_number is None else marks[[self._view(view_number)]]
        return np.flatnonzero((chosen == BAD).any(0))

    def forget_pages(self) -> None:
        """Tell the system that pages of the file may go: a store larger than memory stays out of it."""
        if "mmap" in self._maps and hasattr(mmap, "MADV_DONTNEED"):
            self._maps["mmap"].madvise(mmap.MADV_DONTNEED)


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK)]


def _runs(rows: np.ndarray) -> list[np.ndarray]:
    """Where in `rows` one follows upon the other: arrays of positions, each to be written in one go."""
    return (
        np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
    )


@contextlib.contextmanager
def _telling_of_the_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"could not write the feature store {folder}: {error}. What is complete there is kept; "
            "free disk space and run the same command again, or train without a store "
            "(store=None, on the command line --store none)"
        ) from error


def open_store(
    folder: str | Path,
    prefix: fx.GraphModule,
    loader: Loader,
    machine: Machine,
    augmentation: Augmentation = Augmentation(),
    views: int = 1,
    seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    compiled: bool = False,
) -> Store:
    """Open the store of (prefix, images, views), or begin it.

    Parameters
    ----------
    folder : where stores lie, each in a folder named by its key; runs may share it.
    prefix : what `split` found. loader : whose images (in row order) the store is about.
    views, seed, augmentation : see `augment.view`; the identity is the classic feature cache, with one view.
    mean, std : normalization; None takes ImageNet's.
    compiled : whether to run the prefix through torch.compile (measure it: on 2 CPU cores it gained nothing).

    Raises
    ------
    OSError where the disk has too little room, before anything is written.

    Taught in notebook 03.
    """
    numbers = {} if mean is None else {"mean": tuple(mean), "std": tuple(std)}
    size = loader.settings["size"]
    at_once = min(CHUNK, max(1, CPU_PIXELS // size**2)) if machine.device.type == "cpu" else CHUNK

    @functools.cache
    def body() -> (
        nn.Module
    ):  # made when there is something to compute: the copy of VGG16's takes a second
        fast = ready(prefix, machine)
        return torch.compile(fast) if compiled else fast

    @torch.inference_mode()
    def run_prefix(images: Tensor) -> Tensor:
        """In parts of one size, the last one padded: a GPU times its kernels once, and on a CPU an image's numbers are
        the same whatever comes with it."""
        whole = images[
            torch.arange(-(-len(images) // at_once) * at_once).clamp(max=len(images) - 1)
        ]
        with machine.autocast():
            return torch.cat(
                [body()(machine.place(normalize(part, **numbers))) for part in whole.split(at_once)]
            )[: len(images)]

    shape, views = _shape(prefix, size), 1 if augmentation.identity else views
    images = broadcast(
        _image_hashes(loader) if rank() == 0 else None
    )  # one look at the files: they may change
    description = broadcast(
        _describe(
            prefix, loader, machine, augmentation, views, seed, numbers, shape, images, compiled
        )
        if rank() == 0
        else None
    )
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:24]
    store = Store(
        Path(folder) / key,
        images,
        loader,
        run_prefix,
        machine,
        augmentation,
        seed,
        views,
        shape,
        machine.dtype,
        description,
    )
    if rank() == 0:
        _begin(store)
    barrier()
    return store


def _shape(prefix: nn.Module, size: int) -> tuple[int, ...]:
    """The shape of one image's features, found without computing them."""
    on_meta = {
        name: value.to("meta")
        for name, value in [*prefix.named_parameters(), *prefix.named_buffers()]
    }
    images = torch.empty(2, 3, size, size, device="meta")
    with eval_mode(prefix):
        shape = torch.func.functional_call(prefix, on_meta, images).shape
    if shape[0] != 2:
        raise ValueError(
            f"the frozen part makes {tuple(shape)} of 2 images, not a row of each, which no store can "
            "keep; do without one (store=None, on the command line --store none)"
        )
    return tuple(shape[1:])


def _describe(
    prefix: fx.GraphModule,
    loader: Loader,
    machine: Machine,
    augmentation: Augmentation,
    views: int,
    seed: int,
    numbers: dict,
    shape: tuple[int, ...],
    images: np.ndarray,
    compiled: bool,
) -> dict:
    """Everything the contents depend on; a change of any of it makes another store."""
    told = {
        "format": FORMAT,
        "images": hashlib.sha256(images.tobytes()).hexdigest(),
        "reader": loader.settings,
        "augmentation": {} if augmentation.identity else {**vars(augmentation), "seed": seed},
        "views": views,
        "normalization": numbers,
        "prefix": fingerprint(prefix),
        "shape": shape,
        "device": machine.device.type,
        "precision": machine.precision,
        "fp32_products": _fp32_products(),
        "channels_last": machine.channels_last,
        "compiled": compiled,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "jpeg": [PIL.features.version(name) for name in ("jpg", "libjpeg_turbo")],
    }
    return json.loads(json.dumps(told))


def _fp32_products() -> list[str]:
    """How exactly torch multiplies in single precision (TF32 and the like), by its older and its newer names."""

    def said(read: Callable[[], object]) -> str:
        try:
            return str(read())
        except (
            AttributeError,
            RuntimeError,
        ):  # older than the setting; set by newer names, where older ones fail
            return ""

    backends = torch.backends
    return [
        said(read)
        for read in (
            torch.get_float32_matmul_precision,
            lambda: backends.cudnn.allow_tf32,
            lambda: backends.cuda.matmul.fp32_precision,
            lambda: backends.cudnn.conv.fp32_precision,
            lambda: backends.mkldnn.matmul.fp32_precision,
            lambda: backends.mkldnn.conv.fp32_precision,
        )
    ]


def _same_but_for_images(one: dict, other: object) -> bool:
    return isinstance(other, dict) and all(
        one.get(name) == other.get(name) for name in {*one, *other} - {"images", "views"}
    )


def _image_hashes(loader: Loader) -> np.ndarray:
    """Of each image, a hash of its content where the table has it, else of its place, size and time of change."""
    hashes, root = [], os.path.realpath(loader.root)
    known = loader.records.get("sha256", pd.Series("", loader.records.index)).fillna("").astype(str)
    for path, content in zip(loader.records["path"].astype(str), known):
        if not content:
            file = os.path.join(root, path)
            stat = os.stat(file) if os.path.exists(file) else None
            content = f"{file} {stat.st_size} {stat.st_mtime_ns}" if stat else f"{file} missing"
        hashes.append(hashlib.sha256(content.encode()).hexdigest()[:32].encode())
    return np.array(hashes, dtype=HASH)


def _numbers(path: Path, dtype: torch.dtype) -> np.memmap:
    """A file's numbers as words of the right length, through memory mapping."""
    return np.memmap(path, np.uint16 if dtype.itemsize == 2 else np.uint32, "r")


def _begin(store: Store) -> None:
    """Make the files at full length (sparse), each by one atomic step, so that two runs may begin at once."""
    store.folder.mkdir(parents=True, exist_ok=True)
    lengths = {"features": store.views * store.n * store.row_bytes, "done": store.views * store.n}
    if why := _damage(store.folder, lengths):
        warnings.warn(
            f"the feature store {store.folder} is damaged ({why}), so it is computed anew",
            stacklevel=3,
        )
        for name in lengths:  # new files: a run that has the old ones open goes on with those
            (store.folder / name).unlink(missing_ok=True)
    if (
        not (store.folder / "features").exists()
        and lengths["features"] > shutil.disk_usage(store.folder).free - 2**26
    ):
        free = shutil.disk_usage(store.folder.parent).free
        with contextlib.suppress(OSError):  # there is something else in it
            store.folder.rmdir()
        raise OSError(
            f"the feature store in {store.folder.parent} needs {lengths['features'] / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; free disk space, choose another folder (--store DIR), fewer "
            "views, or train without a store (--store none)"
        )
    for name, length in lengths.items():
        _begin_file(store.folder / name, length)
    with files.replacing(store.folder / "images") as part:
        part.write_bytes(store.images.tobytes())
    files.write_text(store.folder / "store.json", json.dumps(store.description, indent=1))


def _damage(folder: Path, lengths: dict[str, int]) -> str:
    """Why a store's files cannot be what was written there; "" where they can, or are not there yet."""
    sizes = {
        name: (folder / name).stat().st_size if (folder / name).exists() else 0 for name in lengths
    }
    if wrong := [name for name in lengths if sizes[name] not in (0, lengths[name])]:
        return f"{wrong[0]} has {sizes[wrong[0]]:,} bytes instead of {lengths[wrong[0]]:,}"
    marks = np.fromfile(folder / "done", np.uint8) if sizes["done"] else np.zeros(1, np.uint8)
    if marks.max() > BAD or (marks.any() and not sizes["features"]):
        return "its marks are not its own"
    return ""


def _begin_file(path: Path, length: int) -> None:
    try:
        with open(path, "xb") as file:
            file.truncate(length)
    except FileExistsError:
        with open(path, "r+b") as file:
            file.truncate(
                length
            )  # begun by a run that died between the two steps; the same length otherwise
