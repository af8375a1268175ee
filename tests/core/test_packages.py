"""Packages that only single functions need."""

from __future__ import annotations

import sys

import pytest

from tlutils.core.packages import needed


def test_what_is_there_is_imported():
    assert needed("json.decoder", "json").JSONDecoder


def test_what_is_missing_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match="pip install captum"):
        needed("captum.attr", "captum")
