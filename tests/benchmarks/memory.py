"""Training from a store of 84,484 x 4,096 numbers must not hold it in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from common import Result, loader

from tlutils.core import devices
from tlutils.models import feature_store, prefix
from tlutils.models.build import build, normalization, train_mode
from tlutils.training.loop import fit


def resident() -> dict[str, float]:
    """GB of this process in memory: its own, of files (which the system may drop), and the peak of both."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: int(lines[name].split()[0]) * 1024 / 1e9 for name in ("RssAnon", "RssFile", "VmHWM")
    }


def fill_with_noise(store: feature_store.Store) -> None:
    """Real pages of numbers, all marked as done, in place of hours of computing."""
    draw = np.random.default_rng(0)
    with open(store.folder / "features", "r+b") as file:
        for rows in store.chunks():
            noise = draw.standard_normal((len(rows), *store.shape), np.float32)
            file.write(
                (noise.view(np.uint32) >> 16).astype(np.uint16).tobytes()
                if store.dtype.itemsize == 2
                else noise.tobytes()
            )
    (store.folder / "done").write_bytes(bytes([feature_store.GOOD]) * store.n)


def run(quick: bool) -> list[Result]:
    """Peak memory of two epochs above the model's."""
    n = 4_000 if quick else 84_484
    table = pd.DataFrame(
        {
            "path": [f"{i}.jpeg" for i in range(n)],
            "patient": "",
            "split": "train",
            "label": np.resize(["CNV", "DME", "DRUSEN", "NORMAL"], n),
            "sha256": [f"{i:064x}" for i in range(n)],
            "problem": "",
        }
    )
    parts = {"train": loader(table, Path("."), size=64, batch_size=128, shuffle=True, workers=0)}
    model = build("vgg16", 4, "mlp", weights="random")
    machine = devices.choose()
    with tempfile.TemporaryDirectory() as folder:
        cut = prefix.split(train_mode(machine.place(model)))
        mean, std = normalization(model)
        fill_with_noise(
            feature_store.open_store(
                folder, cut.prefix, parts["train"], machine, mean=mean, std=std
            )
        )
        before = resident()
        fit(
            model,
            parts,
            epochs=2,
            views=1,
            patience=0,
            monitor="train_loss",
            machine=machine,
            store=folder,
            log=None,
            show=False,
        )
        after = resident()
        assert len(list(Path(folder).iterdir())) == 1, "training made a store of its own"
    above = after["VmHWM"] - before["RssAnon"] - before["RssFile"]
    return [
        Result(
            "memory of training",
            "peak GB above the model, 84,484 x 4,096 in the store",
            2,
            above,
            "GB",
            True,
            {"images": n, "before_gb": before, "after_gb": after},
        )
    ]
