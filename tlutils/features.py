"""The frozen part of a network needs to run once per image: find it, run it, keep what it says.

`split` cuts a model after its longest leading part that is frozen and deterministic. `Store` keeps that part's
outputs in a file, one row per image and view, written in chunks with a completion map, so a killed run goes on
where it stopped. The store's name is a hash of everything its contents depend on, so a stale store is never used. What
another store of the same folder holds of the same image is copied: another division of the images, or some more of
them, costs only what is new.

Taught in notebook 03.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import Tensor, nn

from . import files
from .augment import Augmentation, normalise, view
from .devices import Machine, barrier, rank, world
from .loaders import Loader
from .prefix import Split, ready, split
from .progress import bar

FORMAT = 2
HASH = "S32"
CHUNK = 64  # images: small enough to lose little when killed, large enough to fill a CPU's matrix units
CPU_PIXELS = 16 * 224**2  # at once on a CPU: VGG16 as fast as with 64, at a quarter of the memory


@dataclass
class Store:
    """The outputs of a frozen prefix: a file of shape (views, images, *shape), read through memory mapping.

    Made by `open_store`. `fill(view)` computes what is missing; `read(view, rows)` gives the rows of a batch.

    Attributes
    ----------
    folder : where it lies. images : one hash for each image, of what its features depend on. shape : of one image's
    features. dtype : of the numbers kept.
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
    seconds: float = 0.0
    computed: int = 0
    copied: int = 0
    _maps: dict = field(default_factory=dict)

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
        return [np.arange(first, min(first + CHUNK, self.n)) for first in range(0, self.n, CHUNK)]

    def done(self) -> np.ndarray:
        """bool array (views, chunks): which chunks are complete. A copy of the file's present state."""
        return np.fromfile(self.folder / "done", dtype=np.uint8).reshape(self.views, -1).astype(bool)

    def fill(self, view_number: int, show: bool | None = None) -> bool:
        """Compute the missing chunks of a view; with several processes each does its share.

        Returns whether anything was missing. Images that turn out unreadable leave a row of NaN and are named
        in `loader.unreadable`; `bad` lists their rows.
        """
        missing = np.flatnonzero(~self.done()[view_number])
        barrier()  # all look before anyone writes
        if len(missing):
            self._fill(missing, view_number, show)
        self.loader.add_unreadable(self.bad(), "could not be read when its features were computed")
        return len(missing) > 0

    def _fill(self, missing: np.ndarray, view_number: int, show: bool | None) -> None:
        started = time.perf_counter()
        chunks, there = self.chunks(), self.elsewhere(view_number)
        rows = [chunks[c] for c in missing[rank()::world()]]
        lacking = [np.array([row for row in part if row not in there], dtype=int) for part in rows]
        what = f"frozen part, view {view_number + 1} of {self.views}"
        with bar(what=what, total=sum(map(len, rows)), show=show if rank() == 0 else False) as progress:
            for part, new, computed in zip(rows, lacking, self._compute(lacking, view_number)):
                values = torch.empty((len(part), *self.shape), dtype=self.dtype)
                values[torch.from_numpy(np.isin(part, new))] = computed
                for i in np.flatnonzero(~np.isin(part, new)):
                    held, row = there[part[i]]
                    values[i] = torch.from_numpy(np.array(held[row])).view(self.dtype)
                self._write(view_number, part[0] // CHUNK, values)
                self.computed, self.copied = self.computed + len(new), self.copied + len(part) - len(new)
                progress.update(len(part))
        barrier()
        self.seconds += time.perf_counter() - started

    def _compute(self, rows: list[np.ndarray], view_number: int) -> Iterator[Tensor]:
        """The features of each array of rows; NaN for an image that cannot be read."""
        reader = self.loader.reader([part for part in rows if len(part)])
        for expected in rows:
            values = torch.full((len(expected), *self.shape), float("nan"), dtype=self.dtype)
            batch = next(reader) if len(expected) else None
            if batch and len(batch.rows):
                images = view(batch.images.to(self.machine.device, non_blocking=True), batch.keys, view_number,
                              self.seed, self.augmentation)
                values[torch.searchsorted(torch.from_numpy(expected), batch.rows)] = \
                    self.run_prefix(images).to("cpu", self.dtype)
            yield values

    def to_copy(self, view_number: int) -> int:
        """How many images' features of a view need no computing, as another store holds them."""
        missing = ~self.done()[view_number].repeat(CHUNK)[:self.n]
        return sum(missing[row] for row in self.elsewhere(view_number)) if missing.any() else 0

    def elsewhere(self, view_number: int) -> dict[int, tuple[np.ndarray, int]]:
        """Which images' features of a view other stores of this folder hold: row -> (their array, row in it).

        Those stores differ from this one in their images and number of views, in nothing else.
        """
        found: dict[int, tuple[np.ndarray, int]] = {}
        mine = json.loads((self.folder / "store.json").read_text())
        for other in sorted(self.folder.parent.glob("*/store.json")):
            if other.parent == self.folder or not _same_but_for_images(mine, json.loads(other.read_text())):
                continue
            images, done = np.fromfile(other.with_name("images"), HASH), np.fromfile(other.with_name("done"), np.uint8)
            done = done.reshape(-1, -(-len(images) // CHUNK))
            if view_number < len(done):
                held = _numbers(other.with_name("features"), self.dtype)
                held = held.reshape(len(done), len(images), *self.shape)[view_number]
                whole = np.flatnonzero(done[view_number].repeat(CHUNK)[:len(images)])
                where = dict(zip(images[whole].tolist(), whole.tolist()))
                found |= {row: (held, where[image]) for row, image in enumerate(self.images.tolist())
                          if image in where}
        return found

    def _write(self, view_number: int, chunk: int, values: Tensor) -> None:
        """The data first, then the mark: a chunk that is marked is whole."""
        try:
            with open(self.folder / "features", "r+b") as file:
                file.seek((view_number * self.n + chunk * CHUNK) * self.row_bytes)
                file.write(values.contiguous().view(torch.uint8).numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
            with open(self.folder / "done", "r+b") as file:
                file.seek(view_number * -(-self.n // CHUNK) + chunk)
                file.write(b"\1")
        except OSError as error:
            raise OSError(f"could not write the feature store {self.folder}: {error}. What is complete there is kept; "
                          "free disk space and run the same command again, or train without a store "
                          "(store=None, on the command line --store none)") from error

    def _map(self) -> Tensor:
        if "tensor" not in self._maps:
            numbers = _numbers(self.folder / "features", self.dtype)
            self._maps["mmap"] = numbers._mmap
            self._maps["array"] = numbers.reshape(self.views, self.n, *self.shape)
        return self._maps["array"]

    def read(self, view_number: int, rows: np.ndarray) -> Tensor:
        """The features of some images: tensor (len(rows), *shape) of `dtype`, on the CPU."""
        return torch.from_numpy(self._map()[view_number][rows]).view(self.dtype)

    def bad(self) -> np.ndarray:
        """The rows of images that could not be read (their features are NaN)."""
        flat = self._map()[0].reshape(self.n, -1)[:, :1]
        return np.flatnonzero(torch.from_numpy(np.array(flat)).view(self.dtype).isnan().numpy())

    def forget_pages(self) -> None:
        """Tell the system that pages of the file may go: a store larger than memory stays out of it."""
        if "mmap" in self._maps and hasattr(mmap, "MADV_DONTNEED"):
            self._maps["mmap"].madvise(mmap.MADV_DONTNEED)


def open_store(folder: str | Path, prefix: nn.Module, loader: Loader, machine: Machine,
               augmentation: Augmentation = Augmentation(), views: int = 1, seed: int = 0,
               mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None,
               compiled: bool = False) -> Store:
    """Open the store of (prefix, images, views), or begin it.

    Parameters
    ----------
    folder : where stores lie, each in a folder named by its key; runs may share it.
    prefix : what `split` found. loader : whose images (in row order) the store is about.
    views, seed, augmentation : see `augment.view`; `views=1` with the identity is the classic feature cache.
    mean, std : normalisation; None takes ImageNet's.
    compiled : whether to run the prefix through torch.compile (measure it: on 2 CPU cores it gained nothing).

    Raises
    ------
    OSError where the disk has too little room, before anything is written.

    Taught in notebook 03.
    """
    numbers = {} if mean is None else {"mean": tuple(mean), "std": tuple(std)}
    size = loader.settings["size"]
    at_once = max(1, CPU_PIXELS // size**2) if machine.device.type == "cpu" else CHUNK

    @functools.cache
    def body() -> nn.Module:  # made when there is something to compute: the copy of VGG16's takes a second
        fast = ready(prefix, machine)
        return torch.compile(fast) if compiled else fast

    @torch.inference_mode()
    def run_prefix(images: Tensor) -> Tensor:
        with machine.autocast():
            return torch.cat([body()(machine.place(normalise(part, **numbers))) for part in images.split(at_once)])

    shape = _shape(prefix, size)
    images = _image_hashes(loader, augmentation)
    description = _describe(prefix, loader, machine, augmentation, views, seed, numbers, shape, images)
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:24]
    store = Store(Path(folder) / key, images, loader, run_prefix, machine, augmentation, seed, views, shape,
                  machine.dtype)
    if rank() == 0:
        _begin(store, description)
    barrier()
    return store


def _shape(prefix: nn.Module, size: int) -> tuple[int, ...]:
    """The shape of one image's features, found without computing them."""
    on_meta = {name: value.to("meta") for name, value in prefix.state_dict().items()}
    training = {module: module.training for module in prefix.modules()}
    image = torch.empty(1, 3, size, size, device="meta")
    try:
        return tuple(torch.func.functional_call(prefix.eval(), on_meta, image).shape[1:])
    finally:
        for module, mode in training.items():
            module.training = mode


def _describe(prefix: nn.Module, loader: Loader, machine: Machine, augmentation: Augmentation, views: int, seed: int,
              numbers: dict, shape: tuple[int, ...], images: np.ndarray) -> dict:
    """Everything the contents depend on; a change of any of it makes another store."""
    return {"format": FORMAT, "images": hashlib.sha256(images.tobytes()).hexdigest(), "reader": loader.settings,
            "augmentation": {} if augmentation.identity else {**vars(augmentation), "seed": seed}, "views": views,
            "normalisation": numbers, "prefix": _weights_hash(prefix),
            "graph": hashlib.sha256(str(prefix.graph).encode()).hexdigest(),
            "shape": shape, "device": machine.device.type, "precision": machine.precision,
            "torch": torch.__version__, "torchvision": torchvision.__version__}


def _same_but_for_images(one: dict, other: dict) -> bool:
    return all(one.get(name) == other.get(name) for name in {*one, *other} - {"images", "views"})


def _image_hashes(loader: Loader, augmentation: Augmentation) -> np.ndarray:
    """Of each image, a hash of its content where the table has it, else of its path, size and time of change.

    The path counts as well where a view changes the image, as how it does is drawn by the path.
    """
    hashes = []
    known = loader.records.get("sha256", pd.Series([""] * len(loader.records))).fillna("")
    for path, content in zip(loader.records["path"], known):
        if not content:
            stat = os.stat(loader.root / path) if (loader.root / path).exists() else None
            content = f"{path} {stat.st_size} {stat.st_mtime_ns}" if stat else f"{path} missing"
        drawn_by = "" if augmentation.identity else path
        hashes.append(hashlib.sha256(f"{drawn_by}\0{content}".encode()).hexdigest()[:32].encode())
    return np.array(hashes, dtype=HASH)


def _numbers(path: Path, dtype: torch.dtype) -> np.memmap:
    """A file's numbers as words of the right length, through memory mapping."""
    return np.memmap(path, np.uint16 if dtype.itemsize == 2 else np.uint32, "r")


def _weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _begin(store: Store, description: dict) -> None:
    """Make the files at full length (sparse), each by one atomic step, so that two runs may begin at once."""
    store.folder.mkdir(parents=True, exist_ok=True)
    needed = store.views * store.n * store.row_bytes
    if not (store.folder / "features").exists() and needed > shutil.disk_usage(store.folder).free - 2**26:
        store.folder.rmdir()
        free = shutil.disk_usage(store.folder.parent).free
        raise OSError(f"the feature store in {store.folder.parent} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
                      "are free; free disk space, choose another folder (--store DIR), fewer views, or train without "
                      "a store (--store none)")
    _begin_file(store.folder / "features", needed)
    _begin_file(store.folder / "done", store.views * -(-store.n // CHUNK))
    with files.replacing(store.folder / "images") as part:
        part.write_bytes(store.images.tobytes())
    files.write_text(store.folder / "store.json", json.dumps(description, indent=1))


def _begin_file(path: Path, length: int) -> None:
    try:
        with open(path, "xb") as file:
            file.truncate(length)
    except FileExistsError:
        with open(path, "r+b") as file:
            file.truncate(length)  # begun by a run that died between the two steps; the same length otherwise
