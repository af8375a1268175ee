"""The frozen prefix: fed from files against fed from memory, and against the machine's own matrix products."""

from __future__ import annotations

import tempfile

import torch
from common import SIZE, Result, images, loader, seconds, summed_up
from torch.utils.flop_counter import FlopCounterMode

from tlutils.core import devices
from tlutils.data.augment import normalize
from tlutils.models import feature_store
from tlutils.models.build import build
from tlutils.models.prefix import Split, split
from tlutils.training import speed


def matrix_rate(machine: devices.Machine, n: int = 4096) -> float:
    """FLOP/s of products of square matrices in the machine's precision, the best of several."""
    a, b = (torch.randn(n, n, device=machine.device, dtype=machine.dtype) for _ in range(2))
    return 2 * n**3 / min(seconds(lambda: a @ b, 7, warm_up=lambda: a @ b))


def flops_of(prefix: torch.nn.Module) -> float:
    """Floating-point operations for one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        prefix(normalize(torch.zeros(1, 1, SIZE, SIZE, dtype=torch.uint8)))
    return counter.get_total_flops()


def at_most(model: torch.nn.Module) -> float:
    """Images/s of a model's frozen prefix if all of it ran as fast as the machine's matrix products."""
    return matrix_rate(devices.choose()) / flops_of(split(model).prefix.eval())


def as_a_run_of(n: int, cut: Split) -> devices.Machine:
    """The machine of a training on n images, which compiles the prefix where that pays."""
    source = loader(*images(n))

    def stores(machine: devices.Machine) -> dict[str, feature_store.Store]:
        return {"train": feature_store.open_store("none", cut.prefix, source, machine, begin=False)}

    return speed.compiled(f"vgg16 up to {cut.name}", devices.choose(), 1, stores)


def filling(machine: devices.Machine, cut: Split, n: int, repeats: int) -> tuple[Result, float]:
    """Filling a store from JPEG files against the same prefix on a tensor in memory; and the latter's images/s."""
    table, root = images(n)
    source = loader(table, root, batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        stores = [
            feature_store.open_store(f"{folder}/{i}", cut.prefix, source, machine)
            for i in range(repeats)
        ]
        pixels = torch.cat([batch.images for batch in source.reader(stores[0].chunks())]).split(
            feature_store.CHUNK_ROWS
        )
        alone, filled = [], []
        for store in stores:  # turn by turn, so that both meet the same moods of the machine
            store.run_prefix(pixels[0])
            alone += seconds(lambda store=store: [store.run_prefix(part) for part in pixels])
            filled += seconds(lambda store=store: store.fill(0, show=False))
    ratio = summed_up(alone)["median"] / summed_up(filled)["median"]
    goal = 0.95 if machine.device.type == "cuda" else 0.9
    return Result(
        "filling the store",
        "prefix alone in memory / filling the store from JPEG files",
        goal,
        ratio,
        details={
            "images": n,
            "compiled": machine.compiled,
            "alone_s": summed_up(alone),
            "filled_s": summed_up(filled),
            "alone_images_per_s": n / min(alone),
            "filled_images_per_s": n / min(filled),
        },
    ), n / min(alone)


def run(quick: bool) -> list[Result]:
    """Both rows."""
    cut = split(build("vgg16", 4, "mlp", weights="random"))
    machine = as_a_run_of(64 if quick else 100_000, cut)
    row, rate = filling(machine, cut, *((64, 1) if quick else (320, 3)))
    flops, products = flops_of(cut.prefix.eval()), matrix_rate(machine, 1024 if quick else 4096)
    return [
        row,
        Result(
            "the prefix's arithmetic",
            "prefix / matrix products of the machine, FLOP/s",
            0.8,
            rate * flops / products,
            details={
                "gflop_per_image": flops / 1e9,
                "prefix_tflops": rate * flops / 1e12,
                "matrix_tflops": products / 1e12,
                "precision": machine.precision,
                "compiled": machine.compiled,
                "why": machine.why,
            },
        ),
    ]
