"""Tar files of images as data: what is read from them is what is read from the same images as files."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import dicom_files
import numpy as np
import pandas as pd
import pytest
import small_runs
from archives import make_tar
from data_builders import JPEG, OCT, finding, image_names, table
from data_builders import write as write_files
from tiny_images import TINY_CLASSES, draw_tiny

from tlutils.__main__ import main
from tlutils.core.images import UnreadableImage
from tlutils.data import (
    audit,
    cleaning,
    layouts,
    loaders,
    near_duplicates,
    records,
    shards,
    sources,
)
from tlutils.data.phantoms import MARKER
from tlutils.runs import use
from tlutils.runs.export import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of four classes as files, 24 of each for training and 8 to test on, two a patient."""
    root = tmp_path_factory.mktemp("files")
    for split, first, n in (("train", 0, 24), ("test", 100, 8)):
        for label in TINY_CLASSES:
            (root / split / label).mkdir(parents=True)
            for i in range(first, first + n):
                name = f"{label}-{1000 * TINY_CLASSES.index(label) + i // 2}-{i % 2}.png"
                draw_tiny(label, i).save(root / split / label / name)
    return root


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory) -> Path:
    """The same images in shards."""
    out = tmp_path_factory.mktemp("sharded") / "shards"
    shards.write(records.inspect(records.scan(folder), folder), folder, out, 20)
    return out


def of(found: pd.DataFrame, *columns: str) -> list[tuple]:
    return sorted(found[list(columns)].itertuples(index=False, name=None))


def test_shards_hold_the_same_images_splits_labels_and_patients(folder, sharded):
    files = records.inspect(records.scan(folder), folder)
    packed = records.inspect(records.scan(sharded), sharded)
    same = ("sha256", "split", "label", "patient", "width", "height", "bytes", "problem")
    assert of(files, *same) == of(packed, *same)
    assert packed["path"].str.match(r"(train|test)-00000\d\.tar/[A-Z]+/[A-Z]+-\d+-\d\.png$").all()
    assert packed["path"].str.partition("/")[0].value_counts().max() == 20


def test_write_gives_the_table_that_scan_finds(folder, tmp_path):
    given = shards.write(records.scan(folder), folder, tmp_path / "out", 50)
    assert of(given, *records.COLUMNS) == of(records.scan(tmp_path / "out"), *records.COLUMNS)


def test_written_twice_they_are_the_same_bytes(folder, sharded, tmp_path):
    shards.write(records.scan(folder), folder, tmp_path / "out", 20)
    for name in shards.files(sharded):
        assert (tmp_path / "out" / name).read_bytes() == (sharded / name).read_bytes()


def test_the_audit_of_a_leaky_set_finds_the_same_in_shards(tmp_path):
    for path, *_ in OCT:
        write_files(tmp_path / "files", path)
    found = {}
    shards.write(records.scan(tmp_path / "files"), tmp_path / "files", tmp_path / "shards", 3)
    for name in ("files", "shards"):
        root = tmp_path / name
        checked = records.inspect(records.scan(root), root)
        found[name] = audit.audit_all(checked)
        assert main(["audit", str(root)]) == 1
    columns = ["check", "splits", "found", "of", "verdict", "meaning"]
    assert found["files"][columns].equals(found["shards"][columns])
    assert finding(found["shards"], "patient in two splits")["found"] == 3
    assert finding(found["shards"], "identical bytes in two splits")["found"] == 4


def test_near_duplicates_and_batches_are_those_of_the_files(folder, sharded):
    looks, batches = [], []
    for root in (folder, sharded):
        found = records.scan(root)
        looks.append(of(near_duplicates.look_at(found, root), "phash", "brightness"))
        loader = loaders.make(found, root, size=32, batch_size=64)
        batches.append({int(k): i for b in loader for k, i in zip(b.keys, b.images)})
    assert looks[0] == looks[1] and batches[0].keys() == batches[1].keys()
    assert all(image.equal(batches[1][key]) for key, image in batches[0].items())


def test_workers_read_from_shards(sharded):
    found = records.scan(sharded)
    loader = loaders.make(found, sharded, size=32, batch_size=16, workers=2)
    assert sum(len(batch.rows) for batch in loader) == len(found) and not loader.unreadable


def test_small_copies_of_images_in_shards_show_the_same(sharded, tmp_path):
    found = records.scan(sharded).head(5)
    small = loaders.write_small(found, sharded, tmp_path, size=16)
    for path in found["path"]:
        assert loaders.read_image(small / path, 16).equal(loaders.read_image(sharded / path, 16))


@pytest.mark.filterwarnings("ignore:.*unlike the training images")
def test_training_from_shards_is_bit_for_bit_training_from_files_and_resumes(
    folder, sharded, tmp_path
):
    recipe = small_runs.small(epochs="3")
    files = small_runs.train(folder, tmp_path / "files", recipe)
    small_runs.train(sharded, tmp_path / "shards", recipe.changed({"epochs": "1"}))
    packed = small_runs.train(sharded, tmp_path / "shards", recipe)  # goes on
    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert files.history[columns].equals(packed.history[columns])
    answers = [name for name in files.predictions if name.startswith("p_")]
    assert of(files.predictions, *answers) == of(packed.predictions, *answers)
    some = packed.predictions["path"].iloc[0]
    (answer,) = use.predict(packed.folder, [sharded / some], device="cpu")["path"]
    assert answer == str(sharded / some)
    assert len(use.predict(packed.folder, [sharded], device="cpu")) == len(packed.records)
    compared = export(packed.folder, tmp_path / "model.onnx", show=False)["compared"]
    assert compared["val"] == len(packed.part("val")) and compared["train"] > 0


def test_the_store_notices_when_a_shard_is_written_anew(sharded, tmp_path):
    from tlutils.models.feature_store import _image_hashes

    shutil.copytree(sharded, tmp_path / "s")
    found = records.scan(tmp_path / "s")
    before = _image_hashes(loaders.make(found, tmp_path / "s"))
    name = shards.files(tmp_path / "s")[0]
    (tmp_path / "s" / name).write_bytes((sharded / name).read_bytes())
    changed = before != _image_hashes(loaders.make(found, tmp_path / "s"))
    assert np.array_equal(changed, found["path"].str.startswith(name))


def test_a_manifest_may_name_images_in_shards(sharded, tmp_path):
    cleaned = cleaning.clean(records.inspect(records.scan(sharded), sharded)).records
    cleaning.write(cleaned, sharded, tmp_path / "clean.csv")
    read = records.read_manifest(tmp_path / "clean.csv")
    assert of(read, "split", "label", "patient") == of(cleaned, "split", "label", "patient")
    assert (records.inspect(read, tmp_path)["problem"] == "").all()


def test_webdataset_reads_what_we_write(folder, sharded):
    import webdataset as wds

    urls = [str(sharded / name) for name in shards.files(sharded)]
    samples = list(wds.WebDataset(urls, shardshuffle=False).to_tuple("png", "cls", "json"))
    files = records.inspect(records.scan(folder), folder)
    found = [(json.loads(about)["label"], int(cls), len(data)) for data, cls, about in samples]
    sizes = files[["label", "bytes"]].itertuples(index=False, name=None)
    assert sorted(found) == sorted((label, TINY_CLASSES.index(label), n) for label, n in sizes)


def test_we_read_what_webdataset_writes(tmp_path):
    import webdataset as wds

    with wds.ShardWriter(f"{tmp_path}/oct-train-%06d.tar", maxcount=3, verbose=0) as sink:
        for i in range(8):
            sink.write({"__key__": f"scan{i:04d}", "jpg": JPEG, "cls": i % 2})
    found = records.scan(tmp_path)
    assert len(found) == 8 and len(shards.files(tmp_path)) == 3
    assert set(found["split"]) == {"train"} and set(found["label"]) == {"0", "1"}
    assert (records.inspect(found, tmp_path)["problem"] == "").all()


@pytest.mark.parametrize(
    "beside, told",
    [
        (
            {"json": '{"label": "CNV", "patient": 7, "split": "val"}', "cls": "3"},
            ("val", "CNV", "7"),
        ),
        ({"json": '{"class": 2, "patient": "unknown"}'}, ("train", "2", "12")),
        ({"json": '{"caption": "a scan"}', "cls": "3"}, ("train", "3", "12")),
        ({"cls": "1\n", "txt": "CNV"}, ("train", "1", "12")),
        ({"txt": "CNV\n"}, ("train", "CNV", "12")),
        ({"txt": "a scan\nof an eye"}, ("train", "DME", "12")),
        ({}, ("train", "DME", "12")),
    ],
)
def test_the_label_is_told_beside_an_image_or_by_its_folder(beside, told, tmp_path):
    members = {
        "DME/CNV-12-1.jpg": JPEG,
        **{f"DME/CNV-12-1.{end}": text for end, text in beside.items()},
    }
    make_tar(
        tmp_path / "train-000000.tar",
        {**members, "NORMAL/CNV-13-1.jpg": JPEG, "CNV/CNV-14-1.jpg": JPEG},
    )
    found = records.scan(tmp_path, classes=["CNV", "DME", "NORMAL", "1", "2", "3"])
    row = found[found["path"].str.endswith("CNV-12-1.jpg")].iloc[0]
    assert (row["split"], row["label"], row["patient"]) == told


@pytest.mark.parametrize(
    "shard, prefix, split",
    [
        ("val-000000.tar", "", "val"),
        ("imagenet_validation_12.tar", "", "val"),
        ("test/part-0.tar", "", "test"),
        ("part-0.tar", "OCT2017/train/", "train"),
        ("OCT2017.tar", "OCT2017/", ""),
        ("latest-1.tar", "", ""),
        ("train/train-1.tar", "train/", "train"),
    ],
)
def test_the_split_is_told_by_folders_or_by_the_name_of_a_shard(shard, prefix, split, tmp_path):
    names = [f"{label}/{label}-{i}-1.jpeg" for label in ("CNV", "DME") for i in range(2)]
    make_tar(tmp_path / shard, {prefix + name: JPEG for name in names})
    assert layouts.find_root(tmp_path) == sources.get(tmp_path) == tmp_path
    found = records.scan(tmp_path)
    assert set(found["split"]) == {split} and set(found["label"]) == {"CNV", "DME"}
    assert found["patient"].tolist() == ["0", "1", "0", "1"]


def test_two_splits_for_one_image_and_an_unknown_one_are_refused(tmp_path):
    make_tar(tmp_path / "a" / "val-0.tar", {"train/A/1.jpg": JPEG, "train/B/1.jpg": JPEG})
    with pytest.raises(ValueError, match="'train and val' of an image"):
        records.scan(tmp_path / "a")
    about = '{"label": "A", "split": "fold 3"}'
    make_tar(tmp_path / "b" / "x.tar", {"1.jpg": JPEG, "1.json": about})
    with pytest.raises(ValueError, match="the split 'fold 3'"):
        records.scan(tmp_path / "b")


def test_images_without_a_label_are_left_out_by_name(tmp_path):
    make_tar(tmp_path / "x.tar", {"A/1.jpg": JPEG, "B/1.jpg": JPEG, "loose.jpg": JPEG})
    with pytest.warns(UserWarning, match=r"1 image without a label \(x\.tar/loose\.jpg\)"):
        assert len(records.scan(tmp_path)) == 2
    make_tar(tmp_path / "x.tar", {"loose.jpg": JPEG})
    with pytest.raises(ValueError, match="without a label"):
        records.scan(tmp_path)


def test_members_that_take_no_part_are_named(tmp_path):
    good = {"A/1.jpg": JPEG, "B/1.jpg": JPEG, "__MACOSX/A/1.jpg": JPEG, "A/._1.jpg": b""}
    make_tar(tmp_path / "x.tar", {**good, "../A/2.jpg": JPEG})
    with pytest.warns(UserWarning, match="leads out of the folder"):
        assert records.scan(tmp_path)["path"].tolist() == ["x.tar/A/1.jpg", "x.tar/B/1.jpg"]


def test_a_cut_shard_and_masks_and_a_bad_json_are_refused_by_name(tmp_path):
    cut = make_tar(tmp_path / "a" / "x.tar", {"A/1.jpg": JPEG, "B/1.jpg": JPEG})
    cut.write_bytes(cut.read_bytes()[:1300])
    with pytest.raises(ValueError, match=r"x\.tar is no whole"):
        records.scan(tmp_path / "a")
    make_tar(tmp_path / "b" / "x.tar", {"1.jpg": JPEG, "1.seg.jpg": JPEG, "1.cls": "3"})
    with pytest.raises(ValueError, match="masks beside their images"):
        records.scan(tmp_path / "b")
    make_tar(tmp_path / "c" / "x.tar", {"1.jpg": JPEG, "1.json": "[1, 2"})
    with pytest.raises(ValueError, match=r"x\.tar/1\.json is no JSON object"):
        records.scan(tmp_path / "c")


def test_a_patient_rule_sees_what_stands_behind_the_name_of_the_shard(tmp_path):
    names = [f"{label}/{n}_1.jpg" for label in "AB" for n in (5, 6)]
    make_tar(tmp_path / "shard_0001_of_2.tar", dict.fromkeys(names, JPEG))
    assert records.scan(tmp_path, patient=r"(?P<patient>\d+)_")["patient"].tolist() == list("5656")


@pytest.mark.parametrize("patient", ["auto", "dicom", "dicom-hashed"])
def test_dicom_files_in_shards_tell_their_patients_as_they_do_outside(patient, tmp_path):
    outside = records.scan(dicom_files.write_folder(tmp_path / "files", range(1, 3)), patient)
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "train-000001.tar", "w") as tar:
        tar.add(tmp_path / "files", ".")
    inside = records.scan(tmp_path / "shards", patient)
    assert inside["patient"].tolist() == outside["patient"].tolist()
    inside[["path", "label"]].to_csv(tmp_path / "shards" / "manifest.csv", index=False)
    listed = records.read_manifest(tmp_path / "shards" / "manifest.csv", patient=patient)
    assert listed["patient"].tolist() == outside["patient"].tolist()


def test_dicom_files_without_an_ending_are_found_in_shards_and_packed_under_one(tmp_path):
    files = dicom_files.write_folder(tmp_path / "files", range(1, 3), ("CNV", "DME"))
    for number, path in enumerate(sorted(files.rglob("*.dcm"))):
        path.rename(path.with_name(f"1.2.840.{number}" if number % 2 else f"IM{number:06}"))
    outside = records.scan(files)
    (tmp_path / "foreign").mkdir()
    with tarfile.open(tmp_path / "foreign" / "cd.tar", "w") as tar:
        tar.add(files, ".")
        tar.addfile(tarfile.TarInfo("CNV/README"))
    inside = records.scan(tmp_path / "foreign")
    assert inside["patient"].tolist() == outside["patient"].tolist() and len(inside) == 8
    shards.write(records.inspect(outside, files), files, tmp_path / "packed")
    packed = records.inspect(records.scan(tmp_path / "packed"), tmp_path / "packed")
    assert packed["path"].str.endswith(".dcm").all() and packed["problem"].eq("").all()
    assert sorted(packed["patient"]) == sorted(outside["patient"])
    assert "images-000000.tar/CNV/1_2_840_1.dcm" in set(packed["path"])


def test_dots_in_a_name_without_an_ending_are_of_the_name(tmp_path):
    files = dicom_files.write_folder(tmp_path / "files", range(1, 2), ("CNV",))
    data = next(files.rglob("*.dcm")).read_bytes()
    told = {
        "1.2.840.0": ("json", '{"label": "CNV", "split": "test", "patient": "7"}'),
        "1.2.3": ("cls", "A"),
        "1.2.3.4": ("cls", "B"),
    }
    beside = {f"{name}.{ending}": text for name, (ending, text) in told.items()}
    make_tar(tmp_path / "cd" / "x.tar", dict.fromkeys(told, data) | beside)
    found = records.scan(tmp_path / "cd").set_index("path")
    found.index = found.index.str.removeprefix("x.tar/")
    assert found["label"].to_dict() == {"1.2.840.0": "CNV", "1.2.3": "A", "1.2.3.4": "B"}
    assert found.loc["1.2.840.0", ["split", "patient"]].tolist() == ["test", "7"]


def test_a_tar_file_beside_images_is_not_looked_into(tmp_path):
    write_files(tmp_path, *image_names("train"))
    (tmp_path / "archive.tar").write_bytes(b"not read")
    assert len(records.scan(tmp_path)) == 4 and layouts.images_in(tmp_path)[0].startswith("train/")


def test_names_that_would_clash_or_lead_out_stay_apart_and_inside(tmp_path):
    names = ["a/1.2.jpg", "b/1.2.jpg", "b/1.2.png", "c/3.jpg"]
    write_files(tmp_path / "files", *names)
    found = table(
        [(name, "train", label) for name, label in zip(names, ["../x", "../x", "../x", "y"])]
    )
    given = shards.write(found, tmp_path / "files", tmp_path / "out")
    assert given["path"].str.partition("/")[2].tolist() == [
        "_._x/1_2.jpg",
        "_._x/1/1_2.jpg",
        "_._x/2/1_2.png",
        "y/3.jpg",
    ]
    back = records.scan(tmp_path / "out")
    assert of(back, "path", "label", "patient") == of(given, "path", "label", "patient")


def test_nothing_is_written_where_something_is_or_where_an_image_is_missing(tmp_path):
    write_files(tmp_path / "files", "A/1.jpg", "B/1.jpg")
    found = records.scan(tmp_path / "files")
    (tmp_path / "files" / "B" / "1.jpg").unlink()
    with pytest.raises(UnreadableImage, match=r"1\.jpg: cannot be read"):
        shards.write(found, tmp_path / "files", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
    with pytest.raises(ValueError, match="is there already"):
        shards.write(found, tmp_path / "files", tmp_path / "files")
    with pytest.raises(ValueError, match="0 readable images"):
        shards.write(found.head(0), tmp_path / "files", tmp_path / "out")


def test_shards_are_not_put_among_the_images_of_class_folders(tmp_path, capsys):
    names = image_names("train")
    write_files(tmp_path / "data", *names)
    for out in ("data/shards", "data/train/NORMAL/inner/shards", "data", "data/data"):
        assert main(["shards", str(tmp_path / "data"), "--out", str(tmp_path / out)]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert f"choose a folder beside it, such as {tmp_path / 'shards'}" in told
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["train"]
    rows = "".join(f"{name},{name.split('/')[1]}\n" for name in names)
    (tmp_path / "data" / "list.csv").write_text(f"path,label\n{rows}")
    of = ["shards", str(tmp_path / "data" / "list.csv"), "--out", str(tmp_path / "data" / "shards")]
    assert main(of) == 0  # a manifest lists what counts


def test_one_image_is_counted_as_one(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("path,label\nA/a.jpeg,A\nB/b.jpeg,B\n")
    write_files(tmp_path, "A/a.jpeg")
    (tmp_path / "B").mkdir()
    (tmp_path / "B" / "b.jpeg").write_bytes(b"none")
    assert main(["shards", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]) == 0
    assert "1 image is in 1 tar file in " in capsys.readouterr().out


def test_the_command_packs_and_phantoms_stay_phantoms(tmp_path, capsys):
    write_files(tmp_path / "data", *image_names("train"))
    (tmp_path / "data" / MARKER).write_text("{}")
    (tmp_path / "data" / "train" / "NORMAL" / "NORMAL-9-1.jpeg").write_bytes(b"none")
    out = tmp_path / "out"
    assert main(["shards", str(tmp_path / "data"), "--out", str(out), "--images", "3"]) == 0
    told = capsys.readouterr()
    assert "4 images are in 2 tar files" in told.out and "NORMAL-9-1.jpeg: not an image" in told.err
    assert (out / MARKER).is_file() and layouts.find_root(out) == out
