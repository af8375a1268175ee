"""An epoch against what a user would pick instead: fastai's learner with a frozen VGG16-BN, on the same images."""

from __future__ import annotations

import tempfile

import pandas as pd
from common import SIZE, Result, Skip, images, loader, seconds
from prefix_speed import at_most
from torch import nn

from tlutils.models.build import build
from tlutils.training.loop import fit


def fastai_epoch(n: int) -> float:
    """Seconds of the second epoch of a frozen vision_learner (the first also sets things up)."""
    try:
        from fastai.vision.all import ImageDataLoaders, Resize, vision_learner
        from torchvision.models import vgg16_bn
    except ImportError as error:
        raise Skip(f"fastai cannot be imported ({error}); make bench installs it") from error
    table, root = images(n)
    table = table[["path", "label"]].assign(valid=False)
    table = pd.concat(
        [table, table[:8].assign(valid=True)], ignore_index=True
    )  # fastai wants some for validation
    data = ImageDataLoaders.from_df(
        table, root, valid_col="valid", item_tfms=Resize(SIZE), bs=32, num_workers=2
    )
    learner = vision_learner(data, vgg16_bn, pretrained=False)
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)
        return seconds(lambda: learner.fit(1))[0]


def our_epochs(n: int, model: nn.Module) -> list[float]:
    """Seconds of each epoch of the same backbone with a new head on its frozen, pooled maps."""
    table, root = images(n)
    parts = {"train": loader(table, root, batch_size=32, shuffle=True)}
    with tempfile.TemporaryDirectory() as store:
        done = fit(
            model,
            parts,
            epochs=6,
            views=1,
            patience=0,
            monitor="train_loss",
            store=store,
            log=None,
            show=False,
        )
    return done.history["seconds"].tolist()


def run(quick: bool) -> list[Result]:
    """First epoch and later ones."""
    n = 32 if quick else 64
    model = build("vgg16_bn", 4, "gap", weights="random")
    theirs, epochs = fastai_epoch(n), our_epochs(n, model)
    later = sorted(epochs[1:])[len(epochs[1:]) // 2]
    details = {"images": n, "fastai_epoch_s": theirs, "our_epochs_s": epochs}
    return [
        Result(
            "first epoch against fastai",
            "fastai's frozen epoch / our first one",
            15,
            theirs / epochs[0],
            ceiling=theirs / (n / at_most(model)),
            details=details,
        ),
        Result(
            "later epochs against fastai",
            "fastai's frozen epoch / our later ones",
            500,
            theirs / later,
            details=details,
        ),
    ]
