"""A data set made fit for an examination: what the audit found is taken out or put on one side.

No file is touched: the result is a table, and `write` makes a CSV manifest of it that every command
takes in place of the folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..core.words import many, some
from . import near_duplicates
from .audit import audit_near_duplicates, audit_splits, leaks
from .records import check_target, save
from .splits import by_patient, comparable, is_readable

_KEPT_FIRST = {"test": 0, "val": 1, "train": 2, "": 3}  # of copies, the one that examines stays
_SHARE = 0.15  # of the images, for validation and for test where they are drawn anew


@dataclass(frozen=True)
class Cleaned:
    """A clean table and what was done.

    Parameters
    ----------
    records : DataFrame, what is left, with new patient and split columns.
    steps : DataFrame with step, images (int), what (a sentence).
    """

    records: pd.DataFrame
    steps: pd.DataFrame


def clean(records: pd.DataFrame, pairs: pd.DataFrame | None = None) -> Cleaned:
    """Take out what spoils an examination, and split anew by patient where the splits leak.

    Unreadable files go; files with one content under two labels all go, as nobody knows which is
    right; images that only look the same under two labels stay, and are counted; of other copies
    one stays, that in test first. Patients who share a file, or with `pairs` a look, count as one
    under one name, a known one if there is any, so that they end on one side. Then, where the
    splits leak, they are drawn anew; a test set in which nothing leaks is kept and only train and
    val are drawn.

    Parameters
    ----------
    records : DataFrame after `records.inspect`.
    pairs : DataFrame of `near_duplicates.find_pairs`, or None.

    Returns
    -------
    Cleaned

    Raises
    ------
    ValueError
        Where records were not inspected, where fewer than two classes are left, or where there are
        too few patients to split by.
    """
    if lost := [name for name in ("sha256", "problem") if name not in records]:
        raise ValueError(f"the records lack {' and '.join(lost)}; records.inspect adds them")
    joined = records.assign(patient=_joined(records, pairs))
    whole = joined[is_readable(joined)]
    agreed = whole[whole.groupby("sha256")["label"].transform("nunique") == 1]
    order = agreed["split"].map(_KEPT_FIRST).sort_values(kind="stable").index
    once = agreed.loc[order].drop_duplicates("sha256").sort_index().reset_index(drop=True)
    if once["label"].nunique() < 2:
        raise ValueError(
            f"of {many(len(records))} {len(once)} would be left, of "
            f"{many(once['label'].nunique(), 'class', 'classes')}; two are needed. Look at what "
            "the audit says of files and labels"
        )
    done, how = _split(once)
    before = records["patient"][agreed.index]  # of copies too: the only image may be one
    renamed = agreed["patient"] != before
    stays = renamed & agreed["path"].isin(done["path"])
    sharing = "no two patients share a picture"
    if names := [*(before + " is now " + agreed["patient"])[renamed].unique()]:
        sharing = many(len(names), "patient shares", "patients share") + " a picture with another: "
        sharing += some(names)
        if gone := len(names) - before[stays].nunique():
            sharing += f"; of {gone} of these no image of their own is left"
    moved = done["path"].map(once.set_index("path")["split"]) != done["split"]
    steps = [
        ("unreadable", len(records) - len(whole), "left out, as they cannot be read"),
        ("two labels", len(whole) - len(agreed), "left out, as the same bytes carry two labels"),
        ("copies", len(agreed) - len(once), "left out, as another file has the same bytes"),
        (
            "patients joined",
            stays.sum(),
            f"are under another patient's name now; {sharing}",
        ),
        ("split anew", moved.sum(), how),
        ("left", len(done), f"in the clean table, of {many(done['patient'].nunique(), 'patient')}"),
    ]
    if pairs is not None:
        found = audit_near_duplicates(done, pairs).set_index("check")["found"]
        stay = "stay, though they look the same as one of another label: look at them"
        steps.insert(-2, ("two labels alike", found["near-duplicates of two labels"], stay))
    return Cleaned(done, pd.DataFrame(steps, columns=["step", "images", "what"]))


def _joined(records: pd.DataFrame, pairs: pd.DataFrame | None) -> pd.Series:
    """Row by row one name for all patients who share a file or, with pairs, a look."""
    names = sorted(set(records["patient"]), key=lambda name: (name.startswith("?"), name))
    codes = records["patient"].map({name: i for i, name in enumerate(names)}).to_numpy()
    file = pd.factorize(records["sha256"].where(comparable(records)))[0]  # -1 where there is none
    look = np.full(len(records), -1)
    if pairs is not None:
        look = near_duplicates.groups(records, pairs).to_numpy()
    bond = np.r_[file, np.where(look < 0, -1, look + len(records))]
    there = bond >= 0
    ends = np.r_[codes, codes][there], bond[there] + len(names)
    tied = coo_array((np.ones(there.sum()), ends), shape=(len(names) + 2 * len(records),) * 2)
    part = connected_components(tied, directed=False)[1][: len(names)]
    name = pd.Series(names, dtype="str").groupby(part).transform("first").to_numpy()
    return pd.Series(name[codes], records.index, dtype="str")


def _split(once: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The records with splits that do not leak, and what was done."""
    if not once["split"].any():
        return once, "changed sides; there are no splits yet"
    found = audit_splits(once)
    if not leaks(found):
        return once, "changed sides; the splits do not leak and stay"
    there = set(once["split"])
    leaking = found["splits"][found["verdict"] == "leak"]
    keep = "test" in there and not leaking.str.contains("test").any()
    val, test = (_SHARE if split in there else 0.0 for split in ("val", "test"))
    try:
        done = by_patient(once, val, test, keep_test=keep)
    except ValueError as error:
        n = once["patient"].nunique()
        left = many(n, "patient is left who shares", "patients are left who share")
        raise ValueError(
            f"the splits leak and cannot be drawn anew, as {left} no picture (with near-duplicates "
            f"many may be tied to one; look at the pairs, or clean without them): {error}"
        ) from None
    drawn = "train and val were drawn anew by patient, test stays"
    return done, f"changed sides: {drawn if keep else 'all were drawn anew by patient'}"


def refuse_target(csv: str | Path, data: str | Path) -> None:
    """Refuse a place where a manifest cannot be written.

    Parameters
    ----------
    csv : str or Path, where it would be written.
    data : str or Path, the folder or table that is read.

    Raises
    ------
    ValueError
        Where it is the very table that is read, and as `records.check_target`.
    """
    csv = Path(csv)
    check_target(csv)
    if csv.resolve() == Path(data).resolve():
        raise ValueError(f"{csv} is the table that is audited; give the clean one another name")


def write(records: pd.DataFrame, root: str | Path, csv: str | Path) -> None:
    """Write the columns that `records.read_manifest` reads; paths start from the CSV's folder.

    Where images lie elsewhere, paths start from the folder above them all, which stands in a column
    root.

    Parameters
    ----------
    records : DataFrame with path, label, split, patient.
    root : str or Path, the folder from which their paths start.
    csv : str or Path, the file to write.
    """
    start = Path(csv).absolute().parent
    files = [os.path.normpath(Path(root).absolute() / path) for path in records["path"]]
    home = Path(os.path.commonpath(map(os.path.dirname, files)))
    inside = home.is_relative_to(start)
    home = start if inside else home
    paths = [Path(file).relative_to(home).as_posix() for file in files]
    table = records.assign(path=paths)[["path", "label", "split", "patient"]]
    table = table if inside else table.assign(root=_relative(home, start))
    save(table, csv, parquet_beside=True)


def _relative(folder: Path, start: Path) -> str:
    """A relative path, or a whole one where there is none, such as to another Windows drive."""
    try:
        return Path(os.path.relpath(folder, start)).as_posix()
    except ValueError:
        return folder.as_posix()
