"""Packages that only single functions need, imported when those are called."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType


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
