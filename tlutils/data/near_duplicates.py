"""Images that look the same though their files differ: saved again, resized, given another name.

`perceptual_hashes` looks at every image once, `near_duplicates` finds the pairs, `audit_rows` says what they
mean for the splits. `near_duplicates_by_features` does the same by what a network sees.
"""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..core import images
from ..core.progress import bar
from .pairing import close_features, close_hashes

HASH = 16  # 16 x 16 = 256 bits; with the usual 64, strangers' chest films come as near as a copy saved again
SIDE = 4 * HASH  # pixels that the hash is made from
# Boxes and slopes have few shapes to tell them apart. Of 5,245 real films and scans none has less than 5.3 bits and
# 0.88 of its waves; a box has 1.4 bits, a slope with some noise 0.4 of the waves.
LEVELS = 3  # bits, entropy of the grey levels
WAVES = 0.5  # share of the frequencies that tell something
ROUNDING = 200  # their least amplitude: 5 times what rounding to whole grey levels adds
DISTANCE, COSINE = 20, 0.97
SPLITS = ("train", "val", "test")


def perceptual_hashes(
    records: pd.DataFrame,
    root: str | Path,
    workers: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Records with phash (str, 64 hexadecimal digits) and brightness (float, mean grey from 0 to 255).

    The hash is ImageHash's phash with 256 bits: for the 16 x 16 lowest frequencies of the picture at 64 x 64
    pixels, whether each is above their median. It is "", and the brightness NaN, where an image cannot be
    decoded or has a `problem`; it is "" for pictures that show too little to be told apart. `workers` counts
    threads; `progress` is whether a bar is shown, None where a person watches. ImportError without ImageHash.
    """
    imagehash = _imagehash()
    fine = (records["problem"] == "") if "problem" in records else pd.Series(True, records.index)
    both = zip(records["path"], fine, strict=True)
    paths = [os.path.join(root, path) if good else "" for path, good in both]
    parts, rows = [paths[start : start + 64] for start in range(0, len(paths), 64)], []
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on large images and odd metadata
        with bar(None, "comparing", len(paths), "file", progress) as shown:
            for part in pool.map(lambda part: [_look(path, imagehash) for path in part], parts):
                rows += part
                shown.update(len(part))
    return records.assign(
        phash=pd.Series([row[0] for row in rows], records.index, dtype="str"),
        brightness=pd.Series([row[1] for row in rows], records.index, dtype="float64"),
    )


def _imagehash() -> ModuleType:
    try:
        import imagehash
    except ImportError as error:
        raise ImportError(
            f"near-duplicates need ImageHash, which cannot be imported ({error}); "
            "pip install imagehash"
        ) from error
    return imagehash


def _look(path: str, imagehash: ModuleType) -> tuple[str, float]:
    """(phash, brightness) of one file; ("", NaN) where it cannot be read."""
    try:
        # The gap averages blocks of pixels first: 0.6 of the time, and about 2 bits of difference.
        small = images.read(path, least=(4 * SIDE, 4 * SIDE)).resize(
            (SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0
        )
    except images.UnreadableImage:
        return "", np.nan
    pixels = np.asarray(small)
    waves = dctn(pixels.astype(float))[:HASH, :HASH]
    apart = waves - np.median(waves)
    shows = _levels(pixels) >= LEVELS and (np.abs(apart) > ROUNDING).mean() >= WAVES
    return str(imagehash.ImageHash(apart > 0)) if shows else "", float(pixels.mean())


def _levels(pixels: np.ndarray) -> float:
    """Bits, entropy of the grey levels of uint8 pixels."""
    counts = np.bincount(pixels.ravel())
    shares = counts[counts > 0] / pixels.size
    return float(-shares @ np.log2(shares))


def near_duplicates(records: pd.DataFrame, distance: int = DISTANCE) -> pd.DataFrame:
    """Pairs of images whose perceptual hashes differ in at most `distance` of 256 bits, the nearest first.

    records : with phash, see `perceptual_hashes`. distance : 0 to 64.

    Returns path_a, path_b, split_a, split_b, label_a, label_b, patient_a, patient_b, distance (int),
    same_bytes (bool, where the records have sha256) and group (int: linked by pairs, directly or through
    others). Images with one and the same hash are each paired with the first of them only. ValueError where
    there are over a million.

    The default lies between what was measured on real images. Copies saved again as JPEG (quality 30 to 95),
    resized (from twice the size to 28 x 28 pixels) differ by 0 to 14 bits, brightened or with a gamma of 0.8
    by up to 20, resized without smoothing by up to 26, with 1 % cut off each edge by up to 42: the last two
    may go unseen. Of 13.6 million pairs of chest films of two patients none came nearer than 38, of 402 pairs
    of OCT scans none nearer than 70; different films of one patient begin at 46, of 4 pairs of scans at 32.
    Phantom chests come as near as 26.
    """
    if not 0 <= distance <= 64:
        raise ValueError(
            f"the distance is {distance}; expected 0 (the same picture) to 64 (often strangers)"
        )
    if "phash" not in records:
        raise ValueError("the records have no phash; similar.perceptual_hashes adds it")
    texts = (
        records["phash"].fillna("").to_numpy(object)
    )  # of type str each would take four bytes a digit
    rows = np.flatnonzero(texts != "")
    codes, unique = pd.factorize(texts[rows])
    first = rows[np.unique(codes, return_index=True)[1]]
    again = first[codes] != rows
    a, b, apart = close_hashes(unique, distance)
    return _table(
        records,
        np.r_[first[a], first[codes][again]],
        np.r_[first[b], rows[again]],
        np.r_[apart, np.zeros(again.sum(), int)],
    )


def near_duplicates_by_features(
    features: np.ndarray, records: pd.DataFrame, cosine: float = COSINE, block: int = 1024
) -> pd.DataFrame:
    """Pairs of images whose features point the same way, as `near_duplicates`; distance is 1 - cosine.

    features : float (N, D), finite, a row for each of the records in their order, such as a feature store's;
    it may be memory-mapped. cosine : above 0, at most 1. block : images compared with as many others at a
    time. All pairs are compared. ValueError where the two do not fit together or there are over a million
    pairs.

    The default was chosen with pooled features of a MobileNetV2 with ImageNet weights: of 13.6 million pairs
    of chest films of two patients the nearest had 0.950; copies enlarged twice, brightened or with another
    gamma had 0.971 and more, but copies of half the size or of JPEG quality 30 0.86, which the hash finds.
    Features of random weights, under which strangers have 0.99, tell nothing of this kind.
    """
    if features.ndim != 2 or len(features) != len(records) or not 0 < cosine <= 1:
        raise ValueError(
            f"found features {features.shape}, {len(records)} records and a cosine of {cosine}; "
            "expected one row of features each and a cosine above 0 and at most 1"
        )
    return _table(records, *close_features(features, cosine, block))


def _table(
    records: pd.DataFrame, a: np.ndarray, b: np.ndarray, distance: np.ndarray
) -> pd.DataFrame:
    """The pairs of row numbers a, b with what the records say of both, the nearest first, and their group."""
    linked = coo_array((np.ones(len(a)), (a, b)), shape=(len(records), len(records)))
    part = connected_components(linked, directed=False)[1]
    names = ("path", "split", "label", "patient")
    columns = {
        f"{name}_{side}": records[name].to_numpy()[rows]
        for name in names
        for side, rows in (("a", a), ("b", b))
    }
    pairs = pd.DataFrame({**columns, "distance": distance})
    if "sha256" in records:
        files = records["sha256"].fillna("").to_numpy(str)
        pairs["same_bytes"] = (files[a] == files[b]) & (files[a] != "")
    pairs["group"] = pd.factorize(part[a])[0]
    return pairs.sort_values(["distance", "path_a", "path_b"], ignore_index=True)


def groups(records: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """Row by row the group of near-duplicates (int) an image belongs to, -1 for none."""
    sides = [pairs.set_index(f"path_{side}")["group"] for side in ("a", "b")]
    known = pd.concat(sides)
    return records["path"].map(known[~known.index.duplicated()]).fillna(-1).astype(int)


def audit_rows(records: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """What near-duplicates mean for the splits, in the columns of `splits.audit`.

    Across two splits they are a leak, whoever the patients are; inside a split a warning where they count as
    two patients or carry two labels, and nothing to mention otherwise: two films of one patient may look the
    same.
    """
    look, beside = _looks(pairs)
    known = records.assign(look=records["path"].map(look))
    met = beside.merge(
        known[["look", "split", "patient", "label"]].dropna(),
        left_on="other",
        right_on="look",
        suffixes=("", "_other"),
    ).drop_duplicates(["look", "split", "patient", "label"])
    inside = [split for split in SPLITS if split in set(known["split"])]
    rows = [_across(known, met, *pair) for pair in combinations(inside, 2)]
    for column in ("patient", "label"):
        hits = known["path"][known["look"].map(met.groupby("look")[column].nunique()) > 1]
        rows.append(
            _row(
                f"near-duplicates of two {column}s",
                "all",
                hits,
                len(records),
                "warning",
                f"{len(hits):,} images look the same as one with another {column}, so one is "
                "wrong or unknown; look at them.",
                f"No images of two {column}s look the same.",
            )
        )
    return pd.DataFrame(rows)


def _looks(pairs: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """Path -> number of its look, and (look, other): which looks are near, each to itself as well.

    Images at distance 0 have one look, though they are paired with the first of them only. Nothing else is passed on:
    that a is near b and b near c does not make c near a.
    """
    paths = pd.Index(pd.unique(pd.concat([pairs["path_a"], pairs["path_b"]])))
    a, b = (paths.get_indexer(pairs[f"path_{side}"]) for side in ("a", "b"))
    same = (pairs["distance"] == 0).to_numpy()
    tied = coo_array((np.ones(same.sum()), (a[same], b[same])), shape=(len(paths),) * 2)
    look = connected_components(tied, directed=False)[1]
    near = np.unique(
        np.r_[np.c_[look[a], look[b]], np.c_[look[b], look[a]], np.c_[look, look]], axis=0
    )
    return pd.Series(look, paths), pd.DataFrame(near, columns=["look", "other"])


def _across(known: pd.DataFrame, met: pd.DataFrame, first: str, second: str) -> dict:
    one, two = (known[known["split"] == split] for split in (first, second))
    hits = two[two["look"].isin(set(met.loc[met["split"] == first, "look"]))]
    new = (~hits["sha256"].isin(set(one["sha256"]))).sum() if "sha256" in known else 0
    files = f", {new:,} of them in files that differ" if "sha256" in known else ""
    return _row(
        "near-duplicates",
        f"{first} & {second}",
        hits["path"],
        len(two),
        "leak",
        f"{len(hits):,} of {len(two):,} {second} images look the same as one in {first}{files}, so a "
        "score on them rewards memory.",
        f"No {second} image looks like one in {first}.",
    )


def _row(
    check: str, splits: str, hits: pd.Series, of: int, verdict: str, bad: str, good: str
) -> dict:
    found = len(hits)
    return {
        "check": check,
        "splits": splits,
        "found": found,
        "of": of,
        "share": found / of if of else 0.0,
        "verdict": verdict if found else "ok",
        "examples": ", ".join(list(hits)[:3]),
        "meaning": bad if found else good,
    }
