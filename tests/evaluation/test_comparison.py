"""Two models on the same images, against other ways to compute the same and values from the literature."""

import math
from itertools import product

import numpy as np
import pandas as pd
import prediction_tables
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, chi2, ttest_ind
from scipy.stats import t as student
from sklearn import metrics as sk

from tlutils.evaluation import comparison, thresholds
from tlutils.evaluation.metrics import compute_metrics, resampled


def table(scores, labels, patients=None, split="test"):
    """Predictions of two classes from the scores of the second."""
    scores, names = np.asarray(scores, float), ["ALL RIGHT", "ILL"]
    both = np.stack([1 - scores, scores], 1)
    said = np.where(labels, "ILL", "ALL RIGHT")
    made = prediction_tables.table(said, both, names, patients, split)
    return made.assign(path=[f"{i:04d}.png" for i in range(len(made))])  # sorted as they stand


def answers(right, labels):
    """Predictions that are right where `right` says so."""
    return table(
        np.where(np.asarray(right) == np.asarray(labels, bool), 0.9, 0.1), np.asarray(labels, bool)
    )


@pytest.fixture(scope="module")
def pair():
    """Two models of different skill on 150 images of 50 patients, with ties."""
    draw = np.random.default_rng(4)
    labels, patients = draw.random(150) < 0.4, np.repeat(np.arange(50), 3)
    shared = draw.normal(0, 1, 150)
    one = 1 / (1 + np.exp(-(1.2 * labels + shared + draw.normal(0, 0.8, 150) - 0.5)))
    two = 1 / (1 + np.exp(-(2.0 * labels + shared + draw.normal(0, 0.8, 150) - 0.8)))
    return table(one.round(2), labels, patients), table(two.round(2), labels, patients)


# McNemar


def test_mcnemar_on_the_approval_ratings_of_agresti():
    """Agresti, Categorical Data Analysis, table 10.1: 794, 150, 86, 570; z = -4.17."""
    right_one = np.repeat([True, True, False, False], [794, 150, 86, 570])
    right_two = np.repeat([True, False, True, False], [794, 150, 86, 570])
    labels = np.arange(1600) % 2 == 0
    found = comparison.mcnemar(answers(right_one, labels), answers(right_two, labels))
    assert found[["both_right", "only_first", "only_second", "both_wrong"]].tolist() == [
        794,
        150,
        86,
        570,
    ]
    assert math.sqrt(found["chi2"]) == pytest.approx(4.17, abs=0.005)
    assert found["p"] == pytest.approx(2 * binom.cdf(86, 236, 0.5), rel=1e-9)
    assert found["p"] == pytest.approx(chi2.sf(found["chi2"], 1), rel=0.3)


def test_without_disagreement_nothing_is_shown():
    labels = np.arange(10) % 2 == 0
    found = comparison.mcnemar(answers(np.ones(10), labels), answers(np.ones(10), labels))
    assert found["p"] == 1.0 and math.isnan(found["chi2"])


# Bootstrap of the difference


def drawn_again(pair):
    """Both tables 60 times, each time of 50 patients drawn anew, their rows put together plainly."""
    drawn = np.random.default_rng(2).integers(50, size=(60, 50))
    rows = [dict(list(one.groupby("patient"))) for one in pair]
    return [[pd.concat([of[str(i)] for i in patients]) for of in rows] for patients in drawn]


def test_the_bootstrap_is_the_difference_on_the_same_drawn_patients(pair):
    again = drawn_again(pair)
    for metric in ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity", "ppv"):
        found = comparison.paired_bootstrap(*pair, metric, repeats=60, seed=2)
        differences = [np.diff([plainly(one, metric) for one in both])[0] for both in again]
        assert_is_bootstrap(found, pair, metric, differences)


def assert_is_bootstrap(found, pair, metric, differences):
    assert found["value"] == pytest.approx(
        np.diff([plainly(one, metric) for one in pair])[0], abs=1e-9
    )
    patients = pair[0].groupby("label")["patient"].nunique()
    n = {"accuracy": pair[0]["patient"].nunique(), "specificity": patients["ALL RIGHT"]}
    n |= {"sensitivity": patients["ILL"]}
    n["ppv"] = min(one[one["predicted"] == "ILL"]["patient"].nunique() for one in pair)
    few = n.get(metric, patients.min())
    most = patients.max() if metric == "balanced_accuracy" else few  # by Satterthwaite between them
    off, most_off = (
        student.ppf(0.975, n - 1) ** 2 * np.var(differences) * n / (n - 1) for n in (few, most)
    )
    for end in (found["low"], found["high"]):  # the equation of the score, from -1 to 1
        share = (1 - end**2) / (1 - found["value"] ** 2)
        assert most_off * (1 - 1e-6) <= (found["value"] - end) ** 2 / share <= off * (1 + 1e-6)
    ahead = np.mean(np.array(differences) > 1e-12) + np.mean(np.abs(differences) < 1e-12) / 2
    assert found["second_better"] == pytest.approx(ahead)


def plainly(one, metric):
    truth, predicted = one["label"] == "ILL", one["predicted"] == "ILL"
    return {
        "accuracy": lambda: sk.accuracy_score(truth, predicted),
        "auc": lambda: sk.roc_auc_score(truth, one["p_ILL"]),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(truth, predicted),
        "sensitivity": lambda: sk.recall_score(truth, predicted),
        "specificity": lambda: sk.recall_score(~truth, ~predicted),
        "ppv": lambda: sk.precision_score(truth, predicted),
    }[metric]()


def test_a_model_does_not_differ_from_itself_whatever_the_order_of_rows(pair):
    found = comparison.paired_bootstrap(
        pair[0], pair[0].sample(frac=1, random_state=1), "auc", repeats=20
    )
    assert found == {"value": 0.0, "low": 0.0, "high": 0.0, "second_better": 0.5}


def test_resampled_values_are_those_of_the_metrics(pair):
    found, metrics = resampled(pair[0], repeats=5), compute_metrics(pair[0], repeats=5)
    for rate, (name, numbers) in product(("recall", "f1", "auc"), metrics["per_class"].items()):
        metrics[f"{rate} of {name}"] = numbers[rate]
    for name in found.values.keys() & metrics.keys():
        assert found.interval(name, 0.95) == metrics[name]


def test_the_recall_of_a_class_is_compared_as_sensitivity_is(pair):
    found = comparison.paired_bootstrap(*pair, "recall of ILL")
    assert found == comparison.paired_bootstrap(*pair, "sensitivity")
    named = [comparison.verdict(*pair, ["a", "b"], of) for of in ("recall of ILL", "sensitivity")]
    assert named[0].replace("recall of ILL", "sensitivity") == named[1]


def with_few_surely_right(few, of_few):
    """A class B of 60 patients, 4 of 5 right, and a class A of few, all answered alike."""
    labels, predicted = ["A"] * few + ["B"] * 60, [of_few] * few + list("ABBBB") * 12
    score = np.where(np.array(predicted) == "B", 0.9, 0.1)
    columns = {"path": [f"{i:02d}" for i in range(few + 60)], "label": labels, "split": "test"}
    columns |= {"predicted": predicted, "p_A": 1 - score, "p_B": score, "loss": 0.1}
    return pd.DataFrame(columns).assign(patient=lambda table: table["path"])


def test_the_mean_of_runs_takes_a_class_of_few_patients_for_no_surer_than_one_run_does():
    one = with_few_surely_right(4, "A")
    two = one.assign(p_A=one["p_A"] * 0.99)
    alone = compute_metrics(one)["balanced_accuracy"]
    found = comparison.mean_of_runs([one, two], "balanced_accuracy")
    assert found["high"] - found["low"] >= alone["high"] - alone["low"]


def test_a_difference_of_means_is_no_surer_than_that_of_a_class_of_few_patients():
    tables = with_few_surely_right(4, "A"), with_few_surely_right(4, "B")
    of_class = comparison.paired_bootstrap(*tables, "recall of A")
    found = comparison.paired_bootstrap(*tables, "balanced_accuracy")
    assert found["high"] - found["value"] > (of_class["high"] - of_class["value"]) / 2 - 1e-9


def test_a_difference_of_rounding_is_none():
    labels = np.repeat(list("ABC"), 10)
    tables = []
    for right in ((4, 6, 7), (4, 7, 6)):
        hits = np.concatenate([np.arange(10) < n for n in right])
        predicted = np.where(hits, labels, np.roll(labels, 10))
        columns = {f"p_{name}": np.where(predicted == name, 0.8, 0.1) for name in "ABC"}
        columns |= {"path": [f"{i:02d}" for i in range(30)], "label": labels, "split": "test"}
        one = pd.DataFrame(columns | {"predicted": predicted, "loss": 0.1})
        tables.append(one.assign(patient=one["path"]))
    found = comparison.paired_bootstrap(*tables, "balanced_accuracy", repeats=100)
    again = comparison.paired_bootstrap(*tables[::-1], "balanced_accuracy", repeats=100)
    assert found["value"] == again["value"] == 0 and found["low"] == -again["high"]
    assert found["low"] == pytest.approx(-found["high"])


def test_one_disagreement_is_no_surer_than_none():
    none = with_few_surely_right(30, "A")
    one = none.assign(predicted=["B", *none["predicted"][1:]])
    other = none.assign(p_A=none["p_A"] * 0.9, p_B=none["p_B"] * 0.9)
    same, worse = (
        comparison.paired_bootstrap(none, table, "recall of A") for table in (other, one)
    )
    assert same["value"] == 0 and same["low"] == -same["high"] < 0
    assert worse["value"] < 0 and worse["low"] <= same["low"] < worse["high"]


def test_an_unknown_metric_is_refused(pair):
    with pytest.raises(ValueError, match="'kappa'.*accuracy, balanced_accuracy"):
        comparison.paired_bootstrap(*pair, "kappa")


# DeLong


def test_delong_agrees_with_the_formula_of_the_paper_written_out(pair):
    """Every pair of a positive and a negative compared, and the covariance of the placements as in the paper."""
    truth = (pair[0]["label"] == "ILL").to_numpy()
    of_positives, of_negatives, auc = [], [], []
    for one in pair:
        ill, well = one["p_ILL"].to_numpy()[truth], one["p_ILL"].to_numpy()[~truth]
        above = (ill[:, None] > well).astype(float) + (ill[:, None] == well) / 2
        (
            of_positives.append(above.mean(1)),
            of_negatives.append(above.mean(0)),
            auc.append(above.mean()),
        )
    covariance = np.cov(of_positives) / truth.sum() + np.cov(of_negatives) / (~truth).sum()
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = comparison.delong(*pair)
    assert [found["auc_first"], found["auc_second"]] == pytest.approx(auc)
    assert found["z"] == pytest.approx((auc[1] - auc[0]) / error)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.959964 * error, rel=1e-5)


def test_delongs_error_is_that_of_resampling_images(pair):
    alone = [one.assign(patient=one["path"]) for one in pair]
    found, drawn = (
        comparison.delong(*pair),
        comparison.paired_bootstrap(*alone, "auc", repeats=2000),
    )
    assert found["high"] - found["low"] == pytest.approx(drawn["high"] - drawn["low"], rel=0.12)


# The rest


def test_the_z_of_the_published_comparison():
    z, p = comparison.two_proportions(562, 624, 585, 624)
    assert z == pytest.approx(2.4, abs=0.05) and p == pytest.approx(0.017, abs=0.001)


@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        (
            [[118, 116], [1, 389]],
            (0.8125, 0.9974, 0.5043, 0.7703, 0.9916, 0.7509, 1 / 119, 116 / 234),
        ),
        (
            [[144, 90], [11, 379]],
            (0.8381, 0.9718, 0.6154, 0.8081, 0.9290, 0.7936, 11 / 155, 90 / 234),
        ),
    ],
)
def test_the_rates_of_the_published_tables(matrix, wanted):
    found = comparison.from_confusion(matrix, ["NORMAL", "PNEUMONIA"])
    names = (
        "accuracy",
        "sensitivity",
        "specificity",
        "ppv",
        "npv",
        "balanced_accuracy",
        "false_omission_rate",
        "false_positive_rate",
    )
    assert [found[name] for name in names] == pytest.approx(wanted, abs=6e-5)


def test_rates_that_nobody_defines_are_nan():
    found = comparison.from_confusion([[10, 0], [5, 0]], ["NORMAL", "PNEUMONIA"])
    assert math.isnan(found["ppv"]) and found["sensitivity"] == 0


def test_tables_of_other_images_or_labels_are_refused(pair):
    with pytest.raises(ValueError, match="150 and 149 images.*0000.png"):
        comparison.mcnemar(pair[0], pair[1].iloc[1:])
    with pytest.raises(ValueError, match="disagree about labels, e.g. of 0003.png"):
        comparison.mcnemar(
            pair[0],
            pair[1].assign(
                label=pair[1]["label"].where(
                    pair[1].index != 3, "ILL" if pair[1]["label"][3] != "ILL" else "ALL RIGHT"
                )
            ),
        )


# Recipes, each trained several times


def trained(draw, skill, runs, difficulty, of_seed=0.4):
    """Predictions of runs whose skill differs by seed, two images of each patient, some patients harder than others."""
    patients, labels = (
        np.repeat(np.arange(len(difficulty)), 2),
        np.arange(2 * len(difficulty)) % 2 == 0,
    )
    made = []
    for _ in range(runs):
        logits = (
            skill
            + of_seed * draw.normal()
            + (difficulty + draw.normal(0, 0.5, len(difficulty)))[patients]
        )
        right = draw.random(len(labels)) < 1 / (1 + np.exp(-logits))
        sure = draw.uniform(0.6, 0.9, len(labels))
        made.append(table(np.where(right == labels, sure, 1 - sure), labels, patients))
    return made


def calls(better, runs, simulations, patients=40):
    """How often the verdict by several runs, and the interval of one run a side, call a winner."""
    draw, by_runs, by_one = np.random.default_rng(8), 0, 0
    for _ in range(simulations):
        difficulty = draw.normal(0, 1, patients)
        sides = [trained(draw, skill, runs, difficulty) for skill in (1.2, 1.2 + better)]
        by_runs += "is better" in comparison.verdict(*sides, ["A", "B"], repeats=80)
        one = comparison.paired_bootstrap(sides[0][0], sides[1][0], repeats=80)
        by_one += not one["low"] <= 0 <= one["high"]
    return by_runs / simulations, by_one / simulations


def test_equal_recipes_are_seldom_called_different_though_single_runs_of_them_differ():
    by_runs, by_one = calls(better=0, runs=3, simulations=40)
    assert by_runs <= 0.1 < 0.15 < by_one


def test_five_runs_a_side_find_a_real_difference():
    assert calls(better=1.5, runs=5, simulations=15)[0] >= 0.8


def test_the_interval_of_recipes_is_the_formula_of_welch():
    """By scipy where all images of a patient are alike and many: then the seeds' error alone is left."""
    draw, labels = np.random.default_rng(1), np.arange(40) % 2 == 0
    rates = ([0.5, 0.6, 0.7], [0.8, 0.9, 0.85, 0.95])
    sides = [
        [
            table(
                np.where((np.arange(40) < rate * 40) == labels, 0.9, 0.1)
                + draw.uniform(0, 0.05, 40),
                labels,
            )
            for rate in side
        ]
        for side in rates
    ]
    found = comparison.compare_recipes(*sides, repeats=300)
    welch = ttest_ind(rates[1], rates[0], equal_var=False)
    assert found["value"] == pytest.approx(0.275) and found["runs_error"] == pytest.approx(
        0.275 / welch.statistic
    )
    error = math.hypot(found["patients_error"], found["runs_error"])
    half = pytest.approx(student.ppf(0.975, found["df"]) * error, rel=1e-3)
    assert (found["high"] - found["low"]) / 2 == half
    means = [np.mean([one["label"] == one["predicted"] for one in side], axis=0) for side in sides]
    assert found["patients_error"] == pytest.approx(
        np.std(means[1] - means[0]) / math.sqrt(40), rel=0.15
    )


def test_the_mean_of_runs_has_the_errors_of_its_side_in_a_comparison(pair):
    runs = [pair[0].assign(**{"p_ILL": pair[0]["p_ILL"] * f}) for f in (1, 0.98, 0.9)]
    runs = [thresholds.apply_threshold(one, 0.5) for one in runs]
    found = comparison.mean_of_runs(runs)
    right = [(one["label"] == one["predicted"]).mean() for one in runs]
    assert found["value"] == pytest.approx(np.mean(right))
    assert found["runs_error"] == pytest.approx(np.std(right, ddof=1) / math.sqrt(3))
    alone = compute_metrics(runs[0])["accuracy"]
    assert found["patients_error"] == pytest.approx((alone["high"] - alone["low"]) / 3.92, rel=0.2)
    assert 0 <= found["low"] < found["value"] < found["high"] <= 1
    with pytest.raises(ValueError, match="found 1 run;"):
        comparison.mean_of_runs(runs[:1])
    with pytest.raises(ValueError, match="exactly the probabilities"):
        comparison.mean_of_runs([runs[0], runs[1], runs[0]])


def test_runs_that_are_always_right_have_the_interval_of_their_patients():
    labels = np.arange(30) % 2 == 0
    sure = [table(np.where(labels, 0.9 + i / 100, 0.1), labels) for i in range(3)]
    found = comparison.mean_of_runs(sure)
    assert found["value"] == found["high"] == 1 and 0.8 < found["low"] < 0.97


def test_a_predictive_value_rests_on_the_patients_who_were_called_so():
    """One of 15 healthy patients was called so: the npv is 1 in all draws, and says little."""
    labels = np.arange(30) % 2 == 0
    scores = np.where(np.arange(30) == 1, 0.1, 0.9)
    called = [table(scores + i / 100, labels) for i in range(2)]
    npv, recall = (comparison.mean_of_runs(called, name) for name in ("npv", "sensitivity"))
    assert npv["value"] == recall["value"] == 1 and npv["low"] < 0.3 < 0.7 < recall["low"]
    ppv, one = comparison.mean_of_runs(called, "ppv"), compute_metrics(called[0])["ppv"]
    assert [ppv["low"], ppv["high"]] == pytest.approx([one["low"], one["high"]], abs=0.02)


def test_sensitivity_rests_on_the_ill_however_few_are_healthy():
    labels = np.arange(60) > 2
    runs = [table(np.where(labels, 0.9 + i / 100, 0.1), labels) for i in range(2)]
    ill, healthy = (comparison.mean_of_runs(runs, of) for of in ("sensitivity", "specificity"))
    assert ill["value"] == healthy["value"] == 1 and healthy["low"] < 0.6 < 0.9 < ill["low"]


def test_a_predictive_value_of_one_patient_tells_no_two_models_apart():
    """The first calls one healthy patient ill, whom half of the resamples lack."""
    labels = np.arange(30) % 2 == 0
    first = table(np.where(np.arange(30) == 1, 0.9, 0.1), labels)
    second = table(np.where(np.arange(30) == 3, 0.9, np.where(labels, 0.9, 0.1)), labels)
    found = comparison.paired_bootstrap(first, second, "ppv")
    assert found["low"] < 0 < 0.8 < found["value"] < found["high"]
    told = comparison.verdict(first, second, ["one", "two"], "ppv")
    assert told.startswith("These images cannot tell the two models apart (ppv")


def test_runs_that_all_agree_leave_the_error_of_the_patients(pair):
    """Seeds that change the probabilities by a trifle and no answer."""
    nudged = [[one.assign(**{"p_ILL": one["p_ILL"] + 1e-6 * i}) for i in range(3)] for one in pair]
    found, one = comparison.compare_recipes(*nudged), comparison.paired_bootstrap(*pair)
    assert found["runs_error"] == 0 and found["value"] == pytest.approx(one["value"])
    assert found["high"] - found["low"] == pytest.approx((one["high"] - one["low"]), rel=0.05)


def test_the_order_of_runs_and_rows_changes_nothing_and_turning_the_sides_turns_the_sign(pair):
    sides = [[one, other.sample(frac=1, random_state=2)] for one, other in (pair, pair[::-1])]
    sides[1] = [one.assign(**{"p_ILL": one["p_ILL"] * 0.99}) for one in sides[1]]
    found, turned = comparison.compare_recipes(*sides), comparison.compare_recipes(*sides[::-1])
    assert comparison.compare_recipes(sides[0][::-1], sides[1]) == found
    assert [turned["value"], turned["low"]] == pytest.approx(
        [-found["value"], -found["high"]], abs=0.01
    )


def test_one_training_of_each_ranks_no_recipes_however_clear(pair):
    labels = pair[0]["label"] == "ILL"
    good, bad = answers(np.ones(150), labels), answers(np.arange(150) % 2, labels)
    for sides, names in (((bad, good), "BG"), ((good, bad), "GB"), (([bad], [good]), "BG")):
        text = comparison.verdict(*sides, list(names))
        assert text.startswith('Of these two trained models "G" is ahead (accuracy')
        assert text.endswith("Which way to train is better, one training of each cannot tell.")
    assert "cannot tell the two models apart" in comparison.verdict(good, good, ["G", "H"])
    more = [good, good.assign(**{"p_ILL": good["p_ILL"] * 0.9})]
    assert comparison.verdict(bad, more, ["B", "G"]).endswith('one training of "B" cannot tell.')


def test_five_disagreements_on_one_side_alone_put_no_model_ahead(pair):
    """The interval of the bootstrap ends above 0 whatever the five are."""
    labels = pair[0]["label"] == "ILL"
    for wrong, told in ((5, "cannot tell the two models apart"), (6, '"G" is ahead')):
        bad, good = answers(np.arange(150) >= wrong, labels), answers(np.ones(150), labels)
        assert comparison.paired_bootstrap(bad, good)["low"] > 0
        text = comparison.verdict(bad, good, ["B", "G"])
        assert told in text and ("which counts here" in text) == (wrong == 5)


def test_of_sensitivity_the_disagreements_about_the_ill_alone_count(pair):
    """Five of the ill for the second model, and one of the healthy for the first."""
    labels = np.arange(40) % 2 == 0
    first = table(np.where(labels & (np.arange(40) >= 10), 0.9, 0.1), labels)
    second = table(np.where(labels | (np.arange(40) == 1), 0.9, 0.1), labels)
    assert comparison.paired_bootstrap(first, second, "sensitivity")["low"] > 0
    told = comparison.verdict(first, second, ["B", "G"], "sensitivity")
    assert told.startswith("These images cannot tell the two models apart (sensitivity")
    assert "of 20 images of 20 patients 0 were right with" in told and "p = 0.062" in told


def test_of_one_answer_for_all_images_the_mean_has_no_interval():
    labels = np.arange(40) % 2 == 0
    runs = [table(np.full(40, 0.9 + i / 100), labels) for i in range(2)]
    for metric in ("balanced_accuracy", "auc"):
        found = comparison.mean_of_runs(runs, metric)
        assert found["value"] == 0.5 and found["low"] is found["high"] is None
    assert comparison.mean_of_runs(runs, "accuracy")["low"] < 0.5


def test_seeds_that_span_more_than_the_difference_tell_nothing(pair):
    """Though each pair of single runs has an interval without 0."""
    labels = (pair[0]["label"] == "ILL").to_numpy()
    runs = [
        [
            table(np.where((np.arange(150) < n) == labels, 0.9, 0.1) - 1e-3 * n / 150, labels)
            for n in side
        ]
        for side in ((100, 140), (115, 150))
    ]
    singles = [comparison.paired_bootstrap(one, two, repeats=200) for one, two in zip(*runs)]
    assert all(one["low"] > 0 for one in singles)
    text = comparison.verdict(*runs, ["A", "B"], repeats=200)
    assert text.startswith('These runs and images cannot tell "A" and "B" apart')
    assert "of the runs" in text


def test_a_run_given_twice_or_alone_is_refused(pair):
    with pytest.raises(ValueError, match="run 2 of 4 has exactly the probabilities"):
        comparison.compare_recipes([pair[0], pair[0]], [pair[1], pair[1]])
    with pytest.raises(ValueError, match="1 and 2 runs.*train_seeds"):
        comparison.compare_recipes([pair[0]], list(pair))


def test_several_seeds_are_summed_up():
    many = [
        {"n": 5, "accuracy": {"value": value, "low": 0, "high": 1}, "ece": 0.1}
        for value in (0.8, 0.9, 0.85)
    ]
    found = comparison.over_seeds(many)
    assert found.index.tolist() == ["accuracy"] and found.loc["accuracy", "runs"] == 3
    assert found.loc["accuracy", ["mean", "sd", "min", "max"]].tolist() == pytest.approx(
        [0.85, 0.05, 0.8, 0.9]
    )
    many[1]["accuracy"]["value"] = None
    assert comparison.over_seeds(many).loc["accuracy", "runs"] == 2


# Against other packages


TRUTH = np.arange(18) < 8
ONE = [
    0.9,
    0.8,
    0.7,
    0.55,
    0.6,
    0.4,
    0.3,
    0.75,
    0.5,
    0.1,
    0.2,
    0.35,
    0.6,
    0.15,
    0.45,
    0.65,
    0.05,
    0.25,
]
TWO = [
    0.95,
    0.85,
    0.9,
    0.7,
    0.65,
    0.5,
    0.6,
    0.8,
    0.3,
    0.1,
    0.55,
    0.2,
    0.4,
    0.15,
    0.25,
    0.5,
    0.05,
    0.35,
]


def test_delong_is_that_of_another_package():
    """Values by Delong_test of MLstatkit 0.1.91 on the same scores, which hold ties."""
    found = comparison.delong(table(ONE, TRUTH), table(TWO, TRUTH))
    assert found[["auc_first", "auc_second"]].tolist() == [0.84375, 0.98125]
    assert found["z"] == pytest.approx(1.5485231271868447) and found["p"] == pytest.approx(
        0.12149639797067262
    )
    half = 1.959963984540054 * math.sqrt(0.007884424603174602)
    assert [found["low"], found["high"]] == pytest.approx([0.1375 - half, 0.1375 + half])


@pytest.mark.parametrize(
    ("counts", "p", "statistic"),
    [
        ([794, 150, 86, 570], 3.7159361395713866e-05, 17.35593220338983),
        ([3, 1, 8, 5], 0.0390625, 5.444444444444445),
    ],
)
def test_mcnemar_is_that_of_another_package(counts, p, statistic):
    """Values by mcnemar of statsmodels 0.15.0: exact, and without correction."""
    labels = np.arange(sum(counts)) % 2 == 0
    found = comparison.mcnemar(
        *(
            answers(np.repeat(right, counts), labels)
            for right in ([True, True, False, False], [True, False, True, False])
        )
    )
    assert found["p"] == pytest.approx(p) and found["chi2"] == pytest.approx(statistic)


def test_two_proportions_are_those_of_another_package():
    """Values by proportions_ztest of statsmodels 0.15.0."""
    assert comparison.two_proportions(562, 624, 585, 624) == pytest.approx(
        (2.3872215860700328, 0.016976255687718874)
    )
    for wrong in ((0, 0, 1, 2), (9, 5, 1, 2), (-1, 5, 1, 2)):
        with pytest.raises(ValueError, match="0 to n hits"):
            comparison.two_proportions(*wrong)


# What must not pass in silence


def test_an_image_that_occurs_twice_is_never_paired_with_another(pair):
    one, two = (
        table_.iloc[rows].assign(label="ILL") for table_, rows in zip(pair, ([0, 0, 1], [0, 1, 1]))
    )
    with pytest.raises(ValueError, match="1 of 3 rows repeat an image, e.g. 0000.png"):
        comparison.mcnemar(one, two)


def test_tables_that_disagree_about_patients_are_refused(pair):
    """Each would draw its own patients, and the difference would not be paired any more."""
    with pytest.raises(ValueError, match="disagree about patients, e.g. of 0000.png"):
        comparison.paired_bootstrap(pair[0].assign(patient="p7"), pair[1])
    nobody, nan = (one.assign(patient=nothing) for one, nothing in zip(pair, ("", np.nan)))
    assert comparison.paired_bootstrap(nobody, nan, repeats=5)["value"] is not None


@pytest.mark.parametrize("metric", ["accuracy", "auc", "sensitivity", "specificity", "ppv", "npv"])
def test_the_order_of_the_columns_changes_nothing(pair, metric):
    columns = [
        *pair[1].columns.drop(["p_ALL RIGHT", "p_ILL", "loss"]),
        "p_ILL",
        "p_ALL RIGHT",
        "loss",
    ]
    turned = pair[1][columns]
    assert thresholds.classes_of(turned) != thresholds.classes_of(pair[1])
    assert comparison.paired_bootstrap(pair[0], turned, metric, 40) == comparison.paired_bootstrap(
        *pair, metric, 40
    )
    pd.testing.assert_series_equal(comparison.delong(pair[0], turned), comparison.delong(*pair))


def test_one_patient_ranks_no_models():
    labels = np.arange(20) % 2 == 0
    bad, good = (
        answers(right, labels).assign(patient="p") for right in (np.arange(20) % 4 > 0, np.ones(20))
    )
    found = comparison.paired_bootstrap(bad, good, repeats=50)
    assert found["value"] == 0.25 and found["low"] < 0 < found["high"]
    told = comparison.verdict(bad, good, ["B", "G"])
    assert told.startswith("These images cannot tell the two models apart")
    runs = [[one, one.assign(**{"p_ILL": one["p_ILL"] * 0.99})] for one in (bad, good)]
    assert comparison.verdict(*runs, ["B", "G"]).startswith("These runs and images cannot tell")


def test_one_right_always_and_the_other_never_has_the_ends_of_wilson():
    labels = np.arange(12) % 2 == 0
    found = comparison.paired_bootstrap(
        answers(np.zeros(12), labels), answers(np.ones(12), labels), repeats=50
    )
    low = binomtest(12, 12).proportion_ci(method="wilson").low
    assert [found["value"], found["low"], found["high"]] == pytest.approx([1, 2 * low - 1, 1])


def test_a_metric_that_is_undefined_is_called_so():
    ill = np.ones(6, bool)
    one, two = table(np.linspace(0.2, 0.9, 6), ill), table(np.linspace(0.3, 0.8, 6), ill)
    assert set(comparison.paired_bootstrap(one, two, "auc", repeats=5).values()) == {None}
    assert "AUC is undefined" in comparison.verdict(one, two, ["A", "B"], "auc")


def test_delong_claims_nothing_where_there_is_no_error_to_measure_by():
    found = comparison.delong(
        table(np.where(TRUTH, 0.1, 0.9), TRUTH), table(np.where(TRUTH, 0.9, 0.1), TRUTH)
    )
    assert found["difference"] == 1 and found[["low", "high", "z", "p"]].isna().all()
    assert comparison.delong(table(ONE, TRUTH), table(ONE, TRUTH))["p"] == 1
    with pytest.raises(ValueError, match="1 of 18 images are ILL.*two images or more"):
        comparison.delong(*(table(scores, np.arange(18) == 3) for scores in (ONE, TWO)))


def test_the_verdict_gives_the_size_with_its_sign_and_no_p_of_zero():
    labels = np.arange(150) % 2 == 0
    text = comparison.verdict(
        answers(np.ones(150), labels), answers(np.arange(150) % 3 > 0, labels), ["G", "B"]
    )
    assert (
        'accuracy of "B" minus "G": -0.333, 95 % interval -0.4' in text
        and "McNemar p < 0.001" in text
    )


def test_what_cannot_be_summed_up_or_drawn_is_refused(pair):
    with pytest.raises(ValueError, match="no metrics"):
        comparison.over_seeds([])
    with pytest.raises(ValueError, match="metrics\\['test'\\]"):
        comparison.over_seeds([{"test": {"accuracy": {"value": 0.8}}}])
    with pytest.raises(ValueError, match="repeats is 0"):
        comparison.paired_bootstrap(*pair, repeats=0)
    for matrix in ([[0, 0], [0, 0]], [[1, 2, 3]], [[1, -1], [0, 2]]):
        with pytest.raises(ValueError, match="2 x 2 counts"):
            comparison.from_confusion(matrix, ["NORMAL", "PNEUMONIA"])


# Any two tables


TRIED = settings(max_examples=30, deadline=None)


@st.composite
def pairs(draw, models=2):
    """Predictions of some models on one to 20 images of up to five patients, with ties."""
    n = draw(st.integers(1, 20))
    labels = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    patients = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    scores = [draw(st.lists(st.integers(0, 10), min_size=n, max_size=n)) for _ in range(models)]
    return [table(np.array(one) / 10 + i * 1e-6, labels, patients) for i, one in enumerate(scores)]


@TRIED
@given(pairs(), st.sampled_from(["accuracy", "balanced_accuracy", "auc", "specificity", "ppv"]))
def test_turning_two_models_round_turns_the_difference_round(pair, metric):
    found, turned = (
        comparison.paired_bootstrap(*both, metric, repeats=30) for both in (pair, pair[::-1])
    )
    if found["value"] is None:
        assert set(turned.values()) == {None}
    else:
        assert (
            -1 <= found["low"] <= found["value"] <= found["high"] <= 1
            and 0 <= found["second_better"] <= 1
        )
        assert [
            -turned["value"],
            -turned["high"],
            -turned["low"],
            1 - turned["second_better"],
        ] == pytest.approx([found[name] for name in ("value", "low", "high", "second_better")])
    one, other = comparison.mcnemar(*pair), comparison.mcnemar(*pair[::-1])
    assert (
        one["p"] == other["p"] and 0 <= one["p"] <= 1 and one["only_first"] == other["only_second"]
    )
    assert one[["both_right", "only_first", "only_second", "both_wrong"]].sum() == len(pair[0])


@TRIED
@given(pairs(models=5), st.sampled_from(["accuracy", "macro_f1", "auc"]))
def test_recipes_of_any_runs_have_an_interval_around_their_difference(runs, metric):
    sides = runs[:2], runs[2:]
    found = comparison.compare_recipes(*sides, metric, repeats=20)
    assert comparison.verdict(*sides, ["A", "B"], metric, repeats=20)
    if found["value"] is not None:
        of = [
            np.mean([compute_metrics(one, repeats=1)[metric]["value"] for one in side])
            for side in sides
        ]
        assert found["value"] == pytest.approx(of[1] - of[0], abs=1e-8)
        assert found["low"] <= found["value"] <= found["high"] and found["runs_error"] >= 0
        assert found["df"] is None or found["df"] >= 1 - 1e-9  # of at least two runs a side
