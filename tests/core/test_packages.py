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


def test_a_package_that_is_there_and_cannot_be_imported_says_why(monkeypatch, tmp_path):
    (tmp_path / "broken-1.2.dist-info").mkdir()
    (tmp_path / "broken-1.2.dist-info" / "METADATA").write_text("Name: broken\nVersion: 1.2\n")
    (tmp_path / "broken.py").write_text("raise AttributeError('_ARRAY_API\\nnot found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(packages.OPTIONAL, "broken", "nothing")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    told = packages.optional()
    mend = "(pip install --force-reinstall broken; for nothing)"
    why = f"1.2, but it cannot be imported: AttributeError: _ARRAY_API {mend}"
    (tmp_path / "broken.py").write_text("raise SystemExit('no license')")
    assert "SystemExit: no license" in packages.optional()["broken"]
    assert told["broken"] == why and "but it cannot be imported: ModuleNotFou" in told["pydicom"]


def test_all_that_is_imported_where_it_is_used_is_listed():
    trees = [ast.parse(path.read_text()) for path in Path(tlutils.__file__).parent.rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    asked = {
        call.args[0].value.partition(".")[0]
        for call in calls
        if getattr(call.func, "id", "") == "needed"
    }
    assert len(asked) > 8 and asked <= {*packages.OPTIONAL}
