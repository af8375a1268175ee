"""Resampling, Wilson's interval, a guess beside a measurement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import TRIED
from scipy.stats import binomtest, norm
from scipy.stats import t as student
from sklearn import metrics as sk

from tlutils.core import intervals


def test_the_fast_auc_is_scikit_learns_with_weights_and_ties():
    rng = np.random.default_rng(0)
    positive, score = rng.random(80) < 0.3, rng.integers(9, size=80) / 8
    weights = rng.integers(4, size=(25, 80)).astype(float)
    slow = [sk.roc_auc_score(positive, score, sample_weight=row) for row in weights]
    assert intervals.weighted_auc(positive, score, weights) == pytest.approx(slow)
    assert np.isnan(intervals.weighted_auc(positive, score, weights * positive)).all()


def test_wilson_is_scipys():
    for hits, n in ((0, 5), (3, 5), (5, 5), (87, 100)):
        exact = binomtest(hits, n).proportion_ci(0.9, "wilson")
        assert intervals.wilson(hits, n, 0.9) == pytest.approx((exact.low, exact.high))


def test_an_interval_holds_its_value_though_all_resamples_lie_on_one_side():
    found = intervals.interval(0.4, np.linspace(0.41, 0.6, 100), 0.95, trials=5)
    assert found["low"] < found["value"] == 0.4 < found["high"]


@pytest.mark.parametrize(("patients", "few"), [(8, True), (8, False), (None, True)])
def test_an_interval_is_wilsons_for_as_many_trials_as_spread_like_the_resamples(patients, few):
    """Its ends solve the equation of the score, with the variance of the resamples."""
    value, spread = 0.7, np.random.default_rng(0).binomial(30, 0.7, 1000) / 30
    found = intervals.interval(value, spread, 0.9, patients, few)
    variance = spread.var() * (patients / (patients - 1) if patients else 1)
    beyond = student.ppf(0.95, patients - 1) if patients and few else norm.ppf(0.95)
    for end in (found["low"], found["high"]):
        share = end * (1 - end) / (value * (1 - value))
        assert (value - end) ** 2 == pytest.approx(beyond**2 * variance * share)


@pytest.mark.parametrize("images", [1, 4])
def test_an_interval_of_a_share_of_few_patients_holds_it_in_about_as_many_draws_as_it_says(images):
    random, n, true, held, above = np.random.default_rng(0), 24, 0.85, 0, 0
    for _ in range(300):
        skill = random.beta(true * 2, (1 - true) * 2, n) if images > 1 else np.full(n, true)
        right = random.binomial(images, skill) / images
        spread = random.multinomial(n, np.full(n, 1 / n), 300) @ right / n
        found = intervals.interval(right.mean(), spread, 0.95, n)
        held += found["low"] <= true <= found["high"]
        above += found["low"] > true
    assert held / 300 > 0.92 and above / 300 < 0.05  # percentiles: 0.88 and 0.10


def test_one_wrong_of_few_patients_is_no_better_than_none():
    right = np.ones(14)
    spreads = []
    for wrong in (0, 1):
        right[:wrong] = 0
        draws = np.random.default_rng(0).multinomial(14, np.full(14, 1 / 14), 1000)
        spreads.append(intervals.interval(right.mean(), draws @ right / 14, 0.95, 14))
    assert spreads[1]["low"] < spreads[0]["low"]


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


@pytest.mark.parametrize(
    ("guess", "verdict"),
    [(0.9, "too high"), (0.5, "too low"), (0.68, "inside the interval"), (0.87, "inside the")],
)
def test_a_guess_is_judged_by_the_interval(guess, verdict):
    found = {"value": 0.78, "low": 0.68, "high": 0.87}
    assert verdict in intervals.check_guess(guess, found)
    assert "0.780 (0.680 to 0.870)" in intervals.check_guess(guess, found)


def test_a_mean_of_shares_of_which_one_is_sure_is_as_unsure_as_wilson_says_that_one_is():
    spread = np.random.default_rng(0).normal(0.8, 0.05, 2000).clip(0, 1)
    sure, other = (1.0, np.ones(2000), 9), (0.8, spread, 20)
    mean = (0.9, (1 + spread) / 2, 0.95)
    plain = intervals.interval(*mean, 20)
    found = intervals.interval_of_mean(*mean, 9, [sure, other], apart=True)
    low = intervals.wilson(9, 9)[0]
    own = intervals.interval(*mean, 20)  # as many as the other part rests on
    assert found["low"] == pytest.approx(0.9 - np.hypot((1 - low) / 2, 0.9 - own["low"]))
    assert found["low"] < own["low"] and found["high"] == pytest.approx(own["high"])
    assert intervals.interval_of_mean(*mean, 9, [other, other], apart=True) == plain
    shared = intervals.interval_of_mean(*mean, 9, [sure, other], apart=False)
    assert shared["low"] == pytest.approx(own["low"] - (1 - low) / 2)
    nothing = {"value": None, "low": None, "high": None}
    undefined = np.nan, spread, 0.95
    assert intervals.interval_of_mean(*undefined, 9, [sure, other], apart=True) == nothing


@pytest.mark.parametrize(("value", "n"), [(1.0, 9), (0.9, 9), (0.5, 30), (0.0, 4), (1.0, 1)])
def test_the_ends_of_an_auc_lie_a_level_of_hanleys_and_mcneils_error_from_it(value, n):
    low, high = intervals.auc_ends(value, n, n)
    for end in {low, high} - {0.0, 1.0}:
        one, other = end / (2 - end), 2 * end**2 / (1 + end)
        squares = end * (1 - end) + (n - 1) * (one - end**2 + other - end**2)
        assert abs(value - end) == pytest.approx(1.959964 * np.sqrt(squares) / n, rel=1e-6)
    assert 0 <= low <= value <= high <= 1 and low < high
    mirrored = intervals.auc_ends(1 - value, n, n)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_the_ends_of_an_auc_hold_what_it_is_of_in_about_as_many_draws_as_they_say():
    random, n, true, held = np.random.default_rng(0), 12, 0.9214, 0
    for _ in range(400):
        scores = np.r_[random.normal(2, 1, n), random.normal(0, 1, n)]  # so the area is 0.9214
        positive = np.arange(2 * n) < n
        found = intervals.weighted_auc(positive, scores, np.ones((1, 2 * n)))[0]
        low, high = intervals.auc_ends(found, n, n)
        held += low <= true <= high
    assert 0.92 < held / 400 < 0.99


def test_a_guess_about_a_number_without_an_interval_is_judged_by_the_number():
    found = {"value": 0.5, "low": None, "high": None}
    said = {guess: intervals.check_guess(guess, found) for guess in (0.4, 0.5, 0.6)}
    assert [text.rsplit(": ")[-1] for text in said.values()] == ["too low.", "right.", "too high."]
    assert not any("(" in text for text in said.values())
    assert said == {guess: intervals.check_guess(guess, np.float64(0.5)) for guess in said}


@pytest.mark.parametrize("none", [None, float("nan")])
def test_a_guess_is_compared_with_the_value_where_there_is_no_interval(none):
    found = {"value": 0.5, "low": none, "high": none}
    told = [intervals.check_guess(guess, found) for guess in (0.1, 0.5, 0.9)]
    assert [line.rpartition(": ")[2] for line in told] == ["too low.", "right.", "too high."]
    assert not any("nan" in line for line in told)
