"""How a run's images are divided."""

import numpy as np
import pandas as pd
import pytest

from tlutils.data import division, splits
from tlutils.runs import recipes

RECIPE = recipes.get("chest-resnet18-fixed")


def records(shared_test: bool = False) -> pd.DataFrame:
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
    divided, said = division.divide(records(), RECIPE.changed({"split": how}))
    assert own_test(divided) == own_test(records()) and "test images are kept" in said


def test_by_patient_nobody_is_on_two_sides_and_by_image_somebody_is():
    by = {
        how: division.divide(records(), RECIPE.changed({"split": how}))[0]
        for how in ("patient", "image")
    }
    assert not splits.leaks(splits.audit(by["patient"])) and splits.leaks(splits.audit(by["image"]))


def test_a_test_set_that_shares_patients_is_divided_anew():
    divided, said = division.divide(records(shared_test=True), RECIPE)
    assert own_test(divided) != own_test(records(shared_test=True)) and "divided anew" in said
    assert not splits.leaks(splits.audit(divided))


def test_the_official_split_is_kept_with_its_leak():
    table = records(shared_test=True)
    divided, _ = division.divide(table, RECIPE.changed({"split": "official"}))
    assert own_test(divided) == own_test(table) and splits.leaks(splits.audit(divided))


def test_unreadable_images_are_on_no_side_but_stay_in_the_table():
    table = records().assign(problem="")
    table.loc[0, "problem"] = "empty file"
    divided, _ = division.divide(table, RECIPE)
    assert len(divided) == len(table) and divided.set_index("path").loc["0-0.png", "split"] == ""


def test_a_split_seed_holds_the_division_while_the_seed_changes():
    def sides(**changes):
        return division.divide(records(), RECIPE.changed(changes))[0]["split"].tolist()

    assert sides(seed=1, split_seed=0) == sides(seed=2, split_seed=0) == sides(seed=0)
    assert sides(seed=1) != sides(seed=2)


def test_a_sample_keeps_the_share_of_every_split_and_class():
    table = records()
    some = division.sample(table, 60, seed=0)
    assert 55 <= len(some) <= 65
    shares = [part.groupby(["split", "label"]).size() / len(part) for part in (table, some)]
    assert np.allclose(*shares, atol=0.03)
    assert division.sample(table, 0, 0) is table and division.sample(table, 999, 0) is table


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
        some = division.sample(table, limit, seed)
        assert (some.groupby(["split", "label"])["patient"].nunique() >= 2).all() and len(
            some
        ) <= max(limit, 8) + 4
    alone = table[table["patient"].str.endswith("0")]
    assert len(division.sample(alone, 1, 0)) == 8


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


def test_the_same_images_are_asked_of_patients_never_met_and_of_patients_met():
    unmet, met = division.seen_and_unseen_patients(several_scans())
    asked = [table[table["split"] == "test"]["path"].tolist() for table in (unmet, met)]
    assert asked[0] == asked[1] and len(asked[0]) == 2 * 7 * 2
    here = [set(table[table["split"] == "train"]["patient"]) for table in (unmet, met)]
    patients = set(unmet[unmet["split"] == "test"]["patient"])
    assert not patients & here[0] and patients <= here[1]


def test_both_divisions_train_on_as_many_images_of_each_class():
    unmet, met = (
        table[table["split"] == "train"]["label"].value_counts().to_dict()
        for table in division.seen_and_unseen_patients(several_scans())
    )
    assert unmet == met


def test_images_without_a_side_or_a_second_one_take_no_part_and_the_seed_decides():
    records = several_scans(each=3)
    records.loc[0, "split"] = ""
    lonely = records.index[(records["split"] == "test")][1:3]
    records = records.drop(lonely).reset_index(drop=True)
    unmet, met = division.seen_and_unseen_patients(records)
    alone = records.loc[records.groupby("patient")["path"].transform("size") == 1, "path"]
    for table in (unmet, met):
        assert "" not in set(table["split"]) and not set(alone) & set(table["path"])
    pd.testing.assert_frame_equal(met, division.seen_and_unseen_patients(records)[1])
    assert not met.equals(division.seen_and_unseen_patients(records, seed=1)[1])


def test_where_no_patient_has_two_images_none_can_be_met():
    with pytest.raises(ValueError, match="none can be met"):
        division.seen_and_unseen_patients(several_scans(each=1))
