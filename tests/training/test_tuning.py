"""The learning-rate finder, and the head before the rest."""

import numpy as np
import pandas as pd
import patches
import pytest
import torch

from tlutils.core import devices
from tlutils.data import loaders
from tlutils.evaluation.predict import predict
from tlutils.models import checkpoints
from tlutils.models.build import build
from tlutils.training import loop, tuning
from tlutils.training.options import Options

FP32 = devices.choose("cpu", "fp32")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Loaders of two classes of noise, one with a bright patch."""
    folder = tmp_path_factory.mktemp("images")
    return patches.parts(folder, patches.draw(folder, 64, 32, noise=(0, 120)), 32, at=48)


def resnet(freeze: str = "none"):
    return build("resnet18", 2, "linear", freeze=freeze)


def head_then_rest(model, parts, options, head_epochs, rate=1e-3, *, checkpoint=None, between=None):
    """Both parts, trained as `runs.train.fit` does."""
    how = {"machine": FP32, "show": False, "log": None}
    first = checkpoint and checkpoint.with_name("head.pt")
    alone = tuning.head_options(options, head_epochs, rate)
    with tuning.head_alone(model):
        head = loop.fit(model, parts, alone, checkpoint=first, **how)
    state = checkpoints.copy_of_state(model)
    if between:
        between()
    rest = loop.fit(model, parts, options, checkpoint=checkpoint, **how)
    return tuning.better_of(head, rest, state)


def find(model, parts, **settings):
    return tuning.find_learning_rate(
        model, parts["train"], Options(views=1), machine=FP32, show=False, **settings
    )


def test_the_finder_puts_the_model_and_the_random_state_back(parts):
    model = resnet()
    before = checkpoints.copy_of_state(model)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    find(model, parts, steps=8)
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_finder_rises_by_a_constant_factor_and_suggests_one_rate(parts):
    curve = find(resnet(), parts, low=1e-5, high=1e-1, steps=13)
    ratios = (curve["learning_rate"] / curve["learning_rate"].shift()).dropna()
    assert curve["learning_rate"].iloc[0] == pytest.approx(1e-5) and ratios.std() < 1e-9
    assert curve["suggested"].sum() == 1
    suggested = curve.loc[curve["suggested"], "learning_rate"].item()
    assert suggested < curve.loc[curve["smoothed"].iloc[4:].idxmin(), "learning_rate"]


@pytest.fixture
def after_a_lucky_batch(parts, monkeypatch):
    """What is found where the first batch alone had a low loss."""
    losses = [0.1] + [1.0] * 12 + [0.9, 0.8, 0.5, 0.4, 0.4, 0.6, 1.0]
    table = pd.DataFrame({"learning_rate": np.geomspace(1e-6, 1, 20), "loss": losses})
    monkeypatch.setattr(tuning, "_rising", lambda *_: table)
    return find(resnet(), parts)


def test_one_lucky_batch_at_the_start_is_no_suggestion(after_a_lucky_batch):
    found = after_a_lucky_batch
    assert 1e-3 < found.loc[found["suggested"], "learning_rate"].item() < 1e-1


def test_the_smoothed_loss_that_is_shown_is_lowest_where_the_suggestion_says(after_a_lucky_batch):
    found = after_a_lucky_batch
    lowest = found.loc[found["smoothed"].idxmin(), "learning_rate"]
    suggested = found.loc[found["suggested"], "learning_rate"].item()
    assert found["smoothed"].isna().sum() == 6
    assert suggested == pytest.approx(lowest / 10, rel=0.5)


def test_the_finder_stops_where_the_loss_runs_away(parts):
    curve = find(resnet(), parts, low=1e-3, high=1e4, steps=40)
    assert len(curve) < 40 and np.isfinite(curve["loss"]).all()


def test_the_finder_is_repeatable(parts):
    assert find(resnet(), parts, steps=6).equals(find(resnet(), parts, steps=6))


def test_the_head_is_trained_first_and_then_the_rest(parts, tmp_path):
    model = resnet("up to layer1")
    before = checkpoints.copy_of_state(model)
    done = head_then_rest(
        model,
        parts,
        Options(epochs=2, learning_rate=1e-3, views=1),
        head_epochs=3,
        checkpoint=tmp_path / "last.pt",
    )
    assert done.history["part"].tolist() == ["head"] * 3 + ["all"] * 2
    assert done.history["epoch"].tolist() == [1, 2, 3, 4, 5]
    head = checkpoints.read(tmp_path / "head.pt")
    assert set(head["optimizer"]["state"]) == {0, 1}  # weight and bias of fc alone had momenta
    moved = {
        name.split(".")[0]
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == ({"layer2", "layer3", "layer4", "fc"} if done.best_epoch > 3 else {"fc"})
    assert model.tl["freeze"] == "up to layer1"


def test_the_best_epoch_of_either_part_is_kept(parts):
    ruinous = Options(epochs=1, learning_rate=0.5, views=1)
    model = resnet()
    done = head_then_rest(model, parts, ruinous, head_epochs=4)
    assert done.history["part"][done.best_epoch - 1] == "head"
    alone = resnet("all")
    loop.fit(
        alone, parts, Options(epochs=4, views=1, patience=0), machine=FP32, show=False, log=None
    )
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), alone.state_dict().values())
    )


@pytest.mark.filterwarnings("ignore")
def test_a_part_that_saw_fewer_validation_images_loses_whatever_its_loss(parts):
    """In the first part only the validation images that are easiest for the model can be read."""
    folder, table = parts["val"].root, parts["val"].records.assign(patient="")
    model = resnet()
    val = loaders.make(table, folder, ["noise", "patch"], 32, batch_size=16, workers=0)
    hidden = predict(model, val, FP32).sort_values("loss")["path"].iloc[3:].tolist()
    for name in hidden:
        (folder / name).rename(folder / f"{name}.away")

    def bring_back():
        for name in hidden:
            (folder / f"{name}.away").rename(folder / name)

    done = head_then_rest(
        model,
        parts,
        Options(epochs=1, views=1, learning_rate=1e-9),
        head_epochs=1,
        rate=1e-9,
        between=bring_back,
    )
    assert done.history["val_images"].tolist() == [3, 16] and done.history["val_loss"].idxmin() == 0
    assert done.best_epoch == 2


def test_what_shall_learn_is_not_forgotten_when_the_heads_part_is_stopped(parts, monkeypatch):
    def stopped(*of):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "step", stopped)
    model = build("resnet18", 2, "linear", freeze="none", weights="random")
    with pytest.raises(KeyboardInterrupt):
        head_then_rest(model, parts, Options(epochs=1), head_epochs=1)
    assert model.tl["freeze"] == "none" and all(
        parameter.requires_grad for parameter in model.parameters()
    )
