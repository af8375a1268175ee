"""What all tests share: which are skipped where, which begin, real images if there are any, and folders of drawn ones."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch or matplotlib is imported. Many threads on tiny arrays wait for each other more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# What is fastest depends on the hour, and tests compare the last bit.
os.environ.setdefault("TLUTILS_MEASURE", "0")
# A shell has what it starts in the background ignore Ctrl-C, and tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from browsers import browser_path
from filelock import FileLock
from sharing import once
from tiny_images import TINY_CLASSES, draw_tiny

if TYPE_CHECKING:
    from tlutils.runs.folder import Run
    from tlutils.runs.recipes import Recipe

TINY_PATIENTS = {"train": (1, 2, 3, 4), "val": (5, 6), "test": (7, 8)}
LONGEST = (
    "test_the_series",
    "test_an_executed_notebook",
    "test_the_book_of_the_series",
    "test_faults",
    "test_lab",
    "test_distributed",
    "test_benchmarks",
    "test_run_all",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that at the end no core waits for one of them."""
    items.sort(
        key=lambda item: next(
            (i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)
        )
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test, with the reason, where the machine lacks what the test needs."""
    for name, missing in (
        ("slow", lambda: not_slow(item.nodeid)),
        ("gpu", no_gpu),
        ("real", no_real_data),
        ("browser", no_browser),
    ):
        if item.get_closest_marker(name) and (why := missing()):
            pytest.skip(why)


def not_slow(test: str) -> str:
    """Why a slow test is left out; "" where all were asked for, or those of some folders or files."""
    asked = os.environ.get("TLUTILS_SLOW", "").split()
    off = " ".join(asked).lower() in ("", "0", "false", "no", "off")
    wanted = not off and (asked == ["1"] or any(part in test for part in asked))
    return "" if wanted else "slow: set TLUTILS_SLOW=1 to run it"


@lru_cache
def no_gpu() -> str:
    """Why no CUDA device can be used, or ""."""
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device on this machine"


def no_real_data() -> str:
    """Why the real images are not there, or ""."""
    folder = real_folder()
    return (
        ""
        if folder and folder.is_dir()
        else "no real images; set TLUTILS_REAL_DATA to the folder that has them"
    )


def no_browser() -> str:
    """Why no browser can be driven, or ""."""
    if not find_spec("playwright"):
        return "no playwright; pip install playwright"
    return "" if browser_path() else "no Chromium on the PATH; on Debian: apt-get install chromium"


def real_folder() -> Path | None:
    """Where the real images and name lists are, if somebody has said so."""
    named = os.environ.get("TLUTILS_REAL_DATA")
    return Path(named) if named else None


@pytest.fixture
def real_data() -> Path:
    """The folder with the real images; a test that takes it carries the marker `real` or is skipped here."""
    if no_real_data():
        pytest.skip(no_real_data())
    return real_folder()


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all workers of this run of the tests see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def said(capsys: pytest.CaptureFixture) -> Callable[[], tuple[str, str]]:
    """What was printed since: (standard output, the error text on one line)."""

    def read() -> tuple[str, str]:
        out, err = capsys.readouterr()
        return out, " ".join(err.split())

    return read


@pytest.fixture(scope="session")
def drawn_folder(request: pytest.FixtureRequest) -> Path:
    """Where the phantoms of the demo lie: `data/` where `make tutorial` has drawn them, else pytest's cache, for good."""
    from tlutils.data import phantoms, sources

    folder = request.config.cache.mkdir(f"phantoms-{phantoms.VERSION}")
    with FileLock(folder / "lock"):
        for name in ("phantom-oct", "phantom-chest"):
            marker = request.config.rootpath / "data" / name / phantoms.MARKER
            whole = {"version": phantoms.VERSION, "finished": True}
            if marker.is_file() and whole.items() <= json.loads(marker.read_text()).items():
                shutil.copytree(marker.parent, folder / name, dirs_exist_ok=True)
        for name in ("phantom-oct", "phantom-chest"):
            sources.get(name, to=folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(common_folder: Path) -> Path:
    """A data root, shared by all tests (copy it to change it): 64 grey JPEGs of 64x48 pixels,
    `<split>/<class>/<class>-<patient>-<scan>.jpeg`, no patient on two sides.

    4 classes that differ to the eye; each of 8 patients (4 train, 2 val, 2 test) has 2 scans of each class.
    """

    def draw(root: Path) -> None:
        for split, label in product(TINY_PATIENTS, TINY_CLASSES):
            (root / split / label).mkdir(parents=True)
            for patient, scan in product(TINY_PATIENTS[split], (1, 2)):
                draw_tiny(label, seed=100 * patient + scan).save(
                    root / split / label / f"{label}-{1000 + patient}-{scan}.jpeg", quality=90
                )

    return once(common_folder / "tiny", draw)


@pytest.fixture(scope="session")
def trained(common_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """`trained(data, recipe)`: a finished run, which one worker trains for all.

    Each caller has a copy of its own; a test that changes files of one that others read copies it again.
    """
    from small_runs import small, train

    from tlutils.runs.folder import Run

    def run(data: Path, recipe: Recipe | None = None) -> Run:
        recipe = recipe or small()
        asked = hashlib.sha256(f"{data} {recipe}".encode()).hexdigest()[:8]
        name = f"{recipe.name}-{asked}"
        whole = once(common_folder / name, lambda out: train(data, out, recipe))
        return Run.load(shutil.copytree(whole, tmp_path_factory.mktemp("runs") / "run"))

    return run
