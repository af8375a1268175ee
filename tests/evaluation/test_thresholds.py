"""Curves, thresholds chosen on validation images, coarser classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from prediction_tables import TRIED, binary, drawn, table, tables
from scipy.integrate import trapezoid

from tlutils.evaluation import thresholds
from tlutils.evaluation.metrics import (
    compute_metrics,
    top_k_accuracy,
)


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


def test_curves_hold_the_areas_of_the_metrics():
    predictions = drawn()
    curve = thresholds.roc(predictions, "B")
    area = trapezoid(curve["tpr"], curve["fpr"])
    assert area == pytest.approx(compute_metrics(predictions, 5)["per_class"]["B"]["auc"]["value"])
    curve = thresholds.pr(predictions, "B")
    assert curve.iloc[0]["recall"] == 1 and curve.iloc[-1]["precision"] == 1
    with pytest.raises(ValueError, match="no class 'Z'"):
        thresholds.roc(predictions, "Z")


@TRIED
@given(
    tables(at_most=2),
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
    assert top_k_accuracy(merged, 2) == 1
