"""Predictions tables for the tests of evaluation, drawn and of any kind."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import settings
from hypothesis import strategies as st


def table(labels, scores, classes, patients=None, split="test"):
    """Predictions with the given probabilities (n, classes); a label may be "" for one that is not known."""
    scores = np.asarray(scores, dtype=float)
    truth = [classes.index(label or classes[0]) for label in labels]
    made = pd.DataFrame(
        {
            "split": split,
            "path": [f"{i}.jpeg" for i in range(len(labels))],
            "patient": [str(p) for p in (range(len(labels)) if patients is None else patients)],
            "label": list(labels),
            "predicted": np.array(classes)[scores.argmax(1)],
        }
    )
    for i, name in enumerate(classes):
        made[f"p_{name}"] = scores[:, i]
    return made.assign(loss=-np.log(np.maximum(scores[np.arange(len(labels)), truth], 1e-30)))


def drawn(n=200, classes=("A", "B", "C", "D"), patients=60, seed=0, split="test", digits=2):
    """Predictions of a mediocre model; few digits make ties."""
    rng, k = np.random.default_rng(seed), len(classes)
    truth = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + 1.2 * np.eye(k)[truth]
    scores = np.round(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), digits) + 1e-3
    return table(
        np.array(classes)[truth],
        scores / scores.sum(1, keepdims=True),
        list(classes),
        rng.integers(patients, size=n),
        split,
    )


def binary(split="val", seed=0, n=300):
    return drawn(n, ("NORMAL", "PNEUMONIA"), 80, seed, split)


TRIED = settings(max_examples=40, deadline=None)


@st.composite
def tables(draw, at_most=4):
    """Predictions of one to 24 images of up to six patients, with ties, classes that do not occur, and sure answers."""
    k, n = draw(st.integers(2, at_most)), draw(st.integers(1, 24))
    names = [f"class {chr(65 + i)}" for i in range(k)]
    scores = draw(
        st.lists(
            st.lists(st.integers(0, 4), min_size=k, max_size=k).filter(any), min_size=n, max_size=n
        )
    )
    truth = draw(st.lists(st.sampled_from(names), min_size=n, max_size=n))
    patients = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    scores = np.array(scores, float)
    return table(truth, scores / scores.sum(1, keepdims=True), names, patients, "val")
