"""Could a network cheat? How well the properties of the files alone, without the picture, tell the label.

Images of two classes often come from two machines or two hands: other sizes, other compression, other modes.
A network may learn that instead of the disease, and fail where the files are made in another way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold

from ..core.intervals import interval, resamples, weighted_auc

FOLDS = 5  # so many patients at least in every class
SAMPLE = 10_000  # images at most: enough for two decimals, and seconds instead of minutes
REPEATS = 200  # resamples of patients for the interval
CLEAR = 0.55  # an AUC whose interval begins above this is no chance
NEEDED = ("width", "height", "mode", "bytes")


@dataclass(frozen=True)
class Shortcuts:
    """What `measure` found: how well file properties alone tell the label.

    table : property ("all together", then each alone, the most telling first), auc, low, high (95 %
    interval). right : images whose label all properties together told; of : images asked about; usual : share
    of the most frequent label, which needs no property; patients : how many.
    """

    table: pd.DataFrame
    right: int
    of: int
    usual: float
    patients: int

    @property
    def clear(self) -> bool:
        """Whether the label shows clearly: the interval of all together begins above 0.55."""
        return bool(self.table["low"].iloc[0] > CLEAR)


def properties(records: pd.DataFrame) -> pd.DataFrame:
    """What is known of each file without its picture, as numbers (float, NaN where unknown).

    records : as after `records.inspect`; with brightness (see `similar.perceptual_hashes`) that as well.
    Returns width, height (pixels), aspect (width / height), bytes, bytes per pixel, mode and suffix (a number
    for each kind), brightness. Bytes and brightness depend on what is shown too: they are a hint, width is a
    sign. ValueError where the records were not inspected.
    """
    if lost := [name for name in NEEDED if name not in records]:
        raise ValueError(f"the records lack {', '.join(lost)}; records.inspect adds them")
    width, height, size = (
        records[name].astype("Float64").to_numpy(float, na_value=np.nan)
        for name in ("width", "height", "bytes")
    )
    table = {
        "width": width,
        "height": height,
        "aspect": width / height,
        "bytes": size,
        "bytes per pixel": size / (width * height),
        "mode": pd.factorize(records["mode"], sort=True)[0],
        "suffix": pd.factorize(records["path"].str.lower().str.extract(r"(\.\w+)$")[0], sort=True)[
            0
        ],
    }
    if "brightness" in records:
        table["brightness"] = records["brightness"]
    return pd.DataFrame(table, index=records.index).astype(float)


def measure_shortcuts(
    records: pd.DataFrame, seed: int = 0, sample: int = SAMPLE
) -> Shortcuts | None:
    """Learn the label from file properties alone and examine that on other patients.

    records : as after `records.inspect`; unreadable images take no part. sample : images at most, drawn by
    patient.

    A random forest, cross-validated in five parts by patient, once with all properties and once with each
    alone; the AUC is the mean over the classes, each against the rest: 0.5 is guessing, 1 telling all.
    Intervals by bootstrap over patients. None where it cannot be told: one class, or a class with fewer than
    five patients.
    """
    known = _some_patients(records, seed, sample)
    label, classes = pd.factorize(known["label"], sort=True)
    fewest = known.groupby("label")["patient"].nunique().min() if len(known) else 0
    if len(classes) < 2 or fewest < FOLDS:
        return None
    values = properties(known)
    values = values[[name for name in values if values[name].nunique(dropna=False) > 1]]
    patient = pd.factorize(known["patient"])[0]
    folds = list(
        StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(values, label, patient)
    )
    told = _told(values, label, folds, seed)
    alone = [(name, _told(values[[name]], label, folds, seed)) for name in values]
    rows = [{"property": name, **_auc(label, scores, patient, seed)} for name, scores in alone]
    rows = sorted(rows, key=lambda row: -row["auc"])
    table = pd.DataFrame([{"property": "all together", **_auc(label, told, patient, seed)}, *rows])
    return Shortcuts(
        table,
        int((told.argmax(1) == label).sum()),
        len(known),
        float(np.bincount(label).max() / len(label)),
        patient.max() + 1,
    )


def _some_patients(records: pd.DataFrame, seed: int, sample: int) -> pd.DataFrame:
    """The readable rows of patients drawn at random until there are about `sample` images."""
    fine = records[records["problem"] == ""] if "problem" in records else records
    if len(fine) <= sample:
        return fine
    sizes = fine["patient"].value_counts().sort_index().sample(frac=1, random_state=seed).cumsum()
    return fine[fine["patient"].isin(set(sizes.index[sizes <= sample]))]


def _told(values: pd.DataFrame, label: np.ndarray, folds: list, seed: int) -> np.ndarray:
    """float (images, classes): what a model that never saw an image's patient says of its label."""
    shares = np.bincount(label) / len(label)
    scores = np.tile(shares, (len(label), 1))
    if values.shape[1] == 0:  # all files are alike
        return scores
    for learn, examine in folds:
        model = RandomForestClassifier(30, min_samples_leaf=10, random_state=seed)
        model.fit(values.iloc[learn], label[learn])
        scores[np.ix_(examine, model.classes_)] = model.predict_proba(values.iloc[examine])
    return scores


def _auc(label: np.ndarray, scores: np.ndarray, patient: np.ndarray, seed: int) -> dict[str, float]:
    """auc, low, high: the mean over the classes, each against the rest, resampled by patient."""
    once = np.ones((1, len(label)))
    value = _mean_auc(label, scores, once)[0]
    draws = resamples(
        patient.max() + 1, REPEATS, seed, 16 * len(label)
    )  # 16: blocks of 2 MB, not of 32
    spread = np.concatenate([_mean_auc(label, scores, drawn[:, patient]) for drawn in draws])
    found = interval(value, spread, 0.95, patient.max() + 1)
    return {"auc": found["value"], "low": found["low"], "high": found["high"]}


def _mean_auc(label: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.mean(
        [weighted_auc(label == k, scores[:, k], weights) for k in range(scores.shape[1])], axis=0
    )


def audit_rows(found: Shortcuts | None) -> pd.DataFrame:
    """What `measure` found as a row in the columns of `splits.audit`; no row where it could not be told.

    A warning where the label shows clearly, never a leak: the pictures may still tell more than the files.
    """
    if found is None:
        return pd.DataFrame()
    total, best = found.table.iloc[0], found.table.iloc[min(1, len(found.table) - 1)]
    number = f"AUC {total['auc']:.2f}, 95 % {total['low']:.2f} to {total['high']:.2f}"
    bad = (
        f"File properties alone, without the picture, tell {found.right / found.of:.0%} of the labels of "
        f"unseen patients ({number}; the most frequent label would be right for {found.usual:.0%}); most "
        f"telling is {best['property']} alone (AUC {best['auc']:.2f}). A network may learn that instead "
        "of the disease."
    )
    right = found.right if found.clear else 0
    return pd.DataFrame(
        [
            {
                "check": "label shown by file properties",
                "splits": "all",
                "found": right,
                "of": found.of,
                "share": right / found.of,
                "verdict": "warning" if found.clear else "ok",
                "examples": "",
                "meaning": bad if found.clear else f"File properties alone tell little ({number}).",
            }
        ]
    )
