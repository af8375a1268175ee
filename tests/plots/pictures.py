"""Every kind of picture once, from small tables, and what the tests of pictures ask of one."""

from __future__ import annotations

import html
import io
from functools import partial

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from sklearn import metrics as sk

from tlutils.plots import of_data, of_images, of_results, of_training
from tlutils.plots.style import style

OCT = ["CNV", "DME", "DRUSEN", "NORMAL"]
COUNTS = {
    ("train", "CNV"): 7,
    ("train", "NORMAL"): 4,
    ("val", "CNV"): 1,
    ("test", "CNV"): 2,
    ("test", "NORMAL"): 3,
}


@pytest.fixture(autouse=True)
def clean_figures():
    """Our look before each test, no figure and matplotlib's own look after it."""
    style()
    yield
    plt.close("all")
    matplotlib.rcdefaults()


def table_of(found: dict) -> pd.DataFrame:
    rows = [(split, label) for (split, label), n in found.items() for _ in range(n)]
    records = pd.DataFrame(rows, columns=["split", "label"])
    return records.assign(patient=[str(i // 2) for i in records.index])


def words(texts) -> list[str]:
    return [text.get_text() for text in texts]


def title(ax: Axes) -> str:
    return ax.get_title(loc="left")


def interval(value: float | None) -> dict:
    return {"value": value, "low": value and value - 0.05, "high": value and value + 0.05}


def history_of(epochs: int, val: bool = True) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    loss = 0.3 + 0.1 * (epoch - 3.0) ** 2
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "val_loss": loss if val else np.nan,
            "val_accuracy": 0.8 if val else np.nan,
            "learning_rate": 1e-3,
            "seconds": 1.0,
            "images_per_second": 9.0,
        }
    )


def binary_predictions(seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    sick = np.arange(60) % 3 > 0
    score = (0.3 * sick + 0.7 * draw.random(60)).round(2)
    return pd.DataFrame(
        {
            "split": np.where(np.arange(60) < 20, "val", "test"),
            "p_NORMAL": 1 - score,
            "label": np.where(sick, "PNEUMONIA", "NORMAL"),
            "p_PNEUMONIA": score,
            "predicted": np.where(score > 0.5, "PNEUMONIA", "NORMAL"),
        }
    )


def scan(height: int = 12, width: int = 16) -> np.ndarray:
    return (np.arange(height * width) % 256).astype(np.uint8).reshape(height, width)


def confusion_table() -> pd.DataFrame:
    return pd.DataFrame([[118, 116], [1, 389]], ["NORMAL", "PNEUMONIA"], ["NORMAL", "PNEUMONIA"])


def audit_table() -> pd.DataFrame:
    columns = ["check", "splits", "found", "of", "share", "verdict", "examples", "meaning"]
    return pd.DataFrame(
        [
            ["patient in two splits", "train & test", 835, 968, 835 / 968, "leak", "", ""],
            ["base name in two splits", "train & test", 288, 968, 288 / 968, "warning", "", ""],
            ["unknown patient", "all", 0, 968, 0.0, "ok", "", ""],
        ],
        columns=columns,
    )


def calibration_table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "confidence": [0.3, 0.6, 0.9],
            "accuracy": [0.25, 0.5, 0.8],
            "n": [10, 20, 70],
            "low": [0.1, 0.3, 0.7],
            "high": [0.5, 0.7, 0.9],
        }
    )


def per_class_metrics() -> dict:
    return {
        name: {"n": 9, **{m: interval(0.8) for m in ("recall", "precision", "f1")}} for name in OCT
    }


def stress_table(two: bool = True) -> pd.DataFrame:
    rows = [("", "", "unchanged"), ("left_10", "framing", "a tenth at the left cut off")]
    rows += [("top_25", "framing", "a quarter at the top cut off"), ("noise", "detector", "noise")]
    table = pd.DataFrame(rows, columns=["change", "family", "words"])
    names = ("sensitivity", "specificity") if two else ("balanced_accuracy", "auc")
    for name, values in zip(names, ([0.9, 0.9, 0.95, 0.8], [0.85, 0.8, 0.4, 0.9])):
        table = table.assign(**{name: values, f"{name}_low": 0.3, f"{name}_high": 0.97})
    return table


def roc_table(predictions: pd.DataFrame) -> pd.DataFrame:
    fpr, tpr, threshold = sk.roc_curve(
        predictions["label"] == "PNEUMONIA", predictions["p_PNEUMONIA"], drop_intermediate=False
    )
    return pd.DataFrame({"fpr": fpr, "tpr": tpr, "threshold": threshold})


def pr_table(predictions: pd.DataFrame) -> pd.DataFrame:
    found = sk.precision_recall_curve(
        predictions["label"] == "PNEUMONIA", predictions["p_PNEUMONIA"]
    )
    return pd.DataFrame(
        {"precision": found[0], "recall": found[1], "threshold": np.r_[found[2], np.inf]}
    )


def costs(n: int) -> pd.DataFrame:
    rows = [{**interval(0.7 + i / 100), "seconds": 10.0 * (i + 1)} for i in range(n)]
    return pd.DataFrame(rows, [f"model {i}" for i in range(n)])


def rates(**changes) -> pd.DataFrame:
    found = {
        "learning_rate": [1e-3, 1e-2],
        "loss": 1.0,
        "smoothed": 1.0,
        "suggested": [True, False],
    }
    return pd.DataFrame(found | changes)


SIZES = pd.DataFrame({"width": [512, 768], "height": [496] * 2})
TOP = pd.DataFrame({"class": OCT, "probability": 0.25})
ARMS = pd.DataFrame(
    [
        {"arm": arm, "patients": n, **interval(0.7 + n / 100)}
        for arm in ("one", "two")
        for n in (5, 20)
    ]
)
DRAWS = ARMS.assign(measure=ARMS["arm"].replace({"one": "sensitivity", "two": "specificity"}))
GROUPS = pd.DataFrame({"n": [3], "accuracy": 0.6}, ["a"])
PR = {"VGG16": pr_table(binary_predictions())}
# (panels, how it is drawn); class_grid, which reads files, has its own tests
_DRAWN = (
    (1, partial(of_data.counts, table_of(COUNTS))),
    (2, partial(of_data.sizes, SIZES)),
    (1, partial(of_data.patients, table_of(COUNTS))),
    (1, partial(of_data.audit, audit_table())),
    (2, partial(of_data.split_bars, table_of(COUNTS), table_of(COUNTS))),
    (3, partial(of_images.grid, [scan()] * 3)),
    (3, partial(of_images.views, torch.zeros(3, 1, 8, 8, dtype=torch.uint8))),
    (2, partial(of_images.resizes, {"squash": scan(8, 8), "pad": scan(8, 16)})),
    (2, partial(of_images.top_k, scan(), TOP)),
    (2, partial(of_images.errors, [scan()] * 2, binary_predictions().head(2))),
    (3, partial(of_images.overlay, scan(), np.eye(3))),
    (
        8,
        partial(of_images.feature_maps, scan(), {"a": np.ones((3, 4, 4)), "b": np.eye(3)[None]}, 3),
    ),
    (2, partial(of_training.history, history_of(5))),
    (2, partial(of_training.embedding, np.eye(2), table_of({("test", "CNV"): 2}))),
    (1, partial(of_training.learning_rates, rates())),
    (1, partial(of_results.confusion, confusion_table())),
    (1, partial(of_results.roc, roc_table(binary_predictions()), threshold=0.5)),
    (1, partial(of_results.pr, PR)),
    (2, partial(of_results.calibration, calibration_table())),
    (1, partial(of_results.per_class, per_class_metrics())),
    (1, partial(of_results.intervals, {"accuracy": interval(0.9), "n": 9})),
    (1, partial(of_results.cost_against_accuracy, costs(2), "seconds")),
    (1, partial(of_results.accuracy_by, GROUPS)),
    (1, partial(of_results.accuracy_by_patients, ARMS, 0.6)),
    (1, partial(of_results.threshold_by_patients, DRAWS, 0.7, 20)),
    (1, partial(of_results.accuracy_against_count, per_class_metrics(), dict.fromkeys(OCT, 10))),
    (2, partial(of_results.stress, stress_table())),
    (2, partial(of_results.score_distribution, binary_predictions(), "PNEUMONIA", 0.5)),
)
PICTURES = {draw.func.__name__: (panels, draw) for panels, draw in _DRAWN}


def of_names(first: str, second: str) -> dict:
    """How each picture that shows names of classes, runs or groups is drawn with these two."""
    names, iv = [first, second], interval(0.8)
    found = table_of({("train", first): 3, ("train", second): 4, ("test", first): 1})
    scores = pd.DataFrame(
        {"split": "test", "label": names, f"p_{first}": [0.8, 0.3], "predicted": names[::-1]}
    )
    measured = {name: {"n": 9, "recall": iv, "precision": iv, "f1": iv} for name in names}
    cost = pd.DataFrame([{**iv, "seconds": 1.0}, {**iv, "seconds": 2.0}], names)
    roc, pr = (of(binary_predictions()) for of in (roc_table, pr_table))
    return {
        "counts": lambda: of_data.counts(found),
        "split_bars": lambda: of_data.split_bars(found, found),
        "resizes": lambda: of_images.resizes({name: scan() for name in names}),
        "grid": lambda: of_images.grid([scan()] * 2, names),
        "confusion": lambda: of_results.confusion(pd.DataFrame([[2, 1], [0, 3]], names, names)),
        "roc": lambda: of_results.roc(dict.fromkeys(names, roc)),
        "pr": lambda: of_results.pr(dict.fromkeys(names, pr)),
        "per_class": lambda: of_results.per_class(measured),
        "intervals": lambda: of_results.intervals(dict.fromkeys(names, iv)),
        "cost_against_accuracy": lambda: of_results.cost_against_accuracy(cost, "seconds"),
        "accuracy_by": lambda: of_results.accuracy_by(
            pd.DataFrame({"n": 3, "accuracy": 0.6}, names)
        ),
        "accuracy_by_patients": lambda: of_results.accuracy_by_patients(
            pd.DataFrame([{"arm": name, "patients": 5, **iv} for name in names])
        ),
        "accuracy_against_count": lambda: of_results.accuracy_against_count(
            measured, dict.fromkeys(names, 10)
        ),
        "score_distribution": lambda: of_results.score_distribution(scores, first),
        "top_k": lambda: of_images.top_k(
            scan(), pd.DataFrame({"class": names, "probability": [0.6, 0.4]}), true=second
        ),
        "errors": lambda: of_images.errors([scan()] * 2, scores),
        "overlay": lambda: of_images.overlay(scan(), np.eye(3), first),
    }


def svg(axes) -> str:
    """The picture with its texts as letters; every change of a text's look would part it."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        np.ravel(axes)[0].figure.savefig(file, format="svg")
    return html.unescape(file.getvalue())


def labels_of(ax: Axes) -> list[str]:
    return words(ax.get_legend().get_texts())
