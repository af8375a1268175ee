"""How to train, as plain values."""

import pytest

from tlutils.training.options import Options


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "hinge"},
        {"monitor": "val_f9"},
        {"epochs": 0},
        {"views": -1},
        {"stress_views": 0},
        {"label_smoothing": 1.0},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)
