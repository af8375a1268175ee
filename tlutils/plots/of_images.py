"""The scans themselves: grids, views, sizes, single answers, errors, and maps over a scan.

A picture is uint8: a tensor or array (H, W), (1 or 3, H, W) or (H, W, 3), or a PIL image.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..core.images import UnreadableImage, read
from ..core.words import many
from .style import (
    BLUE,
    DARK,
    GREY,
    LIGHT,
    PAGE_WIDTH,
    RIGHT,
    WRONG,
    add_caption,
    class_colors,
    ink,
    label,
    name_rows,
    panels,
    percent,
    require,
    short_name,
)


def grid(
    images: Iterable[Any],
    titles: Iterable[str] | None = None,
    colors: Iterable[str] | None = None,
    columns: int = 4,
    ax: Iterable[Axes] | None = None,
    caption: str = "",
) -> np.ndarray:
    """Show pictures in rows, each in its own shape.

    Parameters
    ----------
    images : pictures, or a uint8 tensor (N, C, H, W)
    titles, colors : iterable of str, one for each picture: its title, and the color of that
    columns : pictures in a row
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of Axes, one a picture

    Raises
    ------
    ValueError
        Where there is none, or one that is not uint8: show them before `augment.normalize`.

    Examples
    --------
    >>> axes = grid([np.zeros((8, 9), np.uint8)] * 2, ["one", "two"])
    >>> [ax.get_title(loc="left") for ax in axes]
    ['one', 'two']
    """
    images = [_pixels(image) for image in images]
    if not images:
        raise ValueError("there are no pictures to show; pass at least one")
    columns = min(columns, len(images))
    titles = [""] * len(images) if titles is None else titles
    titles = [_wrapped(title, 104 // columns) for title in titles]
    colors = [DARK] * len(images) if colors is None else colors
    wide = np.array([image.shape[1] / image.shape[0] for image in images])
    one_row = {"width_ratios": wide} if len(images) == columns else {}
    inches = PAGE_WIDTH / wide.sum() if one_row else PAGE_WIDTH / columns / np.median(wide)
    lines = max(title.count("\n") + 1 if title else 0 for title in titles)
    row = min(inches, 4) + 0.17 * lines + 0.05
    height = row * -(-len(images) // columns) + 0.25 * bool(caption)
    axes = panels(ax, height, len(images), columns, **one_row)
    for ax, image, title, color in zip(axes, images, titles, colors, strict=True):
        _show(ax, image, title, color)
    add_caption(axes, caption)
    return axes


def class_grid(
    records: pd.DataFrame,
    root: str | Path,
    per_class: int = 4,
    seed: int = 0,
    caption: str = "",
) -> np.ndarray:
    """Show a row of scans for each class, of as many different patients as there are.

    Unreadable files are left out; a class with too few others has empty places.

    Parameters
    ----------
    records : table with path, label and patient
    root : str or Path, the folder where the paths begin
    per_class : int, scans of a class
    seed : int, draws them
    caption : str, below the picture

    Returns
    -------
    np.ndarray of Axes, (classes, per_class)

    Raises
    ------
    ValueError
        Where no record has a label.
    """
    colors = class_colors(sorted(records["label"].dropna().unique()))
    if not colors:
        raise ValueError(
            f"none of the {len(records)} records has a label; look at where they come from"
        )
    parts = [records[records["label"] == name] for name in colors]
    rows = [_some_of(part, Path(root), per_class, seed) for part in parts]
    shape = np.median([image.shape[0] / image.shape[1] for row in rows for image in row] or [1])
    height = (shape * PAGE_WIDTH / per_class + 0.05) * len(rows)
    axes = panels(None, height, len(rows) * per_class, per_class).reshape(len(rows), per_class)
    for line, row, (name, color) in zip(axes, rows, colors.items()):
        for ax, image in zip(line, row):
            _show(ax, image)
        for ax in line[len(row) :]:
            ax.axis("off")
        look = {"rotation": 90, "ha": "right", "va": "center", "weight": "bold"}
        look["color"] = ink(color)
        line[0].text(-0.03, 0.5, short_name(name, 18), transform=line[0].transAxes, **look)
    add_caption(axes.ravel(), caption)
    return axes


def _some_of(records: pd.DataFrame, root: Path, n: int, seed: int) -> list[np.ndarray]:
    """Up to n pictures, of as many patients as there are; unreadable files are passed over."""
    mixed = records.sample(frac=1, random_state=seed)
    mixed = mixed.assign(again=mixed.duplicated("patient")).sort_values("again", kind="stable")
    found = []
    for path in mixed["path"]:
        if len(found) == n:
            break
        try:
            found.append(np.asarray(read(root / path)))
        except UnreadableImage:
            continue
    return found


def views(images: Iterable[Any], ax: Iterable[Axes] | None = None, caption: str = "") -> np.ndarray:
    """Show an image, framed, and its views as the network gets them.

    Parameters
    ----------
    images : pictures, the image itself first
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of Axes, one a picture
    """
    images = list(images)
    titles = ["the image itself", *(f"view {number}" for number in range(len(images) - 1))]
    axes = grid(images, titles, [BLUE] + [DARK] * (len(images) - 1), ax=ax, caption=caption)
    axes[0].spines[:].set(color=BLUE, linewidth=2)
    return axes


def resizes(
    images: Mapping[str, Any], ax: Iterable[Axes] | None = None, caption: str = ""
) -> np.ndarray:
    """Show one scan made ready in several ways, side by side, with their sizes.

    Parameters
    ----------
    images : dict, way to picture, such as {"squash": pixels, "pad": pixels}
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of Axes, one a picture
    """
    shown = [_pixels(image) for image in images.values()]
    sides = [f"{image.shape[1]}×{image.shape[0]} pixels" for image in shown]
    titles = [f"{short_name(name)}\n{size}" for name, size in zip(images, sides)]
    return grid(shown, titles, columns=len(shown), ax=ax, caption=caption)


def top_k(
    image: Any,
    table: pd.DataFrame,
    true: str | None = None,
    ax: Iterable[Axes] | None = None,
    caption: str = "",
) -> np.ndarray:
    """Show a scan, and beside it how probable the model finds each class.

    Parameters
    ----------
    image : picture
    table : DataFrame, class and probability, likeliest first, as `errors.top_k` gives
    true : str, the true class; the bar of the answer is then blue where right and red where wrong
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of 2 Axes
    """
    require(table, ("class", "probability"), "pass what inspection.errors.top_k gives")
    left, right = axes = panels(ax, max(3.2, 1 + 0.22 * len(table)), 2)
    answer = table["class"].iloc[table["probability"].fillna(-1).argmax()]
    verdict = "" if true is None else ", right" if answer == true else ", wrong"
    color = WRONG if verdict == ", wrong" else RIGHT
    title = "" if true is None else _wrapped(f"true: {short_name(true)}", 52)
    _show(left, _pixels(image), title)
    colors = [color if name == answer else LIGHT for name in table["class"]]
    bars = right.barh(range(len(table)), table["probability"], color=colors, edgecolor=GREY)
    right.bar_label(bars, [percent(p) for p in table["probability"]], padding=4, fontsize=9)
    name_rows(right, [short_name(name) + " (true)" * (name == true) for name in table["class"]])
    right.set_xlim(0, 1.15)
    right.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    label(right, f"The model says {short_name(answer)}{verdict}", "probability", "")
    add_caption(axes, caption)
    return axes


def errors(
    images: Iterable[Any],
    predictions: pd.DataFrame,
    ax: Iterable[Axes] | None = None,
    caption: str = "",
) -> np.ndarray:
    """Show scans with "true → predicted" and the probability of the answer: blue right, red wrong.

    Parameters
    ----------
    images : pictures; none at all show "no errors"
    predictions : DataFrame, a row an image, in their order; without a label it is neither right nor
        wrong
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of Axes, one a picture

    Raises
    ------
    ValueError
        Where there are not as many images as rows.
    """
    images, rows = list(images), predictions.to_dict("records")
    if not images and not rows:
        return _nothing("no errors", ax, caption)
    require(predictions, ("label", "predicted"), "pass rows of predictions")
    if len(images) != len(rows):
        raise ValueError(
            f"found {many(len(images))} and {many(len(rows), 'prediction')}; pass one row an image"
        )
    titles, colors = [], []
    for row in rows:
        true, predicted = row["label"], row["predicted"]
        unlabeled = pd.isna(true) or true == ""
        title = f"{'no label' if unlabeled else short_name(true)} → {short_name(predicted)}"
        probability = row.get(f"p_{predicted}")
        more = "" if probability is None else f"\nprobability {percent(probability)}"
        titles.append(title + more)
        colors.append(DARK if unlabeled else RIGHT if true == predicted else WRONG)
    return grid(images, titles, colors, ax=ax, caption=caption)


def _nothing(words: str, ax: Iterable[Axes] | None, caption: str) -> np.ndarray:
    axes = panels(ax, 1.2)
    axes[0].axis("off")
    look = {"ha": "center", "va": "center", "color": GREY}
    axes[0].text(0.5, 0.5, words, transform=axes[0].transAxes, **look)
    add_caption(axes, caption)
    return axes


def feature_maps(
    image: Any,
    maps: Mapping[str, Any],
    channels: int = 6,
    ax: Iterable[Axes] | None = None,
    caption: str = "",
) -> np.ndarray:
    """Show beside a scan, row by row, what layers give for it: their most varied channels.

    Each map is drawn from its own smallest value (dark) to its own largest (bright).

    Parameters
    ----------
    image : picture
    maps : dict, layer to array or tensor (channels, h, w), as `attribution.feature_maps` gives
    channels : int, maps of a layer at most
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of Axes, 1 + channels for each layer, the scan first

    Raises
    ------
    ValueError
        Where there is no layer, or one that gives no maps.
    """
    layers = {name: _array(values).astype(float) for name, values in maps.items()}
    if wrong := [values.shape for values in layers.values() if values.ndim != 3] or not layers:
        raise ValueError(
            f"found maps of shape {wrong}; expected maps (channels, h, w) for each layer"
        )
    width, pixels = 1 + channels, _pixels(image)
    height = (PAGE_WIDTH / width + 0.32) * len(layers) + 0.25 * bool(caption)
    axes = panels(ax, height, len(layers) * width, width)
    for row, (name, values) in zip(axes.reshape(-1, width), layers.items()):
        for ax in row:
            ax.axis("off")
        _show(row[0], pixels)
        varied = np.argsort(-values.std((1, 2)), kind="stable")[:channels]
        for ax, channel in zip(row[1:], varied):
            ax.imshow(values[channel], cmap="viridis", interpolation="nearest")
            ax.set_anchor("NW")
        n, high, wide = values.shape
        title = f"{short_name(name, 18)}\n{len(varied)} of {n}, {wide}×{high}"
        row[1].set_title(title, fontsize=9, loc="left", pad=3)
    add_caption(axes, caption)
    return axes


def overlay(
    image: Any,
    heatmap: Any,
    title: str = "",
    ax: Iterable[Axes] | None = None,
    caption: str = "",
) -> np.ndarray:
    """Show a scan, the map of what counted for the answer, and the map over the scan.

    A map with negative values runs from blue (against) over white to red (for), another from dark
    to bright; over the scan it is the more opaque the more it says. A map of zeros says that there
    is no positive evidence.

    Parameters
    ----------
    image : picture
    heatmap : array or tensor (h, w) or (1, h, w) of any size, stretched over the image; places that
        are no finite number stay without color
    title : str, of the scan
    ax, caption : iterable of Axes and str, see `tlutils.plots`

    Returns
    -------
    np.ndarray of 3 Axes

    Raises
    ------
    ValueError
        Where the map has another shape.
    """
    pixels, values = _pixels(image), _array(heatmap).astype(float)
    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"found a heatmap of shape {np.shape(heatmap)}; expected one number a place, (h, w)"
        )
    finite = np.isfinite(values)
    values = np.where(finite, values, np.nan)
    low, high = (np.nanmin(values), np.nanmax(values)) if finite.any() else (0.0, 0.0)
    signed, top = low < 0, max(abs(low), abs(high), 1e-12)
    height, width = pixels.shape[:2]
    look = {
        "cmap": "RdBu_r" if signed else "inferno",
        "vmin": -top if signed else 0,
        "vmax": top,
        "extent": (-0.5, width - 0.5, height - 0.5, -0.5),
        "interpolation": "bilinear",
    }
    low, high = (0 if abs(edge) < 0.001 * top else edge for edge in (low, high))
    span = f"{low:.2g} to {high:.2g}" if low or high else "no positive evidence"
    span = span if finite.any() else "not a number anywhere"
    span += f", {percent(1 - finite.mean())} no number" if 0 < finite.mean() < 1 else ""
    titles = [_wrapped(title or "the scan", 40), f"the map, {span}", "the map over the scan"]
    axes = grid([pixels] * 3, titles, columns=3, ax=ax, caption=caption)
    axes[1].imshow(values, **look)
    axes[2].imshow(values, alpha=0.7 * np.nan_to_num(np.abs(values)) / top, **look)
    return axes


def _show(ax: Axes, pixels: np.ndarray, title: str = "", color: str = DARK) -> None:
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[], anchor="NW")
    ax.grid(False)
    # A thin frame: where a scan has white wedges, its end would not show on a white page.
    ax.spines[:].set(visible=True, color=GREY, linewidth=0.8)
    ax.set_title(title, color=ink(color), fontsize=9, loc="left", pad=3)


def _wrapped(text: str, width: int) -> str:
    lines = str(text).split("\n")
    return "\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in lines)


def _array(values: Any) -> np.ndarray:
    """A tensor of any device, or anything that numpy understands, as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _pixels(image: Any) -> np.ndarray:
    """A picture as uint8 (H, W) or (H, W, 3)."""
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
