"""Temperature from validation, prior from unlabelled scores."""

import numpy as np
import pandas as pd
import prediction_tables
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tlutils.evaluation import calibration, thresholds
from tlutils.evaluation.metrics import expected_calibration_error
from tlutils.models.build import probabilities

NAMES = ["A", "B", "C"]


def table(logits, labels, split="val"):
    """Predictions by the softmax of logits; of a label below 0 nothing is known."""
    scores = torch.softmax(torch.as_tensor(logits, dtype=torch.float64), 1).numpy()
    names = [NAMES[i] if i >= 0 else "" for i in labels]
    return prediction_tables.table(names, scores, NAMES[: scores.shape[1]], split=split)


@pytest.fixture(scope="module")
def true_logits():
    """Logits that are right about their own probabilities, and labels drawn from them."""
    draw = np.random.default_rng(1)
    logits = draw.normal(0, 2, (4000, 3))
    chances = torch.softmax(torch.tensor(logits), 1).numpy().cumsum(1)
    return logits, (draw.random((4000, 1)) > chances).sum(1)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_what_made_the_model_too_sure(true_logits, factor):
    logits, labels = true_logits
    assert calibration.fit_temperature(table(factor * logits, labels)) == pytest.approx(
        factor, rel=0.08
    )


def test_it_is_the_temperature_with_the_smallest_loss_of_a_fine_grid(true_logits):
    logits, labels = torch.tensor(2.5 * true_logits[0][:300]), torch.tensor(true_logits[1][:300])
    grid = np.geomspace(0.5, 10, 2000)
    losses = [F.cross_entropy(logits / t, labels).item() for t in grid]
    assert calibration.fit_temperature(table(logits.numpy(), labels.numpy())) == pytest.approx(
        grid[np.argmin(losses)], rel=3e-3
    )


def test_applying_it_keeps_the_answers_renews_the_losses_and_says_so(true_logits):
    logits, labels = 3 * true_logits[0], true_logits[1]
    before = table(logits, labels, "test")
    after = calibration.apply_temperature(before, 3.0)
    wanted = torch.softmax(torch.tensor(logits / 3), 1).numpy()
    assert np.allclose(after[["p_A", "p_B", "p_C"]], wanted) and after["calibrated"].all()
    assert np.allclose(after["loss"], -np.log(wanted[np.arange(len(labels)), labels]))
    assert (after["predicted"] == before["predicted"]).all() and "calibrated" not in before
    assert expected_calibration_error(after) < expected_calibration_error(before) / 3


def test_certainty_beyond_a_float_is_no_trouble():
    sure = table(np.array([[800.0, 0, 0], [0, 800.0, 0]]), np.array([0, 0]))
    with pytest.warns(UserWarning, match="even odds are likelier"):
        assert calibration.fit_temperature(sure) > 5
    assert np.isfinite(calibration.apply_temperature(sure, 2.0)[["p_A", "p_B", "p_C"]]).all(
        axis=None
    )


@pytest.mark.parametrize("split", ["test", "train"])
def test_a_temperature_is_fitted_on_validation_images_only(true_logits, split):
    with pytest.raises(ValueError, match=f"{split} images.*validation"):
        calibration.fit_temperature(table(*true_logits, split))


@pytest.fixture(scope="module")
def shifted():
    """Two Gaussian classes: the true probabilities for equal shares, on images of which 15 % are of B."""
    draw = np.random.default_rng(3)
    labels = (draw.random(6000) < 0.15).astype(int)
    x = draw.normal(2.0 * labels, 1)  # log p(x|B)/p(x|A) = 2x - 2
    return table(np.stack([np.zeros(6000), 2 * x - 2], 1), labels, "test"), labels, x


def test_the_new_shares_are_found_and_the_probabilities_become_true(shifted):
    predictions, labels, x = shifted
    corrected, shares, rounds = calibration.adjust_prior(predictions, {"A": 0.5, "B": 0.5})
    assert shares["B"] == pytest.approx(labels.mean(), abs=0.015) and 1 < rounds < 1000
    exact = 1 / (1 + np.exp(-(2 * x - 2 + np.log(0.15 / 0.85))))
    assert np.abs(corrected["p_B"] - exact).max() < 0.04
    right = [(one["predicted"] == one["label"]).mean() for one in (predictions, corrected)]
    assert right[1] > right[0] + 0.03


def test_the_labels_are_never_read(shifted):
    predictions = shifted[0]
    scrambled = predictions.assign(
        label=predictions["label"].sample(frac=1, random_state=0).to_numpy()
    )
    unlabelled = predictions.assign(label="")
    here, *others = (
        calibration.adjust_prior(one, {"A": 0.5, "B": 0.5})
        for one in (predictions, scrambled, unlabelled)
    )
    for there in others:
        assert here[1:] == there[1:]
        assert (
            here[0].drop(columns=["label", "loss"]).equals(there[0].drop(columns=["label", "loss"]))
        )
        assert not here[0]["loss"].equals(there[0]["loss"])


def test_three_shares_are_those_of_the_published_steps_written_out():
    """Image by image, as equations 10 and 11 of the paper say; the answers follow the corrected probabilities."""
    draw = np.random.default_rng(5)
    labels = draw.choice(3, 60, p=[0.5, 0.3, 0.2])
    predictions = table(draw.normal(0, 1, (60, 3)) + 2 * np.eye(3)[labels], labels, "test")
    p, old = predictions[["p_A", "p_B", "p_C"]].to_numpy().tolist(), [0.3, 0.3, 0.4]
    new = list(old)
    for _ in range(3000):
        posteriors = []
        for row in p:
            weighted = [one * now / before for one, now, before in zip(row, new, old)]
            posteriors.append([one / sum(weighted) for one in weighted])
        new = [sum(row[k] for row in posteriors) / len(p) for k in range(3)]
    corrected, shares, _ = calibration.adjust_prior(predictions, dict(zip(NAMES, old)), rounds=3000)
    assert list(shares.values()) == pytest.approx(new, abs=1e-6) and min(new) > 0.05
    assert np.allclose(corrected[["p_A", "p_B", "p_C"]], posteriors, atol=1e-5)
    assert corrected["predicted"].tolist() == [NAMES[int(np.argmax(row))] for row in posteriors]
    true = [row[NAMES.index(label)] for row, label in zip(posteriors, predictions["label"])]
    assert np.allclose(corrected["loss"], -np.log(true), atol=1e-4)


def test_the_shares_are_the_likeliest_ones(shifted):
    """A second way to the same: maximise the likelihood of the scores over the share directly."""
    predictions, _, _ = shifted
    p = predictions["p_B"].to_numpy()
    grid = np.linspace(0.001, 0.999, 4000)
    likelihood = [np.log(share / 0.5 * p + (1 - share) / 0.5 * (1 - p)).sum() for share in grid]
    _, shares, _ = calibration.adjust_prior(predictions, {"A": 0.5, "B": 0.5})
    assert shares["B"] == pytest.approx(grid[np.argmax(likelihood)], abs=1e-3)


@pytest.mark.parametrize(
    "shares", [{"A": 0.5, "C": 0.5}, {"A": 0.9, "B": 0.2}, {"A": 1.0, "B": 0.0}]
)
def test_shares_that_are_none_are_refused(shifted, shares):
    with pytest.raises(ValueError, match="shares above 0 of A, B"):
        calibration.adjust_prior(shifted[0], shares)


def test_no_images_have_no_shares(shifted):
    with pytest.raises(ValueError, match="empty"):
        calibration.adjust_prior(shifted[0].iloc[:0], {"A": 0.5, "B": 0.5})


def test_one_logit_has_the_temperature_of_the_same_two(true_logits):
    one = torch.tensor(4 * (true_logits[0][:, 1] - true_logits[0][:, 0]))[:, None]
    labels = (true_logits[1] == 1).astype(int)
    two = table(torch.cat([torch.zeros_like(one), one], 1), labels)
    single = two.assign(**dict(zip(["p_A", "p_B"], probabilities(one).double().numpy().T)))
    assert calibration.fit_temperature(single) == pytest.approx(
        calibration.fit_temperature(two), rel=1e-4
    )


def test_where_all_is_right_no_temperature_is_made_up():
    """The likelihood rises without end as the temperature falls; 0.05 would make every new answer certain."""
    right = table(2 * np.eye(3), np.arange(3))
    with pytest.warns(UserWarning, match="all 3 validation images are answered rightly"):
        assert calibration.fit_temperature(right) == 1.0


def test_weighted_training_changes_the_shares_that_count():
    """Trained with equal weight for both classes, a model knows nothing of the images' own shares."""
    draw = np.random.default_rng(0)

    def images(n, share):
        labels = (draw.random(n) < share).astype(int)
        return draw.normal(1.5 * labels, 1)[:, None], labels

    known, new = images(8000, 0.74), images(8000, 0.4)
    for weights, shares in ((None, {"A": 0.26, "B": 0.74}), ("balanced", {"A": 0.5, "B": 0.5})):
        z = LogisticRegression(class_weight=weights).fit(*known).decision_function(new[0])
        predictions = table(np.stack([np.zeros_like(z), z], 1), new[1], "test")
        assert calibration.adjust_prior(predictions, shares)[1]["B"] == pytest.approx(
            new[1].mean(), abs=0.04
        )
    wrong = calibration.adjust_prior(predictions, {"A": 0.26, "B": 0.74})[1][
        "B"
    ]  # the counts' shares, balanced model
    assert wrong < new[1].mean() - 0.2


def test_a_model_that_is_worse_than_guessing_is_named():
    with pytest.warns(UserWarning, match="end of 20"):
        calibration.fit_temperature(table(2 * np.eye(3)[[1, 2, 0, 1]], np.array([0, 1, 2, 0])))


def test_a_file_still_says_that_it_is_calibrated(true_logits, tmp_path):
    after = calibration.apply_temperature(table(*true_logits, "test").head(5), 1.5)
    after.to_csv(tmp_path / "predictions.csv", index=False)
    assert pd.read_csv(tmp_path / "predictions.csv")["calibrated"].tolist() == [True] * 5
    assert thresholds.classes_of(after) == NAMES


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_what_is_no_temperature_is_refused(true_logits, temperature):
    with pytest.raises(ValueError, match="finite number above 0"):
        calibration.apply_temperature(table(*true_logits, "test"), temperature)


# Any table


TRIED = settings(max_examples=40, deadline=None)
LOGITS = st.lists(st.tuples(*[st.integers(-30, 30)] * 3), min_size=1, max_size=20)


@TRIED
@given(LOGITS, st.data())
@pytest.mark.filterwarnings(
    "ignore:all .* validation images", "ignore:the temperature is at its end"
)
def test_the_fitted_temperature_is_no_worse_than_none_and_moves_no_answer(logits, data):
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(logits), max_size=len(logits)))
    before = table(np.array(logits, float), np.array(labels))
    temperature = calibration.fit_temperature(before)
    after = calibration.apply_temperature(before, temperature)
    scores = after[["p_A", "p_B", "p_C"]].to_numpy()
    assert 0.05 <= temperature <= 20 and after["loss"].mean() <= before["loss"].mean() + 1e-4
    assert np.allclose(scores.sum(1), 1) and (scores >= 0).all() and (scores <= 1).all()
    names = [f"p_{name}" for name in before["predicted"]]
    assert all(after.loc[i, name] >= scores[i].max() - 1e-12 for i, name in enumerate(names))


@TRIED
@given(LOGITS, st.tuples(*[st.integers(1, 9)] * 3), st.randoms(use_true_random=False))
def test_any_new_shares_are_shares_and_follow_no_order_of_rows(logits, weights, random):
    images = table(np.array(logits, float), np.zeros(len(logits), int))
    trained = {name: weight / sum(weights) for name, weight in zip(NAMES, weights)}
    corrected, shares, _ = calibration.adjust_prior(images, trained, rounds=50)
    assert sum(shares.values()) == pytest.approx(1) and all(
        0 <= share <= 1 for share in shares.values()
    )
    scores = corrected[["p_A", "p_B", "p_C"]].to_numpy()
    assert np.isfinite(scores).all() and np.allclose(scores.sum(1), 1)
    mixed = images.iloc[random.sample(range(len(images)), len(images))]
    assert calibration.adjust_prior(mixed, trained, rounds=50)[1] == pytest.approx(shares, abs=1e-9)


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.9])
def test_a_threshold_answers_the_same_at_a_temperature(true_logits, threshold):
    before = table(true_logits[0][:, :2], true_logits[1] % 2, "test")
    first = calibration.answered(before, threshold, 2.5)
    moved = calibration.threshold_at(threshold, 2.5)
    again = calibration.answered(calibration.answered(before, temperature=2.5), moved)
    assert first.equals(again) and first["predicted"].nunique() == 2
    assert [calibration.threshold_at(end, 2.5) for end in (-1, 0, 1, 2)] == [-1, 0, 1, 2]
