"""Packages that only single functions need, imported when those are called."""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

# What only some of it needs: what to install, and for what.
OPTIONAL = {
    "captum": "what counted in an image (Grad-CAM, occlusion)",
    "cleanlab": "labels that may be wrong",
    "imagehash": "near-duplicates",
    "requests": "downloads",
    "pydicom": "DICOM files",
    "pyarrow": "tables in Parquet",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export, and predict.py beside it",
    "starlette": "serve",
    "uvicorn": "serve",
    "torchsummary": "a network's layers as a table",
}


def needed(module: str, package: str) -> ModuleType:
    """Import a module that not everybody has.

    Parameters
    ----------
    module : str, its name in an import, such as "captum.attr".
    package : str, what to install for it.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        Where it cannot be imported, naming what to install.
    """
    try:
        with warnings.catch_warnings():  # captum and cleanlab miss notebook widgets nobody needs
            warnings.filterwarnings("ignore", message="IProgress not found")
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs {package}, which cannot be imported ({error}); pip install {package}"
        ) from error


def optional() -> dict[str, str]:
    """Which of the packages that only single functions need are there, and can be imported.

    Returns
    -------
    dict, by package: its version, or what to install, and what it is for
    """
    told = {}
    for package, what in OPTIONAL.items():
        try:
            there = version(package)
        except PackageNotFoundError:
            told[package] = f"not here (pip install {package}; for {what})"
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                importlib.import_module(package)
            told[package] = f"{there} ({what})"
        except (Exception, SystemExit) as error:  # a broken one may raise anything
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            mend = f"pip install --force-reinstall {package}; for {what}"
            told[package] = f"{there}, but it cannot be imported: {why} ({mend})"
    return told
