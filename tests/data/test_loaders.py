"""Reading images, and batches of them."""

import hashlib
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from processes import python

from tlutils.core import devices, images
from tlutils.data import loaders
from tlutils.evaluation.predict import predict
from tlutils.training.batches import Batches


@pytest.fixture
def folder(tmp_path):
    """Ten small grey PNGs whose grey level is their number times ten."""
    for i in range(10):
        Image.fromarray(np.full((20, 30), i * 10, np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.fixture
def table():
    return pd.DataFrame({"path": [f"{i}.png" for i in range(10)], "label": ["a", "b"] * 5})


def gradient(width, height):
    return np.linspace(0, 255, width)[None].repeat(height, 0).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "jpg"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_formats_and_modes_give_the_same_grey_picture(tmp_path, ending, mode):
    Image.fromarray(gradient(64, 48)).convert(mode).save(tmp_path / f"x.{ending}", quality=95)
    image = loaders.read_image(tmp_path / f"x.{ending}", 32)
    assert image.shape == (1, 32, 32) and image.dtype == torch.uint8
    expected = np.asarray(
        Image.fromarray(gradient(64, 48)).resize((32, 32), Image.Resampling.BILINEAR)
    )
    assert np.abs(image[0].numpy().astype(int) - expected).max() <= 3


@pytest.mark.parametrize("resize, channels", [("squash", 1), ("pad", 3), ("crop", 1)])
def test_images_written_small_are_what_a_network_sees(folder, table, tmp_path, resize, channels):
    of = {"size": 16, "resize": resize, "channels": channels}
    small = loaders.write_small(table, folder, tmp_path / "small", **of)
    for path in table["path"]:
        wanted = loaders.read_image(folder / path, **of)
        assert torch.equal(loaders.read_image(small / path, 16, channels=channels), wanted)
    first = (small / "0.png").stat().st_mtime_ns
    assert loaders.write_small(table, folder, tmp_path / "small", **of) == small
    assert (small / "0.png").stat().st_mtime_ns == first


def test_an_image_that_changed_is_written_small_again_and_none_outside_the_folder(tmp_path):
    records = pd.DataFrame({"path": ["a b/x.png"]})
    (tmp_path / "a b").mkdir()
    for grey in (10, 200):
        Image.new("L", (30, 20), grey).save(tmp_path / "a b" / "x.png")
        small = loaders.write_small(records, tmp_path, tmp_path / "small", 16)
        assert (loaders.read_image(small / "a b" / "x.png", 16) == grey).all()
    for path in ("../x.png", str(tmp_path / "a b" / "x.png")):
        with pytest.raises(ValueError, match="does not lie below"):
            loaders.write_small(records.assign(path=path), tmp_path / "a b", tmp_path / "out", 16)


def test_16_bit_images_keep_their_contrast(tmp_path):
    Image.fromarray(gradient(64, 48).astype(np.uint16) * 16).save(tmp_path / "x.png")
    Image.fromarray(gradient(64, 48).astype(np.float32) / 7).save(tmp_path / "x.tif")
    for name in ("x.png", "x.tif"):
        image = loaders.read_image(tmp_path / name, 32)
        assert image.min() <= 4 and image.max() >= 251


def test_color_stays_color_when_asked_for(tmp_path):
    Image.new("RGB", (10, 10), (250, 0, 100)).save(tmp_path / "x.png")
    assert loaders.read_image(tmp_path / "x.png", 4, channels=3)[:, 0, 0].tolist() == [250, 0, 100]


def test_palette_and_alpha_images_are_read(tmp_path):
    Image.new("RGBA", (10, 10), (90, 90, 90, 255)).save(tmp_path / "a.png")
    Image.new("P", (10, 10), 0).save(tmp_path / "p.png")
    assert loaders.read_image(tmp_path / "a.png", 4)[0, 0, 0] == 90
    assert loaders.read_image(tmp_path / "p.png", 4).shape == (1, 4, 4)


def test_squash_pad_and_crop_keep_what_they_promise(tmp_path):
    Image.fromarray(gradient(200, 100)).save(tmp_path / "x.png")
    squash, pad, crop = (
        loaders.read_image(tmp_path / "x.png", 56, fit)[0] for fit in ("squash", "pad", "crop")
    )
    assert squash[28, 0] < 5 and squash[28, -1] > 250
    assert (pad[:14] == 0).all() and (pad[-14:] == 0).all() and pad[28, -1] > 250
    assert (
        crop[28, 0] > 60 and crop[28, -1] < 195
    )  # 56 of 128 columns of the resized picture are kept


def test_the_crop_keeps_the_share_of_a_wide_scan_that_the_usual_transform_keeps(tmp_path):
    Image.fromarray(gradient(768, 496)).save(tmp_path / "x.png")
    row = loaders.read_image(tmp_path / "x.png", 224, "crop")[0, 100].float()
    assert abs((row[-1] - row[0]) / 255 - 0.565) < 0.02


@pytest.mark.parametrize(
    "content", [b"", b"<html>not here</html>", b"\xff\xd8\xff\xe0 broken", None]
)
def test_a_damaged_file_is_named_with_the_cause(tmp_path, content):
    if content is not None:
        (tmp_path / "x.jpeg").write_bytes(content)
    with pytest.raises(images.UnreadableImage, match="x.jpeg"):
        loaders.read_image(tmp_path / "x.jpeg")


def test_a_truncated_jpeg_is_damaged_not_half_grey(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)).save(
        tmp_path / "x.jpeg"
    )
    whole = (tmp_path / "x.jpeg").read_bytes()
    (tmp_path / "x.jpeg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(images.UnreadableImage, match="truncated"):
        loaders.read_image(tmp_path / "x.jpeg")


def test_batches_carry_pixels_labels_keys_and_rows_of_the_same_images(folder, table):
    for batch in loaders.make(table, folder, size=8, batch_size=4, shuffle=True):
        assert batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (1, 8, 8)
        assert (batch.images[:, 0, 0, 0] == batch.rows * 10).all()
        assert (batch.labels == batch.rows % 2).all()
        assert batch.keys.tolist() == [
            loaders.image_key(sha256_of(folder / f"{row}.png")) for row in batch.rows
        ]


def sha256_of(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_has_one_key_under_any_name_in_any_folder_and_any_table(
    folder, table, tmp_path, workers
):
    (tmp_path / "elsewhere").mkdir()
    for i in range(10):
        shutil.copy(folder / f"{i}.png", tmp_path / "elsewhere" / f"scan-{i}.png")
    moved = table.assign(path=[str(tmp_path / "elsewhere" / f"scan-{i}.png") for i in range(10)])
    known = table.assign(
        sha256=[sha256_of(folder / f"{i}.png") if i % 2 else "" for i in range(10)]
    )
    made = [
        loaders.make(*what, size=4, batch_size=2, workers=workers)
        for what in ((table, folder), (moved, "/"), (known, folder))
    ]
    keys = [torch.cat([batch.keys for batch in loader]).tolist() for loader in made]
    assert (
        keys[0] == keys[1] == keys[2] == made[0].keys_of(range(10)).tolist()
        and len(set(keys[0])) == 10
    )


def test_a_file_whose_content_is_known_is_not_read_for_its_key(folder, table):
    loader = loaders.make(table.assign(sha256=["c0ffee"] * 10), folder / "not there", size=4)
    assert loader.keys_of(range(10)).tolist() == [loaders.image_key("c0ffee")] * 10


def rows(loader):
    return [row for batch in loader for row in batch.rows.tolist()]


def test_an_epoch_shows_each_image_once_in_an_order_of_its_own(folder, table):
    loader = loaders.make(table, folder, size=4, batch_size=3, shuffle=True, seed=1)
    first = rows(loader)
    assert rows(loader) == first and sorted(first) == list(range(10))
    loader.set_epoch(1)
    assert rows(loader) != first and sorted(rows(loader)) == list(range(10))


def test_batches_do_not_depend_on_workers(folder, table):
    one = loaders.make(table, folder, size=4, batch_size=3, shuffle=True, workers=0)
    two = loaders.make(table, folder, size=4, batch_size=3, shuffle=True, workers=2)
    for _ in range(2):
        for a, b in zip(one, two, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_workers_start_by_spawning_as_on_windows_and_macos(folder, table, monkeypatch):
    import torch.multiprocessing

    method = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        assert sorted(rows(loaders.make(table, folder, size=4, batch_size=5, workers=1))) == list(
            range(10)
        )
    finally:
        torch.multiprocessing.set_start_method(method, force=True)


def test_no_batch_is_tiny():
    sizes = [len(batch) for batch in loaders.EpochSampler(129, 128)]
    assert sizes == [65, 64]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_a_single_process(world):
    whole = [
        batch.tolist() for batch in loaders.EpochSampler(29, 8, shuffle=True, seed=3).batches()
    ]
    shares = [
        list(loaders.EpochSampler(29, 8, shuffle=True, seed=3, rank=r, world=world))
        for r in range(world)
    ]
    for i, batch in enumerate(whole):
        assert sorted(row for share in shares for row in share[i]) == sorted(batch)


def test_too_many_processes_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="cannot be divided among 4 processes"):
        loaders.EpochSampler(10, 2, world=4)


def test_a_balanced_sampler_draws_rare_classes_as_often():
    labels = np.array([0] * 900 + [1] * 100)
    weights = np.where(labels == 0, 1 / 900, 1 / 100)
    drawn = np.concatenate(loaders.EpochSampler(1000, 50, weights=weights).batches())
    assert abs((labels[drawn] == 1).mean() - 0.5) < 0.05


def test_an_unreadable_file_in_the_middle_of_an_epoch_is_left_out_and_named(folder, table):
    (folder / "4.png").write_bytes(b"gone bad")
    loader = loaders.make(table, folder, size=4, batch_size=3)
    assert sorted(rows(loader)) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    ((path, why),) = loader.unreadable
    assert path == "4.png" and why.startswith("not an image")


def test_a_batch_of_unreadable_files_only_is_passed_over(folder, table):
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"")
    assert rows(loaders.make(table, folder, size=4, batch_size=3, workers=0)) == list(range(3, 10))


def test_known_problems_are_not_loaded(folder, table):
    loader = loaders.make(table.assign(problem=["empty file"] + [""] * 9), folder, size=4)
    assert len(loader.records) == 9 and "0.png" not in set(loader.records["path"])


def test_an_unknown_label_is_refused_with_the_known_named(folder, table):
    with pytest.raises(ValueError, match="'b' but the classes are a, c"):
        loaders.make(table, folder, classes=["a", "c"])


def test_nothing_to_load_is_said(folder, table):
    with pytest.raises(ValueError, match="no readable image"):
        loaders.make(table.iloc[:0], folder)


def test_reading_given_rows_gives_one_batch_for_each_list(folder, table):
    loader = loaders.make(table, folder, size=4)
    assert [b.rows.tolist() for b in loader.reader([np.array([7, 2]), np.array([5])])] == [
        [7, 2],
        [5],
    ]


def test_the_key_of_an_image_never_changes():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert loaders.image_key(empty) == 8203414616412130826  # stores and views depend on it


def test_a_loader_whose_workers_died_of_ctrl_c_is_as_good_as_new(tmp_path):
    """A terminal and Jupyter send the signal to all processes of the group, so this runs in a group of its own."""
    script = f"""if True:
        import os, signal, time
        import pandas as pd
        from PIL import Image
        from tlutils.data import loaders
        if __name__ == "__main__":
            for i in range(12):
                Image.new("L", (8, 8), i).save(f"{tmp_path}/{{i}}.png")
            table = pd.DataFrame({{"path": [f"{{i}}.png" for i in range(12)], "label": "a"}})
            loader = loaders.make(table, "{tmp_path}", ["a"], 8, batch_size=2, workers=1)
            try:
                for batch in loader:
                    os.killpg(0, signal.SIGINT)
                    time.sleep(60)
            except KeyboardInterrupt:
                loader._loader._iterator._workers[0].join()
            print(sum(len(batch.rows) for batch in loader))"""
    (tmp_path / "script.py").write_text(script)
    done = python(tmp_path / "script.py", check=False, start_new_session=True)
    assert done.stdout.strip() == "12", done.stderr[-2000:]


def test_processes_of_one_machine_share_its_cores_for_reading(monkeypatch):
    monkeypatch.setattr(loaders.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert loaders._default_workers(5000) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loaders._default_workers(5000) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert loaders._default_workers(5000) == 1


def test_memory_is_pinned_only_where_a_cuda_gpu_computes(monkeypatch, tmp_path):
    monkeypatch.setattr(loaders.torch.cuda, "is_available", lambda: True)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    table = pd.DataFrame({"path": ["a.png"], "label": ["a"], "patient": ""})
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 2))
    loader = loaders.make(table, tmp_path, ["a", "b"], 8, workers=0)
    predict(model, loader, devices.Machine(torch.device("cpu")))
    assert not loader.pinned and not loader._loader.pin_memory
    Batches(loader, devices.Machine(torch.device("cuda")), (0.5,) * 3, (0.2,) * 3)
    assert loader.pinned
