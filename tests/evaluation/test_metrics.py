"""Predictions, numbers from them, how sure the numbers are, thresholds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import binomtest
from sklearn import metrics as sk
from torch import nn

from tlutils.core import intervals
from tlutils.core.devices import Machine
from tlutils.data import loaders, records
from tlutils.data.augment import Augmentation, normalize, view
from tlutils.evaluation import thresholds
from tlutils.evaluation.metrics import (
    MEASURES,
    accuracy_by,
    as_text,
    calibration_table,
    compute_metrics,
    confusion,
    expected_calibration_error,
    headline,
    per_class_table,
    save_metrics,
    top_k_accuracy,
)
from tlutils.evaluation.predict import predict
from tlutils.models.build import build, probabilities

CPU = Machine(torch.device("cpu"))
ABOVE_HALF = {"NORMAL": [0.9, 0.1], "PNEUMONIA": [0.1, 0.9]}


def table(labels, scores, classes, patients=None, split="test"):
    """Predictions with the given probabilities (n, classes)."""
    scores = np.asarray(scores, dtype=float)
    truth = [classes.index(label) for label in labels]
    made = pd.DataFrame(
        {
            "split": split,
            "path": [f"{i}.jpeg" for i in range(len(labels))],
            "patient": [str(p) for p in (range(len(labels)) if patients is None else patients)],
            "label": list(labels),
            "predicted": np.array(classes)[scores.argmax(1)],
        }
    )
    for i, name in enumerate(classes):
        made[f"p_{name}"] = scores[:, i]
    return made.assign(loss=-np.log(np.maximum(scores[np.arange(len(labels)), truth], 1e-30)))


def from_confusion(matrix, classes):
    """A binary table with the given confusion matrix, every image of another patient."""
    rows = [
        (true, ABOVE_HALF[said])
        for i, true in enumerate(classes)
        for j, said in enumerate(classes)
        for _ in range(matrix[i][j])
    ]
    return table([true for true, _ in rows], [scores for _, scores in rows], classes)


def drawn(n=200, classes=("A", "B", "C", "D"), patients=60, seed=0, split="test", digits=2):
    """Predictions of a mediocre model; few digits make ties."""
    rng, k = np.random.default_rng(seed), len(classes)
    truth = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + 1.2 * np.eye(k)[truth]
    scores = np.round(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), digits) + 1e-3
    return table(
        np.array(classes)[truth],
        scores / scores.sum(1, keepdims=True),
        list(classes),
        rng.integers(patients, size=n),
        split,
    )


def binary(split="val", seed=0, n=300):
    return drawn(n, ("NORMAL", "PNEUMONIA"), 80, seed, split)


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


def test_every_value_is_what_scikit_learn_says():
    predictions = drawn()
    found = compute_metrics(predictions, repeats=20)
    truth, said = predictions["label"], predictions["predicted"]
    scores = predictions[["p_A", "p_B", "p_C", "p_D"]].to_numpy()
    assert found["accuracy"]["value"] == pytest.approx(sk.accuracy_score(truth, said))
    assert found["balanced_accuracy"]["value"] == pytest.approx(
        sk.balanced_accuracy_score(truth, said)
    )
    assert found["macro_f1"]["value"] == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert found["auc"]["value"] == pytest.approx(
        sk.roc_auc_score(truth, scores, multi_class="ovr")
    )
    assert found["loss"] == pytest.approx(sk.log_loss(truth, scores))
    assert found["confusion"] == sk.confusion_matrix(truth, said).tolist()
    for name in "ABCD":
        of = found["per_class"][name]
        assert of["n"] == (truth == name).sum()
        assert of["precision"]["value"] == pytest.approx(
            sk.precision_score(truth == name, said == name)
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
    parts = {name: part for name, part in predictions.groupby("patient")}
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
    low, high = np.percentile(pd.DataFrame(rows), [5, 95], axis=0)
    found = compute_metrics(predictions, repeats=100, seed=5, level=0.9)
    for i, name in enumerate(rows[0]):
        of = found[name] if name in found else found["per_class"]["B"][name]
        assert (of["low"], of["high"]) == pytest.approx((low[i], high[i]))


def test_the_fast_auc_is_scikit_learns_with_weights_and_ties():
    rng = np.random.default_rng(0)
    positive, score = rng.random(80) < 0.3, rng.integers(9, size=80) / 8
    weights = rng.integers(4, size=(25, 80)).astype(float)
    slow = [sk.roc_auc_score(positive, score, sample_weight=row) for row in weights]
    assert intervals.weighted_auc(positive, score, weights) == pytest.approx(slow)
    assert np.isnan(intervals.weighted_auc(positive, score, weights * positive)).all()


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
    monkeypatch.setattr(intervals, "AT_ONCE", 7 * 200)
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


def test_one_patient_says_little():
    found = compute_metrics(drawn(50, patients=1), repeats=50)
    assert found["patients"] == 1 and found["accuracy"]["high"] - found["accuracy"]["low"] > 0.6
    assert "of 1 patient)" in headline(found)


def test_images_of_unknown_patients_count_as_patients_of_their_own():
    for nobody in ("", None, np.nan):
        assert compute_metrics(drawn(30).assign(patient=nobody), repeats=5)["patients"] == 30


def test_wilson_is_scipys():
    for hits, n in ((0, 5), (3, 5), (5, 5), (87, 100)):
        exact = binomtest(hits, n).proportion_ci(0.9, "wilson")
        assert intervals.wilson(hits, n, 0.9) == pytest.approx((exact.low, exact.high))


# Thresholds


@pytest.mark.parametrize("split", ["test", "train"])
def test_a_threshold_is_not_chosen_on_test_or_training_images(split):
    with pytest.raises(ValueError, match=f"these are {split} images.*validation"):
        thresholds.choose_threshold(binary(split))


def rates(predictions, threshold):
    answered = thresholds.apply_threshold(predictions, threshold)
    right = answered["label"] == answered["predicted"]
    sick = answered["label"] == "PNEUMONIA"
    return right[sick].mean(), right[~sick].mean()


def every_pair_of_rates(predictions):
    edges = np.r_[0, np.unique(predictions["p_PNEUMONIA"]) + 1e-9]
    return np.array([rates(predictions, edge) for edge in edges])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_rule_finds_the_best_of_all_thresholds(seed):
    val = binary(seed=seed)
    found, sick = every_pair_of_rates(val), (val["label"] == "PNEUMONIA").mean()
    sensitivity, specificity = rates(val, thresholds.choose_threshold(val))
    assert sensitivity + specificity == pytest.approx(found.sum(1).max())
    sensitivity, specificity = rates(val, thresholds.choose_threshold(val, "sensitivity>=0.95"))
    assert sensitivity >= 0.95 and specificity == found[found[:, 0] >= 0.95, 1].max()
    sensitivity, specificity = rates(val, thresholds.choose_threshold(val, "specificity >= 0.9"))
    assert specificity >= 0.9 and sensitivity == found[found[:, 1] >= 0.9, 0].max()
    sensitivity, specificity = rates(val, thresholds.choose_threshold(val, "cost=5"))
    price = 5 * sick * (1 - found[:, 0]) + (1 - sick) * (1 - found[:, 1])
    assert 5 * sick * (1 - sensitivity) + (1 - sick) * (1 - specificity) == pytest.approx(
        price.min()
    )


def test_a_threshold_lies_between_the_scores_it_divides():
    val = table(
        ["NORMAL", "NORMAL", "PNEUMONIA"],
        [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]],
        ["NORMAL", "PNEUMONIA"],
        split="val",
    )
    assert thresholds.choose_threshold(val) == pytest.approx(0.45)
    assert thresholds.choose_threshold(val, positive="NORMAL") == pytest.approx(0.55)


def test_where_no_false_alarm_is_allowed_nothing_may_be_called_positive():
    val = table(
        ["NORMAL", "PNEUMONIA"], [[0.0, 1.0], [0.5, 0.5]], ["NORMAL", "PNEUMONIA"], split="val"
    )
    threshold = thresholds.choose_threshold(val, "specificity>=1")
    assert rates(val, threshold) == (0, 1) and np.isfinite(threshold)
    assert rates(val, thresholds.choose_threshold(val, "sensitivity>=1")) == (1, 0)


@pytest.mark.parametrize(
    "how", ["best", "sensitivity", "sensitivity>=95", "youden>=1", "sensitivity=0.9", ""]
)
def test_an_unknown_rule_is_refused_and_the_known_ones_are_named(how):
    with pytest.raises(ValueError, match="youden, sensitivity>=0.95"):
        thresholds.choose_threshold(binary(), how)


def test_thresholds_want_two_classes_that_both_occur():
    with pytest.raises(ValueError, match="merge_classes"):
        thresholds.choose_threshold(drawn(split="val"))
    with pytest.raises(ValueError, match="images of it and of others"):
        thresholds.choose_threshold(binary().assign(label="NORMAL"))
    with pytest.raises(ValueError, match="'VIRUS'.*NORMAL, PNEUMONIA"):
        thresholds.apply_threshold(binary(), 0.5, "VIRUS")


def test_a_threshold_changes_answers_and_not_ranking_or_calibration():
    at_half, lower = (compute_metrics(binary("test"), 50, threshold=t) for t in (0.5, 0.2))
    assert (
        lower["threshold"] == 0.2
        and lower["sensitivity"]["value"] > at_half["sensitivity"]["value"]
    )
    assert lower["specificity"]["value"] < at_half["specificity"]["value"]
    assert lower["auc"] == at_half["auc"] and lower["ece"] == at_half["ece"]
    applied = thresholds.apply_threshold(binary("test"), 0.2)
    assert compute_metrics(applied, 50) == lower | {
        "threshold": None
    }  # which one, the table does not say


def test_a_score_at_the_threshold_is_positive():
    predictions = table(["NORMAL"], [[0.75, 0.25]], ["NORMAL", "PNEUMONIA"])
    assert thresholds.apply_threshold(predictions, 0.25)["predicted"].tolist() == ["PNEUMONIA"]
    assert thresholds.apply_threshold(predictions, 0.25 + 1e-9)["predicted"].tolist() == ["NORMAL"]
    assert thresholds.apply_threshold(predictions, 0.75, "NORMAL")["predicted"].tolist() == [
        "NORMAL"
    ]


def test_merged_classes_add_up():
    predictions = drawn(split="val")
    merged = thresholds.merge_classes(predictions, {"well": ["A"], "ill": ["B", "C", "D"]})
    assert thresholds.classes_of(merged) == ["well", "ill"] and set(merged["label"]) == {
        "well",
        "ill",
    }
    assert np.allclose(merged["p_ill"], 1 - predictions["p_A"])
    assert ((merged["label"] == "well") == (predictions["label"] == "A")).all()
    true = np.where(merged["label"] == "well", merged["p_well"], merged["p_ill"])
    assert np.allclose(merged["loss"], -np.log(true))
    assert 0 < thresholds.choose_threshold(merged, positive="ill") < 1
    with pytest.raises(ValueError, match="must divide A, B, C, D"):
        thresholds.merge_classes(predictions, {"well": ["A"], "ill": ["B"]})


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
    assert confusion(predictions, normalize=True).sum(axis=1).tolist() == [1, 1]


def test_curves_hold_the_areas_of_the_metrics():
    predictions = drawn()
    curve = thresholds.roc(predictions, "B")
    area = trapezoid(curve["tpr"], curve["fpr"])
    assert area == pytest.approx(compute_metrics(predictions, 5)["per_class"]["B"]["auc"]["value"])
    curve = thresholds.pr(predictions, "B")
    assert curve.iloc[0]["recall"] == 1 and curve.iloc[-1]["precision"] == 1
    with pytest.raises(ValueError, match="no class 'Z'"):
        thresholds.roc(predictions, "Z")


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
    for broken, said in ((drawn(9)[:0], "0 predictions"), (drawn(9).assign(label=""), "labels ''")):
        with pytest.raises(ValueError, match=said):
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


def test_an_interval_holds_its_value_though_all_resamples_lie_on_one_side():
    found = intervals.interval(0.4, np.linspace(0.41, 0.6, 100), 0.95, trials=5)
    assert found["value"] == found["low"] == 0.4 and found["high"] == pytest.approx(0.6, abs=0.01)


# For people and files


def test_the_headline_says_on_how_many_patients():
    said = headline(compute_metrics(binary("test"), repeats=100))
    found = compute_metrics(binary("test"), repeats=100)
    assert said.startswith(
        f"accuracy {found['accuracy']['value']:.3f} (95 % interval {found['accuracy']['low']:.3f}-"
    )
    assert (
        f"300 images of {found['patients']} patients" in said
        and "specificity" in said
        and "AUC" in said
    )


def test_numbers_as_text():
    assert as_text({"value": 0.8731, "low": 0.8, "high": 0.9}) == "0.873 (0.800-0.900)"
    assert as_text({"value": None, "low": None, "high": None}) == "undefined" == as_text(None)
    assert as_text(1234) == "1,234"


def test_metrics_survive_their_file(tmp_path):
    found = compute_metrics(drawn(), repeats=50)
    save_metrics(tmp_path / "metrics.json", found)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    with pytest.raises(ValueError, match="JSON"):
        save_metrics(tmp_path / "metrics.json", {"accuracy": float("nan")})
    assert json.loads((tmp_path / "metrics.json").read_text()) == found


def test_a_table_read_back_from_its_file_gives_the_same_metrics(tmp_path):
    predictions = drawn(digits=12)
    predictions.to_csv(tmp_path / "p.csv", index=False)
    again = pd.read_csv(tmp_path / "p.csv", dtype={"patient": str})
    assert compute_metrics(again, repeats=100) == compute_metrics(predictions, repeats=100)


# From a model


class Tiny(nn.Module):
    """Answers from the mean grey alone; `outputs` as in the real models."""

    def __init__(self, outputs=4, gain=1.0):
        super().__init__()
        self.frozen, self.dropout = nn.BatchNorm2d(3), nn.Dropout(0.9)
        self.last = nn.Linear(3, outputs)
        torch.manual_seed(0)
        nn.init.normal_(self.last.weight, std=gain)

    def forward(self, images):
        return self.last(self.dropout(self.frozen(images)).mean((2, 3)))


def loader_of(folder, **options):
    return loaders.make(records.scan(folder), folder, size=16, batch_size=7, **options)


def test_predictions_are_what_the_model_says_of_each_image(tiny_folder):
    model, loader = Tiny(), loader_of(tiny_folder)
    predictions = predict(model, loader, CPU, split="val")
    assert predictions["path"].tolist() == loader.records["path"].tolist() and set(
        predictions["split"]
    ) == {"val"}
    assert list(predictions) == [
        "split",
        "path",
        "patient",
        "label",
        "predicted",
        "p_CNV",
        "p_DME",
        "p_DRUSEN",
        "p_NORMAL",
        "loss",
    ]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for row in (0, 17, 63):
        pixels = loaders.read_image(tiny_folder / predictions["path"][row], size=16).float() / 255
        with torch.no_grad():
            inputs = ((pixels.expand(3, -1, -1) - mean[:, None, None]) / std[:, None, None])[None]
            p = model.eval()(inputs).softmax(1)[0].numpy()
        scores = predictions.loc[row, [f"p_{name}" for name in loader.classes]].to_numpy(float)
        assert np.allclose(scores, p, atol=1e-5)
        true = loader.classes.index(predictions["label"][row])
        assert predictions["loss"][row] == pytest.approx(-np.log(p[true]), abs=1e-4)
        assert predictions["predicted"][row] == loader.classes[p.argmax()]


def test_a_shuffled_loader_changes_nothing(tiny_folder):
    model = Tiny()
    plain, mixed = (predict(model, loader_of(tiny_folder, shuffle=s), CPU) for s in (False, True))
    pd.testing.assert_frame_equal(plain, mixed)


def test_the_model_keeps_the_mode_of_each_of_its_parts(tiny_folder):
    model = Tiny()
    model.train()
    model.frozen.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, loader_of(tiny_folder), CPU)
    assert model.training and model.dropout.training and not model.frozen.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_mode_is_restored_after_a_failure_too(tiny_folder):
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 4)).train()
    with pytest.raises(RuntimeError):
        predict(model, loader_of(tiny_folder), CPU)
    assert model.training


def test_the_models_own_normalisation_is_used(tiny_folder):
    model = Tiny().eval()
    usual = predict(model, loader_of(tiny_folder), CPU)
    model.tl = {"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}
    other = predict(model, loader_of(tiny_folder), CPU)
    assert not np.allclose(usual["p_CNV"], other["p_CNV"])


def test_an_unreadable_image_is_left_out_and_named(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "copy")
    bad = next((folder / "test" / "DME").iterdir())
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.warns(UserWarning, match=f"left out 1 of 64.*{bad.name}"):
        predictions = predict(Tiny(), loader_of(folder), CPU)
    assert len(predictions) == 63 and not predictions["path"].str.endswith(bad.name).any()


def test_images_without_labels_get_answers_and_no_loss(tiny_folder):
    table = records.scan(tiny_folder).assign(label="")
    loader = loaders.make(table, tiny_folder, ["CNV", "DME", "DRUSEN", "NORMAL"], size=16)
    predictions = predict(Tiny(), loader, CPU, split="new")
    assert (predictions["label"] == "").all() and predictions["loss"].isna().all()
    assert predictions["predicted"].isin(loader.classes).all()


def test_one_logit_gives_two_classes(tiny_folder):
    table = records.scan(tiny_folder)
    table = table[table["label"].isin(["CNV", "NORMAL"])].reset_index(drop=True)
    one = Tiny(outputs=1)
    two = Tiny(outputs=2)
    two.last.weight.data = torch.cat([torch.zeros(1, 3), one.last.weight.data])
    two.last.bias.data = torch.cat([torch.zeros(1), one.last.bias.data])
    made = [predict(model, loaders.make(table, tiny_folder, size=16), CPU) for model in (one, two)]
    pd.testing.assert_frame_equal(*made)
    assert thresholds.classes_of(made[0]) == ["CNV", "NORMAL"]


def test_a_loss_stays_finite_where_the_probability_is_0_in_float32(tiny_folder):
    predictions = predict(Tiny(gain=500.0), loader_of(tiny_folder), CPU)
    impossible = predictions[predictions["loss"] > 110]  # exp(-110) is 0 in float32
    assert len(impossible) and np.isfinite(predictions["loss"]).all()
    assert np.isfinite(compute_metrics(predictions, 20)["loss"])


def test_a_model_that_answers_nan_is_refused(tiny_folder):
    model = Tiny()
    model.last.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN for 64 of 64 images.*learning rate"):
        predict(model, loader_of(tiny_folder), CPU)


def test_a_loader_that_gives_images_twice_is_refused(tiny_folder):
    with pytest.raises(ValueError, match="each once"):
        predict(Tiny(), loader_of(tiny_folder, weights=np.arange(64.0)), CPU)
    with pytest.raises(ValueError, match="each once"):
        predict(Tiny(), loader_of(tiny_folder, rank=0, world=2), CPU)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(tiny_folder):
    from tlutils.core import devices

    on_cpu = predict(Tiny(), loader_of(tiny_folder), CPU)
    on_gpu = predict(Tiny(), loader_of(tiny_folder), devices.choose("cuda", "fp32"))
    assert np.allclose(on_cpu["loss"], on_gpu["loss"], atol=1e-3)


def test_test_time_augmentation_is_the_mean_of_the_probabilities_of_the_views(tiny_folder):
    turned, loader = Augmentation(rotate=30, brightness=0.2), loader_of(tiny_folder)
    model = build("resnet18", 4, "linear", freeze="all").eval()
    found = predict(model, loader, CPU, views=2, augmentation=turned, seed=3)
    images, keys = (torch.cat(column) for column in list(zip(*loader_of(tiny_folder)))[0:3:2])
    shown = [images, *(view(images, keys, number, 3, turned) for number in (0, 1))]
    with torch.no_grad():
        wanted = torch.stack([probabilities(model(normalize(one))) for one in shown]).mean(0)
    columns = [f"p_{name}" for name in loader.classes]
    assert np.allclose(found[columns], wanted.numpy(), atol=1e-5)
    assert not np.allclose(found[columns], predict(model, loader, CPU)[columns], atol=1e-3)


# Any table


TRIED = settings(max_examples=40, deadline=None)


@st.composite
def tables(draw, classes=st.integers(2, 4), labels=None):
    """Predictions of one to 24 images of up to six patients, with ties, classes that do not occur, and sure answers."""
    k, n = draw(classes), draw(st.integers(1, 24))
    names = [f"class {chr(65 + i)}" for i in range(k)]
    scores = draw(
        st.lists(
            st.lists(st.integers(0, 4), min_size=k, max_size=k).filter(any), min_size=n, max_size=n
        )
    )
    truth = draw(st.lists(st.sampled_from(names), min_size=n, max_size=n))
    patients = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    scores = np.array(scores, float)
    return table(truth, scores / scores.sum(1, keepdims=True), names, patients, "val")


def numbers_of(found: dict) -> dict:
    """All measures of a split: {name: {"value", "low", "high"}}."""
    of_classes = {
        f"{name} {measure}": found["per_class"][name][measure]
        for name in found["per_class"]
        for measure in MEASURES
    }
    return {
        name: value for name, value in found.items() if isinstance(value, dict) and "value" in value
    } | of_classes


@TRIED
@given(tables())
def test_every_number_of_any_table_lies_in_its_interval_and_that_in_0_to_1(predictions):
    found = compute_metrics(predictions, repeats=30)
    for name, value in numbers_of(found).items():
        if value["value"] is not None:
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
    truth, said = predictions["label"], predictions["predicted"]
    occur = [name for name in found["classes"] if (truth == name).any()]
    assert found["accuracy"]["value"] == pytest.approx(sk.accuracy_score(truth, said))
    recall = sk.recall_score(truth, said, labels=occur, average="macro", zero_division=0)
    assert found["balanced_accuracy"]["value"] == pytest.approx(recall)
    assert found["macro_f1"]["value"] == pytest.approx(
        sk.f1_score(truth, said, labels=occur, average="macro")
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


@TRIED
@given(
    tables(classes=st.just(2)),
    st.sampled_from(["youden", "sensitivity>=0.9", "specificity>=0.7", "cost=3", "cost=0.2"]),
)
def test_a_chosen_threshold_keeps_its_rule_where_it_was_chosen(predictions, how):
    assume(predictions["label"].nunique() == 2)
    ill, score = (predictions["label"] == "class B").to_numpy(), predictions["p_class B"].to_numpy()

    def rates(threshold):
        called = (
            thresholds.apply_threshold(predictions, threshold)["predicted"] == "class B"
        ).to_numpy()
        return (
            called[ill].mean(),
            (~called[~ill]).mean(),
            (called & ~ill).sum(),
            (~called & ill).sum(),
        )

    chosen = rates(thresholds.choose_threshold(predictions, how))
    others = [rates(threshold) for threshold in (0, *score, 2)]
    if how == "youden":
        assert chosen[0] + chosen[1] >= max(one[0] + one[1] for one in others) - 1e-9
    elif how.startswith("s"):
        kept, best = (0, 1) if how.startswith("sens") else (1, 0)
        least = float(how.split("=")[1])
        assert chosen[kept] >= least - 1e-9
        assert chosen[best] >= max(one[best] for one in others if one[kept] >= least - 1e-12) - 1e-9
    else:
        cost = float(how.split("=")[1])
        assert chosen[2] + cost * chosen[3] <= min(one[2] + cost * one[3] for one in others) + 1e-9


@TRIED
@given(tables())
def test_coarser_classes_keep_the_probabilities_and_lose_no_more(predictions):
    classes = thresholds.classes_of(predictions)
    merged = thresholds.merge_classes(predictions, {"one": classes[:1], "rest": classes[1:]})
    assert merged[["p_one", "p_rest"]].sum(axis=1).tolist() == pytest.approx([1] * len(merged))
    possible = predictions["loss"] < 60
    assert (merged["loss"] <= predictions["loss"] + 1e-9)[possible].all()
    assert top_k(merged, 2) == 1


@TRIED
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=20
    )
)
def test_the_weighted_area_is_that_of_scikit_learn(rows):
    positive, score, weight = (np.array(column) for column in zip(*rows))
    found = intervals.weighted_auc(positive, score.astype(float), weight[None].astype(float))[0]
    if weight[positive].sum() and weight[~positive].sum():
        assert found == pytest.approx(sk.roc_auc_score(positive, score, sample_weight=weight))
    else:
        assert np.isnan(found)


@TRIED
@given(st.integers(1, 200), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilsons_interval_holds_the_share_and_narrows_with_more_trials(n, share, level):
    hits = round(share * n)
    low, high = intervals.wilson(hits, n, level)
    assert 0 <= low <= hits / n <= high <= 1
    more = intervals.wilson(4 * hits, 4 * n, level)
    assert more[1] - more[0] < high - low
