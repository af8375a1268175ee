"""What the pictures show is what the tables say, in colors for every eye, and no figure is left behind."""

from __future__ import annotations

import html
import io
import itertools
import shutil

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from scipy.integrate import trapezoid
from sklearn import metrics as sk

from tlutils.data.audit import audit_splits
from tlutils.evaluation import metrics as metrics_module
from tlutils.evaluation import thresholds
from tlutils.evaluation.metrics import (
    accuracy_by,
    compute_metrics,
    confusion,
    per_class_table,
)
from tlutils.plots import of_data, of_images, of_results, of_training
from tlutils.plots import style as style_module
from tlutils.plots.style import (
    DARK,
    RIGHT,
    VERDICTS,
    WRONG,
    class_colors,
    read_gray,
)

OCT = ["CNV", "DME", "DRUSEN", "NORMAL"]
COUNTS = {
    ("train", "CNV"): 7,
    ("train", "NORMAL"): 4,
    ("val", "CNV"): 1,
    ("test", "CNV"): 2,
    ("test", "NORMAL"): 3,
}

# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
EYES = {
    "full color": np.eye(3),
    "no red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.fixture(autouse=True)
def closed_figures():
    style_module.style()
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


# name -> (panels, how it is drawn); class_grid, which reads files, has its own tests
PICTURES = {
    "counts": (1, lambda **o: of_data.counts(table_of(COUNTS), **o)),
    "sizes": (
        2,
        lambda **o: of_data.sizes(pd.DataFrame({"width": [512, 768], "height": [496] * 2}), **o),
    ),
    "patients": (1, lambda **o: of_data.patients(table_of(COUNTS), **o)),
    "audit": (1, lambda **o: of_data.audit(audit_table(), **o)),
    "split_bars": (2, lambda **o: of_data.split_bars(table_of(COUNTS), table_of(COUNTS), **o)),
    "grid": (3, lambda **o: of_images.grid([scan()] * 3, **o)),
    "views": (3, lambda **o: of_images.views(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), **o)),
    "fits": (2, lambda **o: of_images.resizes({"squash": scan(8, 8), "pad": scan(8, 16)}, **o)),
    "history": (2, lambda **o: of_training.history(history_of(5), **o)),
    "learning_rates": (
        1,
        lambda **o: of_training.learning_rates(
            pd.DataFrame(
                {
                    "learning_rate": [1e-3, 1e-2],
                    "loss": 1.0,
                    "smoothed": 1.0,
                    "suggested": [True, False],
                }
            ),
            **o,
        ),
    ),
    "confusion": (1, lambda **o: of_results.confusion(confusion_table(), **o)),
    "roc": (1, lambda **o: of_results.roc(roc_table(binary_predictions()), threshold=0.5, **o)),
    "pr": (1, lambda **o: of_results.pr({"VGG16": pr_table(binary_predictions())}, share=0.6, **o)),
    "calibration": (2, lambda **o: of_results.calibration(calibration_table(), **o)),
    "per_class": (1, lambda **o: of_results.per_class(per_class_metrics(), **o)),
    "intervals": (1, lambda **o: of_results.intervals({"accuracy": interval(0.9), "n": 9}, **o)),
    "compare": (
        1,
        lambda **o: of_results.compare(pd.DataFrame([{"name": "a", **interval(0.9)}]), **o),
    ),
    "cost_against_accuracy": (
        1,
        lambda **o: of_results.cost_against_accuracy(costs(2), "seconds", **o),
    ),
    "accuracy_by": (
        1,
        lambda **o: of_results.accuracy_by(pd.DataFrame({"n": [3], "accuracy": 0.6}, ["a"]), **o),
    ),
    "accuracy_against_count": (
        1,
        lambda **o: of_results.accuracy_against_count(
            per_class_metrics(), dict.fromkeys(OCT, 10), **o
        ),
    ),
    "score_distribution": (
        2,
        lambda **o: of_results.score_distribution(binary_predictions(), "PNEUMONIA", 0.5, **o),
    ),
    "top_k": (
        2,
        lambda **o: of_images.top_k(scan(), pd.DataFrame({"class": OCT, "probability": 0.25}), **o),
    ),
    "errors": (2, lambda **o: of_images.errors([scan()] * 2, binary_predictions().head(2), **o)),
    "overlay": (3, lambda **o: of_images.overlay(scan(), np.eye(3), **o)),
}


@pytest.fixture(params=PICTURES)
def picture(request):
    return PICTURES[request.param]


def test_every_picture_is_drawn_here():
    public = {
        name
        for module in (of_data, of_images, of_results, of_training)
        for name, thing in vars(module).items()
        if callable(thing)
        and not name.startswith("_")
        and getattr(thing, "__module__", "") == module.__name__
    }
    assert public - {"read_gray", "class_grid"} == set(PICTURES)


def test_a_picture_is_axes_in_a_figure_of_notebook_width(picture):
    panels, draw = picture
    axes = draw()
    assert isinstance(axes, Axes) if panels == 1 else axes.shape == (panels,)
    figure = np.ravel(axes)[0].figure
    figure.canvas.draw()
    assert 400 < figure.get_figwidth() * figure.dpi <= 1000


def test_given_axes_are_used_and_no_figure_is_opened(picture):
    panels, draw = picture
    figure, own = plt.subplots(1, panels, squeeze=False)
    before = plt.get_fignums()
    axes = draw(ax=own.ravel() if panels > 1 else own[0, 0])
    assert np.ravel(axes).tolist() == own.ravel().tolist()
    assert plt.get_fignums() == before and figure.axes == own.ravel().tolist()


def test_the_caption_is_under_the_picture_once(picture):
    figure = np.ravel(picture[1](caption="phantom data, random weights"))[0].figure
    assert words(figure.findobj(matplotlib.text.Text)).count("phantom data, random weights") == 1


def test_the_caption_stands_below_given_axes_among_others():
    figure, (left, _) = plt.subplots(1, 2)
    ax = of_data.counts(table_of(COUNTS), ax=left, caption="phantoms")
    figure.canvas.draw()
    (caption,) = (text for text in ax.texts if text.get_text() == "phantoms")
    assert caption.get_window_extent().y1 <= ax.xaxis.get_tightbbox().y0 + 2


def test_no_picture_shows_itself(picture, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *a, **k: pytest.fail("a picture called plt.show"))
    picture[1]()


def test_too_few_axes_are_refused():
    with pytest.raises(ValueError, match="found 1 Axes; this picture needs 2"):
        of_training.history(history_of(3), ax=plt.figure().add_subplot())


def test_a_table_without_a_column_is_refused_by_name():
    with pytest.raises(ValueError, match="lacks fpr"):
        of_results.roc(pd.DataFrame({"x": [1], "tpr": [1]}))


def test_a_class_has_the_same_color_in_every_picture():
    alone, among = class_colors(["NORMAL"]), class_colors(OCT)
    assert alone["NORMAL"] == among["NORMAL"] == class_colors(["PNEUMONIA", "normal"])["normal"]
    bars = of_data.counts(table_of(COUNTS)).containers
    shares = of_data.split_bars(table_of(COUNTS), table_of(COUNTS))[1].containers
    dots = of_results.per_class(per_class_metrics()).lines
    assert (
        to_hex(bars[1][0].get_facecolor())
        == to_hex(shares[1][0].get_facecolor())
        == among["NORMAL"]
    )
    assert to_hex(dots[-1].get_color()) == among["NORMAL"]


def test_unknown_classes_have_colors_of_their_own_whatever_their_order():
    names = ["tumour", "stroma", "NORMAL", "fat"]
    colors = class_colors(names)
    assert list(colors) == names and len(set(colors.values())) == 4
    assert class_colors(reversed(names)) == colors
    assert len(class_colors(map(str, range(30)))) == 30


def lab(color: str, eye: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of a color as this eye sees it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(xyz @ np.clip(np.array(eye) @ linear, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize(
    "colors",
    [
        class_colors(OCT),
        class_colors(["NORMAL", "PNEUMONIA"]),
        class_colors(["NORMAL", "bacteria", "virus"]),
        VERDICTS,
    ],
)
def test_colors_differ_for_every_kind_of_eye(colors, eye):
    seen = [lab(color, EYES[eye]) for color in colors.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_counts_has_a_bar_for_each_class_and_split_as_high_as_its_count():
    ax = of_data.counts(table_of(COUNTS))
    assert len(ax.patches) == 2 * 3
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
    assert heights == [[7, 1, 2], [4, 0, 3]]
    assert set(words(ax.texts)) == {"7", "1", "2", "4", "0", "3"}
    assert words(ax.get_xticklabels()) == ["train\n11 images", "val\n1 image", "test\n5 images"]


def test_counts_without_splits_or_with_one_class():
    ax = of_data.counts(table_of({("", "CNV"): 3}))
    assert ax.get_xticklabels()[0].get_text() == "no split\n3 images"
    assert title(ax) == "3 images: all CNV"


def test_counts_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no records"):
        of_data.counts(table_of({}))


def test_sizes_shows_each_size_once_and_leaves_out_images_without():
    sides = pd.DataFrame({"width": [512, 512, 768, None], "height": [496, 496, 496, None]}).astype(
        "Int64"
    )
    left, right = of_data.sizes(sides)
    assert sorted(left.collections[0].get_offsets().tolist()) == [[512, 496], [768, 496]]
    assert title(left) == "3 images, 2 sizes, 67 % are 512×496"
    for line in right.lines:
        assert trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match="none of the 1 records"):
        of_data.sizes(sides.tail(1))


def test_patients_counts_those_who_are_known():
    ax = of_data.patients(pd.DataFrame({"patient": [*"aabc", *["d"] * 12, "?x"]}))
    assert [bar.get_height() for bar in ax.patches] == [2, 1, 0, 0, 0, 1]
    assert ax.get_xticklabels()[-1].get_text() == "10–12"
    assert "4 patients, 1 to 12" in title(ax) and "1 image of unknown" in title(ax)
    assert "none of 1 image" in title(of_data.patients(pd.DataFrame({"patient": ["?x"]})))


def test_audit_bars_are_the_shares_in_the_colors_of_the_verdicts():
    ax = of_data.audit(audit_table())
    assert [bar.get_width() for bar in ax.patches] == audit_table()["share"].tolist()
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == list(VERDICTS.values())
    assert words(ax.texts) == ["leak: 835 of 968 (86 %)", "warning: 288 of 968 (30 %)", "ok"]
    assert title(ax) == "The audit found 1 leak and 1 warning in 3 checks"


def test_split_bars_fill_each_split_and_name_one_that_is_missing():
    only_train = table_of({("train", "CNV"): 3, ("train", "NORMAL"): 1})
    before, after = of_data.split_bars(only_train, table_of(COUNTS))
    assert [bars[0].get_width() for bars in before.containers] == [0.75, 0.25]
    assert words(before.get_yticklabels()) == ["train\nn = 4", "val\nn = 0", "test\nn = 0"]
    ends = [bar.get_x() + bar.get_width() for bar in after.containers[-1]]
    assert ends == pytest.approx([1, 1, 1])


def test_grid_takes_pictures_of_any_kind_and_size():
    images = [
        scan(),
        torch.zeros(1, 9, 7, dtype=torch.uint8),
        np.zeros((3, 8, 8), np.uint8),
        Image.fromarray(scan()),
        np.zeros((6, 5, 3), np.uint8),
    ]
    axes = of_images.grid(
        images, titles=pd.Series(["a", "b", "c", "d", "e"]), colors=["#ff0000"] * 5, columns=3
    )
    assert [ax.images[0].get_array().shape[:2] for ax in axes] == [
        (12, 16),
        (9, 7),
        (8, 8),
        (12, 16),
        (6, 5),
    ]
    assert [title(ax) for ax in axes] == list("abcde")
    assert np.array_equal(axes[0].images[0].get_array(), scan()) and axes[0].images[
        0
    ].get_clim() == (0, 255)
    assert len(axes[0].figure.axes) == 5


def test_normalized_pictures_and_no_pictures_are_refused():
    with pytest.raises(ValueError, match="float32.*before normalize"):
        of_images.grid([torch.zeros(3, 8, 8)])
    with pytest.raises(ValueError, match="no pictures"):
        of_images.grid([])


def records_of(folder) -> pd.DataFrame:
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpeg"))
    parts = [path.split("/") for path in paths]
    return pd.DataFrame(
        {
            "path": paths,
            "split": [p[0] for p in parts],
            "label": [p[1] for p in parts],
            "patient": [p[2].split("-")[1] for p in parts],
        }
    )


def test_class_grid_shows_different_patients_the_same_for_the_same_seed(tiny_folder):
    records = records_of(tiny_folder)
    axes = of_images.class_grid(records, tiny_folder, per_class=8, seed=3)
    assert axes.shape == (4, 8)
    assert [row[0].texts[0].get_text() for row in axes] == OCT
    patients = {
        path.split("-")[1]
        for ax in axes[0]
        for path in records["path"]
        if np.array_equal(ax.images[0].get_array(), read_gray(tiny_folder / path))
    }
    assert len(patients) == 8
    again, other = (
        of_images.class_grid(records, tiny_folder, per_class=8, seed=seed) for seed in (3, 4)
    )
    first, again, other = (
        np.stack([ax.images[0].get_array() for ax in drawn.flat]) for drawn in (axes, again, other)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_class_grid_leaves_out_what_cannot_be_read(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "copy")
    records = records_of(folder)
    for path in records.loc[records["label"] == "DME", "path"].iloc[1:]:
        (folder / path).write_bytes(b"no image")
    axes = of_images.class_grid(records, folder, per_class=3)
    assert [len(ax.images) for ax in axes[1]] == [1, 0, 0]
    assert [len(ax.images) for ax in axes[0]] == [1, 1, 1]


@pytest.mark.real
def test_class_grid_of_real_scans_of_unequal_sizes(real_data):
    root = real_data / "oct_samples"
    paths = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.jp*g"))]
    records = pd.DataFrame(
        {"path": paths, "label": [path.split("/")[0] for path in paths], "patient": paths}
    )
    axes = of_images.class_grid(records, root, per_class=5)
    assert len({ax.images[0].get_array().shape for ax in axes.flat}) > 1


def test_the_first_of_the_views_is_the_framed_original():
    axes = of_images.views(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert [title(ax) for ax in axes] == ["the image itself", "view 0", "view 1"]
    assert [ax.spines["top"].get_visible() for ax in axes] == [True, False, False]


def test_fits_names_each_size():
    axes = of_images.resizes(
        {"the scan": scan(10, 30), "squash": torch.zeros(1, 8, 8, dtype=torch.uint8)}
    )
    assert [title(ax) for ax in axes] == ["the scan\n30×10 pixels", "squash\n8×8 pixels"]


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


def test_confusion_shows_counts_and_shares_of_the_row():
    ax = of_results.confusion(confusion_table())
    assert words(ax.texts) == ["118\n50 %", "116\n50 %", "1\n<1 %", "389\n>99 %"]
    assert words(ax.get_yticklabels()) == ["NORMAL\nn = 234", "PNEUMONIA\nn = 390"]
    assert title(ax) == "507 of 624 right (81 %)"
    assert ax.get_aspect() == 1


def test_confusion_with_one_class_or_a_class_without_images():
    assert (
        of_results.confusion(pd.DataFrame([[3]], ["CNV"], ["CNV"])).texts[0].get_text()
        == "3\n100 %"
    )
    empty_row = pd.DataFrame([[2, 1], [0, 0]], ["CNV", "DME"], ["CNV", "DME"])
    assert words(of_results.confusion(empty_row).texts)[2:] == ["0\n0 %", "0\n0 %"]


def labels_of(ax: Axes) -> list[str]:
    return words(ax.get_legend().get_texts())


def test_areas_that_are_not_given_are_those_of_scikit_learn():
    predictions = binary_predictions()
    truth, score = predictions["label"] == "PNEUMONIA", predictions["p_PNEUMONIA"]
    assert labels_of(of_results.roc(roc_table(predictions))) == [
        f"AUC {sk.roc_auc_score(truth, score):.3f}"
    ]
    expected = sk.average_precision_score(truth, score)
    assert labels_of(of_results.pr(pr_table(predictions))) == [f"AP {expected:.3f}"]
    upside_down = pr_table(predictions).iloc[::-1].reset_index(drop=True)
    assert labels_of(of_results.pr(upside_down)) == labels_of(of_results.pr(pr_table(predictions)))


def test_curves_carry_names_colors_and_given_areas():
    curves = {
        "NORMAL": roc_table(binary_predictions(0)),
        "PNEUMONIA": roc_table(binary_predictions(1)),
    }
    ax = of_results.roc(
        curves, auc={"NORMAL": {"value": 0.9, "low": 0.8, "high": 0.95}, "PNEUMONIA": 0.7}
    )
    assert labels_of(ax) == ["NORMAL  AUC 0.900 (0.800–0.950)", "PNEUMONIA  AUC 0.700"]
    assert [line.get_color() for line in ax.lines[1:]] == list(class_colors(curves).values())


def test_the_threshold_is_marked_where_the_model_works():
    curve = pd.DataFrame({"fpr": [0, 0.1, 1], "tpr": [0, 0.8, 1], "threshold": [np.inf, 0.5, 0.1]})
    marks = [
        line for line in of_results.roc(curve, threshold=0.45).lines if line.get_marker() == "o"
    ]
    assert (marks[0].get_xdata()[0], marks[0].get_ydata()[0]) == (0.1, 0.8)


def test_calibration_bars_are_the_counts_and_the_gap_is_the_ece():
    upper, lower = of_results.calibration(calibration_table())
    assert [bar.get_height() for bar in lower.patches] == [10, 20, 70]
    assert upper.lines[-1].get_ydata().tolist() == [0.25, 0.5, 0.8]
    # 0.1 * 0.05 + 0.2 * 0.1 + 0.7 * 0.1
    assert title(upper) == "78 % sure, 68 % right; mean gap 0.095 (ECE)"
    of_results.calibration(calibration_table().drop(columns=["low", "high"]).assign(n=[0, 0, 5]))


def test_per_class_has_three_dots_a_class_at_the_values():
    found = {"n": 5, "recall": interval(0.9), "precision": interval(0.7), "f1": interval(0.8)}
    ax = of_results.per_class({"CNV": found})
    assert [line.get_xdata()[0] for line in ax.lines] == [0.9, 0.7, 0.8]
    assert ax.texts[0].get_text() == "0.900 (0.850–0.950)"
    assert ax.get_yticklabels()[0].get_text() == "CNV\nn = 5"


@pytest.mark.parametrize(
    "missing", [None, dict.fromkeys(("value", "low", "high")), {"value": float("nan")}]
)
def test_a_measure_that_is_not_known_is_said_and_not_drawn(missing):
    ax = of_results.per_class(
        {"CNV": {"n": 0, "recall": missing, "precision": missing, "f1": missing}}
    )
    assert words(ax.texts) == ["not known"] * 3
    assert all(np.isnan(line.get_xdata()).all() for line in ax.lines)


def test_intervals_takes_the_metrics_of_a_split_as_they_are():
    metrics = {
        "n": 9,
        "classes": OCT,
        "balanced_accuracy": interval(0.9),
        "auc": interval(None),
        "per_class": {"CNV": {}},
    }
    ax = of_results.intervals(metrics)
    assert words(ax.get_yticklabels()) == ["balanced accuracy", "AUC"]
    assert words(ax.texts) == ["0.900 (0.850–0.950)", "not known"]
    with pytest.raises(ValueError, match="metrics\\['test'\\]"):
        of_results.intervals({"test": {"accuracy": interval(0.9)}})


def test_compare_names_the_highest_run():
    table = pd.DataFrame(
        [
            {"name": "vgg16", **interval(0.8)},
            {"name": "resnet18", **interval(0.9)},
            {"name": "died", **interval(np.nan)},
        ]
    )
    ax = of_results.compare(table, measure="AUC")
    assert title(ax) == "Highest AUC: resnet18, 0.900 (0.850–0.950)"
    assert len({line.get_color() for line in ax.lines}) == 3


def test_accuracy_by_shows_n_and_stops_after_thirty_groups():
    table = pd.DataFrame(
        {"n": range(1, 41), "accuracy": 0.5, "low": 0.4, "high": 0.6},
        pd.Index(range(40), name="width"),
    )
    ax = of_results.accuracy_by(table)
    assert len(ax.lines) == 30 and ax.get_yticklabels()[1].get_text() == "1  (n = 2)"
    assert title(ax) == "Accuracy by width, the first 30 of 40"


@pytest.mark.parametrize("as_table", [False, True])
def test_accuracy_against_count_puts_each_class_at_its_count(as_table):
    per_class = {
        name: {"n": 9, "recall": interval(value)} for name, value in zip(OCT, (0.9, 0.8, 0.7, None))
    }
    if as_table:
        per_class = pd.DataFrame({"n": 9, "top-1 (recall)": [0.9, 0.8, 0.7, np.nan]}, OCT)
    ax = of_results.accuracy_against_count(per_class, {"CNV": 37205, "DME": 11348, "DRUSEN": 8616})
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines[:3]] == [
        (37205, 0.9),
        (11348, 0.8),
        (8616, 0.7),
    ]
    assert words(ax.texts) == OCT[:3]


def test_score_distribution_has_a_panel_for_each_split_and_shares_that_sum_to_one():
    predictions = binary_predictions()
    axes = of_results.score_distribution(predictions, "PNEUMONIA", threshold=0.4)
    assert [title(ax) for ax in axes] == ["val: 20 images", "test: 40 images"]
    assert [line.get_xdata()[0] for line in axes[0].lines] == [0.4]
    n = (predictions.query("split == 'val'")["label"] == "NORMAL").sum()
    assert f"NORMAL (n = {n})" in labels_of(axes[0])
    for ax in axes:
        for outline in (patch.get_xy() for patch in ax.patches):
            area = trapezoid(outline[:, 1], outline[:, 0])  # 20 bins of width 0.05
            assert abs(area) / 0.05 == pytest.approx(1)


def test_score_distribution_of_one_split_and_one_class():
    one = binary_predictions().query("split == 'test' and label == 'NORMAL'")
    assert len(of_results.score_distribution(one, "PNEUMONIA")) == 1


@pytest.mark.parametrize(
    ("true", "says", "color"),
    [
        (None, "The model says CNV", RIGHT),
        ("CNV", "The model says CNV, right", RIGHT),
        ("DME", "The model says CNV, wrong", WRONG),
    ],
)
def test_top_k_says_whether_the_answer_is_right(true, says, color):
    table = pd.DataFrame({"class": ["CNV", "DME"], "probability": [0.7, 0.3]})
    left, right = of_images.top_k(torch.from_numpy(scan())[None], table, true=true)
    assert title(right) == says
    assert [bar.get_width() for bar in right.patches] == [0.7, 0.3]
    assert to_hex(right.patches[0].get_facecolor()) == color
    assert np.array_equal(left.images[0].get_array(), scan())


def test_errors_are_colored_by_right_and_wrong_and_tell_the_probability():
    rows = pd.DataFrame(
        {
            "label": ["CNV", "CNV"],
            "predicted": ["CNV", "DME"],
            "p_CNV": [0.9, 0.2],
            "p_DME": [0.1, 0.8],
        }
    )
    axes = of_images.errors([scan()] * 2, rows)
    assert [title(ax) for ax in axes] == [
        "CNV → CNV\nprobability 90 %",
        "CNV → DME\nprobability 80 %",
    ]
    colors = [ax._left_title.get_color() for ax in axes]
    assert colors == [RIGHT, WRONG]
    with pytest.raises(ValueError, match="1 images and 2 predictions"):
        of_images.errors([scan()], rows)


def test_overlay_stretches_the_map_over_the_scan():
    heat = torch.tensor([[0.0, 0.5], [0.25, 1.0]], requires_grad=True)
    axes = of_images.overlay(scan(12, 16), heat, title="CNV, said DME")
    assert title(axes[0]) == "CNV, said DME"
    for ax in axes[1:]:
        assert ax.images[-1].get_extent() == ax.images[0].get_extent()
        assert np.allclose(ax.images[-1].get_array(), heat.detach())
    assert axes[2].images[-1].get_alpha()[0, 0] == 0 < axes[2].images[-1].get_alpha()[1, 1] < 1


def test_overlay_of_a_signed_map_has_nothing_in_the_middle():
    image = of_images.overlay(scan(), np.array([[[-0.5, 0.25]]]))[1].images[-1]
    assert image.get_clim() == (-0.5, 0.5)
    of_images.overlay(scan(), np.zeros((2, 2)))[0].figure.canvas.draw()
    with pytest.raises(ValueError, match="heatmap of shape \\(3, 2, 2\\)"):
        of_images.overlay(scan(), np.zeros((3, 2, 2)))


def test_the_pictures_take_what_splits_and_evaluation_give():
    records = table_of(COUNTS).assign(path=lambda t: t.index.astype(str) + ".jpeg")
    assert len(of_data.audit(audit_splits(records)).patches) == len(audit_splits(records))
    rows = binary_predictions().query("split == 'test'").reset_index(drop=True)
    rows = rows.assign(path=rows.index.astype(str), patient=rows.index.astype(str), loss=0.5)
    found = compute_metrics(rows, repeats=20)
    of_results.intervals(found)
    of_results.per_class(found["per_class"])
    of_results.accuracy_against_count(per_class_table(rows), {"NORMAL": 5, "PNEUMONIA": 9})
    of_results.confusion(confusion(rows))
    assert labels_of(of_results.roc(thresholds.roc(rows, "PNEUMONIA"))) == [
        f"AUC {found['auc']['value']:.3f}"
    ]
    of_results.pr(thresholds.pr(rows, "PNEUMONIA"), threshold=0.5)
    upper, _ = of_results.calibration(metrics_module.calibration_table(rows))
    assert f"{found['ece']:.3f} (ECE)" in title(upper)
    assert title(of_results.accuracy_by(accuracy_by(rows, "label"))) == "Accuracy by label"


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
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "suggested 0.0001",
        "used 0.001",
    ]
    assert ax.get_xscale() == "log" and ax.get_ylim()[1] <= 1.1 * 4


def test_cost_against_accuracy_puts_each_model_at_its_cost_and_leaves_none_out():
    ax = of_results.cost_against_accuracy(costs(12), "seconds")
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines] == [
        (10.0 * (i + 1), 0.7 + i / 100) for i in range(12)
    ]
    assert labels_of(ax) == costs(12).index.tolist() and ax.get_xlim()[0] == 0
    with pytest.raises(ValueError, match="lacks watts"):
        of_results.cost_against_accuracy(costs(2), "watts")


def test_the_legend_of_the_costs_covers_no_interval():
    ax = of_results.cost_against_accuracy(costs(2), "seconds")
    ax.figure.canvas.draw()
    assert not ax.get_legend().get_window_extent().overlaps(ax.get_window_extent())


def test_a_model_has_the_same_color_in_both_comparisons():
    table = costs(3).iloc[::-1]
    cost, forest = (
        of_results.cost_against_accuracy(table, "seconds"),
        of_results.compare(table.rename_axis("name").reset_index()),
    )
    assert [line.get_color() for line in cost.lines] == [line.get_color() for line in forest.lines]


def test_a_model_whose_accuracy_is_not_known_hides_no_other():
    table = costs(2).astype(object)
    table.loc["model 1", ["value", "low", "high"]] = None
    ax = of_results.cost_against_accuracy(table, "seconds")
    assert [np.isnan(line.get_ydata()[0]) for line in ax.lines] == [False, True]


# Names as people give them


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
        "fits": lambda: of_images.resizes({name: scan() for name in names}),
        "grid": lambda: of_images.grid([scan()] * 2, names),
        "views": lambda: of_images.views([scan()] * 2, names),
        "confusion": lambda: of_results.confusion(pd.DataFrame([[2, 1], [0, 3]], names, names)),
        "roc": lambda: of_results.roc(dict.fromkeys(names, roc)),
        "pr": lambda: of_results.pr(dict.fromkeys(names, pr)),
        "per_class": lambda: of_results.per_class(measured),
        "intervals": lambda: of_results.intervals(dict.fromkeys(names, iv)),
        "compare": lambda: of_results.compare(
            pd.DataFrame([{"name": name, **iv} for name in names])
        ),
        "cost_against_accuracy": lambda: of_results.cost_against_accuracy(cost, "seconds"),
        "accuracy_by": lambda: of_results.accuracy_by(
            pd.DataFrame({"n": 3, "accuracy": 0.6}, names)
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


@pytest.mark.parametrize(
    "name",
    [
        "CN$V_1$",
        "$x^$",
        "_CNV",
        "a<b>&c",
        "CNV^2 {x}",
        "\\alpha",
        "Сетчатка",
        "網膜",
        "eye 👁",
        "50 %",
    ],
)
@pytest.mark.filterwarnings("ignore:Glyph.*missing")
def test_a_name_is_drawn_as_it_is(name):
    for picture, draw in of_names(name, "$other$").items():
        shown = svg(draw())
        assert name in shown and ("$other$" in shown or picture == "overlay"), picture
        plt.close("all")


def test_a_name_of_lines_is_one_line_and_a_long_one_keeps_both_ends():
    long = "cell " + "very " * 60 + "long"
    for picture, draw in of_names("two\nlines", long).items():
        if picture not in ("grid", "views", "overlay"):  # whose titles are the caller's text
            shown = svg(draw())
            assert (
                "two lines" in shown
                and "cell very" in shown
                and "long" in shown
                and long not in shown
            ), picture
        plt.close("all")


@pytest.mark.parametrize("style", [style_module.style, matplotlib.rcdefaults])
def test_a_dollar_is_no_formula_in_any_look(style):
    style()
    assert "from $3 to $4" in svg(of_images.grid([scan()], ["from $3 to $4"], caption="a $x$"))
    assert "0.001" in svg(PICTURES["learning_rates"][1]()) and "mathdefault" not in svg(
        PICTURES["learning_rates"][1]()
    )


def fifty() -> list[str]:
    return [
        f"class number {i:02d} of many, which has a rather long name {i:02d}" for i in range(50)
    ]


@pytest.mark.filterwarnings("error:constrained_layout")
def test_fifty_long_names_leave_room_for_the_picture():
    names, iv = fifty(), interval(0.8)
    found = pd.DataFrame(
        {"split": np.resize(["train", "val", "test"], 500), "label": np.repeat(names, 10)}
    )
    measured = {name: {"n": 9, "recall": iv, "precision": iv, "f1": iv} for name in names}
    pictures = {
        "counts": lambda: of_data.counts(found),
        "split_bars": lambda: of_data.split_bars(found, found),
        "confusion": lambda: of_results.confusion(
            pd.DataFrame(np.eye(50, dtype=int), names, names)
        ),
        "roc": lambda: of_results.roc(dict.fromkeys(names, roc_table(binary_predictions()))),
        "cost": lambda: of_results.cost_against_accuracy(costs(50).set_axis(names), "seconds"),
        "count": lambda: of_results.accuracy_against_count(
            measured, {name: 10 * i for i, name in enumerate(names)}
        ),
        "by": lambda: of_results.accuracy_by(pd.DataFrame({"n": 3, "accuracy": 0.5}, names)),
    }
    for picture, draw in pictures.items():
        axes = np.ravel(draw())
        axes[0].figure.canvas.draw()
        box, inches = axes[0].get_window_extent(), axes[0].figure.get_size_inches()
        assert box.width > 150 and box.height > 80, picture
        assert inches[0] <= 10 and inches[1] <= 12 and len(axes[0].texts) < 300, picture
        plt.close("all")


# What is not there


def test_a_model_without_errors_is_said_to_have_none():
    none = binary_predictions().query("label != label")
    axes = of_images.errors([], none, caption="phantoms")
    assert words(axes[0].texts) == ["no errors"] and axes.shape == (1,)
    own = plt.figure().subplots(1, 4)
    assert words(of_images.errors([], none, ax=own)[0].texts) == ["no errors"]
    with pytest.raises(ValueError, match="0 images and 60 predictions"):
        of_images.errors([], binary_predictions())


@pytest.mark.parametrize(
    "empty",
    [
        lambda: of_data.audit(audit_table()[:0]),
        lambda: of_training.history(history_of(3)[:0]),
        lambda: of_results.per_class({}),
        lambda: of_training.learning_rates(
            pd.DataFrame(columns=["learning_rate", "loss", "smoothed", "suggested"])
        ),
        lambda: of_results.confusion(pd.DataFrame()),
        lambda: of_results.roc({}),
        lambda: of_results.roc(roc_table(binary_predictions())[:0]),
        lambda: of_results.calibration(calibration_table()[:0]),
        lambda: of_results.accuracy_against_count({}, {}),
        lambda: of_results.compare(pd.DataFrame(columns=["name", "value", "low", "high"])),
        lambda: of_results.cost_against_accuracy(costs(1)[:0], "seconds"),
        lambda: of_images.views([]),
        lambda: of_images.resizes({}),
        lambda: of_results.accuracy_by(pd.DataFrame({"n": [], "accuracy": []})),
        lambda: of_images.grid([np.zeros((0, 5), np.uint8)]),
        lambda: of_results.score_distribution(binary_predictions()[:0], "PNEUMONIA"),
        lambda: of_images.overlay(scan(), np.zeros((0, 2))),
        lambda: of_images.top_k(scan(), pd.DataFrame({"class": [], "probability": []})),
        lambda: of_images.class_grid(table_of({}).assign(path=""), "."),
    ],
)
def test_nothing_to_draw_is_refused_in_words(empty):
    with pytest.raises(
        ValueError, match="(there are|there is|found|none of).*(no |nothing|counts|shape|label)"
    ):
        empty()


@pytest.mark.parametrize(
    "drawn",
    [
        lambda: of_data.audit(audit_table().assign(share=np.nan)),
        lambda: of_data.patients(pd.DataFrame({"patient": [None, "", "?"]})),
        lambda: of_training.learning_rates(
            pd.DataFrame(
                {
                    "learning_rate": [1e-3, 1e-2],
                    "loss": np.nan,
                    "smoothed": np.nan,
                    "suggested": [False, False],
                }
            )
        ),
        lambda: of_results.calibration(calibration_table().assign(accuracy=np.nan)),
        lambda: of_results.compare(
            pd.DataFrame([{"name": "a", "value": None, "low": None, "high": None}])
        ),
        lambda: of_results.score_distribution(
            binary_predictions().assign(label=[None, *["NORMAL"] * 59]), "PNEUMONIA"
        ),
        lambda: of_images.top_k(scan(), pd.DataFrame({"class": ["a", "b"], "probability": np.nan})),
        lambda: of_results.roc(
            roc_table(binary_predictions()).assign(threshold=np.nan), threshold=0.5
        ),
        lambda: of_images.errors(
            [scan()], binary_predictions()[:1].assign(p_NORMAL=np.nan, p_PNEUMONIA=np.nan)
        ),
        lambda: of_images.overlay(scan(), np.full((2, 2), np.nan)),
        lambda: of_images.overlay(scan(), np.array([[np.inf, 1], [0, 2]])),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_not_known_stops_no_picture(drawn):
    np.ravel(drawn())[0].figure.canvas.draw()


def test_overlay_leaves_places_without_a_number_uncolored():
    axes = of_images.overlay(scan(), np.array([[np.nan, 1.0], [0.0, 2.0]]))
    assert title(axes[1]) == "the map, 0 to 2, 25 % no number"
    assert axes[2].images[-1].get_alpha().tolist() == [[0, 0.35], [0, 0.7]]
    assert axes[2].images[-1].get_clim() == (0, 2)


def test_errors_without_a_label_are_neither_right_nor_wrong():
    rows = pd.DataFrame({"label": [None, ""], "predicted": ["CNV", "DME"]})
    axes = of_images.errors([scan()] * 2, rows)
    assert [title(ax) for ax in axes] == ["no label → CNV", "no label → DME"]
    assert {ax._left_title.get_color() for ax in axes} == {DARK}


def test_a_normalized_confusion_is_not_taken_for_counts():
    with pytest.raises(ValueError, match="not normalized"):
        of_results.confusion(confusion_table() / 400)
