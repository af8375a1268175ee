"""Batches from files and from the store are the same batches."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tlutils.core import devices
from tlutils.data import loaders
from tlutils.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    normalize,
)
from tlutils.models import feature_store, prefix
from tlutils.models.build import build, train_mode
from tlutils.training.batches import Batches

FP32 = devices.choose("cpu", "fp32")
TURNED = Augmentation(flip=0.5, rotate=20)


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    """21 images of noise in batches of at most 8, so of 7, in a new order each epoch."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(21):
        Image.fromarray(draw.integers(0, 255, (32, 32), np.uint8)).save(folder / f"{i}.png")
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(21)], "label": ["a", "b", "c"] * 7})
    return loaders.make(table, folder, ["a", "b", "c"], 32, batch_size=8, shuffle=True, workers=0)


def of_files(loader, views=2, augmentation=TURNED):
    return Batches(loader, FP32, IMAGENET_MEAN, IMAGENET_STD, augmentation, views, 5)


def test_an_epoch_gives_each_image_once_in_the_view_of_that_epoch(loader):
    for epoch in range(3):
        batches = list(of_files(loader).batches(epoch))
        assert [n for _, _, n in batches] == [7, 7, 7]
        order = np.concatenate(list(loader.sampler.batches()))
        images = torch.stack(
            [loaders.read_image(loader.root / loader.records["path"][row], 32) for row in order]
        )
        wanted = normalize(TURNED.view(images, loader.keys_of(order), epoch % 2, 5))
        assert torch.equal(torch.cat([inputs for inputs, _, _ in batches]), wanted)
        assert torch.equal(torch.cat([labels for _, labels, _ in batches]), loader.labels[order])


def test_views_0_means_a_new_view_each_epoch(loader):
    assert [Batches(loader, FP32, (0,), (1,), views=0).view_of(epoch) for epoch in (0, 1, 7)] == [
        0,
        1,
        7,
    ]
    assert [Batches(loader, FP32, (0,), (1,), views=3).view_of(epoch) for epoch in (0, 1, 7)] == [
        0,
        1,
        1,
    ]


def test_the_store_gives_what_the_prefix_says_of_the_same_batches(loader, tmp_path):
    cut = prefix.split(train_mode(build("resnet18", 3, "linear", weights="random")))
    how = {"machine": FP32, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    how |= {"augmentation": TURNED, "views": 2, "seed": 5}
    store = feature_store.open_store(tmp_path, cut.prefix, loader, **how)
    stored = Batches(loader, **how, store=store)
    for epoch in (0, 1, 2):
        assert (stored.prepare(epoch, False) > 0) == (epoch < 2)
        for (kept, labels, n), (inputs, same, m) in zip(
            stored.batches(epoch), of_files(loader).batches(epoch), strict=True
        ):
            with torch.no_grad():
                assert torch.allclose(kept, cut.prefix.eval()(inputs), atol=1e-4)
            assert torch.equal(labels, same) and n == m
