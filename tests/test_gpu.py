"""What only a CUDA device can show."""

import dataclasses
import json

import numpy as np
import patches
import pytest
import torch
import two_processes
from processes import python, torchrun

from tlutils.core import devices
from tlutils.data.augment import Augmentation
from tlutils.evaluation.predict import predict
from tlutils.models import checkpoints
from tlutils.models.build import build, train_mode
from tlutils.training import tuning
from tlutils.training.batches import Batches
from tlutils.training.loop import State, TrainingError, fit, step
from tlutils.training.options import Options

pytestmark = pytest.mark.gpu
VIEWS = Augmentation(crop=(0.7, 1.0), flip=0.5, brightness=0.1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Loaders of two classes of noise, one with a bright patch."""
    folder = tmp_path_factory.mktemp("images")
    return patches.parts(folder, patches.draw(folder, 96, 64, noise=(0, 120)), 64, at=64)


def train(parts, machine, freeze="all", head="linear", epochs=3, **more):
    model = build("resnet18", 2, head, freeze=freeze)
    options = Options(epochs=epochs, views=2, augmentation=VIEWS, patience=0)
    return fit(model, parts, options, machine=machine, show=False, log=None, **more)


@pytest.mark.parametrize("freeze", ["all", "none"])
def test_training_on_the_gpu_gives_what_the_cpu_gives(parts, freeze):
    columns = ["train_loss", "val_loss"]
    on = [
        train(parts, devices.choose(device, "fp32"), freeze).history[columns]
        for device in ("cpu", "cuda")
    ]
    assert np.allclose(*on, rtol=0.05, atol=0.01)


def test_the_store_on_the_gpu_gives_what_the_whole_model_gives(parts, tmp_path):
    machine = devices.choose("cuda", "fp32")
    with_store, without = train(parts, machine, store=tmp_path), train(parts, machine)
    assert with_store.history["where"].eq("store").all()
    assert np.allclose(with_store.history["val_loss"], without.history["val_loss"], rtol=0.01)


def test_views_are_the_same_pixels_on_the_gpu(parts):
    batch = next(iter(parts["train"]))
    here, there = (
        VIEWS.view(batch.images.to(device), batch.keys, 1, 0).cpu().int()
        for device in ("cpu", "cuda")
    )
    assert (here - there).abs().max() <= 1  # rounding of one grey level


def test_a_step_never_makes_the_host_wait_for_the_device(parts):
    machine, model = devices.choose("cuda"), build("resnet18", 2, "linear", freeze="none")
    train_mode(machine.place(model))
    state = State(model, model, Options(), machine, torch.ones(2))
    source = Batches(parts["train"], machine, (0.5,) * 3, (0.2,) * 3)
    inputs, labels, _ = next(source.batches(0))
    step(state, inputs, labels)  # the first one sets things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(state, inputs, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bf16_is_chosen_where_the_gpu_has_units_for_it():
    major = torch.cuda.get_device_capability()[0]
    assert devices.choose("cuda").precision == ("bf16" if major >= 8 else "fp32")


def test_fp32_is_fp32_on_the_gpu():
    """TF32 keeps 10 bits: its sums of 64 x 9 products are off by about 1e-3."""
    assert devices.choose("cuda", "fp32").describe()["tf32"] is False
    torch.manual_seed(0)
    images, weights = torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3) / 24
    exact = torch.nn.functional.conv2d(images.double(), weights.double())
    assert (
        torch.nn.functional.conv2d(images.cuda(), weights.cuda()).cpu() - exact
    ).abs().max() < 1e-4
    rows = torch.randn(256, 256)
    assert ((rows.cuda() @ rows.cuda()).cpu() - rows.double() @ rows.double()).abs().max() < 1e-3


@pytest.mark.parametrize("store", [None, "store"])
def test_a_run_that_was_stopped_goes_on_along_the_same_curve(parts, tmp_path, store):
    """With dropout, whose random numbers come from the GPU's own generator."""
    machine, settings = devices.choose("cuda"), {"head": "gap", "store": store and tmp_path / store}
    straight = train(parts, machine, epochs=4, **settings)
    train(parts, machine, epochs=2, checkpoint=tmp_path / "last.pt", **settings)
    torch.cuda.manual_seed(99)
    resumed = train(parts, machine, epochs=4, checkpoint=tmp_path / "last.pt", **settings)
    assert np.allclose(resumed.history["train_loss"], straight.history["train_loss"], rtol=1e-3)
    assert np.allclose(resumed.history["val_loss"], straight.history["val_loss"], rtol=1e-3)


def test_a_checkpoint_goes_from_cpu_to_gpu_and_back(parts, tmp_path):
    places = [devices.choose(name, "fp32") for name in ("cpu", "cuda", "cpu")]
    for epochs, machine in enumerate(places, 1):
        done = train(parts, machine, "none", epochs=epochs, checkpoint=tmp_path / "last.pt")
        assert next(done.model.parameters()).device == machine.device
    straight = train(parts, places[0], "none")
    assert np.allclose(
        done.history["train_loss"], straight.history["train_loss"], rtol=0.05, atol=0.01
    )
    saved = checkpoints.read(tmp_path / "last.pt")["state"]
    assert all(value.device.type == "cpu" for value in saved.values())


def test_a_model_comes_back_from_the_gpu_whole(parts):
    """Copies to the CPU that nobody waited for would be read before they have arrived."""
    model = build("vgg16", 2, "linear")
    before = checkpoints.copy_of_state(model)
    for _ in range(3):
        devices.choose("cuda").place(model)
        here = devices.choose("cpu", "fp32").place(model).state_dict()
        assert all(torch.equal(here[name], before[name]) for name in before)


def test_predictions_on_the_gpu_are_those_of_the_cpu(parts, tmp_path):
    model, loader = build("resnet18", 2, "linear"), parts["val"]
    loader.records["patient"] = ""
    on = [
        predict(model, loader, devices.choose(device, "fp32"), store=store)["p_patch"]
        for device in ("cpu", "cuda")
        for store in (None, tmp_path)
    ]
    assert all(np.allclose(on[0], other, atol=1e-3) for other in on[1:])
    assert loader.pinned  # the last one computed on the GPU


def test_micro_batch_auto_finds_what_fits_where_memory_really_runs_out(parts):
    """The batch is given so little memory that its activations do not fit at once."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    machine, whole = devices.choose("cuda", "fp32"), torch.cuda.mem_get_info()[1]
    model, inputs = build("vgg11", 2, "gap", freeze="none"), torch.randn(64, 3, 224, 224)
    train_mode(machine.place(model))
    state = State(model, model, Options(micro_batch="auto"), machine, torch.ones(2))
    inputs, labels = machine.place(inputs), torch.zeros(64, dtype=torch.long, device=machine.device)
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved() + 2**31) / whole
    )  # 2 GiB more
    try:
        totals = step(state, inputs, labels)
        peak = torch.cuda.max_memory_reserved()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 0 < state.micro < 64 and totals[2].item() == 64 and peak < 8 * 2**30
    with pytest.raises(TrainingError, match="memory ran out with 64 images.*micro_batch='auto'"):
        state.options, state.micro = Options(), 0
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**31) / whole)
        try:
            step(state, inputs, labels)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("freeze", ["all", "none"])
def test_a_compiled_net_trains_as_the_plain_one(parts, tmp_path, freeze):
    machine, store = devices.choose("cuda", "fp32"), tmp_path if freeze == "all" else None
    plain = train(parts, machine, freeze, store=store and tmp_path / "plain")
    compiling = dataclasses.replace(machine, compiled=True)
    compiled = train(parts, compiling, freeze, store=store and tmp_path / "compiled")
    assert np.allclose(
        compiled.history["val_loss"], plain.history["val_loss"], rtol=0.05, atol=0.01
    )


def test_the_learning_rate_finder_puts_the_gpus_random_numbers_back(parts):
    torch.cuda.manual_seed(5)
    wanted = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(5)
    model = build("resnet18", 2, "gap", freeze="none")
    tuning.find_learning_rate(
        model, parts["train"], machine=devices.choose("cuda"), steps=6, show=False
    )
    assert torch.equal(torch.rand(3, device="cuda"), wanted)


def test_with_deterministic_algorithms_two_trainings_are_bit_for_bit_the_same(tmp_path):
    """In processes of their own, as torch takes these settings before its first step on the GPU.

    Frozen up to layer1, so that no gradient passes the max-pooling, which has no deterministic one on a GPU.
    """
    script = """if True:
        import sys, hashlib, warnings
        from pathlib import Path
        import torch
        torch.use_deterministic_algorithms(True)
        import two_processes
        from tlutils.core import devices
        from tlutils.data import loaders
        from tlutils.models.build import build
        from tlutils.training.loop import fit
        warnings.simplefilter("ignore")
        folder = Path(sys.argv[1]) / "images"
        table = two_processes.images(folder)
        parts = {name: loaders.make(table, folder, ["noise", "patch"], 64, batch_size=13, workers=0)
                 for name in ("train", "val")}
        model = build("resnet18", 2, "gap", freeze="up to layer1")
        machine = devices.choose("cuda")
        assert not torch.backends.cudnn.benchmark
        fit(model, parts, epochs=3, machine=machine, show=False, log=None)
        digest = hashlib.sha256()
        for value in model.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
        print(digest.hexdigest())"""
    env = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    said = [python("-c", script, tmp_path, env=env).stdout for _ in range(2)]
    assert said[0] == said[1] and len(said[0].strip()) == 64


def test_as_many_processes_as_gpus_give_what_one_gives(tmp_path):
    """nccl, in the same checks as gloo (see test_distributed.py); with one GPU, one process through torchrun."""
    n = torch.cuda.device_count()
    python(*torchrun(two_processes.__file__, "cuda", tmp_path, processes=n))
    found = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(n)]
    for one in found:
        losses = one["parts_of_a_batch"]
        assert all(np.allclose(losses[name], losses["0"], atol=1e-3) for name in losses)
        assert np.allclose(
            one["unreadable_images"]["files"]["train_loss"],
            one["unreadable_images"]["store"]["train_loss"],
            atol=1e-3,
        )
        assert one["batchnorm"] == found[0]["batchnorm"] and one["patience"] >= 6
