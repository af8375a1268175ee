"""A run's folder of plain files, and what was settled when it began."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from .. import __version__
from ..core import devices, files
from ..core.devices import Machine
from ..core.words import many
from ..data import records, splits
from ..models import checkpoints
from .recipes import Recipe

# What `stress` writes: its table, and the answers that this is of.
STRESS_FILES = ("stress.csv", "stress_predictions.csv")
REPORT = "report.html"
_FINISHED = ("best.pt", "metrics.json")
_MEND = "Take it from a copy of the run, or remove the run's folder and train it again"
# What recipe.json holds beside the recipe, by the path of its keys.
_KEPT = {
    "weights.requested": str,
    "limit": int,
    "data.requested": str,
    "data.root": str,
    "data.classes": list,
    "data.images": int,
    "data.fingerprint": str,
    "data.split": str,
    "audit.verdict": str,
    "audit.leak": bool,
    "machine": dict,
    "versions": dict,
    "started": str,
    "notes": list,
}


class NotARun(FileNotFoundError):
    """A folder that holds no run, or only the beginning of one."""


@dataclass
class Run:
    """A run's folder and what was settled when it began.

    Parameters
    ----------
    folder : Path, where its files lie
    recipe : Recipe, as used
    records : DataFrame, the table of images with their splits
    root : Path, where the images lie
    about : dict, the rest of recipe.json
    """

    folder: Path
    recipe: Recipe
    records: pd.DataFrame
    root: Path
    about: dict = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Open a run's folder.

        Parameters
        ----------
        folder : str or Path
            Where a training wrote it; names of before in its recipe.json are understood.

        Returns
        -------
        Run

        Raises
        ------
        NotARun
            Where recipe.json or records.csv is missing.
        ValueError
            Where they are not what a run writes, or name images outside the folder of its data, as
            in a run that somebody else has made.
        """
        folder = Path(folder)
        for name in files.BEGUN:
            if not (folder / name).is_file():
                # Images, say, among which no run should lie.
                other = folder.is_file() or any(folder.glob("[!.]*"))
                into = "a folder of its own" if other else "it"
                out = "runs/NAME" if other else shlex.quote(str(folder))
                raise NotARun(
                    f"{folder} is no run's folder: it has no {name}. Train one into {into} first "
                    f"(python -m tlutils train RECIPE --data DATA --out {out})"
                )
        about = _checked(_with_new_names(_json(folder / "recipe.json")), folder / "recipe.json")
        try:
            recipe = Recipe.from_dict(about["recipe"])
        except ValueError as error:
            raise _damaged(folder / "recipe.json", error) from None
        table = _records(folder / "records.csv", about)
        return cls(folder, recipe, table, Path(about["data"]["root"]), about)

    @property
    def classes(self) -> list[str]:
        """Class names in index order."""
        return self.about["data"]["classes"]

    @property
    def weights(self) -> str:
        """What weights were requested for the backbone: "imagenet", "random" or a path."""
        return self.about["weights"]["requested"]

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch."""
        file = self._file("history.csv")
        try:
            return pd.read_csv(file)
        except ValueError as error:
            raise _damaged(file, error) from None

    @property
    def predictions(self) -> pd.DataFrame:
        """What the model answered for each validation and test image."""
        file = self._file("predictions.csv")
        try:
            predictions = read_predictions(file)
            unknown = set(predictions["path"]) - set(self.records["path"])
        except (ValueError, KeyError) as error:
            raise _damaged(file, error) from None
        if unknown:
            raise _damaged(file, f"{min(unknown)} is not in records.csv")
        return predictions

    @property
    def stress(self) -> pd.DataFrame | None:
        """What changes of acquisition cost, see `stress.stress`; None where nobody has measured."""
        file = self.folder / STRESS_FILES[0]
        if not file.is_file():
            return None
        try:
            return pd.read_csv(file).fillna({"change": "", "family": ""})
        except ValueError as error:
            raise _damaged(file, error) from None

    @property
    def metrics(self) -> dict:
        """Numbers with intervals, for each split."""
        return _json(self._file("metrics.json"))

    @property
    def finished(self) -> bool:
        """Whether all of it is there, measured."""
        return all((self.folder / name).is_file() for name in _FINISHED)

    def check_finished(self) -> None:
        """Refuse a run that is not `finished`, before work that would end at what it lacks.

        Raises
        ------
        NotARun
            Naming the file that is missing.
        """
        for name in _FINISHED:
            self._file(name)

    @property
    def threshold(self) -> float | None:
        """From which probability on the second of two classes is answered; None: the likelier.

        NotARun where the recipe wants one that has not been chosen yet.
        """
        content = checkpoints.load(self._file("best.pt"))
        if self.recipe.threshold and "threshold" not in content:
            raise NotARun(
                f"{self.folder} was stopped before its threshold was chosen, by which it answers. "
                "Run the same training again; it goes on where it stopped"
            )
        return content.get("threshold")

    @property
    def drawn(self) -> bool:
        """Whether the images are phantoms."""
        return any(note.startswith("phantom") for note in self.about["notes"])

    @property
    def remarks(self) -> list[tuple[str, bool]]:
        """What must be said beside every result, and whether it takes from what the result says."""
        grave = ("phantom", "random", "LEAK")
        return [(note, note.startswith(grave)) for note in self.about["notes"]]

    @property
    def caption(self) -> str:
        """What must be said beside every result of this run, in one line."""
        return "; ".join(self.about["notes"])

    def machine(self, device: str = "auto", precision: str = "auto") -> Machine:
        """What to compute the trained model's answers on.

        Parameters
        ----------
        device, precision : str
            See `devices.choose`; but "auto" is fp32 where the run was trained in it, so that the
            answers are those of its own metrics, and where one of several processes has no bf16.
            What was compiled is so again on such a device, as the kept features depend on it.

        Returns
        -------
        Machine
        """
        trained, chosen = self.about["machine"], devices.choose(device, precision)
        alike = str(trained.get("device")).startswith(chosen.device.type)
        needed = [trained.get("precision"), *devices.gather(chosen.precision)]
        if precision == "auto" and "fp32" in needed:
            chosen = devices.choose(device, "fp32")
        return dataclasses.replace(chosen, compiled=alike and bool(trained.get("compiled")))

    def model(self) -> nn.Module:
        """The trained model.

        Returns
        -------
        nn.Module, with the weights of its best epoch, in eval mode, on the CPU
        """
        return checkpoints.load_model(self._file("best.pt"))[0]

    def part(self, split: str, required: bool = False) -> pd.DataFrame:
        """The records of one split.

        Parameters
        ----------
        split : str, "train", "val" or "test"
        required : bool, whether there must be any

        Returns
        -------
        DataFrame

        Raises
        ------
        ValueError
            Where there are none and there must be.
        """
        found = self.records[self.records["split"] == split].reset_index(drop=True)
        if required and found.empty:
            there = ", ".join(sorted(set(self.records["split"]) - {""}))
            raise ValueError(f"the run has no {split!r} images; its splits are {there}")
        return found

    def store(self, folder: str | Path | None = "auto") -> str | Path | None:
        """The folder of the feature store.

        Parameters
        ----------
        folder : str, Path or None, "auto" is beside the run

        Returns
        -------
        str, Path or None; None where views never come back
        """
        if self.recipe.views == 0 and not self.recipe.head_epochs:
            return None
        return self.folder / "features" if folder == "auto" else folder

    @property
    def fingerprint(self) -> str:
        """A mark of the weights of best.pt."""
        return checkpoints.fingerprint(checkpoints.load(self._file("best.pt")))

    @property
    def best_file(self) -> tuple[int, ...]:
        """What tells this best.pt from one that a training puts in its place."""
        about = self._file("best.pt").stat()
        return about.st_ino, about.st_mtime_ns, about.st_size

    def check_best_file(self, begun_with: tuple[int, ...]) -> None:
        """Refuse to go on with a model where best.pt holds another by now.

        Parameters
        ----------
        begun_with : tuple of int, `best_file` before any of it was read

        Raises
        ------
        files.Busy
            Where a training that went on has put another in its place.
        """
        if self.best_file != begun_with:
            raise files.Busy(
                f"{self.folder} was trained on meanwhile, so answers and threshold would be of two "
                "models; run the same again when the training has ended"
            )

    def of_earlier_weights(self, weights: str | None) -> list[str]:
        """Find what `evaluate` and `adapt` wrote when the run had other weights.

        Parameters
        ----------
        weights : str or None, the `fingerprint` of those that it has; None finds all that names any

        Returns
        -------
        list of str, paths of .json files from the run's folder on
        """
        found = []
        for kind in ("evaluations", "adaptations"):
            for file in sorted((self.folder / kind).glob("*.json")):
                with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                    if _json(file)["used"]["weights"] != weights:
                        found.append(f"{kind}/{file.name}")
        return found

    def adaptation(self, name: str, any_weights: bool = False) -> dict:
        """What was chosen for another place.

        Parameters
        ----------
        name : str, as `adapt.adapt` gave it or was told
        any_weights : bool, whether it may have been chosen for weights that the run had before

        Returns
        -------
        dict, see `adapt.adapt`; and "images", the sha256 of each image that it was chosen on, and
        "choice", what tells it from another of the same name

        Raises
        ------
        ValueError
            Where there is none of that name, it was chosen for other weights, or its files are not
            what `adapt` writes.
        """
        folder = self.folder / "adaptations"
        known = sorted(file.stem for file in folder.glob("*.json"))
        if name not in known:
            found = f"it has {', '.join(known)}" if known else "it has none yet"
            raise ValueError(
                f"{self.folder} has no adaptation {name!r}; {found}. Make one from labelled images "
                f"of the place (python -m tlutils adapt {shlex.quote(str(self.folder))} "
                "--data LOCAL)"
            )
        file = folder / f"{name}.json"
        mend = "Delete it and adapt the run again, to the same images"
        found = _json(file, mend)
        try:
            weights, views = found["used"]["weights"], found["used"]["views"]
            threshold, temperature = found["threshold"], found["temperature"]["value"]
            if not (views >= 0 < temperature and (not threshold or threshold["value"] >= 0)):
                raise ValueError("views, threshold or temperature is no number that can be")
            choice = {"fingerprint": found["used"]["fingerprint"], "temperature": temperature}
            choice["threshold"] = threshold["value"] if threshold else None
            images = pd.read_csv(file.with_suffix(".csv"), usecols=["sha256"], dtype=str)
            if lacking := {"before", "after", "difference", "steady"} - found.keys():
                raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(file, error, mend) from None
        if not any_weights and weights != self.fingerprint:
            raise ValueError(
                f"the adaptation {name!r} of {self.folder} was chosen for other weights: the run "
                "was trained on since. Adapt it anew, on the same images"
            )
        return found | {"images": set(images["sha256"]), "choice": choice}

    def write(self) -> None:
        """Write recipe.json, with the recipe as used."""
        self.about["recipe"] = self.recipe.to_dict()
        files.write_json(self.folder / "recipe.json", self.about)

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise NotARun(
                f"{self.folder} has no {name}: the run was not finished. Run the same training "
                "again; it goes on where it stopped"
            )
        return path


@contextlib.contextmanager
def as_this_version_writes(run: Run) -> Iterator[None]:
    """Say what is wrong where a run's files lack what a `with` block reads from them.

    Parameters
    ----------
    run : Run

    Yields
    ------
    None

    Raises
    ------
    ValueError
        In place of errors that only say what was looked for.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"the files of {run.folder} are not what a run of this version writes "
            f"({type(error).__name__}: {error}). Take them from a copy of the run, or train it "
            "again"
        ) from error


def timestamp() -> str:
    """The time as the files of a run have it.

    Returns
    -------
    str, UTC, to the second
    """
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A predictions table from its file; patients and labels stay text.

    Parameters
    ----------
    path : str or Path, predictions.csv, or what `predict` wrote

    Returns
    -------
    DataFrame
    """
    texts = dict.fromkeys(("split", "path", "patient", "label", "predicted"), str)
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={"loss": [""]})


def _damaged(file: Path, why: object, mend: str = _MEND) -> ValueError:
    return ValueError(f"{file} is not what a run writes: {why}. {mend}")


def _json(file: Path, mend: str = _MEND) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error, mend) from None
    if not isinstance(content, dict):
        raise _damaged(file, "it holds no names with values", mend)
    return content


def _with_new_names(about: dict) -> dict:
    """What was requested was called "asked" once."""
    for name in ("weights", "data"):
        if isinstance(about.get(name), dict) and "asked" in about[name]:
            about[name].setdefault("requested", about[name].pop("asked"))
    return about


def _checked(about: dict, file: Path) -> dict:
    for name, kind in {"recipe": dict, **_KEPT}.items():
        value = about
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _damaged(file, f"{name} is {value!r} and no {kind.__name__}")
    notes = about["notes"]
    if not notes or not all(isinstance(text, str) for text in about["data"]["classes"] + notes):
        raise _damaged(file, "its classes and notes are not all texts")
    if not isinstance(about["data"].get("patient"), (str, type(None))):
        raise _damaged(file, f"data.patient is {about['data']['patient']!r} and no text")
    return about


def _records(file: Path, about: dict) -> pd.DataFrame:
    try:
        table = records.load(file)
        sides, labels = set(table["split"]), set(records.readable(table)["label"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, error) from None
    if odd := sides - {*splits.SPLITS, ""} | labels - set(about["data"]["classes"]):
        raise _damaged(file, f"it knows a split or class {min(odd)!r} that recipe.json does not")
    root, top = about["data"]["root"], about["data"].get("top")
    leaving = table["path"][table["path"].str.contains(r"^[/\\]|:|(?:^|[/\\])\.\.(?:[/\\]|$)")]
    whole = {path: Path(os.path.normpath(os.path.join(root, path))) for path in leaving}
    outside = [path for path in leaving if not whole[path].is_relative_to(top or root)]
    if outside and (top or os.path.isabs(outside[0])):
        where = f"outside the folder of the data, e.g. {outside[0]}"
        raise _damaged(file, f"it names {many(len(outside))} {where}")
    if outside:  # a manifest's run of before recipe.json named the folder of all images
        where = f"outside {root}, e.g. {outside[0]}"
        warnings.warn(f"{file} names {many(len(outside))} {where}", stacklevel=3)
    return table


@contextlib.contextmanager
def reserved(folder: str | Path) -> Iterator[None]:
    """Keep the folder of a run for this training; of several processes the first holds it for all.

    Parameters
    ----------
    folder : str or Path, may be reserved several times over by one thread

    Yields
    ------
    None

    Raises
    ------
    files.Busy
        In every process, where another training is at work there.
    ValueError
        Where it is a file.
    """
    if Path(folder).is_file():
        raise ValueError(
            f"the run's folder would be {folder}, which is a file; choose another name"
        )
    folder = Path(folder)
    made, file = not folder.exists(), folder / ".lock"
    lock = files.locked(file, f"the run {folder}")
    with contextlib.ExitStack() as held:
        devices.by_first(lambda: held.enter_context(lock))
        try:
            yield
        finally:
            if made and devices.rank() == 0 and list(folder.glob("*")) == [file]:  # it was refused
                with contextlib.suppress(OSError):
                    file.unlink()
                    folder.rmdir()


def versions() -> dict[str, str]:
    """What a run is made with.

    Returns
    -------
    dict, versions by name
    """
    import torchvision

    return {
        "tlutils": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "platform": platform.platform(),
    }
