"""Splits by patient, splits by image, and the audit that tells them apart."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from data_builders import finding, patients, random_patients
from hypothesis import given, settings
from hypothesis import strategies as st

from tlutils.data import records, splits
from tlutils.data.audit import audit_splits, leak_verdict, leaks


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
    assert not leaks(audit_splits(divided))


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
    with pytest.warns(UserWarning, match="a share is 29 % off"):
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


@pytest.mark.parametrize("split", [splits.by_patient, splits.by_image, audit_splits])
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
    assert not leaks(audit_splits(split))


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
    assert not leaks(audit_splits(split))


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
    assert leaks(audit_splits(split))


def test_a_split_by_image_can_keep_the_test_set():
    found = with_own_test(leaky=False)
    split = splits.by_image(found, val=0.25, keep_test=True)
    assert ((split["split"] == "test") == (found["split"] == "test")).all()
    assert leak_verdict(audit_splits(split)).endswith("val images share a patient with train")


# --- rules ---------------------------------------------------------------------------


def with_own_folders(shared_test: bool = False) -> pd.DataFrame:
    """60 patients of 3 images, two classes; the last 12 patients are the data set's own test set."""
    rows = []
    for patient in range(60):
        for scan in range(3):
            in_test = patient >= 48 or (shared_test and patient < 6 and scan == 0)
            rows.append(
                {
                    "path": f"{patient}-{scan}.png",
                    "split": "test" if in_test else "train",
                    "label": "ill" if patient % 2 else "well",
                    "patient": f"p{patient}",
                }
            )
    return pd.DataFrame(rows)


def own_test(table: pd.DataFrame) -> set[str]:
    return set(table.loc[table["split"] == "test", "path"])


@pytest.mark.parametrize("how", ["patient", "image"])
def test_a_clean_test_set_is_kept(how):
    divided, said = splits.divide(with_own_folders(), how)
    assert own_test(divided) == own_test(with_own_folders()) and "test images are kept" in said


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ("test", "; training and validation were divided anew (--set split=official keeps "),
        ("train", "; all images were divided anew (--set split=official keeps "),
    ],
)
@pytest.mark.parametrize("how", ["patient", "image"])
def test_that_a_data_sets_own_validation_is_not_kept_is_told_with_the_way_to_keep_it(
    own, told, how
):
    table = with_own_folders()
    table["split"] = table["split"].replace("test", own)
    assert "official" not in splits.divide(table, how)[1]
    table.loc[table["patient"].isin(["p0", "p1"]), "split"] = "val"
    assert told in splits.divide(table, how)[1]
    kept, how = splits.divide(table, "official")
    assert kept["split"].equals(table["split"]) and "anew" not in how


def test_by_patient_nobody_is_on_two_sides_and_by_image_somebody_is():
    by = {how: splits.divide(with_own_folders(), how)[0] for how in ("patient", "image")}
    assert not leaks(audit_splits(by["patient"])) and leaks(audit_splits(by["image"]))


def test_a_test_set_that_shares_patients_is_divided_anew():
    divided, said = splits.divide(with_own_folders(shared_test=True))
    assert (
        own_test(divided) != own_test(with_own_folders(shared_test=True)) and "divided anew" in said
    )
    assert not leaks(audit_splits(divided))


def test_the_official_split_is_kept_with_its_leak():
    table = with_own_folders(shared_test=True)
    divided, _ = splits.divide(table, "official")
    assert own_test(divided) == own_test(table) and leaks(audit_splits(divided))


def test_unreadable_images_are_on_no_side_but_stay_in_the_table():
    table = with_own_folders().assign(problem="")
    table.loc[0, "problem"] = "empty file"
    divided, _ = splits.divide(table)
    assert len(divided) == len(table) and divided.set_index("path").loc["0-0.png", "split"] == ""


def test_without_a_problem_an_image_is_readable_also_where_nobody_has_looked():
    table = pd.DataFrame({"path": list("abc"), "problem": ["", "empty file", None]})
    assert splits.is_readable(table).tolist() == [True, False, True]
    assert splits.is_readable(table[["path"]]).all()


def test_a_seed_draws_a_division_of_its_own():
    one, two = (splits.divide(with_own_folders(), seed=seed)[0]["split"] for seed in (1, 2))
    assert one.equals(splits.divide(with_own_folders(), seed=1)[0]["split"]) and not one.equals(two)


@pytest.mark.parametrize(
    ("official", "unknown", "how"),
    [
        ("", 40, "divided by image: no patient is known"),
        (
            "",
            10,
            "divided by patient; 10 of 40 images, whose patient is unknown, each as one of its own",
        ),
        (
            "test",
            40,
            "divided by image: no patient is known; the data set's own test images are kept, as "
            "none of their files is elsewhere",
        ),
    ],
)
def test_images_of_unknown_patients_are_not_called_divided_by_patient(official, unknown, how):
    found = patients({f"{label}{i}": {label: 2} for label in "AB" for i in range(10)})
    found["patient"] = found["patient"].mask(found.index < unknown, "?" + found["path"])
    found["split"] = [official if i % 5 == 0 else "" for i in range(40)]
    assert splits.divide(found)[1] == how
    if official:
        found["split"] = found["split"].replace("", "train")
        assert splits.divide(found, "official")[1].endswith("validation images taken from train")


def test_of_unknown_patients_nobody_says_that_they_are_not_elsewhere():
    found = patients({f"{label}{i}": {label: 1} for label in "AB" for i in range(20)})
    found["patient"] = found["patient"].mask(found.index < 10, "?" + found["path"])
    found["split"] = ["test" if i % 5 == 0 else "" for i in range(40)]
    assert splits.divide(found)[1].endswith("as none of their known patients is elsewhere")


def test_an_unknown_rule_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'files'.*patient, image, official"):
        splits.divide(with_own_folders(), "files")


def test_a_sample_keeps_the_share_of_every_split_and_class():
    table = with_own_folders()
    some = splits.sample(table, 60, seed=0)
    assert 55 <= len(some) <= 65
    shares = [part.groupby(["split", "label"]).size() / len(part) for part in (table, some)]
    assert np.allclose(*shares, atol=0.03)
    assert splits.sample(table, 0, 0) is table and splits.sample(table, 999, 0) is table


def test_fewer_patients_are_among_more_with_all_images_and_every_class():
    rows = [(f"{n}-{i}.png", "AAAB"[n % 4], str(n)) for n in range(80) for i in range(n % 3 + 1)]
    table = pd.DataFrame(rows, columns=["path", "label", "patient"])
    taken = {n: splits.take_patients(table, n, seed=3) for n in (2, 5, 20, 40)}
    for n, few in taken.items():
        assert few["patient"].nunique() == n and set(few["label"]) == {"A", "B"}
        assert len(few) == table["patient"].isin(set(few["patient"])).sum()
    assert set(taken[5]["path"]) < set(taken[20]["path"]) < set(taken[40]["path"])
    assert taken[40].groupby("label")["patient"].nunique().to_dict() == {"A": 30, "B": 10}
    shuffled = splits.take_patients(table.sample(frac=1, random_state=0), 5, seed=3)
    assert set(shuffled["path"]) == set(taken[5]["path"])
    assert set(splits.take_patients(table, 5, seed=4)["path"]) != set(taken[5]["path"])
    with pytest.raises(ValueError, match="80 patients of 2 classes; take from 2 to 80, not 1"):
        splits.take_patients(table, 1)


@pytest.mark.parametrize("limit", [1, 8, 30])
def test_a_sample_has_two_patients_of_every_split_and_class_where_there_are_two(limit):
    rows = [
        (split, label, f"{split}{label}{patient}")
        for split in ("train", "test")
        for label in "ab"
        for patient, scans in enumerate((40, 3, 1))
        for _ in range(scans)
    ]
    table = pd.DataFrame(rows, columns=["split", "label", "patient"])
    table["path"] = [f"{i}.png" for i in range(len(table))]
    for seed in range(30):
        some = splits.sample(table, limit, seed)
        assert (some.groupby(["split", "label"])["patient"].nunique() >= 2).all() and len(
            some
        ) <= max(limit, 8) + 4
    alone = table[table["patient"].str.endswith("0")]
    assert len(splits.sample(alone, 1, 0)) == 8


def several_scans(n=30, each=4):
    rows = [
        (
            f"{label}/{label}-{i}-{n_}.png",
            ("train", "train", "val", "test")[i % 4],
            label,
            f"{label}{i}",
        )
        for label in ("a", "b")
        for i in range(n)
        for n_ in range(each)
    ]
    return pd.DataFrame(rows, columns=["path", "split", "label", "patient"])


def test_the_same_images_are_asked_of_patients_unseen_in_training_and_of_seen_ones():
    unseen, seen = splits.unseen_and_seen_patients(several_scans())
    asked = [table[table["split"] == "test"]["path"].tolist() for table in (unseen, seen)]
    assert asked[0] == asked[1] and len(asked[0]) == 2 * 7 * 2
    here = [set(table[table["split"] == "train"]["patient"]) for table in (unseen, seen)]
    patients = set(unseen[unseen["split"] == "test"]["patient"])
    assert not patients & here[0] and patients <= here[1]


def test_both_divisions_train_on_as_many_images_of_each_class():
    unseen, seen = (
        table[table["split"] == "train"]["label"].value_counts().to_dict()
        for table in splits.unseen_and_seen_patients(several_scans())
    )
    assert unseen == seen


def test_images_without_a_side_or_a_second_one_take_no_part_and_the_seed_decides():
    records = several_scans(each=3)
    records.loc[0, "split"] = ""
    lonely = records.index[(records["split"] == "test")][1:3]
    records = records.drop(lonely).reset_index(drop=True)
    unseen, seen = splits.unseen_and_seen_patients(records)
    alone = records.loc[records.groupby("patient")["path"].transform("size") == 1, "path"]
    for table in (unseen, seen):
        assert "" not in set(table["split"]) and not set(alone) & set(table["path"])
    pd.testing.assert_frame_equal(seen, splits.unseen_and_seen_patients(records)[1])
    assert not seen.equals(splits.unseen_and_seen_patients(records, seed=1)[1])


def test_where_no_patient_has_two_images_none_can_be_met():
    with pytest.raises(ValueError, match="none can be seen"):
        splits.unseen_and_seen_patients(several_scans(each=1))


# --- the real names ---------------------------------------------------------------------------


@pytest.mark.real
def test_the_real_oct_names_divide_by_patient_within_a_twentieth_of_a_percent(real_data):
    names = pd.concat(
        [pd.read_csv(file) for file in sorted((real_data / "names").glob("oct_*.csv"))]
    )
    split = splits.by_patient(
        records.with_patients(names.drop_duplicates("path", ignore_index=True))
    )
    assert not leaks(audit_splits(split))
    wanted = pd.Series({"train": 0.7, "val": 0.15, "test": 0.15})
    assert shares_of(split).sub(wanted, axis=0).abs().max(axis=None) < 0.0005


@pytest.mark.real
def test_the_real_chest_split_is_clean_until_validation_is_drawn_by_image(real_data):
    names = records.with_patients(pd.read_csv(real_data / "names" / "chest_kaggle.csv"))
    assert finding(audit_splits(names), "patient in two splits")["found"] == 0
    by_image = audit_splits(splits.by_image(names, val=0.2, keep_test=True))
    assert finding(by_image, "patient in two splits", "train & val")["share"] == pytest.approx(
        0.39, abs=0.03
    )
    by_patient = splits.by_patient(names, val=0.2, keep_test=True)
    assert len(by_patient) == len(names) and not leaks(audit_splits(by_patient))


def test_a_class_that_is_only_in_patients_of_a_commoner_one_has_a_patient_too():
    table = pd.DataFrame({"path": [f"A/{n}.png" for n in range(40)], "label": "A"})
    table["patient"] = [str(n) for n in range(40)]
    both = pd.concat([table, pd.DataFrame([["B/7.png", "B", "7"]], columns=table.columns)])
    for seed in range(5):
        assert set(splits.take_patients(both, 2, seed)["label"]) == {"A", "B"}


def test_images_that_are_all_of_the_test_set_leave_none_to_train_on():
    table = pd.DataFrame(
        {"path": list("abcd"), "split": "test", "label": list("ABAB"), "patient": list("abcd")}
    )
    for rule in ("patient", "image", "official"):
        with pytest.raises(ValueError, match="all 4 images are test images, so there are none to"):
            splits.divide(table, rule)


def test_the_official_split_is_not_offered_where_it_would_be_refused():
    n = 40
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "label": ["A", "B"] * (n // 2)})
    table = table.assign(patient=table["path"], split=["val", "", "", ""] * (n // 4))
    how = splits.divide(table, "patient")[1]
    assert how.endswith("; all images were divided anew")
    with pytest.raises(ValueError, match="and 30 of 40 images are in none"):
        splits.divide(table, "official")


def test_a_class_of_one_patient_that_is_spelled_nearly_as_another_is_named():
    table = pd.DataFrame({"patient": [str(i) for i in range(9)], "split": ""})
    table = table.assign(path=table["patient"], label=["healthy"] * 4 + ["ill"] * 4 + ["healty"])
    with pytest.raises(ValueError, match=r"healty has 1 \(is it healthy, misspelt\?\)"):
        splits.by_patient(table)
    grades = [("stage I", "stage II"), ("grade_iii", "grade_iv"), ("normal", "abnormal")]
    for one, other in (
        *grades,
        ("BI-RADS_4a", "BI-RADS_4b"),
        ("GradeII", "GradeIII"),
        ("T2", "T3"),
    ):
        with pytest.raises(ValueError, match=rf"{other} has 1 \(who share"):
            splits.by_patient(table.replace({"healthy": one, "healty": other}))
