"""Who learns and who examines: dividing a table of images into training, validation and test.

A table of records (columns path, split, label, patient) comes in and goes out with a new split
column. `divide` follows a rule, `by_patient` and `by_image` are the ways to divide, `sample` takes
fewer images, `take_patients` fewer patients; `is_readable` and `comparable` say which files count.
Stands alone: pandas and scipy.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SPLITS = ("train", "val", "test")
_RULES = ("patient", "image", "official")
_TRIES = 20  # seeded orders tried; the best one counts
_CLOSE = 0.0005  # deviation of a share that is as good as none: no further try
_FAR = 0.05  # deviation of a share that a user should hear of


def divide(
    records: pd.DataFrame,
    rule: str = "patient",
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
) -> tuple[pd.DataFrame, str]:
    """Divide images by a rule, and say in a sentence how.

    By "patient", the data set's own test images stay the test set where none of their patients or
    files occurs elsewhere (chest X-rays), and validation patients are taken from the rest; else all
    is divided anew (retinal OCT, whose official test set shares its patients with training). By
    "image" the same at random image by image, which leaks patients. "official" leaves the data
    set's own folders, and takes validation patients from train where there is no validation folder.

    Parameters
    ----------
    records : DataFrame with path, split, label, patient; sha256 and problem where they are known.
    rule : "patient", "image" or "official".
    val, test : float, shares of the images where they are divided anew.
    seed : int, of what is drawn.

    Returns
    -------
    tuple of the records, numbered anew and with the column problem; and the sentence. Unreadable
        images have the split "".

    Raises
    ------
    ValueError
        For an unknown rule, "official" without folders of splits, or what `by_patient` refuses.
    """
    if rule not in _RULES:
        raise ValueError(f"the rule is {rule!r}; it is one of {', '.join(_RULES)}")
    fine = is_readable(records)
    good, bad = records[fine], records[~fine]
    if len(good) and (good["split"] == "test").all():
        raise ValueError(
            f"all {len(good):,} images are test images, so there are none to train on; give images "
            "of train as well, or none a split for them to be divided"
        )
    if rule == "official":
        divided, how = _official(good, val, seed)
    else:
        own = bool((good["split"] == "test").any())
        keep = own and not _test_is_shared(good)
        draw = by_patient if rule == "patient" else by_image
        divided = draw(good, val, test, seed, keep_test=keep)
        how = _how(rule, own, keep, len(good), _unknown(good))
        if (good["split"] == "val").any() and (keep or not own):
            drawn = "training and validation were" if keep else "all images were"
            how += f"; {drawn} divided anew"
            if (good["split"] != "").all():
                how += " (--set split=official keeps the data set's own)"
    table = pd.concat([divided, bad.assign(split="")]).sort_index() if len(bad) else divided
    return table.reset_index(drop=True), how


def _unknown(good: pd.DataFrame) -> int:
    """How many images are of unknown patients, and so each of one of its own."""
    return int(good["patient"].astype(str).str.startswith("?").sum())


def _how(rule: str, own: bool, keep: bool, n: int, unknown: int) -> str:
    kept = "; the data set's own test images are kept, "
    if rule == "image":
        how = "divided at random by image: patients may be on two sides, so validation flatters"
        return how + (f"{kept}which show none of these patients" if keep else "")
    how = "divided by patient"
    if unknown:
        how += f"; {unknown:,} of {n:,} images, whose patient is unknown, each as one of its own"
    how = "divided by image: no patient is known" if unknown == n else how
    known = "files" if unknown == n else "patients"
    if keep:
        which = "known patients" if 0 < unknown < n else known
        return f"{how}{kept}as none of their {which} is elsewhere"
    shared = f"; the data set's own test images share {known} with the rest, so all images were "
    return how + (f"{shared}divided anew" if own else "")


def _official(good: pd.DataFrame, val: float, seed: int) -> tuple[pd.DataFrame, str]:
    if missing := int((good["split"] == "").sum()):
        raise ValueError(
            f"split='official' wants every image in train, val or test, and {missing:,} of "
            f"{len(good):,} images are in none; use split='patient'"
        )
    how = "divided as the data set's own folders say"
    if (good["split"] == "val").any():
        return good, how
    train = good[good["split"] == "train"].assign(split="")
    rest = by_patient(train, val, 0.0, seed)
    divided = pd.concat([rest, good[good["split"] == "test"]]).sort_index()
    taken = "images" if _unknown(train) == len(train) else "patients"
    return divided, f"{how}; validation {taken} taken from train"


def _test_is_shared(good: pd.DataFrame) -> bool:
    """Whether a patient or a file of the test images occurs elsewhere too."""
    group, test = _groups(checked_records(good)), (good["split"] == "test").to_numpy()
    return bool(group[~test].isin(set(group[test])).any())


def by_patient(
    records: pd.DataFrame,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    keep_test: bool = False,
) -> pd.DataFrame:
    """Split so that no patient is on two sides, each side with its share of every class.

    Patients are assigned one by one, the largest first, each to the side that lacks its classes
    most. On the file names of the chest and OCT sets every class comes within 0.05 percentage
    points of its share.

    Parameters
    ----------
    records : DataFrame with path, split, label, patient. With sha256 (see `records.inspect`),
        patients who share a file byte for byte stay together as well.
    val, test : float, shares of the images, together below 1; 0 makes no such side.
    seed : int, another one gives another split, the same one the same, whatever the order of rows.
    keep_test : bool, whether to leave the test rows where they are, and divide the others into
        train and val; those whose patient or file is in test are left out, with a warning.

    Returns
    -------
    DataFrame in the given order with the new split column; numbered anew where rows are left out.

    Raises
    ------
    ValueError
        For impossible shares, missing patients, or a class with fewer patients than there are
        sides.

    Examples
    --------
    >>> rows = [(f"{n}-{i}.png", "", "AB"[n % 2], str(n)) for n in range(20) for i in range(3)]
    >>> records = pd.DataFrame(rows, columns=["path", "split", "label", "patient"])
    >>> divided = by_patient(records, val=0.2, test=0.2)
    >>> divided.groupby("split").size().to_dict()
    {'test': 12, 'train': 36, 'val': 12}
    >>> int(divided.groupby("patient")["split"].nunique().max())
    1
    """
    shares = _shares(val, 0.0 if keep_test else test)
    records, index = checked_records(records), records.index
    group, pool = _groups(records), _pool(records, keep_test)
    leak = pool & group.isin(set(group[~pool]))
    if leak.any():
        warnings.warn(
            f"left out {leak.sum():,} of {pool.sum():,} images whose patient or file is in test "
            "too; keep_test=False draws a new test set",
            stacklevel=2,
        )
        records, group, pool = records[~leak], group[~leak], pool[~leak]
    # what crosstab gives, in a hundredth of the time for a million patients
    table = records[pool].groupby([group[pool], "label"]).size().unstack(fill_value=0)
    table = table.reindex(columns=sorted(records["label"].unique()), fill_value=0)
    sides = pd.Series(_best_assignment(table, shares, seed), index=table.index, dtype="str")
    split = records["split"].mask(pool, group.map(sides))
    return _numbered(records.assign(split=split.astype("str")), index)


def by_image(
    records: pd.DataFrame,
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    keep_test: bool = False,
) -> pd.DataFrame:
    """Split at random image by image: the usual way, and the wrong one for medical images.

    Scans of one patient are nearly the same picture, so a network examined on patients it has
    learned from looks better than it is. Here to measure by how much.

    Parameters
    ----------
    records : DataFrame with path, split, label, patient.
    val, test : float, shares of each class, together below 1; 0 makes no such side.
    seed : int, another one gives another split, the same one the same, whatever the order of rows.
    keep_test : bool, whether to leave the test rows where they are.

    Returns
    -------
    DataFrame in the given order with the new split column.

    Raises
    ------
    ValueError
        For impossible shares or missing patients.
    """
    shares = _shares(val, 0.0 if keep_test else test)
    records, index = checked_records(records), records.index
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
    shares = zip(SPLITS, (1 - val - test, val, test), strict=True)
    return {side: share for side, share in shares if share > 0}


def checked_records(records: pd.DataFrame) -> pd.DataFrame:
    """Make sure that a table can be divided or compared.

    Parameters
    ----------
    records : DataFrame

    Returns
    -------
    DataFrame, the same, numbered from 0.

    Raises
    ------
    ValueError
        Where a column or the patient of a row is missing, or there are no rows.
    """
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


def is_readable(records: pd.DataFrame) -> pd.Series:
    """Which images have no problem: all of them where nobody has looked.

    Parameters
    ----------
    records : DataFrame, with problem ("" = fine, which pandas reads from a CSV file as NaN) after
        `records.inspect`.

    Returns
    -------
    Series of bool, row by row.
    """
    if "problem" not in records:
        return pd.Series(True, records.index)
    return records["problem"].fillna("") == ""


def comparable(records: pd.DataFrame) -> pd.Series:
    """Which files have contents that can be compared: read, and whole.

    Parameters
    ----------
    records : DataFrame with sha256, and problem where it is known.

    Returns
    -------
    Series of bool, row by row.
    """
    return (records["sha256"].fillna("") != "") & is_readable(records)


def _pool(records: pd.DataFrame, keep_test: bool) -> pd.Series:
    """bool, row by row: whether the image is to be given a side."""
    kept = records["split"] == "test"
    if keep_test and not (kept.any() and (~kept).any()):
        raise ValueError(
            f"keep_test needs images in test and outside it, but {kept.sum()} of {len(records)} "
            "are in test; pass keep_test=False to draw a new test set"
        )
    return ~kept if keep_test else pd.Series(True, records.index)


def _groups(records: pd.DataFrame) -> pd.Series:
    """Row by row who stay together: the patient, or the first of several who share a file."""
    codes, patients = pd.factorize(records["patient"], sort=True)
    if "sha256" not in records:
        return pd.Series(patients[codes], records.index)
    whole = comparable(records).to_numpy()
    files = pd.factorize(records["sha256"][whole])[0] + len(patients)
    nodes = len(patients) + len(records)
    tied = coo_array((np.ones(len(files)), (codes[whole], files)), shape=(nodes, nodes))
    part = connected_components(tied, directed=False)[1][: len(patients)]
    first = pd.Series(patients).groupby(part).transform("first").to_numpy()
    return pd.Series(first[codes], records.index)


def _misspelt(label: str, labels: Iterable[str]) -> str:
    """Which class one of few patients may be a misspelling of; "" for none.

    Long words alone are compared, without numbers at their end, as grades differ on purpose.
    """

    def words(name: str) -> str:
        every = (re.sub(r"(?:\d+|[IVX]+)$", "", word) for word in re.split(r"[\W_]+", name))
        return " ".join(word for word in every if len(word) > 3)

    mine = words(label)
    others = {words(one): one for one in labels if words(one)[:1] == mine[:1]}
    others.pop(mine, None)
    close = difflib.get_close_matches(mine, others, 1, 0.8) if mine else []
    return f" (is it {others[close[0]]}, misspelt?)" if close else ""


def _best_assignment(table: pd.DataFrame, shares: dict[str, float], seed: int) -> np.ndarray:
    """The side (name) of each row of a table of groups x labels: the best of several tries."""
    patients = (table > 0).sum()
    if few := [
        f"{label} has {n}{_misspelt(label, patients.index)}"
        for label, n in patients.items()
        if n < len(shares)
    ]:
        raise ValueError(
            f"found too few patients to give each of {', '.join(shares)} one of every class: "
            f"{', '.join(few)} (who share a file count as one); expected {len(shares)} a class; "
            "set val or test to 0, join or leave out the class, or collect more patients"
        )
    counts, share = table.to_numpy(np.float64), np.array(list(shares.values()))
    best, least = None, np.inf
    for attempt in range(_TRIES):
        side = _assigned(counts, share, np.random.default_rng([seed, attempt]))
        off = _deviation(counts, share, side)
        if off < least:
            best, least = side, off
        if least <= _CLOSE:
            break
    if best is None:
        all_of_them = (
            "1 patient in all is" if len(table) == 1 else f"{len(table)} patients in all are"
        )
        raise ValueError(
            f"found no way to give each of {', '.join(shares)} a patient of every class, as "
            f"{all_of_them} too few; set val or test to 0, or collect more"
        )
    if least > _FAR:
        warnings.warn(
            f"{len(table)} patients cannot be divided as wished: a share is {100 * least:.0f} % "
            "off; look at the counts",
            stacklevel=3,
        )
    return np.array(list(shares))[best]


def _assigned(counts: np.ndarray, share: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The side (int (groups,), position in share) of each group; counts float (groups, classes)."""
    target, held = np.outer(share, counts.sum(0)), np.zeros((len(share), counts.shape[1]))
    # The largest first, roughly: another order each time finds better sides for few patients.
    order = np.argsort(-counts.max(1) * draw.uniform(0.5, 1.5, len(counts)), kind="stable")
    side = np.full(len(counts), -1)
    # Each side first gets a small group of every class, the rarest class first.
    for label in np.argsort((counts > 0).sum(0), kind="stable"):
        for this in np.argsort(share, kind="stable"):
            free = order[(side[order] < 0) & (counts[order, label] > 0)]
            if held[this, label] == 0 and len(free):
                side[free[-1]] = this
                held[this] += counts[free[-1]]
    for group in order[side[order] < 0]:
        wanted = counts[group]
        # Growth of the chi-square distance between what the sides hold and what they should.
        side[group] = (wanted * (2 * (held - target) + wanted) / target).sum(1).argmin()
        held[side[group]] += wanted
    return side


def _deviation(counts: np.ndarray, share: np.ndarray, side: np.ndarray) -> float:
    """Largest distance of a class, or of all, from its share; inf where a side lacks a class."""
    held = np.stack([counts[side == this].sum(0) for this in range(len(share))])
    if (held == 0).any():
        return np.inf
    held = np.column_stack([held, held.sum(1)])
    return float(np.abs(held / held.sum(0) - share[:, None]).max())


def unseen_and_seen_patients(
    records: pd.DataFrame, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide twice, to examine on the same images of patients unseen in training and seen.

    Half of the images that a test patient has of a class leave the test set. In the first division
    they take no part; in the second they are training images, in place of as many others of that
    class. So both examine on the other half, and both train on as many images of each class: what
    differs is whether the patients were seen.

    Parameters
    ----------
    records : DataFrame with train and test by patient.
    seed : int, of what is drawn.

    Returns
    -------
    tuple of two DataFrames (unseen, seen), without the images that take no part.

    Raises
    ------
    ValueError
        Where no test patient has two images of one class.
    """
    records = records[records["split"] != ""]
    test, train = (records[records["split"] == split] for split in ("test", "train"))
    draw = np.random.default_rng(seed)
    order = pd.Series(draw.permutation(len(test)), test.index)
    order = order.groupby([test["patient"], test["label"]])
    first, alone = order.rank() <= order.transform("size") // 2, order.transform("size") < 2
    moved = test.index[first]
    if len(moved) == 0:
        raise ValueError(
            "no test patient has two images of one class, so none can be seen in training; use "
            "images with several of a patient, and a division by patient"
        )
    needed = records.loc[moved, "label"].value_counts().sort_index()
    replaced = [
        draw.choice(train.index[train["label"] == label], n, replace=False)
        for label, n in needed.items()
    ]
    rest = records.drop(test.index[alone])
    seen = rest.drop(np.concatenate(replaced))
    seen = seen.assign(split=seen["split"].mask(seen.index.isin(moved), "train"))
    return rest.drop(moved).reset_index(drop=True), seen.reset_index(drop=True)


def take_patients(records: pd.DataFrame, patients: int, seed: int = 0) -> pd.DataFrame:
    """Take the images of so many patients, classes in their shares and none without a patient.

    A patient with images of several classes counts for the one that fewest patients have.
    A seed's first patients are always the same: those of a smaller number are among those of a
    larger one.

    Parameters
    ----------
    records : DataFrame with path, label, patient.
    patients : int, how many.
    seed : int, of what is drawn.

    Returns
    -------
    DataFrame in the given order, numbered anew.

    Raises
    ------
    ValueError
        For fewer patients than classes, or more than there are.

    Examples
    --------
    >>> rows = [(f"{n}.png", "AAB"[n % 3], str(n)) for n in range(30)]
    >>> records = pd.DataFrame(rows, columns=["path", "label", "patient"])
    >>> take_patients(records, 6)["label"].value_counts().to_dict()
    {'A': 4, 'B': 2}
    """
    have = records.groupby("label")["patient"].nunique()
    rarest = records.assign(have=records["label"].map(have)).sort_values(["have", "label", "path"])
    first = rarest.groupby("patient")["label"].first()
    counts = first.value_counts().sort_index()
    if not len(counts) <= patients <= len(first):
        raise ValueError(
            f"found {len(first)} patient{'s' * (len(first) != 1)} of {len(counts)} "
            f"class{'es' * (len(counts) != 1)}; take from {len(counts)} to "
            f"{len(first)}, not {patients}"
        )
    order = first.iloc[np.random.default_rng(seed).permutation(len(first))]
    # The k-th of a class's n patients stands where a fair share would have it, its first in front.
    place = order.groupby(order).cumcount() / order.map(counts)
    taken = set(place.sort_values(kind="stable").index[:patients])
    return records[records["patient"].isin(taken)].reset_index(drop=True)


def sample(records: pd.DataFrame, limit: int, seed: int = 0) -> pd.DataFrame:
    """Take fewer images, the same share of every split and class.

    Parameters
    ----------
    records : DataFrame with split, label, patient.
    limit : int, about so many images; two patients of each split and class at the least. 0 takes
        all.
    seed : int, of what is drawn.

    Returns
    -------
    DataFrame in the given order, numbered anew; the same one where all are taken.
    """
    if not limit or limit >= len(records):
        return records
    draw, patients, keep = np.random.default_rng(seed), records["patient"].to_numpy(), []
    for rows in records.groupby(["split", "label"]).indices.values():
        rows = draw.permutation(rows)
        two = np.sort(np.unique(patients[rows], return_index=True)[1])[:2]  # first of two patients
        rows = np.r_[rows[two], np.delete(rows, two)]
        keep.append(rows[: max(2, round(len(rows) * limit / len(records)))])
    return records.iloc[np.sort(np.concatenate(keep))].reset_index(drop=True)
