"""Splits by patient, splits by image, and the audit that tells them apart."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlutils.data import records, splits

# A small OCT set as Kaggle divides it: patients 1 and 2 are on both sides, patient 1 in several classes.
OCT = [
    ("train/CNV/CNV-1-1.jpeg", "train", "CNV"),
    ("train/DME/DME-1-1.jpeg", "train", "DME"),
    ("train/CNV/CNV-2-1.jpeg", "train", "CNV"),
    ("train/DME/DME-3-1.jpeg", "train", "DME"),
    ("test/CNV/CNV-1-1.jpeg", "test", "CNV"),
    ("test/CNV/CNV-2-2.jpeg", "test", "CNV"),
    ("test/DME/DME-2-3.jpeg", "test", "DME"),
    ("test/DME/DME-4-1.jpeg", "test", "DME"),
]
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


def table(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    return records.with_patients(
        pd.DataFrame(rows, columns=["path", "split", "label"], dtype="str")
    )


def patients(sizes: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Records without splits from {patient: {label: images}}."""
    rows = [
        (f"{label}/{patient}-{i}.png", "", label, patient)
        for patient, labels in sizes.items()
        for label, n in labels.items()
        for i in range(n)
    ]
    return pd.DataFrame(rows, columns=["path", "split", "label", "patient"], dtype="str")


def random_patients(seed: int) -> pd.DataFrame:
    """12 to 150 patients of 1 to 12 images a class in one of 2 to 4 classes, some of them in a second one."""
    draw = np.random.default_rng(seed)
    labels = list("ABCD")[: draw.integers(2, 5)]
    sizes = {}
    for i in range(draw.integers(12, 150)):
        own = {labels[i % len(labels)]} | ({labels[0]} if draw.random() < 0.2 else set())
        sizes[f"p{i}"] = {label: int(draw.integers(1, 13)) for label in sorted(own)}
    return patients(sizes)


def finding(audit: pd.DataFrame, check: str, where: str = "train & test") -> pd.Series:
    return audit[(audit["check"] == check) & (audit["splits"] == where)].iloc[0]


def sides_of(found: pd.DataFrame, key: str = "patient") -> pd.Series:
    return found.groupby(key)["split"].nunique()


def shares_of(found: pd.DataFrame) -> pd.DataFrame:
    return pd.crosstab(found["split"], found["label"], normalize="columns", margins=True)


LABELS = st.dictionaries(st.sampled_from("ABC"), st.integers(1, 5), min_size=1)
SHARES = st.sampled_from([(0.15, 0.15), (0.2, 0.0), (0.0, 0.3), (0.5, 0.4)])


@settings(max_examples=30, deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=30), SHARES, st.integers(0, 9), st.booleans())
def test_whoever_the_patients_are_each_is_on_one_side_and_none_is_lost(sizes, shares, seed, tied):
    found = patients({f"p{i}": labels for i, labels in enumerate(sizes)})
    if tied:  # the first two share a file
        first = found.groupby("patient")["path"].first().iloc[:2]
        found["sha256"] = found["path"].mask(found["path"].isin(first), "same")
    sides = {
        side for side, share in zip(splits.SPLITS, (1 - sum(shares), *shares), strict=True) if share
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            divided = splits.by_patient(found, *shares, seed=seed)
        except ValueError:  # only where some class has hardly more patients than there are sides
            assert found.groupby("label")["patient"].nunique().min() <= len(sides) + tied
            return
        again = splits.by_patient(found.sample(frac=1, random_state=1), *shares, seed=seed).loc[
            found.index
        ]
    assert divided["path"].tolist() == found["path"].tolist() and divided.index.equals(found.index)
    assert set(divided["split"]) == sides and (sides_of(divided) == 1).all()
    assert (divided.groupby(["split", "label"]).size().unstack(fill_value=0) > 0).all(axis=None)
    assert divided["split"].tolist() == again["split"].tolist()
    assert not splits.leaks(splits.audit(divided))


@settings(max_examples=30, deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=20), SHARES, st.integers(0, 9))
def test_by_image_none_is_lost_and_a_seed_gives_one_split(sizes, shares, seed):
    found = patients({f"p{i}": labels for i, labels in enumerate(sizes)})
    divided = splits.by_image(found, *shares, seed=seed)
    assert divided["path"].tolist() == found["path"].tolist() and set(divided["split"]) <= set(
        splits.SPLITS
    )
    again = splits.by_image(found.sample(frac=1, random_state=1), *shares, seed=seed).loc[
        found.index
    ]
    assert divided["split"].tolist() == again["split"].tolist()


# --- by patient ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_a_patient_is_never_on_two_sides_and_shares_are_near(seed):
    found = random_patients(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shares that few patients cannot meet
        split = splits.by_patient(found, val=0.2, test=0.2, seed=seed)
    assert (sides_of(split) == 1).all()
    assert set(split["split"]) == {"train", "val", "test"}
    assert (pd.crosstab(split["split"], split["label"]) > 0).all(axis=None)
    pd.testing.assert_frame_equal(split.drop(columns="split"), found.drop(columns="split"))
    # Whole patients cannot do better than the largest of them allows.
    largest = (found.groupby(["patient", "label"]).size() / found.groupby("label").size()).max()
    wanted = pd.Series({"train": 0.6, "val": 0.2, "test": 0.2})
    assert shares_of(split).sub(wanted, axis=0).abs().max(axis=None) <= 0.01 + largest


def test_many_patients_give_every_class_its_share_nearly_exactly():
    draw = np.random.default_rng(0)
    found = patients(
        {str(i): {"ABCD"[i % 4]: int(draw.integers(1, 30)), "AB"[i % 2]: 3} for i in range(800)}
    )
    wanted = pd.Series({"train": 0.7, "val": 0.15, "test": 0.15})
    assert shares_of(splits.by_patient(found)).sub(wanted, axis=0).abs().max(axis=None) < 0.002


@pytest.mark.parametrize("seed", range(10))
def test_24_patients_come_within_three_points_of_the_shares(seed):
    draw = np.random.default_rng(seed)
    found = patients({str(i): {"AB"[i % 2]: int(draw.integers(1, 13))} for i in range(24)})
    wanted = pd.Series({"train": 0.7, "val": 0.15, "test": 0.15})
    assert shares_of(splits.by_patient(found)).sub(wanted, axis=0).abs().max(axis=None) < 0.03


def test_a_seed_gives_one_split_whatever_the_order_of_the_rows():
    found = random_patients(1).assign(sha256=lambda rows: rows["path"])
    found.loc[found.groupby("patient").head(1).index[:6], "sha256"] = (
        "a file that six patients share"
    )
    split = splits.by_patient(found, seed=5).set_index("path")["split"]
    again = splits.by_patient(found.sample(frac=1, random_state=3), seed=5).set_index("path")[
        "split"
    ]
    assert split.equals(again.loc[split.index])
    assert not split.equals(splits.by_patient(found, seed=6).set_index("path")["split"])


def test_six_patients_are_enough_for_two_classes():
    found = patients({f"{label}{i}": {label: 10} for label in "AB" for i in range(3)})
    with pytest.warns(UserWarning, match="6 patients cannot be divided as wished"):
        split = splits.by_patient(found)
    assert (pd.crosstab(split["split"], split["label"]) == 10).all(axis=None)


def test_a_side_may_be_left_out():
    found = random_patients(2)
    assert set(splits.by_patient(found, test=0)["split"]) == {"train", "val"}
    assert set(splits.by_patient(found, val=0, test=0)["split"]) == {"train"}


def test_too_few_patients_of_a_class_are_named():
    found = patients({"a": {"A": 50}, "b": {"A": 50}, "c": {"A": 5}, "d": {"B": 99}, "e": {"B": 1}})
    with pytest.raises(ValueError, match=r"train, val, test.*B has 2 .*expected 3 a class"):
        splits.by_patient(found)
    with pytest.warns(UserWarning, match="a share is 29% off"):
        assert set(splits.by_patient(found, val=0.3, test=0)["split"]) == {"train", "val"}


def test_patients_who_cannot_be_dealt_out_are_an_error():
    found = patients({"a": {"A": 1, "B": 1}, "b": {"A": 1}, "c": {"B": 1}})
    with pytest.raises(ValueError, match="A has 2, B has 2"):
        splits.by_patient(found)
    three = patients({"a": {"A": 1, "B": 1}, "b": {"A": 1, "C": 1}, "c": {"B": 1, "C": 1}})
    with pytest.raises(ValueError, match="3 patients in all are too few"):
        splits.by_patient(three, val=0.3, test=0)


@pytest.mark.parametrize(
    ("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.2, 1.0), (15, 15), (np.nan, 0.1)]
)
def test_impossible_shares_are_refused(val, test):
    for split in (splits.by_patient, splits.by_image):
        with pytest.raises(ValueError, match="stay below 1"):
            split(random_patients(0), val=val, test=test)


@pytest.mark.parametrize("split", [splits.by_patient, splits.by_image, splits.audit])
def test_tables_that_cannot_be_split_are_refused(split):
    found = random_patients(0)
    with pytest.raises(ValueError, match="lack the column patient"):
        split(found.drop(columns="patient"))
    with pytest.raises(ValueError, match="no records"):
        split(found.iloc[:0])
    with pytest.raises(ValueError, match="1 of .* records without a patient"):
        split(found.assign(patient=found["patient"].where(found.index > 0, "")))


def test_patients_who_share_a_file_stay_together():
    found = random_patients(4)
    same = np.random.default_rng(0).integers(0, 4000, len(found)).astype(str)
    found = found.assign(sha256=pd.Series(same).str.zfill(64), problem="")
    found.loc[found.index[:40], ["sha256", "problem"]] = [
        "0" * 64,
        "empty file",
    ]  # alike, but nobody's scan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = splits.by_patient(found, val=0.2, test=0.2)
    assert (sides_of(split) == 1).all()
    assert (sides_of(split[split["problem"] == ""], "sha256") == 1).all()
    assert not splits.leaks(splits.audit(split))


def test_the_index_of_a_filtered_table_is_kept():
    found = random_patients(1).iloc[5:]
    assert splits.by_patient(found).index.equals(found.index)
    assert splits.by_image(found).index.equals(found.index)


# --- keeping the test set ---------------------------------------------------------------------------


def with_own_test(leaky: bool) -> pd.DataFrame:
    found = random_patients(7)
    names = sorted(found["patient"].unique())
    learned = np.where(found.index % 9 == 0, "val", "train")
    found["split"] = np.where(found["patient"].isin(names[::4]), "test", learned)
    if leaky:
        found.loc[found["patient"].isin(names[:8:4]) & (found.index % 2 == 0), "split"] = "train"
    return found


def test_the_own_test_set_can_be_kept():
    found = with_own_test(leaky=False)
    split = splits.by_patient(found, val=0.25, keep_test=True)
    assert ((split["split"] == "test") == (found["split"] == "test")).all()
    assert (sides_of(split) == 1).all() and len(split) == len(found)
    rest = split[split["split"] != "test"]
    assert abs((rest["split"] == "val").mean() - 0.25) < 0.05


def test_images_whose_patient_is_in_the_kept_test_set_are_left_out_and_counted():
    found = with_own_test(leaky=True)
    tested = set(found["patient"][found["split"] == "test"])
    leaky = ((found["split"] != "test") & found["patient"].isin(tested)).sum()
    with pytest.warns(
        UserWarning, match=rf"left out {leaky} of .* images whose patient or file is in test"
    ):
        split = splits.by_patient(found, keep_test=True)
    assert len(split) == len(found) - leaky > 0 and split.index.equals(pd.RangeIndex(len(split)))
    assert not splits.leaks(splits.audit(split))


def test_leaking_images_can_be_kept_and_the_audit_finds_them():
    found = with_own_test(leaky=True)
    split = splits.by_patient(found, keep_test=True, drop_leaks=False)
    assert len(split) == len(found) and splits.leaks(splits.audit(split))


def test_keeping_a_test_set_that_is_not_there_or_is_everything_is_refused():
    for everywhere in ("train", "test"):
        with pytest.raises(ValueError, match="keep_test needs images in test and outside it"):
            splits.by_patient(random_patients(0).assign(split=everywhere), keep_test=True)


def test_a_class_that_only_the_kept_test_set_has_is_an_error():
    found = with_own_test(leaky=False)
    found.loc[(found["label"] == "A") & (found["split"] != "test"), "label"] = "B"
    with pytest.raises(ValueError, match="A has 0"):
        splits.by_patient(found, keep_test=True)


# --- by image ---------------------------------------------------------------------------


def test_a_split_by_image_is_stratified_seeded_and_leaks():
    found = random_patients(11)
    split = splits.by_image(found, val=0.2, test=0.2, seed=1)
    shares = shares_of(split).sub(pd.Series({"train": 0.6, "val": 0.2, "test": 0.2}), axis=0)
    assert shares.abs().max(axis=None) <= 1 / found["label"].value_counts().min()
    shuffled = splits.by_image(found.sample(frac=1, random_state=0), val=0.2, test=0.2, seed=1)
    assert shuffled.sort_index().equals(split)
    assert not splits.by_image(found, val=0.2, test=0.2, seed=2).equals(split)
    assert splits.leaks(splits.audit(split))


def test_a_split_by_image_can_keep_the_test_set():
    found = with_own_test(leaky=False)
    split = splits.by_image(found, val=0.25, keep_test=True)
    assert ((split["split"] == "test") == (found["split"] == "test")).all()
    assert splits.leak_verdict(splits.audit(split)).endswith(
        "val images share a patient with train"
    )


# --- the audit ---------------------------------------------------------------------------


def test_shared_patients_are_counted_in_images_of_the_second_split():
    audit = splits.audit(table(OCT))
    assert audit.columns.tolist() == [
        "check",
        "splits",
        "found",
        "of",
        "share",
        "verdict",
        "examples",
        "meaning",
    ]
    row = finding(audit, "patient in two splits")
    assert (row["found"], row["of"], row["share"], row["verdict"]) == (3, 4, 0.75, "leak")
    assert row["examples"] == "test/CNV/CNV-1-1.jpeg, test/CNV/CNV-2-2.jpeg, test/DME/DME-2-3.jpeg"
    assert row["meaning"].startswith("3 of 4 test images show a patient whom train shows too")
    assert splits.leaks(audit)
    assert splits.leak_verdict(audit) == "LEAK: 3 of 4 test images share a patient with train"


def test_a_shared_base_name_alone_is_a_warning_and_no_leak():
    found = table(OCT).assign(patient=[str(i) for i in range(len(OCT))])
    row = finding(splits.audit(found), "base name in two splits")
    assert (row["found"], row["verdict"], row["examples"]) == (
        1,
        "warning",
        "test/CNV/CNV-1-1.jpeg",
    )
    assert (
        splits.leak_verdict(splits.audit(found))
        == "no patient is on two sides; files were not compared"
    )


def test_wrong_patient_keys_make_leaks_of_a_clean_split():
    audits = {
        rule: splits.audit(records.with_patients(table(CHEST), key))
        for rule, key in records.PATIENT_RULES.items()
    }
    found = {
        rule: finding(audit, "patient in two splits")["found"] for rule, audit in audits.items()
    }
    assert found == {"kind and number": 0, "number without kind": 2, "series merged": 2}
    audit = splits.audit(table(CHEST))
    assert not splits.leaks(audit)
    assert (
        splits.leak_verdict(audit) == "no patient or name is on two sides; files were not compared"
    )


def hashed(rows: list[tuple[str, str, str, str, str]]) -> pd.DataFrame:
    """Records of (path, split, label, patient, contents), contents "" being an unreadable file."""
    found = pd.DataFrame(rows, columns=["path", "split", "label", "patient", "sha256"], dtype="str")
    return found.assign(problem=np.where(found["sha256"] == "", "empty file", ""))


def test_equal_files_are_found_across_splits_within_splits_and_under_two_labels():
    audit = splits.audit(
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
    across = finding(audit, "identical bytes in two splits")
    assert (across["found"], across["of"], across["verdict"]) == (2, 3, "leak")
    labels = finding(audit, "identical bytes under two labels", "all")
    assert (labels["found"], labels["verdict"], labels["examples"]) == (
        2,
        "warning",
        "b1.png, a4.png",
    )
    within = finding(audit, "identical bytes within a split", "train")
    assert (within["found"], within["verdict"], within["examples"]) == (1, "warning", "a2.png")
    assert finding(audit, "identical bytes within a split", "test")["verdict"] == "ok"
    assert splits.leak_verdict(audit) == "LEAK: 2 of 3 test images are files of train too"


def test_unreadable_files_are_no_copies_of_each_other_but_count_as_unreadable():
    audit = splits.audit(
        hashed(
            [
                ("a1.png", "train", "A", "1", ""),
                ("b1.png", "train", "B", "2", "x"),
                ("a2.png", "test", "A", "3", ""),
                ("b2.png", "test", "B", "4", "y"),
            ]
        )
    )
    unreadable = finding(audit, "unreadable file", "all")
    assert (unreadable["found"], unreadable["of"], unreadable["verdict"]) == (2, 4, "warning")
    assert audit[audit["verdict"] != "ok"]["check"].tolist() == ["unreadable file"]
    assert splits.leak_verdict(audit) == "no patient, file or name is on two sides"


def test_files_are_not_compared_unless_they_were_read():
    assert not splits.audit(table(OCT))["check"].str.contains("bytes|unreadable").any()


def test_unknown_patients_are_counted_and_named_in_the_verdict():
    found = table(
        [
            ("train/A/x.png", "train", "A"),
            ("train/B/B1.png", "train", "B"),
            ("test/A/y.png", "test", "A"),
            ("test/B/CNV-7-1.png", "test", "B"),
        ]
    )
    row = finding(splits.audit(found), "unknown patient", "all")
    assert (row["found"], row["of"], row["verdict"]) == (3, 4, "warning")
    assert splits.leak_verdict(splits.audit(found)).endswith("; the patient of 3 images is unknown")


def test_a_class_missing_in_a_split_is_named():
    audit = splits.audit(table(OCT[:6]))
    row = finding(audit, "class missing in a split", "test")
    assert (row["found"], row["of"], row["verdict"], row["examples"]) == (1, 2, "warning", "DME")
    assert finding(audit, "class missing in a split", "train")["verdict"] == "ok"


def test_a_small_validation_set_is_named_with_its_uncertainty():
    def row(n: int) -> pd.Series:
        found = patients({str(i): {"AB"[i % 2]: 1} for i in range(n + 2)})
        found = found.assign(split=["train"] * 2 + ["val"] * n)
        return finding(splits.audit(found), "validation set too small", "val")

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
    audit = splits.audit(table(rows))
    shared = audit[audit["check"] == "patient in two splits"]
    assert dict(zip(shared["splits"], shared["found"], strict=True)) == {
        "train & val": 1,
        "train & test": 1,
        "val & test": 2,
    }
    assert splits.leak_verdict(audit) == "LEAK: 2 of 3 test images share a patient with val"


def test_without_two_splits_there_is_nothing_to_compare():
    audit = splits.audit(random_patients(0))
    assert (
        not splits.leaks(audit)
        and splits.leak_verdict(audit) == "there are no two splits to compare"
    )


def test_images_without_a_split_take_no_part_in_the_comparison():
    found = table(OCT)
    found.loc[found["split"] == "train", "split"] = ["", "train", "", "train"]
    assert finding(splits.audit(found), "patient in two splits")["found"] == 1


# --- the real names ---------------------------------------------------------------------------


@pytest.mark.real
def test_the_audit_of_a_folder_with_the_real_oct_names_finds_835_of_968(real_data, tmp_path):
    names = pd.concat(
        [pd.read_csv(file) for file in sorted((real_data / "names").glob("oct_*.csv"))]
    )
    for folder in {Path(path).parent for path in names["path"]}:
        (tmp_path / folder).mkdir(parents=True)
    for path in names["path"]:
        (tmp_path / path).touch()
    audit = splits.audit(records.inspect(records.scan(tmp_path), tmp_path))
    shared = finding(audit, "patient in two splits")
    assert (shared["found"], shared["of"], shared["verdict"]) == (835, 968, "leak")
    assert finding(audit, "base name in two splits")["found"] == 288
    assert finding(audit, "identical bytes in two splits")["found"] == 0
    assert finding(audit, "unreadable file", "all")["found"] == names["path"].nunique()
    assert splits.leak_verdict(audit) == "LEAK: 835 of 968 test images share a patient with train"


@pytest.mark.real
def test_the_real_oct_names_divide_by_patient_within_a_twentieth_of_a_percent(real_data):
    names = pd.concat(
        [pd.read_csv(file) for file in sorted((real_data / "names").glob("oct_*.csv"))]
    )
    split = splits.by_patient(
        records.with_patients(names.drop_duplicates("path", ignore_index=True))
    )
    assert not splits.leaks(splits.audit(split))
    wanted = pd.Series({"train": 0.7, "val": 0.15, "test": 0.15})
    assert shares_of(split).sub(wanted, axis=0).abs().max(axis=None) < 0.0005


@pytest.mark.real
def test_the_real_chest_split_is_clean_until_validation_is_drawn_by_image(real_data):
    names = records.with_patients(pd.read_csv(real_data / "names" / "chest_kaggle.csv"))
    assert finding(splits.audit(names), "patient in two splits")["found"] == 0
    by_image = splits.audit(splits.by_image(names, val=0.2, keep_test=True))
    assert finding(by_image, "patient in two splits", "train & val")["share"] == pytest.approx(
        0.39, abs=0.03
    )
    by_patient = splits.by_patient(names, val=0.2, keep_test=True)
    assert len(by_patient) == len(names) and not splits.leaks(splits.audit(by_patient))
