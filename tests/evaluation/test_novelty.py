"""How unlike the training images an image is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from tlutils.evaluation import novelty

WIDTH = 200


def features(n, seed):
    """Numbers that vary along 5 directions most, as features do, and not at all in the last 10."""
    draw = np.random.default_rng(seed)
    mixed = np.random.default_rng(99).normal(size=(5, WIDTH)) * np.array([[9, 7, 5, 3, 2]]).T
    points = draw.normal(size=(n, 5)) @ mixed + draw.normal(size=(n, WIDTH)) + 20
    points[:, -10:] = 0
    return points


def images(n, seed):
    """A bright disc at about the same place."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    middle = draw.normal(12, 1, (n, 2, 1, 1))
    disc = 60 + 120 * (np.hypot(y - middle[:, 0], x - middle[:, 1]) < 9)
    return (disc + draw.normal(0, 10, disc.shape)).clip(0, 255).astype(np.uint8)[:, None]


def seen(n, seed=0):
    return novelty.seen(images(n, seed), features(n, seed))


@pytest.fixture(scope="module")
def reference():
    return novelty.limited(novelty.fit(seen(256)), seen(500, 1), np.arange(500))


def test_an_image_is_made_small_by_means_less_its_own_and_both_parts_have_length_1():
    pixels = images(3, 0)
    found = novelty.seen(np.repeat(pixels, 3, axis=1), features(3, 0))
    small = pixels.reshape(3, 8, 4, 8, 4).mean((2, 4)).reshape(3, 64)
    small -= small.mean(1, keepdims=True)
    assert np.allclose(found[:, :64], small / np.linalg.norm(small, axis=1)[:, None], atol=1e-6)
    assert np.allclose(np.linalg.norm(found[:, 64:], axis=1), 1)


@pytest.mark.parametrize("size", [5, 8, 30, 100])
def test_an_image_of_any_size_becomes_small(size):
    ramp = np.broadcast_to(np.linspace(0, 255, size), (1, 1, size, size)).astype(np.uint8)
    small = novelty.seen(ramp, np.ones((1, 4)))[0, :64].reshape(8, 8)
    assert np.allclose(small, small[0]) and (np.diff(small[0]) >= 0).all() and small[0, 0] < 0
    assert abs(small.mean()) < 1e-6 and np.linalg.norm(small) == pytest.approx(1)


def test_a_blank_is_unlike_images_of_any_contrast_whatever_its_features_and_a_little_noise():
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    disc, noise = np.hypot(y - 12, x - 12) < 9, draw.normal(0, 1, (700, 1, 32, 32))
    known = 128 + draw.normal(0, 50, (700, 1, 1, 1)) * disc + 10 * noise
    greys = np.linspace(0, 255, 50)[:, None, None, None] + noise[:50] / 2
    known, blanks = (pixels.clip(0, 255).astype(np.uint8) for pixels in (known, greys))
    vectors = novelty.seen(known, features(700, 1))
    found = novelty.limited(novelty.fit(vectors[:256]), vectors[256:], np.arange(444))
    assert found.describe(blanks, features(50, 1))["unlike"].all()


def test_the_distance_is_mahalanobis_with_the_covariance_of_probabilistic_pca():
    training, new = seen(256)[:, 64:], seen(20, 2)[:, 64:]
    found = novelty.fit(seen(256)).features
    pca = PCA(len(found.variances), svd_solver="full").fit(training.astype(float))
    away = new - pca.mean_
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", away, pca.get_precision(), away))
    assert np.allclose(found.distance(new), wanted, rtol=1e-3)


def test_of_new_images_of_the_kind_about_one_in_a_hundred_is_unlike(reference):
    found = reference.describe(images(3000, 3), features(3000, 3))
    assert 0.002 < found["unlike"].mean() < 0.025


def test_what_is_odd_as_an_image_or_odd_to_the_network_is_unlike(reference):
    pixels, numbers = images(50, 4), features(50, 4)
    lit = numbers.copy()
    lit[:, -1] = 200.0  # what no training image lets rise
    endless = numbers * np.where(np.arange(WIDTH) == 3, np.inf, 1)
    odds = (255 - pixels, numbers), (0 * pixels, numbers), (pixels, lit), (pixels, 0 * numbers)
    for odd in (*odds, (pixels, endless), (pixels, np.nan * numbers)):
        found = reference.describe(*odd)
        assert found["unlike"].all() and (found["distance"] > 1).all()


def test_one_in_a_hundred_validation_patients_lies_beyond_the_limit(reference):
    beyond = reference.distance(seen(500, 1)) > 1
    assert beyond.sum() == 4 and reference.patients == 500  # the 496th of 500 is the limit


def test_of_few_patients_the_furthest_is_the_limit():
    val = seen(20, 5)
    found = novelty.limited(novelty.fit(seen(256)), val, np.arange(20) // 2)
    assert found.distance(val).max() == pytest.approx(1) and found.patients == 10
    rounded = replace(found, limits=tuple(np.multiply(found.limits, 1 - 1e-7)))
    assert not rounded.describe(images(20, 5), features(20, 5))["unlike"].any()


def test_a_patient_with_many_images_counts_once():
    reference, val = novelty.fit(seen(256)), seen(200, 1)
    val[:2] = novelty.seen(255 - images(2, 1), -features(2, 1))  # two odd images
    by_one, by_two = (
        novelty.limited(reference, val, np.r_[first, np.arange(2, 200)]).limits
        for first in ([0, 0], [0, 1])
    )
    assert max(by_one) < min(by_two)


@pytest.mark.parametrize("n", [16, 17, 60])
def test_few_images_and_few_features_will_do(n):
    for width in (2, 3, 500):
        draw = np.random.default_rng(n)
        training, new = (
            novelty.seen(images(m, m), draw.normal(1, 0.1, (m, width))) for m in (n, 5)
        )
        found = novelty.limited(novelty.fit(training), new, np.arange(5))
        assert found.distance(new).max() == pytest.approx(1)


def test_images_that_tell_nothing_are_refused():
    with pytest.raises(ValueError, match="15 training images are too few"):
        novelty.fit(seen(15))
    with pytest.raises(ValueError, match="the same to the network"):
        novelty.fit(np.tile(seen(1), (50, 1)))


def test_parts_that_do_not_fit_are_refused(reference):
    whole = reference.features
    with pytest.raises(ValueError, match="shapes"):
        novelty.Spread(whole.mean[:5], whole.directions, whole.variances, whole.noise)
