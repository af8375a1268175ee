"""The curves of a training are those of its history."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from pictures import (
    clean_figures,  # noqa: F401
    history_of,
    labels_of,
    title,
)

from tlutils.plots import of_training


def test_history_draws_both_curves_and_marks_the_best_epoch():
    loss, accuracy = of_training.history(history_of(5))
    lines = {line.get_label(): line for line in loss.lines}
    assert lines["validation"].get_ydata().tolist() == history_of(5)["val_loss"].tolist()
    assert lines["best epoch: 3"].get_xdata() == [3, 3]
    assert title(loss) == "Validation loss 0.300"
    assert all(tick == int(tick) for tick in accuracy.get_xticks())
    assert "best epoch: 2" in [
        line.get_label() for line in of_training.history(history_of(5), best=2)[0].lines
    ]


def test_history_of_one_epoch_without_validation():
    for ax in of_training.history(history_of(1, val=False)):
        assert [line.get_label() for line in ax.lines] == ["training", "best epoch: 1"]
        assert [tick for tick in ax.get_xticks() if 0.5 < tick < 1.5] == [1]


def test_history_shows_a_learning_rate_that_changes():
    falling = history_of(4).assign(learning_rate=[1e-3, 1e-3, 1e-4, 1e-4])
    assert (
        of_training.history(falling)[2].lines[0].get_ydata().tolist()
        == falling["learning_rate"].tolist()
    )
    assert len(of_training.history(falling, ax=plt.subplots(1, 2)[1])) == 2


def test_history_refuses_an_epoch_that_never_was():
    with pytest.raises(ValueError, match="no epoch 9"):
        of_training.history(history_of(3), best=9)


def test_too_few_axes_are_refused():
    with pytest.raises(ValueError, match="found 1 Axes; this picture needs 2"):
        of_training.history(history_of(3), ax=plt.figure().add_subplot())


def test_learning_rates_marks_the_suggestion_and_the_rate_in_use():
    curve = pd.DataFrame(
        {
            "learning_rate": [1e-4, 1e-3, 1e-2],
            "loss": [2.0, 1.0, 4.0],
            "smoothed": [2.0, 1.2, 3.0],
            "suggested": [True, False, False],
        }
    )
    ax = of_training.learning_rates(curve, used=1e-3)
    assert labels_of(ax) == [
        "loss of each batch",
        "smoothed",
        "lowest, at 0.001",
        "suggested 0.0001",
        "used 0.001",
    ]
    assert ax.get_xscale() == "log" and ax.get_ylim()[1] <= 1.1 * 4


def test_embedding_colors_classes_and_the_patients_with_the_most_images():
    records = pd.DataFrame({"label": list("ABBAB"), "patient": list("11223")})
    by_class, by_patient = of_training.embedding(np.arange(10.0).reshape(5, 2), records, patients=2)
    assert labels_of(by_class) == ["A", "B"] and labels_of(by_patient) == ["1", "2"]
    assert [len(dots.get_offsets()) for dots in by_class.collections] == [2, 3]
    assert [len(dots.get_offsets()) for dots in by_patient.collections] == [1, 2, 2]
    with pytest.raises(ValueError, match="an x and a y for each row"):
        of_training.embedding(np.ones((4, 2)), records)
    has = np.array([True, False, False, True, False])
    also = "Wedge", has
    *_, third = of_training.embedding(np.arange(10.0).reshape(5, 2), records, also=also)
    without, with_it = third.collections
    assert third.get_title(loc="left") == "Wedge" and len(with_it.get_offsets()) == 2
    assert without.get_offsets()[:, 0].tolist() == [2, 4, 8]
