"""tlutils: transfer learning on medical images, as a street walked in one direction.

    source -> records -> splits -> loaders -> model -> training -> predictions -> evaluation -> inspection

Tables are pandas DataFrames, batches are tensors, a finished run is a folder of plain files. Each room is a
module of its own: `from tlutils import records, splits`. Copy the folder into another project and it works there.
"""

from . import (augment, calibration, checkpoints, cleaning, comparison, devices, downloads, evaluation, features,
               inspection, loaders, models, phantoms, plots, recipes, records, report, runs, shortcuts, similar, sources,
               splits, training, tuning, weights)
from .run_folder import VERSION as __version__

__all__ = ["augment", "calibration", "checkpoints", "cleaning", "comparison", "devices", "downloads", "evaluation",
           "features", "inspection", "loaders", "models", "phantoms", "plots", "recipes", "records", "report", "runs",
           "shortcuts", "similar", "sources", "splits", "training", "tuning", "weights"]
