"""How unlike the training images an image is."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from tlutils.evaluation import novelty


def cloud(n, width=200, seed=0):
    """Points that vary along 5 directions most, as features do, and not at all along the last 10."""
    draw = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).normal(size=(5, width)) * np.array([[9, 7, 5, 3, 2]]).T
    points = draw.normal(size=(n, 5)) @ mixed + draw.normal(size=(n, width)) + 20
    points[:, -10:] = 0
    return points


@pytest.fixture(scope="module")
def reference():
    return novelty.limited(novelty.fit(cloud(300)), cloud(500, seed=1), np.arange(500))


def test_the_distance_is_mahalanobis_with_the_covariance_of_probabilistic_pca():
    training, new = cloud(300), cloud(20, seed=2)
    found = novelty.fit(training)
    pca = PCA(len(found.variances), svd_solver="full").fit(training)
    away = new - pca.mean_
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", away, pca.get_precision(), away))
    assert np.allclose(found.distance(new), wanted, rtol=1e-4)


def test_of_new_images_of_the_kind_about_one_in_a_hundred_is_unlike(reference):
    assert 0.002 < reference.describe(cloud(5000, seed=3))["unlike"].mean() < 0.025


def test_images_of_another_kind_are_unlike(reference):
    lit = cloud(50, seed=4)
    lit[:, -1] = 20.0  # what no training image lets rise
    for other in (lit, np.zeros((50, 200)), 3 * cloud(50, seed=4)):
        found = reference.describe(other)
        assert found["unlike"].all() and (found["distance"] > 1).all()


def test_one_in_a_hundred_validation_patients_lies_beyond_the_limit(reference):
    beyond = reference.distance(cloud(500, seed=1)) > 1
    assert beyond.sum() == 4 and reference.patients == 500  # the 496th of 500 is the limit


def test_of_few_patients_the_furthest_is_the_limit():
    val = cloud(20, seed=5)
    found = novelty.limited(novelty.fit(cloud(300)), val, np.arange(20) // 2)
    assert found.distance(val).max() == pytest.approx(1) and found.patients == 10


def test_a_patient_with_many_images_counts_once():
    reference, val = novelty.fit(cloud(300)), cloud(200, seed=1)
    val[:2] *= 5  # two odd images
    by_one, by_two = (
        novelty.limited(reference, val, np.r_[first, np.arange(2, 200)]).limit
        for first in ([0, 0], [0, 1])
    )
    assert by_one < reference.distance(val[:2]).min() <= by_two


def test_setting_the_limit_again_gives_the_same(reference):
    again = novelty.limited(reference, cloud(500, seed=1), np.arange(500))
    assert again.limit == pytest.approx(reference.limit)


def test_the_unit_of_the_features_does_not_matter():
    small, large = (
        novelty.limited(novelty.fit(by * cloud(100)), by * cloud(50, seed=1), np.arange(50))
        for by in (0.001, 1000)
    )
    new = cloud(10, seed=2)
    assert np.allclose(small.distance(0.001 * new), large.distance(1000 * new), rtol=1e-4)


@pytest.mark.parametrize("n", [8, 9, 30])
def test_few_images_and_few_features_will_do(n):
    for width in (2, 3, 500):
        found = novelty.fit(cloud(n, width + 10)[:, :width])
        assert np.isfinite(found.distance(cloud(5, width + 10, seed=1)[:, :width])).all()


def test_features_that_tell_nothing_are_refused():
    with pytest.raises(ValueError, match="7 training images"):
        novelty.fit(cloud(7))
    with pytest.raises(ValueError, match="the same"):
        novelty.fit(np.ones((50, 4)))
