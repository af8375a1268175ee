"""What to compute on, in which precision, with which seeds, and with how many processes.

One choice is made in one place and written into the run, with its reason. Under torchrun the same
commands run in many processes: `processes` joins them, everything else asks `rank` and `world`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import pickle
import platform
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .words import many

_DEVICES = ("cpu", "cuda", "mps")
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# What torch says where memory runs out: GPUs, then CPUs.
_OUT_OF_MEMORY = ("out of memory", "_ALLOC_FAILED", "can't allocate memory", "not enough memory")
# How long a process waits for another: rank 0 alone may fetch and unpack gigabytes or look through
# 100,000 files meanwhile (NCCL's own limit is 10 minutes). One that died is not waited for:
# torchrun ends the others.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Machine:
    """What a run computes on.

    Parameters
    ----------
    device : torch.device
    precision : "fp32" or "bf16", of matrix products (weights stay fp32).
    channels_last : bool, whether the channels of a pixel lie together, which matrix units want.
    why : str, the reason, for a person.
    compiled : bool, whether torch compiles the frozen part of a network, or what is trained whole.
    """

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = False
    why: str = "requested"
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that matrix products and the feature store use."""
        return _PRECISIONS[self.precision]

    def autocast(self) -> contextlib.AbstractContextManager:
        """Make a context in which matrix products run in this machine's precision.

        Returns
        -------
        context manager
        """
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.precision != "fp32")

    @property
    def non_blocking(self) -> bool:
        """Whether copies to here may be left running: to a CUDA GPU only, which waits for them.

        What is copied to the CPU could be read before it has arrived; Apple's GPUs have read too
        early as well.
        """
        return self.device.type == "cuda"

    def place(self, thing: nn.Module | Tensor) -> nn.Module | Tensor:
        """Move something here, in the layout in which this machine is fast.

        Parameters
        ----------
        thing : Module or Tensor; only models and images (N, C, H, W) have a layout.

        Returns
        -------
        Module or Tensor
        """
        if not self.channels_last or (isinstance(thing, Tensor) and thing.ndim != 4):
            return thing.to(self.device, non_blocking=self.non_blocking)
        layout = torch.channels_last
        return thing.to(self.device, memory_format=layout, non_blocking=self.non_blocking)

    def describe(self) -> dict[str, object]:
        """List what tells this machine and its settings, for recipe.json.

        Returns
        -------
        dict of plain values: device, its name, precision, layout, the reason, math settings.
        """
        return {
            "device": str(self.device),
            "name": device_name(self.device),
            "precision": self.precision,
            "channels_last": self.channels_last,
            "compiled": self.compiled,
            "why": self.why,
            "threads": torch.get_num_threads(),
            "processes": world(),
            "tf32": _tf32(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "keeps_freed_memory": self.device.type == "cpu" and _keep_freed_memory(),
        }


def choose(device: str = "auto", precision: str = "auto") -> Machine:
    """Choose device and precision by what the machine is made for.

    On a GPU, cudnn is told to time its kernels for the shapes it meets (images here have one
    shape), unless torch is to use deterministic algorithms; on a CPU, the C library is told to keep
    freed memory. TF32 is turned off, to which cudnn would round convolutions in fp32 (10 bits, not
    23).

    Parameters
    ----------
    device : "auto" (a CUDA GPU if there is one, then Apple's, then the CPU), "cpu", "cuda",
        "cuda:1", "mps".
    precision : "auto" (bf16 on GPUs from Ampere on and on CPUs with bf16 instructions, else fp32),
        "fp32", "bf16".

    Returns
    -------
    Machine

    Raises
    ------
    ValueError
        Where the device is not there or the precision is unknown.

    Examples
    --------
    >>> machine = choose("cpu", precision="fp32")
    >>> machine.device, machine.dtype
    (device(type='cpu'), torch.float32)
    """
    if precision not in ("auto", *_PRECISIONS):
        raise ValueError(f"precision is {precision!r}; it is one of auto, {', '.join(_PRECISIONS)}")
    if device == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        device = next((name for name, found in there.items() if found), "cpu")
    chosen = _device(device)
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark |= not torch.are_deterministic_algorithms_enabled()
    if chosen.type == "cpu":
        _keep_freed_memory()
    natural, why = _natural_precision(chosen)
    precision = natural if precision == "auto" else precision
    _turn_tf32_off()  # in bf16 too: the next may be in fp32, and kept features tell of the flags
    channels_last = chosen.type == "cuda"
    channels_last |= chosen.type == "cpu" and torch.backends.mkldnn.is_available()
    return Machine(chosen, precision, channels_last, why if precision == natural else "requested")


def _device(name: str) -> torch.device:
    """The device of a name, with its number; ValueError where there is none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in _DEVICES:  # torch names two dozen kinds
        raise ValueError(
            f"device is {name!r}; it is auto or one of {', '.join(_DEVICES)}, or a GPU by its "
            "number, such as cuda:1"
        )
    for kind, there, what in (
        ("cuda", torch.cuda.is_available(), "CUDA"),
        ("mps", torch.backends.mps.is_available(), "Apple"),
    ):
        if device.type == kind and not there:
            raise ValueError(
                f"device is {name!r} but torch {torch.__version__} sees no {what} GPU here; "
                "use device='cpu'"
            )
    if device.type == "mps":
        return torch.device("mps", 0)  # as tensors there say of themselves
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise ValueError(
            f"device is {name!r} but torch sees {many(count, 'CUDA GPU')} here, counted from 0"
        )
    own = int(os.environ.get("LOCAL_RANK", 0)) % count
    return torch.device("cuda", own if device.index is None else device.index)


def _turn_tf32_off() -> None:
    """By the old flags and, since torch 2.9, the new ones: one alone leaves the other undefined."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for part in _fp32_parts():
        part.fp32_precision = "ieee"


def _tf32() -> bool:
    """Whether any matrix product or convolution in fp32 may be rounded to TF32."""
    if parts := _fp32_parts():
        return any(part.fp32_precision == "tf32" for part in parts)
    return torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32


def _fp32_parts() -> list:
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return [cuda, cudnn.conv, cudnn.rnn] if hasattr(cudnn, "conv") else []


@functools.cache
def _keep_freed_memory() -> bool:
    """Have the C library keep what this process frees; returns whether it does (glibc alone can).

    Left to itself it returns every large block to the system and gets it back page by page,
    cleared, in every layer of every step. On 2 cores, keeping them took VGG16's frozen part from 23
    to 28 images/s, the training of MobileNetV2 from 23 to 50 and that of VGG16-BN from 3 to 6. The
    price: the peak of memory is a tenth to a third higher and held until the process ends. Where a
    MALLOC_ variable is set, its word counts: MALLOC_TRIM_THRESHOLD_=131072 has it the old way.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems have no mallopt
        library = ctypes.CDLL(None)
        # old versions take 32 MiB at most
        kept = any(library.mallopt(mmap_threshold, size) for size in (2**30, 2**25))
        return kept and bool(library.mallopt(trim_threshold, 2**31 - 1))
    return False


def _natural_precision(device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if major >= 8:
            return "bf16", f"the GPU has bf16 matrix units (compute capability {major}.x)"
        return "fp32", f"compute capability {major}.x has no bf16 matrix units"
    if device.type == "cpu":
        flags = _cpu_line("flags").split()
        units = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
        if units:
            return "bf16", f"the CPU has bf16 instructions ({units[0]})"
        return "fp32", "the CPU has no bf16 instructions"
    return "fp32", f"nothing else is exact enough to rely on with {device.type}"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised it because memory ran out.

    Parameters
    ----------
    error : RuntimeError

    Returns
    -------
    bool
    """
    return any(words in str(error) for words in _OUT_OF_MEMORY)


def _cpu_line(name: str) -> str:
    """What Linux says of the processor under a name, "" where it says nothing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
    return ""


def device_name(device: torch.device) -> str:
    """The maker's name of a device.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    str, such as "NVIDIA H200" or the processor's.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_line("model name") or platform.processor() or platform.machine()


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices).

    Orders and views do not need it (they are functions of the seed themselves); dropout and new
    layers do.

    Parameters
    ----------
    seed : int
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - other packages draw from it
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators, for a checkpoint: what dropout will draw next.

    Parameters
    ----------
    device : torch.device, whose generator counts beside the CPU's.

    Returns
    -------
    dict of uint8 tensors, for `restore_rng_state`.
    """
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put back the state of torch's generators.

    Parameters
    ----------
    state : dict, what `rng_state` returned.
    device : torch.device, whose generator is put back beside the CPU's.
    """
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"].cpu())


def rank() -> int:
    """The number of this process.

    Returns
    -------
    int, 0 where there is only one.
    """
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes work together.

    Returns
    -------
    int, 1 without torchrun.
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()


@contextlib.contextmanager
def processes(device: str = "auto") -> Iterator[None]:
    """Join the processes that torchrun started while a `with` block runs; alone, do nothing.

    gloo connects CPUs and nccl GPUs. Starting, watching and restarting processes is torchrun's
    work.

    Parameters
    ----------
    device : str, as for `choose`.

    Yields
    ------
    None
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    # Functions of these modules have the group of the time of their import as default. Imported
    # later (as torchvision does), they would keep it, with its threads, until Python itself ends,
    # and a thread that then still lets go of a tensor aborts the process (pytorch issue 190489).
    importlib.import_module("torch.distributed.fsdp")
    importlib.import_module("torch.distributed.optim")
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=_meeting_place(),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_PATIENCE,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _meeting_place() -> dist.Store:
    """Where processes find each other's addresses: a part of torchrun's store, new at each restart.

    torchrun keeps one store over restarts, and without a part of their own restarted processes
    would try to reach the addresses of the dead ones (seen with torch 2.15 and gloo: "connection
    refused").
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    first = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    size = int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(host, port, size, is_master=first, wait_for_workers=False)
    store.set_timeout(_PATIENCE)  # nccl first meets through it, and its own limit is 5 minutes
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def sum_over_processes(values: Tensor) -> Tensor:
    """Add up a tensor over all processes.

    Parameters
    ----------
    values : Tensor, overwritten.

    Returns
    -------
    Tensor, the sum, in each process.
    """
    if world() > 1:
        dist.all_reduce(values)
    return values


def take_from_rank_0(model: nn.Module) -> None:
    """Give every process rank 0's weights and buffers.

    Parameters
    ----------
    model : nn.Module, overwritten in place.
    """
    for value in model.state_dict().values() if world() > 1 else ():
        dist.broadcast(value, 0)


def gather(value: object) -> list:
    """Collect a value of every process.

    Parameters
    ----------
    value : picklable object

    Returns
    -------
    list in rank order, in each process.
    """
    if world() == 1:
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: object) -> object:
    """Send rank 0's value to every process.

    Parameters
    ----------
    value : picklable object, of rank 0; what the others give does not count.

    Returns
    -------
    object of rank 0, in each process.
    """
    box = [value]
    if world() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def by_first(decide: Callable[[], Any]) -> Any:
    """Let rank 0 alone look while the others wait.

    Parameters
    ----------
    decide : function without arguments; what it raises in rank 0, all processes raise.

    Returns
    -------
    object that `decide` returned in rank 0, in each process.
    """
    if world() == 1:
        return decide()
    found = error = None
    if rank() == 0:
        try:
            found = decide()
        except Exception as raised:
            error = raised
    found, told = broadcast((found, _sendable(error)))
    if told is not None:
        raise error or told
    return found


def _sendable(error: Exception | None) -> Exception | None:
    """The error, or one of plain words where it cannot be sent to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
