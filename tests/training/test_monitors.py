"""The quantities that choose an epoch."""

import numpy as np
import pytest
from sklearn import metrics as sk

from tlutils.training import monitors

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.3, 0.8, 0.4, 0.6, 0.7, 0.9])
TWO = np.stack([1 - SCORES, SCORES], 1)


@pytest.mark.parametrize(
    ("monitor", "value"),
    [
        ("val_balanced_accuracy", 0.75),  # 3 of 4 and 3 of 4
        ("val_f1", 0.75),  # precision 3/4, recall 3/4
        ("val_auc", 13 / 16),  # pairs ranked rightly: 3 + 3 + 3 + 4 of 16
        ("val_recall@0.95", 0.25),  # no false alarm: only 0.9 lies above 0.8
        ("val_recall@0.75", 1.0),  # one false alarm of four allowed: all from 0.4 on
    ],
)
def test_worked_values(monitor, value):
    assert monitors.score(monitor, TWO, LABELS) == pytest.approx(value)


@pytest.mark.parametrize("quantity", ["balanced_accuracy", "f1", "auc", "recall@0.75"])
def test_under_changed_acquisition_a_quantity_is_computed_alike(quantity):
    stressed, plain = f"stress_{quantity}", f"val_{quantity}"
    assert monitors.better(stressed) is max and monitors.needs_probabilities(stressed)
    assert monitors.is_stressed(stressed) and not monitors.is_stressed(plain)
    assert monitors.score(stressed, TWO, LABELS) == monitors.score(plain, TWO, LABELS)


def test_several_classes_are_averaged_one_against_the_rest():
    draw = np.random.default_rng(0)
    labels, scores = draw.integers(0, 3, 60), draw.dirichlet(np.ones(3), 60)
    assert monitors.score("val_auc", scores, labels) == pytest.approx(
        sk.roc_auc_score(labels, scores, multi_class="ovr")
    )
    assert monitors.score("val_f1", scores, labels) == pytest.approx(
        sk.f1_score(labels, scores.argmax(1), average="macro")
    )


def test_a_single_class_is_refused_with_advice():
    with pytest.raises(ValueError, match="two classes.*val_loss"):
        monitors.score("val_auc", TWO, np.ones(8, int))


@pytest.mark.parametrize("wrong", ["auc", "val_recall@2", "val_kappa", "stress_kappa", "train_auc"])
def test_an_unknown_monitor_is_refused(wrong):
    with pytest.raises(ValueError, match="val_balanced_accuracy"):
        monitors.better(wrong)


@pytest.mark.parametrize(
    ("monitor", "row", "best", "wins"),
    [
        ("val_loss", (0.3, 100), (0.4, 100), True),
        ("val_loss", (0.4, 100), (0.3, 100), False),
        ("val_loss", (0.0, 99), (0.4, 100), False),
        ("val_loss", (0.9, 100), (0.4, 99), True),  # fewer never, more always
        ("val_auc", (0.9, 7), (0.8, 8), False),
        ("stress_auc", (0.9, 7), (0.8, 8), False),
        ("stress_auc", (0.9, 8), (0.8, 8), True),
        ("val_auc", (0.9, 8), (0.8, 8), True),
        ("train_loss", (0.3, 7), (0.4, 8), True),
        ("val_loss", (0.3, None), (0.4, 8), True),
    ],
)  # None: an older history
def test_epochs_are_compared_by_as_many_validation_images(monitor, row, best, wins):
    seen = "stress_images" if monitor == "stress_auc" else "val_images"
    row, best = ({monitor: value} | ({} if n is None else {seen: n}) for value, n in (row, best))
    assert monitors.beats(row, best, monitor) == wins


def test_an_improvement_must_exceed_the_margin():
    rows = [{"val_accuracy": value, "val_images": 10} for value in (0.8, 0.85)]
    assert monitors.beats(rows[1], rows[0], "val_accuracy", 0.04)
    assert not monitors.beats(rows[1], rows[0], "val_accuracy", 0.06)


def test_only_the_loss_is_better_when_smaller():
    assert [
        monitors.better(name) for name in ("val_loss", "train_loss", "val_accuracy", "val_auc")
    ] == [min, min, max, max]
