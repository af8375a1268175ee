"""Epochs of `oct-vgg16` against the loop that every tutorial has: the whole network, every image, every epoch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
import torch
from common import SIZE, Result, images, loader, seconds
from PIL import Image
from prefix_speed import at_most
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from tlutils.core import devices
from tlutils.data import augment
from tlutils.models.build import build
from tlutils.runs import recipes
from tlutils.training.loop import fit
from tlutils.training.options import Options

NORMALISE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PLAIN = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), NORMALISE])
VARIED = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, (0.8, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        NORMALISE,
    ]
)


class Files(Dataset):
    """What a tutorial writes: open, convert, transform, one image at a time."""

    def __init__(self, table: pd.DataFrame, root: Path, transform: transforms.Compose) -> None:
        self.paths, self.labels, self.transform = (
            [root / p for p in table["path"]],
            table["label"].tolist(),
            transform,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        classes = ["CNV", "DME", "DRUSEN", "NORMAL"]
        return self.transform(Image.open(self.paths[i]).convert("RGB")), classes.index(
            self.labels[i]
        )


def plain_epoch(
    table: pd.DataFrame, root: Path, transform: transforms.Compose, model: nn.Module
) -> None:
    """The loop of Jain's article: fp32, two workers, forward through all of VGG16, Adam on what is trainable."""
    batches = DataLoader(Files(table, root, transform), batch_size=32, shuffle=True, num_workers=2)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()
    for pixels, labels in batches:
        optimizer.zero_grad()
        nn.functional.nll_loss(model(pixels), labels).backward()
        optimizer.step()


def plain_seconds(table: pd.DataFrame, root: Path, transform: transforms.Compose) -> list[float]:
    """Seconds of two epochs, one after the other."""
    model = build("vgg16", 4, "mlp", weights="random")
    return seconds(lambda: plain_epoch(table, root, transform, model), repeats=2)


def ours(
    table: pd.DataFrame, root: Path, views: int, epochs: int, augmentation: object, model: nn.Module
) -> pd.DataFrame:
    """The same with the feature store, filling it included; returns the history."""
    parts = {"train": loader(table, root, batch_size=128, shuffle=True)}
    options = Options(
        epochs=epochs, views=views, augmentation=augmentation, patience=0, monitor="train_loss"
    )
    with tempfile.TemporaryDirectory() as store:
        return fit(model, parts, options, store=store, log=None, show=False).history


def compare(
    name: str, what: str, goal: float, views: int, epochs: int, n: int, n_plain: int
) -> Result:
    """Both side by side. The plain loop does the same for each image and epoch, so one epoch of a part is scaled."""
    table, root = images(n)
    varied = views > 1
    augmentation = recipes.get("oct-vgg16").augmentation if varied else augment.Augmentation()
    model = build("vgg16", 4, "mlp", weights="random")
    plain = plain_seconds(table[:n_plain], root, VARIED if varied else PLAIN)
    whole = seconds(lambda: ours(table, root, views, epochs, augmentation, model))[0]
    scaled, limit = min(plain) / n_plain * n * epochs, at_most(model)
    return Result(
        name,
        what,
        goal,
        scaled / whole,
        ceiling=scaled / (n * views / limit),
        details={
            "matrix_products_images_per_s": limit,
            "images": n,
            "epochs": epochs,
            "views": views,
            "ours_s": whole,
            "plain_s_scaled": scaled,
            "plain_measured_images": n_plain,
            "plain_epoch_s": plain,
            "plain_images_per_s": n_plain / min(plain),
            "precision": devices.choose().precision,
        },
    )


def run(quick: bool) -> list[Result]:
    """Both rows."""
    n, part = (64, 16) if quick else (640, 64)
    return [
        compare(
            "ten epochs",
            "ten epochs of oct-vgg16 without augmentation, plain loop / store",
            40,
            1,
            10,
            n,
            part,
        ),
        compare(
            "twelve epochs, four views",
            "twelve epochs with views=4, plain loop / store",
            12,
            4,
            12,
            n,
            part,
        ),
    ]
