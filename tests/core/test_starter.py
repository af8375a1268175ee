"""The library in another project: from an empty folder to an exported model, and nothing overwritten."""

from __future__ import annotations

import ast
import shutil
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import processes
import pytest
import yaml
from PIL import Image

from tlutils.core import starter
from tlutils.data import records

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "tlutils" / "starter" / "start.ipynb"
PARAMS = yaml.safe_load((NOTEBOOK.parent / "params.yaml").read_text(encoding="utf-8"))
MADE = {"START.md", "manifest.csv", "params.yaml", "start.ipynb", "tlutils"}
WHERE = "import tlutils, torch\ntorch.set_num_threads(1)\nprint(tlutils.__file__)"


def python(*words: str, folder: Path, path: str = "") -> str:
    """What a Python says that finds tlutils in its own folder, or along a path."""
    return processes.python(*words, cwd=folder, env={"PYTHONPATH": path}).stdout


@pytest.mark.slow
def test_from_an_empty_folder_to_a_trained_and_exported_model(tiny_folder, tmp_path):
    told = python("-m", "tlutils", "init", "my project", folder=tmp_path, path=str(ROOT))
    home = tmp_path / "my project"
    assert {path.name for path in home.iterdir()} == MADE and "cd 'my project'" in told
    assert "make images/<class>/" in told  # as they are not made
    assert "Make a folder `images`" in (home / "START.md").read_text(encoding="utf-8")
    shutil.copytree(tiny_folder, home / "images")
    assert "no patient" in python("-m", "tlutils", "audit", "images", folder=home)

    quick = {"weights": "random", "changes": {**PARAMS["changes"], "size": 32, "epochs": 1}}
    (home / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **quick}))
    notebook = nbformat.read(home / "start.ipynb", 4)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(WHERE))
    nbformat.write(notebook, home / "start.ipynb")
    command = next(line for line in told.splitlines() if "papermill" in line)
    python("-m", *command.split(), folder=home)
    done = nbformat.read(home / "done.ipynb", 4)
    assert done.cells[1].outputs[0].text.strip() == str(home / "tlutils" / "__init__.py")
    run = home / "runs" / "first"
    assert {"best.pt", "metrics.json", "report.html"} <= {path.name for path in run.iterdir()}

    python("-m", "tlutils", "export", str(run), "--to", "model.onnx", folder=home)
    answers = python("-I", "predict.py", "images/test", folder=home).splitlines()
    assert len(answers) == 1 + len(list((home / "images" / "test").rglob("*.jpeg")))


def test_a_project_among_class_folders_is_no_class(tiny_folder, tmp_path):
    mine = Path(shutil.copytree(tiny_folder / "train", tmp_path / "mine"))
    plain = records.scan(mine)
    starter.write(mine)
    with pytest.warns(UserWarning, match=r"left out of .*mine: tlutils \(this library\)"):
        assert records.scan(mine).equals(plain)


def test_a_file_is_no_place_for_a_project(tmp_path):
    (tmp_path / "project").write_text("mine")
    with pytest.raises(ValueError, match="project is a file; give the name of a folder"):
        starter.write(tmp_path / "project")


def test_what_is_there_is_named_and_stays_as_it_is(tmp_path):
    (tmp_path / "params.yaml").write_text("mine: 1")
    (tmp_path / "tlutils").symlink_to("nowhere")
    with pytest.raises(ValueError, match="has params.yaml, tlutils already"):
        starter.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "tlutils"}
    assert (tmp_path / "params.yaml").read_text() == "mine: 1"


def test_packages_come_with_those_below_them_alone(tmp_path):
    (made,) = starter.write(tmp_path, ["data", "plots"])
    assert {path.name for path in made.iterdir()} == {
        "LICENSE",
        "__init__.py",
        "core",
        "data",
        "plots",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["tlutils"]
    python("-c", "from tlutils.data import audit", folder=tmp_path)
    with pytest.raises(ValueError, match="no package figures; the packages are core"):
        starter.write(tmp_path / "other", ["figures"])


def test_what_was_copied_can_be_copied_on(tmp_path):
    starter.write(tmp_path / "one")
    python("-m", "tlutils", "init", "../two", folder=tmp_path / "one")
    one, two = (
        {
            path.relative_to(home): path.read_bytes()
            for path in home.rglob("*.*")
            if "cache" not in str(path)
        }
        for home in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two


def test_the_packages_and_the_license_are_those_of_the_project():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert contracts["contracts"][0]["layers"] == ["__main__", *reversed(starter.PACKAGES)]
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "tlutils" / "LICENSE").read_bytes()


def test_the_notebook_is_short_and_has_the_values_of_its_params_file():
    cells = nbformat.read(NOTEBOOK, 4).cells
    assert len(cells) <= 12 and not any(cell.get("outputs") for cell in cells)
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    values = {
        line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(cell.source).body
    }
    assert values == PARAMS


def test_the_manifest_is_one_that_the_library_reads(tmp_path):
    manifest = shutil.copy(NOTEBOOK.parent / "manifest.csv", tmp_path)
    for path in pd.read_csv(manifest)["path"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / path)
    found = records.scan(manifest)
    assert found["patient"].tolist() == ["P001", "P002"] and found["label"].nunique() == 2
