"""What may spoil an examination: what the splits share, and what the files alone tell of the label.

`audit_all` makes one table of all findings, a row a check. Its parts can be had alone:
`audit_splits` (patients, files and names in two splits), `audit_near_duplicates` (images that look
the same) and `audit_shortcuts`: could a network cheat? Images of two classes often come from two
machines or two hands, with other sizes, other compression, other modes. A network may learn that
instead of the disease, and fail where the files are made in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from ..core.intervals import auc_sides, interval, resamples, weighted_auc
from ..core.words import many
from . import near_duplicates
from .layouts import find_root
from .records import inspect, load, root_of, scan, unknown_patient
from .splits import SPLITS, checked_records, comparable, is_readable

_FEW = 100  # images; below, a validation set says little
_FOLDS = 5  # so many patients at least in every class
_SAMPLE = 10_000  # images at most: enough for two decimals, and seconds instead of minutes
_REPEATS = 200  # resamples of patients for the interval
_TREES = 30
_LEAF = 10  # images at least on which a tree bases an answer
_SEED = 0
_CLEAR = 0.55  # an AUC whose interval begins above this is no chance
_PROPERTIES = ("width", "height", "mode", "bytes")
# check -> (column, verdict where found, meaning where found, meaning where not)
_SHARED = {
    "patient in two splits": (
        "patient",
        "leak",
        "{found:,} of {of:,} {second} images show a patient whom {first} shows too, so a score on "
        "them rewards knowing the patient.",
        "No patient of {first} is in {second}.",
    ),
    "identical bytes in two splits": (
        "sha256",
        "leak",
        "{found:,} of {of:,} {second} images are in {first} too, byte for byte, so a score on them "
        "rewards memory.",
        "No readable file of {first} is in {second}.",
    ),
    "base name in two splits": (
        "name",
        "warning",
        "{found:,} of {of:,} {second} images have a file name that is in {first} too; they may be "
        "other scans or copies.",
        "No file name of {first} is in {second}.",
    ),
}


def audit_all(records: pd.DataFrame, pairs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Everything that may spoil an examination, in one table.

    Parameters
    ----------
    records : DataFrame with path, split, label, patient; after `records.inspect` files are compared
        and their properties examined as well.
    pairs : DataFrame of `near_duplicates.find_pairs`, or None where nobody looked for them.

    Returns
    -------
    DataFrame, the rows of `audit_splits`, `audit_near_duplicates` and `audit_shortcuts`.

    Raises
    ------
    ValueError
        Where a column or the patient of a row is missing, or there are no rows.

    Examples
    --------
    >>> rows = [("a/1.png", "train", "a", "Ann"), ("b/2.png", "train", "b", "Bob"),
    ...         ("a/3.png", "test", "a", "Ann"), ("b/4.png", "test", "b", "Eve")]
    >>> found = audit_all(pd.DataFrame(rows, columns=["path", "split", "label", "patient"]))
    >>> found.loc[found["found"] > 0, ["check", "splits", "found", "of", "verdict"]]
                       check        splits  found  of verdict
    0  patient in two splits  train & test      1   2    leak
    """
    parts = [audit_splits(records)]
    if pairs is not None:
        parts.append(audit_near_duplicates(records, pairs))
    if set(_PROPERTIES) <= set(records):
        parts.append(audit_shortcuts(measure_shortcuts(records)))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def audit_splits(records: pd.DataFrame) -> pd.DataFrame:
    """Everything by which one split may know another, and what is missing or twice in one.

    Parameters
    ----------
    records : DataFrame with path, split, label, patient. Patients and names count in all rows that
        have a split; files are compared where there is sha256, without the unreadable ones.

    Returns
    -------
    DataFrame, one row a check and pair of splits: check, splits ("train & test", or "all"), found
        (images of the second-named split concerned), of, share (0 to 1), verdict ("leak",
        "warning", "unknown" where no patient of a split is known, or "ok"), examples (up to three
        paths; copies within a split that count as another patient's come first, each with the image
        that it is) and meaning (a sentence).

    Raises
    ------
    ValueError
        Where a column or the patient of a row is missing, or there are no rows.
    """
    records = checked_records(records)
    records["name"] = records["path"].str.replace(r"(?s)^.*/", "", regex=True)
    there = set(records["split"].unique())
    parts = {name: records[records["split"] == name] for name in SPLITS if name in there}
    checks = [check for check, (column, *_) in _SHARED.items() if column in records]
    rows = [_shared(parts, pair, check) for check in checks for pair in combinations(parts, 2)]
    if "sha256" in records:
        rows += [_two_labels(records)]
        rows += [_copies(split, part) for split, part in (parts or {"all": records}).items()]
    rows += [_unknown(records)] + ([_unreadable(records)] if "problem" in records else [])
    if parts and "" in there:
        rows += [_without_split(records)]
    rows += [_missing_classes(records, split, part) for split, part in parts.items()]
    rows += [_small(parts["val"])] if "val" in parts else []
    return pd.DataFrame(rows)


def _row(
    check: str,
    splits: str,
    hits: Sequence[str] | pd.Series,
    of: int,
    bad: str,
    good: str,
    verdict: str = "warning",
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


def _shared(parts: dict[str, pd.DataFrame], pair: tuple[str, str], check: str) -> dict:
    column, verdict, bad, good = _SHARED[check]
    first, second = (parts[split] for split in pair)
    of = len(second)
    if column == "patient":
        for split, part in zip(pair, (first, second), strict=True):
            if unknown_patient(part).all():
                told = f"No patient of {split} is known, so whether {pair[0]} and {pair[1]} share "
                told += "one cannot be told."
                return _row(check, " & ".join(pair), [], of, "", told) | {"verdict": "unknown"}
    if column == "sha256":
        first, second = first[comparable(first)], second[comparable(second)]
    codes = pd.factorize(pd.concat([first[column], second[column]]))[0]  # isin is slow for text
    there = second[np.isin(codes[len(first) :], codes[: len(first)])]
    hits = there["path"]
    if column == "sha256":
        same = first.drop_duplicates(column).set_index(column)["path"]
        hits = hits + " (is " + there[column].map(same) + ")"
    words = {"first": pair[0], "second": pair[1], "found": len(hits), "of": of}
    bad, good = bad.format(**words), good.format(**words)
    return _row(check, " & ".join(pair), hits, of, bad, good, verdict)


def _two_labels(records: pd.DataFrame) -> dict:
    whole = records[comparable(records)]
    hits = whole[whole.groupby("sha256")["label"].transform("nunique") > 1]
    hits = hits["path"].iloc[pd.factorize(hits["sha256"])[0].argsort(kind="stable")]  # together
    same = f"{len(hits):,} images are the same files under different labels"
    bad, good = f"{same}, so some labels are wrong.", "No readable file has two labels."
    return _row("identical bytes under two labels", "all", hits, len(records), bad, good)


def _copies(split: str, part: pd.DataFrame) -> dict:
    whole = part[comparable(part)]
    whole = whole.loc[unknown_patient(whole).sort_values(kind="stable").index]  # known ones first
    again = whole[whole["sha256"].duplicated()]
    copies = many(len(again), "image is a copy", "images are copies")
    first = whole.drop_duplicates("sha256").set_index("sha256").loc[again["sha256"]]
    first.index = again.index
    differ = (again["patient"] != first["patient"]) & ~unknown_patient(again)
    differ &= ~unknown_patient(first)
    others = f", {differ.sum():,} as another patient's" if differ.any() else ""
    bad = f"{copies} of another in the same place, counted twice{others}."
    beside = again["path"] + " (is " + first["path"] + ", of another patient)"
    hits = pd.concat([beside[differ], again["path"][~differ]])
    good = "No readable file is there twice."
    return _row("identical bytes within a split", split, hits, len(part), bad, good)


def _unknown(records: pd.DataFrame) -> dict:
    records = records[is_readable(records)]
    hits = records["path"][unknown_patient(records)]
    bad = (
        f"For {many(len(hits))} no patient is known; each counts as one of its "
        "own, so the same person on two sides would go unseen. Where file names tell the patient, "
        r"say how: --patient '(?P<patient>\d+)_' reads 123 from 123_left.png. Else list the images "
        "in a CSV manifest with a column patient."
    )
    good = "The patient of every image is known."
    return _row("unknown patient", "all", hits, len(records), bad, good)


def _without_split(records: pd.DataFrame) -> dict:
    without, test = (records[records["split"] == split] for split in ("", "test"))
    known = test["patient"][~unknown_patient(test)]
    shared = int(without["patient"].isin(set(known)).sum())
    bad = f"{many(len(without), 'image names', 'images name')} no split, as others do; training "
    bad += "puts them beside its own, or divides all images anew where they share patients with "
    bad += f"the test images, as {shared:,} of them do."
    return _row("no split beside others", "all", without["path"], len(records), bad, "")


def _unreadable(records: pd.DataFrame) -> dict:
    bad = records[~is_readable(records)]
    hits = bad["path"] + " (" + bad["problem"].astype(str) + ")"
    take = "takes" if len(hits) == 1 else "take"
    bad = f"{many(len(hits), 'file')} cannot be read and {take} no part."
    return _row("unreadable file", "all", hits, len(records), bad, "Every file can be read.")


def _missing_classes(records: pd.DataFrame, split: str, part: pd.DataFrame) -> dict:
    classes = set(records["label"].unique())
    gone = sorted(classes - set(part["label"].unique()))
    bad, good = f"There is no image of {', '.join(gone)} in {split}.", f"Every class is in {split}."
    return _row("class missing in a split", split, gone, len(classes), bad, good)


def _small(val: pd.DataFrame) -> dict:
    n, off = len(val), 0.98 / np.sqrt(len(val))
    width = f"a share measured on {many(n)} is known to within {off:.2f} at worst (95 %)"
    bad, good = f"Too few to choose a model by: {width}.", f"Large enough: {width}."
    return _row("validation set too small", "val", val["path"] if n < _FEW else [], n, bad, good)


def leaks(found: pd.DataFrame) -> bool:
    """Whether a split leaks.

    Parameters
    ----------
    found : DataFrame that `audit_all` or a part of it made.

    Returns
    -------
    bool

    Examples
    --------
    >>> rows = [("a/1.png", "train", "a", "Ann"), ("b/2.png", "test", "b", "Ann")]
    >>> leaks(audit_all(pd.DataFrame(rows, columns=["path", "split", "label", "patient"])))
    True
    """
    return bool((found["verdict"] == "leak").any())


def leak_verdict(found: pd.DataFrame) -> str:
    """The audit in one sentence, for a caption.

    Parameters
    ----------
    found : DataFrame that `audit_all` or `audit_splits` made.

    Returns
    -------
    str
        The largest leak into the test set, or else the largest, or what was compared without
        finding one.
    """
    if leaks(found):
        leaking = found[found["verdict"] == "leak"]
        tested = leaking[leaking["splits"].str.contains("test")]
        worst = leaking.loc[(tested if len(tested) else leaking)["found"].idxmax()]
        first, second = worst["splits"].split(" & ")
        how = f"are files of {first} too"
        if "patient" in worst["check"]:
            how = f"share a patient with {first}"
        elif "near" in worst["check"]:
            how = f"look like images of {first}"
        return f"LEAK: {worst['found']:,} of {worst['of']:,} {second} images {how}"
    total = found.groupby("check")["found"].sum()
    if "patient in two splits" not in total:
        return "there are no two splits to compare"
    words = dict(zip(_SHARED, ("patient", "file", "name"), strict=True))
    unsure = set(found.loc[found["verdict"] == "unknown", "check"])
    clean = [word for check, word in words.items() if total.get(check) == 0 and check not in unsure]
    told = []
    if clean:
        both = " or ".join(filter(None, (", ".join(clean[:-1]), clean[-1])))
        told += [f"no {both} is on two sides"]
    if "identical bytes in two splits" not in total:
        told += ["files were not compared"]
    unknown, of = found.loc[found["check"] == "unknown patient", ["found", "of"]].iloc[0]
    if unsure:
        who = "a patient is," if clean else "a patient is on two sides"
        told += [f"whether {who} is unknown for {unknown:,} of {many(of)}"]
    elif unknown:
        told += [f"the patient of {many(unknown)} is unknown"]
    return "; ".join(told)


def assert_no_leak(
    records: pd.DataFrame | str | Path,
    *,
    patient: str | Callable[[str], str | None] | None = "auto",
    allow_unknown_patients: bool = False,
    near: bool = False,
) -> None:
    r"""Fail where a patient, or a copy of an image, stands in two splits: for tests and hooks.

    In a project's own tests::

        from tlutils.data.audit import assert_no_leak

        def test_no_patient_is_on_two_sides():
            assert_no_leak("data/scans", patient=r"(?P<patient>\d+)_")

    Before each commit, in .pre-commit-config.yaml (the command passes where there are no splits or
    no patients to compare, and says so; this function does not)::

        repos:
          - repo: local
            hooks:
              - id: no-leak
                name: no patient is on two sides
                entry: python -m tlutils audit data/scans --patient '(?P<patient>\d+)_'
                language: system
                pass_filenames: false

    Parameters
    ----------
    records : DataFrame, or str or Path of a folder or a CSV manifest, whose files are read, or of a
        run's folder, whose records.csv is the table. A table has path, split, label, patient, as
        `records.scan` gives; its files are compared where it has sha256 (`records.inspect` adds
        it), else only its patients.
    patient : as for `records.scan`, how a path tells the patient; not for a table.
    allow_unknown_patients : bool, whether images whose patient is unknown may take part, which are
        then compared by their contents alone.
    near : bool, whether images that look the same count as copies; of a table its rows need phash
        (`near_duplicates.look_at` adds it).

    Raises
    ------
    AssertionError
        Where a split leaks: who or what is on which two sides, and what to do.
    ValueError
        Where it cannot be told: there are no two splits, one has a name of its own, a patient is
        unknown, or nothing is there to be compared.

    Examples
    --------
    >>> rows = [("a/1.png", "train", "a", "Ann"), ("b/2.png", "test", "b", "Eve")]
    >>> assert_no_leak(pd.DataFrame(rows, columns=["path", "split", "label", "patient"]))
    """
    source = None if isinstance(records, pd.DataFrame) else Path(records)
    if source and all((source / name).is_file() for name in ("recipe.json", "records.csv")):
        records = load(source / "records.csv")
    elif source:
        source = find_root(source) if source.is_dir() else source
        root = root_of(source)
        records = inspect(scan(source, patient), root, progress=False)
        records = near_duplicates.look_at(records, root) if near else records
    records = checked_records(records)
    records = records.assign(patient=records["patient"].astype("str"))
    _refuse_to_guess(records, allow_unknown_patients)
    found = audit_splits(records)
    if near:
        pairs = near_duplicates.find_pairs(records)
        found = pd.concat([found, audit_near_duplicates(records, pairs)], ignore_index=True)
    if leaks(found):
        rows = found[found["verdict"] == "leak"].itertuples()
        told = [f"{row.meaning} E.g. {_in_both(records, row)}." for row in rows]
        todo = (
            "Divide them anew with all images of a patient, and all copies, on one side: "
            "`python -m tlutils audit DATA --fix clean.csv` writes such a manifest, "
            "splits.by_patient divides a table."
        )
        raise AssertionError("\n".join([leak_verdict(found), *told, todo]))


def _refuse_to_guess(records: pd.DataFrame, allow_unknown_patients: bool) -> None:
    """ValueError where a comparison of the splits would say nothing, or leave something out."""
    there = set(records["split"].fillna("")) - {""}
    if odd := sorted(there - set(SPLITS)):
        raise ValueError(
            f"found the splits {', '.join(odd)}, which would not be compared; rename them to "
            f"{', '.join(SPLITS)}"
        )
    if len(there) < 2:
        raise ValueError(
            f"found {many(len(there), 'split')} in {many(len(records), 'record')}, so whether one "
            "leaks into another cannot be told; expected folders named train, val, test, or a "
            "column split"
        )
    good = records[is_readable(records)]
    nobody = unknown_patient(good)
    if nobody.any() and not allow_unknown_patients:
        raise ValueError(
            f"found no patient for {nobody.sum():,} of {len(good):,} images (e.g. "
            f"{good['path'][nobody].iloc[0]}), so whether one is on two sides cannot be told. "
            "Pass patient=, a pattern of file names such as '(?P<patient>\\d+)_', or give a "
            "manifest with a column patient; allow_unknown_patients=True compares contents alone"
        )
    hashed = "sha256" in records
    if nobody.all() and not hashed or hashed and not comparable(records).any():
        raise ValueError(
            f"the contents of none of the {len(records):,} images are known, so whether some are "
            "copies cannot be told; see records.problems for what is wrong with the files, and "
            "records.inspect for a table that they were not read for"
        )


def _in_both(records: pd.DataFrame, leak: object) -> str:
    """Up to three examples of a row of the audit, an image of each side where they are known."""
    if leak.check not in _SHARED:
        return leak.examples
    column = _SHARED[leak.check][0]
    known = records[comparable(records)] if column == "sha256" else records
    first, second = (
        known[known["split"] == split].drop_duplicates(column).set_index(column)["path"]
        for split in leak.splits.split(" & ")
    )
    shared = pd.concat([first, second], axis=1, join="inner").head(3)
    who = [f"patient {key} in " if column == "patient" else "" for key in shared.index]
    return "; ".join(f"{name}{a} and {b}" for name, (a, b) in zip(who, shared.to_numpy()))


def audit_near_duplicates(records: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """What images that look the same mean for the splits.

    Across two splits they are a leak, whoever the patients are; inside a split a warning where they
    count as two patients or carry two labels, and nothing to mention otherwise: two films of one
    patient may look the same.

    Parameters
    ----------
    records : DataFrame with path, split, label, patient, and sha256 where it is known.
    pairs : DataFrame of `near_duplicates.find_pairs`.

    Returns
    -------
    DataFrame in the columns of `audit_splits`.
    """
    look, beside = _looks(pairs)
    known = records.assign(look=records["path"].map(look))
    others = known[["look", "split", "patient", "label"]].dropna()
    near = beside.merge(others, left_on="other", right_on="look", suffixes=("", "_other"))
    near = near.drop_duplicates(["look", "split", "patient", "label"])
    inside = [split for split in SPLITS if split in set(known["split"])]
    rows = [_across(known, near, *pair) for pair in combinations(inside, 2)]
    for column in ("patient", "label"):
        hits = known["path"][known["look"].map(near.groupby("look")[column].nunique()) > 1]
        bad = (
            f"{len(hits):,} images look the same as one with another {column}, so one is wrong or "
            "unknown; look at them."
        )
        good = f"No images of two {column}s look the same."
        check = f"near-duplicates of two {column}s"
        rows.append(_row(check, "all", hits, len(records), bad, good))
    return pd.DataFrame(rows)


def _looks(pairs: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """Path -> number of its look, and (look, other): which looks are near, each to itself as well.

    Images at distance 0 have one look, though they are paired with the first of them only. Nothing
    else is passed on: that a is near b and b near c does not make c near a.
    """
    paths = pd.Index(pd.unique(pd.concat([pairs["path_a"], pairs["path_b"]])))
    a, b = (paths.get_indexer(pairs[f"path_{side}"]) for side in ("a", "b"))
    same = (pairs["distance"] == 0).to_numpy()
    tied = coo_array((np.ones(same.sum()), (a[same], b[same])), shape=(len(paths),) * 2)
    look = connected_components(tied, directed=False)[1]
    one, other = np.r_[look[a], look[b], look], np.r_[look[b], look[a], look]
    near = np.unique(np.c_[one, other], axis=0)
    return pd.Series(look, paths), pd.DataFrame(near, columns=["look", "other"])


def _across(known: pd.DataFrame, near: pd.DataFrame, first: str, second: str) -> dict:
    one, two = (known[known["split"] == split] for split in (first, second))
    hits = two[two["look"].isin(set(near.loc[near["split"] == first, "look"]))]
    files = ""
    if "sha256" in known:
        new = (~hits["sha256"].isin(set(one["sha256"]))).sum()
        files = f", {new:,} of them in files that differ"
    bad = (
        f"{len(hits):,} of {len(two):,} {second} images look the same as one in {first}{files}, so "
        "a score on them rewards memory."
    )
    good, where = f"No {second} image looks like one in {first}.", f"{first} & {second}"
    return _row("near-duplicates", where, hits["path"], len(two), bad, good, "leak")


@dataclass(frozen=True)
class Shortcuts:
    """How well file properties alone tell the label.

    Parameters
    ----------
    table : DataFrame with property ("all together", then each alone, the most telling first), auc,
        low, high (95 % interval).
    right : int, images whose label all properties together predict.
    of : int, images that were examined.
    usual : float, share of the most frequent label, which needs no property.
    patients : bool, whether some are known, so that nobody's images were learned from and examined.
    """

    table: pd.DataFrame
    right: int
    of: int
    usual: float
    patients: bool = True

    @property
    def clear(self) -> bool:
        """Whether the label shows clearly: the interval of all together begins above 0.55."""
        return bool(self.table["low"].iloc[0] > _CLEAR)


def measure_shortcuts(records: pd.DataFrame) -> Shortcuts | None:
    """Learn the label from file properties alone and examine that on other patients.

    A random forest with all properties and a decision tree with each alone, cross-validated in five
    parts by patient; the AUC is the mean over the classes, each against the rest: 0.5 is guessing,
    1 telling all. Intervals by bootstrap over patients. Of more than 10,000 images, as many of
    patients drawn at random. Bytes and brightness depend on what is shown too: they are a hint,
    width is a sign.

    Parameters
    ----------
    records : DataFrame after `records.inspect`, with brightness (see
        `near_duplicates.look_at`) that as well; unreadable images take no part.

    Returns
    -------
    Shortcuts, or None where it cannot be measured: one class, or one with fewer than five patients.

    Raises
    ------
    ValueError
        Where the records were not inspected.
    """
    known = _some_patients(records)
    label, classes = pd.factorize(known["label"], sort=True)
    fewest = known.groupby("label")["patient"].nunique().min() if len(known) else 0
    if len(classes) < 2 or fewest < _FOLDS:
        return None
    values = _properties(known)
    values = values[[name for name in values if values[name].nunique(dropna=False) > 1]]
    patient = pd.factorize(known["patient"])[0]
    parts = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=_SEED)
    folds = list(parts.split(values, label, patient))
    few = {"min_samples_leaf": _LEAF, "random_state": _SEED}
    together = _predicted(RandomForestClassifier(_TREES, **few), values, label, folds)
    tree = DecisionTreeClassifier(**few)
    alone = {name: _predicted(tree, values[[name]], label, folds) for name in values}
    rows = [{"property": name, **_auc(label, scores, patient)} for name, scores in alone.items()]
    rows = sorted(rows, key=lambda row: -row["auc"])
    table = pd.DataFrame([{"property": "all together", **_auc(label, together, patient)}, *rows])
    right, usual = int((together.argmax(1) == label).sum()), float(np.bincount(label).max())
    told = not unknown_patient(known).all()
    return Shortcuts(table, right, len(known), usual / len(label), told)


def _some_patients(records: pd.DataFrame) -> pd.DataFrame:
    """The readable rows, or those of patients drawn at random until there are about enough."""
    fine = records[is_readable(records)]
    if len(fine) <= _SAMPLE:
        return fine
    sizes = fine["patient"].value_counts().sort_index()
    sizes = sizes.sample(frac=1, random_state=_SEED).cumsum()
    return fine[fine["patient"].isin(set(sizes.index[sizes <= _SAMPLE]))]


def _properties(records: pd.DataFrame) -> pd.DataFrame:
    """What is known of each file without its picture, as numbers (float, NaN where unknown)."""
    if lost := [name for name in _PROPERTIES if name not in records]:
        raise ValueError(f"the records lack {', '.join(lost)}; records.inspect adds them")
    width, height, size = (
        records[name].astype("Float64").to_numpy(float, na_value=np.nan)
        for name in ("width", "height", "bytes")
    )
    suffix = records["path"].str.lower().str.extract(r"(\.(?!\d+$)\w+)$")[0]
    table = {
        "width": width,
        "height": height,
        "aspect": width / height,
        "bytes": size,
        "bytes per pixel": size / (width * height),
        "mode": pd.factorize(records["mode"], sort=True)[0],
        "suffix": pd.factorize(suffix, sort=True)[0],
    }
    if "brightness" in records:
        table["brightness"] = records["brightness"]
    return pd.DataFrame(table, index=records.index).astype(float)


def _predicted(
    model: ClassifierMixin, values: pd.DataFrame, label: np.ndarray, folds: list
) -> np.ndarray:
    """float (images, classes): what a model predicts for patients whom it has not seen."""
    scores = np.tile(np.bincount(label) / len(label), (len(label), 1))
    if values.shape[1] == 0:  # all files are alike
        return scores
    for learn, examine in folds:
        model.fit(values.iloc[learn], label[learn])
        scores[np.ix_(examine, model.classes_)] = model.predict_proba(values.iloc[examine])
    return scores


def _auc(label: np.ndarray, scores: np.ndarray, patient: np.ndarray) -> dict[str, float]:
    """auc, low, high: the mean over the classes, each against the rest, resampled by patient."""

    def mean_auc(weights: np.ndarray) -> np.ndarray:
        each = [weighted_auc(label == k, scores[:, k], weights) for k in range(scores.shape[1])]
        return np.mean(each, axis=0)

    patients = patient.max() + 1
    draws = resamples(patients, _REPEATS, _SEED, 16 * len(label))  # 16: blocks of 2 MB, not of 32
    spread = np.concatenate([mean_auc(drawn[:, patient]) for drawn in draws])
    value, sides = mean_auc(np.ones((1, len(label))))[0], auc_sides(label, patient)
    found = interval(value, spread, 0.95, sides)
    return {"auc": found["value"], "low": found["low"], "high": found["high"]}


def audit_shortcuts(found: Shortcuts | None) -> pd.DataFrame:
    """What `measure_shortcuts` found as a row of the audit.

    A warning where the label shows clearly, never a leak: the pictures may still tell more.

    Parameters
    ----------
    found : Shortcuts or None

    Returns
    -------
    DataFrame in the columns of `audit_splits`, without a row where it could not be measured.
    """
    if found is None:
        return pd.DataFrame()
    total, best = found.table.iloc[0], found.table.iloc[min(1, len(found.table) - 1)]
    who = "patients" if found.patients else "images"
    most = "file size" if best["property"] == "bytes" else best["property"]
    what = "File properties"
    what += " and mean brightness" if "brightness" in set(found.table["property"]) else ""
    number = f"AUC {total['auc']:.2f}, 95 % {total['low']:.2f} to {total['high']:.2f}"
    bad = (
        f"{what} alone, without the picture, tell {100 * found.right / found.of:.0f} % of the "
        f"labels of unseen {who} ({number}; the most frequent label would be right for "
        f"{100 * found.usual:.0f} %); most telling is {most} alone (AUC {best['auc']:.2f}). A "
        "network may learn that instead of the disease."
    )
    good = f"{what} alone tell little ({number})."
    row = _row("label shown by file properties", "all", [], found.of, bad, good)
    if found.clear:
        share = found.right / found.of
        row |= {"found": found.right, "share": share, "verdict": "warning", "meaning": bad}
    return pd.DataFrame([row])
