"""What only a CUDA device can show."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tlutils import augment, devices, loaders, models, training
from tlutils.augment import Augmentation
from tlutils.batches import FileBatches
from tlutils.training import Options
from tlutils.training_state import State

pytestmark = pytest.mark.gpu
VIEWS = Augmentation(crop=(0.7, 1.0), flip=0.5, brightness=0.1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Loaders of two classes of noise, one with a bright patch."""
    folder, draw, rows = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for i in range(96):
        pixels = draw.integers(0, 120, (64, 64))
        pixels[16:40, 16:40] += 90 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        rows.append({"path": f"{i}.png", "label": "patch" if i % 2 else "noise"})
    table = pd.DataFrame(rows)
    return {"train": loaders.make(table[:64], folder, ["noise", "patch"], 64, batch_size=16, shuffle=True, workers=0),
            "val": loaders.make(table[64:], folder, ["noise", "patch"], 64, batch_size=16, workers=0)}


def train(parts, machine, freeze="all", store=None):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the validation set has")
        model = models.build("resnet18", 2, "linear", freeze=freeze)
        return training.fit(model, parts, Options(epochs=3, views=2, augmentation=VIEWS), machine=machine, store=store,
                            show=False, log=None)


@pytest.mark.parametrize("freeze", ["all", "none"])
def test_training_on_the_gpu_gives_what_the_cpu_gives(parts, freeze):
    columns = ["train_loss", "val_loss"]
    on = [train(parts, devices.choose(device, "fp32"), freeze).history[columns] for device in ("cpu", "cuda")]
    assert np.allclose(*on, rtol=0.05, atol=0.01)


def test_the_store_on_the_gpu_gives_what_the_whole_model_gives(parts, tmp_path):
    machine = devices.choose("cuda", "fp32")
    with_store, without = train(parts, machine, store=tmp_path), train(parts, machine)
    assert with_store.history["where"].eq("store").all()
    assert np.allclose(with_store.history["val_loss"], without.history["val_loss"], rtol=0.01)


def test_views_are_the_same_pixels_on_the_gpu(parts):
    batch = next(iter(parts["train"]))
    here, there = (augment.view(batch.images.to(device), batch.keys, 1, 0, VIEWS).cpu().int()
                   for device in ("cpu", "cuda"))
    assert (here - there).abs().max() <= 1  # rounding of one grey level


def test_a_step_never_makes_the_host_wait_for_the_device(parts):
    machine, model = devices.choose("cuda"), models.build("resnet18", 2, "linear", freeze="none")
    models.train_mode(machine.place(model))
    state = State(model, model, Options(), machine)
    weights = torch.ones(2, device=machine.device)
    inputs, labels, _ = next(FileBatches(parts["train"], machine, (0.5,) * 3, (0.2,) * 3).batches(0))
    training.step(model, inputs, labels, state, weights, machine)  # the first one sets things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.step(model, inputs, labels, state, weights, machine)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bf16_is_chosen_where_the_gpu_has_units_for_it():
    major = torch.cuda.get_device_capability()[0]
    assert devices.choose("cuda").precision == ("bf16" if major >= 8 else "fp32")
