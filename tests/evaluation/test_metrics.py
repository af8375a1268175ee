"""Predictions, numbers from them, how sure the numbers are, thresholds."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import TRIED, binary, drawn, table, tables
from scipy.stats import binomtest
from scipy.stats import t as student
from sklearn import metrics as sk

from tlutils.core import intervals
from tlutils.core.devices import Machine
from tlutils.evaluation.metrics import (
    accuracy_by,
    as_text,
    calibration_error_by_chance,
    calibration_table,
    compute_metrics,
    confusion,
    expected_calibration_error,
    headline,
    per_class_table,
    top_k_accuracy,
)

CPU = Machine(torch.device("cpu"))


ABOVE_HALF = {"NORMAL": [0.9, 0.1], "PNEUMONIA": [0.1, 0.9]}


def from_confusion(matrix, classes):
    """A binary table with the given confusion matrix, every image of another patient."""
    rows = [
        (true, ABOVE_HALF[predicted])
        for i, true in enumerate(classes)
        for j, predicted in enumerate(classes)
        for _ in range(matrix[i][j])
    ]
    return table([true for true, _ in rows], [scores for _, scores in rows], classes)


# Values


@pytest.mark.parametrize(
    ("matrix", "accuracy", "sensitivity", "specificity", "ppv", "npv", "balanced"),
    [
        ([[118, 116], [1, 389]], 0.8125, 0.9974, 0.5043, 0.7703, 0.9916, 0.7509),
        ([[144, 90], [11, 379]], 0.8381, 0.9718, 0.6154, 0.8081, 0.9290, 0.7936),
    ],
)
def test_a_published_confusion_matrix_gives_its_published_numbers(
    matrix, accuracy, sensitivity, specificity, ppv, npv, balanced
):
    found = compute_metrics(from_confusion(matrix, ["NORMAL", "PNEUMONIA"]), repeats=50)
    assert found["confusion"] == matrix and found["n"] == 624 == found["patients"]
    values = {
        name: found[name]["value"]
        for name in ("accuracy", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy")
    }
    assert values == pytest.approx(
        {
            "accuracy": accuracy,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": ppv,
            "npv": npv,
            "balanced_accuracy": balanced,
        },
        abs=5e-5,
    )
    assert found["baseline"] == pytest.approx(390 / 624) and found["threshold"] == 0.5


def test_the_other_class_as_positive_swaps_what_is_found_and_what_is_alarmed():
    predictions = from_confusion([[118, 116], [1, 389]], ["NORMAL", "PNEUMONIA"])
    one, other = (
        compute_metrics(predictions, 20, positive=name) for name in ("PNEUMONIA", "NORMAL")
    )
    assert one["sensitivity"] == other["specificity"] and one["ppv"] == other["npv"]


def test_of_one_answer_for_all_images_what_any_patients_give_has_no_interval():
    predictions = from_confusion([[0, 52], [0, 58]], ["NORMAL", "PNEUMONIA"])
    found = compute_metrics(predictions, repeats=50)
    for name in ("balanced_accuracy", "auc"):
        assert found[name] == {"value": 0.5, "low": None, "high": None}
    assert found["accuracy"]["low"] < 58 / 110 < found["accuracy"]["high"]
    assert found["sensitivity"]["low"] < found["sensitivity"]["value"] == 1.0
    for one in found["per_class"].values():
        assert one["auc"] == {"value": 0.5, "low": None, "high": None}


def test_few_patients_of_whom_all_resamples_agree_have_an_interval_where_their_answers_differ():
    scores = [[0.4, 0.6], [0.6, 0.4]] * 4
    found = compute_metrics(table(list("BBBBAAAA"), scores, ["A", "B"], list("wwxxyyzz")), 50)
    for name in ("auc", "balanced_accuracy"):
        assert found[name]["low"] < found[name]["value"] == 0.5 < found[name]["high"]


def test_every_value_is_what_scikit_learn_says():
    predictions = drawn()
    found = compute_metrics(predictions, repeats=20)
    truth, predicted = predictions["label"], predictions["predicted"]
    scores = predictions[["p_A", "p_B", "p_C", "p_D"]].to_numpy()
    assert found["accuracy"]["value"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert found["balanced_accuracy"]["value"] == pytest.approx(
        sk.balanced_accuracy_score(truth, predicted)
    )
    assert found["macro_f1"]["value"] == pytest.approx(
        sk.f1_score(truth, predicted, average="macro")
    )
    assert found["auc"]["value"] == pytest.approx(
        sk.roc_auc_score(truth, scores, multi_class="ovr")
    )
    assert found["loss"] == pytest.approx(sk.log_loss(truth, scores))
    assert found["confusion"] == sk.confusion_matrix(truth, predicted).tolist()
    for name in "ABCD":
        of = found["per_class"][name]
        assert of["n"] == (truth == name).sum()
        assert of["precision"]["value"] == pytest.approx(
            sk.precision_score(truth == name, predicted == name)
        )
        assert of["auc"]["value"] == pytest.approx(
            sk.roc_auc_score(truth == name, predictions[f"p_{name}"])
        )


def test_the_area_of_two_classes_is_that_of_the_positive_ones_scores():
    predictions = binary("test").assign(
        p_PNEUMONIA=lambda t: t["p_PNEUMONIA"].clip(upper=0.6)
    )  # ties in one column
    truth = predictions["label"] == "PNEUMONIA"
    areas = [
        sk.roc_auc_score(truth, predictions["p_PNEUMONIA"]),
        sk.roc_auc_score(~truth, predictions["p_NORMAL"]),
    ]
    assert areas[0] != areas[1]
    assert compute_metrics(predictions, 5)["auc"]["value"] == pytest.approx(areas[0], abs=1e-9)
    assert compute_metrics(predictions, 5, positive="NORMAL")["auc"]["value"] == pytest.approx(
        areas[1], abs=1e-9
    )


def test_brier_sums_squares_over_the_classes():
    found = compute_metrics(table(["A", "B"], [[0.8, 0.2], [0.6, 0.4]], ["A", "B"]), repeats=5)
    assert found["brier"] == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)


def test_a_class_that_never_occurs_is_undefined_and_takes_no_part_in_means():
    predictions = drawn()
    predictions = predictions[predictions["label"] != "D"].reset_index(drop=True)
    found = compute_metrics(predictions, repeats=50)
    nothing = {"value": None, "low": None, "high": None}
    assert found["per_class"]["D"]["recall"] == nothing == found["per_class"]["D"]["auc"]
    recalls = [found["per_class"][name]["recall"]["value"] for name in "ABC"]
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))
    json.dumps(found, allow_nan=False)


def test_a_class_that_is_never_answered_has_no_precision():
    predictions = table(["A", "B", "B"], [[0.9, 0.1]] * 3, ["A", "B"])
    found = compute_metrics(predictions, repeats=20)
    assert (
        found["per_class"]["B"]["precision"]["value"] is None
        and found["per_class"]["B"]["f1"]["value"] == 0
    )


@pytest.mark.parametrize("labels", [["A", "A"], ["B", "B", "B"]])
def test_one_class_alone_has_an_accuracy_and_no_auc(labels):
    found = compute_metrics(table(labels, [[0.7, 0.3]] * len(labels), ["A", "B"]), repeats=20)
    assert found["auc"]["value"] is None and found["accuracy"]["value"] == (labels[0] == "A")
    assert "AUC undefined" in headline(found)


def test_tables_that_cannot_be_measured_are_refused():
    predictions = drawn()
    with pytest.raises(ValueError, match="empty"):
        compute_metrics(predictions.iloc[:0])
    with pytest.raises(ValueError, match="several splits.*take one"):
        compute_metrics(pd.concat([predictions, predictions.assign(split="val")]))
    with pytest.raises(ValueError, match="'Z'.*knows A, B, C, D"):
        compute_metrics(predictions.assign(label="Z"))
    with pytest.raises(ValueError, match="two classes and there are 4"):
        compute_metrics(predictions, threshold=0.3)
    with pytest.raises(ValueError, match="repeats is 0"):
        compute_metrics(predictions, repeats=0)


# Intervals


def by_hand(predictions, repeats, seed):
    """The same resamples, one table after the other, measured by scikit-learn."""
    parts = dict(list(predictions.groupby("patient")))
    names = list(predictions["patient"].unique())
    for row in np.random.default_rng(seed).integers(len(names), size=(repeats, len(names))):
        yield pd.concat([parts[names[i]] for i in row])


def test_intervals_are_those_of_a_plain_loop_over_the_same_resamples():
    predictions = drawn(60, ("A", "B", "C"), 25)
    rows = [
        {
            "accuracy": sk.accuracy_score(t["label"], t["predicted"]),
            "balanced_accuracy": sk.balanced_accuracy_score(t["label"], t["predicted"]),
            "auc": sk.roc_auc_score(
                t["label"], t[["p_A", "p_B", "p_C"]].to_numpy(), multi_class="ovr"
            ),
            "f1": sk.f1_score(t["label"], t["predicted"], labels=["B"], average=None)[0],
            "precision": sk.precision_score(t["label"], t["predicted"], labels=["B"], average=None)[
                0
            ],
        }
        for t in by_hand(predictions, 100, seed=5)
        if t["label"].nunique() == 3
    ]
    spread, patients = pd.DataFrame(rows), predictions.groupby("label")["patient"].nunique()
    n = {"accuracy": predictions["patient"].nunique(), "f1": patients["B"]}
    n["precision"] = predictions[predictions["predicted"] == "B"]["patient"].nunique()
    found = compute_metrics(predictions, repeats=100, seed=5, level=0.9)
    for name in rows[0]:
        of = found[name] if name in found else found["per_class"]["B"][name]
        few, value = n.get(name, patients.min()), of["value"]
        most = n.get(name, patients.max())  # of a mean over classes by Satterthwaite between them
        off, most_off = (
            student.ppf(0.95, many - 1) ** 2 * spread[name].var(ddof=0) * many / (many - 1)
            for many in (few, most)
        )
        for end in (of["low"], of["high"]):  # the equation of the score
            share = end * (1 - end) / (value * (1 - value))
            assert most_off * (1 - 1e-6) <= (value - end) ** 2 / share <= off * (1 + 1e-6)


def test_patients_are_drawn_whole():
    few = drawn(40, patients=20)
    many = pd.concat([few] * 6, ignore_index=True)
    one, six = (compute_metrics(predictions, repeats=200) for predictions in (few, many))
    assert six["patients"] == one["patients"] and six["n"] == 6 * one["n"]
    for name in ("accuracy", "balanced_accuracy", "auc"):
        assert six[name] == pytest.approx(one[name])


def test_an_interval_over_images_is_narrower_than_one_over_patients_that_are_right_or_wrong_together():
    right = np.repeat(np.arange(20) % 4 > 0, 10)
    predictions = table(
        ["A"] * 200,
        np.where(right[:, None], [0.9, 0.1], [0.1, 0.9]),
        ["A", "B"],
        np.repeat(np.arange(20), 10),
    )

    def width(predictions):
        of = compute_metrics(predictions)["accuracy"]
        return of["high"] - of["low"]

    assert width(predictions) > 2 * width(predictions.assign(patient=predictions["path"]))


def test_the_size_of_the_blocks_changes_nothing(monkeypatch):
    whole = compute_metrics(drawn(), repeats=90)
    monkeypatch.setattr(intervals, "_BLOCK", 7 * 200)
    assert compute_metrics(drawn(), repeats=90) == whole


def test_a_seed_gives_the_same_interval_and_another_seed_another():
    one, same, other = (compute_metrics(drawn(), 100, seed)["accuracy"] for seed in (1, 1, 2))
    assert one == same != other and one["value"] == other["value"]


def test_a_resample_without_the_class_is_left_out_and_counted():
    predictions = table(["A"] * 9 + ["B"], [[0.9, 0.1]] * 9 + [[0.2, 0.8]], ["A", "B"])
    of = compute_metrics(predictions, repeats=500)["per_class"]["B"]["recall"]
    absent = sum((row != 9).all() for row in np.random.default_rng(0).integers(10, size=(500, 10)))
    assert of["undefined"] == absent > 0 and of["value"] == 1


def test_all_right_does_not_mean_sure():
    predictions = table(["A", "B"] * 15, [[0.9, 0.1], [0.1, 0.9]] * 15, ["A", "B"])
    found = compute_metrics(predictions, repeats=50)
    low = binomtest(30, 30).proportion_ci(method="wilson").low
    assert found["accuracy"] == pytest.approx({"value": 1, "low": low, "high": 1})
    assert found["auc"]["low"] < found["accuracy"]["low"] and found["auc"]["high"] == 1


def test_a_predictive_value_rests_on_those_who_were_called_so():
    """All draws agree on an npv of 1: it was one patient whom the model called A, of 20 who are A."""
    scores = [[0.9, 0.1], *[[0.2, 0.8]] * 39]
    found = compute_metrics(table(["A"] * 20 + ["B"] * 20, scores, ["A", "B"]), repeats=50)
    low = binomtest(1, 1).proportion_ci(method="wilson").low
    assert found["npv"]["value"] == 1 and found["npv"]["low"] == pytest.approx(low)
    low = binomtest(20, 20).proportion_ci(method="wilson").low
    assert found["sensitivity"]["value"] == 1 and found["sensitivity"]["low"] == pytest.approx(low)


def test_one_patient_says_little():
    found = compute_metrics(drawn(50, patients=1), repeats=50)
    assert found["patients"] == 1 and found["accuracy"]["high"] - found["accuracy"]["low"] > 0.6
    assert "of 1 patient)" in headline(found)


def test_images_of_unknown_patients_count_as_patients_of_their_own():
    for nobody in ("", None, np.nan):
        assert compute_metrics(drawn(30).assign(patient=nobody), repeats=5)["patients"] == 30


# Tables


def test_top_k_is_scikit_learns_and_k_is_clipped():
    predictions = drawn(digits=8)
    scores = predictions[["p_A", "p_B", "p_C", "p_D"]].to_numpy()
    for k in (1, 2, 3):
        assert top_k_accuracy(predictions, k) == pytest.approx(
            sk.top_k_accuracy_score(predictions["label"], scores, k=k, labels=list("ABCD"))
        )
    assert top_k_accuracy(predictions, 5) == 1
    assert top_k_accuracy(predictions, 0) == top_k_accuracy(predictions, 1)
    found = compute_metrics(predictions, repeats=5)
    assert found["top2"] == pytest.approx(top_k_accuracy(predictions, 2)) and "top4" not in found


def test_the_table_of_classes():
    predictions = table(
        ["A", "A", "B", "B"],
        [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]],
        ["A", "B", "C"],
    )
    found = per_class_table(predictions)
    assert list(found.columns) == [
        "n",
        "top-1",
        "top-2",
        "loss",
        "recall",
        "precision",
        "f1",
    ]  # top-3 is always right
    assert found.loc["A", ["n", "top-1", "top-2"]].tolist() == [2, 0.5, 0.5]
    assert found.loc["B", ["recall", "precision", "f1"]].tolist() == [0.5, 0.5, 0.5]
    assert found.loc["A", "loss"] == pytest.approx(-np.log([0.6, 0.2]).mean())
    assert found.loc["C", "n"] == 0 and found.loc["C"].drop("n").isna().all()


def test_confusion_has_the_truth_in_rows():
    predictions = table(["A", "A", "B"], [[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]], ["A", "B"])
    assert confusion(predictions).loc["A"].to_dict() == {"A": 1, "B": 1}


def test_calibration_worked_by_hand():
    predictions = table(
        ["A", "A", "B", "B"], [[0.95, 0.05], [0.91, 0.09], [0.93, 0.07], [0.4, 0.6]], ["A", "B"]
    )
    found = calibration_table(predictions, bins=10)
    assert found["n"].tolist() == [1, 3]
    assert found["confidence"].tolist() == pytest.approx([0.6, 0.93])
    assert found["accuracy"].tolist() == pytest.approx([1, 2 / 3])
    assert expected_calibration_error(predictions, 10) == pytest.approx(
        (0.4 + 3 * (0.93 - 2 / 3)) / 4
    )
    assert (found["low"] <= found["accuracy"]).all() and (found["accuracy"] <= found["high"]).all()


def test_accuracy_by_groups_keeps_every_image():
    predictions = drawn(100)
    widths = pd.Series([512] * 60 + [768] * 30 + [None] * 10, dtype="Int64", name="width")
    found = accuracy_by(predictions, widths)
    right = predictions["label"] == predictions["predicted"]
    assert found["n"].tolist() == [60, 30, 10] and found.index.name == "width"
    assert found.loc[512, "accuracy"] == pytest.approx(right[:60].mean())
    for (_, row), part in zip(
        found.iterrows(), (predictions[:60], predictions[60:90], predictions[90:])
    ):
        whole = compute_metrics(part)
        assert row[["accuracy", "low", "high"]].tolist() == pytest.approx(
            list(whole["accuracy"].values())
        )
        assert row["patients"] == whole["patients"]
    assert accuracy_by(predictions, "label")["n"].sum() == 100


def test_accuracy_by_draws_patients_whose_images_are_right_or_wrong_together():
    """Thirty copies of each image tell no more than one, though there are thirty times as many images."""
    one = drawn(40, patients=10**6)
    many = pd.concat([one.assign(path=f"{i}-" + one["path"]) for i in range(30)], ignore_index=True)
    alone, together = (accuracy_by(t, t["path"].str[:0].rename("all")).iloc[0] for t in (one, many))
    assert together["n"] == 1200 and together["patients"] == alone["patients"] == 40
    assert together[["low", "high"]].tolist() == pytest.approx(alone[["low", "high"]].tolist())
    bins = [calibration_table(t, bins=4) for t in (one, many)]
    pd.testing.assert_frame_equal(bins[0].drop(columns="n"), bins[1].drop(columns="n"))
    nobody = many.assign(patient="")
    assert accuracy_by(nobody, "split")["patients"].tolist() == [1200]


def test_a_group_of_one_patient_says_little():
    found = accuracy_by(drawn(50).assign(patient="one"), "split").iloc[0]
    assert found["high"] - found["low"] > 0.6


def test_answers_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="3 of 9 predictions have no probabilities.*diverged"):
        compute_metrics(drawn(9).assign(p_A=[np.nan] * 3 + [0.2] * 6))


def test_what_cannot_be_right_or_wrong_has_no_accuracy():
    for broken, message in (
        (drawn(9)[:0], "0 predictions"),
        (drawn(9).assign(label=""), "labels ''"),
    ):
        with pytest.raises(ValueError, match=message):
            accuracy_by(broken, "split")
    with pytest.raises(ValueError, match="bins is 0"):
        accuracy_by(drawn(9), pd.Series(range(9)), bins=0)


def test_bins_that_are_close_together_keep_names_of_their_own():
    values = pd.Series([1_000_000.1, 1_000_000.2, 1_000_000.3, 1_000_000.4] * 25, name="bytes")
    found = accuracy_by(drawn(100), values, bins=3)
    assert found["n"].sum() == 100 and found.index.is_unique and found.index.name == "bytes"
    assert "1000000.1" in found.index[0]
    none = accuracy_by(drawn(100), values * np.nan, bins=np.int64(3))
    assert none["n"].tolist() == [100] and none.index.isna().all()


def test_accuracy_by_numbers_in_bins():
    predictions, sizes = drawn(100), pd.Series(range(100), name="bytes")
    assert accuracy_by(predictions, sizes, bins=4)["n"].tolist() == [25] * 4
    assert accuracy_by(predictions, sizes, bins=[0, 9, 99])["n"].to_dict() == {
        "0 to 9": 10,
        "9 to 99": 90,
    }
    assert accuracy_by(predictions, sizes * 0 + 512, bins=4)["n"].tolist() == [100]


# For people and files


def test_the_headline_says_on_how_many_patients():
    line = headline(compute_metrics(binary("test"), repeats=100))
    found = compute_metrics(binary("test"), repeats=100)
    assert line.startswith(
        f"accuracy {found['accuracy']['value']:.3f} (95 % interval {found['accuracy']['low']:.3f}-"
    )
    assert (
        f"300 images of {found['patients']} patients" in line
        and f"sensitivity for {found['positive']} 0." in line
        and "specificity" in line
        and "AUC" in line
    )


def test_the_headline_counts_no_patients_whom_nobody_knows():
    table = binary("test")
    nobody = compute_metrics(table.assign(patient=""), repeats=100)
    assert "300 images, each counted as a patient's of its own)" in headline(nobody)
    some = table.assign(patient=table["patient"].where(table.index >= 7, ""))
    patients = some["patient"].nunique() - 1 + 7
    words = f"300 images of {patients} patients, 7 of them counted as a patient's of its own)"
    assert words in headline(compute_metrics(some, repeats=100))


def test_numbers_as_text():
    assert as_text({"value": 0.8731, "low": 0.8, "high": 0.9}) == "0.873 (0.800-0.900)"
    assert as_text({"value": None, "low": None, "high": None}) == "undefined" == as_text(None)
    assert as_text(1234) == "1,234"
    assert as_text({"value": -0.02, "low": -0.1, "high": 0.05}) == "-0.020 (-0.100 to 0.050)"


def test_a_table_read_back_from_its_file_gives_the_same_metrics(tmp_path):
    predictions = drawn(digits=12)
    predictions.to_csv(tmp_path / "p.csv", index=False)
    again = pd.read_csv(tmp_path / "p.csv", dtype={"patient": str})
    assert compute_metrics(again, repeats=100) == compute_metrics(predictions, repeats=100)


def numbers_of(found: dict) -> dict:
    """All numbers of a split: {name: {"value", "low", "high"}}."""
    of_classes = {
        f"{name} {rate}": found["per_class"][name][rate]
        for name in found["per_class"]
        for rate in ("recall", "precision", "f1", "auc")
    }
    return {
        name: value for name, value in found.items() if isinstance(value, dict) and "value" in value
    } | of_classes


@TRIED
@given(tables())
def test_every_number_of_any_table_lies_in_its_interval_and_that_in_0_to_1(predictions):
    found = compute_metrics(predictions, repeats=30)
    for name, value in numbers_of(found).items():
        if value["low"] is None:
            assert (
                value["value"] is None or "auc" in name or name in ("balanced_accuracy", "macro_f1")
            )
        else:
            assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1, name
    assert 0 <= found["ece"] <= 1 and 0 <= found["brier"] <= 2 and found["loss"] >= 0
    assert np.sum(found["confusion"]) == len(predictions)
    json.dumps(found, allow_nan=False)


@TRIED
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_the_names_of_classes_change_no_value(predictions, random):
    order = random.sample(range(len(predictions)), len(predictions))
    renamed = predictions.rename(columns=lambda name: name.replace("p_class", "p_kind")).replace(
        {"label": "class", "predicted": "class"}, "kind", regex=True
    )
    values = {
        name: value["value"]
        for name, value in numbers_of(compute_metrics(predictions, repeats=2)).items()
    }
    for other in (predictions.iloc[order].reset_index(drop=True), renamed):
        found = numbers_of(compute_metrics(other, repeats=2))
        assert {
            name.replace("kind", "class"): value["value"] for name, value in found.items()
        } == pytest.approx(values)


@TRIED
@given(tables())
def test_any_tables_numbers_are_those_of_scikit_learn(predictions):
    found = compute_metrics(predictions, repeats=2)
    truth, predicted = predictions["label"], predictions["predicted"]
    occur = [name for name in found["classes"] if (truth == name).any()]
    assert found["accuracy"]["value"] == pytest.approx(sk.accuracy_score(truth, predicted))
    recall = sk.recall_score(truth, predicted, labels=occur, average="macro", zero_division=0)
    assert found["balanced_accuracy"]["value"] == pytest.approx(recall)
    assert found["macro_f1"]["value"] == pytest.approx(
        sk.f1_score(truth, predicted, labels=occur, average="macro")
    )
    if len(occur) > 1:
        areas = {name: sk.roc_auc_score(truth == name, predictions[f"p_{name}"]) for name in occur}
        wanted = (
            areas[found["positive"]]
            if "positive" in found and found["positive"] in areas
            else np.mean(list(areas.values()))
        )
        assert found["auc"]["value"] == pytest.approx(wanted)


@TRIED
@given(tables())
def test_one_patient_or_none_known_changes_the_intervals_alone(predictions):
    one = compute_metrics(predictions.assign(patient="one"), repeats=20)
    none = compute_metrics(predictions.assign(patient=""), repeats=20)
    assert one["patients"] == 1 and none["patients"] == len(predictions)
    values = [
        {name: value["value"] for name, value in numbers_of(found).items()} for found in (one, none)
    ]
    assert values[0] == values[1]
    assert (
        one["accuracy"]["high"] - one["accuracy"]["low"] > 0.5
    )  # one patient tells next to nothing


@TRIED
@given(tables(), st.integers(1, 5))
def test_groups_and_bins_divide_any_table(predictions, bins):
    numbers = pd.Series(np.arange(len(predictions)) % 7 / 3, name="width").where(
        predictions.index % 5 > 0
    )
    for found in (
        accuracy_by(predictions, numbers, bins=bins, repeats=20),
        accuracy_by(predictions, "patient", repeats=20),
        calibration_table(predictions, bins, repeats=20),
    ):
        assert found["n"].sum() == len(predictions) and found.index.is_unique
        assert ((found["low"] <= found["accuracy"]) & (found["accuracy"] <= found["high"])).all()
        right = (predictions["label"] == predictions["predicted"]).mean()
        assert np.average(found["accuracy"], weights=found["n"]) == pytest.approx(right)


@pytest.mark.parametrize(
    ("answer", "patients"),
    [("right", 1), ("right", 5), ("the patient's", 5), ("the patient's", 6)],
)
def test_classes_of_the_same_patients_are_no_surer_together_than_the_patients(answer, patients):
    labels = list("ABC") * patients
    who = [str(i // 3) for i in range(3 * patients)]
    predicted = labels if answer == "right" else ["ABC"[int(patient) % 3] for patient in who]
    scores = np.eye(3)[["ABC".index(name) for name in predicted]] * 0.7 + 0.1
    columns = {f"p_{name}": scores[:, i] for i, name in enumerate("ABC")}
    found = compute_metrics(
        pd.DataFrame(
            {"split": "test", "path": [f"{i:02d}" for i in range(len(who))], "patient": who}
            | {"label": labels, "predicted": predicted, "loss": 0.1}
            | columns
        )
    )
    for end in ("value", "low", "high"):
        assert found["balanced_accuracy"][end] == pytest.approx(found["accuracy"][end])


@pytest.mark.parametrize("each", [1, 4])
def test_a_calibrated_model_of_few_images_is_within_the_error_that_chance_gives(each):
    random, over = np.random.default_rng(0), []
    for _ in range(40):
        p = random.uniform(0.5, 1, 24).repeat(each)
        right = (random.random(24) < p[::each]).repeat(each)
        columns = {"label": np.where(right, "A", "B"), "predicted": "A", "p_A": p, "p_B": 1 - p}
        found = pd.DataFrame({"split": "test", "loss": 0.1} | columns)
        found = found.assign(path=[f"{i}" for i in found.index], patient=found.index // each)
        over.append(expected_calibration_error(found) > calibration_error_by_chance(found))
    assert np.mean(over) < 0.15
    sure = found.assign(label="B", p_A=0.99, p_B=0.01)
    assert expected_calibration_error(sure) > calibration_error_by_chance(sure)


@pytest.mark.parametrize("few", [1, 2, 3, 4])
def test_a_class_of_few_patients_moves_a_mean_by_its_share_alone(few):
    labels = [*"ABCDEF"] * 40 + ["G"] * few
    random = np.random.default_rng(0)
    truth = np.eye(7)[["ABCDEFG".index(one) for one in labels]]
    scores = np.exp(3 * truth + random.normal(0, 1.35, truth.shape))
    scores /= scores.sum(1, keepdims=True)
    columns = {f"p_{name}": scores[:, i] for i, name in enumerate("ABCDEFG")}
    columns |= {"path": [f"{i:03d}" for i in range(len(labels))], "label": labels, "loss": 0.1}
    columns |= {"split": "test", "predicted": ["ABCDEFG"[i] for i in scores.argmax(1)]}
    found = compute_metrics(pd.DataFrame(columns).assign(patient=columns["path"]))
    for name in ("balanced_accuracy", "macro_f1", "auc"):
        of = found[name]
        assert of["low"] > of["value"] - 1 / 7 - 0.05 and of["high"] < of["value"] + 1 / 7 + 0.05
