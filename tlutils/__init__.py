"""tlutils: transfer learning on medical images, as a street walked in one direction.

    source -> records -> splits -> loaders -> model -> training -> predictions -> evaluation -> inspection

Tables are pandas DataFrames, batches are tensors, a finished run is a folder of plain files. Each room is a
module of its own: `from tlutils import records, splits`. Copy the folder into another project and it works there.
"""

import importlib

__version__ = "0.1.0"

__all__ = ["augment", "calibration", "checkpoints", "cleaning", "comparison", "devices", "downloads", "evaluation",
           "features", "inspection", "loaders", "models", "phantoms", "plots", "recipes", "records", "report", "runs",
           "shortcuts", "similar", "sources", "splits", "training", "tuning", "weights"]


def __getattr__(name: str) -> object:
    """Import a room when it is first asked for: an audit of file names need not wait for torch."""
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its rooms are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
