"""One file made of a module and of what it uses: for places where the library is not.

The text is that of the modules, definition by definition, so what is made does what they do.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

_LIBRARY = Path(__file__).parents[1]
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


class _Import(NamedTuple):
    """What an imported name stands for."""

    module: Path | None  # None for other packages
    name: str  # "" for the module itself
    statement: str  # of other packages


class _Module:
    """A module's text, its definitions and imports by name, and which definitions are wanted."""

    def __init__(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        self.file, self.lines, self.tree = file, text.splitlines(), ast.parse(text)
        self.definitions = {name: node for node in self.tree.body for name in _defined(node)}
        top = [node for node in self.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        found = [one for node in [*top, *_own_imports(self.tree)] for one in self._imported(node)]
        self.imports = dict(found)
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
            module = (folder / alias.name).with_suffix(".py")
            of = (module, "") if module.is_file() else (folder.with_suffix(".py"), alias.name)
            found.append((bound, _Import(*of, "")))
        return found

    def meant(self, node: ast.AST) -> tuple[Path, str] | None:
        """The module and the name there that a reference to something of the library means."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            one = self.imports.get(node.value.id)
            return (one.module, node.attr) if one and one.module and not one.name else None
        if not isinstance(node, ast.Name):
            return None
        one = self.imports.get(node.id)
        if one and one.module and one.name:
            return one.module, one.name
        return (self.file, node.id) if node.id in self.definitions else None

    def text(self, node: ast.stmt, names: dict[tuple[Path, str], str]) -> str:
        """The lines of a definition and the comment above it, with its references by new names."""
        edits = [(*_place(part), "") for part in _own_imports(node)]
        for part in ast.walk(node):
            if (what := self.meant(part)) in names:
                edits.append((*_place(part), names[what]))
            elif isinstance(part, _DEFINITIONS) and names.get((self.file, part.name)):
                start = self.lines[part.lineno - 1].index(part.name, part.col_offset)
                of = (part.lineno, start, part.lineno, start + len(part.name))
                edits.append((*of, names[self.file, part.name]))
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        while self.lines[first - 2].startswith("#"):
            first -= 1
        lines = {row: self.lines[row - 1].encode() for row in range(first, node.end_lineno + 1)}
        for row, start, last, end, new in sorted(edits, reverse=True):  # `ast` counts bytes
            kept = lines[row][:start] + new.encode() + lines[last][end:]
            lines = {at: line for at, line in lines.items() if not row <= at <= last}
            if kept.strip():
                lines[row] = kept
        return "\n".join(lines[row].decode() for row in sorted(lines))


def _place(node: ast.AST) -> tuple[int, int, int, int]:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, _DEFINITIONS):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    parts = [part for target in targets if target for part in ast.walk(target)]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def _own_imports(node: ast.AST) -> list[ast.ImportFrom]:
    """The imports within the library, also those inside functions."""
    return [part for part in ast.walk(node) if isinstance(part, ast.ImportFrom) and part.level]


def _order(statement: str) -> tuple[bool, bool, str]:
    """Where an import stands: Python's own first, of these `import` before `from`."""
    words = statement.split()
    return words[1].partition(".")[0] not in sys.stdlib_module_names, words[0] == "from", statement


def source(module: str) -> str:
    """The text of a module with all that it uses of the library, as one file.

    Parameters
    ----------
    module : str, such as "models.predict_onnx"; it is taken whole, of the others what it uses

    Returns
    -------
    str
        Its docstring, the imports of other packages, then definitions under the name of the module
        that each comes from. A private name that two modules have gets the module's in front.

    Raises
    ------
    ValueError
        Where two modules have one public name, or a module has not what is imported from it.
    """
    modules: dict[Path, _Module] = {}
    statements: set[str] = set()

    def opened(file: Path) -> _Module:
        return modules.setdefault(file, modules.get(file) or _Module(file))

    def want(of: _Module, node: ast.stmt) -> None:
        of.wanted.add(node)
        for part in ast.walk(node):
            if what := of.meant(part):
                home = opened(what[0])
                if what[1] not in home.definitions:
                    raise ValueError(f"{home.file} has no {what[1]} of its own to be imported")
                if home.definitions[what[1]] not in home.wanted:
                    want(home, home.definitions[what[1]])
            elif isinstance(part, ast.Name) and part.id in of.imports:
                statements.add(of.imports[part.id].statement)

    entry = opened(_LIBRARY.joinpath(*module.split(".")).with_suffix(".py"))
    for node in entry.tree.body[1:]:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            want(entry, node)
    ordered = sorted(modules.values(), key=lambda one: (one is entry, str(one.file)))
    names = _new_names(ordered)
    doc, imports = ast.get_docstring(entry.tree, clean=False), sorted(statements - {""}, key=_order)
    text = ["\n".join([f'"""{doc}"""\n\nfrom __future__ import annotations\n', *imports])]
    for of in ordered:
        text.append(f"# --- {of.file.relative_to(_LIBRARY.parent).as_posix()} ---")
        text += [of.text(node, names) for node in of.tree.body if node in of.wanted]
    return "\n\n\n".join(text) + "\n"


def _new_names(ordered: list[_Module]) -> dict[tuple[Path, str], str]:
    """What each definition is called in the one file, by its module and its name there."""
    names: dict[tuple[Path, str], str] = {}
    for of in ordered:
        for name in [name for node in of.wanted for name in _defined(node)]:
            taken = name in names.values()
            if taken and not name.startswith("_"):
                raise ValueError(f"{of.file} and another module both have {name}")
            names[of.file, name] = f"_{of.file.stem}{name}" if taken else name
    return names
