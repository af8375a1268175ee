"""What runs on a GPU runs without double precision, and without mixing or misreading two devices' memory.

The device is a stand-in (see other_device.py): its operations are torch's own, its refusals those of GPUs.
"""

import warnings

import numpy as np
import pytest
import torch
import two_processes
from other_device import NAME, There, there, waits

from tlutils.core import devices
from tlutils.data import loaders
from tlutils.data.augment import Augmentation
from tlutils.evaluation.predict import predict
from tlutils.inspection import attribution, errors
from tlutils.models import checkpoints
from tlutils.training import tuning
from tlutils.training.batches import Batches
from tlutils.training.loop import State, fit, step
from tlutils.training.options import Options

HERE, OTHER = devices.Machine(torch.device("cpu")), devices.Machine(NAME)
VIEWS = Augmentation(crop=(0.7, 1.0), flip=0.5, brightness=0.1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Loaders of the same 26 images for both sides."""
    folder = tmp_path_factory.mktemp("data") / "images"
    table = two_processes.images(folder)
    return {
        name: loaders.make(table, folder, ["noise", "patch"], 16, batch_size=13, workers=0)
        for name in ("train", "val")
    }


def dropout_net():
    """A net with both kinds of BatchNorm, and dropout, which draws random numbers."""
    model = two_processes.net(norm=True)
    model.insert(len(model) - 1, torch.nn.Dropout(0.5))
    return model


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.double(),
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3)[x.long()],
        lambda x: x.numpy(),
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: torch.ones(3).copy_(x, non_blocking=True),
        lambda x: torch.ones(3).to(NAME, non_blocking=True),
        lambda x: torch.zeros(3, dtype=torch.float64, device=NAME),
        lambda x: torch.tensor([1.0, 2.0], dtype=torch.float64, device=NAME),
    ],
)
def test_the_stand_in_refuses_what_gpus_refuse(wrong):
    with (
        there(),
        pytest.raises((TypeError, RuntimeError), match="float64|same device|numpy|non_blocking"),
    ):
        wrong(torch.ones(3, device=NAME))


@pytest.mark.parametrize("store", [None, "store"])
@pytest.mark.parametrize("micro", [0, 5])
def test_training_gives_what_the_cpu_gives(parts, tmp_path, store, micro):
    options = Options(epochs=3, views=2, augmentation=VIEWS, monitor="val_auc", micro_batch=micro)
    kept = []
    for machine in (HERE, OTHER):
        with there():
            done = fit(
                two_processes.net(norm=True),
                parts,
                options,
                machine=machine,
                show=False,
                log=None,
                store=store and tmp_path / store,
                class_weights="auto",
            )
            assert isinstance(next(done.model.parameters()), There) == (machine is OTHER)
            kept.append((done.history, checkpoints.copy_of_state(done.model)))
    (one, a), (two, b) = kept
    for column in ("train_loss", "train_images", "val_loss", "val_accuracy", "val_auc"):
        assert np.allclose(one[column], two[column], atol=1e-4), column
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_a_killed_run_goes_on_with_the_same_random_numbers(parts, tmp_path):
    settings = {"machine": OTHER, "show": False, "log": None, "patience": 0}
    with there():
        straight = fit(dropout_net(), parts, epochs=3, **settings)
        fit(dropout_net(), parts, epochs=2, checkpoint=tmp_path / "last.pt", **settings)
        torch.manual_seed(99)
        resumed = fit(dropout_net(), parts, epochs=3, checkpoint=tmp_path / "last.pt", **settings)
    assert resumed.history["train_loss"].equals(straight.history["train_loss"])


def test_what_the_checkpoint_of_one_device_holds_the_other_goes_on_from(parts, tmp_path):
    with there(), warnings.catch_warnings():
        for epochs, machine in enumerate((HERE, OTHER, HERE), 1):
            done = fit(
                two_processes.net(norm=True),
                parts,
                epochs=epochs,
                machine=machine,
                show=False,
                log=None,
                patience=0,
                checkpoint=tmp_path / "last.pt",
            )
        straight = fit(
            two_processes.net(norm=True),
            parts,
            epochs=3,
            machine=HERE,
            show=False,
            log=None,
            patience=0,
        )
    assert np.allclose(done.history["train_loss"], straight.history["train_loss"], atol=1e-5)


def test_predictions_and_maps_are_the_cpus_and_a_model_comes_back_from_there_whole(parts, tmp_path):
    model, image = dropout_net().eval(), loaders.read_image(parts["val"].root / "1.png", 16)[None]

    def all_of(machine):
        return (
            predict(model, parts["val"], machine)["p_patch"],
            predict(model, parts["val"], machine, store=tmp_path)["p_patch"],
            predict(model, parts["val"], machine, views=2, augmentation=VIEWS)["p_patch"],
            errors.top_k(model, image[0], ["noise", "patch"])["probability"],
            attribution.grad_cam(model, image),
            attribution.occlusion(model, image, window=8, target=[1]),
            attribution.random_weights_check(model, image[0]),
        )

    with there():
        before, on_it, after = [all_of(machine) for machine in (HERE, OTHER, HERE)]
    for one, two, three in zip(before, on_it, after, strict=True):
        assert np.allclose(one, two, atol=1e-5) and np.array_equal(one, three)


def test_the_learning_rate_finder_runs_there(parts):
    with there():
        curve = tuning.find_learning_rate(
            dropout_net(), parts["train"], machine=OTHER, steps=6, show=False
        )
    assert curve["suggested"].sum() == 1


def test_no_step_of_an_epoch_makes_the_host_wait(parts):
    with there():
        model = OTHER.place(dropout_net())
        state = State(model, model, Options(), OTHER, torch.ones(2))
        source = Batches(parts["train"], OTHER, (0.5,) * 3, (0.2,) * 3, VIEWS)
        waits.clear()
        for inputs, labels, _ in source.batches(0):
            step(state, inputs, labels)
        assert waits == []
        assert float(state.class_weights.sum()) == 2 and waits == ["_local_scalar_dense"]
