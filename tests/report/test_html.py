"""Text stays text, and nothing that drawing opened is left open."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from contrast import GRAPHICS, WORDS, contrast, css_colors
from matplotlib.colors import to_rgb

from tlutils.report.html import _CSS, chart, number, tag, text


def test_only_what_tag_made_is_markup():
    inner = tag("b", "a<b>", title='"', lang=None)
    assert inner == '<b title="&quot;">a&lt;b&gt;</b>'
    assert text(inner, ["<i>", None, [1]]) == f"{inner}&lt;i&gt;1"


def test_a_number_without_a_value_is_undefined():
    assert "undefined" in number({"value": None, "low": None, "high": None})
    assert number(1200) == "1,200" and number(0.5) == "0.500"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_colors_of_the_page_can_be_read_on_its_grounds(scheme):
    colors = css_colors(_CSS)[scheme]
    words = ("ink", "soft", "accent", "good", "warning", "bad")
    found = {
        (front, back): contrast(colors[front], colors[back])
        for front in words
        for back in ("paper", "tint")
    }
    assert min(found.values()) >= WORDS, found
    interval = (*to_rgb(colors["accent"]), 0.75)
    assert "opacity: .75" in _CSS and contrast(interval, colors["paper"]) >= GRAPHICS


def test_a_figure_is_closed_also_where_drawing_fails():
    def draw():
        plt.subplots()
        raise ValueError("cannot be drawn")

    before = plt.get_fignums()
    with pytest.raises(ValueError, match="cannot be drawn"):
        chart(draw, "nothing")
    assert plt.get_fignums() == before
