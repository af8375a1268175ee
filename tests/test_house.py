"""The library as a house: who may use whom, what is light, what can be copied, what docs promise."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import processes
import pytest
from numpydoc.validate import validate

import tlutils

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "tlutils"
PACKAGES = (
    "serve",
    "report",
    "runs",
    "inspection",
    "training",
    "evaluation",
    "models",
    "data",
    "plots",
    "core",
)
FILES = sorted(LIBRARY.rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
MODULES = [name.removesuffix(".__init__") for name in MODULES if not name.endswith("__main__")]
# What may be imported with the library: README says so to who copies it.
BASIC = ("torch", "torchvision", "numpy", "pandas", "sklearn", "seaborn", "tqdm", "filelock")
BROUGHT = ("scipy", "matplotlib", "PIL")  # by those
WITHOUT_TORCH = [
    name
    for name in MODULES
    if re.match(r"tlutils\.(core|plots|data|evaluation)\.", name)
    and name.rpartition(".")[2] not in ("devices", "loaders", "augment", "predict", "acquisition")
]
# file -> files it needs beside it: each can be copied with these alone.
ALONE = {
    "core/files.py": (),
    "core/images.py": (),
    "core/intervals.py": (),
    "core/progress.py": (),
    "data/augment.py": (),
    "data/phantoms.py": ("core/progress.py",),
    "data/splits.py": (),
    "evaluation/thresholds.py": (),
    "evaluation/novelty.py": (),
    "evaluation/metrics.py": ("evaluation/thresholds.py", "core/intervals.py"),
    "training/losses.py": (),
    "training/monitors.py": (),
    "report/html.py": (),
    "plots/of_data.py": ("plots/style.py", "core/images.py", "core/words.py"),
    "plots/of_images.py": ("plots/style.py", "core/images.py", "core/words.py"),
    "plots/of_results.py": ("plots/style.py", "core/images.py", "core/words.py"),
    "plots/of_training.py": ("plots/style.py", "core/images.py", "core/words.py"),
}
CHECKS = {"GL06", "GL07", "GL08", "PR01", "PR02", "PR03", "PR10", "RT01", "YD01"}


def python(code: str, folder: Path = ROOT, **environment: str) -> str:
    """What a fresh Python prints that runs some code in a folder."""
    env = {"PYTHONPATH": str(folder), **environment}
    return processes.python("-c", code, cwd=folder, env=env).stdout.strip()


def loaded(code: str, *heavy: str) -> list[str]:
    """Which of the heavy packages a fresh Python has loaded after some code."""
    last = f"import sys\nprint('\\nloaded', *(m for m in {heavy} if m in sys.modules))"
    return python(f"{code}\n{last}").splitlines()[-1].split()[1:]


# Who may use whom


def test_the_import_contracts_hold():
    code = "from importlinter.cli import lint_imports_command as c; c()"
    done = processes.python("-c", code, cwd=ROOT, check=False)
    assert done.returncode == 0 and " 0 broken" in done.stdout, done.stdout + done.stderr


def test_the_packages_are_those_listed_and_none_is_crowded():
    found = {path.parent.name for path in FILES} - {"tlutils"}
    assert found == set(PACKAGES)
    for package in PACKAGES:
        assert len(list((LIBRARY / package).glob("[!_]*.py"))) <= 12


def test_no_file_of_tests_is_without_one():
    files = [*(ROOT / "tests").rglob("test_*.py")]
    assert files and not [file for file in files if "def test_" not in file.read_text("utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_imports_within_the_library_are_relative_and_without_aliases_of_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("tlutils") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level or not (node.module or "").startswith("tlutils")
            if node.level:
                renamed = [alias.name for alias in node.names if alias.asname]
                where = absolute(node, path)
                assert not [name for name in renamed if f"{where}.{name}" in MODULES]


def test_each_public_name_has_one_address():
    """What a module imports from another of the library is not handed on: nobody takes it from there."""
    homes = {name: public(importlib.import_module(name)) for name in MODULES}
    users = [*LIBRARY.rglob("*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("notebooks/*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in users}
    for path in ROOT.glob("notebooks/*.ipynb"):
        texts[path] = notebook_code(path)
    wrong = []
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ImportFrom) or not (
                node.level or "tlutils" in (node.module or "")
            ):
                continue
            module = absolute(node, path)
            if module in homes and module.count(".") == 2:
                wrong += [
                    f"{path.name}: {alias.name} from {module}"
                    for alias in node.names
                    if not alias.name.startswith("_") and alias.name not in homes[module]
                ]
    assert not wrong


def public(module: ModuleType) -> set[str]:
    """Public names that a module defines itself."""
    tree = ast.parse(inspect.getsource(module))
    names = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            names |= (
                {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
                if target
                else set()
            )
    return {name for name in names if not name.startswith("_")}


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that a from-import in a file names."""
    if not node.level:
        return node.module
    parts = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*parts, *([node.module] if node.module else [])])


def notebook_code(path: Path) -> str:
    """The code cells of a notebook, one after the other."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


# What is light


def test_tables_pictures_and_numbers_need_no_torch():
    assert "tlutils.evaluation.metrics" in WITHOUT_TORCH and len(WITHOUT_TORCH) > 15
    assert loaded(f"import {', '.join(WITHOUT_TORCH)}", "torch", "torchvision") == []


def test_nothing_imports_torchvision_or_pydicom_before_it_needs_it():
    heavy = ("torchvision", "torch._dynamo", "pydicom")
    usual = "tlutils.runs.recipes.get('oct-vgg16').changed({'backbone': 'resnet18'})"
    assert loaded(f"import {', '.join(MODULES)}\nassert {usual}.size == 224", *heavy) == []


# What can be copied


def only(packages: tuple[str, ...]) -> str:
    """Code that lets the library import nothing but these packages and Python itself."""
    return (
        "import builtins, importlib, sys\n"
        f"allowed = {packages}\n"
        "plain, by_name = builtins.__import__, importlib.import_module\n"
        "def check(name, user):\n"
        "    ours = user.partition('.')[0] == 'tlutils'\n"
        "    known = {*allowed, 'tlutils', *sys.stdlib_module_names}\n"
        "    if ours and name.partition('.')[0] not in known:\n"
        "        raise ImportError(f'{name} is not one of {allowed}')\n"
        "def checked(name, globals=None, locals=None, fromlist=(), level=0):\n"
        "    if level == 0: check(name, (globals or {}).get('__name__', ''))\n"
        "    return plain(name, globals, locals, fromlist, level)\n"
        "def checked_by_name(name, package=None):\n"
        "    check(name, sys._getframe(1).f_globals.get('__name__', ''))\n"
        "    return by_name(name, package)\n"
        "builtins.__import__, importlib.import_module = checked, checked_by_name\n"
    )


# Answers each line, [folder, code], with a child that has what is preloaded and runs the code there.
FORKING = """
import contextlib, json, os, sys, traceback
import filelock, matplotlib.pyplot, numpy, pandas, PIL.Image, scipy.stats, seaborn, sklearn.metrics, torch, tqdm.auto
for line in sys.stdin:
    folder, code = json.loads(line)
    if child := os.fork():
        os.waitpid(child, 0)
        with open(os.path.join(folder, "said.json")) as said:
            print(json.dumps(json.load(said)), flush=True)
        continue
    os.chdir(folder)
    sys.path.insert(0, folder)
    error = ""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            error = traceback.format_exc()
    with open("said.json", "w") as said:
        json.dump(error, said)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def fork() -> Iterator[Callable[[str, Path], str]]:
    """Run code in a folder, in a process that has imported the packages but nothing of ours; its error, or ""."""
    env, pipes = {"PYTHONPATH": "", "MPLBACKEND": "Agg"}, {"stdin": subprocess.PIPE, "stderr": None}
    server = processes.start("-c", FORKING, cwd="/", env=env, **pipes)

    def run(code: str, folder: Path) -> str:
        server.stdin.write(json.dumps([str(folder), code]) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(timeout=60)


def copied(to: Path, *files: str) -> None:
    """Files of the library in a tlutils/ of their own, with empty signs."""
    for name in files:
        target = to / "tlutils" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(LIBRARY / name, target)
        for folder in (target.parent, to / "tlutils"):
            (folder / "__init__.py").touch()


def test_the_copied_folder_trains_with_the_stated_packages_alone(tiny_folder, tmp_path):
    shutil.copytree(LIBRARY, tmp_path / "tlutils", ignore=shutil.ignore_patterns("__pycache__"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    stated = re.search(r"Copy the folder `tlutils/`.*?\n\n", readme, re.DOTALL)[0]
    assert all(name in stated.replace("scikit-learn", "sklearn") for name in BASIC)
    script = only(BASIC + BROUGHT) + (
        f"import {', '.join(MODULES)}\n"
        "from tlutils.runs import recipes\n"
        "from tlutils.runs.train import train\n"
        "recipe = recipes.get('chest-resnet18-fixed').changed(\n"
        "    {'backbone': 'squeezenet1_1', 'size': 32, 'epochs': 1, 'views': 1})\n"
        f"run = train(recipe, {str(tiny_folder)!r}, 'run', weights='random', log=None)\n"
        "print(tlutils.__file__, sorted(run.metrics['test'])[:2])\n"
    )
    told = python(script, tmp_path, OMP_NUM_THREADS="1").splitlines()[-1]
    assert told == f"{tmp_path / 'tlutils' / '__init__.py'} ['accuracy', 'auc']"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_works_with_those_below_it_alone(package, fork, tmp_path):
    below = PACKAGES[PACKAGES.index(package) :]
    for name in below:
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(LIBRARY / name, tmp_path / "tlutils" / name, ignore=skip)
    shutil.copy(LIBRARY / "__init__.py", tmp_path / "tlutils")
    modules = [name for name in MODULES if name.split(".")[1:2] == [package]]
    code = only(BASIC + BROUGHT) + f"import {', '.join(modules)}\n"
    assert fork(code + f"assert tlutils.__file__.startswith({str(tmp_path)!r})", tmp_path) == ""


@pytest.mark.parametrize("file", ALONE)
def test_a_module_works_alone_in_another_project(file, fork, tmp_path):
    copied(tmp_path, file, *ALONE[file])
    code = only(BASIC + BROUGHT)
    if not ALONE[file]:  # then it may lie anywhere, under any name
        shutil.copy(LIBRARY / file, tmp_path / "borrowed.py")
        code += "import borrowed\nassert 'tlutils' not in sys.modules\n"
    module = "tlutils." + file.removesuffix(".py").replace("/", ".")
    code += (
        f"import doctest, {module}\n"
        f"assert {module}.__file__.startswith({str(tmp_path)!r})\n"
        f"found = doctest.testmod({module}, optionflags=doctest.NORMALIZE_WHITESPACE)\n"
        "assert not found.failed"
    )
    assert fork(code, tmp_path) == ""


def test_what_the_library_may_not_import_is_noticed(fork, tmp_path):
    for line in (
        "import yaml",
        "from yaml import load",
        "__import__('importlib').import_module('yaml')",
    ):
        (tmp_path / "tlutils.py").write_text(line)
        assert "yaml is not one of" in fork(only(BASIC) + "import tlutils", tmp_path)


def test_the_readme_says_which_modules_stand_alone():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in ALONE if not name.startswith("plots/") and name not in readme] == []
    assert "plots/" in readme


# What the docs promise


def documented() -> Iterator[tuple[str, object]]:
    """Every public function, class and method of the library, by its address."""
    for name in MODULES:
        module = importlib.import_module(name)
        for own in sorted(public(module)):
            thing = getattr(module, own)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"{name}.{own}", thing
            if inspect.isclass(thing):
                for method, function in vars(thing).items():
                    if not method.startswith("_") and inspect.isfunction(function):
                        yield f"{name}.{own}.{method}", function


THINGS = dict(documented())


def test_docstrings_are_numpydoc():
    wrong = {}
    for address in THINGS:
        found = [
            f"{code}: {words}" for code, words in validate(address)["errors"] if code in CHECKS
        ]
        if found:
            wrong[address] = found
    assert not wrong, "\n".join(f"{address}: {found}" for address, found in wrong.items())


def test_what_a_function_raises_its_docstring_says():
    wrong = []
    for address, thing in THINGS.items():
        if inspect.isfunction(thing):
            section = (inspect.getdoc(thing) or "").partition("\nRaises\n")[2]
            wrong += [f"{address}: {name}" for name in raised(thing) if name not in section]
    assert not wrong


def raised(function: object) -> set[str]:
    """Names of the exceptions that a function's own lines raise."""
    source = inspect.cleandoc("\n" + inspect.getsource(inspect.unwrap(function)))
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            called = node.exc.func
            found.add(called.attr if isinstance(called, ast.Attribute) else called.id)
    return {name for name in found if name[0].isupper()}


def test_at_least_twenty_functions_have_an_example():
    assert sum(">>>" in (thing.__doc__ or "") for thing in THINGS.values()) >= 20


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_a_sign_that_names_its_modules_and_its_notebooks(package):
    tree = ast.parse((LIBRARY / package / "__init__.py").read_text(encoding="utf-8"))
    sign = ast.get_docstring(tree)
    assert sign and len(tree.body) == 1, "a docstring and nothing else"
    for path in (LIBRARY / package).glob("[!_]*.py"):
        assert re.search(rf"\b{path.stem}\b", sign), f"the sign does not name {path.stem}"
    used = [
        path.name[:2]
        for path in sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
        if f"tlutils.{package}" in notebook_code(path)
    ]
    told = re.search(r"^Notebooks: (.*)\.$", sign, re.MULTILINE)
    assert told and told[1] == (", ".join(used) or "none")


def test_names_are_spelled_as_torch_spells_them_and_are_no_private_vocabulary():
    odd = re.compile(
        r"optimis|normalis|colour|_room\b|\broom\b|whereabouts|met_or_not|said\b", re.I
    )
    names = {
        part
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for part in (
            getattr(node, "id", None),
            getattr(node, "name", None),
            getattr(node, "arg", None),
        )
        if isinstance(part, str)
    }
    assert not [name for name in names if odd.search(name)]
    assert tlutils.__doc__ and all(package in tlutils.__doc__ for package in PACKAGES)
