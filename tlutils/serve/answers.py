"""A finished run held in memory: from the bytes of an image to its answer, as a plain dict.

The answer is that of `runs.use.predict`. Beside it stand what spoke for it, the training images
that are nearest to the image, and how unlike all of them it is.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.preprocessing import normalize
from torch import Tensor

from ..core import dicom, images
from ..core.images import UnreadableImage
from ..core.words import answered_from, many
from ..data import loaders, records, splits
from ..data.audit import audit_all
from ..data.loaders import Batch
from ..evaluation import adaptation, calibration, thresholds
from ..evaluation.metrics import denominator
from ..evaluation.predict import predict
from ..inspection import attribution
from ..report import caveats, facts
from ..runs import reference
from ..runs.folder import Run, as_this_version_writes
from ..runs.use import checked_views, predict_records, temperature_in_use, threshold_in_use

# Pixels; a mammogram has 24 million, and deep ones take 24 bytes each while they are scaled.
MOST_PIXELS = 32_000_000
_LOOKED_AT, _NEAREST = 500, 5  # training images
_SHOWN, _SMALL = 512, 160  # pixels of a side, of the image and of a training image


class Answerer:
    """A run's model and some of its training images, held in memory to answer image after image.

    Parameters
    ----------
    folder : str or Path, the run, finished
    adapted : str, optional, the name of an adaptation to answer by (see `adapt.adapt`)
    device, precision : str, see `Run.machine`
    show : bool, optional, progress bars or not; None decides

    Raises
    ------
    NotARun
        Where the folder holds no run or an unfinished one.
    ValueError
        Where its files are not what a run writes, or it has no such adaptation.
    """

    def __init__(
        self,
        folder: str | Path,
        adapted: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        show: bool | None = None,
    ) -> None:
        run = self.run = Run.load(folder)
        self._adaptation = None if adapted is None else run.adaptation(adapted)
        self._views = checked_views(run, None, self._adaptation)
        self._threshold = threshold_in_use(run, self._adaptation)
        self._temperature = temperature_in_use(run, False, self._adaptation)
        self._limits = _limits(run, self._adaptation)
        self._machine, self._model = run.machine(device, precision), run.model()
        answers = partial(predict_records, run, self._model, machine=self._machine, show=show)
        answers = partial(answers, store=run.store())
        self._reference = reference.known(run, self._model, answers)
        self._training, self._no_training, self._directions = _looked_at(run, answers)

    def about(self) -> dict:
        """What holds for every answer.

        Returns
        -------
        dict
            title; rule, how the answer is chosen; notes, a list of what must be said beside every
            result, as text and grave, the graver first; limits, a list of title and text; training,
            a sentence about the images that are looked at for the nearest.
        """
        run = self.run
        notes = [{"text": note, "grave": grave} for note, grave in run.remarks]
        return {
            "title": facts.title(run),
            "rule": self._rule(),
            "notes": sorted(notes, key=lambda note: not note["grave"]),
            "limits": self._limits,
            "training": self._no_training
            or f"The nearest of {len(self._training):,} training images, by the cosine of what "
            "enters the head. Alike to the network is not alike to a physician.",
        }

    def answer(self, data: bytes) -> dict:
        """Answer one image.

        Parameters
        ----------
        data : bytes, of an image file

        Returns
        -------
        dict
            answer; classes, a list of name, probability and mark, the probability from which on
            the class is answered (None where the likeliest is); distance and unlike (see
            `use.predict`), both None where they cannot be told; known, the split of the run that
            has this very file, or None; picture, a data URL, and shape, (width, height) to show it
            in; map, a data URL to lay over it, or None, and what it shows in words; nearest, a list
            of label, similarity (cosine), path and picture (None where the file has gone).

        Raises
        ------
        UnreadableImage
            With a sentence that says why.
        ValueError
            Where the model answers NaN.
        """
        reading = self.run.recipe.reading()
        larger = reading | {"size": _SHOWN}
        try:
            width, height = _checked_size(data)
            image, shown = (loaders.read_image("", data=data, **how) for how in (reading, larger))
        except UnreadableImage as error:
            raise _refusal(str(error).removeprefix(": ")) from None
        sha256 = hashlib.sha256(data).hexdigest()
        row, features = self._predicted(image, sha256)
        index = self.run.classes.index(row["predicted"])
        squashed = self.run.recipe.resize == "squash"
        known = self.run.records.loc[self.run.records["sha256"] == sha256, "split"]
        found, words = self._map(image, index)
        return {
            "answer": row["predicted"],
            "classes": list(self._classes(row)),
            "distance": None if self._reference is None else float(row["distance"]),
            "unlike": None if self._reference is None else bool(row["unlike"]),
            "known": next(iter(known), None),
            "picture": _png(shown),
            "shape": [width, height] if squashed else [_SHOWN, _SHOWN],
            "map": None if found is None else _png(_colored(found)),
            "words": words,
            "nearest": list(self._nearest(features)),
        }

    def _predicted(self, image: Tensor, sha256: str) -> tuple[dict, np.ndarray]:
        """The row of a predictions table as `use.predict` has it, and what entered the head."""
        entered = []

        def describe(pixels: np.ndarray, features: np.ndarray) -> pd.DataFrame:
            entered.append(features[0])
            known = self._reference
            return known.describe(pixels, features) if known else pd.DataFrame(index=[0])

        table = predict(
            self._model,
            _InMemory(image, loaders.image_key(sha256), self.run.classes),
            self._machine,
            "new",
            progress=False,
            views=self._views,
            augmentation=self.run.recipe.augmentation,
            seed=self.run.recipe.seed,
            describe=describe,
        )
        table = calibration.answered(table, self._threshold, self._temperature)
        return table.iloc[0].to_dict(), entered[0]

    def _classes(self, row: dict) -> Iterator[dict]:
        for name in self.run.classes:
            mark = self._mark() if name == self._positive() else None
            yield {"name": name, "probability": float(row[f"p_{name}"]), "mark": mark}

    def _positive(self) -> str | None:
        """The class that a threshold is about, of two."""
        return thresholds.positive_of(self.run.classes) if len(self.run.classes) == 2 else None

    def _mark(self) -> float:
        """The threshold on the scale of the probabilities that are shown."""
        threshold = 0.5 if self._threshold is None else float(np.clip(self._threshold, 0, 1))
        return calibration.threshold_at(threshold, self._temperature)

    def _rule(self) -> str:
        chosen, positive = self._adaptation, self._positive()
        words = ["The likeliest class is the answer."]
        if positive:
            of = chosen["name"] if chosen else None if self._threshold is None else "the run"
            words = [answered_from(positive, self._mark(), of)]
        if self._views:
            words += [f"Each is the mean over the image and {many(self._views, 'view')} of it."]
        if chosen:
            words += [f"The probabilities are at the temperature of {chosen['name']}."]
        return " ".join(words)

    def _map(self, image: Tensor, index: int) -> tuple[np.ndarray | None, str]:
        """Grad-CAM of a class, float32 (S, S), or None; and what is to be thought of it."""
        name = self.run.classes[index]
        try:
            found = attribution.grad_cam(self._model, image[None], index)[0]
        except (ValueError, ImportError) as error:
            return None, f"There is no Grad-CAM of this network: {error}."
        if not found.any():
            return None, f"Grad-CAM finds no place that speaks for {name}."
        if np.ptp(found) < 0.01:
            return None, (
                "Grad-CAM says nothing here: its layer sees the whole image as one place. Images "
                "larger than those of this run would give it more."
            )
        words = f"Bright: places that spoke for {name}, by Grad-CAM. A guess about the network, "
        words += "not a finding in the patient."
        if self.run.weights == "random" and self.run.recipe.freeze != "none":
            words += " With frozen random weights it shows the picture more than what was learned."
        return found, words

    def _nearest(self, features: np.ndarray) -> Iterator[dict]:
        if self._training.empty:
            return
        alike = self._directions @ normalize(features[None])[0]
        for row in np.argsort(-alike, kind="stable")[:_NEAREST]:
            known = self._training.iloc[row]
            found = {"label": known["label"], "similarity": float(alike[row])}
            yield found | {"path": known["path"], "picture": self._small(known["path"])}

    def _small(self, path: str) -> str | None:
        how = self.run.recipe.reading() | {"size": _SMALL, "resize": "pad"}
        try:
            return _png(loaders.read_image(self.run.root / path, **how))
        except UnreadableImage:
            return None


class _InMemory:
    """One image that has been read, in the place of a `loaders.Loader`, as `predict` uses it."""

    def __init__(self, image: Tensor, key: int, classes: list[str]) -> None:
        self.records = pd.DataFrame({"path": [""], "patient": [""], "label": [""]})
        self.classes, self.unreadable, self.pinned = classes, [], False
        self.batch = Batch(image[None], *(torch.tensor([number]) for number in (-1, key, 0)))

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch


def _limits(run: Run, chosen: dict | None) -> list[dict]:
    """What the run's result does not say, as its report tells it; first what an adaptation is."""
    with as_this_version_writes(run):
        found = [one._asdict() for one in caveats.of(run, audit_all(run.records))]
    if chosen:
        used = chosen["used"]
        text = (
            f"They were chosen on {denominator({**used, 'n': used['images']})}. "
            f"{adaptation.in_words(chosen)} All that is said below is of the run as it was "
            "trained, with its own threshold and without a temperature."
        )
        title = f"Threshold and temperature are those of {chosen['name']}"
        found.insert(0, {"title": title, "text": text})
    return found


def _looked_at(run: Run, answers: partial) -> tuple[pd.DataFrame, str, np.ndarray]:
    """Some training images, or why there are none, and the directions of what enters the head."""

    def describe(_: np.ndarray, features: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(features)

    try:
        train = records.readable(run.part("train"))
        some = splits.sample(train, _LOOKED_AT, run.recipe.seed)
        found = answers(some, "train", views=0, describe=describe)
    except (OSError, ValueError) as error:
        why = f"The nearest training images cannot be shown, as {run.root.name} is gone or "
        return pd.DataFrame(), f"{why}cannot be read: {error}.", np.empty((0, 0))
    features = found[[name for name in found if isinstance(name, int)]].to_numpy()
    return found[["path", "label"]], "", normalize(features)


def _checked_size(data: bytes) -> tuple[int, int]:
    """(width, height) upright; refused where the pixels would fill the memory."""
    size = dicom.size(data)  # a look at such a file would decode it
    if size is None:
        header, problem = images.look(data, decode=False)
        if problem:
            raise UnreadableImage(problem)
        size = header[:2]
    width, height = size
    if width * height > MOST_PIXELS:
        raise UnreadableImage(
            f"{width:,} x {height:,} pixels are more than the {MOST_PIXELS:,} that are "
            "read here; make it smaller"
        )
    return width, height


def _refusal(problem: str) -> UnreadableImage:
    """What is wrong with a file, in a sentence for the person at the page."""
    if problem.startswith("not an image"):
        kinds = "JPEG, PNG, BMP, TIFF, GIF, WebP or DICOM"
        return UnreadableImage(f"this is no image; choose a {kinds} file")
    return UnreadableImage(f"this file cannot be answered: {problem}")


def _colored(found: np.ndarray) -> np.ndarray:
    """A map as uint8 (H, W, 4), the more opaque the further above its weakest place."""
    colors = matplotlib.colormaps["inferno"](found, bytes=True)
    colors[..., 3] = 255 * 0.7 * (found - found.min())
    return colors


def _png(pixels: Tensor | np.ndarray) -> str:
    """A data URL of uint8 pixels (C, H, W), or of an array (H, W, 4)."""
    if isinstance(pixels, Tensor):
        pixels = pixels[0].numpy() if len(pixels) == 1 else pixels.movedim(0, -1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
