"""The frozen part is found, run once, and kept."""

import contextlib
import copy
import dataclasses
import hashlib
import io
import os
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from processes import together, warm
from torch import nn

from tlutils.core import devices
from tlutils.data import loaders
from tlutils.data.augment import Augmentation, normalize
from tlutils.evaluation.acquisition import Acquisition
from tlutils.evaluation.predict import predict, predict_changed
from tlutils.models import checkpoints, feature_store
from tlutils.models.build import build
from tlutils.models.prefix import split
from tlutils.training import loop

FP32 = devices.choose("cpu", "fp32")


VIEWS = Augmentation(crop=(0.7, 1.0), flip=0.5)


@pytest.fixture(scope="module")
def drawn():
    """The content of 150 files."""
    draw, content = np.random.default_rng(0), []
    for _ in range(150):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (32, 32), np.uint8)).save(file, "PNG")
        content.append(file.getvalue())
    return content


@pytest.fixture
def table(drawn, tmp_path):
    for i, content in enumerate(drawn):
        (tmp_path / f"{i}.png").write_bytes(content)
    return table_of(150)


def table_of(n):
    return pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "label": ["a", "b"] * (n // 2)})


@pytest.fixture
def loader(table, tmp_path):
    return loaders.make(table, tmp_path, size=32, batch_size=16, workers=0)


@pytest.fixture(scope="module")
def net():
    return build("shufflenet_v2_x0_5", 3, "gap", freeze="all")


def store_of(folder, prefix, loader, **changes):
    arguments = {"machine": FP32, "augmentation": VIEWS, "views": 2, "seed": 0} | changes
    return feature_store.open_store(folder, prefix, loader, **arguments)


def test_what_is_read_is_what_the_prefix_makes_of_the_view(loader, net, tmp_path):
    prefix = split(net).prefix
    store = store_of(tmp_path / "s", prefix, loader)
    for number in (0, 1):
        assert store.fill(number)
        batch = next(loader.reader([np.array([3, 149, 64])]))
        images = VIEWS.view(batch.images, batch.keys, number, 0)
        with torch.inference_mode():
            expected = prefix.eval()(normalize(images))
        assert torch.allclose(store.read(number, np.array([3, 149, 64])), expected, atol=1e-5)


def test_a_full_store_is_not_computed_again(loader, net, tmp_path):
    prefix = split(net).prefix
    store_of(tmp_path / "s", prefix, loader).fill(0)
    again = store_of(tmp_path / "s", prefix, loader)
    assert again.fill(0) is False and again.computed == 0


def complete_chunks(store):
    marks = store.marks()[0] > 0
    return [bool(marks[rows].all()) for rows in store.chunks()]


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_store_cut_off_at_any_chunk_goes_on(loader, net, tmp_path, stop_after):
    prefix = split(net).prefix
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
    assert complete_chunks(resumed).count(True) == stop_after
    resumed.fill(0)
    rows = np.arange(150)
    assert resumed.computed == 150 - 64 * stop_after
    assert torch.equal(resumed.read(0, rows), whole.read(0, rows))


def test_stores_of_old_are_found_by_the_names_that_their_keys_are_made_of(loader, net, tmp_path):
    names = store_of(tmp_path / "s", split(net).prefix, loader).description
    assert sorted(names["reader"]) == ["channels", "fit", "size"] and "normalisation" in names


def change_a_file(loader, **_):
    path = loader.root / "7.png"
    Image.fromarray(np.zeros((33, 33), np.uint8)).save(path)


CHANGES = {
    "seed": {"seed": 1},
    "views": {"views": 3},
    "augmentation": {"augmentation": Augmentation()},
    "normalization": {"mean": (0, 0, 0), "std": (1, 1, 1)},
    "precision": {"machine": devices.choose("cpu", "bf16")},
    "layout": {"machine": dataclasses.replace(FP32, channels_last=not FP32.channels_last)},
    "compiled": {"machine": dataclasses.replace(FP32, compiled=True), "begin": False},
}


@pytest.mark.parametrize(
    "what",
    [*CHANGES, "weights", "pooling", "size", "images", "file", "pillow", "jpeg", "numpy", "tf32"],
)
def test_a_change_of_anything_it_depends_on_makes_a_new_store(
    what, loader, table, net, tmp_path, monkeypatch
):
    prefix = split(net).prefix
    first = store_of(tmp_path / "s", prefix, loader).folder
    if what == "weights":
        prefix = split(build("shufflenet_v2_x0_5", 3, "gap", freeze="all", seed=1)).prefix
    if what == "size":
        loader = loaders.make(table, tmp_path, size=48)
    if what == "images":
        loader = loaders.make(table.iloc[:-1], tmp_path, size=32)
    if what == "file":
        change_a_file(loader)
    if what == "pooling":
        prefix = split(with_average_pooling(net)).prefix
    if what == "pillow":
        monkeypatch.setattr("PIL.__version__", "1.0")
    if what == "jpeg":
        monkeypatch.setattr("PIL.features.version", lambda name: "1.0")
    if what == "numpy":
        monkeypatch.setattr(np, "__version__", "1.0")
    if what == "tf32":
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32)
    assert store_of(tmp_path / "s", prefix, loader, **CHANGES.get(what, {})).folder != first


def with_average_pooling(net):
    changed = copy.deepcopy(net)
    changed.maxpool = nn.AvgPool2d(3, 2, 1)
    return changed


def test_bf16_features_are_near_fp32_features(loader, tmp_path):
    prefix = split(build("resnet18", 3, "gap", freeze="all")).prefix
    exact, fast = (
        store_of(tmp_path / "s", prefix, loader, machine=devices.choose("cpu", p))
        for p in ("fp32", "bf16")
    )
    exact.fill(0), fast.fill(0)
    a, b = exact.read(0, np.arange(150)), fast.read(0, np.arange(150)).float()
    assert fast.dtype == torch.bfloat16 and (a - b).norm() / a.norm() < 0.02


def test_an_unreadable_image_is_a_row_of_nan_that_is_named(loader, net, tmp_path):
    (tmp_path / "5.png").write_bytes(b"broken")
    store = store_of(tmp_path / "s", split(net).prefix, loader)
    store.fill(0)
    assert store.bad().tolist() == [5] and loader.unreadable[0][0] == "5.png"
    assert not store.read(0, np.array([4, 6])).isnan().any()


def away(folder):
    """The disk goes, for the time of a `with` block."""

    @contextlib.contextmanager
    def gone():
        (folder / "images").rename(folder / "unplugged")
        try:
            yield
        finally:
            (folder / "unplugged").rename(folder / "images")

    return gone()


@pytest.fixture
def known(table, tmp_path):
    """The table with the SHA-256 of each image, and the images in a folder of their own."""
    (tmp_path / "images").mkdir()
    for path in table["path"]:
        (tmp_path / path).rename(tmp_path / "images" / path)
    return table.assign(
        sha256=[
            hashlib.sha256((tmp_path / "images" / path).read_bytes()).hexdigest()
            for path in table["path"]
        ]
    )


def make(table, tmp_path):
    return loaders.make(table, tmp_path / "images", ["a", "b", "c"], 32, batch_size=16, workers=0)


def test_images_that_could_not_be_read_are_tried_again_when_the_store_is_opened_again(
    known, net, tmp_path
):
    prefix, rows = split(net).prefix, np.arange(150)
    whole = store_of(tmp_path / "whole", prefix, make(known, tmp_path))
    whole.fill(0)
    for i in range(70, 75):
        (tmp_path / "images" / f"{i}.png").rename(tmp_path / f"{i}.png")
    first = store_of(tmp_path / "s", prefix, make(known, tmp_path))
    first.fill(0)
    assert first.bad().tolist() == [70, 71, 72, 73, 74] and first.computed == 145
    for i in range(70, 75):
        (tmp_path / f"{i}.png").rename(tmp_path / "images" / f"{i}.png")
    loader = make(known, tmp_path)
    loader.add_unreadable([70, 80], "found before")
    again = store_of(tmp_path / "s", prefix, loader)
    assert (
        again.folder == first.folder
        and again.fill(0)
        and again.computed == 5
        and len(again.bad()) == 0
    )
    assert [path for path, _ in loader.unreadable] == ["80.png"]
    assert torch.equal(again.read(0, rows), whole.read(0, rows))


def test_an_image_that_stays_unreadable_is_tried_once_each_time_the_store_is_opened(
    known, net, tmp_path
):
    (tmp_path / "images" / "5.png").write_bytes(b"broken")
    for opening in range(2):
        loader = make(known, tmp_path)
        tries, read = [], loader.reader

        def reader(parts, tries=tries, read=read):
            tries.extend(row for part in parts for row in part.tolist())
            return read(parts)

        loader.reader = reader
        store = store_of(tmp_path / "s", split(net).prefix, loader)
        if opening == 0:
            store.fill(1), tries.clear()
        store.fill(0), store.fill(1), store.fill(0)
        assert tries.count(5) == 1 and store.bad().tolist() == [5]
    assert tries == [5] and store.read(1, np.array([5])).isnan().all()


def test_what_another_store_could_not_read_is_not_copied(known, net, tmp_path):
    prefix = split(net).prefix
    content = (tmp_path / "images" / "5.png").read_bytes()
    (tmp_path / "images" / "5.png").write_bytes(b"broken")
    store_of(tmp_path / "s", prefix, make(known.iloc[:100], tmp_path)).fill(0)
    (tmp_path / "images" / "5.png").write_bytes(content)
    second = store_of(tmp_path / "s", prefix, make(known, tmp_path))
    second.fill(0)
    assert (second.copied, second.computed) == (99, 51) and len(second.bad()) == 0
    first = store_of(tmp_path / "s", prefix, make(known.iloc[:100], tmp_path))
    (tmp_path / "images" / "5.png").write_bytes(b"broken")
    first.fill(0)  # what it lacks, the other one holds now
    assert (first.copied, first.computed) == (1, 0) and len(first.bad()) == 0


@pytest.mark.parametrize("n", [3, 40, 150])
def test_filling_stops_where_the_disk_is_away_and_goes_on_when_it_is_back(known, net, tmp_path, n):
    prefix = split(net).prefix
    with away(tmp_path):
        store = store_of(tmp_path / "s", prefix, make(known[:n], tmp_path))
        with pytest.raises(
            OSError, match="none of .* images in .*disk is away.*what is complete.*is kept"
        ):
            store.fill(0)
    again = store_of(tmp_path / "s", prefix, make(known[:n], tmp_path))
    assert (
        again.folder == store.folder
        and again.fill(0)
        and again.computed == n
        and len(again.bad()) == 0
    )


def test_a_disk_that_goes_away_in_the_middle_costs_nothing_that_is_complete(known, net, tmp_path):
    prefix = split(net).prefix
    store = store_of(tmp_path / "s", prefix, make(known, tmp_path))
    write = store._write

    def unplugging(*what):
        write(*what)
        (tmp_path / "images").rename(tmp_path / "unplugged")

    store._write = unplugging
    with pytest.raises(OSError, match="none of 64 images"):
        store.fill(0)
    with pytest.raises(RuntimeError, match="may lack rows; call fill"):
        store.read(0, np.arange(150))
    (tmp_path / "unplugged").rename(tmp_path / "images")
    again = store_of(tmp_path / "s", prefix, make(known, tmp_path))
    again.fill(0)
    assert again.computed == 86 and len(again.bad()) == 0


@pytest.mark.parametrize("epochs", [1, 3])
def test_training_goes_on_without_its_store_and_leaves_an_unreadable_image_out(
    known, tmp_path, epochs
):
    """The store is deleted after some epochs, so a later view is filled first; there an image has gone bad."""
    table = known[:48]
    settings = {
        "views": 2,
        "augmentation": VIEWS,
        "patience": 0,
        "machine": FP32,
        "log": None,
        "show": False,
        "checkpoint": tmp_path / "last.pt",
        "store": tmp_path / "s",
    }

    def fit(epochs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return loop.fit(
                build("shufflenet_v2_x0_5", 3, "linear", seed=1),
                {"train": make(table, tmp_path)},
                epochs=epochs,
                **settings,
            )

    fit(epochs)
    shutil.rmtree(tmp_path / "s")
    (tmp_path / "images" / "7.png").write_bytes(b"broken")
    done = fit(epochs + 2)
    assert [path for path, _ in done.unreadable] == ["7.png"] and done.history[
        "train_loss"
    ].notna().all()
    assert len(done.history) == epochs + 2


@pytest.mark.parametrize("augmentation", [Augmentation(), VIEWS])
def test_a_run_whose_views_were_drawn_by_path_is_not_mixed_with_views_drawn_by_content(
    known, tmp_path, augmentation
):
    settings = {
        "views": 2,
        "augmentation": augmentation,
        "patience": 0,
        "machine": FP32,
        "log": None,
        "show": False,
        "checkpoint": tmp_path / "last.pt",
        "monitor": "train_loss",
    }

    def fit(epochs):
        return loop.fit(
            build("shufflenet_v2_x0_5", 3, "linear"),
            {"train": make(known[:32], tmp_path)},
            epochs=epochs,
            **settings,
        )

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="there is no validation set")
        fit(1)
        saved = checkpoints.read(tmp_path / "last.pt")
        saved["settings"].pop("views_drawn_by", None)
        checkpoints.write(tmp_path / "last.pt", saved)
        if augmentation.identity:
            assert len(fit(2).history) == 2
        else:
            with pytest.raises(
                ValueError,
                match="views_drawn_by: None in the folder, 'content' requested.*another folder",
            ):
                fit(2)


def test_an_image_is_bad_where_any_complete_view_lacks_it(known, net, tmp_path):
    prefix = split(net).prefix
    (tmp_path / "images" / "5.png").rename(tmp_path / "5.png")
    store = store_of(tmp_path / "s", prefix, make(known, tmp_path))
    store.fill(1)
    assert store.bad().tolist() == [5]
    (tmp_path / "5.png").rename(tmp_path / "images" / "5.png")
    store.fill(0)
    assert store.bad().tolist() == [5]
    assert (
        not store.read(0, np.array([5])).isnan().any()
        and store.read(1, np.array([5])).isnan().all()
    )


def test_predicting_with_a_store_leaves_unreadable_images_out_until_they_can_be_read(
    known, net, tmp_path
):
    table, found = known[:20].assign(patient=""), []
    content = (tmp_path / "images" / "3.png").read_bytes()
    loader = make(table, tmp_path)
    for data in (b"broken", content):
        (tmp_path / "images" / "3.png").write_bytes(data)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="left out 1 of 20")
            found.append(predict(net, loader, FP32, progress=False, store=tmp_path / "s"))
    assert [len(one) for one in found] == [19, 20]


@pytest.mark.parametrize("view", [0, 1, 2])
def test_an_image_that_one_view_lacks_is_left_out_of_all_until_it_can_be_read(
    view, known, net, tmp_path, monkeypatch
):
    fill, image = feature_store.Store.fill, tmp_path / "images" / "3.png"

    def fill_while_it_is_away(store, number, *show):
        if number != view:
            return fill(store, number, *show)
        image.rename(tmp_path / "away.png")
        try:
            return fill(store, number, *show)
        finally:
            (tmp_path / "away.png").rename(image)

    def answers(**how):
        loader = make(known[:20].assign(patient=""), tmp_path)
        return predict_changed(net, loader, Acquisition(), 3, FP32, progress=False, **how)

    plain, how = answers(), {"store": tmp_path / "s"}
    with monkeypatch.context() as patch:
        patch.setattr(feature_store.Store, "fill", fill_while_it_is_away)
        with pytest.warns(UserWarning, match="left out 1 of 20 .*3.png"):
            lacking = answers(**how)
    others = plain[plain["path"] != "3.png"].reset_index(drop=True)
    pd.testing.assert_frame_equal(lacking, others, atol=1e-5)
    pd.testing.assert_frame_equal(answers(**how), plain, atol=1e-5)


def test_too_little_disk_is_told_before_anything_is_written(loader, net, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**26 + 1000))
    with pytest.raises(OSError, match="--store none"):
        store_of(tmp_path / "s", split(net).prefix, loader)
    assert list((tmp_path / "s").iterdir()) == []


def _fill(folder, data, queue):
    torch.set_num_threads(1)
    prefix = split(build("shufflenet_v2_x0_5", 3, "gap", freeze="all")).prefix
    store = store_of(folder, prefix, loaders.make(table_of(150), data, size=32, workers=0))
    store.fill(0)
    queue.put(store.read(0, np.arange(150)).sum(1).tolist())


def test_two_runs_may_fill_one_store_at_once(table, net, tmp_path):
    queue = warm.Queue()
    both = [warm.Process(target=_fill, args=(tmp_path / "s", tmp_path, queue)) for _ in range(2)]
    for process in both:
        process.start()
    first, second = queue.get(timeout=120), queue.get(timeout=120)
    for process in both:
        process.join()
    assert len(list((tmp_path / "s").iterdir())) == 1
    assert first == second and not np.isnan(first).any()


def test_how_many_images_pass_at_once_changes_nothing(tmp_path, loader, net, monkeypatch):
    cut = split(net)
    at_once = store_of(tmp_path / "at once", cut.prefix, loader)
    monkeypatch.setattr(feature_store, "_CPU_PIXELS", 3 * 32**2)
    in_threes = store_of(tmp_path / "threes", cut.prefix, loader)
    for store in (at_once, in_threes):
        store.fill(0)
    rows = np.arange(150)
    torch.testing.assert_close(in_threes.read(0, rows), at_once.read(0, rows), rtol=1e-4, atol=1e-5)


def test_what_another_store_holds_of_an_image_is_copied(table, net, tmp_path):
    prefix = split(net).prefix

    def over(rows):
        return loaders.make(table.iloc[rows], tmp_path, size=32, workers=0)

    first = store_of(tmp_path / "s", prefix, over(range(100)))
    first.fill(0)
    mixed = [149, 99, *range(20, 90), 120, 0]  # another order, and some that are new
    second = store_of(tmp_path / "s", prefix, over(mixed), views=5)
    assert second.lacking(1) == (72, 2) and second.lacking(2) == (72, 2 + 74)
    second.fill(0)
    assert (second.copied, second.computed, second.lacking(1)) == (72, 2, (0, 0))
    alone = store_of(tmp_path / "alone", prefix, over(mixed))
    alone.fill(0)
    rows = np.arange(len(mixed))
    assert torch.equal(second.read(0, rows), alone.read(0, rows))
    assert torch.equal(second.read(0, np.array([1, 73])), first.read(0, np.array([99, 0])))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", ["vgg11", "mobilenet_v2"])
def test_a_row_is_the_same_to_the_last_bit_whatever_was_computed_with_it(
    table, tmp_path, backbone, precision
):
    prefix = split(build(backbone, 3, "gap", freeze="all")).prefix
    rows, machine = [149, 99, *range(70), 120, 0], devices.choose("cpu", precision)
    found = []
    for i, parts in enumerate(([rows], [rows[30:41], rows])):
        for part in parts:
            images = loaders.make(table.iloc[part], tmp_path, size=32)
            store = store_of(tmp_path / f"s{i}", prefix, images, machine=machine)
            store.fill(0)
        found.append(store.read(0, np.arange(len(rows))))
    assert store.copied == 11 and torch.equal(*found)


@pytest.fixture(scope="module")
def tiny():
    """A frozen part that is compiled in seconds."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return split(nn.Sequential(*layers.requires_grad_(False), nn.Linear(32, 2))).prefix


@pytest.mark.slow
@pytest.mark.parametrize("precision, rounding", [("fp32", 1e-5), ("bf16", 0.02)])
def test_a_compiled_prefix_gives_the_same_features_but_for_rounding(
    table, loader, tiny, tmp_path, precision, rounding
):
    machine, rows = devices.choose("cpu", precision), [149, 99, *range(70), 120, 0]
    compiling, found = dataclasses.replace(machine, compiled=True), []
    plain = store_of(tmp_path / "s", tiny, loader, machine=machine)
    store = store_of(tmp_path / "s", tiny, loader, machine=compiling)
    assert store.machine.compiled and store.folder != plain.folder
    plain.fill(0), store.fill(0)
    a, b = (one.read(0, np.arange(150)).float() for one in (plain, store))
    assert store.computed == 150 and (a - b).norm() / a.norm() < rounding
    for i, parts in enumerate(([rows], [rows[30:41], rows])):
        for part in parts:
            images = loaders.make(table.iloc[part], tmp_path, size=32)
            one = store_of(tmp_path / f"s{i}", tiny, images, machine=compiling)
            one.fill(0)
        found.append(one.read(0, np.arange(len(rows))))
    assert one.copied == 11 and torch.equal(*found), "whatever was computed with it"


def test_what_is_to_be_computed_is_known_before_a_store_is_begun(table, tiny, tmp_path):
    def of(part, **more):
        return store_of(tmp_path / "s", tiny, loaders.make(part, tmp_path, size=32), **more)

    first = of(table.iloc[:100])
    first.fill(0)
    assert [first.lacking(views) for views in (1, 2, 9)] == [(0, 0), (0, 100), (0, 100)]
    other = of(table.iloc[90:], begin=False)
    assert [other.lacking(views) for views in (1, 2)] == [(10, 50), (10, 110)]
    assert len(list((tmp_path / "s").iterdir())) == 1, "nothing was begun"
    (first.folder / "done").write_bytes(b"damaged")
    assert of(table.iloc[:100], begin=False).lacking(1) == (0, 100)


def test_a_prefix_sees_images_in_one_shape_only(table, net, tmp_path, monkeypatch):
    prefix, shapes = split(net).prefix, set()
    watch = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: (
            shapes.add(inputs[0].shape) if getattr(module, "in_channels", 0) == 3 else None
        )
    )
    monkeypatch.setattr(feature_store, "_CPU_PIXELS", 16 * 32**2)
    (tmp_path / "140.png").write_bytes(b"broken")
    for rows in (range(40, 53), range(0, 150, 7), range(150)):
        store = store_of(
            tmp_path / "s", prefix, loaders.make(table.iloc[rows], tmp_path, size=32, workers=0)
        )
        shapes.clear()
        store.fill(0)
        assert shapes == {(16, 3, 32, 32)}
    watch.remove()
    assert store.copied == 13 + 21 - 2 and store.bad().tolist() == [140]


@pytest.mark.parametrize(
    "what", ["seed", "augmentation", "normalization", "precision", "weights", "file", "unfinished"]
)
def test_nothing_is_copied_that_could_differ(what, table, loader, net, tmp_path):
    prefix = split(net).prefix
    first = store_of(
        tmp_path / "s", prefix, loaders.make(table.iloc[7:8], tmp_path, size=32, workers=0)
    )
    if what != "unfinished":
        first.fill(0)
    if what == "weights":
        prefix = split(build("shufflenet_v2_x0_5", 3, "gap", freeze="all", seed=1)).prefix
    if what == "file":
        change_a_file(loader)
    assert store_of(tmp_path / "s", prefix, loader, **CHANGES.get(what, {})).lacking(1)[0] == 0


@pytest.mark.parametrize("augmentation", [Augmentation(), VIEWS])
def test_an_image_and_its_views_are_known_by_content_alone(table, net, tmp_path, augmentation):
    prefix = split(net).prefix
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "3.png", tmp_path / "b" / "other.png")
    sha256 = hashlib.sha256((tmp_path / "3.png").read_bytes()).hexdigest()
    one = pd.DataFrame({"path": ["3.png"], "label": ["a"], "sha256": [sha256]})
    here = loaders.make(one, tmp_path, size=32)
    there = loaders.make(one.assign(path="other.png"), tmp_path / "b", size=32)
    first, again, anew = (
        store_of(tmp_path / folder, prefix, loader, augmentation=augmentation)
        for folder, loader in (("s", here), ("s", there), ("anew", there))
    )
    for store in (first, again, anew):
        store.fill(0)
    assert first.folder == again.folder and again.computed == 0 and anew.computed == 1
    assert torch.equal(again.read(0, np.array([0])), anew.read(0, np.array([0])))


def test_files_of_one_name_in_two_folders_are_not_taken_for_each_other(table, net, tmp_path):
    """Also where size and time agree, as in what an archive holds."""
    prefix, found = split(net).prefix, []
    for place, level in (("a", 10), ("b", 200)):
        (tmp_path / place).mkdir()
        Image.fromarray(np.full((32, 32), level, np.uint8)).save(tmp_path / place / "1.bmp")
        os.utime(tmp_path / place / "1.bmp", (0, 0))
        one = pd.DataFrame({"path": ["1.bmp"], "label": ["a"]})
        store = store_of(tmp_path / "s", prefix, loaders.make(one, tmp_path / place, size=32))
        store.fill(0)
        found.append(store.read(0, np.array([0])))
    assert not torch.equal(*found)


@pytest.mark.parametrize("views", [2, 4])
def test_views_that_change_nothing_are_kept_and_computed_once(loader, net, tmp_path, views):
    prefix = split(net).prefix
    store = store_of(tmp_path / "s", prefix, loader, augmentation=Augmentation(), views=views)
    assert [store.fill(number) for number in range(views)] == [True] + [False] * (views - 1)
    assert store.computed == 150 and store.views == 1
    assert (store.folder / "features").stat().st_size == 150 * store.row_bytes
    rows = np.arange(150)
    assert (
        torch.equal(store.read(0, rows), store.read(views - 1, rows)) and store.bad().tolist() == []
    )
    assert (
        store_of(tmp_path / "s", prefix, loader, augmentation=Augmentation(), views=1).folder
        == store.folder
    )


def damage(folder, what):
    """Spoil a store's files as a crash, a full disk or a person may."""
    if what == "no JSON":
        (folder / "store.json").write_text("{")
    if what == "no description":
        (folder / "store.json").write_text("[1, [2]]")
    if what == "binary":
        (folder / "store.json").write_bytes(bytes(range(256)))
    if what == "a folder":
        (folder / "store.json").unlink()
        (folder / "store.json").mkdir()
    if what == "other images":
        (folder / "images").write_bytes(b"x" * 32 * 150)
    if what.startswith("cut "):
        with open(folder / what[4:], "r+b") as file:
            file.truncate((folder / what[4:]).stat().st_size * 2 // 3)
    if what.startswith("no file "):
        (folder / what[8:]).unlink()
    if what == "empty features":
        (folder / "features").write_bytes(b"")
    if what == "wrong marks":
        (folder / "done").write_bytes(b"\xff" * (folder / "done").stat().st_size)


DAMAGE = [
    "no JSON",
    "no description",
    "binary",
    "other images",
    "cut images",
    "cut done",
    "cut features",
    "no file done",
    "no file features",
    "no file images",
    "empty features",
    "wrong marks",
]


@pytest.mark.filterwarnings("ignore:.*damaged")
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_store_is_made_anew_with_a_word(what, loader, net, tmp_path):
    prefix, rows = split(net).prefix, np.arange(150)
    first = store_of(tmp_path / "s", prefix, loader)
    first.fill(0)
    whole = first.read(0, rows)
    damage(first.folder, what)
    lost = what in ("cut done", "cut features", "no file features", "empty features", "wrong marks")
    with (
        pytest.warns(UserWarning, match="is damaged.*computed anew")
        if lost
        else contextlib.nullcontext()
    ):
        again = store_of(tmp_path / "s", prefix, loader)
    again.fill(0)
    assert torch.equal(again.read(0, rows), whole) and again.computed == (
        150 if lost or what == "no file done" else 0
    )


@pytest.mark.parametrize("what", [*DAMAGE, "a folder"])
def test_a_damaged_store_gives_nothing_to_others_and_stops_none(what, table, loader, net, tmp_path):
    prefix = split(net).prefix
    other = store_of(
        tmp_path / "s", prefix, loaders.make(table.iloc[:100], tmp_path, size=32, workers=0)
    )
    other.fill(0)
    damage(other.folder, what)
    (tmp_path / "s" / "a stranger").mkdir()
    (tmp_path / "s" / "a stranger" / "store.json").write_text('{"format": 3}')
    store = store_of(tmp_path / "s", prefix, loader)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        store.fill(0)
    assert (store.copied, store.computed) == (0, 150) and not store.read(
        0, np.arange(150)
    ).isnan().any()
    assert {str(one.message).split(",")[0] for one in warned} == (
        set()
        if what in ("no description", "wrong marks")
        else {f"passed over the feature store {other.folder}"}
    )


def test_a_full_disk_is_told_and_what_is_complete_is_kept(loader, net, tmp_path):
    """A limit on the size of files stands in for the disk: the third chunk does not fit."""
    resource = pytest.importorskip("resource")
    prefix = split(net).prefix
    store = store_of(tmp_path / "s", prefix, loader)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (140 * store.row_bytes, hard))
    try:
        with pytest.raises(
            OSError,
            match="could not write the feature store.*is complete there is kept.*--store none",
        ):
            store.fill(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = store_of(tmp_path / "s", prefix, loader)
    assert complete_chunks(again) == [True, True, False]
    again.fill(0)
    assert again.computed == 22
    whole = store_of(tmp_path / "whole", prefix, loader)
    whole.fill(0)
    assert torch.equal(again.read(0, np.arange(150)), whole.read(0, np.arange(150)))


JOB = """
import multiprocessing, os, sys, time
from pathlib import Path
import numpy as np
import test_feature_store as t
from tlutils.core import devices
from tlutils.data import loaders

data = Path(sys.argv[1])

def opened():
    prefix = t.split(t.build("shufflenet_v2_x0_5", 3, "gap", freeze="all")).prefix
    return t.store_of(data / "s", prefix, loaders.make(t.table_of(150), data, size=32, workers=0))

def alone():  # a run of its own, which is killed after one chunk
    while not (data / "looked").exists():
        time.sleep(0.05)
    store = opened()
    write = store._write
    def last(*what):
        write(*what)
        os._exit(0)
    store._write = last
    store.fill(0)

other = multiprocessing.get_context("fork").Process(target=alone)
if os.environ["RANK"] == "0":
    other.start()  # before the two are one job
with devices.processes("cpu"):
    store = opened()
    look = store.marks

    def marks():
        if devices.rank() == 1:
            while not (data / "written").exists():
                time.sleep(0.05)
            return look()
        found = look()
        if not (data / "written").exists():  # rank 0 has looked: now the other run completes a chunk
            (data / "looked").touch()
            other.join()
            assert other.exitcode == 0
            (data / "written").touch()
        return found
    store.marks = marks
    store.fill(0)
    np.save(data / f"rank{devices.rank()}.npy", store.read(0, np.arange(150)).numpy())
"""


def test_processes_share_the_work_as_one_of_them_sees_it(table, net, tmp_path):
    """While they begin, a run of its own completes a chunk: after rank 0 has looked, before rank 1 looks."""
    images = loaders.make(table, tmp_path, size=32, workers=0)
    whole = store_of(tmp_path / "whole", split(net).prefix, images)
    whole.fill(0)
    (tmp_path / "job.py").write_text(JOB)
    together(tmp_path / "job.py", tmp_path)
    for rank in range(2):
        there = torch.from_numpy(np.load(tmp_path / f"rank{rank}.npy"))
        assert torch.equal(there, whole.read(0, np.arange(150)))


def test_rows_that_are_missing_after_filling_are_an_error(loader, net, tmp_path):
    store = store_of(tmp_path / "s", split(net).prefix, loader)
    store._mark = lambda *what: None  # as where another process writes to another disk
    with pytest.raises(RuntimeError, match="lacks 150 of 150 images after it was filled"):
        store.fill(0)
