"""Runs that the tests of this folder share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sharing import two_of
from small_runs import BINARY, small

from tlutils.runs.folder import Run


@pytest.fixture(scope="session")
def run(tiny_folder, trained) -> Run:
    """Four classes."""
    return trained(tiny_folder)


@pytest.fixture(scope="session")
def binary(tiny_folder, common_folder, trained) -> Run:
    """Two classes, a network of one output."""
    data = two_of(tiny_folder, common_folder / "two", "train", "val", "test")
    return trained(data, small("chest-vgg16-gap"))


@pytest.fixture(scope="session")
def deciding(tiny_folder, common_folder, trained) -> Run:
    """Two classes and a threshold of its own."""
    data = two_of(tiny_folder, common_folder / "two", "train", "val", "test")
    return trained(data, BINARY)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """The run of four classes in a folder that a test may change."""
    return shutil.copytree(
        run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("*.pt", "features", "*.html")
    )
