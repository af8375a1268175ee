"""Images that look the same though their files differ: saved again, resized, given another name.

`look_at` looks at every image once and notes its brightness and its `white_wedges` too,
`find_pairs` finds those that differ little, `groups` says who belongs together;
`audit.audit_near_duplicates` says what that means for the splits.
"""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..core import images
from ..core.packages import needed
from ..core.progress import bar
from .splits import is_readable

# 16 x 16 = 256 bits; with the usual 64, strangers' chest films come as near as a copy saved again
_WAVES = 16
_SIDE = 4 * _WAVES  # pixels that the hash is made from
# Boxes and slopes have few shapes to tell them apart. Of 5,245 real films and scans none has less
# than 5.3 bits and 0.88 of its waves; a box has 1.4 bits, a slope with some noise 0.4 of the waves.
_LEAST_LEVELS = 3  # bits, entropy of the grey levels
_LEAST_WAVES = 0.5  # share of the frequencies that tell something
_ROUNDING = 200  # their least amplitude: 5 times what rounding to whole grey levels adds
_MOST_PAIRS = 1_000_000  # more would fill the memory and nobody would read them
_WHITE = 240  # of 255, as JPEG leaves white nearly white
_SLOWER = 10  # times, a comparison one by one against one in a product of matrices
# how many bits are set in each number of 16 bits
_ONES = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16)
_ONES = _ONES.sum(1, dtype=np.uint8)


def look_at(records: pd.DataFrame, root: str | Path) -> pd.DataFrame:
    """Look at every image once, for what `find_pairs` compares.

    The hash is ImageHash's phash with 256 bits: for the 16 x 16 lowest frequencies of the picture
    at 64 x 64 pixels, whether each is above their median.

    Parameters
    ----------
    records : DataFrame with path; where a row has a `problem`, its image is not looked at.
    root : str or Path, the folder from which paths start.

    Returns
    -------
    DataFrame, the records with phash (str, 64 hexadecimal digits; "" where an image cannot be
        decoded or shows too little to be told apart), brightness (float, mean grey from 0 to 255)
        and wedge (float, share of the picture that is `white_wedges`); NaN where an image cannot
        be decoded.

    Raises
    ------
    ImportError
        Without ImageHash.
    """
    imagehash = needed("imagehash", "imagehash")
    both = zip(records["path"], is_readable(records), strict=True)
    paths = [os.path.join(root, path) if good else "" for path, good in both]
    parts, rows = [paths[start : start + 64] for start in range(0, len(paths), 64)], []
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's, on large images and odd metadata
        with bar(None, "comparing", len(paths), "file") as shown:
            for part in pool.map(lambda part: [_look(path, imagehash) for path in part], parts):
                rows += part
                shown.update(len(part))
    hashes, brightness, wedge = zip(*rows, strict=True) if rows else ((), (), ())
    return records.assign(
        phash=pd.Series(hashes, records.index, dtype="str"),
        brightness=pd.Series(brightness, records.index, dtype="float64"),
        wedge=pd.Series(wedge, records.index, dtype="float64"),
    )


def white_wedges(pixels: np.ndarray) -> np.ndarray:
    """Where a scan is white from its upper or lower edge on.

    So scanners fill the corners of a picture that they have tilted: in about 4 of 10 scans of the
    Kermany set. A wedge that goes with a class is a shortcut, and it brightens the picture's mean.

    Parameters
    ----------
    pixels : array (H, W), uint8

    Returns
    -------
    bool array (H, W)

    Examples
    --------
    >>> scan = np.array([[255, 0], [255, 0], [0, 255], [0, 0]], np.uint8)
    >>> white_wedges(scan).sum(axis=0).tolist()
    [2, 0]
    """
    white = np.asarray(pixels) >= _WHITE
    down, up = (np.logical_and.accumulate(side, axis=0) for side in (white, white[::-1]))
    return down | up[::-1]


def _look(path: str, imagehash: ModuleType) -> tuple[str, float, float]:
    """(phash, brightness, wedge) of one file; ("", NaN, NaN) where it cannot be read."""
    try:
        picture = images.read(path, least=(4 * _SIDE, 4 * _SIDE))
    except images.UnreadableImage:
        return "", np.nan, np.nan
    # The gap averages blocks of pixels first: 0.6 of the time, and about 2 bits of difference.
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = np.asarray(small)
    waves = dctn(pixels.astype(float))[:_WAVES, :_WAVES]
    apart = waves - np.median(waves)
    counts = np.bincount(pixels.ravel())
    shares = counts[counts > 0] / pixels.size
    levels, telling = -shares @ np.log2(shares), (np.abs(apart) > _ROUNDING).mean()
    shows = levels >= _LEAST_LEVELS and telling >= _LEAST_WAVES
    looks = str(imagehash.ImageHash(apart > 0)) if shows else ""
    return looks, float(pixels.mean()), float(white_wedges(pixels).mean())


def find_pairs(records: pd.DataFrame, distance: int = 20) -> pd.DataFrame:
    """Find pairs of images whose perceptual hashes differ in few bits, the nearest first.

    The default lies between what was measured on real images. Copies saved again as JPEG (quality
    30 to 95), resized (from twice the size to 28 x 28 pixels) differ by 0 to 14 bits, brightened or
    with a gamma of 0.8 by up to 20, resized without smoothing by up to 26, with 1 % cut off each
    edge by up to 42: the last two may go unseen. Of 13.6 million pairs of chest films of two
    patients none came nearer than 38, of 402 pairs of OCT scans none nearer than 70; different
    films of one patient begin at 46, of 4 pairs of scans at 32. Phantom chests come as near as 26.

    Parameters
    ----------
    records : DataFrame with path, split, label, patient and phash, see `look_at`.
    distance : int, 0 to 64, bits of 256 that may differ.

    Returns
    -------
    DataFrame
        path_a, path_b, split_a, split_b, label_a, label_b, patient_a, patient_b, distance (int),
        same_bytes (bool, where the records have sha256) and group (int: linked by pairs, directly
        or through others). Images with one and the same hash are each paired with the first of
        them only.

    Raises
    ------
    ValueError
        For a distance that makes no sense, records without hashes, and over a million pairs.
    """
    if not 0 <= distance <= 64:
        raise ValueError(
            f"the distance is {distance}; expected 0 (the same picture) to 64 (often strangers)"
        )
    if "phash" not in records:
        raise ValueError("the records have no phash; near_duplicates.look_at adds it")
    texts = records["phash"].fillna("").to_numpy(object)  # of type str: four bytes a digit
    rows = np.flatnonzero(texts != "")
    codes, unique = pd.factorize(texts[rows])
    first = rows[np.unique(codes, return_index=True)[1]]
    again = first[codes] != rows
    a, b, apart = _close_hashes(unique, distance)
    a, b = np.r_[first[a], first[codes][again]], np.r_[first[b], rows[again]]
    linked = coo_array((np.ones(len(a)), (a, b)), shape=(len(records), len(records)))
    part = connected_components(linked, directed=False)[1]
    pairs = pd.DataFrame(
        {
            f"{name}_{side}": records[name].to_numpy()[rows]
            for name in ("path", "split", "label", "patient")
            for side, rows in (("a", a), ("b", b))
        }
    )
    pairs["distance"] = np.r_[apart, np.zeros(again.sum(), int)]
    if "sha256" in records:
        files = records["sha256"].fillna("").to_numpy(str)
        pairs["same_bytes"] = (files[a] == files[b]) & (files[a] != "")
    pairs["group"] = pd.factorize(part[a])[0]
    return pairs.sort_values(["distance", "path_a", "path_b"], ignore_index=True)


def groups(records: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """Row by row the group of near-duplicates to which an image belongs.

    Parameters
    ----------
    records : DataFrame with path.
    pairs : DataFrame of `find_pairs`.

    Returns
    -------
    Series of int, -1 for none.

    Examples
    --------
    >>> records = pd.DataFrame({"path": ["a.png", "b.png", "c.png"]})
    >>> pairs = pd.DataFrame({"path_a": ["a.png"], "path_b": ["c.png"], "group": [0]})
    >>> groups(records, pairs).tolist()
    [0, -1, 0]
    """
    sides = [pairs.set_index(f"path_{side}")["group"] for side in ("a", "b")]
    known = pd.concat(sides)
    return records["path"].map(known[~known.index.duplicated()]).fillna(-1).astype(int)


def _close_hashes(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, distance) of all pairs of different hashes (hexadecimal text) within the distance.

    Two hashes that differ in d bits agree wholly on one of d + 1 bands of bits, so only those are
    compared who share a band: 47 million comparisons instead of 6 billion for 109,309 hashes, and 4
    seconds instead of 54. Where so many share bands that this would be slower, all are compared
    with all.
    """
    if len(hashes) < 2:
        return (np.zeros(0, int),) * 3
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1)
    bits, words = np.unpackbits(raw, axis=1), raw.view(np.uint16)
    order = np.random.default_rng(0).permutation(bits.shape[1])  # neighbouring bits agree too often
    bands = np.array_split(order, max(distance + 1, 5))  # a band's bits must fit into an int64
    keys = [bits[:, band] @ (1 << np.arange(len(band), dtype=np.int64)) for band in bands]
    keys = keys if distance else [np.unique(hashes, return_inverse=True)[1]]
    sharing = [np.unique(key, return_counts=True)[1] for key in keys]
    shared = sum((many * (many - 1) // 2).sum() for many in sharing)
    if _SLOWER * shared > len(hashes) * (len(hashes) - 1) // 2:
        a, b = _all_with_all(bits, distance)
    else:
        pairs = np.unique(np.concatenate([_within_bands(key, words, distance) for key in keys]))
        a, b = pairs // len(words), pairs % len(words)
    return a, b, _apart(words, a, b)


def _within_bands(key: np.ndarray, words: np.ndarray, distance: int) -> np.ndarray:
    """a * n + b of the pairs a < b of the same key, int64 (n,), that lie within the distance."""
    n, found, count = len(key), [np.zeros(0, int)], 0
    order = np.argsort(key, kind="stable")
    last = np.searchsorted(key[order], key[order], side="right")
    here, lag = np.arange(n), 1
    # each with the next of its kind, the next but one...
    while len(here := here[here + lag < last[here]]):
        a, b = order[here], order[here + lag]
        close = _apart(words, a, b) <= distance
        found.append(a[close] * n + b[close])
        count, lag = _refuse_many(count + len(found[-1])), lag + 1
    return np.concatenate(found)


def _all_with_all(bits: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of all pairs of rows of bits within the distance, by products of blocks of rows."""
    block, found, count = 1024, [np.zeros((2, 0), int)], 0
    signs = np.where(bits, np.float32(1), np.float32(-1))  # a product is bits - 2 * distance
    starts = range(0, len(bits), block)
    for i, j in ((i, j) for i in starts for j in starts if i <= j):
        product = signs[i : i + block] @ signs[j : j + block].T
        a, b = np.nonzero(product >= bits.shape[1] - 2 * distance)
        later = a + i < b + j
        found.append(np.stack([a[later] + i, b[later] + j]))
        count = _refuse_many(count + later.sum())
    return tuple(np.concatenate(found, axis=1))


def _apart(words: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _ONES[words[a] ^ words[b]].sum(1, dtype=int)


def _refuse_many(count: int) -> int:
    if count > _MOST_PAIRS:
        raise ValueError(
            f"found over {_MOST_PAIRS:,} pairs, which are no longer exceptions; ask for a smaller "
            "distance, and look whether the images differ at all"
        )
    return count
