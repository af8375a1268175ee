"""What to compute on, in which precision, with which seeds, and with how many processes.

One choice is made in one place and written into the run, with its reason. Under torchrun the same commands run
in many processes: `processes()` joins them, everything else asks `rank()` and `world()`.

Taught in notebook 03.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
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

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# How long a process waits for another: rank 0 alone may fetch and unpack gigabytes or look through 100,000 files
# meanwhile (NCCL's own limit is 10 minutes). One that died is not waited for: torchrun ends the others.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Machine:
    """What a run computes on.

    device : torch device. precision : "fp32" or "bf16" for matrix products (weights stay fp32).
    channels_last : whether images lie channel by channel within a pixel, which matrix units want.
    why : the reason, for a person.
    """

    device: torch.device
    precision: str = "fp32"
    channels_last: bool = False
    why: str = "asked for"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that matrix products and the feature store use."""
        return PRECISIONS[self.precision]

    def autocast(self) -> contextlib.AbstractContextManager:
        """A context in which matrix products run in this machine's precision."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.precision != "fp32")

    @property
    def non_blocking(self) -> bool:
        """Whether copies to here may be left running: to a CUDA GPU only, whose next work waits for them.

        What is copied to the CPU could be read there before it has arrived; Apple's GPUs have read too early as well.
        """
        return self.device.type == "cuda"

    def place(self, thing: nn.Module | Tensor) -> nn.Module | Tensor:
        """Move a model or an image batch here, in the layout this machine is fast in."""
        if not self.channels_last or (isinstance(thing, Tensor) and thing.ndim != 4):
            return thing.to(self.device, non_blocking=self.non_blocking)
        return thing.to(
            self.device, memory_format=torch.channels_last, non_blocking=self.non_blocking
        )

    def describe(self) -> dict[str, object]:
        """Plain values for recipe.json: device, its name, precision, layout, the reason, math settings."""
        return {
            "device": str(self.device),
            "name": device_name(self.device),
            "precision": self.precision,
            "channels_last": self.channels_last,
            "why": self.why,
            "threads": torch.get_num_threads(),
            "processes": world(),
            "tf32": _tf32(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "keeps_freed_memory": self.device.type == "cpu" and keep_freed_memory(),
        }


def choose(device: str = "auto", precision: str = "auto") -> Machine:
    """Choose device and precision by what the machine is made for.

    On a GPU, cudnn is told to time its kernels for the shapes it meets (images here have one shape), unless torch is to
    use deterministic algorithms; on a CPU, the C library is told to keep freed memory (see `keep_freed_memory`). With
    fp32, TF32 is turned off, which cudnn would round convolutions to (10 bits instead of 23).

    Parameters
    ----------
    device : "auto" (a CUDA GPU if there is one, then Apple's, then the CPU), "cpu", "cuda", "cuda:1", "mps".
    precision : "auto" (bf16 on GPUs from Ampere on and on CPUs with bf16 instructions, else fp32), "fp32",
        "bf16".

    Raises
    ------
    ValueError where the device is not there or the precision is unknown.

    Taught in notebook 03.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision is {precision!r}; it is one of auto, {', '.join(PRECISIONS)}")
    if device == "auto":
        device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    place = _place(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device is {device!r} but torch {torch.__version__} sees no CUDA GPU here; use device='cpu'"
        )
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"device is {device!r} but torch {torch.__version__} sees no Apple GPU here; use device='cpu'"
        )
    if place.type == "mps":
        place = torch.device("mps", 0)  # as tensors there say of themselves
    if place.type == "cuda" and place.index is None:
        place = torch.device(
            "cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        )
    torch.backends.cudnn.benchmark |= (
        place.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    )
    if place.type == "cpu":
        keep_freed_memory()
    natural, why = _natural_precision(place)
    chosen = natural if precision == "auto" else precision
    if chosen == "fp32":
        _turn_tf32_off()
    channels_last = place.type == "cuda" or (
        place.type == "cpu" and torch.backends.mkldnn.is_available()
    )
    return Machine(place, chosen, channels_last, why=why if chosen == natural else "asked for")


def _place(device: str) -> torch.device:
    """A device by its name; it may be one that this machine lacks."""
    try:
        place = torch.device(device)
    except RuntimeError:  # torch names two dozen kinds, most of which nothing here was written for
        place = None
    if place is None or place.type not in DEVICES:
        raise ValueError(
            f"device is {device!r}; it is auto or one of {', '.join(DEVICES)}, or a GPU by its number, such as "
            "cuda:1"
        )
    if (
        place.type == "cuda"
        and torch.cuda.is_available()
        and (place.index or 0) >= torch.cuda.device_count()
    ):
        raise ValueError(
            f"device is {device!r} but torch sees {torch.cuda.device_count()} CUDA GPUs here, counted from 0"
        )
    return place


def _turn_tf32_off() -> None:
    """By the old flags and, where torch has them (2.9), the new ones: each alone leaves the other undefined."""
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
def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees, for the next batch; returns whether it does (glibc alone can).

    Left to itself it returns every large block to the system and gets it back page by page, cleared, in every layer of
    every step. On 2 cores, keeping them took VGG16's frozen part from 23 to 28 images/s, the training of MobileNetV2 from
    23 to 50 and that of VGG16-BN from 3 to 6. The price: the peak of memory is a tenth to a third higher and held until
    the process ends. Where a MALLOC_ variable is set, its word counts: MALLOC_TRIM_THRESHOLD_=131072 has it the old way.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems have no mallopt
        library = ctypes.CDLL(None)
        kept = any(
            library.mallopt(mmap_threshold, size) for size in (2**30, 2**25)
        )  # old versions take 32 MiB at most
        return kept and bool(library.mallopt(trim_threshold, 2**31 - 1))
    return False


def _natural_precision(device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        return (
            ("bf16", f"the GPU has bf16 matrix units (compute capability {major}.x)")
            if major >= 8
            else ("fp32", f"compute capability {major}.x has no bf16 matrix units")
        )
    if device.type == "cpu":
        units = [name for name in ("amx_bf16", "avx512_bf16") if name in _cpu_flags()]
        return (
            ("bf16", f"the CPU has bf16 instructions ({units[0]})")
            if units
            else ("fp32", "the CPU has no bf16 instructions")
        )
    return "fp32", f"nothing else is exact enough to rely on with {device.type}"


def _cpu_flags() -> set[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    return set()


def device_name(device: torch.device) -> str:
    """The maker's name of a device, e.g. 'NVIDIA H200' or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices).

    Orders and views do not need it (they are functions of the seed themselves); dropout and new layers do.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators, for a checkpoint: what dropout will draw next."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put back what `rng_state` returned."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"].cpu())


def rank() -> int:
    """Number of this process, 0 where there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()


@contextlib.contextmanager
def processes(device: str = "auto") -> Iterator[None]:
    """Join the processes that torchrun started, for the time of a `with` block; without torchrun, nothing.

    gloo connects CPUs and nccl GPUs. Starting, watching and restarting processes is torchrun's work.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=_meeting_place(),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _meeting_place() -> dist.Store:
    """Where the processes find each other's addresses: torchrun's store, a fresh part of it after each restart.

    torchrun keeps one store over restarts, and without a part of their own restarted processes would try to reach
    the addresses of the dead ones (seen with torch 2.15 and gloo: "connection refused").
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    first = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(
        host, port, int(os.environ["WORLD_SIZE"]), is_master=first, wait_for_workers=False
    )
    store.set_timeout(
        PATIENCE
    )  # nccl's first meeting goes through it, and its own limit is 5 minutes
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in each of them."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def take_from_rank_0(model: nn.Module) -> None:
    """Give every process rank 0's weights and buffers."""
    for value in model.state_dict().values() if world() > 1 else ():
        dist.broadcast(value, 0)


def gather(value: object) -> list:
    """A picklable value of every process, in rank order, in each of them."""
    if world() == 1:
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: object) -> object:
    """Rank 0's picklable value, in every process."""
    box = [value]
    if world() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def by_first(decide: Callable[[], Any]) -> Any:
    """What rank 0 finds, in every process: it alone looks, while the others wait, and what it raises they all raise."""
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
