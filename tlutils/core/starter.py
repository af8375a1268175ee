"""The library copied into another project, with a first notebook beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from . import files

_LIBRARY = Path(__file__).parents[1]
# From the bottom up: a package stands on those before it.
PACKAGES = (
    "core",
    "plots",
    "data",
    "models",
    "evaluation",
    "training",
    "inspection",
    "runs",
    "report",
    "serve",
)


def write(folder: str | Path, packages: Iterable[str] = ()) -> list[Path]:
    """Copy the library into a folder: whole, with a first notebook, or some of its packages.

    Parameters
    ----------
    folder : str or Path, made where it is missing; what lies there stays as it is.
    packages : iterable of str, such as "evaluation", which come with those that they stand on and
        without command line and notebook; none means the whole library.

    Returns
    -------
    list of Path, what was made: tlutils/ and, beside the whole library, start.ipynb, params.yaml,
        manifest.csv and START.md.

    Raises
    ------
    ValueError
        For an unknown package, where a file or something of these names lies there already, and
        for a folder of class folders.
    OSError
        Where one may not write there.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (made,) = write(folder, ["plots"])
    ...     print(made.name, sorted(path.name for path in made.iterdir()))
    tlutils ['LICENSE', '__init__.py', 'core', 'plots']
    """
    folder, wanted = Path(folder), set(packages)
    if unknown := sorted(wanted - set(PACKAGES)):
        raise ValueError(
            f"there is no package {', '.join(unknown)}; the packages are {', '.join(PACKAGES)}"
        )
    inside = PACKAGES[: max(map(PACKAGES.index, wanted)) + 1] if wanted else (*PACKAGES, "starter")
    beside = [] if wanted else sorted((_LIBRARY / "starter").glob("[!.]*"))
    names = [*(path.name for path in beside), "tlutils"]
    if there := [name for name in names if os.path.lexists(folder / name)]:
        raise ValueError(
            f"{folder.absolute()} has {', '.join(there)} already, and nothing is overwritten; "
            "choose another folder, or move that away first"
        )
    if folder.is_file():
        raise ValueError(f"{folder.absolute()} is a file; give the name of a folder")
    files.check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tlutils-", dir=folder) as part:
        copy = Path(part) / "tlutils"
        for name in inside:
            skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            shutil.copytree(_LIBRARY / name, copy / name, ignore=skip)
        for name in ("__init__.py", "LICENSE", *([] if wanted else ["__main__.py"])):
            shutil.copy(_LIBRARY / name, copy)
        for path in beside:
            shutil.copy(path, part)
        for name in names:
            (Path(part) / name).rename(folder / name)
    return [folder / name for name in names]
