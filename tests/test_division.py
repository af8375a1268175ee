"""How a run's images are divided."""

import numpy as np
import pandas as pd
import pytest

from tlutils import division, recipes, splits

RECIPE = recipes.get("chest-resnet18-fixed")


def records(shared_test: bool = False) -> pd.DataFrame:
    """60 patients of 3 images, two classes; the last 12 patients are the data set's own test set."""
    rows = []
    for patient in range(60):
        for scan in range(3):
            in_test = patient >= 48 or (shared_test and patient < 6 and scan == 0)
            rows.append({"path": f"{patient}-{scan}.png", "split": "test" if in_test else "train",
                         "label": "ill" if patient % 2 else "well", "patient": f"p{patient}"})
    return pd.DataFrame(rows)


def own_test(table: pd.DataFrame) -> set[str]:
    return set(table.loc[table["split"] == "test", "path"])


@pytest.mark.parametrize("how", ["patient", "image"])
def test_a_clean_test_set_is_kept(how):
    divided, said = division.divide(records(), RECIPE.changed({"split": how}))
    assert own_test(divided) == own_test(records()) and "test images are kept" in said


def test_by_patient_nobody_is_on_two_sides_and_by_image_somebody_is():
    by = {how: division.divide(records(), RECIPE.changed({"split": how}))[0] for how in ("patient", "image")}
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
