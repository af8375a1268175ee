"""What several processes do together, run by test_distributed.py alone and under torchrun:

    torchrun --standalone --nproc-per-node 2 tests/two_processes.py DEVICE FOLDER [CHECK...]

writes FOLDER/rank-<number>.json with what each check gave.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import patches
import torch
import torch.distributed as dist
from torch import nn

from tlutils.core import devices
from tlutils.data import loaders
from tlutils.runs import recipes
from tlutils.runs.folder import Run
from tlutils.runs.use import predict_records
from tlutils.training import loop
from tlutils.training.loop import Fit, _share_statistics
from tlutils.training.options import Options

DEVICE = "cpu"


def images(folder: Path) -> pd.DataFrame:
    """26 images; written once, by whoever comes first."""
    return patches.draw(folder, 26, 16)


def net(norm: bool = False) -> nn.Sequential:
    """Two convolutions, the first of them frozen, and a linear layer; the same in each process.

    No bias before a norm: its gradient is rounding alone, and Adam makes steps of it.
    """
    torch.manual_seed(0)
    norms = (nn.BatchNorm2d(4), nn.BatchNorm2d(4)) if norm else (nn.Identity(), nn.Identity())
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=not norm),
        norms[0],
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=not norm),
        norms[1],
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    model[:2].requires_grad_(False)
    model.tl = {}
    return model


class Hungry(nn.Module):
    """A net that has memory for 3 images in the last process, and says so as CUDA does."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.tl = inside, {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > 3 and devices.rank() == devices.world() - 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.inside(x)


def fit(model: nn.Module, folder: Path, train: pd.DataFrame, val: pd.DataFrame, **settings) -> Fit:
    """Three epochs in batches of 13, so that two processes have 7 and 6 images of each."""
    parts = {
        name: loaders.make(
            table.reset_index(drop=True),
            folder / "images",
            ["noise", "patch"],
            16,
            batch_size=13,
            workers=0,
            rank=devices.rank(),
            world=devices.world(),
        )
        for name, table in (("train", train), ("val", val))
    }
    store = settings.pop("store", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loop.fit(
            model,
            parts,
            Options(epochs=3, patience=0, learning_rate=0.02, **settings),
            machine=devices.choose(DEVICE, "fp32"),
            show=False,
            log=None,
            store=store,
        )


def parts_of_a_batch(folder: Path) -> dict:
    """Shares that go through in as many parts, or in different numbers of parts, or in fewer after memory ran out."""
    table = images(folder / "images")
    losses = {
        micro: fit(net(), folder, table, table, micro_batch=micro).history["train_loss"].tolist()
        for micro in (0, 3, 6)
    }
    return losses | {
        "auto": fit(Hungry(net()), folder, table, table, micro_batch="auto")
        .history["train_loss"]
        .tolist()
    }


def unreadable_images(folder: Path) -> dict:
    """Nothing of the second process's share of the first batch can be read, nor one image of the first's."""
    table = images(folder / "images")
    table.loc[[0, *range(1, 13, 2)], "path"] = "gone-" + table["path"]
    val = table[14:24].loc[np.repeat(range(14, 24), 2)].reset_index(drop=True)
    val.loc[1::2, "path"] = "gone-" + val["path"]  # the second process can read no validation image
    found = {}
    for name, store in (("files", None), ("store", folder / f"store-{devices.world()}")):
        done = fit(net(), folder, table, val, store=store, monitor="val_balanced_accuracy")
        found[name] = {
            column: done.history[column].tolist()
            for column in (
                "train_loss",
                "train_images",
                "val_loss",
                "val_images",
                "val_balanced_accuracy",
            )
        } | {"unreadable": [path for path, _ in done.unreadable]}
    return found


def stressed(folder: Path) -> dict:
    """Validation under changed acquisition, of which the second process can read no image."""
    table = images(folder / "images")
    val = table[14:24].loc[np.repeat(range(14, 24), 2)].reset_index(drop=True)
    val.loc[1::2, "path"] = "gone-" + val["path"]
    found = {}
    for name, store in (("files", None), ("store", folder / f"stressed-{devices.world()}")):
        done = fit(net(), folder, table, val, store=store, monitor="stress_auc", stress_views=3)
        columns = ("stress_loss", "stress_auc", "stress_images", "val_loss")
        found[name] = {column: done.history[column].tolist() for column in columns}
    return found


def unreadable_share(folder: Path) -> dict:
    """Predictions where the second process can read none of its images; and what is said where nobody can read one."""
    table = images(folder / "images")[:4].copy()
    table.loc[1::2, "path"] = "gone-" + table["path"]
    recipe = recipes.get("oct-vgg16").changed({"size": "16"})
    run = Run(folder, recipe, table, folder / "images", {"data": {"classes": ["noise", "patch"]}})

    def answers(table: pd.DataFrame) -> pd.DataFrame:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return predict_records(
                run, net(), table, "new", devices.choose(DEVICE, "fp32"), show=False
            )

    try:
        said = f"no error, but {len(answers(table[1::2]))} answers"
    except ValueError as error:
        said = str(error)
    return {"paths": answers(table)["path"].tolist(), "said": said}


def described(folder: Path) -> list:
    """What enters the last layer with each image, of which each process has seen its share; once from a store."""
    table, model = images(folder / "images"), net()
    recipe = recipes.get("oct-vgg16").changed({"size": "16"})
    run = Run(folder, recipe, table, folder / "images", {"data": {"classes": ["noise", "patch"]}})
    model.tl = {"head_name": "8"}
    machine, tables = devices.choose(DEVICE, "fp32"), []
    for store in (None, folder / f"described-{devices.world()}"):
        how = {"store": store, "describe": lambda images, features: pd.DataFrame(features)}
        tables.append(predict_records(run, model, table, "new", machine, False, **how))
    return [table[[0, 1, 2, 3]].round(4).to_numpy().tolist() for table in tables]


def batchnorm(folder: Path) -> dict:
    """Statistics of both kinds of BatchNorm after training, and what the model answers with them."""
    table, model = images(folder / "images"), net(norm=True)
    done = fit(model, folder, table, table)
    answers = model.cpu()(torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16))
    norm = nn.BatchNorm2d(1, device=DEVICE)
    norm.running_mean.fill_(2.0 * devices.rank())
    norm.running_var.fill_(1.0 + devices.rank())
    _share_statistics(nn.Sequential(norm))
    return {
        "val_loss": done.history["val_loss"].tolist(),
        "answers": answers.tolist(),
        "moving": [*model[4].running_mean.tolist(), *model[4].running_var.tolist()],
        "frozen": [*model[1].running_mean.tolist(), *model[1].running_var.tolist()],
        "shared": [norm.running_mean.item(), norm.running_var.item()],
    }


def patience(folder: Path) -> float:
    """Hours that a process waits for another."""
    group = dist.group.WORLD._get_backend(torch.device(DEVICE))
    store = dist.distributed_c10d._get_default_store()
    return min(group.options._timeout, store.timeout).total_seconds() / 3600


CHECKS = (
    parts_of_a_batch,
    unreadable_images,
    stressed,
    unreadable_share,
    described,
    batchnorm,
    patience,
)


if __name__ == "__main__":
    DEVICE, out, wanted = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    with devices.processes(DEVICE):
        found = {
            check.__name__: check(out) for check in CHECKS if check.__name__ in wanted or not wanted
        }
        (out / f"rank-{devices.rank()}.json").write_text(json.dumps(found))
