"""What the frozen part of a network makes of each image, computed once and kept in a file.

A `Store` has one row per image and view, and a mark for each that is complete, so a killed run goes
on where it stopped. The store's name is a hash of everything its contents depend on, so a stale
store is never used. What another store of the same folder holds of the same image is copied:
another division of the images, or some more of them, costs only what is new.
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.features
import torch
from torch import Tensor, fx, nn

from ..core import files
from ..core.devices import Machine, barrier, broadcast, by_first, gather, rank, world
from ..core.images import state
from ..core.progress import bar
from ..data.augment import AS_IT_IS, Views, normalize
from ..data.loaders import Loader
from .prefix import eval_mode, fingerprint, ready

CHUNK_ROWS = 64  # small enough to lose little when killed, large enough to fill a CPU's units
GOOD, BAD = 1, 2  # marks in the file `done`: computed, or not to be read; 0 is neither yet
_FORMAT = 3
_IMAGE_HASH = np.dtype("S32")
_CPU_PIXELS = 16 * 224**2  # at once: VGG16 as fast as with 64 images, at a quarter of the memory
_UNREADABLE_IN_A_ROW = 16  # then it is the disk, not they
_SPARE_BYTES = 2**26  # that a disk is to have beyond a new store
_SHAPES: dict[tuple[str, int], tuple[int, ...]] = {}  # of a prefix's outputs, by its hash and size
_COMPILED: dict[tuple, nn.Module] = {}  # the latest prefix, for all the stores that a run opens


@dataclass
class Store:
    """The outputs of a frozen prefix: a file (views, images, *shape), read by memory mapping.

    Made by `open_store`. `fill` computes what is missing; `read` gives the rows of a batch. Where
    the augmentation is the identity, all views are view 0.

    Parameters
    ----------
    folder : Path, where it lies
    images : ndarray of bytes (n,), of each image a hash of what its features depend on
    loader : Loader, of the images
    run_prefix : Callable, from uint8 images to features
    machine : Machine
    augmentation, seed, views : Views and int, see `open_store`
    shape : tuple of int, of one image's features
    description : dict, all that the contents depend on

    Attributes
    ----------
    seconds : float, spent filling so far, in this process
    computed, copied : int, how many images that took
    """

    folder: Path
    images: np.ndarray
    loader: Loader
    run_prefix: Callable[[Tensor], Tensor]
    machine: Machine
    augmentation: Views
    seed: int
    views: int
    shape: tuple[int, ...]
    description: dict
    seconds: float = field(default=0.0, init=False)
    computed: int = field(default=0, init=False)
    copied: int = field(default=0, init=False)
    _bad: dict[int, np.ndarray] = field(default_factory=dict, init=False)  # of each filled view
    _tried: set[int] = field(default_factory=set, init=False)  # unreadable rows, in this process

    @property
    def n(self) -> int:
        """How many images."""
        return len(self.images)

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers kept."""
        return self.machine.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's features."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def chunks(self) -> list[np.ndarray]:
        """The rows of each chunk.

        Returns
        -------
        list of ndarray of int
        """
        return _chunks(np.arange(self.n))

    def marks(self) -> np.ndarray:
        """What is complete, at present.

        Returns
        -------
        ndarray, uint8 (views, images): GOOD, BAD or 0
        """
        return np.fromfile(self.folder / "done", np.uint8).reshape(self.views, self.n)

    def fill(self, view_number: int, show: bool | None = None) -> bool:
        """Compute the missing rows of a view; with several processes each does its share.

        Images that turn out unreadable are named in `loader.unreadable`; `bad` lists their rows,
        `read` gives NaN for them. They are tried again once each time the store is opened.

        Parameters
        ----------
        view_number : int
        show : bool, progress bar or not; None where a person watches

        Returns
        -------
        bool, whether anything was missing

        Raises
        ------
        OSError
            Where the disk is full, or so many images cannot be read that theirs must be away; what
            is complete is kept.
        RuntimeError
            Where rows are missing after all.
        """
        number = self._view(view_number)
        missing = broadcast(self._missing(number))  # as one process sees it: other runs may write
        if len(missing):
            self._fill(missing, number, show)
        marks = self.marks()[number]
        if not marks.all():
            raise RuntimeError(
                f"the feature store {self.folder} lacks {(marks == 0).sum()} of {self.n} images "
                "after it was filled; all processes must see one folder (--store DIR), or train "
                "without a store (--store none)"
            )
        self._bad[number] = bad = broadcast(np.flatnonzero(marks == BAD))
        self._tried.update(np.intersect1d(missing, bad).tolist())
        self.loader.forget_unreadable(np.setdiff1d(missing, self.bad()))
        self.loader.add_unreadable(bad, "could not be read when its features were computed")
        return len(missing) > 0

    def fill_chunks(self, view_number: int, chunks: Iterable[int]) -> None:
        """Compute what is missing of some chunks of a view, while others see to the others.

        They may be processes that know nothing of each other, on any machines that see the folder.
        `fill` must follow before this object reads: it computes what nobody has.

        Parameters
        ----------
        view_number : int
        chunks : iterable of int, positions in `chunks()`

        Raises
        ------
        OSError
            As `fill`.
        RuntimeError
            Under torchrun.
        IndexError
            For a chunk that there is not.
        """
        if world() > 1:
            raise RuntimeError(
                "fill_chunks is for processes that know nothing of each other; those of torchrun "
                "all call fill, which shares the work out"
            )
        number, every = self._view(view_number), self.chunks()
        wanted = np.concatenate([every[0][:0], *(every[int(chunk)] for chunk in chunks)])
        missing = np.intersect1d(self._missing(number), wanted)
        if len(missing):
            self._fill(missing, number, show=False)
            self._tried.update(missing[self.marks()[number][missing] == BAD].tolist())

    def read(self, view_number: int, rows: np.ndarray) -> Tensor:
        """The features of some images, of a view that was filled.

        Parameters
        ----------
        view_number : int
        rows : ndarray of int

        Returns
        -------
        Tensor (len(rows), *shape) of `dtype`, on the CPU; NaN for unreadable images

        Raises
        ------
        RuntimeError
            For a view that `fill` has not seen to.
        """
        number, bad = self._view(view_number), self.bad(view_number)
        values = torch.from_numpy(self._features[number][rows]).view(self.dtype)
        values[torch.from_numpy(np.isin(rows, bad))] = float("nan")
        return values

    def bad(self, view_number: int | None = None) -> np.ndarray:
        """The rows of images that could not be read, in one view or in any that is complete.

        Of a view that this object filled it is what `fill` found, in all processes the same.

        Parameters
        ----------
        view_number : int, of a view that this object filled; None takes all that are complete

        Returns
        -------
        ndarray of int

        Raises
        ------
        RuntimeError
            For a view that `fill` has not seen to.
        """
        if view_number is not None:
            number = self._view(view_number)
            if number not in self._bad:
                raise RuntimeError(
                    f"view {number} of the feature store {self.folder} may lack rows; call "
                    f"fill({number}) first"
                )
            return self._bad[number]
        marks = self.marks()
        for number, rows in self._bad.items():
            marks[number] = GOOD
            marks[number, rows] = BAD
        return np.flatnonzero((marks[marks.all(1)] == BAD).any(0))

    def lacking(self, views: int) -> tuple[int, int]:
        """How many rows this store lacks, begun or not: to be copied from others, and computed.

        Parameters
        ----------
        views : int, of the first so many views

        Returns
        -------
        int, those that another store of the folder holds
        int, those that none does
        """
        copied = computed = 0
        for number in range(min(views, self.views)):
            missing = np.arange(self.n)
            with contextlib.suppress(OSError, ValueError):  # not begun, or damaged
                missing = self._missing(number)
            there = self._elsewhere(number) if len(missing) else {}
            known = sum(row in there for row in missing.tolist())
            copied, computed = copied + known, computed + len(missing) - known
        return copied, computed

    def compiles(self) -> bool:
        """Whether torch can compile the prefix; where not, a warning says why.

        Returns
        -------
        bool
        """
        size = self.loader.settings["size"]
        try:
            self.run_prefix(torch.zeros(1, 1, size, size, dtype=torch.uint8))
        except Exception as error:  # of many kinds: no compiler, one that fails, an unknown layer
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"the frozen part runs as it is, not compiled ({why})", stacklevel=4)
            return False
        return True

    def forget_pages(self) -> None:
        """Let pages of the file go: a store larger than memory stays out of it."""
        if "_features" in vars(self) and hasattr(mmap, "MADV_DONTNEED"):
            self._features._mmap.madvise(mmap.MADV_DONTNEED)

    @functools.cached_property
    def _features(self) -> np.ndarray:
        numbers = _numbers(self.folder / "features", self.dtype)
        return numbers.reshape(self.views, self.n, *self.shape)

    def _view(self, view_number: int) -> int:
        return 0 if self.augmentation.identity else view_number

    def _missing(self, number: int) -> np.ndarray:
        """Rows without a mark, and unreadable ones that were not yet tried in this process."""
        marks = self.marks()[number]
        marks[np.setdiff1d(np.flatnonzero(marks == BAD), list(self._tried))] = 0
        return np.flatnonzero(marks == 0)

    def _fill(self, missing: np.ndarray, number: int, show: bool | None) -> None:
        started, there = time.perf_counter(), self._elsewhere(number)
        mine = np.concatenate([missing[:0], *_chunks(missing)[rank() :: world()]])
        known = np.array([row in there for row in mine], dtype=bool)
        what = f"frozen part, view {number + 1} of {self.views}"
        with bar(what=what, total=len(mine), show=show if rank() == 0 else False) as progress:
            for rows in _chunks(mine[known]):
                values = np.stack([held[row] for held, row in map(there.get, rows)])
                self._write(number, rows, torch.from_numpy(values).view(self.dtype))
                self.copied += len(rows)
                progress.update(len(rows))
            for wanted, rows, values in self._compute(_chunks(mine[~known]), number):
                if len(rows) < len(wanted):
                    self._leave_out(number, wanted, np.setdiff1d(wanted, rows))
                self._write(number, rows, values)
                self.computed += len(rows)
                progress.update(len(wanted))
        barrier()
        self.seconds += time.perf_counter() - started

    def _compute(
        self, parts: list[np.ndarray], number: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
        """Of each array of rows: itself, those of them that can be read, and their features."""
        device, running = self.machine.device, self.machine.non_blocking
        for wanted, batch in zip(parts, self.loader.reader(parts)):
            values = torch.empty((0, *self.shape), dtype=self.dtype)
            if len(batch.rows):
                images = batch.images.to(device, non_blocking=running)
                images = self.augmentation.view(images, batch.keys, number, self.seed)
                values = self.run_prefix(images).to("cpu", self.dtype)
            yield wanted, batch.rows.numpy(), values

    def _leave_out(self, number: int, wanted: np.ndarray, bad: np.ndarray) -> None:
        """Mark images that cannot be read, unless it is plain that they are not to blame."""
        new = bad[self.marks()[number][bad] == 0]
        if len(bad) == len(wanted) and len(new) >= min(self.n, _UNREADABLE_IN_A_ROW):
            path = self.loader.records["path"][wanted[0]]
            raise OSError(
                f"none of {len(wanted)} images in {self.loader.root} could be read, e.g. {path} "
                f"({dict(self.loader.unreadable)[path]}). If the disk is away, bring it back and "
                "run the same command again: what is complete in the feature store "
                f"{self.folder} is kept. If the files are damaged, take them out of the records "
                "(records.inspect finds them)"
            )
        self._mark(number, new, BAD)

    def _elsewhere(self, number: int) -> dict[int, tuple[np.ndarray, int]]:
        """Which images' features other stores of this folder hold: row -> (their array, its row).

        Those differ from this one in their images and number of views, in nothing else. What cannot
        be read in them is none of theirs to give; damaged ones are passed over with a warning.
        """
        found = {}
        for other in sorted(self.folder.parent.glob("*/store.json")):
            try:
                if other.parent == self.folder or not self._is_alike(other):
                    continue
                images, marks, held = self._contents(other.parent)
            except (OSError, ValueError) as error:
                warnings.warn(
                    f"passed over the feature store {other.parent}, which is damaged ({error}); "
                    "remove it",
                    stacklevel=2,
                )
                continue
            if number < len(marks):
                good = np.flatnonzero(marks[number] == GOOD)
                row_of = dict(zip(images[good].tolist(), good.tolist()))
                for row, image in enumerate(self.images.tolist()):
                    if image in row_of:
                        found[row] = held[number], row_of[image]
        return found

    def _is_alike(self, other: Path) -> bool:
        """Whether a store's contents depend on the same, but for which images and views it has."""
        ours, theirs = self.description, json.loads(other.read_text(encoding="utf-8"))
        names = {*ours, *theirs} - {"images", "views"} if isinstance(theirs, dict) else ()
        return bool(names) and all(ours.get(name) == theirs.get(name) for name in names)

    def _contents(self, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The images, marks and features of another store, which raise where it is damaged."""
        images = np.fromfile(folder / "images", _IMAGE_HASH)
        expected = json.loads((folder / "store.json").read_text(encoding="utf-8")).get("images")
        if hashlib.sha256(images.tobytes()).hexdigest() != expected:
            raise ValueError("images are not those of store.json")
        marks = np.fromfile(folder / "done", np.uint8).reshape(-1, len(images))
        held = _numbers(folder / "features", self.dtype)
        return images, marks, held.reshape(*marks.shape, *self.shape)

    def _write(self, number: int, rows: np.ndarray, values: Tensor) -> None:
        """The data first, then the marks: a row that is marked is whole."""
        with _naming_the_store(self.folder), open(self.folder / "features", "r+b") as file:
            for run in _runs(rows):
                file.seek((number * self.n + int(rows[run[0]])) * self.row_bytes)
                file.write(values[run].contiguous().view(torch.uint8).numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._mark(number, rows, GOOD)

    def _mark(self, number: int, rows: np.ndarray, mark: int) -> None:
        with _naming_the_store(self.folder), open(self.folder / "done", "r+b") as file:
            for run in _runs(rows):
                file.seek(number * self.n + int(rows[run[0]]))
                file.write(bytes([mark]) * len(run))


def open_store(
    folder: str | Path,
    prefix: fx.GraphModule,
    loader: Loader,
    machine: Machine,
    augmentation: Views = AS_IT_IS,
    views: int = 1,
    seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    begin: bool = True,
) -> Store:
    """Open the store of (prefix, images, views), or begin it.

    It is that of the prefix as it is where a CPU is to compile it, but cannot, for what is missing.

    Parameters
    ----------
    folder : str or Path, where stores lie, each in a folder named by its key; runs may share it
    prefix : fx.GraphModule, see `prefix.split`
    loader : Loader, whose images (in row order) the store is about
    machine : Machine
    augmentation : Views, such as an Augmentation; the identity is the classic feature cache, with
        one view
    views : int, how many
    seed : int, of the views
    mean, std : tuple of float, normalization; None takes ImageNet's
    begin : bool, False makes no files, to learn what it is `lacking` and how fast

    Returns
    -------
    Store

    Raises
    ------
    OSError
        Where the disk has too little room, before anything is written.
    ValueError
        Where the prefix does not make a row of each image.
    """
    numbers = {} if mean is None else {"mean": tuple(mean), "std": tuple(std)}
    size, views = loader.settings["size"], 1 if augmentation.identity else views
    images, description, known = None, None, by_first(lambda: fingerprint(prefix))
    if (known, size) not in _SHAPES:  # a training opens half a dozen stores of one prefix
        _SHAPES[known, size] = _shape(prefix, size)
    shape = _SHAPES[known, size]
    if rank() == 0:  # one look at the files: they may change
        images = _image_hashes(loader)
        # Under the names that stores have had from the first; others would make other keys.
        reader = {"fit" if name == "resize" else name: v for name, v in loader.settings.items()}
        description = {
            "images": hashlib.sha256(images.tobytes()).hexdigest(),
            "reader": reader,
            "augmentation": {} if augmentation.identity else {**vars(augmentation), "seed": seed},
            "views": views,
            "normalisation": numbers,
            "prefix": known,
            "shape": shape,
            "compiled": machine.compiled,
            **_surroundings(machine),
        }
        description = json.loads(json.dumps(description))
    images, description = broadcast(images), broadcast(description)
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:24]
    store = Store(
        Path(folder) / key,
        images,
        loader,
        _runner(prefix, machine, size, numbers),
        machine,
        augmentation,
        seed,
        views,
        shape,
        description,
    )
    if not begin:
        return store
    on_cpu = machine.compiled and machine.device.type == "cpu"
    wanted = on_cpu and by_first(lambda: store.lacking(views)[1])
    # First one process: torch keeps the work in files, for the others of its machine.
    if wanted and not (by_first(store.compiles) and all(gather(rank() == 0 or store.compiles()))):
        plain = replace(machine, compiled=False)
        return open_store(folder, prefix, loader, plain, augmentation, views, seed, mean, std)
    if rank() == 0:
        _begin(store)
    barrier()
    return store


def rows_at_once(size: int, machine: Machine) -> int:
    """How many images go through a frozen part at once.

    Parameters
    ----------
    size : int, pixels a side
    machine : Machine

    Returns
    -------
    int
    """
    fitting = max(1, _CPU_PIXELS // size**2)
    return min(CHUNK_ROWS, fitting) if machine.device.type == "cpu" else CHUNK_ROWS


def _runner(
    prefix: fx.GraphModule, machine: Machine, size: int, numbers: dict
) -> Callable[[Tensor], Tensor]:
    """From uint8 images to features, in parts of one size, the last one padded.

    So a GPU times its kernels once, and on a CPU an image's numbers are the same whatever comes
    with it.
    """
    at_once = rows_at_once(size, machine)

    @functools.cache
    def body() -> nn.Module:  # when there is something to compute: VGG16's copy takes a second
        if not machine.compiled:
            return ready(prefix, machine)
        key = fingerprint(prefix), size, machine.device, machine.precision, machine.channels_last
        if key not in _COMPILED:
            _COMPILED.clear()
            _COMPILED[key] = torch.compile(ready(prefix, machine))
        return _COMPILED[key]

    @torch.inference_mode()
    def run_prefix(images: Tensor) -> Tensor:
        padded = torch.arange(-(-len(images) // at_once) * at_once).clamp(max=len(images) - 1)
        with machine.autocast():
            parts = [
                body()(machine.place(normalize(part, **numbers)))
                for part in images[padded].split(at_once)
            ]
            return torch.cat(parts)[: len(images)]

    return run_prefix


def _shape(prefix: nn.Module, size: int) -> tuple[int, ...]:
    """The shape of one image's features, found without computing them."""
    tensors = [*prefix.named_parameters(), *prefix.named_buffers()]
    on_meta = {name: value.to("meta") for name, value in tensors}
    images = torch.empty(2, 3, size, size, device="meta")
    with eval_mode(prefix):
        shape = torch.func.functional_call(prefix, on_meta, images).shape
    if shape[0] != 2:
        raise ValueError(
            f"the frozen part makes {tuple(shape)} of 2 images, not a row of each, which no store "
            "can keep; do without one (store=None, on the command line --store none)"
        )
    return tuple(shape[1:])


def _surroundings(machine: Machine) -> dict:
    """What the numbers depend on beside images and prefix."""
    import torchvision

    return {
        "format": _FORMAT,
        "device": machine.device.type,
        "precision": machine.precision,
        "fp32_products": _fp32_products(),
        "channels_last": machine.channels_last,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "jpeg": [PIL.features.version(name) for name in ("jpg", "libjpeg_turbo")],
    }


def _fp32_products() -> list[str]:
    """How exactly torch multiplies in fp32 (TF32 and the like), by its older and newer names."""
    backends = torch.backends
    settings = (
        torch.get_float32_matmul_precision,
        lambda: backends.cudnn.allow_tf32,
        lambda: backends.cuda.matmul.fp32_precision,
        lambda: backends.cudnn.conv.fp32_precision,
        lambda: backends.mkldnn.matmul.fp32_precision,
        lambda: backends.mkldnn.conv.fp32_precision,
    )
    found = []
    for setting in settings:
        try:
            found.append(str(setting()))
        except (AttributeError, RuntimeError):  # not there yet; or set by names that exclude it
            found.append("")
    return found


def _image_hashes(loader: Loader) -> np.ndarray:
    """Of each image, a hash of its content where the table has it, else of its path and state."""
    hashes, root = [], os.path.realpath(loader.root)
    known = loader.records.get("sha256", pd.Series("", loader.records.index)).fillna("").astype(str)
    for path, content in zip(loader.records["path"].astype(str), known):
        if not content:
            file = os.path.join(root, path)
            content = " ".join([file, *map(str, state(file) or ["missing"])])
        hashes.append(hashlib.sha256(content.encode()).hexdigest()[:32].encode())
    return np.array(hashes, dtype=_IMAGE_HASH)


def _begin(store: Store) -> None:
    """Make the files at full length (sparse), each by one atomic step: two runs may begin it."""
    folder = store.folder
    folder.mkdir(parents=True, exist_ok=True)
    lengths = {"features": store.views * store.n * store.row_bytes, "done": store.views * store.n}
    if why := _damage(folder, lengths):
        warnings.warn(
            f"the feature store {folder} is damaged ({why}), so it is computed anew", stacklevel=3
        )
        for name in lengths:  # new files: a run that has the old ones open goes on with those
            (folder / name).unlink(missing_ok=True)
    free, needed = shutil.disk_usage(folder).free, lengths["features"]
    if not (folder / "features").exists() and needed > free - _SPARE_BYTES:
        with contextlib.suppress(OSError):  # there is something else in it
            folder.rmdir()
        raise OSError(
            f"the feature store in {folder.parent} needs {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; free disk space, choose another folder (--store DIR), "
            "fewer views, or train without a store (--store none)"
        )
    for name, length in lengths.items():
        # It may have been begun by a run that died between the two steps; else its length stays.
        with contextlib.suppress(FileExistsError):
            open(folder / name, "xb").close()
        os.truncate(folder / name, length)
    with files.replacing(folder / "images") as part:
        part.write_bytes(store.images.tobytes())
    files.write_json(folder / "store.json", store.description)


def _damage(folder: Path, lengths: dict[str, int]) -> str:
    """Why a store's files cannot be what was written there; "" where they can, or are missing."""
    paths = {name: folder / name for name in lengths}
    sizes = {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}
    if wrong := [name for name in lengths if sizes[name] not in (0, lengths[name])]:
        return f"{wrong[0]} has {sizes[wrong[0]]:,} bytes instead of {lengths[wrong[0]]:,}"
    marks = np.fromfile(folder / "done", np.uint8) if sizes["done"] else np.zeros(1, np.uint8)
    if marks.max() > BAD or (marks.any() and not sizes["features"]):
        return "its marks are not its own"
    return ""


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[first : first + CHUNK_ROWS] for first in range(0, len(rows), CHUNK_ROWS)]


def _runs(rows: np.ndarray) -> list[np.ndarray]:
    """Arrays of positions in `rows` where one follows upon the other, each written in one go."""
    jumps = np.flatnonzero(np.diff(rows) != 1) + 1
    return np.split(np.arange(len(rows)), jumps) if len(rows) else []


def _numbers(path: Path, dtype: torch.dtype) -> np.memmap:
    """A file's numbers as words of the right length, by memory mapping."""
    return np.memmap(path, np.uint16 if dtype.itemsize == 2 else np.uint32, "r")


@contextlib.contextmanager
def _naming_the_store(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"could not write the feature store {folder}: {error}. What is complete there is kept; "
            "free disk space and run the same command again, or train without a store "
            "(store=None, on the command line --store none)"
        ) from error
