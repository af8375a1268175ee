"""From a model and a loader to the predictions table."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tlutils.core.devices import Machine
from tlutils.data import loaders, records
from tlutils.data.augment import Augmentation, normalize
from tlutils.evaluation import thresholds
from tlutils.evaluation.metrics import (
    compute_metrics,
)
from tlutils.evaluation.predict import predict
from tlutils.models.build import build, probabilities

CPU = Machine(torch.device("cpu"))


class Tiny(nn.Module):
    """Answers from the mean grey alone; `outputs` as in the real models."""

    def __init__(self, outputs=4, gain=1.0):
        super().__init__()
        self.frozen, self.dropout = nn.BatchNorm2d(3), nn.Dropout(0.9)
        self.last = nn.Linear(3, outputs)
        torch.manual_seed(0)
        nn.init.normal_(self.last.weight, std=gain)

    def forward(self, images):
        return self.last(self.dropout(self.frozen(images)).mean((2, 3)))


def loader_of(folder, **options):
    return loaders.make(records.scan(folder), folder, size=16, batch_size=7, **options)


def test_predictions_are_the_models_answers_to_each_image(tiny_folder):
    model, loader = Tiny(), loader_of(tiny_folder)
    predictions = predict(model, loader, CPU, split="val")
    assert predictions["path"].tolist() == loader.records["path"].tolist() and set(
        predictions["split"]
    ) == {"val"}
    assert list(predictions) == [
        "split",
        "path",
        "patient",
        "label",
        "predicted",
        "p_CNV",
        "p_DME",
        "p_DRUSEN",
        "p_NORMAL",
        "loss",
    ]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for row in (0, 17, 63):
        pixels = loaders.read_image(tiny_folder / predictions["path"][row], size=16).float() / 255
        with torch.no_grad():
            inputs = ((pixels.expand(3, -1, -1) - mean[:, None, None]) / std[:, None, None])[None]
            p = model.eval()(inputs).softmax(1)[0].numpy()
        scores = predictions.loc[row, [f"p_{name}" for name in loader.classes]].to_numpy(float)
        assert np.allclose(scores, p, atol=1e-5)
        true = loader.classes.index(predictions["label"][row])
        assert predictions["loss"][row] == pytest.approx(-np.log(p[true]), abs=1e-4)
        assert predictions["predicted"][row] == loader.classes[p.argmax()]


def test_a_shuffled_loader_changes_nothing(tiny_folder):
    model = Tiny()
    plain, mixed = (predict(model, loader_of(tiny_folder, shuffle=s), CPU) for s in (False, True))
    pd.testing.assert_frame_equal(plain, mixed)


def test_the_model_keeps_the_mode_of_each_of_its_parts(tiny_folder):
    model = Tiny()
    model.train()
    model.frozen.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, loader_of(tiny_folder), CPU)
    assert model.training and model.dropout.training and not model.frozen.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_mode_is_restored_after_a_failure_too(tiny_folder):
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 4)).train()
    with pytest.raises(RuntimeError):
        predict(model, loader_of(tiny_folder), CPU)
    assert model.training


def test_the_models_own_normalization_is_used(tiny_folder):
    model = Tiny().eval()
    usual = predict(model, loader_of(tiny_folder), CPU)
    model.tl = {"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}
    other = predict(model, loader_of(tiny_folder), CPU)
    assert not np.allclose(usual["p_CNV"], other["p_CNV"])


def test_an_unreadable_image_is_left_out_and_named(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "copy")
    bad = next((folder / "test" / "DME").iterdir())
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.warns(UserWarning, match=f"left out 1 of 64.*{bad.name}"):
        predictions = predict(Tiny(), loader_of(folder), CPU)
    assert len(predictions) == 63 and not predictions["path"].str.endswith(bad.name).any()


def test_images_without_labels_get_answers_and_no_loss(tiny_folder):
    table = records.scan(tiny_folder).assign(label="")
    loader = loaders.make(table, tiny_folder, ["CNV", "DME", "DRUSEN", "NORMAL"], size=16)
    predictions = predict(Tiny(), loader, CPU, split="new")
    assert (predictions["label"] == "").all() and predictions["loss"].isna().all()
    assert predictions["predicted"].isin(loader.classes).all()


def test_one_logit_gives_two_classes(tiny_folder):
    table = records.scan(tiny_folder)
    table = table[table["label"].isin(["CNV", "NORMAL"])].reset_index(drop=True)
    one = Tiny(outputs=1)
    two = Tiny(outputs=2)
    two.last.weight.data = torch.cat([torch.zeros(1, 3), one.last.weight.data])
    two.last.bias.data = torch.cat([torch.zeros(1), one.last.bias.data])
    made = [predict(model, loaders.make(table, tiny_folder, size=16), CPU) for model in (one, two)]
    pd.testing.assert_frame_equal(*made)
    assert thresholds.classes_of(made[0]) == ["CNV", "NORMAL"]


def test_a_loss_stays_finite_where_the_probability_is_0_in_float32(tiny_folder):
    predictions = predict(Tiny(gain=500.0), loader_of(tiny_folder), CPU)
    impossible = predictions[predictions["loss"] > 110]  # exp(-110) is 0 in float32
    assert len(impossible) and np.isfinite(predictions["loss"]).all()
    assert np.isfinite(compute_metrics(predictions, 20)["loss"])


def test_a_model_that_answers_nan_is_refused(tiny_folder):
    model = Tiny()
    model.last.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN for 64 of 64 images.*learning rate"):
        predict(model, loader_of(tiny_folder), CPU)


def test_a_loader_that_gives_images_twice_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="each once"):
        predict(Tiny(), loader_of(tiny_folder, weights=np.arange(64.0)), CPU)
    with pytest.raises(ValueError, match="each once"):
        predict(Tiny(), loader_of(tiny_folder, rank=0, world=2), CPU)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(tiny_folder):
    from tlutils.core import devices

    on_cpu = predict(Tiny(), loader_of(tiny_folder), CPU)
    on_gpu = predict(Tiny(), loader_of(tiny_folder), devices.choose("cuda", "fp32"))
    assert np.allclose(on_cpu["loss"], on_gpu["loss"], atol=1e-3)


def test_test_time_augmentation_is_the_mean_of_the_probabilities_of_the_views(tiny_folder):
    turned, loader = Augmentation(rotate=30, brightness=0.2), loader_of(tiny_folder)
    model = build("resnet18", 4, "linear", freeze="all").eval()
    found = predict(model, loader, CPU, views=2, augmentation=turned, seed=3)
    images, keys = (torch.cat(column) for column in list(zip(*loader_of(tiny_folder)))[0:3:2])
    shown = [images, *(turned.view(images, keys, number, 3) for number in (0, 1))]
    with torch.no_grad():
        wanted = torch.stack([probabilities(model(normalize(one))) for one in shown]).mean(0)
    columns = [f"p_{name}" for name in loader.classes]
    assert np.allclose(found[columns], wanted.numpy(), atol=1e-5)
    assert not np.allclose(found[columns], predict(model, loader, CPU)[columns], atol=1e-3)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_each_image_can_be_described_with_what_enters_the_head(kind, tiny_folder, tmp_path):
    model = build("resnet18", 4, kind, freeze="all").eval()
    entered = nn.Sequential(*list(model.children())[:-1], nn.Flatten())
    loader, turned = loader_of(tiny_folder), Augmentation(rotate=30)
    images = torch.cat([batch.images for batch in loader_of(tiny_folder)])
    with torch.no_grad():
        wanted = entered(normalize(images)).numpy()
    plain = predict(model, loader, CPU)

    def describe(images, features):
        return pd.DataFrame(np.c_[images.reshape(len(images), -1)[:, :3], features])

    for how in ({}, {"store": tmp_path}, {"views": 2, "augmentation": turned}):
        mixed = loader_of(tiny_folder, shuffle=True)
        found = predict(model, mixed, CPU, describe=describe, **how)
        assert (found[[0, 1, 2]].to_numpy() == images[:, 0, 0, :3].numpy()).all()
        assert np.allclose(found[list(range(3, 515))], wanted, atol=1e-4)
        assert list(found)[: len(plain.columns)] == list(plain)
    assert not any(module._forward_pre_hooks for module in model.modules())
