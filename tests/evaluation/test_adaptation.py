"""A threshold and a temperature for another place, and what they are worth there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from prediction_tables import binary, drawn, table

from tlutils.evaluation import adaptation, calibration, thresholds
from tlutils.evaluation.metrics import compute_metrics, expected_calibration_error
from tlutils.evaluation.thresholds import choose_threshold

CLASSES = ["NORMAL", "PNEUMONIA"]


def shifted(patients=40, at=0.8, images=2, seed=0):
    """Two classes that a threshold of `at` parts without an error, and one half does not."""
    draw, n = np.random.default_rng(seed), patients * images
    ill = np.arange(patients).repeat(images) % 2 == 1
    score = np.where(ill, draw.uniform(at + 0.01, 1, n), draw.uniform(0.3, at - 0.01, n))
    labels = np.where(ill, CLASSES[1], CLASSES[0])
    names = [f"P{i}" for i in np.arange(patients).repeat(images)]
    return table(labels, np.stack([1 - score, score], 1), CLASSES, names, "local")


def test_the_right_threshold_is_found_and_its_worth_measured_on_others():
    local = shifted()
    found, held_out = adaptation.fit(local, repeats=100, draws=20)
    at = found["threshold"]
    assert 0.75 < at["low"] <= at["value"] == choose_threshold(local) <= at["high"] < 0.85
    before, after, gained = (found[name] for name in ("before", "after", "difference"))
    assert before["specificity"]["value"] < 0.6 and before["sensitivity"]["value"] == 1
    assert after["specificity"]["value"] > 0.9 and after["sensitivity"]["value"] > 0.9
    assert gained["specificity"]["low"] > 0.2
    assert after["balanced_accuracy"]["value"] == pytest.approx(
        compute_metrics(held_out, 5)["balanced_accuracy"]["value"]
    )
    for name in before:
        gap = after[name]["value"] - before[name]["value"]
        assert gained[name]["value"] == pytest.approx(gap, abs=1e-9)
        for one in (before[name], after[name], gained[name]):
            assert one["low"] <= one["value"] <= one["high"]


def test_no_image_is_judged_by_what_was_chosen_on_its_patient():
    local = binary("local")
    one = adaptation.cross_fit(local)
    assert one["path"].tolist() == local["path"].tolist()
    assert one.groupby("patient")["fold"].nunique().max() == 1 and one["fold"].nunique() == 5
    for fold in range(5):
        held, poisoned = one["fold"] == fold, local.copy()
        poisoned.loc[held, ["p_NORMAL", "p_PNEUMONIA"]] = [0.999, 0.001]
        other = adaptation.cross_fit(poisoned)
        chosen = ["fold", "threshold", "temperature"]
        assert other.loc[held, chosen].equals(one.loc[held, chosen])
        assert (other.loc[~held, "threshold"] != one.loc[~held, "threshold"]).any()
        mine = local[~held]
        assert one.loc[held, "threshold"].unique().tolist() == [choose_threshold(mine)]
        called = local.loc[held, "p_PNEUMONIA"] >= choose_threshold(mine)
        assert (called == (one.loc[held, "predicted"] == "PNEUMONIA")).all()


def test_a_temperature_that_was_off_is_put_right():
    calm = drawn(2000, ("A", "B"), 500, split="local", digits=6)
    hot = calibration.apply_temperature(calm, 1 / 3)  # much too sure
    own = calibration.fit_temperature(calm)
    found, _ = adaptation.fit(hot, repeats=50, draws=2)
    assert found["temperature"]["value"] == pytest.approx(3 * own, rel=1e-3)
    assert found["temperature"]["low"] < 3 * own < found["temperature"]["high"]
    assert found["difference"]["loss"]["high"] < 0 and found["difference"]["ece"]["high"] < 0
    assert found["before"]["ece"]["value"] == pytest.approx(expected_calibration_error(hot))
    assert found["before"]["loss"]["value"] == pytest.approx(hot["loss"].mean())


def test_resampled_choices_are_those_of_the_resampled_tables():
    local, found = binary("local"), []
    names = local["patient"].unique()
    picks = np.random.default_rng(3).integers(len(names), size=(40, len(names)))
    for pick in picks:
        rows = [np.flatnonzero(local["patient"] == names[i]) for i in pick]
        found.append(adaptation.choose(local.iloc[np.concatenate(rows)], "cost=3"))
    said = adaptation._choice_with_intervals(local, "cost=3", 40, seed=3)
    for name, spread in zip(adaptation.Choice._fields, np.array(found, float).T):
        ends = np.quantile(spread, [0.025, 0.975])
        assert [said[name]["low"], said[name]["high"]] == pytest.approx(ends, rel=1e-6)


def test_more_than_two_classes_keep_their_answers_and_get_a_temperature():
    local = drawn(split="local")
    found, held_out = adaptation.fit(local, repeats=20)
    assert found["threshold"] is None and found["steady"] is None
    assert held_out["predicted"].equals(local["predicted"]) and held_out["threshold"].isna().all()
    assert found["temperature"]["value"] == calibration.fit_temperature(local) != 1
    assert "temperature alone" in adaptation.in_words(found)
    assert set(adaptation.table(found).index) == {"accuracy", "balanced accuracy", "loss", "ece"}


def test_a_choice_wants_two_patients_of_each_class():
    local = shifted(6)
    one_ill = local[(local["label"] == "NORMAL") | (local["patient"] == "P1")]
    for few, said in ((local[local["label"] == "NORMAL"], "0 of PNEUMONIA"), (one_ill, "1 of PNE")):
        with pytest.raises(ValueError, match=f"too few patients .*{said}.*more patients"):
            adaptation.fit(few.reset_index(drop=True), repeats=5)
    least = shifted(4)
    found, _ = adaptation.fit(least, repeats=20)
    assert found["threshold"]["undefined"] > 0 and found["steady"]["numbers"] == []
    assert "cannot be told" in adaptation.in_words(found)
    both = shifted(12).assign(patient=lambda t: [f"P{i // 4}" for i in range(len(t))])
    found, _ = adaptation.fit(both, repeats=20)
    assert "4 of each class, and 8 in all" in adaptation.in_words(found), "6 are of both classes"


def test_test_images_and_single_folds_are_refused():
    with pytest.raises(ValueError, match="these are test images"):
        adaptation.cross_fit(binary("test"))
    with pytest.raises(ValueError, match="folds is 1"):
        adaptation.cross_fit(binary("local"), folds=1)


def test_patients_who_have_images_of_both_classes_are_whole_in_a_fold():
    local = shifted(12).assign(patient=lambda t: [f"P{i // 4}" for i in range(len(t))])
    held_out = adaptation.cross_fit(local)
    assert held_out.groupby("patient")["fold"].nunique().eq(1).all()
    draws = adaptation.by_patients(local, draws=5)
    assert set(draws["patients"]) <= {2, 4} and draws["threshold"].notna().all()


def test_few_patients_are_drawn_evenly_and_measured_on_the_others():
    local = shifted(40)
    draws = adaptation.by_patients(local, draws=30)
    assert draws["patients"].value_counts().to_dict() == dict.fromkeys((4, 8, 16, 20), 30)
    assert (draws["images"] == 2 * draws["patients"]).all()
    again = adaptation.by_patients(local, draws=30)
    assert again.equals(draws) and not adaptation.by_patients(local, draws=30, seed=1).equals(draws)
    best = choose_threshold(local)
    for row in draws.head(5).itertuples():
        assert row.balanced_accuracy == (row.sensitivity + row.specificity) / 2
        assert row.loss == pytest.approx(1 - row.balanced_accuracy)  # the best makes no error
        assert abs(row.threshold - best) < 0.3
    spread = draws.groupby("patients")["threshold"].std()
    assert spread[20] < spread[4]
    for odd in (3, 22, 0):
        with pytest.raises(ValueError, match=f"{odd} patients cannot be drawn.*2 to 20"):
            adaptation.by_patients(local, numbers=[odd])


def fell(losses: dict[int, list[float]]) -> pd.DataFrame:
    """Draws with these losses, by number of patients."""
    rows = [(n, loss) for n, found in losses.items() for loss in found]
    draws = pd.DataFrame(rows, columns=["patients", "loss"])
    rest = ("images", "threshold", "sensitivity", "specificity", "balanced_accuracy")
    return draws.assign(**dict.fromkeys(rest, 0.5)).assign(images=2 * draws["patients"])


@pytest.mark.parametrize(
    ("losses", "steady"),
    [
        ({4: [0.1], 8: [0.02], 16: [0.0]}, 8),
        ({4: [0.0], 8: [0.1], 16: [0.0]}, 16),  # by chance at 4
        ({4: [0.0], 8: [0.0], 16: [0.03]}, None),
        ({4: [-0.1], 8: [-0.01], 16: [0.0]}, 8),  # another choice, if a better one
        ({4: [0.0] * 99 + [0.5], 8: [0.0]}, 4),  # one draw of a hundred
        ({4: [0.0] * 9 + [0.5], 8: [0.0]}, 8),
        ({4: [np.nan], 8: [0.0]}, 8),
        ({4: [0.1], 8: [np.nan]}, None),
    ],
)
def test_steady_is_the_first_number_from_which_the_draws_stay_close(losses, steady):
    found = adaptation.steadiness(fell(losses))
    assert found["patients"] == steady and found["images"] == (steady and 2 * steady)
    assert [one["patients"] for one in found["numbers"]] == list(losses)
    numbers = {"before": {"value": 0.8}, "after": {"value": 0.75}}
    numbers["difference"] = {"value": -0.05, "low": -0.1, "high": 0.01}  # may be chance
    said, worse = (
        adaptation.in_words(
            {"steady": found}
            | {of: {"balanced_accuracy": number} for of, number in numbers.items()}
            | {"difference": {"balanced_accuracy": {"value": -0.05, "low": -0.1, "high": high}}}
        )
        for high in (0.01, -0.01)
    )
    assert "costs" not in said and worse.endswith(said)
    assert "0.800 as the run answers and 0.750 adapted" in worse and "-0.050 (-0.1" in worse
    assert f"steady from {steady} patients" in said if steady else "not steady with" in said
    assert set(adaptation.table_of_numbers(found)["measure"]) >= {"threshold", "balanced accuracy"}


def test_an_easy_place_is_steady_and_a_hard_one_is_not():
    parted = shifted(80)
    parted["p_PNEUMONIA"] = np.where(parted["label"] == "PNEUMONIA", 0.95, 0.65)
    parted["p_NORMAL"] = 1 - parted["p_PNEUMONIA"]
    found = adaptation.steadiness(adaptation.by_patients(parted, draws=20))
    assert found["patients"] == 4 and found["numbers"][0]["loss"]["value"] == 0
    assert adaptation.steadiness(adaptation.by_patients(binary("local")))["patients"] is None


def test_answers_by_a_choice_are_at_its_threshold_and_temperature():
    local = binary("local")
    answered = calibration.answered(local, *adaptation.Choice(0.7, 2.0))
    assert answered["predicted"].equals(thresholds.apply_threshold(local, 0.7)["predicted"])
    cooled = calibration.apply_temperature(local, 2.0)
    assert answered["p_NORMAL"].equals(cooled["p_NORMAL"]) and answered["calibrated"].all()
