"""The frozen part of a network needs to run once per image: find it, run it, keep what it says.

`split` cuts a model after its longest leading part that is frozen and deterministic. `Store` keeps that part's
outputs in a file, one row per image and view, written in chunks with a completion map, so a killed run goes on
where it stopped. The store's name is a hash of everything its contents depend on, so a stale store is never used.

Taught in notebook 03.
"""

from __future__ import annotations

import copy
import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import Tensor, fx, nn

from .augment import Augmentation, normalise, view
from .devices import Machine, barrier, gather, rank, world
from .loaders import Loader, make
from .progress import bar

FORMAT = 1
CHUNK = 64  # images: small enough to lose little when killed, large enough to fill a CPU's matrix units
CPU_PIXELS = 16 * 224**2  # at once on a CPU: VGG16's maps stay near its caches, 23 images/s against 19 with 64
_RANDOM = ("dropout", "stochastic_depth", "rand", "bernoulli")


@dataclass(frozen=True)
class Split:
    """A model cut in two: tail(prefix(x)) is model(x). The parts share the model's own modules and weights.

    name : the last layer of the prefix, e.g. "classifier.1".
    """

    prefix: fx.GraphModule
    tail: fx.GraphModule
    name: str


class _Tracer(fx.Tracer):
    """Keeps torchvision's random layers whole, so that their train/eval mode is looked up at run time."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module).__name__ in ("StochasticDepth", "DropBlock2d") or super().is_leaf_module(module, name)


def split(model: nn.Module) -> Split | None:
    """Cut a model after its longest leading part that is frozen and deterministic.

    Such a layer has no trainable parameter, draws no random numbers, and its BatchNorm is frozen (which
    `models.train_mode` keeps in eval). The cut is where a single tensor passes.

    Returns None where nothing worth keeping is frozen, or the model cannot be traced by torch.fx.

    Taught in notebook 03.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # control flow that depends on values: fx raises many kinds
        return None
    nodes = list(graph.nodes)
    frozen = next(i for i, node in enumerate(nodes) if not _is_fixed(node, model))
    position = {node: i for i, node in enumerate(nodes)}
    cut = next((i for i in range(frozen - 1, 0, -1) if _single_crossing(nodes, position, i)), 0)
    if not any(_has_weights(node, model) for node in nodes[:cut + 1]):
        return None
    prefix = fx.GraphModule(model, _part(nodes[:cut + 1], None))
    tail = fx.GraphModule(model, _part(nodes[cut + 1:], nodes[cut]))
    named = [node.target for node in nodes[:cut + 1] if node.op == "call_module"]
    return Split(prefix, tail, named[-1])


def _is_fixed(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "output":
        return False
    if node.op == "get_attr":
        return not getattr(fx.graph_module._get_attr(model, node.target), "requires_grad", False)
    if node.op in ("call_function", "call_method"):
        name = node.target if isinstance(node.target, str) else node.target.__name__
        return not any(word in name for word in _RANDOM)
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        stochastic = any(word in type(module).__name__.lower() for word in ("dropout", "stochasticdepth", "dropblock"))
        return not (stochastic and getattr(module, "p", 1) > 0) and \
            not any(p.requires_grad for p in module.parameters())
    return True


def _has_weights(node: fx.Node, model: nn.Module) -> bool:
    return node.op == "call_module" and any(True for _ in model.get_submodule(node.target).parameters())


def _single_crossing(nodes: list[fx.Node], position: dict[fx.Node, int], cut: int) -> bool:
    crossing = [node for node in nodes[:cut + 1] if any(position[user] > cut for user in node.users)]
    return crossing == [nodes[cut]]


def _part(nodes: list[fx.Node], entry: fx.Node | None) -> fx.Graph:
    graph, copies = fx.Graph(), {}
    if entry is not None:
        copies[entry] = graph.placeholder("features")
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda old: copies[old])
    if nodes[-1].op != "output":
        graph.output(copies[nodes[-1]])
    return graph


class _Halve(nn.Module):
    """MaxPool2d(2) for a CPU: torch's own also finds where each maximum was and takes six times as long in bf16
    (2.3 ms against 0.4 ms an image after VGG16's second layer; 1 part in 15 of the whole prefix)."""

    def forward(self, maps: Tensor) -> Tensor:
        height, width = (side // 2 * 2 for side in maps.shape[-2:])
        rows = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def _halves(module: nn.Module) -> bool:
    plain = isinstance(module, nn.MaxPool2d) and not (module.ceil_mode or module.return_indices)
    return plain and (module.kernel_size, module.stride, module.padding, module.dilation) == (2, 2, 0, 1)


def ready(prefix: nn.Module, machine: Machine) -> nn.Module:
    """A copy of a prefix for running only: eval mode, on the device, weights of matrix layers cast once.

    Autocast casts frozen weights anew for every batch (411 MB for VGG16's first linear layer); cast beforehand,
    the numbers are the same.
    """
    prefix = copy.deepcopy(prefix).eval().requires_grad_(False)
    if machine.precision != "fp32":
        for module in prefix.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(machine.dtype)
    if machine.device.type == "cpu" and machine.channels_last:
        for name in [name for name, module in prefix.named_modules() if _halves(module)]:
            prefix.set_submodule(name, _Halve())
    return machine.place(prefix)


@dataclass
class Store:
    """The outputs of a frozen prefix: a file of shape (views, images, *shape), read through memory mapping.

    Made by `open_store`. `fill(view)` computes what is missing; `read(view, rows)` gives the rows of a batch.

    Attributes
    ----------
    folder : where it lies. shape : shape of one image's features. dtype : of the numbers kept.
    seconds : time spent filling so far, in this process.
    """

    folder: Path
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
        mine = missing[rank()::world()]
        chunks = self.chunks()
        rows = [chunks[c] for c in mine]
        what = f"frozen part, view {view_number + 1} of {self.views}"
        with bar(what=what, total=sum(map(len, rows)), show=show if rank() == 0 else False) as progress:
            for chunk, values in zip(mine, self._compute(rows, view_number)):
                self._write(view_number, int(chunk), values)
                progress.update(len(values))
        barrier()
        self.seconds += time.perf_counter() - started
        self.computed += sum(map(len, rows))

    def _compute(self, rows: list[np.ndarray], view_number: int):
        reader = self.loader.reader(rows)
        for expected, batch in zip(rows, reader):
            values = torch.full((len(expected), *self.shape), float("nan"), dtype=self.dtype)
            if len(batch.rows):
                images = view(batch.images.to(self.machine.device, non_blocking=True), batch.keys, view_number,
                              self.seed, self.augmentation)
                values[torch.searchsorted(torch.from_numpy(expected), batch.rows)] = \
                    self.run_prefix(images).to("cpu", self.dtype)
            yield values

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
            file = np.memmap(self.folder / "features", np.uint8, "r")
            self._maps["mmap"] = file._mmap
            words = np.uint16 if self.dtype.itemsize == 2 else np.uint32
            self._maps["array"] = file.view(words).reshape(self.views, self.n, *self.shape)
        return self._maps["array"]

    def read(self, view_number: int, rows: np.ndarray) -> Tensor:
        """The features of some images: tensor (len(rows), *shape) of `dtype`, on the CPU."""
        return torch.from_numpy(self._map()[view_number][rows]).view(self.dtype)

    def bad(self) -> np.ndarray:
        """The rows of images that could not be read (their features are NaN)."""
        flat = self._map()[0].reshape(self.n, -1)[:, :1]
        return np.flatnonzero(torch.from_numpy(np.ascontiguousarray(flat)).view(self.dtype).isnan().numpy())

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
    compiled : whether to run the prefix through torch.compile (about 1.3 times as fast after a minute's start).

    Raises
    ------
    OSError where the disk has too little room, before anything is written.

    Taught in notebook 03.
    """
    numbers = {} if mean is None else {"mean": tuple(mean), "std": tuple(std)}
    fast = ready(prefix, machine)
    body = torch.compile(fast) if compiled else fast

    size = loader.settings["size"]
    at_once = max(1, CPU_PIXELS // size**2) if machine.device.type == "cpu" else CHUNK

    @torch.inference_mode()
    def run_prefix(images: Tensor) -> Tensor:
        with machine.autocast():
            return torch.cat([body(machine.place(normalise(part, **numbers))) for part in images.split(at_once)])

    shape = tuple(run_prefix(torch.zeros(1, 1, size, size, dtype=torch.uint8)).shape[1:])
    description = _describe(prefix, loader, machine, augmentation, views, seed, numbers, shape)
    key = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:24]
    store = Store(Path(folder) / key, loader, run_prefix, machine, augmentation, seed, views, shape, machine.dtype)
    if rank() == 0:
        _begin(store, description)
    barrier()
    return store


def _describe(prefix: nn.Module, loader: Loader, machine: Machine, augmentation: Augmentation, views: int, seed: int,
              numbers: dict, shape: tuple[int, ...]) -> dict:
    """Everything the contents depend on; a change of any of it makes another store."""
    return {"format": FORMAT, "images": _files_hash(loader), "reader": loader.settings,
            "augmentation": vars(augmentation), "views": views, "seed": seed, "normalisation": numbers,
            "prefix": _weights_hash(prefix), "graph": hashlib.sha256(str(prefix.graph).encode()).hexdigest(),
            "shape": shape, "device": machine.device.type, "precision": machine.precision,
            "torch": torch.__version__, "torchvision": torchvision.__version__}


def _files_hash(loader: Loader) -> str:
    """Of each image, its path and content hash where the table has it, else its path, size and time of change."""
    digest = hashlib.sha256()
    known = loader.records.get("sha256", pd.Series([""] * len(loader.records))).fillna("")
    for path, content in zip(loader.records["path"], known):
        if not content:
            stat = os.stat(loader.root / path) if (loader.root / path).exists() else None
            content = f"{stat.st_size} {stat.st_mtime_ns}" if stat else "missing"
        digest.update(f"{path}\0{content}\0".encode())
    return digest.hexdigest()


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
    (store.folder / "store.json").write_text(json.dumps(description, indent=1))


def _begin_file(path: Path, length: int) -> None:
    try:
        with open(path, "xb") as file:
            file.truncate(length)
    except FileExistsError:
        with open(path, "r+b") as file:
            file.truncate(length)  # begun by a run that died between the two steps; the same length otherwise
