"""Packages that only single functions need."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import tlutils
from tlutils.core import packages
from tlutils.core.packages import needed


def test_what_is_there_is_imported():
    assert needed("json.decoder", "json").JSONDecoder


def test_what_is_missing_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match="pip install captum"):
        needed("captum.attr", "captum")


def test_each_package_that_something_needs_is_listed_with_its_version_or_how_to_get_it(monkeypatch):
    monkeypatch.setitem(packages.OPTIONAL, "no-such-package", "nothing")
    told = packages.optional()
    assert told["pydicom"] == f"{version('pydicom')} (DICOM files)"
    assert told["no-such-package"] == "not here (pip install no-such-package; for nothing)"


def test_all_that_is_imported_where_it_is_used_is_listed():
    trees = [ast.parse(path.read_text()) for path in Path(tlutils.__file__).parent.rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    asked = {
        call.args[0].value.partition(".")[0]
        for call in calls
        if getattr(call.func, "id", "") == "needed"
    }
    assert len(asked) > 8 and asked <= {*packages.OPTIONAL}
