"""Counts, sizes, patients, audit and splits as drawn are those of the tables."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex
from pictures import (
    COUNTS,
    audit_table,
    clean_figures,  # noqa: F401
    table_of,
    title,
    words,
)
from scipy.integrate import trapezoid

from tlutils.plots import of_data
from tlutils.plots.style import VERDICTS


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


def test_what_the_audit_could_not_tell_is_written_beside_its_check():
    unknown = audit_table().assign(verdict="unknown", found=0, share=0.0)
    ax = of_data.audit(unknown)
    assert words(ax.texts) == ["unknown"] * 3
    assert title(ax) == "The audit found nothing in 3 checks"


def test_split_bars_fill_each_split_and_name_one_that_is_missing():
    only_train = table_of({("train", "CNV"): 3, ("train", "NORMAL"): 1})
    before, after = of_data.split_bars(only_train, table_of(COUNTS))
    assert [bars[0].get_width() for bars in before.containers] == [0.75, 0.25]
    assert words(before.get_yticklabels()) == ["train\nn = 4", "val\nn = 0", "test\nn = 0"]
    ends = [bar.get_x() + bar.get_width() for bar in after.containers[-1]]
    assert ends == pytest.approx([1, 1, 1])
