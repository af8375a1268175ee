"""Pictures: a table or an array in, matplotlib Axes out.

Every function draws into `ax` (one Axes, or as many as the picture has panels) or, where it is None, makes a
figure as wide as a notebook page; none shows or saves it. One panel comes back as an Axes, several as an
array of Axes. A `caption` is a small grey line under the picture for what a reader must know: phantom data,
random weights, the split. Call `style()` once at the top of a notebook.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .style import (
    BLUE,
    DARK,
    GREY,
    LIGHT,
    RIGHT,
    WIDTH,
    WRONG,
    Panels,
    Several,
    _array,
    _caption,
    _label,
    _name,
    _need,
    _panels,
    _percent,
    _rows,
    _wrapped,
    class_colors,
    read_gray,
)

Pictures = Iterable[Any]  # uint8 tensors, arrays or PIL images: (H, W), (1 or 3, H, W), (H, W, 3)


def grid(
    images: Pictures,
    titles: Iterable[str] | None = None,
    colors: Iterable[str] | None = None,
    columns: int = 4,
    ax: Several = None,
    caption: str = "",
) -> Panels:
    """Pictures in rows, each in its own shape, with a title and its color.

    Parameters
    ----------
    images : uint8 (N, C, H, W), or any number of uint8 tensors or arrays (H, W), (1 or 3, H, W) or (H, W, 3).
    titles, colors : one for each picture.

    Raises ValueError for pictures that are no uint8: show them before `augment.normalize`.
    Taught in notebook 01.
    """
    images = [_pixels(image) for image in images]
    if not images:
        raise ValueError("there are no pictures to show; pass at least one")
    columns = min(columns, len(images))
    titles = [
        _wrapped(title, 104 // columns)
        for title in ([""] * len(images) if titles is None else titles)
    ]
    colors = [DARK] * len(images) if colors is None else colors
    wide = np.array([image.shape[1] / image.shape[0] for image in images])
    one_row = {"width_ratios": wide} if len(images) == columns else {}
    tall = min(WIDTH / wide.sum() if one_row else WIDTH / columns / np.median(wide), 4)
    lines = max(title.count("\n") + 1 if title else 0 for title in titles)
    tall = (tall + 0.17 * lines + 0.05) * -(-len(images) // columns) + 0.25 * bool(caption)
    axes = _panels(len(images), columns, ax, tall, **one_row)
    for ax, image, title, color in zip(axes, images, titles, colors, strict=True):
        _show(ax, image, title, color)
    _caption(axes, caption)
    return axes


def class_grid(
    records: pd.DataFrame,
    root: str | Path,
    per_class: int = 4,
    seed: int = 0,
    ax: Several = None,
    caption: str = "",
) -> Panels:
    """A row of scans for each class, drawn by the seed, of as many different patients as there are.

    Unreadable files are left out; a class with too few others has empty places. The array of Axes has the
    shape (classes, per_class). Taught in notebook 01.
    """
    colors = class_colors(sorted(records["label"].dropna().unique()))
    if not colors:
        raise ValueError(
            f"none of the {len(records)} records has a label; look at where they come from"
        )
    rows = [
        _some_of(records[records["label"] == name], Path(root), per_class, seed) for name in colors
    ]
    shape = np.median([image.shape[0] / image.shape[1] for row in rows for image in row] or [1])
    tall = (shape * WIDTH / per_class + 0.05) * len(rows) + 0.25 * bool(caption)
    axes = _panels(len(rows) * per_class, per_class, ax, tall).reshape(len(rows), per_class)
    for line, row, (name, color) in zip(axes, rows, colors.items()):
        for ax, image in zip(line, row):
            _show(ax, image)
        for ax in line[len(row) :]:
            ax.axis("off")
        line[0].text(
            -0.03,
            0.5,
            _name(name, 18),
            transform=line[0].transAxes,
            rotation=90,
            ha="right",
            va="center",
            weight="bold",
            color=color,
        )
    _caption(axes.ravel(), caption)
    return axes


def _some_of(records: pd.DataFrame, root: Path, n: int, seed: int) -> list[np.ndarray]:
    """Up to n pictures, of as many patients as there are; files that cannot be read are passed over."""
    mixed = records.sample(frac=1, random_state=seed)
    found = []
    for path in mixed.assign(again=mixed.duplicated("patient")).sort_values("again", kind="stable")[
        "path"
    ]:
        if len(found) == n:
            break
        try:
            found.append(read_gray(root / path))
        except ValueError:  # image_files.UnreadableImage
            continue
    return found


def views(
    images: Pictures,
    titles: Iterable[str] | None = None,
    columns: int = 4,
    ax: Several = None,
    caption: str = "",
) -> Panels:
    """An image (the first, framed) and its views, as the network gets them. Taught in notebook 02."""
    images = list(images)
    if titles is None:
        titles = ["the image itself", *(f"view {number}" for number in range(len(images) - 1))]
    axes = grid(images, titles, [BLUE] + [DARK] * (len(images) - 1), columns, ax, caption)
    axes[0].spines[:].set(visible=True, color=BLUE, linewidth=2)
    return axes


def resizes(images: Mapping[str, Any], ax: Several = None, caption: str = "") -> Panels:
    """One scan made ready in several ways, side by side, with their sizes: {"squash": pixels, "pad": pixels}.

    Taught in notebook 02.
    """
    shown = {name: _pixels(image) for name, image in images.items()}
    titles = [
        f"{_name(name)}\n{image.shape[1]}×{image.shape[0]} pixels" for name, image in shown.items()
    ]
    return grid(shown.values(), titles, columns=len(shown), ax=ax, caption=caption)


# Single images


def top_k(
    image: Any, table: pd.DataFrame, true: str | None = None, ax: Several = None, caption: str = ""
) -> Panels:
    """A scan, and beside it what the model thinks of it: `table` has class and probability, likeliest first.

    With the true class given, the bar of the answer is blue where right and red where wrong.
    Taught in notebook 05.
    """
    _need(table, ("class", "probability"), "pass what inspection.top_k gives")
    left, right = axes = _panels(2, 2, ax, max(3.2, 1 + 0.22 * len(table)))
    answer = table["class"].iloc[table["probability"].fillna(-1).argmax()]
    verdict = "" if true is None else ", right" if answer == true else ", wrong"
    color = WRONG if verdict == ", wrong" else RIGHT
    _show(left, _pixels(image), _wrapped(f"true: {_name(true)}", 52) if true is not None else "")
    colors = [color if name == answer else LIGHT for name in table["class"]]
    bars = right.barh(range(len(table)), table["probability"], color=colors)
    right.bar_label(
        bars, [_percent(share) for share in table["probability"]], padding=4, fontsize=9
    )
    _rows(right, [_name(name) + " (true)" * (name == true) for name in table["class"]])
    right.set_xlim(0, 1.15)
    right.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    _label(right, f"The model says {_name(answer)}{verdict}", "probability", "")
    _caption(axes, caption)
    return axes


def errors(
    images: Pictures,
    predictions: pd.DataFrame,
    columns: int = 4,
    ax: Several = None,
    caption: str = "",
) -> Panels:
    """Scans with "true → predicted" and the probability of the answer: blue where right, red where wrong.

    `predictions` has one row an image, in their order; without any, "no errors" is said in their place. Images
    without a label are neither right nor wrong. Taught in notebook 05.
    """
    images, rows = list(images), predictions.to_dict("records")
    if not images and not rows:
        return _nothing("no errors", ax, caption)
    _need(predictions, ("label", "predicted"), "pass rows of predictions")
    if len(images) != len(rows):
        raise ValueError(
            f"found {len(images)} images and {len(rows)} predictions; pass one row an image"
        )
    unknown = [pd.isna(row["label"]) or row["label"] == "" for row in rows]
    truths = ["no label" if lost else _name(row["label"]) for row, lost in zip(rows, unknown)]
    titles = [f"{truth} → {_name(row['predicted'])}" for row, truth in zip(rows, truths)]
    sure = [row.get(f"p_{row['predicted']}") for row in rows]
    titles = [
        title if p is None else f"{title}\nprobability {_percent(p)}"
        for title, p in zip(titles, sure)
    ]
    colors = [
        DARK if lost else RIGHT if row["label"] == row["predicted"] else WRONG
        for row, lost in zip(rows, unknown)
    ]
    return grid(images, titles, colors, columns, ax, caption)


def _nothing(words: str, ax: Several, caption: str) -> Panels:
    axes = _panels(1, 1, ax, 1.2)
    axes[0].axis("off")
    axes[0].text(0.5, 0.5, words, transform=axes[0].transAxes, ha="center", va="center", color=GREY)
    _caption(axes, caption)
    return axes


def overlay(
    image: Any, heatmap: Any, title: str = "", ax: Several = None, caption: str = ""
) -> Panels:
    """Three panels: the scan, the map of what counted for the answer, and the map over the scan.

    `heatmap` is an array or tensor (h, w) or (1, h, w) of any size, stretched over the image. A map with
    negative values runs from blue (against) over white to red (for), another from dark to bright; over the
    scan it is the more opaque the more it says. Places that are no finite number stay without color. Taught in
    notebook 05.
    """
    pixels = _pixels(image)
    values = _array(heatmap).astype(float)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"found a heatmap of shape {np.shape(heatmap)}; expected one number a place, (h, w)"
        )
    finite = np.isfinite(values)
    lowest, highest = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    values, signed, top = (
        np.where(finite, values, np.nan),
        lowest < 0,
        max(abs(lowest), abs(highest), 1e-12),
    )
    height, width = pixels.shape[:2]
    look = {
        "cmap": "RdBu_r" if signed else "inferno",
        "vmin": -top if signed else 0,
        "vmax": top,
        "extent": (-0.5, width - 0.5, height - 0.5, -0.5),
        "interpolation": "bilinear",
    }
    low, high = (0 if abs(edge) < 0.001 * top else edge for edge in (lowest, highest))
    span = f"{low:.2g} to {high:.2g}" if finite.any() else "not a number anywhere"
    span += f", {_percent(1 - finite.mean())} no number" if 0 < finite.mean() < 1 else ""
    names = [_wrapped(title or "the scan", 40), f"the map, {span}", "the map over the scan"]
    axes = grid([pixels] * 3, names, columns=3, ax=ax, caption=caption)
    axes[1].imshow(values, **look)
    axes[2].imshow(values, alpha=0.7 * np.nan_to_num(np.abs(values)) / top, **look)
    return axes


def _show(ax: Axes, pixels: np.ndarray, title: str = "", color: str = DARK) -> None:
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[], anchor="NW")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_title(title, color=color, fontsize=9, loc="left", pad=3)


def _pixels(image: Any) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) of a tensor, an array or a PIL image."""
    pixels = _array(image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(
            f"found a picture of {pixels.dtype}, shape {np.shape(image)}; expected uint8 (H, W) "
            "or (1 or 3, H, W), as the loader gives it, before normalize"
        )
    return pixels
