"""Fine-tuning all layers, 224 px: an epoch of ours against fastai's learner and against the plain loop in fp32."""

from __future__ import annotations

import pandas as pd
import torch
from common import SIZE, Result, Skip, images, loader, seconds
from torch import nn
from torch.utils.data import DataLoader
from training_speed import VARIED, Files

from tlutils.core import devices
from tlutils.data.augment import Augmentation
from tlutils.models.build import build
from tlutils.training import speed
from tlutils.training.loop import fit

BATCH = 16
GOALS = {"fastai": 4, "plain": 2}
WORDS = {"fastai": "fastai's fine-tuning epoch", "plain": "the plain loop's epoch in fp32"}


def learner(backbone: str, n: int):
    """fastai's learner of the same images, all layers unfrozen."""
    try:
        from fastai.vision.all import ImageDataLoaders, Learner, Resize, create_vision_model
        from torchvision import models
    except ImportError as error:
        raise Skip(f"fastai cannot be imported ({error}); make bench installs it") from error
    table, root = images(n)
    table = table[["path", "label"]].assign(valid=False)
    table = pd.concat([table, table[:8].assign(valid=True)], ignore_index=True)  # it wants some
    how = {"valid_col": "valid", "item_tfms": Resize(SIZE), "bs": BATCH, "num_workers": 2}
    data = ImageDataLoaders.from_df(table, root, **how)
    # As vision_learner does, which hands no cut on; fastai finds no pooling layer of MobileNetV2's.
    cut = -1 if backbone == "mobilenet_v2" else None
    architecture = getattr(models, backbone)
    return Learner(data, create_vision_model(architecture, data.c, pretrained=False, cut=cut))


def plain_epoch(model: nn.Module, n: int) -> None:
    """What a tutorial writes: fp32, torch's own layout, two workers, Adam on all weights."""
    table, root = images(n)
    batches = DataLoader(Files(table, root, VARIED), batch_size=BATCH, shuffle=True, num_workers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for pixels, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()


def our_epoch(model: nn.Module, machine: devices.Machine, n: int) -> None:
    """An epoch of `fit`, flips included."""
    table, root = images(n)
    parts = {"train": loader(table, root, batch_size=BATCH, shuffle=True)}
    views = {"views": 0, "augmentation": Augmentation(crop=(0.8, 1.0), flip=0.5)}
    still = {"machine": machine, "log": None, "show": False}
    fit(model, parts, epochs=1, patience=0, monitor="train_loss", **views, **still)


def compare(backbone: str, n: int, repeats: int) -> list[Result]:
    """The three turn by turn, so that all meet the same moods of the machine."""
    ours = build(backbone, 4, "linear", freeze="none", weights="random")
    plain = build(backbone, 4, "linear", freeze="none", weights="random")
    machine = speed.fastest(ours, devices.choose(), SIZE, BATCH)
    sides = {
        "ours": lambda: our_epoch(ours, machine, n),
        "plain": lambda: plain_epoch(plain, n),
    }
    skipped = ""
    try:
        theirs = learner(backbone, n)
        with theirs.no_bar(), theirs.no_logging():
            theirs.fit(1)  # the first epoch also sets things up

        def fastai_epoch() -> None:
            with theirs.no_bar(), theirs.no_logging():
                theirs.fit(1)

        sides["fastai"] = fastai_epoch
    except Skip as skip:
        skipped = str(skip)
    our_epoch(ours, machine, BATCH)
    took = {name: [] for name in sides}
    for _ in range(repeats):
        for name, epoch in sides.items():
            took[name] += seconds(epoch)
    details = {
        "images": n,
        "batch": BATCH,
        "precision": machine.precision,
        "channels_last": machine.channels_last,
        "why": machine.why,
        **{f"{name}_images_per_s": n / min(each) for name, each in took.items()},
        **{f"{name}_epochs_s": each for name, each in took.items()},
    }
    return [
        Result(
            f"fine-tuning {backbone} against {other}",
            f"{WORDS[other]} / ours, {backbone}, all layers, 224 px",
            goal,
            min(took[other]) / min(took["ours"]) if other in took else None,
            details=details,
            skipped="" if other in took else skipped,
        )
        for other, goal in GOALS.items()
    ]


def run(quick: bool) -> list[Result]:
    """Both networks, against both."""
    of = (16, 1) if quick else (96, 2)
    return [row for name in ("mobilenet_v2", "resnet18") for row in compare(name, *of)]
