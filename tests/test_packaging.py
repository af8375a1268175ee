"""What is installed, from which list, and whether the commands around it hold their word."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted((ROOT / "tlutils").rglob("*.py"))
AT_IMPORT = {
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "sklearn",
    "matplotlib",
    "seaborn",
    "PIL",
    "tqdm",
    "filelock",
}
DISTRIBUTION = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "IPython": "ipython",
    "mlflow": "mlflow-skinny",
}  # others: the same
COMES_WITH = {
    "ipython": "ipykernel",
    "traitlets": "jupyterlab",
    "jupyter-client": "jupyterlab",
    "nbclient": "papermill",
    "nbformat": "papermill",
}

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="no make on this machine")


def declared(*extras: str) -> dict[str, Requirement]:
    """The requirements of pyproject.toml by canonical name, those of the extras included."""
    lines = PROJECT["dependencies"] + [
        r for extra in extras for r in PROJECT["optional-dependencies"][extra]
    ]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def imports(path: Path, whole: bool) -> set[str]:
    """Top names of the absolute imports in a file: all of them, or only those that run when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if whole else tree.body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    called = [node for node in nodes if isinstance(node, ast.Call) and whole]
    names += [call.args[0].value for call in called if getattr(call.func, "id", "") == "needed"]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "module", MODULES, ids=lambda path: path.as_posix().rpartition("tlutils/")[2]
)
def test_importing_a_module_needs_only_the_basic_packages(module):
    assert imports(module, whole=False) <= AT_IMPORT


@pytest.mark.parametrize(
    "path",
    [*MODULES, *ROOT.glob("notebooks/*.py")],
    ids=lambda path: path.as_posix().rpartition("tlutils/")[2],
)
def test_everything_imported_is_declared(path):
    known = declared("bench", "dicom", "onnx", "parquet", "serve")
    own = (
        {beside.stem for beside in path.parent.glob("*.py")}
        if path.parent.name == "notebooks"
        else set()
    )
    names = imports(path, whole=True) - own
    used = {canonicalize_name(DISTRIBUTION.get(name, name)) for name in names}
    missing = {name for name in used if COMES_WITH.get(name, name) not in known}
    assert not missing, f"{path.name} imports {missing}, which pyproject.toml does not list"


TOOLS = {
    "jupyterlab",
    "ipykernel",
    "pytest-xdist",
    "ruff",
    "import-linter",
    "setuptools",
}  # run, not imported


def test_everything_declared_is_imported_or_run():
    files = [
        *ROOT.glob("tlutils/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("notebooks/*.py"),
    ]
    used = {name for path in files for name in imports(path, whole=True)}
    used = {canonicalize_name(DISTRIBUTION.get(name, name)) for name in used}
    assert (
        set(declared("bench", "dicom", "onnx", "parquet", "serve", "test")) - TOOLS - used == set()
    )


def test_every_mark_is_used():
    marks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"][
        "markers"
    ]
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    assert [mark for mark in marks if f"pytest.mark.{mark.partition(':')[0]}" not in tests] == []


def test_every_dependency_has_a_lower_bound_and_no_pin():
    for name, requirement in declared("bench", "dicom", "onnx", "parquet", "serve", "test").items():
        operators = [specifier.operator for specifier in requirement.specifier]
        assert operators == [">="] or name == "tlutils", (
            f"{requirement} should be a lower bound and nothing else"
        )


def test_what_is_installed_satisfies_the_list():
    for name, requirement in declared().items():
        assert distribution(name).version in requirement.specifier


def test_conda_users_get_the_same_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    by_pip = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    python = next(entry for entry in conda if entry.startswith("python"))
    assert environment["name"] == PROJECT["name"] and environment["channels"] == ["conda-forge"]
    assert python.removeprefix("python").strip() == PROJECT["requires-python"]
    assert by_pip == [["-e ."]] and sorted(conda) == ["pip", python]


def test_the_wheel_holds_tlutils_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            source.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, source)
    for folder in ("tlutils", "tests", "notebooks"):
        skip = shutil.ignore_patterns("__pycache__", "[0-9]*.ipynb")
        shutil.copytree(ROOT / folder, source / folder, ignore=skip)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--wheel-dir",
            str(tmp_path),
            str(source),
        ],
        check=True,
        timeout=300,
    )
    wheel = next(tmp_path.glob("tlutils-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert {name.split("/")[0] for name in names} == {
        "tlutils",
        wheel.name.split("-py3")[0] + ".dist-info",
    }
    assert {name.split("/")[1] for name in names if name.startswith("tlutils/")} == {
        path.relative_to(ROOT / "tlutils").parts[0] for path in MODULES
    } | {"LICENSE", "starter"}
    assert {Path(name).name for name in names if "/starter/" in name} == {
        path.name for path in (ROOT / "tlutils" / "starter").iterdir()
    }
    page = (ROOT / "tlutils" / "serve" / "static").iterdir()
    assert {f"tlutils/serve/static/{file.name}" for file in page} < set(names)
    assert "License-Expression: MIT" in metadata


@needs_make
def test_make_alone_lists_the_targets():
    shown = make("--no-print-directory", folder=ROOT).stdout
    listed = re.findall(r"^  make ([\w-]+) +\S", shown, re.MULTILINE)
    assert listed == [
        "help",
        "setup",
        "tutorial",
        "test",
        "test-oldest",
        "lint",
        "lab",
        "bench",
        "clean",
    ]


@pytest.mark.slow
@needs_make
def test_an_install_that_failed_is_tried_again(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\ndependencies = ["none-such"]\n'
    )
    for _ in range(2):
        done = make(
            "setup",
            f"PYTHON={sys.executable}",
            folder=tmp_path,
            PIP_NO_INDEX="1",
            PIP_FIND_LINKS="",
        )
        assert done.returncode != 0 and "ERROR" in done.stderr
        assert (tmp_path / ".venv" / "bin" / "python").exists()
        assert not list((tmp_path / ".venv").glob(".tlutils*"))


@needs_make
def test_setup_does_nothing_where_all_is_installed(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".tlutils-installed").touch()
    assert "Nothing to be done" in make("setup", folder=tmp_path).stdout
    os.utime(tmp_path / "pyproject.toml", (2**31 - 1, 2**31 - 1))
    assert "pip install" in make("setup", "--dry-run", folder=tmp_path).stdout


@needs_make
def test_an_old_python_is_refused_in_words(tmp_path):
    old = tmp_path / "old-python"
    old.write_text(
        f'#!/bin/sh\nshift\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9); $1"\n'
    )
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    done = make("setup", f"PYTHON={old}", folder=tmp_path)
    assert done.returncode != 0 and "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()


def make(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run make in a folder, free of the settings of a make that runs these tests."""
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MAKEFLAGS", "MAKELEVEL", "VENV", "PYTHON")
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_run_of_everything_is_a_script_that_bash_accepts():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text and text.index("make tutorial") < text.index(
        "TLUTILS_SLOW='tests/lab tests/runs/test_faults' make test"
    )
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("value", "runs"),
    [("", 0), ("0", 0), ("false", 0), ("1", 1), ("tests/lab test_a0", 1), ("tests/lab", 0)],
)
def test_slow_tests_run_where_they_are_asked_for(value, runs, request, monkeypatch):
    file, plugins = str(ROOT / "tests" / "conftest.py"), request.config.pluginmanager.get_plugins()
    (conftest,) = [one for one in plugins if getattr(one, "__file__", "") == file]
    monkeypatch.setenv("TLUTILS_SLOW", value)
    assert bool(conftest.not_slow("tests/test_a0.py::test_it[false]")) != runs


@pytest.mark.skipif(not shutil.which("git"), reason="no git on this machine")
def test_what_runs_and_downloads_leave_is_ignored_by_git(tmp_path):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    left = [
        "runs/demo/best.pt",
        "runs/demo/index.html",
        "data/oct/a.jpeg",
        ".venv/bin/python",
        ".venv-oldest/bin/python",
        "tlutils.egg-info/x",
        "notebooks/.ipynb_checkpoints/01.ipynb",
        "tlutils/__pycache__/x.pyc",
    ]
    kept = [
        "data/README.md",
        "notebooks/01_explore.ipynb",
        "notebooks/params/demo.yaml",
        "tests/benchmarks/results.json",
    ]
    found = subprocess.run(
        ["git", "check-ignore", *left, *kept], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout.split() == left
