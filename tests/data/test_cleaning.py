"""What cleaning leaves out, who ends on one side, and that the result does not leak."""

from __future__ import annotations

import os
import shutil

import pandas as pd
import pytest

from tlutils.data import cleaning, records
from tlutils.data.audit import audit_near_duplicates, audit_splits, leaks


def table(rows: list[tuple[str, str, str, str, str]]) -> pd.DataFrame:
    """Inspected records from (path, split, label, patient, sha256); "" is a file that cannot be read."""
    found = pd.DataFrame(rows, columns=["path", "split", "label", "patient", "sha256"], dtype="str")
    return found.assign(problem=["" if content else "empty file" for content in found["sha256"]])


def clean_split() -> list[tuple[str, str, str, str, str]]:
    """Two classes, 20 patients of two images each, no patient on two sides."""
    sides = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    return [
        (f"{side}/{label}/{p}-{i}.png", side, label, f"p{p:02}", f"{p}-{i}")
        for p, side in enumerate(sides)
        for i, label in enumerate("AB")
    ]


def images(cleaned: cleaning.Cleaned, step: str) -> int:
    return cleaned.steps.set_index("step")["images"][step]


def told(cleaned: cleaning.Cleaned, step: str) -> str:
    return cleaned.steps.set_index("step")["what"][step]


def sides(cleaned: cleaning.Cleaned) -> pd.Series:
    return cleaned.records.groupby("patient")["split"].nunique()


def test_a_clean_set_stays_as_it_is():
    found = table(clean_split())
    cleaned = cleaning.clean(found)
    pd.testing.assert_frame_equal(cleaned.records, found)
    assert (
        cleaned.steps.set_index("step")["images"].drop("left").sum() == 0
        and images(cleaned, "left") == 40
    )
    assert "now; no two patients share a picture" in told(cleaned, "patients joined")


def test_unreadable_files_and_bytes_under_two_labels_are_out_and_copies_stay_once():
    found = table(
        [
            *clean_split(),
            ("train/A/bad.png", "train", "A", "p00", ""),
            ("train/A/x.png", "train", "A", "p01", "two"),
            ("train/B/x.png", "train", "B", "p01", "two"),
            ("train/A/copy.png", "train", "A", "p00", "0-0"),
        ]
    )
    cleaned = cleaning.clean(found)
    steps = ("unreadable", "two labels", "copies", "split anew")
    assert [images(cleaned, step) for step in steps] == [1, 2, 1, 0]
    assert not cleaned.records["path"].str.contains("bad|x.png").any()
    assert cleaned.records["sha256"].is_unique and len(cleaned.records) == 40


def test_of_copies_the_one_in_test_stays():
    found = table([*clean_split(), ("train/A/copy.png", "train", "A", "p16", "16-0")])
    cleaned = cleaning.clean(found)
    kept = cleaned.records.loc[cleaned.records["sha256"] == "16-0", "path"]
    assert kept.tolist() == ["test/A/16-0.png"] and images(cleaned, "split anew") == 0


def test_patients_who_share_a_file_end_on_one_side_though_the_copy_is_gone():
    found = table([*clean_split(), ("train/A/copy.png", "train", "A", "p00", "16-0")])
    assert leaks(audit_splits(found))
    cleaned = cleaning.clean(found)
    name = cleaned.records.set_index("sha256")["patient"]
    assert name["16-0"] == name["0-0"] == "p00" and images(cleaned, "patients joined") == 2
    assert sides(cleaned).max() == 1 and not leaks(audit_splits(cleaned.records))


@pytest.mark.parametrize("kept", ["p20", "p21"])
def test_patients_whose_only_images_are_copies_are_told_of(kept):
    """Whichever copy stays, and though one of the two has no image left."""
    sides = {"p20": "train", "p21": "train"} | {kept: "test"}
    rows = [(f"{side}/A/{p}.png", side, "A", p, "same") for p, side in sides.items()]
    cleaned = cleaning.clean(table([*clean_split(), *rows]))
    assert cleaned.records.set_index("sha256")["patient"]["same"] == "p20"
    assert images(cleaned, "copies") == 1
    assert images(cleaned, "patients joined") == (kept == "p21"), "of the images that are left"
    words = "now; 1 patient shares a picture with another: p21 is now p20"
    gone = "; of 1 of these no image of their own is left" if kept == "p20" else ""
    assert told(cleaned, "patients joined").endswith(words + gone)


def test_a_look_ties_nobody_but_those_who_share_it():
    found = table(clean_split())
    pairs = pd.DataFrame({"path_a": ["train/A/5-0.png"], "path_b": ["train/B/6-1.png"], "group": 0})
    cleaned = cleaning.clean(found, pairs.assign(distance=5))
    assert images(cleaned, "two labels alike") == 2 and len(cleaned.records) == len(found)
    assert told(cleaned, "two labels alike").startswith("stay, though they look the same")
    changed = cleaned.records["patient"] != found["patient"]
    assert set(found.loc[changed, "patient"]) == {"p06"}


def test_images_that_look_the_same_end_on_one_side():
    found = table(clean_split())
    paths = ["train/A/0-0.png", "test/A/16-0.png"]
    pairs = pd.DataFrame({"path_a": paths[:1], "path_b": paths[1:], "distance": 5, "group": 0})
    cleaned = cleaning.clean(found, pairs)
    both = cleaned.records[cleaned.records["path"].isin(paths)]
    assert (
        len(cleaned.records) == 40
        and both["split"].nunique() == 1
        and both["patient"].nunique() == 1
    )
    assert images(cleaned, "patients joined") == 2 and cleaned.records["patient"].nunique() == 19
    assert images(cleaned, "two labels alike") == 0
    words = "now; 1 patient shares a picture with another: p16 is now p00"
    assert told(cleaned, "patients joined").endswith(words)
    assert not leaks(audit_near_duplicates(cleaned.records, pairs))


def test_a_known_patient_gives_the_name_to_an_unknown_one():
    rows = [row if row[3] != "p00" else (*row[:3], "?" + row[0], row[4]) for row in clean_split()]
    found = table([*rows, ("train/A/copy.png", "train", "A", "p01", "0-0")])
    assert cleaning.clean(found).records.set_index("sha256")["patient"]["0-0"] == "p01"


def test_where_there_are_no_splits_none_is_said_to_stay():
    cleaned = cleaning.clean(table(clean_split()).assign(split=""))
    assert "no splits yet" in told(cleaned, "split anew")


def test_leaking_splits_are_drawn_anew_with_the_sides_they_had():
    found = table(clean_split())
    found["patient"] = [f"p{int(patient[1:]) % 12}" for patient in found["patient"]]
    cleaned = cleaning.clean(found)
    assert leaks(audit_splits(found)) and not leaks(audit_splits(cleaned.records))
    assert set(cleaned.records["split"]) == {"train", "val", "test"} and sides(cleaned).max() == 1


def test_a_test_set_in_which_nothing_leaks_is_kept():
    found = table(clean_split())
    found["patient"] = found["patient"].replace("p12", "p00")
    cleaned = cleaning.clean(found)
    before, after = (
        set(part.loc[part["split"] == "test", "path"]) for part in (found, cleaned.records)
    )
    assert before == after and not leaks(audit_splits(cleaned.records))
    assert "test stays" in cleaned.steps.set_index("step")["what"]["split anew"]


def test_images_without_a_split_get_none():
    found = table(
        [(path, "", label, patient, sha) for path, _, label, patient, sha in clean_split()]
    )
    assert (cleaning.clean(found).records["split"] == "").all()


def test_what_cannot_be_cleaned_is_refused():
    found = table(clean_split())
    with pytest.raises(ValueError, match="two are needed"):
        cleaning.clean(found[found["label"] == "A"])
    with pytest.raises(ValueError, match="records.inspect adds them"):
        cleaning.clean(found.drop(columns="sha256"))


def test_where_all_patients_are_tied_into_one_the_error_says_so():
    found = table(clean_split())
    pairs = pd.DataFrame({"path_a": found["path"][0], "path_b": found["path"][1:], "group": 0})
    with pytest.raises(ValueError, match="1 patient is left who shares no picture"):
        cleaning.clean(found, pairs)


@pytest.mark.parametrize("place", ["clean.csv", "deep/er/clean.csv"])
def test_the_written_manifest_is_read_back_from_wherever_it_lies(tiny_folder, tmp_path, place):
    root = tmp_path / "data"
    shutil.copytree(tiny_folder, root)
    found = records.inspect(records.scan(root), root)
    cleaned = cleaning.clean(found)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    cleaning.write(cleaned.records, root, tmp_path / place)
    assert not any(os.path.isabs(path) for path in pd.read_csv(tmp_path / place)["path"])
    again = records.read_manifest(tmp_path / place)
    assert [os.path.normpath((tmp_path / place).parent / path) for path in again["path"]] == [
        str(root / path) for path in cleaned.records["path"]
    ]
    for column in ("label", "split", "patient"):
        assert again[column].tolist() == cleaned.records[column].tolist()


def test_no_image_is_lost_on_the_way_through_a_manifest_whatever_its_name(tmp_path):
    names = [
        " a/ x .png",
        "b,c/d.png",
        'e/"f".png',
        "g/line\nbreak.png",
        "h/return\rhere.png",
        "i/back\\slash.png",
        "=j/-k.png",
        "l/ü.png",
        "l/u\u0308.png",
        "m;n/o.jpeg.jpeg",
        "p/$HOME.PNG",
        "nan/NA.png",
        "../data/q/r.png",
    ]
    root = tmp_path / "data"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"an image")
    table_ = pd.DataFrame(
        {
            "path": names,
            "label": [" sick", "well"] * 6 + [" sick"],
            "split": "train",
            "patient": [f"?{name}" for name in names],
        },
        dtype="str",
    )
    for place in (
        tmp_path / "clean.csv",
        tmp_path / "else where" / "clean.csv",
        root / "clean.csv",
    ):
        cleaning.write(table_, root, place)
        again = records.read_manifest(place)
        assert {os.path.normpath(place.parent / path) for path in again["path"]} == {
            os.path.normpath(root / name) for name in names
        }
        assert set(again["label"]) == {" sick", "well"} and again["patient"].nunique() == len(names)


def test_the_manifest_of_a_manifest_finds_the_same_images(tiny_folder, tmp_path):
    found = records.inspect(records.scan(tiny_folder), tiny_folder)
    cleaning.write(found, tiny_folder, tmp_path / "a" / "first.csv")
    first = records.scan(tmp_path / "a" / "first.csv")
    cleaning.write(first, tmp_path / "a", tmp_path / "b" / "c" / "second.csv")
    second = records.scan(tmp_path / "b" / "c" / "second.csv")
    assert len(second) == len(found)
    assert (records.inspect(second, tmp_path / "b" / "c")["problem"] == "").all()


def test_a_manifest_is_not_written_over_the_table_it_comes_from_nor_without_its_ending(tmp_path):
    with pytest.raises(ValueError, match="another name"):
        cleaning.refuse_target(tmp_path / "a.csv", tmp_path / "b" / ".." / "a.csv")
    with pytest.raises(ValueError, match="ends in .csv"):
        cleaning.refuse_target(tmp_path / "a.txt", tmp_path)
