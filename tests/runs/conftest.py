"""Runs and images that the tests of this folder share."""

import shutil
from pathlib import Path

import pytest
from sharing import two_of
from small_runs import begin


@pytest.fixture(scope="session")
def run(tiny_folder, trained):
    """A finished run; a test that changes its files copies it."""
    return trained(tiny_folder)


@pytest.fixture(scope="session")
def two_classes(tiny_folder, common_folder):
    """The images of two of the classes, none of them for validation."""
    return two_of(tiny_folder, common_folder / "two-classes", "train", "test")


@pytest.fixture
def data(tiny_folder, tmp_path):
    """A copy of the images that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "data"))


@pytest.fixture
def begun(data, tmp_path):
    """A run of them that has not trained yet."""
    return begin(data, tmp_path / "run")
