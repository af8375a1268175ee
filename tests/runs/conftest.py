"""Runs and images that the tests of this folder share."""

import shutil
from pathlib import Path

import pytest
from small_runs import begin, train


@pytest.fixture(scope="session")
def run(tiny_folder, tmp_path_factory):
    """A finished run; a test that changes its files copies it."""
    return train(tiny_folder, tmp_path_factory.mktemp("runs") / "oct")


@pytest.fixture(scope="session")
def two_classes(tiny_folder, tmp_path_factory):
    """The images of two of the classes."""
    data = tmp_path_factory.mktemp("two") / "two"
    for split in ("train", "test"):
        for label in ("CNV", "NORMAL"):
            shutil.copytree(tiny_folder / split / label, data / split / label)
    return data


@pytest.fixture
def data(tiny_folder, tmp_path):
    """A copy of the images that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "data"))


@pytest.fixture
def begun(data, tmp_path):
    """A run of them that has not trained yet."""
    return begin(data, tmp_path / "run")
