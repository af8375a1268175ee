"""One file made of a module and of what it uses."""

import ast
import sys

import pytest

from tlutils.core import standalone

LIBRARY = {
    "core/deep.py": '"""Deep."""\nimport math\nimport zlib\n\n_WIDTH = 3\n\n\ndef _check(value: float) -> float:\n'
    "    return math.floor(value) + _WIDTH\n\n\ndef floor(value: float) -> float:\n    return _check(value)\n\n\n"
    "def unused() -> None:\n    zlib.crc32(b'')\n",
    "core/shallow.py": '"""Shallow."""\nimport functools\n\nfrom . import deep\n\n\n# Why it is so.\n@functools.cache\n'
    "def _check(value: float) -> float:\n    from .deep import (\n        floor,\n    )\n\n    "
    "return floor(value) + deep.floor(2 * value) + len('é' + str(deep._WIDTH))\n",
    "data/main.py": '"""Says it.\n\nAnd more.\n"""\n\nfrom ..core.shallow import _check\n\n\ndef answer() -> float:\n'
    '    return _check(1.5)\n\n\nif __name__ == "__main__":\n    print(answer())\n',
    "data/twice.py": '"""Two of one name."""\n\nfrom ..core import deep\n\n\ndef floor() -> float:\n    return deep.floor(1)\n',
    "data/lacks.py": '"""No such thing."""\n\nfrom ..core.deep import ceiling\n\n\ndef up() -> float:\n    return ceiling(1)\n',
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    for name, text in LIBRARY.items():
        file = tmp_path / "tlutils" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(standalone, "_LIBRARY", tmp_path / "tlutils")


def test_what_is_used_is_there_and_works_and_the_rest_is_not(library, capsys):
    text = standalone.source("data.main")
    exec(compile(text, "one", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "12\n"
    assert text.startswith('"""Says it.\n\nAnd more.\n"""\n') and "unused" not in text
    assert (
        "zlib" not in text and "from .deep" not in text and "# --- tlutils/core/deep.py ---" in text
    )
    assert "# Why it is so.\n@functools.cache\ndef _shallow_check(value" in text


def test_two_public_names_and_one_that_is_not_there_are_refused(library):
    with pytest.raises(ValueError, match="both have floor"):
        standalone.source("data.twice")
    with pytest.raises(ValueError, match="has no ceiling"):
        standalone.source("data.lacks")


def test_the_script_of_the_export_needs_what_it_says_and_defines_no_name_twice():
    tree = ast.parse(standalone.source("models.predict_onnx"))
    imported = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    tops = {
        name.partition(".")[0]
        for node in imported
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert tops - set(sys.stdlib_module_names) == {"numpy", "PIL"}
    assert not any(getattr(node, "level", 0) for node in imported)
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(names) == len(set(names)) > 20
