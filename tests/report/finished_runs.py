"""Runs of a second, as a finished training leaves them, for the tests of their reports."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tlutils.runs import recipes
from tlutils.runs import train as training
from tlutils.runs.folder import Run

SMALL = {"size": "32", "epochs": "2", "batch_size": "16", "backbone": "squeezenet1_1", "views": "2"}
QUIET = {"weights": "random", "log": None, "show": False, "device": "cpu"}


def train(data: Path, out: Path, name: str = "oct-vgg16", **changes: str) -> Run:
    recipe = recipes.get(name).changed(SMALL | changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small validation set, or none
        return training.train(recipe, data, out, precision="fp32", **QUIET)


@pytest.fixture(name="run", scope="module")
def four_classes(tiny_folder, tmp_path_factory) -> Run:
    """Four classes."""
    return train(tiny_folder, tmp_path_factory.mktemp("runs") / "four")


@pytest.fixture(name="binary", scope="module")
def two_classes(tiny_folder, tmp_path_factory) -> Run:
    """Two classes, a network of one output."""
    data = tmp_path_factory.mktemp("data") / "two"
    for part in ("train", "val", "test"):
        for label in ("CNV", "NORMAL"):
            shutil.copytree(tiny_folder / part / label, data / part / label)
    return train(data, tmp_path_factory.mktemp("runs") / "two", "chest-vgg16-gap")


@pytest.fixture(name="copy")
def copied_run(run, tmp_path) -> Path:
    """The run of four classes in a folder that a test may change."""
    return shutil.copytree(
        run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("*.pt", "features", "*.html")
    )


@contextmanager
def edited(file: Path) -> Iterator[dict]:
    """What a JSON file holds, to be changed in place."""
    content = json.loads(file.read_text())
    yield content
    file.write_text(json.dumps(content))
