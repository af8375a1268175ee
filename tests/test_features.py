"""The frozen part is found, run once, and kept."""

import multiprocessing
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from tlutils import devices, features, loaders, models
from tlutils.augment import Augmentation, normalise, view

FP32 = devices.choose("cpu", "fp32")
VIEWS = Augmentation(crop=(0.7, 1.0), flip=0.5)


@pytest.fixture
def table(tmp_path):
    draw = np.random.default_rng(0)
    for i in range(150):
        Image.fromarray(draw.integers(0, 255, (32, 32), np.uint8)).save(tmp_path / f"{i}.png")
    return pd.DataFrame({"path": [f"{i}.png" for i in range(150)], "label": ["a", "b"] * 75})


@pytest.fixture
def loader(table, tmp_path):
    return loaders.make(table, tmp_path, size=32, batch_size=16, workers=0)


@pytest.fixture(scope="module")
def resnet():
    return models.build("resnet18", 3, "gap", freeze="all")


def store_of(folder, prefix, loader, **changes):
    arguments = {"machine": FP32, "augmentation": VIEWS, "views": 2, "seed": 0} | changes
    return features.open_store(folder, prefix, loader, **arguments)


def cut_points():
    return [("vgg16", "article", "all", "classifier.1"), ("vgg16", "gap", "all", "avgpool"),
            ("vgg16_bn", "linear", "up to features", "avgpool"), ("resnet18", "gap", "all", "avgpool"),
            ("resnet18", "linear", "up to layer3", "layer3.1.relu"), ("resnet18", "linear", "up to bn1", "bn1"),
            ("mobilenet_v2", "linear", "all", "features.18.2"), ("densenet121", "gap", "all", None)]


@pytest.mark.parametrize(("backbone", "head", "freeze", "layer"), cut_points())
def test_the_cut_lies_after_the_last_frozen_deterministic_layer(backbone, head, freeze, layer):
    with torch.device("meta"):
        model = models.build(backbone, 4, head, freeze=freeze, device="meta")
    cut = features.split(model)
    assert cut is not None and not any(p.requires_grad for p in cut.prefix.parameters())
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in cut.tail.parameters() if p.requires_grad}
    if layer == "classifier.1":
        assert cut.name in ("classifier.0", "classifier.1")
    elif layer and layer != "bn1":
        assert cut.name.startswith(layer.split(".")[0])


@pytest.mark.parametrize(("backbone", "head", "size"), [("resnet18", "gap", 64), ("mobilenet_v2", "article", 64),
                                                        ("efficientnet_b0", "linear", 64)])
def test_tail_of_prefix_is_the_model(backbone, head, size):
    model = models.build(backbone, 3, head, freeze="all").eval()
    cut = features.split(model)
    x = torch.randn(2, 3, size, size)
    assert torch.equal(cut.tail(cut.prefix(x)), model(x))


@pytest.mark.parametrize("freeze", ["up to layer2", "up to layer2.0.bn1"])
def test_a_cut_inside_a_residual_net_lies_where_one_tensor_passes(freeze):
    model = models.build("resnet18", 3, "linear", freeze=freeze).eval()
    cut = features.split(model)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(cut.tail(cut.prefix(x)), model(x))


def test_where_nothing_is_frozen_there_is_no_cut():
    assert features.split(models.build("resnet18", 3, "linear", freeze="none")) is None


def test_a_model_that_cannot_be_traced_is_run_whole():
    class Moody(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x
    assert features.split(Moody()) is None


def test_what_is_read_is_what_the_prefix_says_of_the_view(loader, resnet, tmp_path):
    prefix = features.split(resnet).prefix
    store = store_of(tmp_path / "s", prefix, loader)
    for number in (0, 1):
        assert store.fill(number)
        batch = next(loader.reader([np.array([3, 149, 64])]))
        images = view(batch.images, batch.keys, number, 0, VIEWS)
        with torch.inference_mode():
            expected = prefix.eval()(normalise(images))
        assert torch.allclose(store.read(number, np.array([3, 149, 64])), expected, atol=1e-5)


def test_a_full_store_is_not_computed_again(loader, resnet, tmp_path):
    prefix = features.split(resnet).prefix
    store_of(tmp_path / "s", prefix, loader).fill(0)
    again = store_of(tmp_path / "s", prefix, loader)
    assert again.fill(0) is False and again.computed == 0


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_store_cut_off_at_any_chunk_goes_on(loader, resnet, tmp_path, stop_after):
    prefix = features.split(resnet).prefix
    whole = store_of(tmp_path / "whole", prefix, loader)
    whole.fill(0)
    cut_off = store_of(tmp_path / "part", prefix, loader)
    write, calls = cut_off._write, []

    def failing(*chunk):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(chunk)
        write(*chunk)
    cut_off._write = failing
    with pytest.raises(KeyboardInterrupt):
        cut_off.fill(0)
    resumed = store_of(tmp_path / "part", prefix, loader)
    assert resumed.done()[0].sum() == stop_after
    resumed.fill(0)
    rows = np.arange(150)
    assert resumed.computed == 150 - 64 * stop_after
    assert torch.equal(resumed.read(0, rows), whole.read(0, rows))


def change_a_file(loader, **_):
    path = loader.root / "7.png"
    Image.fromarray(np.zeros((33, 33), np.uint8)).save(path)


CHANGES = {
    "seed": {"seed": 1}, "views": {"views": 3}, "augmentation": {"augmentation": Augmentation()},
    "normalisation": {"mean": (0, 0, 0), "std": (1, 1, 1)}, "precision": {"machine": devices.choose("cpu", "bf16")},
}


@pytest.mark.parametrize("what", [*CHANGES, "weights", "size", "images", "file"])
def test_a_change_of_anything_it_depends_on_makes_a_new_store(what, loader, table, resnet, tmp_path):
    prefix = features.split(resnet).prefix
    first = store_of(tmp_path / "s", prefix, loader).folder
    if what == "weights":
        prefix = features.split(models.build("resnet18", 3, "gap", freeze="all", seed=1)).prefix
    if what == "size":
        loader = loaders.make(table, tmp_path, size=48)
    if what == "images":
        loader = loaders.make(table.iloc[:-1], tmp_path, size=32)
    if what == "file":
        change_a_file(loader)
    assert store_of(tmp_path / "s", prefix, loader, **CHANGES.get(what, {})).folder != first


def test_bf16_features_are_near_fp32_features(loader, resnet, tmp_path):
    prefix = features.split(resnet).prefix
    exact, fast = (store_of(tmp_path / "s", prefix, loader, machine=devices.choose("cpu", p)) for p in ("fp32", "bf16"))
    exact.fill(0), fast.fill(0)
    a, b = exact.read(0, np.arange(150)), fast.read(0, np.arange(150)).float()
    assert fast.dtype == torch.bfloat16 and (a - b).norm() / a.norm() < 0.02


def test_an_unreadable_image_is_a_row_of_nan_that_is_named(loader, resnet, tmp_path):
    (tmp_path / "5.png").write_bytes(b"broken")
    store = store_of(tmp_path / "s", features.split(resnet).prefix, loader)
    store.fill(0)
    assert store.bad().tolist() == [5] and loader.unreadable[0][0] == "5.png"
    assert not store.read(0, np.array([4, 6])).isnan().any()


def test_too_little_disk_is_said_before_anything_is_written(loader, resnet, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**26 + 1000))
    with pytest.raises(OSError, match="--store none"):
        store_of(tmp_path / "s", features.split(resnet).prefix, loader)
    assert list((tmp_path / "s").iterdir()) == []


def _fill(folder, data, queue):
    torch.set_num_threads(1)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(150)], "label": ["a", "b"] * 75})
    prefix = features.split(models.build("resnet18", 3, "gap", freeze="all")).prefix
    store = store_of(folder, prefix, loaders.make(table, data, size=32, workers=0))
    store.fill(0)
    queue.put(store.read(0, np.arange(150)).sum(1).tolist())


def test_two_runs_may_fill_one_store_at_once(table, resnet, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    both = [context.Process(target=_fill, args=(tmp_path / "s", tmp_path, queue)) for _ in range(2)]
    for process in both:
        process.start()
    first, second = queue.get(timeout=120), queue.get(timeout=120)
    for process in both:
        process.join()
    assert len(list((tmp_path / "s").iterdir())) == 1
    assert np.allclose(first, second, rtol=1e-4) and not np.isnan(first).any()


def test_how_many_images_pass_at_once_changes_nothing(tmp_path, loader, resnet, monkeypatch):
    cut = features.split(resnet)
    together = store_of(tmp_path / "together", cut.prefix, loader)
    monkeypatch.setattr(features, "CPU_PIXELS", 3 * 32**2)
    in_threes = store_of(tmp_path / "threes", cut.prefix, loader)
    for store in (together, in_threes):
        store.fill(0)
    rows = np.arange(150)
    torch.testing.assert_close(in_threes.read(0, rows), together.read(0, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [64, 75])
def test_what_stands_in_for_pooling_gives_the_same_numbers(size):
    bf16 = devices.choose("cpu", "bf16")
    model = models.build("vgg16", 3, "gap", freeze="all").eval()
    prefix = features.split(model).prefix
    fast = features.ready(prefix, bf16)
    kinds = [type(module).__name__ for module in fast.modules()]
    assert kinds.count("_Halve") == 5 and "MaxPool2d" not in kinds
    x = bf16.place(torch.randn(2, 3, size, size))
    with torch.inference_mode(), bf16.autocast():
        assert torch.equal(fast(x), bf16.place(prefix)(x))


def test_what_another_store_holds_of_an_image_is_copied(table, resnet, tmp_path):
    prefix = features.split(resnet).prefix
    def over(rows):
        return loaders.make(table.iloc[rows], tmp_path, size=32, workers=0)
    first = store_of(tmp_path / "s", prefix, over(range(100)))
    first.fill(0)
    mixed = [149, 99, *range(20, 90), 120, 0]  # another order, and some that are new
    second = store_of(tmp_path / "s", prefix, over(mixed), views=5)
    assert second.to_copy(0) == 72 and second.to_copy(1) == 0
    second.fill(0)
    assert (second.copied, second.computed, second.to_copy(0)) == (72, 2, 0)
    alone = store_of(tmp_path / "alone", prefix, over(mixed))
    alone.fill(0)
    rows = np.arange(len(mixed))
    torch.testing.assert_close(second.read(0, rows), alone.read(0, rows), rtol=1e-4, atol=1e-5)
    assert torch.equal(second.read(0, np.array([1, 73])), first.read(0, np.array([99, 0])))


@pytest.mark.parametrize("what", ["seed", "augmentation", "normalisation", "precision", "weights", "file", "unfinished"])
def test_nothing_is_copied_that_could_differ(what, table, loader, resnet, tmp_path):
    prefix = features.split(resnet).prefix
    first = store_of(tmp_path / "s", prefix, loaders.make(table.iloc[7:8], tmp_path, size=32, workers=0))
    if what != "unfinished":
        first.fill(0)
    if what == "weights":
        prefix = features.split(models.build("resnet18", 3, "gap", freeze="all", seed=1)).prefix
    if what == "file":
        change_a_file(loader)
    assert store_of(tmp_path / "s", prefix, loader, **CHANGES.get(what, {})).to_copy(0) == 0


def test_a_picture_shown_as_it_is_is_known_by_its_content_alone(table, resnet, tmp_path):
    prefix, plain = features.split(resnet).prefix, Augmentation()
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "3.png", tmp_path / "b" / "other.png")
    one = pd.DataFrame({"path": ["3.png"], "label": ["a"], "sha256": ["c0ffee"]})
    for augmentation, computed in ((plain, 0), (VIEWS, 1)):
        folder = tmp_path / f"s{computed}"
        store_of(folder, prefix, loaders.make(one, tmp_path, size=32), augmentation=augmentation).fill(0)
        elsewhere = loaders.make(one.assign(path="other.png"), tmp_path / "b", size=32)
        again = store_of(folder, prefix, elsewhere, augmentation=augmentation, seed=5)
        again.fill(0)
        assert again.computed == computed
