"""What every picture keeps: colors for every eye, names as they are, no figure left behind."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from contrast import GRAPHICS, WORDS, contrast
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.text import Text
from pictures import (
    COUNTS,
    OCT,
    PICTURES,
    audit_table,
    binary_predictions,
    calibration_table,
    clean_figures,  # noqa: F401
    costs,
    history_of,
    interval,
    of_names,
    per_class_metrics,
    rates,
    roc_table,
    scan,
    svg,
    table_of,
    words,
)
from processes import python

from tlutils.plots import of_data, of_images, of_results, of_training
from tlutils.plots.style import VERDICTS, class_colors, ink, readable_on, style

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
    assert public - {"class_grid"} == set(PICTURES)


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


def test_a_class_has_the_same_color_in_every_picture():
    alone, among = class_colors(["NORMAL"]), class_colors(OCT)
    assert alone["NORMAL"] == among["NORMAL"] == class_colors(["PNEUMONIA", "normal"])["normal"]
    bars = of_data.counts(table_of(COUNTS)).containers
    shares = of_data.split_bars(table_of(COUNTS), table_of(COUNTS))[1].containers
    dots = of_results.per_class(per_class_metrics()).lines
    for bar in (bars[1][0], shares[1][0]):
        assert to_hex(bar.get_facecolor()) == among["NORMAL"]
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


def behind(text: Text, figure) -> object:
    """The color of the bar or cell on which a text stands, else white."""
    middle = text.get_window_extent().get_points().mean(axis=0)
    for ax in figure.axes:
        for bar in ax.patches:
            if bar.get_window_extent().contains(*middle):
                return bar.get_facecolor()
        for cells in ax.collections:
            if isinstance(cells, QuadMesh) and text in ax.texts:
                return cells.get_facecolor()[ax.texts.index(text)]
    return "white"


def test_all_words_of_a_picture_can_be_read(picture):
    figure = np.ravel(picture[1](caption="phantoms, random weights, LEAK"))[0].figure
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    found = [(contrast(text.get_color(), behind(text, figure)), text.get_text()) for text in texts]
    assert "phantoms, random weights, LEAK" in dict(map(reversed, found))
    assert min(found)[0] >= WORDS, min(found)


def test_all_that_a_picture_draws_can_be_seen(picture):
    axes = np.ravel(picture[1]())
    parts = {}
    for ax in axes:
        parts |= {line: [to_rgba(line.get_color(), line.get_alpha())] for line in ax.lines}
        parts |= {bar: [bar.get_facecolor(), bar.get_edgecolor()] for bar in ax.patches}
        if picture[1].func.__name__ != "confusion":  # whose cells hold their numbers
            parts |= {
                dots: [*dots.get_facecolor()[:1], *dots.get_edgecolor()[:1]]
                for dots in ax.collections
            }
    ratios = [(max(map(contrast, colors)), str(part)) for part, colors in parts.items()]
    assert not [found for found in ratios if found[0] < GRAPHICS]


def test_the_numbers_of_a_confusion_can_be_read_on_every_cell():
    counts = pd.DataFrame(np.array([[k, 20 - k] for k in range(21)])[:, [0, 1] * 10 + [0]])
    ax = of_results.confusion(counts)
    ax.figure.canvas.draw()
    backs = ax.collections[0].get_facecolor()
    pairs = [(text.get_color(), back) for text, back in zip(ax.texts, backs)]
    assert all(contrast(front, back) >= WORDS for front, back in pairs)


@pytest.mark.parametrize("color", ["#ece133", "#fbafe4", "white", "#56b4e9", *VERDICTS.values()])
def test_ink_of_any_color_can_be_read(color):
    assert contrast(ink(color)) >= WORDS and ink(ink(color)) == ink(color)
    assert contrast(readable_on(color), color) >= WORDS


def test_every_color_of_classes_and_verdicts_is_seen_on_white():
    colors = [*class_colors(map(str, range(10))).values(), *class_colors(OCT).values()]
    assert min(map(contrast, [*colors, *VERDICTS.values()])) >= GRAPHICS


def test_tables_are_shown_whole():
    long = "a/path/" * 20
    assert long in pd.DataFrame([[long]])._repr_html_()
    wide = pd.DataFrame(np.zeros((1, 40)), columns=[f"c{i}" for i in range(40)])
    assert "c20" in wide._repr_html_()


@pytest.mark.parametrize(
    "names",
    [
        ("CN$V_1$", "$other$"),
        ("$x^$", "50 %"),
        ("_CNV", "a<b>&c"),
        ("CNV^2 {x}", "\\alpha"),
        ("Сетчатка", "網膜"),
        ("eye 👁", "CN$V_1$"),
    ],
)
@pytest.mark.filterwarnings("ignore:Glyph.*missing")
def test_a_name_is_drawn_as_it_is(names):
    for picture, draw in of_names(*names).items():
        shown = svg(draw())
        assert names[0] in shown and (names[1] in shown or picture == "overlay"), picture
        plt.close("all")


def test_a_name_of_lines_is_one_line_and_a_long_one_keeps_both_ends():
    long = "cell " + "very " * 60 + "long"
    for picture, draw in of_names("two\nlines", long).items():
        if picture not in ("grid", "overlay"):  # whose titles are the caller's text
            shown = svg(draw())
            assert all(part in shown for part in ("two lines", "cell very", "long")), picture
            assert long not in shown, picture
        plt.close("all")


@pytest.mark.parametrize("look", [style, matplotlib.rcdefaults])
def test_a_dollar_is_no_formula_in_any_look(look):
    look()
    assert "from $3 to $4" in svg(of_images.grid([scan()], ["from $3 to $4"], caption="a $x$"))
    shown = svg(of_training.learning_rates(rates()))
    assert "0.001" in shown and "mathdefault" not in shown


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


@pytest.mark.parametrize(
    "empty",
    [
        lambda: of_data.audit(audit_table()[:0]),
        lambda: of_training.history(history_of(3)[:0]),
        lambda: of_results.per_class({}),
        lambda: of_training.learning_rates(rates()[:0]),
        lambda: of_results.confusion(pd.DataFrame()),
        lambda: of_results.roc({}),
        lambda: of_results.roc(roc_table(binary_predictions())[:0]),
        lambda: of_results.calibration(calibration_table()[:0]),
        lambda: of_results.accuracy_against_count({}, {}),
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
        lambda: of_training.learning_rates(rates(loss=np.nan, smoothed=np.nan, suggested=False)),
        lambda: of_results.calibration(calibration_table().assign(accuracy=np.nan)),
        lambda: of_results.intervals({"a": dict.fromkeys(("value", "low", "high"))}),
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


def test_a_copy_of_the_folder_draws_without_the_library_and_without_torch(tmp_path):
    library = Path(of_data.__file__).parents[1]
    shutil.copytree(library / "plots", tmp_path / "mine" / "plots")
    (tmp_path / "mine" / "core").mkdir()
    for name in ("images.py", "words.py"):
        shutil.copy(library / "core" / name, tmp_path / "mine" / "core")
    code = (
        "import sys, numpy\n"
        "from mine.plots import of_data, of_images, of_results, of_training\n"
        "of_images.grid([numpy.zeros((8, 8), numpy.uint8)])\n"
        "assert not {'torch', 'tlutils'} & set(sys.modules)"
    )
    python("-c", code, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
