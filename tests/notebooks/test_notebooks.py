"""What every notebook must hold, and the whole series run as `make tutorial` runs it, with its answers."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import nbformat
import pytest
import yaml
from filelock import FileLock

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
PARAMS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (FOLDER / "params").glob("*.yaml")
}
TINY = {
    "size": 64,
    "epochs": 1,
    "limit": 160,
}  # enough patients for three splits, little enough for minutes
FEW = {  # trainings, of those that repeat them
    "06_compare_backbones": {"seeds": 2},
    "07_freeze_or_finetune": {"seeds": 2, "patients": "5 10 20"},
}
ANSWER = re.compile(
    r"<details>\s*<summary>[^<]*answer[^<]*</summary>(.*?)</details>", re.DOTALL | re.IGNORECASE
)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str = "") -> list:
    """The cells of a notebook, all or those of a kind ("code", "markdown")."""
    return [
        cell for cell in nbformat.read(path, as_version=4).cells if kind in ("", cell.cell_type)
    ]


def words(path: Path) -> str:
    """All markdown of a notebook."""
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def tree(cell) -> ast.Module:
    """The syntax tree of a code cell, its IPython lines left out."""
    return ast.parse(
        "\n".join(
            line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!"))
        )
    )


def lines(cell) -> int:
    """How many lines of a cell hold something."""
    return sum(1 for line in cell.source.splitlines() if line.strip())


def is_tagged(cell) -> bool:
    """Whether papermill fills this cell."""
    return "parameters" in cell.metadata.get("tags", [])


def is_about_chests(path: Path) -> bool:
    """Whether a notebook takes its settings from the files about chest X-rays."""
    return nbformat.read(path, as_version=4).metadata.get("tlutils", {}).get("images") == "chest"


def answers(path: Path) -> list[str]:
    """The Python code of each folded answer that has some."""
    return [
        "\n".join(PYTHON.findall(answer))
        for answer in ANSWER.findall(words(path))
        if PYTHON.search(answer)
    ]


@each_notebook
def test_the_first_cell_gives_title_goal_and_running_time(path):
    first = cells(path)[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert re.search(r"\b(learn|goal)", first.source, re.IGNORECASE), (
        "say what the reader will learn"
    )
    assert re.search(r"\b(second|minute|hour)s?\b", first.source), "say how long it takes"


@each_notebook
def test_imports_stand_in_the_first_code_cell_and_nowhere_else(path):
    importing = [
        any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree(cell)))
        for cell in cells(path, "code")
    ]
    assert importing[0] and sum(importing) == 1


@each_notebook
def test_one_tagged_cell_holds_plain_parameters_with_a_why_behind_each(path):
    tagged = [cell for cell in cells(path, "code") if is_tagged(cell)]
    assert len(tagged) == 1
    for statement in tree(tagged[0]).body:
        line = tagged[0].source.splitlines()[statement.lineno - 1]
        assert isinstance(statement, ast.Assign) and isinstance(
            ast.literal_eval(statement.value), (str, int, float)
        ), line
        assert re.search(r"#\s*\w+", line), f"no why behind: {line}"


@each_notebook
def test_the_parameters_cover_every_params_file_and_start_as_the_demo(path):
    cell = next(cell for cell in cells(path, "code") if is_tagged(cell))
    values = {s.targets[0].id: ast.literal_eval(s.value) for s in tree(cell).body}
    for name, params in PARAMS.items():
        if ("chest" in name) == is_about_chests(path):
            assert set(params) <= set(values), f"{name}.yaml sets what the notebook does not know"
            assert {key: type(values[key]) for key in params} == {
                key: type(value) for key, value in params.items()
            }
    demo = PARAMS["demo-chest" if is_about_chests(path) else "demo"]
    assert {key: values[key] for key in demo} == demo


@each_notebook
def test_the_kernel_is_python3_and_nothing_is_installed_from_inside(path):
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert not re.search(r"^\s*[!%]\s*(pip|conda)\b", code, re.MULTILINE)


@each_notebook
def test_no_output_is_committed(path):
    assert not [
        cell for cell in cells(path, "code") if cell.outputs or cell.execution_count is not None
    ]


@each_notebook
def test_text_stands_before_every_code_cell(path):
    kinds = [cell.cell_type for cell in cells(path)]
    assert not [i for i, kind in enumerate(kinds) if kind == "code" and kinds[i - 1] != "markdown"]


@each_notebook
def test_it_ends_with_what_was_seen_and_where_to_go_next(path):
    kinds = [cell.cell_type for cell in cells(path)]
    after = [cell.source for cell in cells(path)[len(kinds) - kinds[::-1].index("code") :]]
    headings = re.findall(r"^#+ +(.*)$", "\n".join(after), re.MULTILINE)
    assert any("What we saw" in heading for heading in headings)
    assert any("next" in heading.lower() for heading in headings)


@each_notebook
def test_two_or_three_exercises_have_folded_answers(path):
    assert 2 <= len(ANSWER.findall(words(path))) <= 3
    for code in answers(path):
        compile(code, path.name, "exec")


@each_notebook
def test_it_is_no_longer_than_a_sitting(path):
    code = [cell for cell in cells(path, "code") if not is_tagged(cell)]
    defs = [
        node for cell in code for node in ast.walk(tree(cell)) if isinstance(node, ast.FunctionDef)
    ]
    assert len(cells(path)) <= 60
    assert max(map(lines, code)) <= 25 and median(map(lines, code)) <= 8
    assert not [node.name for node in defs if node.end_lineno - node.lineno >= 5], (
        "longer functions belong in tlutils"
    )
    assert 1000 <= len(words(path).split()) <= 3500


GLOSSARY = FOLDER / "glossary.md"
TERMS = re.findall(r"^## (.+)$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
TERMS = [term for term in TERMS if term != "References"]
# A reader cannot tell which; a common bug needs no name, and other works have one.
UNNAMED = re.compile(
    r"\bthe (?:published |original |first original )?(?:article|study|notebook)(?:'s)?\b(?! \d)",
    re.IGNORECASE,
)


def tagged(path: Path, tag: str) -> list[int]:
    """The places of the code cells with a tag."""
    return [
        i
        for i, cell in enumerate(cells(path))
        if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])
    ]


@each_notebook
def test_code_is_no_wider_than_a_page(path):
    sources = [cell.source for cell in cells(path, "code")] + answers(path)
    assert not [line for source in sources for line in source.splitlines() if len(line) > 88]


@each_notebook
def test_guesses_are_asked_for_before_the_result(path):
    places, book = tagged(path, "guess"), cells(path)
    assert 2 <= len(places) <= 4
    for place in places:
        before = [cell.source for cell in book[place - 3 : place]]
        assert any("**Your guess.**" in source for source in before)
        assert re.match(r"guess\w* = .+  # \w", book[place].source), book[place].source
    asked = sum("**Your guess.**" in cell.source for cell in cells(path, "markdown"))
    assert asked == len(places), "each question wants a cell tagged `guess` behind it"


@each_notebook
def test_one_cell_says_what_the_run_found(path):
    (place,) = tagged(path, "headline")
    assert "print(" in cells(path)[place].source
    assert bool(tagged(path, "hero")) == path.name.startswith("07"), "the front page shows one"


@each_notebook
def test_the_references_stand_before_where_to_go_next(path):
    headings = re.findall(r"^## +(.*)$", words(path), re.MULTILINE)
    assert headings[-2] == "References" and "next" in headings[-1].lower()
    listed = words(path).split("\n## References\n")[1].split("\n## ")[0]
    assert re.search(r"^- .*\[[^]]+\]\(https://", listed, re.MULTILINE), "no link in the references"


@each_notebook
def test_other_works_are_named(path):
    text = re.sub(r"```.*?```|`[^`]*`", "", words(path), flags=re.DOTALL)
    assert not UNNAMED.findall(text)


@each_notebook
def test_links_to_the_glossary_lead_to_a_term(path):
    anchors = {term.replace(" ", "-") for term in TERMS}
    linked = set(re.findall(r"\]\(glossary\.md#([^)]+)\)", words(path)))
    assert linked and not linked - anchors


def test_the_glossary_is_in_order_and_each_term_is_used():
    text = GLOSSARY.read_text(encoding="utf-8")
    used = "\n".join(cell.source.lower() for path in NOTEBOOKS for cell in cells(path))
    anchors = {term.replace(" ", "-") for term in TERMS}
    assert sorted(TERMS, key=lambda term: term.lower().replace("-", "")) == TERMS
    linked = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert linked <= anchors
    said = re.sub("[_ -]", "", used)
    named = {term for term in TERMS if re.sub("[ -]", "", term.lower()) in said} | {
        term for term in TERMS if term.replace(" ", "-") in linked
    }
    assert named == set(TERMS)
    assert set(re.findall(r"\]\((\w+\.ipynb)\)", text)) <= {path.name for path in NOTEBOOKS}


def test_each_notebook_that_the_glossary_names_speaks_of_the_term():
    plain = {path.name: re.sub(r"[\s_-]+", " ", words(path).lower()) for path in NOTEBOOKS}
    entries = re.split(r"^## ", GLOSSARY.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    silent = [
        (term, name)
        for term, entry in (part.split("\n", 1) for part in entries)
        for name in re.findall(r"\]\((\w+\.ipynb)\)", entry)
        if term.lower().replace("-", " ") not in plain[name]
    ]
    assert not silent


@pytest.mark.parametrize("name", sorted(PARAMS))
def test_a_params_file_has_the_keys_of_the_demo_and_names_what_exists(name):
    from tlutils.data import sources
    from tlutils.runs import recipes

    chest = "chest" in name
    assert set(PARAMS[name]) == set(PARAMS["demo-chest" if chest else "demo"])
    assert PARAMS[name]["data"] in sources.SOURCES and (
        chest or PARAMS[name]["recipe"] in recipes.RECIPES
    )
    assert PARAMS[name]["run"] == "../runs/" + (
        "chest" if name == "chest" else name.removesuffix("-chest")
    )
    why = [
        line
        for line in (FOLDER / "params" / f"{name}.yaml").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert all(re.match(r"\w+: \S+ +# \S", line) for line in why)


@pytest.fixture(scope="session")
def series(common_folder, drawn_folder) -> tuple[dict, Path]:
    """All notebooks executed once by run_all.py on few, small images, each with its answers as further cells.

    Returns what the process said (returncode, stdout, stderr) and the folder it wrote.
    """
    root = common_folder / "series"
    books, out, said = root / "notebooks", root / "runs" / "tiny", root / "said.json"
    with FileLock(root.with_suffix(".lock")):
        if not said.exists():
            shutil.copytree(
                FOLDER, books, ignore=shutil.ignore_patterns("*.ipynb", "__pycache__", ".*")
            )
            for path in NOTEBOOKS:
                notebook = nbformat.read(path, as_version=4)
                (cell,) = filter(is_tagged, notebook.cells)
                for name, value in FEW.get(path.stem, {}).items():
                    line = rf"(?m)^{name} = .+?(?=  #)"
                    cell.source, found = re.subn(line, f"{name} = {value!r}", cell.source)
                    assert found == 1
                notebook.cells += [nbformat.v4.new_code_cell(code) for code in answers(path)]
                nbformat.write(notebook, books / path.name)
            settings = {**TINY, "data_folder": drawn_folder}
            line = [
                sys.executable,
                str(books / "run_all.py"),
                "--params",
                str(books / "params" / "demo.yaml"),
                "--out",
                str(out),
                *(word for key, value in settings.items() for word in ("-p", key, str(value))),
            ]
            done = subprocess.run(line, capture_output=True, text=True, timeout=3000)
            said.write_text(
                json.dumps(
                    {name: getattr(done, name) for name in ("returncode", "stdout", "stderr")}
                )
            )
    return json.loads(said.read_text()), out


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks")
def test_the_series_runs_from_first_to_last_with_its_answers(series):
    said, out = series
    assert said["returncode"] == 0, said["stdout"] + said["stderr"]
    index = (out / "index.html").read_text(encoding="utf-8")
    assert all(f"{path.stem}.html" in index for path in NOTEBOOKS) and "phantoms" in index


@each_notebook
def test_an_executed_notebook_shows_pictures_and_neither_errors_nor_floods(series, path):
    executed = series[1] / path.name
    assert executed.exists(), f"not reached: {series[0]['stderr'][-500:]}"
    outputs = [output for cell in cells(executed, "code") for output in cell.outputs]
    streams = [output for output in outputs if output.output_type == "stream"]
    assert not [output.evalue for output in outputs if output.output_type == "error"]
    assert sum(o.text.count("\n") for o in streams if o.name == "stderr") <= 100
    assert max([o.text.count("\n") for o in streams], default=0) <= 100, (
        "no cell prints over 100 lines"
    )
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert executed.with_suffix(".html").exists()


@each_notebook
def test_an_executed_notebook_describes_its_pictures_and_says_what_it_found(series, path):
    own = len(cells(path, "code"))  # the answers come after, and papermill adds its parameters
    code = [
        cell
        for cell in cells(series[1] / path.name, "code")
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ][:own]
    drawing = [
        cell
        for cell in code
        if any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    assert not [cell.source for cell in drawing if len(cell.metadata.get("alt", "").split()) < 5]
    (headline,) = (cell for cell in code if "headline" in cell.metadata.get("tags", []))
    (said,) = headline.outputs
    assert said.text.count("\n") == 1 and len(said.text) <= 201
    assert re.search(r"\d", said.text) and "phantom" in said.text.lower()
