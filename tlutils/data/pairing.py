"""Which rows of a large table lie close together, found without looking at every pair one by one.

Plain numpy; knows nothing of images or tables. The work behind `similar`.
"""

from __future__ import annotations

import numpy as np

MOST = 1_000_000  # pairs; more would fill the memory and nobody would read them
SLOWER = 10  # times, a comparison one by one against one in a product of matrices
ONES = (
    np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8))
    .reshape(-1, 16)
    .sum(1, dtype=np.uint8)
)


def close_hashes(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, distance) of all pairs of different hashes (hexadecimal text) within the distance.

    Two hashes that differ in d bits agree wholly on one of d + 1 bands of bits, so only those are compared
    who share a band: 47 million comparisons instead of 6 billion for 109,309 hashes, and 4 seconds instead of
    54. Where so many share bands that this would be slower, all are compared with all.
    """
    if len(hashes) < 2:
        return (np.zeros(0, int),) * 3
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), -1)
    bits, words = np.unpackbits(raw, axis=1), raw.view(np.uint16)
    order = np.random.default_rng(0).permutation(bits.shape[1])  # neighbouring bits agree too often
    bands = np.array_split(order, max(distance + 1, 5))  # a band's bits must fit into an int64
    keys = [bits[:, band] @ (1 << np.arange(len(band), dtype=np.int64)) for band in bands]
    keys = keys if distance else [np.unique(hashes, return_inverse=True)[1]]
    shared = sum(
        (many * (many - 1) // 2).sum()
        for many in (np.unique(key, return_counts=True)[1] for key in keys)
    )
    if SLOWER * shared > len(hashes) * (len(hashes) - 1) // 2:
        sides = np.where(
            bits, np.float32(1), np.float32(-1)
        )  # the cosine is 1 - 2 * distance / bits
        a, b, _ = close_features(sides, 1 - 2 * distance / bits.shape[1], 1024)
    else:
        pairs = np.unique(np.concatenate([_sharing(key, words, distance) for key in keys]))
        a, b = pairs // len(words), pairs % len(words)
    return a, b, _apart(words, a, b)


def _sharing(key: np.ndarray, words: np.ndarray, distance: int) -> np.ndarray:
    """a * n + b of the pairs a < b that have the same key, int64 (n,), and lie within the distance."""
    n, found, count = len(key), [np.zeros(0, int)], 0
    order = np.argsort(key, kind="stable")
    last = np.searchsorted(key[order], key[order], side="right")
    here, lag = np.arange(n), 1
    while len(
        here := here[here + lag < last[here]]
    ):  # each with the next of its kind, the next but one...
        a, b = order[here], order[here + lag]
        close = _apart(words, a, b) <= distance
        found.append(a[close] * n + b[close])
        count, lag = _refuse_many(count + len(found[-1])), lag + 1
    return np.concatenate(found)


def _apart(words: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ONES[words[a] ^ words[b]].sum(1, dtype=int)


def close_features(
    features: np.ndarray, cosine: float, block: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, 1 - cosine) of all pairs of rows, float (n, d), of at least this cosine; `block` rows at a
    time."""
    starts, found, count = range(0, len(features), block), [], 0
    for i, j in ((i, j) for i in starts for j in starts if i <= j):
        near = _unit(features[i : i + block]) @ _unit(features[j : j + block]).T
        a, b = np.nonzero(
            near >= cosine - 1e-6
        )  # copies of one row may come out a rounding below 1
        later = a + i < b + j
        found.append(np.stack([a[later] + i, b[later] + j, 1 - near[a, b][later]]))
        count = _refuse_many(count + later.sum())
    a, b, apart = np.concatenate([*found, np.zeros((3, 0))], axis=1)
    return a.astype(int), b.astype(int), np.maximum(apart, 0)


def _unit(features: np.ndarray) -> np.ndarray:
    values = np.asarray(features, dtype=np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _refuse_many(count: int) -> int:
    if count > MOST:
        raise ValueError(
            f"found over {MOST:,} pairs, which are no longer exceptions; ask for a smaller "
            "distance or a higher cosine, and look whether the images differ at all"
        )
    return count
