"""What data folders look like: where the data begin, which files are images, what the folders say of them."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import tarfile
import warnings
from pathlib import Path

import pandas as pd
import pytest
from data_builders import JPEG, image_names, touch, write

from tlutils.data import layouts, records

# --- split and label ---------------------------------------------------------------------------


def test_splits_classes_and_depth_are_read_from_the_folders(tmp_path):
    root = touch(
        tmp_path,
        "Training/CNV/CNV-2-1.jpeg",
        "Training/DME/eye/left/DME-1-1.JPG",
        "Validation/CNV/CNV-3-1.tif",
        "Validation/DME/DME-4-1.bmp",
        "TEST/CNV/CNV-5-1.png",
        "TEST/DME/DME-6-1.Tiff",
    )
    found = records.scan(root)
    assert found.columns.tolist() == ["path", "split", "label", "patient"]
    assert found["path"].tolist() == sorted(found["path"]) and found.index.equals(pd.RangeIndex(6))
    assert found["split"].tolist() == ["test", "test", "train", "train", "val", "val"]
    assert found["label"].tolist() == ["CNV", "DME"] * 3
    assert found["patient"].tolist() == ["5", "6", "2", "1", "3", "4"]


def test_without_splits_the_split_is_empty(tmp_path):
    found = records.scan(touch(tmp_path, "CNV/CNV-1-1.jpeg", "DME/DME-1-1.jpeg"))
    assert found["split"].tolist() == ["", ""]


def test_litter_is_passed_over(tmp_path):
    root = touch(
        tmp_path,
        "CNV/CNV-1-1.jpeg",
        "DME/DME-1-1.jpeg",
        "CNV/._CNV-1-1.jpeg",
        "CNV/.DS_Store",
        "__MACOSX/CNV/CNV-1-1.jpeg",
        ".ipynb_checkpoints/a.png",
        "CNV/.ipynb_checkpoints/b.png",
        "CNV/Thumbs.db",
        "DME/notes.txt",
        "LICENSE.txt",
        "CNV/@eaDir/CNV-1-1.jpeg/SYNOPHOTO_THUMB_M.jpg",
        "@eaDir/a.jpeg",
        "CNV/.thumbnails/a.jpeg",
        "Thumbs/a.png",
        "DME/thumbnails/b.png",
        "$RECYCLE.BIN/c.png",
        "#recycle/A/d.png",
    )
    assert records.scan(root)["path"].tolist() == ["CNV/CNV-1-1.jpeg", "DME/DME-1-1.jpeg"]


def test_a_link_to_a_folder_is_followed_but_never_in_circles(tmp_path):
    root = touch(tmp_path / "root", "A/1.png", "B/2.png")
    touch(tmp_path / "elsewhere", "3.png")
    (root / "B" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "B" / "round").symlink_to(root)
    assert records.scan(root)["path"].tolist() == ["A/1.png", "B/2.png", "B/more/3.png"]


REFUSED = {
    "no image": (["A/readme.txt"], "no image"),
    "images without a class": (["1.png", "2.png"], "outside any class folder"),
    "images in a split without a class": (
        ["train/1.png", "test/2.png"],
        "outside any class folder",
    ),
    "splits within another split": (
        ["train/test/A/1.png", "train/test/B/1.png"],
        "split folder in another",
    ),
    "a copy within a split": (
        ["train/A/1.png", "train/B/1.png", "train/train/A/1.png"],
        "split folder in another",
    ),
    "unknown splits": (
        ["part_1/cats/1.png", "part_1/dogs/1.png", "part_2/cats/2.png", "part_2/dogs/2.png"],
        r"the same folders \(cats, dogs\) in each of part_1, part_2.*call them train, val and test",
    ),
    "sites": (
        [f"site_{site}/{label}/{site}.png" for site in "abc" for label in ("sick", "well")],
        r"the same folders \(sick, well\).*sites",
    ),
    "sites of different depth": (
        ["here/A/1.png", "here/B/1.png", "copy/here/A/1.png", "copy/here/B/1.png"],
        "the same folders",
    ),
    "grades with a word at two sites": (
        [f"{site}/Grade {grade}/1.png" for site in ("x", "y") for grade in range(5)],
        "the same folders",
    ),
    "grades at two sites": (
        [f"{site}/{grade}/1.png" for site in ("x", "y") for grade in range(5)],
        "the same folders",
    ),
    "a copy beside the classes": (
        ["A/1.png", "B/1.png", "copy/A/1.png", "copy/B/1.png"],
        "the classes A, B once more in copy",
    ),
    "images and masks": (["images/1.png", "masks/1.png"], r"masks beside their images \(masks\)"),
    "images and masks of each class": (
        [f"{label}/{kind}/p1/1.png" for label in "AB" for kind in ("images", "masks")],
        r"masks beside their images \(A/masks, B/masks\)",
    ),
    "masks in the class folders": (["A/1.png", "A/Mask/1.png", "B/1.png"], r"\(A/Mask\)"),
    "masks named after their images": (
        ["A/a (1).png", "A/a (1)_mask.png", "A/a (1)_mask_1.png", "B/1.png"],
        r"\(a/a \(1\)_mask, a/a \(1\)_mask_1\)",
    ),
    "data a folder lower": (
        ["OCT2017/train/A/1.png", "OCT2017/train/B/1.png"],
        "split folder in another",
    ),
    "splits below classes": (
        ["A/train/1.png", "B/train/1.png"],
        "split folder in another(?!.*point at).*move the splits above the classes, such as train/A",
    ),
    "a copy beside the splits": (
        ["train/A/1.png", "train/B/1.png", "copy/train/A/1.png"],
        "beside others",
    ),
    "two folders for a split": (
        ["val/A/1.png", "val/B/1.png", "valid/A/1.png"],
        "two folders for one split",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_makes_no_sense_is_refused_in_one_paragraph(tmp_path, case):
    paths, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as refusal:
        records.scan(touch(tmp_path, *paths))
    text = str(refusal.value)
    assert str(tmp_path) in text and "expected" in text and "\n" not in text


def test_the_refusal_of_nested_splits_points_at_the_folder_to_use(tmp_path):
    root = touch(tmp_path, "OCT2017/train/A/1.png", "OCT2017/train/B/1.png")
    with pytest.raises(ValueError, match=str(tmp_path / "OCT2017")):
        records.scan(root)
    assert len(records.scan(root / "OCT2017")) == 2


def test_an_empty_class_folder_is_refused_unless_it_does_not_count(tmp_path):
    root = touch(tmp_path, "A/1.png", "B/2.png")
    (root / "C").mkdir()
    with pytest.raises(ValueError, match=r"class folders without an image \(C\)"):
        records.scan(root)
    assert records.classes_of(records.scan(root, classes=["A", "B"])) == ["A", "B"]


@pytest.mark.parametrize(
    "paths",
    [
        ["x/A/1.png", "x/B/1.png", "x/C/1.png", "y/A/1.png", "y/B/1.png"],
        ["A/1.png", "B/2.png", "logo.png"],
        ["train/A/1.png", "train/B/1.png", "test/A/2.png"],
    ],
    ids=["sites", "no class folder", "no image of a class"],
)
def test_a_warning_of_a_folder_points_at_the_line_that_scans_it(tmp_path, paths):
    with pytest.warns(UserWarning) as seen:
        records.scan(touch(tmp_path, *paths))
    assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.parametrize("more", ["site_b/border", "site_c/sick"])
def test_sites_that_hold_not_quite_the_same_classes_are_warned_of(tmp_path, more):
    sites = [f"site_{site}/{label}/1.png" for site in "ab" for label in ("sick", "well")]
    with pytest.warns(
        UserWarning, match=r"the labels are site_a, site_b.*same names \(sick, well\)"
    ):
        records.scan(touch(tmp_path, *sites, f"{more}/1.png"))


def test_images_beside_the_class_folders_are_left_out_and_named(tmp_path):
    with pytest.warns(UserWarning, match=r"1 image outside any class folder.*logo\.png"):
        found = records.scan(touch(tmp_path, "A/1.png", "B/2.png", "logo.png"))
    assert len(found) == 2


def test_dicom_files_without_an_ending_are_images_and_no_named_file_is_opened(
    tmp_path, monkeypatch
):
    touch(tmp_path, "A/1.png", "B/2.txt", "LICENSE", "B/notes.txt", "A/2", "B/3.jpg.1")
    bare = ["A/IM0001", "A/IM0002;1", "A/IM0003.", "A/IM0004.;1", "B/1.2.840.10008"]
    ended = ["A/SCAN5.DCM;1", "B/6.IMA"]
    for name in bare + ended:
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    opened, original = [], open

    def noted(path, *mode):
        opened.append(os.path.basename(path))
        return original(path, *mode)

    monkeypatch.setattr("builtins.open", noted)
    assert layouts.images_in(tmp_path) == sorted(["A/1.png", *bare, *ended])
    names = [name.split("/")[1] for name in bare]
    assert sorted(opened) == sorted(["2", "3.jpg.1", "LICENSE", *names])
    assert layouts.find_root(tmp_path) == tmp_path
    assert records.scan(tmp_path)["label"].tolist() == ["A"] * 6 + ["B"] * 2


def test_what_is_no_scan_of_the_folder_is_not_taken_for_dicom(tmp_path):
    touch(tmp_path / "cd", "A/1.png", "B/2.png")
    for name in ("cd/DICOMDIR", "cd/A/DICOMDIR;1", "cd/.git/IM1", "cd/__MACOSX/IM1", "disk/IM1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    assert layouts.images_in(tmp_path / "cd") == ["A/1.png", "B/2.png"]
    shutil.rmtree(tmp_path / "cd" / "A")
    shutil.rmtree(tmp_path / "cd" / "B")
    with pytest.raises(ValueError, match="found no image.*Check that this is the folder"):
        layouts.find_root(tmp_path / "cd")
    (tmp_path / "cd" / "link").symlink_to(tmp_path / "disk")
    with pytest.raises(ValueError, match=r"one class folder only \(link\)"):
        layouts.find_root(tmp_path / "cd")


def test_gif_webp_and_jfif_files_are_images(tmp_path):
    names = ["A/1.gif", "A/2.webp", "B/3.JFIF", "B/4.png"]
    assert records.scan(touch(tmp_path, *names))["path"].tolist() == names
    assert layouts.find_root(tmp_path) == tmp_path and layouts.images_in(tmp_path) == names


def test_images_of_kinds_that_are_not_read_are_counted_in_a_warning(tmp_path):
    others = [
        "A/1.jp2",
        "A/2.JP2",
        "B/3.nii.gz",
        "B/nii",
        "A/a.txt",
        "B/b.csv",
        "B/.x.npy",
        "c.pdf",
    ]
    touch(tmp_path, "A/1.png", "B/2.png", *others)
    left = r"left out of .*: 3 files of kinds that are not read here \(2 \.jp2, 1 \.nii\.gz\); save"
    for listed in (records.scan, layouts.images_in, lambda folder: layouts.image_files([folder])):
        with pytest.warns(UserWarning, match=left) as warned:
            assert len(listed(tmp_path)) == 2
        assert len(warned) == 1 and warned[0].filename == __file__


def test_a_folder_of_nothing_but_images_that_are_not_read_is_refused_with_their_kinds(tmp_path):
    touch(tmp_path, "A/1.jp2", "B/2.jp2")
    with pytest.raises(
        ValueError, match=r"found no image in .*, but 2 files of .*\(2 \.jp2\) \(look"
    ):
        layouts.find_root(tmp_path)


def test_images_in_tar_files_of_kinds_that_are_not_read_are_counted_too(tmp_path):
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for name in ("A/1.png", "B/2.gif", "B/3.heic", "B/3.json", "B/._3.heic"):
            tar.addfile(tarfile.TarInfo(name))
    with pytest.warns(UserWarning, match=r": 1 file of kinds that are not read here \(1 \.heic\)"):
        assert len(layouts.images_in(tmp_path)) == 2


def test_names_that_are_no_text_are_left_out_and_named(tmp_path):
    touch(tmp_path, "A/1.png", "B/2.png")
    try:
        for name in (b"/A/\xff.png", b"/A/\xfe/3.png"):
            os.makedirs(os.path.dirname(os.fsencode(tmp_path) + name), exist_ok=True)
            open(os.fsencode(tmp_path) + name, "wb").close()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.warns(UserWarning, match=r"left out of .*udcff\.png' \(its name is not UTF-8\)"):
        assert records.scan(tmp_path)["path"].tolist() == ["A/1.png", "B/2.png"]
    with pytest.warns(UserWarning, match="left out"):
        assert layouts.images_in(tmp_path) == ["A/1.png", "B/2.png"]


@pytest.mark.parametrize("name", ["loop.png", "loop"])
def test_a_link_to_itself_is_a_problem_of_its_own_and_no_end_of_the_scan(tmp_path, name):
    root = touch(tmp_path, "A/1.png", "B/2.png")
    (root / "A" / name).symlink_to(root / "A" / name)
    found = records.inspect(records.scan(root), root)
    assert (
        found["path"].tolist() == ["A/1.png", "B/2.png"]
        if name == "loop"
        else ["A/1.png", "A/loop.png", "B/2.png"]
    )
    if name == "loop.png":
        assert "symbolic links" in found["problem"][1]
    assert layouts.images_in(root) == found["path"].tolist()


@pytest.mark.skipif(
    getattr(os, "geteuid", int)() == 0, reason="the superuser may look into every folder"
)
def test_a_folder_that_nobody_may_look_into_is_left_out_and_named(tmp_path):
    root = touch(tmp_path, "A/1.png", "B/2.png", "B/closed/3.png")
    (root / "B" / "closed").chmod(0)
    try:
        with pytest.warns(UserWarning, match=r"'B/closed/' \(Permission denied\)"):
            assert records.scan(root)["path"].tolist() == ["A/1.png", "B/2.png"]
    finally:
        (root / "B" / "closed").chmod(0o700)


@pytest.mark.parametrize("name", ["IM2", "LOCK", "1.2.840.5", "IM3.;1", "DICOMDIR", "a.txt"])
def test_a_file_that_may_be_dicom_and_that_nobody_may_open_is_left_out_and_named(
    name, tmp_path, monkeypatch
):
    root = touch(tmp_path, "A/1.png", f"A/{name}", "B/2.png")
    (root / "A" / name).chmod(0)
    if getattr(os, "geteuid", int)() == 0:  # who may open every file
        monkeypatch.setattr(os, "access", lambda path, mode: os.path.basename(path) != name)
    with warnings.catch_warnings(record=True) as told:
        assert records.scan(root)["path"].tolist() == ["A/1.png", "B/2.png"]
    named = any(f"'A/{name}' (Permission denied)" in str(one.message) for one in told)
    assert named == (name not in ("DICOMDIR", "a.txt"))


def test_usual_names_of_splits_are_known(tmp_path):
    for train, val, test in (
        ("Training Set", "dev", "TEST"),
        ("seg_train", "seg_val", "seg_test"),
        ("train_images", "validation-images", "test images"),
        ("trainset", "valset", "testset"),
    ):
        paths = [
            f"{split}/{label}/1.png" for split in (train, val, test) for label in ("cats", "dogs")
        ]
        found = records.scan(touch(tmp_path / train, *paths))
        assert set(found["label"]) == {"cats", "dogs"}
        assert found["split"].value_counts().to_dict() == {"train": 2, "val": 2, "test": 2}


def test_a_split_folder_around_a_split_folder_is_read(tmp_path):
    root = touch(
        tmp_path,
        *(f"{split}/{split}/{label}/{split}.png" for split in ("train", "Test") for label in "AB"),
    )
    found = records.scan(root)
    assert found["path"].tolist()[0] == "Test/Test/A/Test.png"
    assert found["split"].tolist() == ["test", "test", "train", "train"] and found[
        "label"
    ].tolist() == list("ABAB")


@pytest.mark.parametrize(
    "inner",
    [
        ("left", "right"),
        ("left_eye", "Right Eye"),
        ("patient-1", "patient-2"),
        ("p1",),
        ("a", "b", "only-in-A"),
    ],
)
def test_folders_below_the_classes_may_be_patients_or_sides(tmp_path, inner):
    paths = [
        f"{label}/{name}/1.png"
        for label in "AB"
        for name in inner
        if not (label == "B" and "only" in name)
    ]
    assert set(records.scan(touch(tmp_path, *paths))["label"]) == {"A", "B"}


def test_classes_that_hold_the_same_folders_can_be_named(tmp_path):
    root = touch(
        tmp_path, *(f"{label}/{view}/1.png" for label in "AB" for view in ("frontal", "lateral"))
    )
    assert set(records.scan(root, classes=["A", "B"])["label"]) == {"A", "B"}


# --- find_root ---------------------------------------------------------------------------


KAGGLE_OCT = image_names(
    "OCT2017 /train",
    "OCT2017 /test",
    "oct2017/OCT2017 /train",
    "oct2017/OCT2017 /test",
    classes=("CNV", "DME", "DRUSEN", "NORMAL"),
)


KAGGLE_CHEST = image_names(
    "chest_xray/train",
    "chest_xray/test",
    "chest_xray/chest_xray/train",
    "chest_xray/chest_xray/test",
    "chest_xray/__MACOSX/chest_xray/train",
    "__MACOSX/chest_xray/test",
)


@pytest.mark.parametrize(
    "names, root",
    [
        (image_names("train", "val", "test"), "."),
        (image_names("Training", "Validation"), "."),
        (image_names("valid", "testing"), "."),
        (image_names("."), "."),
        (image_names("a/b/c"), "a/b/c"),
        (image_names("CellData/OCT/train", "CellData/OCT/test"), "CellData/OCT"),
        ([f"{label}/patient-{i}/{i}.png" for label in "AB" for i in range(2)], "."),
        (image_names("train/.ipynb_checkpoints", "train"), "."),
        (image_names("train"), "."),
        (image_names("train/train", "test/test"), "."),
        (image_names("x/Train/train", "x/dev"), "x"),
        (image_names("x/training_set", "x/test_set"), "x"),
        (image_names("seg_train/seg_train", "seg_test/seg_test"), "."),
        (image_names("x", "x/@eaDir", "x/Thumbs"), "x"),
    ],
)
def test_plain_layouts_are_found_without_a_word(tmp_path, names, root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layouts.find_root(write(tmp_path, *names)) == tmp_path / root


@pytest.mark.parametrize(
    "names, root", [(KAGGLE_OCT, "OCT2017 "), (KAGGLE_CHEST, "chest_xray/chest_xray")]
)
def test_of_the_copies_in_kaggles_archives_one_is_taken_and_said(tmp_path, names, root):
    with pytest.warns(UserWarning, match="left out, copies in"):
        found = layouts.find_root(write(tmp_path, *names))
    assert found == tmp_path / root
    assert len(records.scan(found)) == len(
        {name.split("chest_xray/")[-1].split("OCT2017 /")[-1] for name in names}
    )


def test_of_a_whole_and_a_partial_copy_the_whole_one_is_taken(tmp_path):
    write(tmp_path, *image_names("a/train", each=3), *image_names("b/train", each=4))
    with pytest.warns(UserWarning, match="8 images.*6 images elsewhere"):
        assert layouts.find_root(tmp_path) == tmp_path / "b"


def of_other_pixels(root: Path) -> Path:
    """Every image of a folder made another one of the same name and size."""
    for i, file in enumerate(sorted(root.rglob("*.jpeg"))):
        file.write_bytes(JPEG[:-4] + i.to_bytes(2, "big") + JPEG[-2:])
    return root


def test_images_of_the_same_names_and_sizes_but_other_pixels_are_no_copies(tmp_path):
    of_other_pixels(
        write(tmp_path, *image_names("site_a/train", "site_a/test", "site_b/train", "site_b/test"))
    )
    with pytest.raises(
        ValueError, match=r"several data sets.*'site_a' \(8 images\), 'site_b' \(8 images\).*on top"
    ):
        layouts.find_root(tmp_path)
    for file in (tmp_path / "site_a").rglob("*.jpeg"):
        (tmp_path / "site_b" / file.relative_to(tmp_path / "site_a")).write_bytes(file.read_bytes())
    with pytest.warns(UserWarning, match="8 images elsewhere.*copies in 'site_b'"):
        assert layouts.find_root(tmp_path) == tmp_path / "site_a"


@pytest.mark.parametrize("odd", ["another size", "one image more", "another class"])
def test_a_folder_with_anything_that_the_other_lacks_is_no_copy(tmp_path, odd):
    write(tmp_path, *image_names("a/train", each=3), *image_names("b/train", each=2))
    file = tmp_path / "b" / "train" / "NORMAL" / "NORMAL-0-1.jpeg"
    if odd == "another size":
        file.write_bytes(JPEG + b"0")
    elif odd == "one image more":
        (file.parent / "more.jpeg").write_bytes(JPEG)
    else:
        file.rename(file.parents[1] / "PNEUMONIA" / file.name)
    with pytest.raises(ValueError, match="several data sets"):
        layouts.find_root(tmp_path)


def test_splits_below_the_classes_are_refused_with_what_to_do(tmp_path):
    names = [
        f"{label}/{split}/p{i}/{i}.jpeg"
        for label in ("CNV", "DME")
        for split in ("train", "test")
        for i in (0, 1)
    ]
    of_other_pixels(write(tmp_path, *names))
    with pytest.raises(
        ValueError,
        match=r"several data sets.*as the classes.*put the splits on top \(train/<class>",
    ):
        layouts.find_root(tmp_path)


def test_a_broken_link_does_not_make_another_set_of_a_copy(tmp_path):
    write(tmp_path, *image_names("a/train", "b/train"))
    for top in "ab":
        (tmp_path / top / "train" / "NORMAL" / "loop.jpeg").symlink_to("loop.jpeg")
    with pytest.warns(UserWarning, match="copies in 'b'"):
        assert layouts.find_root(tmp_path) == tmp_path / "a"


def test_different_data_sets_in_one_folder_are_not_mixed(tmp_path):
    write(tmp_path, *image_names("chest/train"), *image_names("oct/train", classes=("CNV", "DME")))
    with pytest.raises(
        ValueError, match=r"several data sets.*'chest' \(4 images\), 'oct' \(4 images\)"
    ):
        layouts.find_root(tmp_path)


def test_a_link_is_followed_and_not_counted_twice(tmp_path):
    write(tmp_path / "disk", *image_names("train"))
    (tmp_path / "data").mkdir()
    try:
        os.symlink(tmp_path / "disk" / "train", tmp_path / "data" / "train")
        os.symlink(tmp_path / "data", tmp_path / "data" / "train" / "loop")
    except OSError:
        pytest.skip("no links on this system")
    assert layouts.find_root(tmp_path / "data") == tmp_path / "data"
    os.symlink(tmp_path / "disk", tmp_path / "zlink")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            layouts.find_root(write(tmp_path, "disk/train/NORMAL/another.jpeg"))
            == tmp_path / "data"
        )


@pytest.mark.parametrize(
    "names, said",
    [
        (["train/CNV/1.jpeg"], r"one class folder only \(CNV\)"),
        (["CNV/1.jpeg"], r"one class folder only \(CNV\) in (?!.*CNV; )(?!.*above)"),
        (["scans/CNV/1.jpeg"], r"one class folder only \(CNV\) in .*scans; (?!.*above)"),
        (["1.jpeg", "2.jpeg"], "no class folders(?!.*above).* without labels, use predict"),
        (["1.jpeg", "../other/2.jpeg"], "no class folders.*the folder above, .*, is meant"),
        (
            ["train/1.jpeg", "test/2.jpeg", "../other/2.jpeg"],
            "images in (train, test|test, train) but no class folders(?!.*above).* in each, or list",
        ),
        (["1.jpeg", "CNV/1.jpeg"], "one class folder only"),
        (["notes.txt"], "found no image"),
        ([], "found no image"),
        (["__MACOSX/A/1.jpeg", "__MACOSX/B/1.jpeg"], "found no image"),
        (["OCT2017.tar.gz"], r'found no image.*unpack\(".*OCT2017.tar.gz"'),
    ],
)
def test_a_folder_without_classes_of_images_is_a_clear_error(tmp_path, names, said):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=said):
        layouts.find_root(write(tmp_path / "mine", *names))


def test_the_command_that_unpacks_an_archive_can_be_pasted_whatever_its_name_is(tmp_path):
    archive = tmp_path / "Ann's $HOME `x` scans.zip"
    archive.write_bytes(b"")
    with pytest.raises(ValueError) as told:
        layouts.find_root(archive)
    python, option, code = shlex.split(str(told.value).split("Unpack it with: ")[1])
    assert (python, option) == ("python", "-c")
    call = ast.parse(code).body[1].value
    to = [ast.literal_eval(argument) for argument in call.args]
    assert to == [str(archive), str(archive.with_suffix(""))]


@pytest.mark.real
def test_the_real_folders_are_recognised(real_data):
    assert layouts.find_root(real_data / "chest_xray_224") == real_data / "chest_xray_224"
    assert layouts.find_root(real_data / "oct_samples") == real_data / "oct_samples"
    assert len(records.scan(real_data / "chest_xray_224")) == 5216
