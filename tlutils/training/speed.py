"""How a CPU runs a network fastest: by a short measurement, which is kept for the next time.

And how fast any machine multiplies matrices, which says how near to that a training comes.

No rule holds for all: bf16 trained a ResNet-18 of 64 pixels 3.5 times slower than fp32 on an AMD
CPU with bf16 instructions, one of 224 pixels 1.9 times faster on an Intel CPU with matrix units,
and a MobileNetV2 there a little slower. Compiling made VGG16's frozen part 1.5 times as fast there
and MobileNetV2's slower.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from ..core import devices, files
from ..core.devices import Machine
from ..core.words import many
from ..models.build import train_mode
from ..models.feature_store import Store, rows_at_once

_WORTH = 1.15  # so many times as fast as the first of the ways; less may be the hour's mood
_IMAGES, _PIXELS = 16, 4 * 224**2  # at once, at most, in a measurement, but 2 images at least
_LONG_STEPS = 6  # s; after two such no third is timed
_LONG = 300  # s of work; compiling VGG16's frozen part took 22 and saved a third
_OWN_TIME = "one thread's own time"
PRODUCTS = "matrix products"  # how what `matrix_rate` measured is called
FROZEN = "frozen part"  # and what `compiled` did


def fastest(model: nn.Module, machine: Machine, size: int, batch_size: int) -> Machine:
    """The way of this machine in which a model trains fastest.

    On a GPU it is the given one, and everywhere where the variable TLUTILS_MEASURE is 0. On a CPU,
    steps of training are timed in bf16 (where that is what the machine is made for) and in fp32,
    the latter in both layouts. Another way than fp32 in the given layout must be 1.15 times as
    fast, since bf16 rounds more coarsely. What was measured once is taken from a file in the
    user's cache. Where memory does not suffice to measure, it is the given one too.

    Parameters
    ----------
    model : nn.Module
        As it is to be trained, made by `build.build`; it stays as it is, as does torch's random
        state.
    machine : Machine, chosen by what the machine is made for, see `devices.choose`
    size : int, pixels a side
    batch_size : int, of training; 16 images at most are measured, 4 of 224 pixels

    Returns
    -------
    Machine, in all processes the same; its `why` tells what was measured, or why nothing was
    """
    if machine.device.type != "cpu" or os.environ.get("TLUTILS_MEASURE") == "0":
        return machine
    batch = min(batch_size, _IMAGES, max(2, _PIXELS // size**2))
    of = f"{model.tl['backbone']}, freeze {model.tl['freeze']}"
    what = f"{of}, {size} px, {batch} at once, {_OWN_TIME}; {_here(machine)}"

    def rate(way: Machine) -> float:
        return _images_per_second(model, way, size, batch)

    return devices.by_first(lambda: _by_measurement(what, _ways(machine), rate, machine))


def compiled(
    frozen: str, machine: Machine, views: int, stores: Callable[[Machine], dict[str, Store]]
) -> Machine:
    """Compile the frozen part of a network where that pays.

    That is on a CPU with a C++ compiler, unless the variable TLUTILS_MEASURE is 0, where it has
    minutes of work before it and runs 1.15 times as fast. It is timed as it is, and compiled only
    if that shows minutes; both are kept in a file in the user's cache. Or features are kept already
    that make one way the shorter. Where torch cannot compile, a warning says why.

    Parameters
    ----------
    frozen : str, the network and its last frozen layer
    machine : Machine, one that does not compile
    views : int, at most so many of each image are needed
    stores : Callable, the stores that a machine would fill, not begun; called in all processes

    Returns
    -------
    Machine, in all processes the same; its `why` tells what was measured
    """
    off = machine.device.type != "cpu" or os.environ.get("TLUTILS_MEASURE") == "0"
    if off or not devices.by_first(_has_compiler):
        return machine
    way = dataclasses.replace(machine, compiled=True)
    ways = {_name(machine): machine, _name(way): way}
    opened = {name: [*stores(one).values()] for name, one in ways.items()}

    def rate(one: Machine) -> float:
        return _prefix_rate(opened[_name(one)][0])

    def choose() -> Machine:
        plain, fast = (sum(one.lacking(views)[1] for one in found) for found in opened.values())
        if max(plain, fast) > _WORTH * min(plain, fast):  # one way, much is kept
            return machine if plain < fast else way
        size = opened[_name(way)][0].loader.settings["size"]
        of = f"{FROZEN} of {frozen}, {size} px, {_name(machine)}"
        what, rates = f"{of}, {_OWN_TIME}; {_here(machine)}", measured()
        if not (own := rates.get(what, {}).get(_name(machine))):
            _keep(what, {_name(machine): (own := rate(machine))})
        seconds = plain / own / torch.get_num_threads() / devices.world()
        if seconds < _LONG:
            return machine
        chosen = _by_measurement(what, ways, rate, machine)
        return dataclasses.replace(chosen, why=f"{machine.why}; {FROZEN}, {chosen.why}")

    return devices.by_first(choose)


def can_compile(machine: Machine) -> bool:
    """Whether torch can compile for a device, as it shows on a sum; where not, a warning says why.

    Parameters
    ----------
    machine : Machine

    Returns
    -------
    bool
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=machine.device))
    except Exception as error:  # of many kinds: no compiler, or one that fails
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"the model runs as it is, not compiled ({why})", stacklevel=4)
        return False
    return True


def measured() -> dict[str, dict[str, float]]:
    """What was measured on this machine so far.

    Returns
    -------
    dict of dict
        Images a second by the way ("bf16", "fp32", "fp32 in torch's layout", "bf16 compiled"), by
        what was trained or which `FROZEN`; GFLOP/s by the precision of `PRODUCTS`.
    """
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
        good = {
            what: {way: float(rate) for way, rate in of.items() if 0 < float(rate) < math.inf}
            for what, of in kept.items()
        }
        return {what: of for what, of in good.items() if of}
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError, OverflowError):
        return {}  # there is none yet, no home for it, or it is damaged; it is made anew


def in_words(rates: dict[str, float]) -> str:
    """Write rates by the way.

    Parameters
    ----------
    rates : dict of float

    Returns
    -------
    str

    Examples
    --------
    >>> in_words({"fp32": 0.873, "bf16": 1204.6})
    '0.873 in fp32, 1205 in bf16'
    """
    return ", ".join(
        f"{rate:.0f} in {way}" if rate >= 100 else f"{rate:.3g} in {way}"
        for way, rate in rates.items()
    )


def matrix_rate(machine: Machine) -> float:
    """How fast a machine multiplies square matrices in its precision, at its best so far.

    Measured anew in well under a second; a faster time is taken from the file in the user's cache,
    as others may be at work now.

    Parameters
    ----------
    machine : Machine

    Returns
    -------
    float, FLOP/s of the best of several products, 1,024 rows on a CPU and 4,096 elsewhere
    """
    n, way, took = 1024 if machine.device.type == "cpu" else 4096, machine.precision, []
    what = f"{PRODUCTS}, {n:,} rows; {_here(machine)}"
    one = torch.randn(n, n, generator=torch.Generator().manual_seed(0))
    one = one.to(machine.device, machine.dtype)
    for _ in range(6):
        started = time.perf_counter()
        (one @ one)[0, 0].item()  # which makes a GPU finish
        took.append(time.perf_counter() - started)
    now, kept = _rounded(2 * n**3 / min(took[1:]) / 1e9), measured().get(what, {})
    if now > kept.get(way, 0):
        kept[way] = now
        _keep(what, kept)
    return kept[way] * 1e9


def flops(net: nn.Module, shape: Sequence[int], train: bool = False) -> float:
    """Count a network's floating-point operations for one input, without computing anything.

    Parameters
    ----------
    net : nn.Module, it stays as it is
    shape : sequence of int, of one input
    train : bool, whether to count the way back to what is trained as well

    Returns
    -------
    float, of matrix products and convolutions alone
    """
    # They load triton, which takes its time.
    from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

    def back(out: Sequence[int], x: Sequence[int], weight: Sequence[int], *of, **_) -> int:
        """As much as forward for each that is wanted; torch's own formula forgets the groups."""
        transposed, wanted = of[4], of[7]
        return sum(wanted[:2]) * conv_flop_count(x, weight, out, transposed)

    on_meta = {
        name: value.detach().to("meta").requires_grad_(value.requires_grad)
        for name, value in (*net.named_parameters(), *net.named_buffers())
    }
    inputs = torch.empty(2, *shape, device="meta")  # BatchNorm wants two
    mapping = {torch.ops.aten.convolution_backward: back}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, torch.set_grad_enabled(train):
        outputs = torch.func.functional_call(net, on_meta, inputs)
        if train:
            outputs.sum().backward()
    return counter.get_total_flops() / 2


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tlutils" / "speed.json"


def _by_measurement(
    what: str, ways: dict[str, Machine], rate: Callable[[Machine], float], given: Machine
) -> Machine:
    """The fastest of the ways, or the first if that is nearly as fast."""
    own, rates = next(iter(ways)), measured().get(what, {})
    if rates.keys() != ways.keys():
        try:
            rates = {name: rate(way) for name, way in ways.items()}
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
            why = "not measured, as memory ran out in trying"
            return dataclasses.replace(given, why=why)
        if all(rates.values()):
            _keep(what, rates)
    best = max(rates, key=rates.get)
    best = best if rates[best] >= _WORTH * rates[own] else own
    why = f"images/s measured, by processor time: {in_words(rates)}"
    return dataclasses.replace(ways[best], why=why)


def _has_compiler() -> bool:
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # as torch looks for it
    return shutil.which(os.environ.get("CXX", usual)) is not None


def _here(machine: Machine) -> str:
    name, threads = devices.device_name(machine.device), torch.get_num_threads()
    return f"{name}, {many(threads, 'thread')}; torch {torch.__version__}"


def _keep(what: str, rates: dict[str, float]) -> None:
    """For the next time, where the cache can be written."""
    with (
        contextlib.suppress(OSError, RuntimeError),
        files.locked(_file().with_suffix(".lock"), "speeds", -1),
    ):
        files.write_json(_file(), measured() | {what: rates})


def _ways(machine: Machine) -> dict[str, Machine]:
    """By name, fp32 in the given layout first: bf16 rounds, and must be worth it."""
    fp32 = dataclasses.replace(machine, precision="fp32")
    ways = fp32, machine, dataclasses.replace(fp32, channels_last=False)
    return {_name(way): way for way in ways}


def _name(machine: Machine) -> str:
    layout = "" if machine.channels_last else " in torch's layout"
    return machine.precision + layout + " compiled" * machine.compiled


def _prefix_rate(store: Store) -> float:
    """Images a second of a frozen part as its store runs it; 0 where torch cannot compile it."""
    size = store.loader.settings["size"]
    images = torch.zeros(rows_at_once(size, store.machine), 1, size, size, dtype=torch.uint8)
    with _one_thread():  # torch compiles for so many, too
        if store.machine.compiled and not store.compiles():
            return 0.0
        return _rate(len(images), lambda: store.run_prefix(images))


def _images_per_second(model: nn.Module, machine: Machine, size: int, batch: int) -> float:
    rng = devices.rng_state(machine.device)

    def step() -> None:
        with machine.autocast():
            outputs = twin(images)
        outputs.float().square().mean().backward()

    try:
        with _one_thread():
            twin = train_mode(machine.place(copy.deepcopy(model)))
            images = machine.place(torch.rand(batch, 3, size, size))
            return _rate(batch, step)
    finally:
        devices.restore_rng_state(rng, machine.device)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Where others are at work, several wait for each other and count as busy."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _rate(images: int, step: Callable[[], object]) -> float:
    """Images a second of the better of two steps, of one where they are long, after a first one.

    By the processor's own time: a machine that is busy with other work may delay either way.
    """
    took = []
    while len(took) < 2 or (len(took) < 3 and sum(took) < _LONG_STEPS):
        started = time.process_time()
        step()
        took.append(time.process_time() - started)
    return _rounded(images / max(min(took[1:]), 1e-9))


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")  # not to a decimal, as a slow one would be none
