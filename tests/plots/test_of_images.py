"""Scans are shown as they are, with the right words and colors."""

from __future__ import annotations

import shutil

import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from pictures import (
    OCT,
    binary_predictions,
    clean_figures,  # noqa: F401
    scan,
    title,
    words,
)
from PIL import Image

from tlutils.core.images import read
from tlutils.plots import of_images
from tlutils.plots.style import DARK, RIGHT, WRONG, ink


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
    axes = of_images.class_grid(records, tiny_folder, per_class=8, seed=3, caption="phantoms")
    shown = [text.get_text() for text in axes[0, 0].figure.findobj(matplotlib.text.Text)]
    assert shown.count("phantoms") == 1
    assert axes.shape == (4, 8)
    assert [row[0].texts[0].get_text() for row in axes] == OCT
    patients = {
        path.split("-")[1]
        for ax in axes[0]
        for path in records["path"]
        if np.array_equal(ax.images[0].get_array(), np.asarray(read(tiny_folder / path)))
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
    assert [ax.spines["top"].get_linewidth() for ax in axes] == [2, 0.8, 0.8]


def test_every_scan_has_a_frame_so_that_white_wedges_end_somewhere():
    figure = of_images.grid([np.full((8, 9), 255, np.uint8)])[0].figure
    figure.canvas.draw()
    shown = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    assert (shown < 160).all(axis=-1).any(axis=0).sum() > 300  # columns that hold a dark line


def test_resizes_names_each_size():
    axes = of_images.resizes(
        {"the scan": scan(10, 30), "squash": torch.zeros(1, 8, 8, dtype=torch.uint8)}
    )
    assert [title(ax) for ax in axes] == ["the scan\n30×10 pixels", "squash\n8×8 pixels"]


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
    assert colors == [ink(RIGHT), ink(WRONG)]
    with pytest.raises(ValueError, match="1 image and 2 predictions"):
        of_images.errors([scan()], rows)


def test_a_model_without_errors_is_said_to_have_none():
    none = binary_predictions().query("label != label")
    axes = of_images.errors([], none, caption="phantoms")
    assert words(axes[0].texts) == ["no errors"] and axes.shape == (1,)
    own = plt.figure().subplots(1, 4)
    assert words(of_images.errors([], none, ax=own)[0].texts) == ["no errors"]
    with pytest.raises(ValueError, match="0 images and 60 predictions"):
        of_images.errors([], binary_predictions())


def test_errors_without_a_label_are_neither_right_nor_wrong():
    rows = pd.DataFrame({"label": [None, ""], "predicted": ["CNV", "DME"]})
    axes = of_images.errors([scan()] * 2, rows)
    assert [title(ax) for ax in axes] == ["no label → CNV", "no label → DME"]
    assert {ax._left_title.get_color() for ax in axes} == {DARK}


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
    nothing = of_images.overlay(scan(), np.zeros((2, 2)))
    nothing[0].figure.canvas.draw()
    assert title(nothing[1]) == "the map, no positive evidence"
    with pytest.raises(ValueError, match="heatmap of shape \\(3, 2, 2\\)"):
        of_images.overlay(scan(), np.zeros((3, 2, 2)))


def test_overlay_leaves_places_without_a_number_uncolored():
    axes = of_images.overlay(scan(), np.array([[np.nan, 1.0], [0.0, 2.0]]))
    assert title(axes[1]) == "the map, 0 to 2, 25 % no number"
    assert axes[2].images[-1].get_alpha().tolist() == [[0, 0.35], [0, 0.7]]
    assert axes[2].images[-1].get_clim() == (0, 2)


def test_feature_maps_shows_the_scan_and_the_most_varied_maps_of_each_layer():
    flat, varied = np.ones((4, 4)), np.arange(16.0).reshape(4, 4)
    axes = of_images.feature_maps(scan(), {"conv": np.stack([flat, varied])}, channels=3)
    assert axes.shape == (4,) and np.array_equal(axes[0].images[0].get_array(), scan())
    assert np.array_equal(axes[1].images[0].get_array(), varied)
    assert title(axes[1]) == "conv\n2 of 2, 4×4" and not axes[3].images
    with pytest.raises(ValueError, match="expected maps"):
        of_images.feature_maps(scan(), {"linear": np.ones(3)})
