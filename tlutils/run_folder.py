"""A run's folder of plain files, and what was settled when it began.

Taught in notebook 03.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import nn

from . import __version__, checkpoints
from . import records as records_room
from .recipes import Recipe



class NotARun(FileNotFoundError):
    """A folder that holds no run, or only the beginning of one."""


@dataclass
class Run:
    """A run's folder and what was settled when it began.

    folder : where its files lie. recipe : as used. records : the table with its splits. root : where the images
    lie. about : the rest of recipe.json.
    """

    folder: Path
    recipe: Recipe
    records: pd.DataFrame
    root: Path
    about: dict = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Class names in index order."""
        return self.about["data"]["classes"]

    @property
    def weights(self) -> str:
        """What the backbone's weights were asked to be: "imagenet", "random" or a path."""
        return self.about["weights"]["asked"]

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch."""
        return pd.read_csv(self._file("history.csv"))

    @property
    def predictions(self) -> pd.DataFrame:
        """What the model said of each validation and test image."""
        return read_predictions(self._file("predictions.csv"))

    @property
    def metrics(self) -> dict:
        """Numbers with intervals, for each split."""
        return json.loads(self._file("metrics.json").read_text(encoding="utf-8"))

    def model(self) -> nn.Module:
        """The trained model with the weights of its best epoch, in eval mode, on the CPU."""
        return checkpoints.load_model(self._file("best.pt"))[0]

    @property
    def threshold(self) -> float | None:
        """From which probability on the second of two classes is answered; None answers the likelier one."""
        return checkpoints.load(self._file("best.pt")).get("threshold")

    def part(self, split: str) -> pd.DataFrame:
        """The records of one split."""
        return self.records[self.records["split"] == split].reset_index(drop=True)

    def store(self, place: str | Path | None = "auto") -> str | Path | None:
        """The folder of the feature store: beside the run for "auto"; None where views never come back."""
        if self.recipe.views == 0 and not self.recipe.head_epochs:
            return None
        return self.folder / "features" if place == "auto" else place

    @property
    def caption(self) -> str:
        """What must be said beside every result of this run, in one line."""
        return "; ".join(self.about["notes"])

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise NotARun(f"{self.folder} has no {name}: the run was not finished. Run the same training again; "
                          "it goes on where it stopped")
        return path


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A predictions table from its file; patients and labels stay text."""
    return pd.read_csv(path, dtype={name: str for name in ("split", "path", "patient", "label", "predicted")},
                       keep_default_na=False, na_values={"loss": [""]})


def load(folder: str | Path) -> Run:
    """Open a run's folder.

    Raises
    ------
    NotARun where recipe.json or records.csv is missing.
    """
    folder = Path(folder)
    for name in ("recipe.json", "records.csv"):
        if not (folder / name).is_file():
            raise NotARun(f"{folder} is no run's folder: it has no {name}. Train one into it first "
                          f"(python -m tlutils train RECIPE --data DATA --out {folder})")
    about = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    return Run(folder, Recipe.from_dict(about["recipe"]), records_room.load(folder / "records.csv"),
               Path(about["data"]["root"]), about)


def versions() -> dict[str, str]:
    """What the run was made with."""
    return {"tlutils": __version__, "python": platform.python_version(), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "numpy": np.__version__, "pandas": pd.__version__,
            "platform": platform.platform()}
