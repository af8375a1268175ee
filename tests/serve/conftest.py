"""Runs and a page that the tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import serving
from sharing import two_of
from small_runs import CPU, small

from tlutils.runs.folder import Run
from tlutils.serve.answers import Answerer


@pytest.fixture(scope="session")
def run(tiny_folder, trained) -> Run:
    """Four classes; its last convolution has 2 x 2 places."""
    return trained(tiny_folder, small(size="64", freeze="none"))


@pytest.fixture(scope="session")
def binary(tiny_folder, common_folder, trained) -> Run:
    """Two classes, a network of one output, a threshold chosen on validation images."""
    data = two_of(tiny_folder, common_folder / "two", "train", "val", "test")
    return trained(data, small("chest-vgg16-gap", threshold="sensitivity>=0.9"))


@pytest.fixture(scope="session")
def answerer(run) -> Answerer:
    """The run of four classes, ready to answer."""
    return Answerer(run.folder, **CPU)


@pytest.fixture(scope="session")
def served(run) -> Iterator[tuple[str, int]]:
    """The address of a page that answers by the run of four classes, and its process."""
    with serving(run.folder) as (address, server):
        yield address, server.pid


@pytest.fixture(scope="session")
def memory() -> Callable[[int], int]:
    """How many bytes of memory a process has had at most."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("the most memory of another process is known on Linux alone")

    def most(pid: int) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    return most
