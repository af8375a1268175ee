"""A folder (or a CSV manifest) of images becomes a table: one row an image.

`records` is a DataFrame with the columns path (posix, relative to the data root), split ("train",
"val" or "test", "" where none is known), label and patient; `inspect` adds width, height, mode,
bytes, sha256 and problem ("" = fine). Every later step takes this table and hands it on.

A folder of tar files (`shards`) is one too; a path then leads into a tar file.

What a folder must look like, and where in it the data begin, is said in `layouts`.
"""

from __future__ import annotations

import csv as csv_format
import hashlib
import os
import re
import unicodedata
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from ..core import dicom, images
from ..core.files import check_writable, refuse_folder, replacing
from ..core.packages import needed
from ..core.progress import bar
from ..core.words import did_you_mean, many, quoted, refusal, some
from .layouts import LAYOUT, SPLIT_NAMES, TABLES, in_folders, in_shards, split_of
from .splits import SPLITS, is_readable

COLUMNS = ("path", "split", "label", "patient")
PARQUET_ROWS = 1_000_000  # from so many on `save` can write a CSV's table as Parquet beside it
_CSV_HASH = b"sha256 of the CSV"  # in the metadata of such a Parquet file
_WHOLE_NUMBERS = ("width", "height", "bytes")
_NOBODY = {"", "-", "--", ".", "?", "nan", "na", "n/a", "#n/a", "<na>", "nat"}
_NOBODY |= {"none", "null", "nil", "unknown", "missing"}
_NOBODY |= {"anon", "anonymous", "anonymized", "anonymised", "removed"}
# The words of a column's name that may tell the patient, in place of patient, and of others.
_PATIENT = re.compile(
    "(?<!in)(?<!out)(?<!im)(?:patient|subject|person)(?!ive|nel|al|s?(?:age|sex|gender|birth|date"
    "|time|weight|height|size|position|orientation|count|group))"
)
_OF_PATIENTS = {"age", "sex", "gender", "birth", "birthdate", "date", "time", "weight", "height"}
_OF_PATIENTS |= {"size", "position", "orientation", "count"}
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_KERMANY = re.compile(
    r"(?:CNV|DME|DRUSEN|NORMAL|BACTERIA|VIRUS)-(\d+)-\d+"
    r"|person(\d+)_(bacteria|virus)_\d+(?:_\d+)*"
    r"|((?:NORMAL2-)?IM)-(\d+)-\d+(?:-\d+)*",
    re.IGNORECASE | re.ASCII,
)
_PatientRule = str | Callable[[str], str | None] | None


def root_of(source: Path) -> Path:
    """The folder from which a source's paths start: a manifest's own, or the source itself.

    Parameters
    ----------
    source : Path, a folder or a manifest.

    Returns
    -------
    Path
    """
    return source.parent if source.is_file() else source


def scan(
    root: str | Path, patient: _PatientRule = "auto", classes: list[str] | None = None
) -> pd.DataFrame:
    """List the images of a data folder as records, sorted by path.

    No image is opened, but the heads of DICOM files where they tell the patient, and files without
    an ending, which are images where they begin as DICOM does.

    Parameters
    ----------
    root : str or Path, a folder with <split>/<class>/... or <class>/..., images at any depth below
        the class folder; splits are named train, val, test or the like (training_set, dev,
        seg_test). A CSV file goes to `read_manifest`. Where there are tar files and no other
        images, those in them are listed: a .json, .cls or .txt beside an image tells its label (see
        `shards.told`), or its class folder; a split is told there, by folders or by the tar file's
        name (train-000003.tar).
    patient : str, function or None, how a path or DICOM file tells the patient, see
        `with_patients`.
    classes : list of str, the labels that may occur; None takes what is there.

    Returns
    -------
    DataFrame
        The str columns path, split, label, patient. A warning where something odd is left out.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder.
    ValueError
        Where its layout or labels make no sense.
    """
    root = Path(root)
    if root.is_file():
        return read_manifest(root, patient=patient, classes=classes)
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; check the spelling, or fetch the data first"
        )
    frame = in_folders(root, classes)
    if frame is None:
        return _scan_shards(in_shards(root), root, patient, classes)
    _check_labels(frame, str(root), classes)
    return with_patients(frame, patient, root)


def _scan_shards(
    told: pd.DataFrame, root: Path, patient: _PatientRule, classes: list[str] | None
) -> pd.DataFrame:
    """`scan` where the images lie in tar files, which may tell patients."""
    frame = with_patients(told, patient, root)
    if patient == "auto":
        known = ~told["patient"].str.lower().isin(_NOBODY)
        frame["patient"] = frame["patient"].mask(known, told["patient"])
    frame = _with_labels(root, frame)
    _check_labels(frame, str(root), classes)
    return frame.sort_values("path", ignore_index=True)


def _with_labels(root: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The images whose label is known; a warning names the others."""
    loose = frame["path"][frame["label"] == ""]
    found = f"{many(len(loose))} without a label ({some(loose)})"
    wanted = "a .json, .cls or .txt beside each, or a class folder in the tar file"
    wrong = refusal(root, found, wanted, "add what is missing")
    if len(loose) == len(frame):
        raise wrong
    if len(loose):
        warnings.warn(f"{wrong}; they are left out", stacklevel=4)
    return frame[frame["label"] != ""]


def _check_labels(frame: pd.DataFrame, where: str, classes: list[str] | None) -> None:
    labels = classes_of(frame)
    bare = [unicodedata.normalize("NFKC", label).strip().casefold() for label in labels]
    double = [repr(label) for label, key in zip(labels, bare, strict=True) if bare.count(key) > 1]
    unknown = [label for label in labels if classes is not None and label not in classes]
    if "" in bare:
        found = f"{many((frame['label'].str.strip() == '').sum(), 'row')} without a label"
        raise refusal(where, found, "one in each", "give them one or remove them")
    if double:
        found = f"one label in several spellings ({', '.join(double)})"
        todo = "rename the folders or correct the label column"
        raise refusal(where, found, "one spelling in all splits", todo)
    if unknown:
        found = f"labels that are not among the classes ({some(unknown)})"
        raise refusal(where, found, ", ".join(classes), "rename or remove them")
    if classes is None and len(labels) < 2:
        found = f"one class only ({', '.join(labels)})"
        todo = "this may be a folder too high or too low"
        raise refusal(where, found, f"two or more, as {LAYOUT}", todo)
    _compare_splits({split: {*group} for split, group in frame.groupby("split")["label"]}, where)


def _compare_splits(labels: dict[str, set[str]], where: str) -> None:
    for split in [name for name in ("val", "test") if name in labels and "train" in labels]:
        if new := sorted(labels[split] - labels["train"]):
            found = f"classes in {split} that train does not know ({', '.join(new)})"
            wanted = f"only {', '.join(sorted(labels['train']))}"
            raise refusal(where, found, wanted, "train on them too, or remove them")
        if gone := sorted(labels["train"] - labels[split]):
            warnings.warn(
                f"found no image of {', '.join(gone)} in the split {split} in {where}, though "
                f"train has some; {split} can say nothing of them",
                stacklevel=4,
            )


# Patients


def patient_of(filename: str) -> str | None:
    """The patient that a file name of the Kermany sets tells of.

    CNV-81630-1.jpeg, NORMAL-81630-2.jpeg -> 81630: one patient has scans in several classes.
    person12_virus_4.jpeg -> virus-12; person12_bacteria_9.jpeg -> bacteria-12, who is somebody
    else. IM-0115-0001.jpeg -> IM-115; NORMAL2-IM-0115-0001.jpeg -> NORMAL2-IM-115: two series, each
    counted from 1. BACTERIA-1008087-0001.jpeg (version 3) -> 1008087: it may join two patients, but
    never divides one. Rules read from the file names of Mendeley Data rscbjbr9sj, versions 2 and 3.

    Parameters
    ----------
    filename : str, with or without folders.

    Returns
    -------
    str, or None where the name follows none of their rules.

    Examples
    --------
    >>> patient_of("train/PNEUMONIA/person12_virus_4.jpeg")
    'virus-12'
    """
    name = filename[filename.rfind("/") + 1 :]  # pathlib takes 30 times as long
    match = _KERMANY.fullmatch(os.path.splitext(name)[0])
    if match is None:
        return None
    scan_of, person, germ, series, number = match.groups()
    bare = (scan_of or person or number).lstrip("0") or "0"
    return bare if scan_of else f"{germ.lower()}-{bare}" if person else f"{series.upper()}-{bare}"


def with_patients(
    records: pd.DataFrame, patient: _PatientRule = "auto", root: str | Path | None = None
) -> pd.DataFrame:
    """Make the patient column anew from the paths, or from what DICOM files say.

    Parameters
    ----------
    records : DataFrame with path.
    patient : "auto" (the PatientID in a DICOM file, else `patient_of`), "dicom" (the PatientID,
        whatever the file's name), "dicom-hashed" (16 hexadecimal digits of its SHA-256, which hides
        it from readers but not from who tries all numbers), a regular expression with a group named
        patient that is searched in the path (a warning tells where the file's name alone tells
        another), a function from path to patient or None, or None. Of a path into a tar file an
        expression or function sees what stands behind that file's name.
    root : str or Path, the folder from which paths start; None opens no file, so that "auto" goes
        by names alone.

    Returns
    -------
    DataFrame with patient (str). Where no patient is found, or only a word for none (nan, NA, null,
        -, unknown, anonymous...), the image counts as one of its own, with "?" and its path as the
        key.

    Raises
    ------
    ImportError
        Where DICOM files are to tell the patient and pydicom is not there.
    ValueError
        For an expression that is none or fits no path, and for DICOM files without a root.

    Examples
    --------
    >>> records = pd.DataFrame({"path": ["a/Ann-1.png", "a/Ann-2.png", "b/scan.png"]})
    >>> with_patients(records, "/(?P<patient>[A-z]+)-")["patient"].tolist()
    ['Ann', 'Ann', '?b/scan.png']
    """
    rule = patient
    if patient == "auto":
        rule = patient_of if root is None else _by_file_or_name(root)
    elif patient in ("dicom", "dicom-hashed"):
        rule = _by_file(root, hashed=patient == "dicom-hashed")
    elif isinstance(patient, str):
        rule = _searched(patient)
    paths = records["path"].tolist()
    # of a path that leads into a tar file, what leads through it: shards are numbered, too
    by_file = patient in ("auto", "dicom", "dicom-hashed")
    names = paths if by_file else [path.rpartition(".tar/")[2] for path in paths]
    found = [rule(name) if rule else None for name in names]
    if isinstance(patient, str) and patient != "auto" and paths and not any(found):
        wanted = f"it to fit such as {paths[0]!r}"
        todo = "give another rule (--patient, in Python patient=...), or none (in Python None) "
        todo += "where patients are not known"
        if any(rule(name.rpartition("/")[2]) for name in names):
            todo = "the rule is searched in the whole path, where ^ is the beginning of the first "
            todo += "folder; write (?<![^/]) for the beginning of any name"
        if not by_file and root is not None and any(dicom.is_dicom(path, root) for path in paths):
            todo = "the files are DICOM and may tell it: give --patient dicom (in Python "
            todo += "patient='dicom'), or none (None) where patients are not known"
        raise refusal("the paths", f"no patient by the rule {quoted(patient)}", wanted, todo)
    if isinstance(patient, str) and not by_file:
        _warn_of_folders(patient, rule, names, found)
    keys = [
        f"?{path}" if str(key).strip().lower() in _NOBODY else str(key)
        for path, key in zip(paths, found, strict=True)
    ]
    return records.assign(patient=pd.Series(keys, index=records.index, dtype="str"))


def _by_file_or_name(root: str | Path) -> Callable[[str], str | None]:
    by_file = _by_file(root)

    def rule(path: str) -> str | None:
        if dicom.is_dicom(path, root):
            with suppress(ImportError):  # which the inspection names as what is wrong with it
                return by_file(path) or patient_of(path)
        return patient_of(path)

    return rule


def _by_file(root: str | Path | None, hashed: bool = False) -> Callable[[str], str | None]:
    if root is None:
        raise ValueError("the patient is to be read from DICOM files; pass root, their folder")

    def rule(path: str) -> str | None:
        key = dicom.patient(os.path.join(root, path))
        if key.lower() in _NOBODY:
            return None
        return hashlib.sha256(key.encode()).hexdigest()[:16] if hashed else key

    return rule


def _warn_of_folders(
    pattern: str, rule: Callable[[str], str | None], paths: list[str], found: list[str | None]
) -> None:
    """Say where a pattern found a patient in a folder's name, and the file's tells of another."""
    by_name = [rule(path.rpartition("/")[2]) for path in paths]
    other = [i for i, name in enumerate(by_name) if found[i] and name and name != found[i]]
    if other:
        path, taken, name = paths[other[0]], found[other[0]], by_name[other[0]]
        warnings.warn(
            f"the patient rule {quoted(pattern)} finds a patient in a folder of {len(other)} of "
            f"{many(len(paths))}, where the file's name alone tells another: {path} counts as of "
            f"{taken}, its name tells {name}. If the names are right, begin the rule with "
            "(?=[^/]*$); if the folders are, have it ask for the / behind them",
            stacklevel=4,
        )


def _searched(pattern: str) -> Callable[[str], str | None]:
    try:
        expression = re.compile(pattern)
        why = "" if "patient" in expression.groupindex else "it has no group named patient"
    except (re.error, OverflowError, RecursionError) as error:
        why = f"it is no regular expression: {error}"
    if why:
        raise ValueError(
            f"the patient rule {quoted(pattern)} does not work, as {why}; give auto, dicom, "
            "dicom-hashed, none (in Python None, in YAML null), or a regular expression with a "
            r"group named patient, such as '(?P<patient>\d+)_' for 123_left.png"
        )
    return lambda path: match["patient"] if (match := expression.search(path)) else None


def unknown_patient(records: pd.DataFrame) -> pd.Series:
    """Where no patient is known, so that the image counts as a patient of its own.

    Parameters
    ----------
    records : DataFrame with patient.

    Returns
    -------
    Series of bool, row by row.
    """
    return records["patient"].str.startswith("?")


def of_patients(records: pd.DataFrame) -> dict:
    """Count images and patients, with one image as an example of how a path tells its patient.

    Parameters
    ----------
    records : DataFrame with path and patient; unreadable images take no part.

    Returns
    -------
    dict
        images, patients, unknown_patients (images whose patient is unknown), example (path and
        patient; None where none is known).

    Examples
    --------
    >>> of_patients(pd.DataFrame({"path": ["a/Ann-1.png"], "patient": ["Ann"]}))["example"]
    {'path': 'a/Ann-1.png', 'patient': 'Ann'}
    """
    good = records[is_readable(records)]
    known = good.loc[~unknown_patient(good), ["path", "patient"]]
    return {
        "images": len(good),
        "patients": known["patient"].nunique(),
        "unknown_patients": len(good) - len(known),
        "example": known.iloc[0].to_dict() if len(known) else None,
    }


def of_several_classes(records: pd.DataFrame, named: bool = False) -> str:
    """Say how many patients have images of more than one class, and when that is right.

    Parameters
    ----------
    records : DataFrame with patient and label; unreadable images take no part.
    named : bool, whether to name one of them

    Returns
    -------
    str, "" where there is no such patient.

    Examples
    --------
    >>> of_several_classes(pd.DataFrame({"patient": ["7", "7"], "label": ["CNV", "DME"]}))[:48]
    '1 patient has images of more than one class: rig'
    """
    known = records[is_readable(records) & ~unknown_patient(records)]
    labels = known.groupby("patient")["label"].nunique()
    if not (several := int((labels > 1).sum())):
        return ""
    who = many(several, "patient has", "patients have")
    example = f", e.g. {labels.idxmax()}" if named else ""
    return (
        f"{who} images of more than one class{example}: right where each eye or each visit has a "
        "label of its own, else some labels are wrong"
    )


# Tables


def read_manifest(
    csv: str | Path,
    root: str | Path | None = None,
    patient: _PatientRule = "auto",
    classes: list[str] | None = None,
) -> pd.DataFrame:
    """Read records from a table with the columns path and label, where known split and patient.

    Rows that are repeated or whose file is missing are left out with a warning.

    Parameters
    ----------
    csv : str or Path, a CSV or, by its ending, a .parquet file.
    root : str or Path, the folder from which paths in the file and in the result start; None takes
        the CSV's own. None may lead out of it, but a column root can name another folder, from the
        CSV's own, that they all start from.
    patient : str, function or None; with "auto" the column counts where it has a value, else what
        a DICOM file says, else the name; another rule replaces it (see `with_patients`).
    classes : list of str, the labels that may occur; None takes what is there.

    Returns
    -------
    DataFrame as `scan` gives.

    Raises
    ------
    FileNotFoundError
        Where the CSV or all files are missing.
    ValueError
        Where columns, paths, splits or labels make no sense.
    """
    csv = Path(csv)
    start = csv.parent if root is None else Path(root)
    table = _read_table(csv, ("path", "label"))
    if table.empty:
        raise refusal(csv, "no row below the first", "one for each image", "list the images in it")
    named = table.get("split", [""] * len(table))
    splits = [split_of(name) if name.strip() else "" for name in named]
    if None in splits:
        found = f"the split {table['split'].iloc[splits.index(None)]!r}"
        todo = "correct the split column"
        raise refusal(csv, found, f"{', '.join(SPLIT_NAMES)} or nothing", todo)
    home = start if root is not None or "root" not in table else start / _one_root(table, csv)
    paths = _paths_below(home, start, table["path"], csv)
    frame = pd.DataFrame({"path": paths, "split": splits, "label": table["label"]}, dtype="str")
    try:
        frame = with_patients(frame, patient, start)
    except ValueError as error:
        if "patient" not in table:
            raise
        raise ValueError(f"{error}; the rule auto reads the column patient of {csv}") from None
    if "patient" in table and patient == "auto":
        given = table["patient"].str.strip()
        nobody = given.str.lower().isin(_NOBODY)
        frame["patient"] = given.mask(nobody, frame["patient"])
        if nobody.any():
            warnings.warn(
                f"found no patient in {nobody.sum()} of {len(table)} rows of {csv}; there the file "
                "name tells it, or the image counts as a patient of its own",
                stacklevel=2,
            )
    words = {name: {word.lower() for word in _WORDS.findall(name)} for name in table}
    alike = [name for name, of in words.items() if any(map(_PATIENT.search, of))]
    alike = [name for name in alike if not words[name] & _OF_PATIENTS]
    alike = [name for name in alike if not _agree(table[name], frame)]
    if alike and "patient" not in table:
        warnings.warn(
            f"of {csv} {some(alike)} is not read; call the column patient that tells whose each "
            "image is",
            stacklevel=2,
        )
    frame = _rows_with_files(frame, start, csv)
    _check_labels(frame, str(csv), classes)
    return frame.sort_values("path", ignore_index=True)


def has_patients(source: str | Path) -> bool:
    """Whether a source is a manifest with a column that tells patients.

    Parameters
    ----------
    source : str or Path

    Returns
    -------
    bool
    """
    is_table = Path(source).suffix.lower() in TABLES and Path(source).is_file()
    table = _read_table(Path(source), ()) if is_table else {}
    return "patient" in table and not table["patient"].str.strip().str.lower().isin(_NOBODY).all()


def _agree(column: pd.Series, frame: pd.DataFrame) -> bool:
    """Whether a column tells the same images apart as their patients do, all of which are known."""
    pairs = pd.DataFrame({"column": column, "patient": frame["patient"]}).drop_duplicates()
    return not unknown_patient(frame).any() and all(pairs[name].is_unique for name in pairs)


def _one_root(table: pd.DataFrame, csv: Path) -> str:
    if table["root"].nunique() > 1:
        found = f"several roots ({some(table['root'].unique())})"
        raise refusal(csv, found, "one folder above all images", "correct the root column")
    return table["root"].iloc[0]


def _paths_below(home: Path, start: Path, paths: pd.Series, csv: Path) -> list[str]:
    """Paths of a manifest, relative to `home` or whole, from `start` now; none may leave `home`."""
    inside = [_inside(_as_written(path, home), home) for path in paths]
    if out := [path for path, found in zip(paths, inside, strict=True) if found is None]:
        raise refusal(
            csv,
            f"{len(out)} of {len(paths)} paths that lead out of {home} ({some(out)})",
            "paths below it",
            "if they are meant, add a column root that names the folder above all of them, seen "
            "from this file (such as ..), and write relative paths from there; in Python, "
            "root=... does the same",
        )
    inside = inside if home == start else [os.path.relpath(home / path, start) for path in inside]
    return [Path(path).as_posix() for path in inside]


def _as_written(path: str, home: Path) -> str:
    """The path without blanks around it and with slashes, but where a file has just that name."""
    plain = path.strip().replace("\\", "/")
    return path if path != plain and images.state(os.path.join(home, path)) else plain


def _inside(path: str, home: Path) -> str | None:
    """The path relative to `home`; None where it lies elsewhere."""
    for above in (home.absolute(), home.resolve()):
        try:
            inside = os.path.relpath(os.path.join(above, path), above)
        except ValueError:  # another drive
            continue
        if Path(inside).parts[:1] != ("..",):
            return inside
    return None


def _rows_with_files(frame: pd.DataFrame, root: Path, csv: Path) -> pd.DataFrame:
    once = frame.drop_duplicates(ignore_index=True)
    if (twice := once["path"].duplicated()).any():
        found = f"rows for one path that do not agree ({some(once['path'][twice])})"
        raise refusal(csv, found, "one each", "decide which label, split and patient are right")
    there = [images.state(os.path.join(root, path)) is not None for path in once["path"]]
    there = np.array(there, dtype=bool)
    gone = once["path"][~there]
    missing = (
        f"{len(gone)} of {len(once)} files that {csv} names {'is' if len(gone) == 1 else 'are'} "
        f"missing in {root} ({some(gone)}); paths start from the CSV's folder unless a column root "
        "(in Python also root=...) names another"
    )
    if not there.any():
        raise FileNotFoundError(missing)
    if not there.all():
        warnings.warn(f"{missing}; they are left out", stacklevel=3)
    if again := len(frame) - len(once):
        text = f"found {many(again, 'repeated row')} in {csv}; each image is taken once"
        warnings.warn(text, stacklevel=3)
    return once[there].reset_index(drop=True)


def _read_table(csv: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A CSV as text throughout: a patient 007 or a label NA stays what it is."""
    if not csv.is_file():
        raise FileNotFoundError(f"there is no table {csv}; check the spelling, or make it first")
    table = _read_parquet(csv) if _is_parquet(csv) else _read_beside(csv)
    if table is not None:
        table.columns = _known_columns([*map(str, table)], columns, csv)
        return table
    try:
        with open(csv, encoding="utf-8-sig", newline="") as file:
            lines = csv_format.reader(file, strict=True)
            rows = [(lines.line_num, row) for row in lines if row]
    except (ValueError, csv_format.Error) as error:
        wanted = f"a CSV file in UTF-8 with the columns {', '.join(columns)}"
        todo = "give a folder of images if that is what you have"
        raise refusal(csv, f"no table ({error})", wanted, todo) from None
    if not rows:
        wanted = f"the columns {', '.join(columns)}"
        raise refusal(csv, "no line", wanted, "the file is empty: list the images in it")
    (_, head), *rows = rows
    known, n = _known_columns(head, columns, csv), len(head)
    if long := [str(number) for number, row in rows if any(map(str.strip, row[n:]))]:
        found = f"more values than columns (line {some(long)})"
        todo = "put quotation marks around a value with a comma in it"
        raise refusal(csv, found, f"{n} in each line", todo)
    return pd.DataFrame([(row + [""] * n)[:n] for _, row in rows], columns=known, dtype="str")


def _known_columns(head: list[str], columns: tuple[str, ...], csv: Path) -> list[str]:
    """The names of a table's columns, ours as we spell them; refuses a table that lacks some."""
    ours = (*COLUMNS, "root")
    known = [name.strip().lower() if name.strip().lower() in ours else name for name in head]
    for mark, named in ((";", "semicolons"), ("\t", "tabs")):
        if len(head) == 1 and mark in head[0]:
            todo = "save it with commas between the columns"
            raise refusal(csv, f"columns between {named}", "commas", todo)
    if absent := [name for name in columns if name not in known]:
        wanted = f"{', '.join(columns)} between commas"
        todo = f"add {' and '.join(absent)} in the first line, or rename what holds them"
        raise refusal(csv, f"the columns {', '.join(head)}", wanted, todo)
    if twice := [name for name in ours if known.count(name) > 1]:
        found = f"several columns for {' and '.join(twice)} ({', '.join(head)})"
        raise refusal(csv, found, "one each", "rename or remove the others")
    return known


def _is_parquet(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".parquet"


def _read_parquet(path: Path) -> pd.DataFrame:
    """A table as it was saved; what is text, or not known whether, without empty values."""
    needed("pyarrow.parquet", "pyarrow")
    try:
        table = pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
    except (OSError, ValueError) as error:
        raise refusal(path, f"no table ({error})", "a Parquet file", "make it anew") from None
    texts = [*table.select_dtypes(["object", "string", "category"]), *(set(COLUMNS) & {*table})]
    return table.assign(**{name: table[name].astype("str").fillna("") for name in texts})


def _beside(csv: Path) -> Path:
    return csv.with_name(f"{csv.name}.parquet")


def _save_beside(csv: Path) -> None:
    """Write as Parquet what `load` gives of a CSV, with the hash of the very file that it is of."""
    with suppress(ImportError, OSError):  # the CSV is there and says the same
        parquet = needed("pyarrow.parquet", "pyarrow")
        content = _sha256(csv)  # first: of a CSV replaced meanwhile it is no hash of this table
        table = needed("pyarrow", "pyarrow").Table.from_pandas(load(csv), preserve_index=False)
        about = {**table.schema.metadata, _CSV_HASH: content}
        with replacing(_beside(csv)) as part:
            parquet.write_table(table.replace_schema_metadata(about), part)


def _read_beside(csv: Path) -> pd.DataFrame | None:
    """The table that `_save_beside` wrote of a CSV; None where there is none of its content."""
    if _beside(csv).is_file():
        with suppress(ImportError, OSError, ValueError):
            parquet = needed("pyarrow.parquet", "pyarrow")
            if (parquet.read_schema(_beside(csv)).metadata or {}).get(_CSV_HASH) == _sha256(csv):
                return _read_parquet(_beside(csv))
    return None


def _sha256(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest().encode()


def inspect(
    records: pd.DataFrame, root: str | Path, decode: bool = False, progress: bool | None = None
) -> pd.DataFrame:
    """Read each file once: its size, its SHA-256, and what is wrong with it.

    The header is parsed and the end looked for, which finds empty, foreign and truncated files. A
    bad file is never an exception: its row says what is wrong.

    Parameters
    ----------
    records : DataFrame with path.
    root : str or Path, the folder from which paths start.
    decode : bool, whether to decode all pixels as well, four times as slow, which finds what the
        decoder notices (bytes overwritten inside a JPEG's scan decode without complaint).
    progress : bool or None, whether a bar is shown; None where a person watches.

    Returns
    -------
    DataFrame, the records with width, height (pixels), mode (Pillow's), bytes (Int64), sha256 and
        problem ("" = fine).

    Raises
    ------
    ImportError
        Where all are DICOM files and pydicom is not there; of some, a warning tells that.
    """
    paths = [os.path.join(root, path) for path in records["path"]]
    parts = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    rows: list[tuple] = []
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor() as pool,
        bar(what="reading", total=len(paths), unit="file", show=progress) as shown,
    ):
        warnings.simplefilter("ignore")  # Pillow's, on large images and odd metadata
        for part in pool.map(lambda part: [_inspect_file(path, decode) for path in part], parts):
            rows += part
            shown.update(len(part))
    columns = {}
    for i, name in enumerate(("width", "height", "mode", "bytes", "sha256", "problem")):
        kind = "Int64" if name in _WHOLE_NUMBERS else "str"
        columns[name] = pd.array([row[i] for row in rows], dtype=kind)
    found = records.assign(**columns)
    lacking = lacking_package(found)["problem"]
    if len(lacking) == len(found) > 0:
        raise ImportError(lacking[0])
    if len(lacking):
        left = f"{len(lacking):,} of {many(len(found), 'file')} are left out"
        warnings.warn(f"{left}: {lacking[0]}", stacklevel=2)
    return found


def lacking_package(records: pd.DataFrame) -> pd.DataFrame:
    """The DICOM files that cannot be read for want of pydicom, which is no fault of theirs.

    Parameters
    ----------
    records : DataFrame after `inspect`.

    Returns
    -------
    DataFrame, numbered anew; `problem` names what to install.
    """
    lacking = records["problem"].str.startswith(dicom.LACKS_PACKAGE)
    return records[lacking].reset_index(drop=True)


def _inspect_file(path: str, decode: bool) -> tuple:
    """(width, height, mode, bytes, sha256, problem) of one file."""
    nothing = (None, None, "")
    try:
        data = images.content(path)
    except ValueError as error:  # UnreadableImage, or a path with a null in it
        return (*nothing, None, "", str(error))
    header, problem = images.look(data, decode)
    return (*(header or nothing), len(data), hashlib.sha256(data).hexdigest(), problem)


def readable(records: pd.DataFrame) -> pd.DataFrame:
    """The images without a problem.

    Parameters
    ----------
    records : DataFrame after `inspect`.

    Returns
    -------
    DataFrame, numbered anew.
    """
    return records[_inspected(records)].reset_index(drop=True)


def problems(records: pd.DataFrame) -> pd.DataFrame:
    """The images with a problem.

    Parameters
    ----------
    records : DataFrame after `inspect`.

    Returns
    -------
    DataFrame with path, split, label, problem, numbered anew.
    """
    bad = records[~_inspected(records)]
    return bad[["path", "split", "label", "problem"]].reset_index(drop=True)


def _inspected(records: pd.DataFrame) -> pd.Series:
    """`is_readable` of records that were looked at."""
    if "problem" not in records:
        found = f"columns {', '.join(records.columns)}"
        raise refusal("the records", found, "problem", "call inspect first")
    return is_readable(records)


def classes_of(records: pd.DataFrame, positive: str = "") -> list[str]:
    """The labels that occur: the class order wherever none is given.

    Parameters
    ----------
    records : DataFrame with label.
    positive : str, one of two labels: that which sensitivity and a threshold are about

    Returns
    -------
    list of str, sorted, but that `positive` is the second.

    Raises
    ------
    ValueError
        Where `positive` is no label, or one of more than two.

    Examples
    --------
    >>> classes_of(pd.DataFrame({"label": ["tumor", "healthy"]}))
    ['healthy', 'tumor']
    >>> classes_of(pd.DataFrame({"label": ["tumor", "healthy"]}), "healthy")
    ['tumor', 'healthy']
    """
    classes = sorted(records["label"].unique())
    if positive and (positive not in classes or len(classes) != 2):
        raise ValueError(
            f"positive is {positive!r} and the classes are {', '.join(classes)}; give one of two "
            f'classes, or ""{did_you_mean(positive, classes)}'
        )
    return sorted(classes, key=lambda name: name == positive)


def counts(records: pd.DataFrame) -> pd.DataFrame:
    """Count images by label and split, with a total of each.

    Parameters
    ----------
    records : DataFrame with label and split.

    Returns
    -------
    DataFrame, a row a label; columns train, val, test, "no split" and total. The last row is called
        total, or (total) where a class has that name.

    Examples
    --------
    >>> rows = [("CNV", "train"), ("CNV", "test"), ("DME", "train")]
    >>> counts(pd.DataFrame(rows, columns=["label", "split"])).loc["total"].to_dict()
    {'train': 2, 'test': 1, 'total': 3}
    """
    table = pd.crosstab(records["label"], records["split"].replace("", "no split"))
    order = [split for split in (*SPLITS, "no split") if split in table]
    table = table[order].rename_axis(index="label", columns="split")
    table["total"] = table.sum(axis=1)
    name = "total"
    while name in table.index:
        name = f"({name})"
    table.loc[name] = table.sum()
    return table


def per_patient(records: pd.DataFrame) -> pd.DataFrame:
    """Count the images of each patient.

    Parameters
    ----------
    records : DataFrame with patient and label.

    Returns
    -------
    DataFrame, a row a patient, most images first: patient, images (int), labels (str, separated by
        commas).

    Examples
    --------
    >>> rows = [("Ann", "CNV"), ("Bob", "DME"), ("Ann", "DME")]
    >>> per_patient(pd.DataFrame(rows, columns=["patient", "label"]))
      patient  images    labels
    0     Ann       2  CNV, DME
    1     Bob       1       DME
    """
    labels = records.groupby("patient")["label"]
    table = labels.agg(images="size", labels=lambda names: ", ".join(sorted(set(names))))
    order = {"by": ["images", "patient"], "ascending": [False, True]}
    return table.reset_index().sort_values(**order, ignore_index=True)


def check_target(path: str | Path) -> None:
    """Refuse a place where `save` could not write, best before what the table holds is computed.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    ValueError
        Where it ends in neither .csv nor .parquet, as only such files are recognised as tables.
    OSError
        Where it is a folder, or one may not write there.
    ImportError
        For Parquet without pyarrow.
    """
    refuse_folder(path)
    if Path(path).suffix.lower() not in TABLES:
        raise ValueError(
            f"the table would be {path}; give it a name that ends in {' or '.join(TABLES)}"
        )
    if _is_parquet(path):
        needed("pyarrow.parquet", "pyarrow")
    check_writable(Path(path).parent)


def save(records: pd.DataFrame, path: str | Path, parquet_beside: bool = False) -> None:
    """Write records as CSV; a reader finds the old file or the new one, never half of one.

    Parameters
    ----------
    records : DataFrame
    path : str or Path; one that ends in .parquet is written as Parquet, which of a million rows
        takes a fraction of the time and the place.
    parquet_beside : bool, whether a CSV of PARQUET_ROWS rows and more gets, where pyarrow is there,
        a Parquet file beside it (records.csv.parquet) that `load` and `read_manifest` read in its
        place while the CSV has the same bytes (of a million rows in 1 second, not 17).

    Raises
    ------
    ImportError
        For Parquet without pyarrow.
    """
    if _is_parquet(path):
        needed("pyarrow.parquet", "pyarrow")
        with replacing(path) as part:
            records.to_parquet(part, engine="pyarrow", index=False)
        return
    texts = records.select_dtypes(["object", "string"]).to_numpy().ravel()
    # unquoted, each carriage return would end its line
    returns = any("\r" in text for text in texts if isinstance(text, str))
    quoting = csv_format.QUOTE_NONNUMERIC if returns else csv_format.QUOTE_MINIMAL
    with replacing(path) as part:
        records.to_csv(part, index=False, quoting=quoting)
    if parquet_beside and len(records) >= PARQUET_ROWS:
        _save_beside(Path(path))


def no_formula(text: str, mark: str = "'") -> str:
    """A text that no spreadsheet takes for a formula.

    Parameters
    ----------
    text : str
    mark : str, put before a text that begins with = + - @ or a control character

    Returns
    -------
    str

    Examples
    --------
    >>> no_formula("=1.png", "./"), no_formula("1.png", "./")
    ('./=1.png', '1.png')
    """
    return mark + text if re.match(r"[=+\-@\t\r\n]", text) else text


def load(path: str | Path) -> pd.DataFrame:
    """Read what `save` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    DataFrame; text stays text (a patient 007), whole numbers stay whole (Int64).

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it holds no table of records.
    ImportError
        For Parquet without pyarrow.
    """
    table = _read_table(Path(path), COLUMNS)
    for name in [name for name in _WHOLE_NUMBERS if name in table]:
        table[name] = pd.to_numeric(table[name].replace("", pd.NA)).astype("Int64")
    return table


def fingerprint(records: pd.DataFrame) -> str:
    """A mark that changes with any path, label or content, whatever the order and the splits.

    Content is the sha256, or the bytes, where `inspect` has found them.

    Parameters
    ----------
    records : DataFrame with path and label.

    Returns
    -------
    str of 16 hexadecimal digits.
    """
    nothing = pd.Series("", records.index, dtype="str")
    content = records.get("sha256", nothing)
    content = content.where(content != "", records.get("bytes", nothing).astype("str")).fillna("")
    lines = sorted(map("\0".join, zip(records["path"], records["label"], content, strict=True)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
