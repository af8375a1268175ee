"""A folder (or a CSV manifest) of images becomes a table: one row an image.

`records` is a DataFrame with the columns path (posix, relative to the data root), split ("train", "val" or
"test", "" where none is known), label and patient; `inspect` adds width, height, mode, bytes, sha256 and
problem ("" = fine). Every later step takes this table and hands it on. Taught in notebook 01.
"""

from __future__ import annotations

import csv as csv_format
import hashlib
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from ..core import images
from ..core.files import replacing
from ..core.progress import bar
from .layouts import EXTENSIONS, SPLITS, is_junk, is_wrapped, split_of

LAYOUTS = "<split>/<class>/<image> (splits named train, val, test) or <class>/<image>"
MASKS = {
    "mask",
    "masks",
    "segmentation",
    "segmentations",
    "annotation",
    "annotations",
    "ground_truth",
    "gt",
}
PICTURES = {
    "image",
    "images",
    "img",
    "imgs",
    "scan",
    "scans",
    "picture",
    "pictures",
    "original",
    "originals",
}
SIDES = {"left", "right", "l", "r", "od", "os"}
SIDED = {"eye", "eyes", "side", "breast", "lung", "knee", "hand", "hip"}
GRADES = {"class", "grade", "stage", "level", "type", "category", "label", "score", "birads", "kl"}
COLUMNS = ("path", "split", "label", "patient")
NUMBERS = ("width", "height", "bytes")

_MASK = re.compile(r"[ _.-](?:mask|seg|segmentation)(?:[ _.-]?\d+)?$")
NOBODY = {
    "",
    "-",
    "--",
    ".",
    "?",
    "nan",
    "na",
    "n/a",
    "#n/a",
    "<na>",
    "nat",
    "none",
    "null",
    "nil",
    "unknown",
    "missing",
}
PatientRule = str | Callable[[str], str | None] | None
_NAME = re.compile(
    r"(?:CNV|DME|DRUSEN|NORMAL|BACTERIA|VIRUS)-(\d+)-\d+"
    r"|person(\d+)_(bacteria|virus)_\d+(?:_\d+)*"
    r"|((?:NORMAL2-)?IM)-(\d+)-\d+(?:-\d+)*",
    re.IGNORECASE | re.ASCII,
)


def patient_of(filename: str) -> str | None:
    """The patient that a file name of the Kermany sets tells of; None where it follows none of their rules.

    CNV-81630-1.jpeg, NORMAL-81630-2.jpeg -> 81630: one patient has scans in several classes.
    person12_virus_4.jpeg -> virus-12; person12_bacteria_9.jpeg -> bacteria-12, who is somebody else.
    IM-0115-0001.jpeg -> IM-115; NORMAL2-IM-0115-0001.jpeg -> NORMAL2-IM-115: two series, each counted from 1.
    BACTERIA-1008087-0001.jpeg (version 3) -> 1008087: it may join two patients, but never divides one.

    Rules read from the file names of Mendeley Data rscbjbr9sj, versions 2 and 3. Taught in notebook 01.
    """
    match = _NAME.fullmatch(PurePosixPath(filename).stem)
    if match is None:
        return None
    scan_of, person, germ, series, number = match.groups()
    bare = (scan_of or person or number).lstrip("0") or "0"
    return bare if scan_of else f"{germ.lower()}-{bare}" if person else f"{series.upper()}-{bare}"


def _replaced(filename: str, part: str, by: str) -> str | None:
    key = patient_of(filename)
    return key and re.sub(part, by, key)


# The right key of the chest set, and two in public use that each take different people for one.
PATIENT_RULES: dict[str, Callable[[str], str | None]] = {
    "kind and number": patient_of,
    "number without kind": partial(_replaced, part="^(bacteria|virus)-", by="person"),
    "series merged": partial(_replaced, part="^NORMAL2-", by=""),
}


def scan(
    root: str | Path, patient: PatientRule = "auto", classes: list[str] | None = None
) -> pd.DataFrame:
    """List the images of a data folder as records, sorted by path; no image is opened.

    root : folder with <split>/<class>/... or <class>/..., images at any depth below the class folder; splits
        are named train, val, test or the like (training_set, dev, seg_test: see `layouts.split_of`). A CSV file
        goes to `read_manifest`.
    patient : how a path tells the patient, see `with_patients`.
    classes : the labels that may occur; None takes what is there.

    Returns the str columns path, split, label, patient. FileNotFoundError where there is no such folder,
    ValueError where its layout or labels make no sense, a warning where work can go on.

    Taught in notebook 01.
    """
    root = Path(root)
    if root.is_file():
        return read_manifest(root, patient=patient, classes=classes)
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; check the spelling, or fetch the data first"
        )
    paths, folders = _walk(root)
    depth = _layout(root, paths, classes)
    paths = _in_classes(root, paths, depth)
    _refuse_empty(root, paths, folders, depth, classes)
    parts = [path.split("/") for path in paths]
    frame = pd.DataFrame(
        {
            "path": paths,
            "split": [split_of(part[0]) or "" for part in parts],
            "label": [part[depth(path)] for part, path in zip(parts, paths, strict=True)],
        },
        dtype="str",
    )
    _check_labels(frame, str(root), classes)
    return with_patients(frame, patient)


def images_in(folder: str | Path) -> list[str]:
    """The image files anywhere below a folder: sorted posix paths relative to it, hidden files left out."""
    return _walk(Path(folder))[0]


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Image files and folders below root, without junk: sorted posix paths relative to it.

    Names that are no text and folders that nobody may look into are left out with a warning.
    """
    files, folders, lost, todo = [], [], [], [("", (os.path.realpath(root),))]
    while todo:
        folder, above = todo.pop()
        try:
            entries = [
                entry for entry in os.scandir(os.path.join(root, folder)) if not is_junk(entry.name)
            ]
        except OSError as error:
            if not folder:
                raise
            lost.append(f"{ascii(folder)} ({error.strerror})")
            continue
        for entry in entries:
            name = folder + entry.name
            if not _is_folder(entry):
                files += [name] if name.lower().endswith(EXTENSIONS) else []
            elif (
                real := os.path.realpath(entry.path)
            ) not in above:  # a link upwards would never end
                folders.append(name)
                todo.append((name + "/", (*above, real)))
    lost += [f"{ascii(name)} (its name is not UTF-8)" for name in files if not _is_text(name)]
    if lost:
        warnings.warn(
            f"left out of {root}: {_some(lost)}; rename what is not UTF-8, and give yourself the right "
            "to read the rest",
            stacklevel=3,
        )
    return sorted(filter(_is_text, files)), sorted(filter(_is_text, folders))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which the inspection will name
        return False


def _is_text(name: str) -> bool:
    return name.encode(errors="ignore").decode() == name


def _some(items: list[str] | pd.Series) -> str:
    items = list(items)
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _wrong(where: object, found: str, expected: str, todo: str) -> ValueError:
    return ValueError(f"found {found} in {where}; expected {expected}; {todo}")


def _layout(root: Path, paths: list[str], classes: list[str] | None) -> Callable[[str], int]:
    """How many folders stand above the class folder of a path: 1 or more with splits, 0 without."""
    if not paths:
        raise _wrong(
            root,
            "no image",
            f"{LAYOUTS} with images in {', '.join(EXTENSIONS)}",
            "unpack archives first, and check that this is the folder with the images",
        )
    folders = sorted({tuple(path.split("/")[:-1]) for path in paths})
    tops = sorted({parts[0] for parts in folders if parts})
    splits, others = (
        [top for top in tops if split_of(top)],
        [top for top in tops if not split_of(top)],
    )
    if splits and others:
        raise _wrong(
            root,
            f"split folders ({_some(splits)}) beside others ({_some(others)})",
            LAYOUTS,
            "move the others away, as a second copy would count every image twice",
        )
    if len({split_of(top) for top in splits}) < len(splits):
        raise _wrong(
            root, f"two folders for one split ({', '.join(splits)})", LAYOUTS, "move one away"
        )
    depths = {
        top: _depth([parts for parts in folders if parts and parts[0] == top]) for top in splits
    }
    for parts in folders:
        _refuse_nested(root, parts, depths.get(parts[0], 0) if parts else 0)
    _refuse_masks(root, paths, folders)
    if not splits and not classes:
        _refuse_alike(root, folders)
    return lambda path: depths.get(path.partition("/")[0], 1 if splits else 0)


def _depth(folders: list[tuple[str, ...]]) -> int:
    """How many split folders stand around each other: 1 for train/..., 2 for train/train/..."""
    depth = 1
    while len(folders[0]) > depth and is_wrapped(folders[0][: depth + 1], folders):
        depth += 1
    return depth


def _refuse_nested(root: Path, parts: tuple[str, ...], depth: int) -> None:
    inside = next((i for i, part in enumerate(parts) if i >= depth and split_of(part)), None)
    if inside is not None:
        raise _wrong(
            root,
            f"a split folder in another folder ({'/'.join(parts[: inside + 1])!r})",
            LAYOUTS,
            f"point at {root.joinpath(*parts[:inside])} if the data begin there (sources.find_root "
            "looks for that place), else move the splits above the classes",
        )


def _refuse_masks(root: Path, paths: list[str], folders: list[tuple[str, ...]]) -> None:
    """Drawings of where something is are no scans, though they have their size and ending."""
    every = {parts[:end] for parts in folders for end in range(1, len(parts) + 1)}
    beside = {parts[:-1] for parts in every if parts[-1].lower() in PICTURES} | set(folders)
    masks = [
        "/".join(parts)
        for parts in sorted(every)
        if parts[-1].lower() in MASKS and parts[:-1] in beside
    ]
    stems = {os.path.splitext(path)[0].lower() for path in paths}
    masks += [
        stem
        for stem in sorted(stems)
        if (match := _MASK.search(stem)) and stem[: match.start()] in stems
    ]
    if masks:
        raise _wrong(
            root,
            f"masks beside their images ({_some(masks)})",
            f"scans only, as {LAYOUTS}",
            "move the masks away, or list the scans alone in a CSV manifest",
        )


def _refuse_alike(root: Path, folders: list[tuple[str, ...]]) -> None:
    """Folders that all hold the same folders are no classes, but splits, sites or copies of a set."""
    inside: dict[str, set[tuple[str, ...]]] = {}
    for top, *rest in filter(None, folders):
        inside.setdefault(top, set()).add(tuple(rest))
    held = [_parting(below) for below in inside.values()]
    for top, names in zip(inside, held, strict=True):
        if len(again := sorted(names & inside.keys())) > 1:
            raise _wrong(
                root,
                f"the classes {_some(again)} once more in {top}",
                LAYOUTS,
                "move it away, as a copy within a data set would become a class",
            )
    holders = Counter(name for names in held for name in names)
    shared = {name for name, tops in holders.items() if tops > 1}
    if len(shared) < 2 or _no_classes(shared):
        return
    if any(names != held[0] for names in held):
        if 2 * len(shared) >= len(holders):
            warnings.warn(
                f"the labels are {_some(sorted(inside))} in {root}, though most folders in them bear the "
                f"same names ({_some(sorted(shared))}); if these are the classes, put them above, or list "
                "the images in a CSV manifest",
                stacklevel=5,
            )
        return
    raise _wrong(
        root,
        f"the same folders ({_some(sorted(held[0]))}) in each of {_some(sorted(inside))}",
        LAYOUTS,
        "if these are splits, call them train, val and test; if they are sites or copies, put the "
        "images of each class into one folder, or list them in a CSV manifest; if they are the classes, "
        "name them with classes=[...]",
    )


def _parting(folders: set[tuple[str, ...]]) -> set[str]:
    """The names among which the way to the images first parts; none where images lie there."""
    way = len(os.path.commonprefix([*folders]))
    return (
        {parts[way] for parts in folders} if all(len(parts) > way for parts in folders) else set()
    )


def _no_classes(names: set[str]) -> bool:
    """Whether folders count what is no class (patient-1, patient-2) or are the two sides of a body (left_eye...)."""
    words = [set(re.findall(r"[^\W\d_]+", name.lower())) for name in names]
    if all(each & SIDES and each <= SIDES | SIDED for each in words):
        return True
    counted = {re.sub(r"\d+", "", name) for name in names}
    return len(counted) == 1 and counted != {""} and not words[0] & GRADES


def _in_classes(root: Path, paths: list[str], depth: Callable[[str], int]) -> list[str]:
    inside = [path for path in paths if path.count("/") > depth(path)]
    loose = [path for path in paths if path.count("/") <= depth(path)]
    wrong = _wrong(
        root,
        f"{len(loose)} images outside any class folder ({_some(loose)})",
        LAYOUTS,
        "the folder's name is the label, so move them into one",
    )
    if not inside:
        raise wrong
    if loose:
        warnings.warn(f"{wrong}; they are left out", stacklevel=3)
    return inside


def _refuse_empty(
    root: Path,
    paths: list[str],
    folders: list[str],
    depth: Callable[[str], int],
    classes: list[str] | None,
) -> None:
    """An empty class folder would go unseen; in val or test it is reported as a class missing there."""
    used = {"/".join(path.split("/")[: depth(path) + 1]) for path in paths}
    empty = [
        folder
        for folder in folders
        if folder.count("/") == depth(folder)
        and folder not in used
        and (depth(folder) == 0 or split_of(folder.partition("/")[0]) == "train")
        and (classes is None or folder.rpartition("/")[2] in classes)
    ]
    if empty:
        raise _wrong(
            root,
            f"class folders without an image ({_some(empty)})",
            f"images ({', '.join(EXTENSIONS)}) in each",
            "fill or remove them, or name the classes that count with classes=[...]",
        )


def _check_labels(frame: pd.DataFrame, where: str, classes: list[str] | None) -> None:
    labels = classes_of(frame)
    bare = [unicodedata.normalize("NFKC", label).strip().casefold() for label in labels]
    double = [repr(label) for label, key in zip(labels, bare, strict=True) if bare.count(key) > 1]
    unknown = [label for label in labels if classes is not None and label not in classes]
    if "" in bare:
        raise _wrong(
            where,
            f"{(frame['label'].str.strip() == '').sum()} rows without a label",
            "one in each",
            "give them one or remove them",
        )
    if double:
        raise _wrong(
            where,
            f"one label in several spellings ({', '.join(double)})",
            "one spelling in all splits",
            "rename the folders or correct the label column",
        )
    if unknown:
        raise _wrong(
            where,
            f"labels that are not among the classes ({_some(unknown)})",
            ", ".join(classes),
            "rename or remove them, or pass classes=... with all of them",
        )
    if classes is None and len(labels) < 2:
        raise _wrong(
            where,
            f"one class only ({', '.join(labels)})",
            f"two or more, as {LAYOUTS}",
            "this may be a folder too high or too low",
        )
    _compare_splits({split: {*group} for split, group in frame.groupby("split")["label"]}, where)


def _compare_splits(labels: dict[str, set[str]], where: str) -> None:
    for split in [name for name in ("val", "test") if name in labels and "train" in labels]:
        if new := sorted(labels[split] - labels["train"]):
            raise _wrong(
                where,
                f"classes in {split} that train does not know ({', '.join(new)})",
                f"only {', '.join(sorted(labels['train']))}",
                "train on them too, or remove them",
            )
        if gone := sorted(labels["train"] - labels[split]):
            warnings.warn(
                f"found no image of {', '.join(gone)} in the split {split} in {where}, though "
                f"train has some; {split} can say nothing of them",
                stacklevel=4,
            )


def with_patients(records: pd.DataFrame, patient: PatientRule = "auto") -> pd.DataFrame:
    """Records with the patient column made anew from the paths.

    `patient` is "auto" (`patient_of`), a regular expression with a group named patient that is searched in
    the path, a function from path to patient or None, or None. Where no patient is found, or only a word for
    none (nan, NA, null, -, unknown...), the image counts as one of its own, with "?" and its path as the key.
    ValueError: an expression that is none or fits no path.

    Taught in notebook 01.
    """
    rule = (
        patient_of
        if patient == "auto"
        else _searched(patient)
        if isinstance(patient, str)
        else patient
    )
    paths = records["path"].tolist()
    found = [rule(path) if rule else None for path in paths]
    if isinstance(patient, str) and patient != "auto" and paths and not any(found):
        raise _wrong(
            "the paths",
            f"no patient by the rule {patient!r}",
            f"it to fit such as {paths[0]!r}",
            "correct the expression, or pass patient=None where patients are not known",
        )
    keys = [
        f"?{path}" if str(key).strip().lower() in NOBODY else str(key)
        for path, key in zip(paths, found, strict=True)
    ]
    return records.assign(patient=pd.Series(keys, index=records.index, dtype="str"))


def _searched(pattern: str) -> Callable[[str], str | None]:
    try:
        expression = re.compile(pattern)
        expression.groupindex["patient"]
    except (re.error, KeyError) as error:
        raise ValueError(
            f"the patient rule {pattern!r} does not work ({error!r}); expected 'auto', None, a "
            r"function, or a regular expression with a group named patient, '(?P<patient>\d+)_' "
            "for example"
        ) from None
    return lambda path: match["patient"] if (match := expression.search(path)) else None


def unknown_patient(records: pd.DataFrame) -> pd.Series:
    """bool, row by row: True where no patient is known, so that the image counts as a patient of its own."""
    return records["patient"].str.startswith("?")


def read_manifest(
    csv: str | Path,
    root: str | Path | None = None,
    patient: PatientRule = "auto",
    classes: list[str] | None = None,
) -> pd.DataFrame:
    """Records from a CSV with the columns path and label, and where known split and patient.

    csv : the file; paths in it, and in the result, are relative to `root` (None: the CSV's own folder). None may
    lead out of it, but a column root can name another folder, from the CSV's own, that they all start from.
    patient : with "auto" the column counts where it has a value, else the name; another rule replaces it.

    Rows that are repeated or whose file is missing are left out with a warning. FileNotFoundError where the
    CSV or all files are missing, ValueError where columns, paths, splits or labels make no sense.

    Taught in notebook 01.
    """
    csv = Path(csv)
    start = csv.parent if root is None else Path(root)
    table = _read_table(csv, ("path", "label"))
    if table.empty:
        raise _wrong(csv, "no row below the first", "one for each image", "list the images in it")
    splits = [
        split_of(name) if name.strip() else "" for name in table.get("split", [""] * len(table))
    ]
    if None in splits:
        raise _wrong(
            csv,
            f"the split {table['split'].iloc[splits.index(None)]!r}",
            f"{', '.join(SPLITS)} or nothing",
            "correct the split column",
        )
    home = start if root is not None or "root" not in table else start / _one_root(table, csv)
    paths = _paths_below(home, start, table["path"], csv)
    frame = pd.DataFrame({"path": paths, "split": splits, "label": table["label"]}, dtype="str")
    frame = with_patients(frame, patient)
    if "patient" in table and patient == "auto":
        told = table["patient"].str.strip()
        nobody = told.str.lower().isin(NOBODY)
        frame["patient"] = told.mask(nobody, frame["patient"])
        if nobody.any():
            warnings.warn(
                f"found no patient in {nobody.sum()} of {len(table)} rows of {csv}; there the file name "
                "tells it, or the image counts as a patient of its own",
                stacklevel=2,
            )
    frame = _rows_with_files(frame, start, csv)
    _check_labels(frame, str(csv), classes)
    return frame.sort_values("path", ignore_index=True)


def _one_root(table: pd.DataFrame, csv: Path) -> str:
    if table["root"].nunique() > 1:
        raise _wrong(
            csv,
            f"several roots ({_some(table['root'].unique())})",
            "one folder above all images",
            "correct the root column",
        )
    return table["root"].iloc[0]


def _paths_below(home: Path, start: Path, paths: pd.Series, csv: Path) -> list[str]:
    """Paths as a manifest has them, relative to `home` or whole, made relative to `start`; none may leave `home`."""
    inside = [_inside(_as_written(path, home), home) for path in paths]
    if out := [path for path, found in zip(paths, inside, strict=True) if found is None]:
        raise _wrong(
            csv,
            f"{len(out)} of {len(paths)} paths that lead out of {home} ({_some(out)})",
            "paths below it",
            "if they are meant, name the folder above all of them: as root=... to "
            "records.read_manifest, or in a column root",
        )
    inside = inside if home == start else [os.path.relpath(home / path, start) for path in inside]
    return [Path(path).as_posix() for path in inside]


def _as_written(path: str, home: Path) -> str:
    """The path, without blanks around it and with slashes where there is a file by that name only."""
    plain = path.strip().replace("\\", "/")
    return path if path != plain and os.path.isfile(os.path.join(home, path)) else plain


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
        raise _wrong(
            csv,
            f"rows for one path that do not agree ({_some(once['path'][twice])})",
            "one each",
            "decide which label, split and patient are right",
        )
    there = np.array(
        [os.path.isfile(os.path.join(root, path)) for path in once["path"]], dtype=bool
    )
    missing = (
        f"found {(~there).sum()} of {len(once)} files of {csv} missing in {root} "
        f"({_some(once['path'][~there])}); paths start from the CSV's folder unless root=... is given"
    )
    if not there.any():
        raise FileNotFoundError(missing)
    if not there.all():
        warnings.warn(f"{missing}; they are left out", stacklevel=3)
    if repeated := len(frame) - len(once):
        warnings.warn(
            f"found {repeated} repeated rows in {csv}; each image is taken once", stacklevel=3
        )
    return once[there].reset_index(drop=True)


def _read_table(csv: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """A CSV as text throughout: a patient 007 or a label NA stays what it is."""
    if not csv.is_file():
        raise FileNotFoundError(f"there is no table {csv}; check the spelling, or make it first")
    try:
        with open(csv, encoding="utf-8-sig", newline="") as file:
            lines = csv_format.reader(file, strict=True)
            (_, head), *rows = [(lines.line_num, row) for row in lines if row]
    except (ValueError, csv_format.Error) as error:
        raise _wrong(
            csv,
            f"no table ({error})",
            f"a CSV file in UTF-8 with the columns {', '.join(needed)}",
            "give a folder of images if that is what you have",
        ) from None
    known = [
        name if (name := column.strip().lower()) in (*COLUMNS, "root") else column
        for column in head
    ]
    if absent := [column for column in needed if column not in known]:
        raise _wrong(
            csv,
            f"the columns {', '.join(head)}",
            f"{', '.join(needed)} between commas",
            f"add {' and '.join(absent)} in the first line",
        )
    if twice := [column for column in (*COLUMNS, "root") if known.count(column) > 1]:
        raise _wrong(
            csv,
            f"several columns for {' and '.join(twice)} ({', '.join(head)})",
            "one each",
            "rename or remove the others",
        )
    if long := [str(number) for number, row in rows if any(map(str.strip, row[len(head) :]))]:
        raise _wrong(
            csv,
            f"more values than columns (line {_some(long)})",
            f"{len(head)} in each line",
            "put quotation marks around a value with a comma in it",
        )
    return pd.DataFrame(
        [(row + [""] * len(head))[: len(head)] for _, row in rows], columns=known, dtype="str"
    )


def inspect(
    records: pd.DataFrame,
    root: str | Path,
    decode: bool = False,
    workers: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Records with width, height (pixels), mode (Pillow's), bytes (Int64), sha256 and problem ("" = fine).

    Each file is read once and hashed, its header parsed and its end looked for, which finds empty, foreign
    and truncated files. `decode` also decodes all pixels, four times as slow, and finds what the decoder
    notices (bytes overwritten inside a JPEG's scan decode without complaint). A bad file is never an
    exception: its row says what is wrong. `workers` counts threads; `progress` is whether a bar is
    shown, None where a person watches.

    Taught in notebook 01.
    """
    paths = [os.path.join(root, path) for path in records["path"]]
    parts = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    rows: list[tuple] = []
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(workers) as pool,
        bar(what="reading", total=len(paths), unit="file", show=progress) as shown,
    ):
        warnings.simplefilter("ignore")  # Pillow's, on large images and odd metadata
        for part in pool.map(partial(_inspect_files, decode=decode), parts):
            rows += part
            shown.update(len(part))
    names = ("width", "height", "mode", "bytes", "sha256", "problem")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return records.assign(
        **{
            name: pd.array(values, dtype="Int64" if name in NUMBERS else "str")
            for name, values in columns.items()
        }
    )


def _inspect_files(paths: list[str], decode: bool) -> list[tuple]:
    return [_inspect_file(path, decode) for path in paths]


def _inspect_file(path: str, decode: bool) -> tuple:
    """(width, height, mode, bytes, sha256, problem) of one file."""
    nothing = (None, None, "")
    try:
        data = images.content(path)
    except ValueError as error:  # image_files.UnreadableImage, or a path with a null in it
        return (*nothing, None, "", str(error))
    header, problem = images.look(data, decode)
    return (*(header or nothing), len(data), hashlib.sha256(data).hexdigest(), problem)


def readable(records: pd.DataFrame) -> pd.DataFrame:
    """The inspected records without a problem. Taught in notebook 01."""
    return records[_problem(records) == ""].reset_index(drop=True)


def problems(records: pd.DataFrame) -> pd.DataFrame:
    """The inspected records with a problem: path, split, label, problem. Taught in notebook 01."""
    return records.loc[_problem(records) != "", ["path", "split", "label", "problem"]].reset_index(
        drop=True
    )


def _problem(records: pd.DataFrame) -> pd.Series:
    if "problem" not in records:
        raise _wrong(
            "the records", f"columns {', '.join(records.columns)}", "problem", "call inspect first"
        )
    return records["problem"]


def classes_of(records: pd.DataFrame) -> list[str]:
    """The labels that occur, sorted: the class order wherever none is given."""
    return sorted(records["label"].unique())


def counts(records: pd.DataFrame) -> pd.DataFrame:
    """Images by label (rows) and split (columns train, val, test; "no split"), with a total of each.

    The last row is called total, or (total) where a class has that name.

    Taught in notebook 01.
    """
    table = pd.crosstab(records["label"], records["split"].replace("", "no split"))
    order = [split for split in ("train", "val", "test", "no split") if split in table]
    table = table[order].rename_axis(index="label", columns="split")
    table["total"] = table.sum(axis=1)
    name = "total"
    while name in table.index:
        name = f"({name})"
    table.loc[name] = table.sum()
    return table


def per_patient(records: pd.DataFrame) -> pd.DataFrame:
    """One row a patient: patient, images (int), labels (str, separated by commas); most images first.

    Taught in notebook 01.
    """
    groups = records.groupby("patient")["label"]
    table = groups.agg(
        images="size", labels=lambda labels: ", ".join(sorted(set(labels)))
    ).reset_index()
    return table.sort_values(["images", "patient"], ascending=[False, True], ignore_index=True)


def save(records: pd.DataFrame, path: str | Path) -> None:
    """Write records as CSV; a reader finds the old file or the new one, never half of one."""
    texts = records.select_dtypes(["object", "string"]).to_numpy().ravel()
    returns = any(
        "\r" in text for text in texts if isinstance(text, str)
    )  # unquoted, each would end its line
    with replacing(path) as part:
        records.to_csv(
            part,
            index=False,
            quoting=csv_format.QUOTE_NONNUMERIC if returns else csv_format.QUOTE_MINIMAL,
        )


def load(path: str | Path) -> pd.DataFrame:
    """Read what `save` wrote: text stays text (a patient 007), whole numbers stay whole (Int64)."""
    table = _read_table(Path(path), COLUMNS)
    for name in [name for name in NUMBERS if name in table]:
        table[name] = pd.to_numeric(table[name].replace("", pd.NA)).astype("Int64")
    return table


def fingerprint(records: pd.DataFrame) -> str:
    """16 hexadecimal digits that change with any path, label or content, whatever the order and the splits.

    Content is the sha256, or the bytes, where `inspect` has found them.
    """
    nothing = pd.Series("", records.index, dtype="str")
    content = records.get("sha256", nothing)
    content = content.where(content != "", records.get("bytes", nothing).astype("str")).fillna("")
    lines = sorted(map("\0".join, zip(records["path"], records["label"], content, strict=True)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
