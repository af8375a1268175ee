"""What splits share, and what file properties tell of the label: all that is found, and nothing more."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from pathlib import Path

import dicom_files
import numpy as np
import pandas as pd
import pytest
import yaml
from data_builders import OCT, PATIENT_RULES, finding, patients, random_patients, table
from PIL import Image
from processes import python

from tlutils.__main__ import main
from tlutils.data import audit, near_duplicates, records
from tlutils.data.audit import (
    assert_no_leak,
    audit_all,
    audit_near_duplicates,
    audit_shortcuts,
    audit_splits,
    leak_verdict,
    leaks,
    measure_shortcuts,
)
from tlutils.data.layouts import find_root

# A small chest set: no patient on both sides, unless the germ or the series is dropped from the key.
CHEST = [
    ("train/N/IM-0001-0001.jpeg", "train", "N"),
    ("train/N/NORMAL2-IM-0002-0001.jpeg", "train", "N"),
    ("train/P/person1_bacteria_1.jpeg", "train", "P"),
    ("train/P/person2_virus_1.jpeg", "train", "P"),
    ("test/N/NORMAL2-IM-0001-0001.jpeg", "test", "N"),
    ("test/N/NORMAL2-IM-0001-0001-0002.jpeg", "test", "N"),
    ("test/P/person1_virus_9.jpeg", "test", "P"),
    ("test/P/person2_bacteria_9.jpeg", "test", "P"),
    ("test/P/person3_virus_9.jpeg", "test", "P"),
]


# --- what splits share ---------------------------------------------------------------------------


def test_shared_patients_are_counted_in_images_of_the_second_split():
    found = audit_splits(table(OCT))
    assert found.columns.tolist() == [
        "check",
        "splits",
        "found",
        "of",
        "share",
        "verdict",
        "examples",
        "meaning",
    ]
    row = finding(found, "patient in two splits")
    assert (row["found"], row["of"], row["share"], row["verdict"]) == (3, 4, 0.75, "leak")
    assert row["examples"] == "test/CNV/CNV-1-1.jpeg, test/CNV/CNV-2-2.jpeg, test/DME/DME-2-3.jpeg"
    assert row["meaning"].startswith("3 of 4 test images show a patient whom train shows too")
    assert leaks(found)
    assert leak_verdict(found) == "LEAK: 3 of 4 test images share a patient with train"


def test_of_several_leaks_that_into_the_test_set_is_told():
    rows = [(f"train/A/{i}.png", "train", "A", f"p{i}") for i in range(9)]
    rows += [(f"val/A/{i}.png", "val", "A", f"p{i}") for i in range(6)]
    rows += [(f"test/A/{i}.png", "test", "A", f"p{6 + i}") for i in range(2)]
    found = audit_splits(pd.DataFrame(rows, columns=["path", "split", "label", "patient"]))
    assert leak_verdict(found) == "LEAK: 2 of 2 test images share a patient with train"
    others = found[~found["splits"].str.contains("test")]
    assert leak_verdict(others) == "LEAK: 6 of 6 val images share a patient with train"


def test_a_patient_of_dicom_files_on_two_sides_is_found_whatever_their_names(tmp_path):
    root = dicom_files.write_folder(tmp_path / "train", range(1, 3), ("CNV", "DME")).parent
    dicom_files.write_folder(tmp_path / "test", range(2, 4), ("CNV", "DME"))
    found = audit_splits(records.inspect(records.scan(root), root))
    row = finding(found, "patient in two splits")
    assert (row["found"], row["of"]) == (4, 8)  # the second patient of each class
    assert "LEAK: 4 of 8 test images share a patient with train" in leak_verdict(found)


def test_a_shared_base_name_alone_is_a_warning_and_no_leak():
    found = table(OCT).assign(patient=[str(i) for i in range(len(OCT))])
    row = finding(audit_splits(found), "base name in two splits")
    assert (row["found"], row["verdict"], row["examples"]) == (
        1,
        "warning",
        "test/CNV/CNV-1-1.jpeg",
    )
    assert (
        leak_verdict(audit_splits(found)) == "no patient is on two sides; files were not compared"
    )


def test_wrong_patient_keys_make_leaks_of_a_clean_split():
    audits = {
        rule: audit_splits(records.with_patients(table(CHEST), key))
        for rule, key in PATIENT_RULES.items()
    }
    found = {
        rule: finding(audit, "patient in two splits")["found"] for rule, audit in audits.items()
    }
    assert found == {"kind and number": 0, "number without kind": 2, "series merged": 2}
    found = audit_splits(table(CHEST))
    assert not leaks(found)
    assert leak_verdict(found) == "no patient or name is on two sides; files were not compared"


def hashed(rows: list[tuple[str, str, str, str, str]]) -> pd.DataFrame:
    """Records of (path, split, label, patient, contents), contents "" being an unreadable file."""
    found = pd.DataFrame(rows, columns=["path", "split", "label", "patient", "sha256"], dtype="str")
    return found.assign(problem=np.where(found["sha256"] == "", "empty file", ""))


def test_images_without_a_split_beside_others_are_told_of_and_what_becomes_of_them():
    rows = [("a1.png", "train", "A", "1"), ("a2.png", "", "A", "2"), ("b1.png", "", "B", "3")]
    rows += [("b2.png", "test", "B", "3"), ("a3.png", "test", "A", "4")]
    table = pd.DataFrame(rows, columns=["path", "split", "label", "patient"])
    told = finding(audit_splits(table), "no split beside others", "all")
    assert (told["found"], told["of"], told["verdict"]) == (2, 5, "warning")
    assert "as 1 of them do" in told["meaning"]
    for alone in (table.assign(split=""), table.assign(split="train")):
        assert "no split beside others" not in set(audit_splits(alone)["check"])


def test_equal_files_are_found_across_splits_within_splits_and_under_two_labels():
    found = audit_splits(
        hashed(
            [
                ("a1.png", "train", "A", "1", "x"),
                ("a2.png", "train", "A", "2", "x"),
                ("b1.png", "train", "B", "3", "y"),
                ("b2.png", "test", "B", "4", "z"),
                ("a3.png", "test", "A", "5", "x"),
                ("a4.png", "test", "A", "6", "y"),
            ]
        )
    )
    across = finding(found, "identical bytes in two splits")
    assert (across["found"], across["of"], across["verdict"]) == (2, 3, "leak")
    assert across["examples"] == "a3.png (is a1.png), a4.png (is b1.png)"
    labels = finding(found, "identical bytes under two labels", "all")
    assert (labels["found"], labels["verdict"], labels["examples"]) == (
        2,
        "warning",
        "b1.png, a4.png",
    )
    within = finding(found, "identical bytes within a split", "train")
    assert (within["found"], within["verdict"]) == (1, "warning")
    assert within["examples"] == "a2.png (is a1.png, of another patient)"
    assert finding(found, "identical bytes within a split", "test")["verdict"] == "ok"
    assert leak_verdict(found) == "LEAK: 2 of 3 test images are files of train too"


def test_a_copy_under_another_patients_name_is_told_as_such_and_first():
    rows = [
        ("a1.png", "train", "A", "1", "x"),
        ("a2.png", "train", "A", "1", "x"),
        ("a3.png", "train", "A", "2", "x"),
        ("a0.png", "train", "A", "?a0.png", "x"),
    ]
    found = finding(audit_splits(hashed(rows)), "identical bytes within a split", "train")
    assert found["examples"] == "a3.png (is a1.png, of another patient), a2.png, a0.png"
    assert found["meaning"].endswith("counted twice, 1 as another patient's.")
    alone = finding(audit_splits(hashed(rows[:2])), "identical bytes within a split", "train")
    assert (alone["examples"], alone["meaning"][-6:]) == ("a2.png", "twice.")


def test_records_read_from_a_file_by_pandas_are_audited_as_they_were(tmp_path):
    rows = [("a.png", "train", "A", "1", "x"), ("b.png", "test", "A", "2", "x")]
    written = hashed([*rows, ("c.png", "test", "A", "3", "")])
    written.to_csv(tmp_path / "records.csv", index=False)
    again = pd.read_csv(tmp_path / "records.csv", dtype="str")  # with NaN where no problem is
    pd.testing.assert_frame_equal(audit_splits(again), audit_splits(written))
    assert leak_verdict(audit_splits(again)).startswith("LEAK")


def test_unreadable_files_are_no_copies_of_each_other_but_count_as_unreadable():
    found = audit_splits(
        hashed(
            [
                ("a1.png", "train", "A", "1", ""),
                ("b1.png", "train", "B", "2", "x"),
                ("a2.png", "test", "A", "3", ""),
                ("b2.png", "test", "B", "4", "y"),
            ]
        )
    )
    unreadable = finding(found, "unreadable file", "all")
    assert (unreadable["found"], unreadable["of"], unreadable["verdict"]) == (2, 4, "warning")
    assert found[found["verdict"] != "ok"]["check"].tolist() == ["unreadable file"]
    assert leak_verdict(found) == "no patient, file or name is on two sides"


def test_files_are_not_compared_unless_they_were_read():
    assert not audit_splits(table(OCT))["check"].str.contains("bytes|unreadable").any()


def test_unknown_patients_are_counted_and_named_in_the_verdict():
    found = table(
        [
            ("train/A/x.png", "train", "A"),
            ("train/B/B1.png", "train", "B"),
            ("train/B/CNV-8-1.png", "train", "B"),
            ("test/A/y.png", "test", "A"),
            ("test/B/CNV-7-1.png", "test", "B"),
        ]
    )
    row = finding(audit_splits(found), "unknown patient", "all")
    assert (row["found"], row["of"], row["verdict"]) == (3, 5, "warning")
    rule = re.search("--patient '(.*?)' reads 123 from 123_left.png", row["meaning"])[1]
    assert re.search(rule, "123_left.png")["patient"] == "123"
    assert leak_verdict(audit_splits(found)).endswith("; the patient of 3 images is unknown")


@pytest.mark.parametrize("known", ["none", "train"])
def test_where_no_patient_of_a_split_is_known_none_is_called_on_one_side_only(known, tmp_path):
    for split, label, i in [(s, c, i) for s in ("train", "test") for c in "AB" for i in range(2)]:
        file = tmp_path / split / label / f"{split}{label}{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(file.name.encode())
    table = records.inspect(records.scan(tmp_path), tmp_path, decode=False).assign(problem="")
    table["patient"] = table["patient"].mask(table["split"] == known, table["path"])
    found = audit_splits(table)
    row = finding(found, "patient in two splits")
    assert row["verdict"] == "unknown" and not leaks(found)
    split = "test" if known == "train" else "train"
    assert row["meaning"].startswith(f"No patient of {split} is known")
    verdict = leak_verdict(found)
    n = 8 if known == "none" else 4
    assert verdict == (
        f"no file or name is on two sides; whether a patient is, is unknown for {n} of 8 images"
    )
    same_names = found.assign(found=found["found"].mask(found["check"].str.startswith("base"), 1))
    same_names = same_names[~same_names["check"].str.contains("bytes")]
    assert leak_verdict(same_names) == (
        f"files were not compared; whether a patient is on two sides is unknown for {n} of 8 images"
    )


def test_a_class_missing_in_a_split_is_named():
    found = audit_splits(table(OCT[:6]))
    row = finding(found, "class missing in a split", "test")
    assert (row["found"], row["of"], row["verdict"], row["examples"]) == (1, 2, "warning", "DME")
    assert finding(found, "class missing in a split", "train")["verdict"] == "ok"


def test_a_small_validation_set_is_named_with_its_uncertainty():
    def row(n: int) -> pd.Series:
        found = patients({str(i): {"AB"[i % 2]: 1} for i in range(n + 2)})
        found = found.assign(split=["train"] * 2 + ["val"] * n)
        return finding(audit_splits(found), "validation set too small", "val")

    small, large = row(16), row(100)
    assert (small["verdict"], small["found"]) == ("warning", 16)
    assert "within 0.24 at worst" in small["meaning"]
    assert (large["verdict"], large["found"]) == ("ok", 0)
    assert "within 0.10 at worst" in large["meaning"]


def test_every_pair_of_splits_is_compared_and_the_largest_leak_told():
    rows = [
        (f"{split}/{label}/{label}-{n}-{i}.png", split, label)
        for i, (split, label, n) in enumerate(
            [
                ("train", "CNV", 1),
                ("train", "DME", 2),
                ("val", "CNV", 1),
                ("val", "DME", 3),
                ("val", "DME", 4),
                ("test", "CNV", 3),
                ("test", "DME", 4),
                ("test", "DME", 2),
            ]
        )
    ]
    found = audit_splits(table(rows))
    shared = found[found["check"] == "patient in two splits"]
    assert dict(zip(shared["splits"], shared["found"], strict=True)) == {
        "train & val": 1,
        "train & test": 1,
        "val & test": 2,
    }
    assert leak_verdict(found) == "LEAK: 2 of 3 test images share a patient with val"


def test_without_two_splits_there_is_nothing_to_compare():
    found = audit_splits(random_patients(0))
    assert not leaks(found) and leak_verdict(found) == "there are no two splits to compare"


def test_images_without_a_split_take_no_part_in_the_comparison():
    found = table(OCT)
    found.loc[found["split"] == "train", "split"] = ["", "train", "", "train"]
    assert finding(audit_splits(found), "patient in two splits")["found"] == 1


# --- shortcuts ---------------------------------------------------------------------------


def inspected(
    patients: int = 60, images: int = 4, labels: str = "AB", wide: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """Inspected records of patients of one label each; of label A the share `wide` has another width."""
    draw = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        label = labels[patient % len(labels)]
        for i in range(images):
            width = 900 if label == "A" and draw.random() < wide else 512
            rows.append(
                (
                    f"{label}/{patient}-{i}.png",
                    "",
                    label,
                    str(patient),
                    width,
                    496,
                    "L",
                    int(draw.integers(50_000, 90_000)),
                    f"{patient}-{i}",
                    "",
                )
            )
    names = [
        "path",
        "split",
        "label",
        "patient",
        "width",
        "height",
        "mode",
        "bytes",
        "sha256",
        "problem",
    ]
    return pd.DataFrame(rows, columns=names).astype(
        dict.fromkeys(("width", "height", "bytes"), "Int64")
    )


def test_a_width_that_goes_with_the_label_is_found_and_named():
    found = measure_shortcuts(inspected(wide=0.9))
    assert (
        found.clear
        and found.table["property"][0] == "all together"
        and found.table["auc"][0] > 0.85
    )
    assert found.table["property"][1] in (
        "width",
        "aspect",
        "bytes per pixel",
    )  # each holds the width
    assert found.right > 0.8 * found.of


def test_a_number_at_the_end_of_a_name_is_no_ending():
    found = pd.DataFrame({"path": ["A/1.2.840.1", "A/1.2.840.2", "A/IM1", "A/a.dcm", "A/b.7z"]})
    known = dict.fromkeys(("width", "height", "bytes"), pd.array([1] * 5, "Int64"))
    table = audit._properties(found.assign(**known, mode="L"))
    assert table["suffix"].tolist() == [-1, -1, -1, 1, 0]


def test_properties_by_chance_are_no_finding():
    for seed in range(3):
        found = measure_shortcuts(inspected(seed=seed))
        row = audit_shortcuts(found).iloc[0]
        assert not found.clear and row["verdict"] == "ok" and row["found"] == 0


def test_knowing_the_patient_is_no_help_as_patients_are_not_shared_between_parts():
    own = inspected(patients=80)
    own["bytes"] = (1000 * own["patient"].astype(int)).astype(
        "Int64"
    )  # tells the patient, and so his label
    drawn = np.random.default_rng(0).permutation(list("AB") * 40)
    shuffled = {str(patient): label for patient, label in enumerate(drawn)}
    found = measure_shortcuts(own.assign(label=own["patient"].map(shuffled)))
    assert not found.clear


def test_who_is_not_known_is_not_called_an_unseen_patient():
    known = inspected(wide=1.0)
    unknown = known.assign(patient="?" + known["path"])
    for rows, who in ((known, "unseen patients"), (unknown, "unseen images")):
        assert f"of the labels of {who} (" in audit_shortcuts(measure_shortcuts(rows))["meaning"][0]


def test_a_finding_is_a_warning_in_the_columns_of_the_audit_and_never_a_leak():
    table = inspected(wide=1.0)
    row = audit_shortcuts(measure_shortcuts(table))
    assert list(row.columns) == list(audit_splits(table).columns)
    assert row["verdict"].tolist() == ["warning"] and not leaks(row)
    assert "AUC 1.00" in row["meaning"][0] and "right for 50 %" in row["meaning"][0]


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.assign(mode=t["label"].map({"A": "RGB", "B": "L"})),
        lambda t: t.assign(
            path=t["path"].where(t["label"] == "A", t["path"].str.replace(".png", ".jpeg"))
        ),
        lambda t: t.assign(brightness=t["label"].map({"A": 90.0, "B": 130.0})),
    ],
    ids=["mode", "suffix", "brightness"],
)
def test_mode_suffix_and_brightness_count_too(make):
    assert measure_shortcuts(make(inspected())).table["auc"][0] > 0.99


def test_a_finding_names_brightness_where_it_counted():
    table = inspected()
    shades = pd.Series(np.random.default_rng(0).uniform(0, 255, len(table)), table.index)
    for of, words in (
        (table, "File properties alone"),
        (table.assign(brightness=shades), "File properties and mean brightness alone"),
    ):
        assert audit_shortcuts(measure_shortcuts(of))["meaning"][0].startswith(words)


def test_three_classes_are_each_measured_against_the_rest():
    found = measure_shortcuts(inspected(patients=90, labels="ABC", wide=1.0))
    assert 0.7 < found.table["auc"][0] < 0.9  # A is told surely, B and C not from each other


def test_alike_files_tell_nothing():
    table = inspected().assign(bytes=pd.array([1000] * 240, dtype="Int64"))
    found = measure_shortcuts(table)
    assert found.table["auc"].tolist() == [0.5] and not found.clear
    assert audit_shortcuts(found)["verdict"].tolist() == ["ok"]


@pytest.mark.parametrize(
    "table",
    [inspected(patients=8), inspected(labels="A"), inspected().assign(problem="damaged")],
    ids=["four patients a class", "one class", "nothing readable"],
)
def test_where_it_cannot_be_told_there_is_no_row(table):
    assert measure_shortcuts(table) is None
    assert len(audit_shortcuts(None)) == 0


def test_unreadable_files_take_no_part():
    broken = inspected(patients=10).assign(problem="empty file", width=pd.NA, height=pd.NA)
    table = pd.concat([inspected(), broken])
    assert measure_shortcuts(table.reset_index(drop=True)).of == 240


def test_a_large_set_is_sampled_by_whole_patients(monkeypatch):
    monkeypatch.setattr(audit, "_SAMPLE", 398)  # and each patient has 4
    assert measure_shortcuts(inspected(patients=200)).of == 396


def test_the_same_records_give_one_answer():
    one, two = (measure_shortcuts(inspected(wide=0.5)) for _ in range(2))
    pd.testing.assert_frame_equal(one.table, two.table)


def test_records_that_were_not_inspected_are_refused():
    with pytest.raises(ValueError, match="records.inspect adds them"):
        measure_shortcuts(inspected().drop(columns=["width", "bytes"]))


@pytest.mark.real
def test_the_bytes_of_the_real_chest_films_tell_most_labels(real_data):
    root = real_data / "chest_xray_224"
    found = measure_shortcuts(records.inspect(records.scan(root), root))
    assert (
        found.clear
        and found.table["low"][0] > 0.85
        and found.table["property"][1].startswith("bytes")
    )


@pytest.mark.real
def test_the_audit_of_a_folder_with_the_real_oct_names_finds_835_of_968(real_data, tmp_path):
    names = pd.concat(
        [pd.read_csv(file) for file in sorted((real_data / "names").glob("oct_*.csv"))]
    )
    for folder in {Path(path).parent for path in names["path"]}:
        (tmp_path / folder).mkdir(parents=True)
    for path in names["path"]:
        (tmp_path / path).touch()
    found = audit_splits(records.inspect(records.scan(tmp_path), tmp_path))
    shared = finding(found, "patient in two splits")
    assert (shared["found"], shared["of"], shared["verdict"]) == (835, 968, "leak")
    assert finding(found, "base name in two splits")["found"] == 288
    assert finding(found, "identical bytes in two splits")["found"] == 0
    assert finding(found, "unreadable file", "all")["found"] == names["path"].nunique()
    assert leak_verdict(found) == "LEAK: 835 of 968 test images share a patient with train"


def test_the_whole_audit_has_the_rows_of_its_parts_as_far_as_something_is_known():
    found = inspected(wide=1.0).assign(split=["train", "test"] * 120, phash="")
    pairs = near_duplicates.find_pairs(found)
    parts = [
        audit_splits(found),
        audit_near_duplicates(found, pairs),
        audit_shortcuts(measure_shortcuts(found)),
    ]
    pd.testing.assert_frame_equal(audit_all(found, pairs), pd.concat(parts, ignore_index=True))
    plain = found[["path", "split", "label", "patient"]]
    pd.testing.assert_frame_equal(audit_all(plain), audit_splits(plain))


# --- one assertion for a project's tests ---------------------------------------------------------


def films(root: Path, *names: str) -> Path:
    """Image files of these names, each with its own pixels."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(list(root.rglob("*.*")))).integers(0, 255, (40, 40))
        Image.fromarray(pixels.astype(np.uint8)).save(root / name)
    return root


def divided(root: Path) -> Path:
    """A clean folder: four patients, named by what stands before the underscore."""
    return films(
        root,
        "train/A/1_1.png",
        "train/B/2_1.png",
        "train/A/1_2.png",
        "test/A/3_1.png",
        "test/B/4_1.png",
    )


RULE = r"(?P<patient>\d+)_"


def test_a_clean_split_passes_as_folder_manifest_and_table(tmp_path):
    root = divided(tmp_path)
    found = records.inspect(records.scan(root, RULE), root)
    records.save(found, root / "manifest.csv")
    for clean in (root / "manifest.csv", found, found.drop(columns="sha256")):
        assert_no_leak(clean)
    assert_no_leak(root, patient=RULE, near=True)
    assert_no_leak(found.assign(patient=found["patient"].astype(int)))


def test_of_a_run_the_division_that_it_was_trained_with_is_checked(tiny_folder, trained):
    run = trained(tiny_folder)
    assert_no_leak(run.folder)
    leaky = run.records.assign(patient="one")
    records.save(leaky, run.folder / "records.csv")
    with pytest.raises(AssertionError, match="patient one"):
        assert_no_leak(str(run.folder))
    with pytest.raises(ValueError, match="a run's folder; its recipe.json names"):
        find_root(run.folder)


def test_images_beside_a_recipe_of_something_else_are_images(tmp_path):
    (divided(tmp_path) / "recipe.json").write_text("flour, eggs")
    assert_no_leak(tmp_path, patient=RULE)


def test_a_patient_on_two_sides_is_named_with_an_image_of_each(tmp_path):
    root = films(divided(tmp_path), "test/B/2_9.png")
    with pytest.raises(AssertionError) as leak:
        assert_no_leak(root, patient=RULE)
    told = str(leak.value)
    assert told.startswith("LEAK: 1 of 3 test images share a patient with train")
    assert "patient 2 in train/B/2_1.png and test/B/2_9.png." in told and "--fix" in told


def test_a_copy_on_two_sides_is_named_also_where_no_patient_is_known(tmp_path):
    root = divided(tmp_path)
    shutil.copy(root / "train/A/1_1.png", root / "test/A/5_1.png")
    with pytest.raises(AssertionError, match=r"E\.g\. train/A/1_1\.png and test/A/5_1\.png\."):
        assert_no_leak(root, patient=None, allow_unknown_patients=True)


def test_a_copy_saved_anew_is_found_where_looks_count(tmp_path):
    root = divided(tmp_path)
    Image.open(root / "train/A/1_1.png").resize((50, 50)).save(root / "test/A/5_1.png")
    assert_no_leak(root, patient=RULE)
    with pytest.raises(AssertionError, match="look the same.*E.g. test/A/5_1.png"):
        assert_no_leak(root, patient=RULE, near=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.assign(split=""), "found 0 splits"),
        (lambda t: t[t["split"] == "train"], "found 1 split in"),
        (lambda t: t.assign(split=t["split"].replace("test", "valid")), "the splits valid"),
        (lambda t: records.with_patients(t, lambda path: "7" if "3_1" in path else None), "4 of 5"),
        (lambda t: t.assign(problem="damaged"), "none of the 5 images"),
        (lambda t: t.drop(columns="label"), "lack the column label"),
    ],
    ids=["no split", "one split", "odd split", "unknown patients", "unreadable", "no label"],
)
def test_what_cannot_be_told_is_no_pass(tmp_path, change, named):
    found = records.inspect(records.scan(divided(tmp_path), RULE), tmp_path)
    with pytest.raises(ValueError, match=named):
        assert_no_leak(change(found))


def test_neither_patients_nor_contents_known_is_no_pass_either(tmp_path):
    found = records.scan(divided(tmp_path), None)
    with pytest.raises(ValueError, match="none of the 5 images are known"):
        assert_no_leak(found, allow_unknown_patients=True)


@pytest.mark.parametrize("leak", [False, True], ids=["clean", "leaking"])
def test_the_examples_of_a_test_and_of_a_hook_do_as_they_say(leak, tmp_path, monkeypatch, said):
    films(divided(tmp_path / "data/scans"), *["test/B/2_9.png"] * leak)
    blocks = textwrap.dedent(assert_no_leak.__doc__.partition("\n")[2]).split("::\n\n")
    test, hook = (textwrap.dedent(re.split(r"\n(?=\S)", block)[0]) for block in blocks[1:])
    (tmp_path / "test_split.py").write_text(test)
    quiet = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_split.py"]
    done = python(*quiet, cwd=tmp_path, check=False)
    assert done.returncode == int(leak), done.stdout + done.stderr
    told = "LEAK: 1 of 3 test images share a patient"
    assert (told in done.stdout) is leak
    words = shlex.split(yaml.safe_load(hook)["repos"][0]["hooks"][0]["entry"])
    monkeypatch.chdir(tmp_path)
    assert words[:3] == ["python", "-m", "tlutils"] and main(words[3:]) == int(leak)
    assert (told in said()[0]) is leak
