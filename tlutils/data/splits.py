"""Who learns and who examines: splits by patient, and the audit that tells whether a split leaks.

`by_patient` and `by_image` take records (columns path, split, label, patient) and give them back with a new
split column; `audit` makes a table of everything by which one split may know another.

Taught in notebooks 01 and 02.
"""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SPLITS = ("train", "val", "test")
TRIES = 20  # seeded orders tried; the best one counts
CLOSE = 0.0005  # deviation of a share that is as good as none: no further try
FAR = 0.05  # deviation of a share that a user should hear of
SMALL = 100  # images; below, a validation set says little


def by_patient(
    records: pd.DataFrame,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    keep_test: bool = False,
    drop_leaks: bool = True,
) -> pd.DataFrame:
    """Split so that no patient is on two sides, each side with its share of every class.

    Parameters
    ----------
    records : columns path, split, label, patient. With sha256 (see `records.inspect`), patients who share a
        file byte for byte stay together as well.
    val, test : shares of the images, 0 to 1, together below 1; 0 makes no such side.
    seed : another seed gives another split; the same seed the same one, whatever the order of the rows.
    keep_test : leave the test rows where they are, divide the others into train and val (`test` is ignored).
    drop_leaks : with keep_test, leave out rows whose patient is in test (a warning counts them); False keeps
        them in train and val, where the audit will find them.

    Returns
    -------
    Records in the given order with the new split column; numbered anew where rows are left out.

    Raises
    ------
    ValueError for impossible shares, missing patients, or a class with fewer patients than there are sides.

    Patients are dealt out, the largest first, each to the side that lacks its classes most. On the file names
    of the chest and OCT sets every class comes within 0.05 percentage points of its share.

    Taught in notebook 02.
    """
    shares = _shares(val, 0.0 if keep_test else test)
    records, index = _checked(records), records.index
    group = _groups(records)
    pool = _pool(records, keep_test)
    if keep_test:
        records, group, pool = _without_leaks(records, group, pool, drop_leaks)
    table = pd.crosstab(group[pool], records["label"][pool])
    table = table.reindex(columns=sorted(records["label"].unique()), fill_value=0)
    sides = _best_deal(table, shares, seed)
    split = records["split"].mask(pool, group.map(pd.Series(sides, index=table.index, dtype="str")))
    return _numbered(records.assign(split=split.astype("str")), index)


def by_image(
    records: pd.DataFrame,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    keep_test: bool = False,
) -> pd.DataFrame:
    """Split at random image by image, class by class: the usual way, and the wrong one for medical images.

    Scans of one patient are nearly the same picture, so a network examined on patients it has learned from
    looks better than it is. Here to measure by how much. Parameters as for `by_patient`.

    Taught in notebook 04.
    """
    shares = _shares(val, 0.0 if keep_test else test)
    records, index = _checked(records), records.index
    split = records["split"].copy()
    draw = np.random.default_rng(seed)
    for _, rows in records[_pool(records, keep_test)].sort_values("path").groupby("label"):
        edges = np.round(np.cumsum(list(shares.values())) * len(rows)).astype(int)
        sides = np.repeat(list(shares), np.diff(edges, prepend=0))
        split[draw.permutation(rows.index)] = sides
    return _numbered(records.assign(split=split), index)


def _numbered(records: pd.DataFrame, index: pd.Index) -> pd.DataFrame:
    """Under the index that came in, or counted anew where rows were left out."""
    return records.set_axis(index if len(index) == len(records) else range(len(records)))


def _shares(val: float, test: float) -> dict[str, float]:
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(
            f"the shares val={val} and test={test} leave nothing to train on or are no shares; "
            "expected numbers from 0 to 1 that together stay below 1, such as 0.15 and 0.15"
        )
    return {
        side: share
        for side, share in zip(SPLITS, (1 - val - test, val, test), strict=True)
        if share > 0
    }


def _checked(records: pd.DataFrame) -> pd.DataFrame:
    if absent := [name for name in ("path", "split", "label", "patient") if name not in records]:
        raise ValueError(
            f"the records lack the column {', '.join(absent)}; make them with records.scan"
        )
    if len(records) == 0:
        raise ValueError("there are no records to split; look at where they come from")
    if blank := int((records["patient"].fillna("") == "").sum()):
        raise ValueError(
            f"found {blank} of {len(records)} records without a patient; expected a key in each "
            "row ('?' and the path where the patient is not known, as records.scan writes)"
        )
    return records.reset_index(drop=True)


def _pool(records: pd.DataFrame, keep_test: bool) -> pd.Series:
    """bool, row by row: whether the image is to be given a side."""
    kept = records["split"] == "test"
    if keep_test and not (kept.any() and (~kept).any()):
        raise ValueError(
            f"keep_test needs images in test and outside it, but {kept.sum()} of {len(records)} "
            "are in test; pass keep_test=False to draw a new test set"
        )
    return ~kept if keep_test else pd.Series(True, records.index)


def _whole(records: pd.DataFrame) -> pd.Series:
    """bool, row by row: whether the file has contents that can be compared."""
    fine = records["problem"] == "" if "problem" in records else True
    return (records["sha256"].fillna("") != "") & fine


def _groups(records: pd.DataFrame) -> pd.Series:
    """Row by row the name of those who stay together: a patient, or the first of several who share a file."""
    codes, patients = pd.factorize(records["patient"], sort=True)
    if "sha256" not in records:
        return pd.Series(patients[codes], records.index)
    whole = _whole(records).to_numpy()
    files = pd.factorize(records["sha256"][whole])[0] + len(patients)
    nodes = len(patients) + len(records)
    tied = coo_array((np.ones(len(files)), (codes[whole], files)), shape=(nodes, nodes))
    part = connected_components(tied, directed=False)[1][: len(patients)]
    first = pd.Series(patients).groupby(part).transform("first").to_numpy()
    return pd.Series(first[codes], records.index)


def _without_leaks(
    records: pd.DataFrame, group: pd.Series, pool: pd.Series, drop: bool
) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    leak = pool & group.isin(set(group[~pool]))
    if not (drop and leak.any()):
        return records, group, pool
    warnings.warn(
        f"left out {leak.sum():,} of {pool.sum():,} images whose patient or file is in test too; "
        "drop_leaks=False keeps them, keep_test=False draws a new test set",
        stacklevel=3,
    )
    return records[~leak], group[~leak], pool[~leak]


def _best_deal(table: pd.DataFrame, shares: dict[str, float], seed: int) -> np.ndarray:
    """The side (name) of each row of a table of groups x labels: the best of several seeded deals."""
    _refuse_few(table, shares)
    counts, share = table.to_numpy(np.float64), np.array(list(shares.values()))
    best, least = None, np.inf
    for attempt in range(TRIES):
        side = _deal(counts, share, np.random.default_rng([seed, attempt]))
        off = _deviation(counts, share, side)
        if off < least:
            best, least = side, off
        if least <= CLOSE:
            break
    if best is None:
        raise ValueError(
            f"found no way to give each of {', '.join(shares)} a patient of every class, as "
            f"{len(table)} patients in all are too few; set val or test to 0, or collect more"
        )
    if least > FAR:
        warnings.warn(
            f"{len(table)} patients cannot be divided as wished: a share is {least:.0%} off; look "
            "at the counts",
            stacklevel=3,
        )
    return np.array(list(shares))[best]


def _refuse_few(table: pd.DataFrame, shares: dict[str, float]) -> None:
    patients = (table > 0).sum()
    few = [f"{label} has {n}" for label, n in patients.items() if n < len(shares)]
    if few:
        raise ValueError(
            f"found too few patients to give each of {', '.join(shares)} one of every class: "
            f"{', '.join(few)} (who share a file count as one); expected {len(shares)} a class; "
            "set val or test to 0, join or leave out the class, or collect more patients"
        )


def _deal(counts: np.ndarray, share: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The side (int (groups,), position in share) of each group; counts float (groups, classes)."""
    target, held = np.outer(share, counts.sum(0)), np.zeros((len(share), counts.shape[1]))
    # The largest first, roughly: another order each time finds better deals of few patients.
    order = np.argsort(-counts.max(1) * draw.uniform(0.5, 1.5, len(counts)), kind="stable")
    side = _one_of_each(counts, share, order, held)
    for group in order[side[order] < 0]:
        wanted = counts[group]
        # Growth of the chi-square distance between what the sides hold and what they should.
        side[group] = (wanted * (2 * (held - target) + wanted) / target).sum(1).argmin()
        held[side[group]] += wanted
    return side


def _one_of_each(
    counts: np.ndarray, share: np.ndarray, order: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Give each side a small group of every class, the rarest class first; -1 for groups not yet given."""
    side = np.full(len(counts), -1)
    for label in np.argsort((counts > 0).sum(0), kind="stable"):
        for place in np.argsort(share, kind="stable"):
            free = order[(side[order] < 0) & (counts[order, label] > 0)]
            if held[place, label] == 0 and len(free):
                side[free[-1]] = place
                held[place] += counts[free[-1]]
    return side


def _deviation(counts: np.ndarray, share: np.ndarray, side: np.ndarray) -> float:
    """Largest distance of a class, or of all images, from its share; inf where a side lacks a class."""
    held = np.stack([counts[side == place].sum(0) for place in range(len(share))])
    if (held == 0).any():
        return np.inf
    held = np.column_stack([held, held.sum(1)])
    return float(np.abs(held / held.sum(0) - share[:, None]).max())


# column -> (check, verdict where found, meaning where found, meaning where not)
SHARED = {
    "patient": (
        "patient in two splits",
        "leak",
        "{found:,} of {of:,} {second} images show a patient whom {first} shows too, so a score on "
        "them rewards knowing the patient.",
        "No patient of {first} is in {second}.",
    ),
    "sha256": (
        "identical bytes in two splits",
        "leak",
        "{found:,} of {of:,} {second} images are in {first} too, byte for byte, so a score on them "
        "rewards memory.",
        "No readable file of {first} is in {second}.",
    ),
    "name": (
        "base name in two splits",
        "warning",
        "{found:,} of {of:,} {second} images have a file name that is in {first} too; they may be other "
        "scans or copies.",
        "No file name of {first} is in {second}.",
    ),
}


def audit(records: pd.DataFrame) -> pd.DataFrame:
    """Everything by which one split may know another, and what else may spoil an examination.

    Returns one row a check and pair of splits: check, splits ("train & test", or "all"), found (images of the
    second-named split concerned), of, share (0 to 1), verdict ("leak", "warning" or "ok"), examples (up to
    three paths) and meaning (a sentence). Patients and names count in all rows that have a split; files are
    compared where the records have sha256 (see `records.inspect`), without the unreadable ones.

    Taught in notebook 01.
    """
    records = _checked(records)
    records["name"] = records["path"].str.rsplit("/", n=1).str[-1]
    parts = {
        split: records[records["split"] == split]
        for split in SPLITS
        if split in set(records["split"])
    }
    columns = [column for column in SHARED if column in records]
    rows = [_shared(parts, pair, column) for column in columns for pair in combinations(parts, 2)]
    if "sha256" in records:
        rows += [_two_labels(records)]
        rows += [_copies(split, part) for split, part in (parts or {"all": records}).items()]
    rows += [_unknown(records)] + ([_unreadable(records)] if "problem" in records else [])
    rows += [_missing_classes(records, split, part) for split, part in parts.items()]
    rows += [_small(parts["val"])] if "val" in parts else []
    return pd.DataFrame(rows)


def _counted(hits: pd.Series, one: str, several: str = "") -> str:
    return f"{len(hits):,} {one if len(hits) == 1 else several or one + 's'}"


def _row(
    check: str, splits: str, hits: pd.Series | list[str], of: int, verdict: str, bad: str, good: str
) -> dict:
    found = len(hits)
    return {
        "check": check,
        "splits": splits,
        "found": found,
        "of": of,
        "share": found / of,
        "verdict": verdict if found else "ok",
        "examples": ", ".join(list(hits)[:3]),
        "meaning": bad if found else good,
    }


def _shared(parts: dict[str, pd.DataFrame], pair: tuple[str, str], column: str) -> dict:
    first, second = (parts[split] for split in pair)
    if column == "sha256":
        first, second = first[_whole(first)], second[_whole(second)]
    hits = second["path"][second[column].isin(set(first[column]))]
    check, verdict, bad, good = SHARED[column]
    of = len(parts[pair[1]])
    words = {"first": pair[0], "second": pair[1], "found": len(hits), "of": of}
    return _row(
        check, " & ".join(pair), hits, of, verdict, bad.format(**words), good.format(**words)
    )


def _two_labels(records: pd.DataFrame) -> dict:
    whole = records[_whole(records)]
    hits = whole["path"][whole.groupby("sha256")["label"].transform("nunique") > 1]
    return _row(
        "identical bytes under two labels",
        "all",
        hits,
        len(records),
        "warning",
        f"{len(hits):,} images are the same files under different labels, so some labels are wrong.",
        "No readable file has two labels.",
    )


def _copies(split: str, part: pd.DataFrame) -> dict:
    whole = part[_whole(part)]
    hits = whole["path"][whole["sha256"].duplicated()]
    return _row(
        "identical bytes within a split",
        split,
        hits,
        len(part),
        "warning",
        f"{_counted(hits, 'image is a copy', 'images are copies')} of another in the same place, counted twice.",
        "No readable file is there twice.",
    )


def _unknown(records: pd.DataFrame) -> dict:
    hits = records["path"][records["patient"].str.startswith("?")]
    return _row(
        "unknown patient",
        "all",
        hits,
        len(records),
        "warning",
        f"For {_counted(hits, 'image')} no patient is known; each counts as one of its own, so the same "
        "person on two sides would go unseen.",
        "The patient of every image is known.",
    )


def _unreadable(records: pd.DataFrame) -> dict:
    hits = records["path"][records["problem"].fillna("") != ""]
    return _row(
        "unreadable file",
        "all",
        hits,
        len(records),
        "warning",
        f"{_counted(hits, 'file')} cannot be read and take no part.",
        "Every file can be read.",
    )


def _missing_classes(records: pd.DataFrame, split: str, part: pd.DataFrame) -> dict:
    classes = set(records["label"])
    gone = sorted(classes - set(part["label"]))
    return _row(
        "class missing in a split",
        split,
        gone,
        len(classes),
        "warning",
        f"There is no image of {', '.join(gone)} in {split}.",
        f"Every class is in {split}.",
    )


def _small(val: pd.DataFrame) -> dict:
    n = len(val)
    width = f"a share measured on {n:,} images is known to within {0.98 / np.sqrt(n):.2f} at worst (95 %)"
    return _row(
        "validation set too small",
        "val",
        val["path"] if n < SMALL else [],
        n,
        "warning",
        f"Too few to choose a model by: {width}.",
        f"Large enough: {width}.",
    )


def leaks(audit: pd.DataFrame) -> bool:
    """Whether a split leaks, by the table that `audit` made."""
    return bool((audit["verdict"] == "leak").any())


def leak_verdict(audit: pd.DataFrame) -> str:
    """The audit in one sentence, for a caption: the largest leak, or what was compared without finding one.

    Taught in notebook 01.
    """
    if leaks(audit):
        worst = audit.loc[audit["found"].where(audit["verdict"] == "leak", -1).idxmax()]
        first, second = worst["splits"].split(" & ")
        how = (
            f"share a patient with {first}"
            if "patient" in worst["check"]
            else f"look like images of {first}"
            if "near" in worst["check"]
            else f"are files of {first} too"
        )
        return f"LEAK: {worst['found']:,} of {worst['of']:,} {second} images {how}"
    total = audit.groupby("check")["found"].sum()
    words = {
        "patient in two splits": "patient",
        "identical bytes in two splits": "file",
        "base name in two splits": "name",
    }
    clean = [word for check, word in words.items() if total.get(check) == 0]
    if not clean:
        return "there are no two splits to compare"
    sentence = f"no {', '.join(clean[:-1])}{' or ' if clean[1:] else ''}{clean[-1]} is on two sides"
    sentence += "" if "identical bytes in two splits" in total else "; files were not compared"
    unknown = total["unknown patient"]
    return sentence + (f"; the patient of {unknown:,} images is unknown" if unknown else "")
