"""Folders that one worker of a run of the tests makes for all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

from filelock import FileLock


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, made by the worker that asks first; the others wait until it is whole."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make(part := folder.with_name(f"{folder.name}.part"))
            part.rename(folder)
    return folder


def two_of(data: Path, folder: Path, *splits: str) -> Path:
    """Such a folder with the images of CNV and NORMAL of some splits of a data root."""

    def copy(root: Path) -> None:
        for split, label in product(splits, ("CNV", "NORMAL")):
            shutil.copytree(data / split / label, root / split / label)

    return once(folder, copy)
