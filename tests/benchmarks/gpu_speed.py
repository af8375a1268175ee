"""What a GPU should do: fine-tuning all of VGG16, and filling the store from JPEG files."""

from __future__ import annotations

import tempfile

import torch
from common import SIZE, Result, Skip, cuda, images, loader, seconds

from tlutils.models import feature_store
from tlutils.models.build import build, train_mode
from tlutils.models.prefix import split
from tlutils.training.loop import State, step
from tlutils.training.options import Options

GOALS = (
    ("fine-tuning on a GPU", "VGG16, all layers, 224 px, images/s", 4000),
    ("filling the store on a GPU", "from JPEG files, images/s", 8000),
)


def fine_tuning(quick: bool) -> Result:
    """Steps on a batch in the GPU's memory: forward, backward, optimizer."""
    machine, n = cuda(), 64 if quick else 256
    model = train_mode(machine.place(build("vgg16", 4, "mlp", freeze="none", weights="random")))
    state = State(model, model, Options(), machine, torch.ones(4))
    inputs = machine.place(torch.randn(n, 3, 224, 224))
    labels = torch.randint(0, 4, (n,), device=machine.device)

    def steps() -> None:
        for _ in range(10):
            step(state, inputs, labels)

    took = seconds(steps, 5, warm_up=steps)
    return Result(
        *GOALS[0],
        value=10 * n / min(took),
        unit="images/s",
        details={"batch": n, "ten_steps_s": took},
    )


def filling(quick: bool) -> Result:
    """The whole way from files to stored features."""
    machine, (table, root) = cuda(), images(256 if quick else 8192)
    prefix = split(build("vgg16", 4, "mlp", weights="random")).prefix
    with tempfile.TemporaryDirectory() as folder:
        first, store = (
            feature_store.open_store(
                f"{folder}/{i}", prefix, loader(table, root, batch_size=64), machine
            )
            for i in range(2)
        )
        store.run_prefix(
            torch.zeros(
                feature_store.CHUNK_ROWS, 1, SIZE, SIZE, dtype=torch.uint8, device=machine.device
            )
        )
        took = seconds(lambda: store.fill(0, show=False), warm_up=lambda: first.fill(0, show=False))
    return Result(
        *GOALS[1],
        value=len(table) / took[0],
        unit="images/s",
        details={"images": len(table), "s": took},
    )


def run(quick: bool) -> list[Result]:
    """Both rows; empty ones without a GPU."""
    rows = []
    for goal, measure in zip(GOALS, (fine_tuning, filling)):
        try:
            rows.append(measure(quick))
        except Skip as reason:
            rows.append(Result(*goal, unit="images/s", skipped=str(reason)))
    return rows
