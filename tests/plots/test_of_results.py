"""Curves, dots and intervals stand where the numbers are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pictures import (
    ARMS,
    COUNTS,
    DRAWS,
    OCT,
    binary_predictions,
    calibration_table,
    clean_figures,  # noqa: F401
    confusion_table,
    costs,
    interval,
    labels_of,
    pr_table,
    roc_table,
    stress_table,
    table_of,
    title,
    words,
)
from scipy.integrate import trapezoid
from sklearn import metrics as sk

from tlutils.data.audit import audit_splits
from tlutils.evaluation import metrics, thresholds
from tlutils.plots import of_data, of_results
from tlutils.plots.style import class_colors


def test_a_table_without_a_column_is_refused_by_name():
    with pytest.raises(ValueError, match="lacks fpr"):
        of_results.roc(pd.DataFrame({"x": [1], "tpr": [1]}))


@pytest.mark.parametrize("two", [True, False])
def test_stress_has_a_line_a_change_below_its_family_beside_the_unchanged_images(two):
    table = stress_table(two)
    axes = of_results.stress(table)
    lines = ["framing", "a tenth at the left cut off", "a quarter at the top cut off", "detector"]
    assert words(axes[0].get_yticklabels()) == [*lines, "noise"]
    weights = [text.get_weight() for text in axes[0].get_yticklabels()]
    assert weights == ["bold", "normal", "normal", "bold", "normal"]
    titles = ["sensitivity", "specificity"] if two else ["balanced accuracy", "AUC"]
    assert [title(ax) for ax in axes] == titles and set(words(axes[1].get_yticklabels())) == {""}
    right = "specificity" if two else "auc"
    dots = [line for line in axes[1].lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == table[right][1:].tolist()
    assert [dot.get_ydata()[0] for dot in dots] == [1, 2, 4]
    (dashed,) = (line for line in axes[1].lines if line.get_linestyle() == "--")
    assert dashed.get_xdata()[0] == table[right][0] and "0.850" in axes[1].get_xlabel()


def test_stress_wants_the_unchanged_images_and_takes_a_table_from_a_file():
    with pytest.raises(ValueError, match="unchanged images are not in it.*runs.stress"):
        of_results.stress(stress_table()[1:])
    from_file = stress_table().replace({"change": {"": np.nan}, "family": {"": np.nan}})
    assert len(of_results.stress(from_file)) == 2


def test_accuracy_by_patients_has_a_line_and_intervals_an_arm_and_the_baseline():
    ax = of_results.accuracy_by_patients(ARMS, baseline=0.6)
    assert labels_of(ax) == ["one", "two", "always the commonest: 0.600"]
    assert ax.get_xscale() == "log" and words(ax.get_xticklabels()) == ["5", "20"]
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([0.75, 0.9])
    one, two = (np.array(bars.get_segments()) for bars in ax.collections)
    table = ARMS[ARMS["arm"] == "one"].sort_values("patients")
    assert one[..., 1].tolist() == table[["low", "high"]].to_numpy().tolist()
    assert (one[:, 0, 0] < two[:, 0, 0]).all(), "side by side"


def test_a_threshold_by_patients_has_intervals_a_measure_and_says_what_there_is_without():
    ax = of_results.threshold_by_patients(DRAWS, unadapted=0.7, steady=20)
    said = [
        "sensitivity",
        "specificity",
        "the run's threshold: balanced accuracy 0.700",
        "steady from 20 on",
    ]
    assert labels_of(ax) == said and len(ax.collections) == 2
    assert words(ax.get_xticklabels()) == ["5", "20"]
    bare = of_results.threshold_by_patients(DRAWS.assign(measure="balanced accuracy"))
    assert labels_of(bare) == ["balanced accuracy"]


def test_confusion_shows_counts_and_shares_of_the_row():
    ax = of_results.confusion(confusion_table())
    assert words(ax.texts) == ["118\n50 %", "116\n50 %", "1\n<1 %", "389\n>99 %"]
    assert words(ax.get_yticklabels()) == ["NORMAL\nn = 234", "PNEUMONIA\nn = 390"]
    assert title(ax) == "507 of 624 right (81 %)"
    assert ax.get_aspect() == 1


def test_confusion_with_one_class_or_a_class_without_images():
    assert (
        of_results.confusion(pd.DataFrame([[3]], ["CNV"], ["CNV"])).texts[0].get_text()
        == "3\n100 %"
    )
    empty_row = pd.DataFrame([[2, 1], [0, 0]], ["CNV", "DME"], ["CNV", "DME"])
    assert words(of_results.confusion(empty_row).texts)[2:] == ["0\n0 %", "0\n0 %"]


def test_areas_that_are_not_given_are_those_of_scikit_learn():
    predictions = binary_predictions()
    truth, score = predictions["label"] == "PNEUMONIA", predictions["p_PNEUMONIA"]
    assert labels_of(of_results.roc(roc_table(predictions))) == [
        f"AUC {sk.roc_auc_score(truth, score):.3f}"
    ]
    expected = sk.average_precision_score(truth, score)
    assert labels_of(of_results.pr(pr_table(predictions))) == [f"AP {expected:.3f}"]
    upside_down = pr_table(predictions).iloc[::-1].reset_index(drop=True)
    assert labels_of(of_results.pr(upside_down)) == labels_of(of_results.pr(pr_table(predictions)))


def test_curves_carry_names_colors_and_given_areas():
    curves = {
        "NORMAL": roc_table(binary_predictions(0)),
        "PNEUMONIA": roc_table(binary_predictions(1)),
    }
    ax = of_results.roc(
        curves, auc={"NORMAL": {"value": 0.9, "low": 0.8, "high": 0.95}, "PNEUMONIA": 0.7}
    )
    assert labels_of(ax) == ["NORMAL  AUC 0.900 (0.800–0.950)", "PNEUMONIA  AUC 0.700"]
    assert [line.get_color() for line in ax.lines[1:]] == list(class_colors(curves).values())


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.57, 0.596, 0.64, 0.8, 0.95, 1.0])
def test_the_threshold_is_marked_at_the_rates_that_it_has(threshold):
    """Also where the nearest score lies below it, and above all scores."""
    scores = np.array([0.1, 0.3, 0.568, 0.8, 0.644, 0.57, 0.7, 0.95])
    truth = np.array(["NORMAL"] * 5 + ["PNEUMONIA"] * 3)
    rows = pd.DataFrame({"label": truth, "p_NORMAL": 1 - scores, "p_PNEUMONIA": scores})
    called, ill = scores >= threshold, truth == "PNEUMONIA"
    recall = called[ill].mean()
    precision = ill[called].mean() if called.any() else 1
    found = [
        draw(curve(rows, "PNEUMONIA"), threshold=threshold)
        for draw, curve in ((of_results.roc, thresholds.roc), (of_results.pr, thresholds.pr))
    ]
    expected = [(called[~ill].mean(), recall), (recall, precision)]
    for ax, rates in zip(found, expected):
        dot, *_ = (line for line in ax.lines if line.get_marker() == "o")
        assert np.ravel(dot.get_data()) == pytest.approx(rates)


def test_calibration_bars_are_the_counts_and_the_gap_is_the_ece():
    upper, lower = of_results.calibration(calibration_table())
    assert [bar.get_height() for bar in lower.patches] == [10, 20, 70]
    assert words(lower.texts) == ["10", "20", "70"]
    assert upper.lines[-1].get_ydata().tolist() == [0.25, 0.5, 0.8]
    # 0.1 * 0.05 + 0.2 * 0.1 + 0.7 * 0.1
    assert title(upper) == "78 % sure, 68 % right; mean gap 0.095 (ECE)"
    of_results.calibration(calibration_table().drop(columns=["low", "high"]).assign(n=[0, 0, 5]))


def test_per_class_has_three_dots_a_class_at_the_values():
    found = {"n": 5, "recall": interval(0.9), "precision": interval(0.7), "f1": interval(0.8)}
    ax = of_results.per_class({"CNV": found})
    assert [line.get_xdata()[0] for line in ax.lines] == [0.9, 0.7, 0.8]
    assert ax.texts[0].get_text() == "0.900 (0.850–0.950)"
    assert ax.get_yticklabels()[0].get_text() == "CNV\nn = 5"


@pytest.mark.parametrize(
    "missing", [None, dict.fromkeys(("value", "low", "high")), {"value": float("nan")}]
)
def test_a_measure_that_is_not_known_is_said_and_not_drawn(missing):
    ax = of_results.per_class(
        {"CNV": {"n": 0, "recall": missing, "precision": missing, "f1": missing}}
    )
    assert words(ax.texts) == ["not known"] * 3
    assert all(np.isnan(line.get_xdata()).all() for line in ax.lines)


def test_intervals_takes_the_metrics_of_a_split_as_they_are():
    measured = {
        "n": 9,
        "classes": OCT,
        "balanced_accuracy": interval(0.9),
        "auc": interval(None),
        "per_class": {"CNV": {}},
    }
    ax = of_results.intervals(measured)
    assert words(ax.get_yticklabels()) == ["balanced accuracy", "AUC"]
    assert words(ax.texts) == ["0.900 (0.850–0.950)", "not known"]
    with pytest.raises(ValueError, match="metrics\\['test'\\]"):
        of_results.intervals({"test": {"accuracy": interval(0.9)}})


def test_accuracy_by_shows_n_and_stops_after_thirty_groups():
    table = pd.DataFrame(
        {"n": range(1, 41), "accuracy": 0.5, "low": 0.4, "high": 0.6},
        pd.Index(range(40), name="width"),
    )
    ax = of_results.accuracy_by(table)
    assert len(ax.lines) == 30 and ax.get_yticklabels()[1].get_text() == "1  (n = 2)"
    assert title(ax) == "Accuracy by width, the first 30 of 40"
    ax = of_results.accuracy_by(table.assign(patients=1200))
    assert ax.get_yticklabels()[1].get_text() == "1  (n = 2, 1,200 patients)"


def test_accuracy_against_count_puts_each_class_at_its_count():
    per_class = {
        name: {"n": 9, "recall": interval(value)} for name, value in zip(OCT, (0.9, 0.8, 0.7, None))
    }
    ax = of_results.accuracy_against_count(per_class, {"CNV": 37205, "DME": 11348, "DRUSEN": 8616})
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines[:3]] == [
        (37205, 0.9),
        (11348, 0.8),
        (8616, 0.7),
    ]
    assert words(ax.texts) == OCT[:3]


def test_accuracy_against_count_sets_classes_of_the_same_count_side_by_side():
    per_class = {name: {"n": 9, "recall": interval(0.8)} for name in OCT}
    ax = of_results.accuracy_against_count(per_class, dict.fromkeys(OCT, 180))
    places = sorted(line.get_xdata()[0] for line in ax.lines)
    assert places[0] == 180 and min(np.diff(places)) > 0 and places[-1] < ax.get_xlim()[1]


def test_accuracy_against_count_keeps_the_names_of_rare_classes_off_the_axis():
    counts = {"a rare class of the eye": 20, "another": 30, "NORMAL": 1000, "CNV": 1000}
    ax = of_results.accuracy_against_count(
        {name: {"n": 9, "recall": interval(0.8)} for name in counts}, counts
    )
    ax.figure.canvas.draw()
    least = min(text.get_window_extent().x0 for text in ax.texts if text.get_text() in counts)
    assert len(ax.texts) >= 4 and least > ax.get_window_extent().x0


def test_score_distribution_has_a_panel_for_each_split_and_shares_that_sum_to_one():
    predictions = binary_predictions()
    axes = of_results.score_distribution(predictions, "PNEUMONIA", threshold=0.4)
    assert [title(ax) for ax in axes] == ["validation: 20 images", "test: 40 images"]
    assert [line.get_xdata()[0] for line in axes[0].lines] == [0.4]
    n = (predictions.query("split == 'val'")["label"] == "NORMAL").sum()
    assert f"NORMAL (n = {n})" in labels_of(axes[0])
    for ax in axes:
        for outline in (patch.get_xy() for patch in ax.patches):
            area = trapezoid(outline[:, 1], outline[:, 0])  # 20 bins of width 0.05
            assert abs(area) / 0.05 == pytest.approx(1)
        assert max(ax.get_yticks()) <= 1 < len(ax.get_yticks())  # no share is above 100 %


def test_score_distribution_of_one_split_and_one_class():
    one = binary_predictions().query("split == 'test' and label == 'NORMAL'")
    assert len(of_results.score_distribution(one, "PNEUMONIA")) == 1


def test_the_pictures_take_what_splits_and_evaluation_give():
    records = table_of(COUNTS).assign(path=lambda t: t.index.astype(str) + ".jpeg")
    assert len(of_data.audit(audit_splits(records)).patches) == len(audit_splits(records))
    rows = binary_predictions().query("split == 'test'").reset_index(drop=True)
    rows = rows.assign(path=rows.index.astype(str), patient=rows.index.astype(str), loss=0.5)
    found = metrics.compute_metrics(rows, repeats=20)
    of_results.intervals(found)
    of_results.per_class(found["per_class"])
    of_results.accuracy_against_count(found["per_class"], {"NORMAL": 5, "PNEUMONIA": 9})
    of_results.confusion(metrics.confusion(rows))
    assert labels_of(of_results.roc(thresholds.roc(rows, "PNEUMONIA"))) == [
        f"AUC {found['auc']['value']:.3f}"
    ]
    of_results.pr(thresholds.pr(rows, "PNEUMONIA"), threshold=0.5)
    upper, _ = of_results.calibration(metrics.calibration_table(rows))
    assert f"{found['ece']:.3f} (ECE)" in title(upper)
    assert title(of_results.accuracy_by(metrics.accuracy_by(rows, "label"))) == "Accuracy by label"


def test_cost_against_accuracy_puts_each_model_at_its_cost_and_leaves_none_out():
    ax = of_results.cost_against_accuracy(costs(12), "seconds")
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines] == [
        (10.0 * (i + 1), 0.7 + i / 100) for i in range(12)
    ]
    assert labels_of(ax) == costs(12).index.tolist() and ax.get_xlim()[0] == 0
    with pytest.raises(ValueError, match="lacks watts"):
        of_results.cost_against_accuracy(costs(2), "watts")


def test_the_legend_of_the_costs_covers_no_interval():
    ax = of_results.cost_against_accuracy(costs(2), "seconds")
    ax.figure.canvas.draw()
    assert not ax.get_legend().get_window_extent().overlaps(ax.get_window_extent())


def test_a_model_has_the_color_of_its_name_whatever_its_row():
    table = costs(3).iloc[::-1]
    ax = of_results.cost_against_accuracy(table, "seconds")
    assert [line.get_color() for line in ax.lines] == list(class_colors(table.index).values())


def test_a_model_whose_accuracy_is_not_known_hides_no_other():
    table = costs(2).astype(object)
    table.loc["model 1", ["value", "low", "high"]] = None
    ax = of_results.cost_against_accuracy(table, "seconds")
    assert [np.isnan(line.get_ydata()[0]) for line in ax.lines] == [False, True]


def test_a_normalized_confusion_is_not_taken_for_counts():
    with pytest.raises(ValueError, match="not normalized"):
        of_results.confusion(confusion_table() / 400)
