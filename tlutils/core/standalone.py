"""One file made of a module and of what it uses: for places where the library is not.

The text is that of the modules, definition by definition, so what is made does what they do.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

_LIBRARY = Path(__file__).parents[1]


class _Import(NamedTuple):
    """What a name stands for that is imported; `name` is "" for a module of the library itself."""

    module: Path | None  # of the library, else None
    name: str
    statement: str


class _Module:
    """A module's text, its definitions and imports by name, and which of them are wanted."""

    def __init__(self, file: Path) -> None:
        self.file, text = file, file.read_text(encoding="utf-8")
        self.lines, self.tree = text.splitlines(), ast.parse(text)
        self.definitions = {name: node for node in self.tree.body for name in _defined(node)}
        top = [node for node in self.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        inner = [node for node in ast.walk(self.tree) if getattr(node, "level", 0)]
        self.imports = {name: one for node in top + inner for name, one in self._imported(node)}
        self.wanted: set[ast.stmt] = set()

    def _imported(self, node: ast.Import | ast.ImportFrom) -> list[tuple[str, _Import]]:
        found = []
        for alias in node.names:
            bound = alias.asname or alias.name
            if not getattr(node, "level", 0):
                only = ast.unparse(type(node)(**{**vars(node), "names": [alias]}))
                found.append((bound.partition(".")[0], _Import(None, alias.name, only)))
                continue
            folder = self.file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            as_module = (folder / alias.name).with_suffix(".py")
            of = (as_module, "") if as_module.is_file() else (folder.with_suffix(".py"), alias.name)
            found.append((bound, _Import(*of, "")))
        return found

    def text(self, node: ast.stmt, renamed: dict[str, str]) -> str:
        """The lines of a definition with the comment above it, its references made plain names."""
        edits = [(*place, "") for place in _relative_imports(node)]
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and self._is_module(part.value):
                at = part.value
                edits.append((at.lineno, at.col_offset, at.lineno, at.end_col_offset + 1, ""))
            elif isinstance(part, ast.Name) and part.id in renamed:
                of = (part.lineno, part.col_offset, part.lineno, part.end_col_offset)
                edits.append((*of, renamed[part.id]))
            elif isinstance(part, (ast.FunctionDef, ast.ClassDef)) and part.name in renamed:
                start = self.lines[part.lineno - 1].index(part.name, part.col_offset)
                of = (part.lineno, start, part.lineno, start + len(part.name))
                edits.append((*of, renamed[part.name]))
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        while self.lines[first - 2].startswith("#"):
            first -= 1
        lines = {at: self.lines[at - 1] for at in range(first, node.end_lineno + 1)}
        for row, start, last, end, new in sorted(edits, reverse=True):
            kept = _cut(lines[row], start) + new + _cut(lines[last], end, tail=True)
            for at in range(row, last + 1):
                lines.pop(at)
            if kept.strip():
                lines[row] = kept
        return "\n".join(lines[at] for at in sorted(lines))

    def _is_module(self, node: ast.expr) -> bool:
        one = self.imports.get(node.id) if isinstance(node, ast.Name) else None
        return one is not None and one.module is not None and not one.name


def _cut(line: str, at: int, tail: bool = False) -> str:
    """A part of a line; the positions of `ast` count bytes."""
    data = line.encode()
    return (data[at:] if tail else data[:at]).decode()


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    parts = [part for target in targets if target for part in ast.walk(target)]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def _relative_imports(node: ast.stmt) -> list[tuple[int, int, int, int]]:
    inner = [part for part in ast.walk(node) if getattr(part, "level", 0)]
    return [(one.lineno, one.col_offset, one.end_lineno, one.end_col_offset) for one in inner]


def _place(statement: str) -> tuple[bool, bool, str]:
    """Where an import stands: Python's own first, of these `import` before `from`."""
    words = statement.split()
    return words[1].partition(".")[0] not in sys.stdlib_module_names, words[0] == "from", statement


def source(module: str) -> str:
    """The text of a module with all that it uses of the library, as one file.

    Parameters
    ----------
    module : str, such as "models.predict_onnx", taken whole; of what it imports from the library
        only what is used.

    Returns
    -------
    str
        Its docstring, all imports of other packages, then definitions under the name of the module
        that each comes from. A private name that two modules have gets the module's in front.

    Raises
    ------
    ValueError
        Where two modules have one public name, or a module has not what is imported from it.
    """
    modules: dict[Path, _Module] = {}
    statements: set[str] = set()

    def opened(file: Path) -> _Module:
        if file not in modules:
            modules[file] = _Module(file)
        return modules[file]

    def want(of: _Module, node: ast.stmt) -> None:
        if node in of.wanted:
            return
        of.wanted.add(node)
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and of._is_module(part.value):
                want_name(opened(of.imports[part.value.id].module), part.attr)
            elif isinstance(part, ast.Name):
                if part.id in of.definitions:
                    want(of, of.definitions[part.id])
                elif part.id in of.imports:
                    one = of.imports[part.id]
                    if one.module is None:
                        statements.add(one.statement)
                    elif one.name:
                        want_name(opened(one.module), one.name)

    def want_name(of: _Module, name: str) -> None:
        if name not in of.definitions:
            raise ValueError(f"{of.file} has no {name} of its own; import it from where it is")
        want(of, of.definitions[name])

    entry = opened(_LIBRARY.joinpath(*module.split(".")).with_suffix(".py"))
    for node in entry.tree.body[1:]:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            want(entry, node)
    *others, last = sorted(modules.values(), key=lambda one: (one is entry, str(one.file)))
    first = [ast.get_docstring(entry.tree, clean=False), "\n".join(sorted(statements, key=_place))]
    text = ['"""{}"""\n\nfrom __future__ import annotations\n\n{}'.format(*first)]
    seen: set[str] = set()
    for of in [*others, last]:
        kept = [node for node in of.tree.body if node in of.wanted]
        names = [name for node in kept for name in _defined(node)]
        renamed = {name: f"_{of.file.stem}{name}" for name in names if name in seen}
        if public := [name for name in renamed if not name.startswith("_")]:
            raise ValueError(f"{of.file} and another module both have {', '.join(public)}")
        seen |= set(names)
        text.append(f"# --- {of.file.relative_to(_LIBRARY.parent).as_posix()} ---")
        text += [of.text(node, renamed) for node in kept]
    return "\n\n\n".join(text) + "\n"
