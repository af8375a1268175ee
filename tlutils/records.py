"""A folder (or a CSV manifest) of images becomes a table: one row an image.

`records` is a DataFrame with the columns path (posix, relative to the data root), split ("train", "val" or
"test", "" where none is known), label and patient; `inspect` adds width, height, mode, bytes, sha256 and
problem ("" = fine). Every later step takes this table and hands it on. Taught in notebook 01.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm import tqdm

from . import image_files
from .files import write_table

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
          "test": "test", "testing": "test"}
LAYOUTS = "<split>/<class>/<image> (splits named train, val, test) or <class>/<image>"
COLUMNS = ("path", "split", "label", "patient")
NUMBERS = ("width", "height", "bytes")

PatientRule = str | Callable[[str], str | None] | None
_NAME = re.compile(r"(?:CNV|DME|DRUSEN|NORMAL|BACTERIA|VIRUS)-(\d+)-\d+"
                   r"|person(\d+)_(bacteria|virus)_\d+(?:_\d+)*"
                   r"|((?:NORMAL2-)?IM)-(\d+)-\d+(?:-\d+)*", re.IGNORECASE | re.ASCII)


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
    if scan_of:
        return str(int(scan_of))
    return f"{germ.lower()}-{int(person)}" if person else f"{series.upper()}-{int(number)}"


def _replaced(filename: str, part: str, by: str) -> str | None:
    key = patient_of(filename)
    return key and re.sub(part, by, key)


# The right key of the chest set, and two in public use that each take different people for one.
PATIENT_RULES: dict[str, Callable[[str], str | None]] = {
    "kind and number": patient_of,
    "number without kind": partial(_replaced, part="^(bacteria|virus)-", by="person"),
    "series merged": partial(_replaced, part="^NORMAL2-", by="")}


def scan(root: str | Path, patient: PatientRule = "auto", classes: list[str] | None = None) -> pd.DataFrame:
    """List the images of a data folder as records, sorted by path; no image is opened.

    root : folder with <split>/<class>/... or <class>/..., images at any depth below the class folder; splits
        are named train/training, val/valid/validation, test/testing. A CSV file goes to `read_manifest`.
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
        raise FileNotFoundError(f"there is no folder {root}; check the spelling, or fetch the data first")
    paths, folders = _walk(root)
    depth = _layout(root, paths)
    paths = _in_classes(root, paths, depth)
    _refuse_empty(root, paths, folders, depth, classes)
    parts = [path.split("/") for path in paths]
    frame = pd.DataFrame({"path": paths, "split": [_split_name(part[0]) if depth else "" for part in parts],
                          "label": [part[depth] for part in parts]}, dtype="str")
    _check_labels(frame, str(root), classes)
    return with_patients(frame, patient)


def images_in(folder: str | Path) -> list[str]:
    """The image files anywhere below a folder: sorted posix paths relative to it, hidden files left out."""
    return _walk(Path(folder))[0]


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Image files and folders below root, but hidden ones and __MACOSX: sorted posix paths relative to it."""
    files, folders, todo = [], [], [("", (os.path.realpath(root),))]
    while todo:
        folder, above = todo.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = folder + entry.name
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if not entry.is_dir():
                    files += [name] if name.lower().endswith(EXTENSIONS) else []
                elif (real := os.path.realpath(entry.path)) not in above:  # a link upwards would never end
                    folders.append(name)
                    todo.append((name + "/", (*above, real)))
    return sorted(files), sorted(folders)


def _split_name(name: str) -> str | None:
    return SPLITS.get(name.strip().lower())


def _some(items: list[str] | pd.Series) -> str:
    items = list(items)
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _wrong(where: object, found: str, expected: str, todo: str) -> ValueError:
    return ValueError(f"found {found} in {where}; expected {expected}; {todo}")


def _layout(root: Path, paths: list[str]) -> int:
    """How many folders stand above the class folders: 1 with splits, 0 without."""
    if odd := [ascii(path) for path in paths if path.encode(errors="ignore").decode() != path]:
        raise _wrong(root, f"file names that are not UTF-8 ({_some(odd)})", "UTF-8", "rename these files")
    if not paths:
        raise _wrong(root, "no image", f"{LAYOUTS} with images in {', '.join(EXTENSIONS)}",
                     "unpack archives first, and check that this is the folder with the images")
    tops = sorted({path.partition("/")[0] for path in paths if "/" in path})
    splits, others = [top for top in tops if _split_name(top)], [top for top in tops if not _split_name(top)]
    if splits and others:
        raise _wrong(root, f"split folders ({_some(splits)}) beside others ({_some(others)})", LAYOUTS,
                     "move the others away, as a second copy would count every image twice")
    if len({_split_name(top) for top in splits}) < len(splits):
        raise _wrong(root, f"two folders for one split ({', '.join(splits)})", LAYOUTS, "move one away")
    depth = 1 if splits else 0
    for parts in sorted({tuple(path.split("/")[:-1]) for path in paths}):
        _refuse_nested(root, parts, depth)
    return depth


def _refuse_nested(root: Path, parts: tuple[str, ...], depth: int) -> None:
    inside = next((i for i, part in enumerate(parts) if i >= depth and _split_name(part)), None)
    if inside is not None:
        raise _wrong(root, f"a split folder in another folder ({'/'.join(parts[:inside + 1])!r})", LAYOUTS,
                     f"point at {root.joinpath(*parts[:inside])} if the data begin there (sources.find_root "
                     "looks for that place), else move the splits above the classes")


def _in_classes(root: Path, paths: list[str], depth: int) -> list[str]:
    inside = [path for path in paths if path.count("/") > depth]
    loose = [path for path in paths if path.count("/") <= depth]
    wrong = _wrong(root, f"{len(loose)} images outside any class folder ({_some(loose)})", LAYOUTS,
                   "the folder's name is the label, so move them into one")
    if not inside:
        raise wrong
    if loose:
        warnings.warn(f"{wrong}; they are left out", stacklevel=3)
    return inside


def _refuse_empty(root: Path, paths: list[str], folders: list[str], depth: int,
                  classes: list[str] | None) -> None:
    """An empty class folder would go unseen; in val or test it is reported as a class missing there."""
    used = {"/".join(path.split("/")[:depth + 1]) for path in paths}
    empty = [folder for folder in folders if folder.count("/") == depth and folder not in used
             and (depth == 0 or _split_name(folder.partition("/")[0]) == "train")
             and (classes is None or folder.rpartition("/")[2] in classes)]
    if empty:
        raise _wrong(root, f"class folders without an image ({_some(empty)})",
                     f"images ({', '.join(EXTENSIONS)}) in each",
                     "fill or remove them, or name the classes that count with classes=[...]")


def _check_labels(frame: pd.DataFrame, where: str, classes: list[str] | None) -> None:
    labels = classes_of(frame)
    bare = [unicodedata.normalize("NFKC", label).strip().casefold() for label in labels]
    double = [repr(label) for label, key in zip(labels, bare, strict=True) if bare.count(key) > 1]
    unknown = [label for label in labels if classes is not None and label not in classes]
    if "" in bare:
        raise _wrong(where, f"{(frame['label'].str.strip() == '').sum()} rows without a label", "one in each",
                     "give them one or remove them")
    if double:
        raise _wrong(where, f"one label in several spellings ({', '.join(double)})",
                     "one spelling in all splits", "rename the folders or correct the label column")
    if unknown:
        raise _wrong(where, f"labels that are not among the classes ({_some(unknown)})", ", ".join(classes),
                     "rename or remove them, or pass classes=... with all of them")
    if classes is None and len(labels) < 2:
        raise _wrong(where, f"one class only ({', '.join(labels)})", f"two or more, as {LAYOUTS}",
                     "this may be a folder too high or too low")
    _compare_splits({split: {*group} for split, group in frame.groupby("split")["label"]}, where)


def _compare_splits(labels: dict[str, set[str]], where: str) -> None:
    for split in [name for name in ("val", "test") if name in labels and "train" in labels]:
        if new := sorted(labels[split] - labels["train"]):
            raise _wrong(where, f"classes in {split} that train does not know ({', '.join(new)})",
                         f"only {', '.join(sorted(labels['train']))}", "train on them too, or remove them")
        if gone := sorted(labels["train"] - labels[split]):
            warnings.warn(f"found no image of {', '.join(gone)} in the split {split} in {where}, though "
                          f"train has some; {split} can say nothing of them", stacklevel=4)


def with_patients(records: pd.DataFrame, patient: PatientRule = "auto") -> pd.DataFrame:
    """Records with the patient column made anew from the paths.

    `patient` is "auto" (`patient_of`), a regular expression with a group named patient that is searched in
    the path, a function from path to patient or None, or None. Where no patient is found the image counts as
    one of its own, with "?" and its path as the key. ValueError: an expression that is none or fits no path.

    Taught in notebook 01.
    """
    rule = patient_of if patient == "auto" else _searched(patient) if isinstance(patient, str) else patient
    paths = records["path"].tolist()
    found = [rule(path) if rule else None for path in paths]
    if isinstance(patient, str) and patient != "auto" and paths and not any(found):
        raise _wrong("the paths", f"no patient by the rule {patient!r}", f"it to fit such as {paths[0]!r}",
                     "correct the expression, or pass patient=None where patients are not known")
    keys = [f"?{path}" if key in (None, "") else str(key) for path, key in zip(paths, found, strict=True)]
    return records.assign(patient=pd.Series(keys, index=records.index, dtype="str"))


def _searched(pattern: str) -> Callable[[str], str | None]:
    try:
        expression = re.compile(pattern)
        expression.groupindex["patient"]
    except (re.error, KeyError) as error:
        raise ValueError(f"the patient rule {pattern!r} does not work ({error!r}); expected 'auto', None, a "
                         r"function, or a regular expression with a group named patient, '(?P<patient>\d+)_' "
                         "for example") from None
    return lambda path: match["patient"] if (match := expression.search(path)) else None


def unknown_patient(records: pd.DataFrame) -> pd.Series:
    """bool, row by row: True where no patient is known, so that the image counts as a patient of its own."""
    return records["patient"].str.startswith("?")


def read_manifest(csv: str | Path, root: str | Path | None = None, patient: PatientRule = "auto",
                  classes: list[str] | None = None) -> pd.DataFrame:
    """Records from a CSV with the columns path and label, and where known split and patient.

    csv : the file; paths in it, and in the result, are relative to `root` (None: the CSV's own folder).
    patient : with "auto" the column counts where it has a value, else the name; another rule replaces it.

    Rows that are repeated or whose file is missing are left out with a warning. FileNotFoundError where the
    CSV or all files are missing, ValueError where columns, splits or labels make no sense.

    Taught in notebook 01.
    """
    csv = Path(csv)
    root = csv.parent if root is None else Path(root)
    table = _read_table(csv, ("path", "label"))
    splits = [_split_name(name) if name.strip() else "" for name in table.get("split", [""] * len(table))]
    if None in splits:
        raise _wrong(csv, f"the split {table['split'].iloc[splits.index(None)]!r}",
                     f"{', '.join(SPLITS)} or nothing", "correct the split column")
    paths = [_relative(path.strip().replace("\\", "/"), root) for path in table["path"]]
    frame = pd.DataFrame({"path": paths, "split": splits, "label": table["label"]}, dtype="str")
    frame = with_patients(frame, patient)
    if "patient" in table and patient == "auto":
        frame["patient"] = table["patient"].str.strip().where(lambda key: key != "", frame["patient"])
    frame = _rows_with_files(frame, root, csv)
    _check_labels(frame, str(csv), classes)
    return frame.sort_values("path", ignore_index=True)


def _relative(path: str, root: Path) -> str:
    inside = os.path.relpath(path, root.absolute()) if os.path.isabs(path) else os.path.normpath(path)
    return Path(inside).as_posix()


def _rows_with_files(frame: pd.DataFrame, root: Path, csv: Path) -> pd.DataFrame:
    once = frame.drop_duplicates(ignore_index=True)
    if (twice := once["path"].duplicated()).any():
        raise _wrong(csv, f"rows for one path that do not agree ({_some(once['path'][twice])})", "one each",
                     "decide which label, split and patient are right")
    there = np.array([os.path.isfile(os.path.join(root, path)) for path in once["path"]], dtype=bool)
    missing = (f"found {(~there).sum()} of {len(once)} files of {csv} missing in {root} "
               f"({_some(once['path'][~there])}); paths start from the CSV's folder unless root=... is given")
    if not there.any():
        raise FileNotFoundError(missing)
    if not there.all():
        warnings.warn(f"{missing}; they are left out", stacklevel=3)
    if repeated := len(frame) - len(once):
        warnings.warn(f"found {repeated} repeated rows in {csv}; each image is taken once", stacklevel=3)
    return once[there].reset_index(drop=True)


def _read_table(csv: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """A CSV as text throughout: a patient 007 or a label NA stays what it is."""
    if not csv.is_file():
        raise FileNotFoundError(f"there is no table {csv}; check the spelling, or make it first")
    try:
        table = pd.read_csv(csv, dtype="str", keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except ValueError as error:
        raise _wrong(csv, f"no table ({error})", f"a CSV file in UTF-8 with the columns {', '.join(needed)}",
                     "give a folder of images if that is what you have") from None
    known = {column: column.strip().lower() for column in table.columns}
    table = table.rename(columns={old: new for old, new in known.items() if new in COLUMNS})
    if absent := [column for column in needed if column not in table]:
        raise _wrong(csv, f"the columns {', '.join(table.columns)}",
                     f"{', '.join(needed)} between commas", f"add {' and '.join(absent)} in the first line")
    return table


def inspect(records: pd.DataFrame, root: str | Path, decode: bool = False, workers: int | None = None,
            progress: bool | None = None) -> pd.DataFrame:
    """Records with width, height (pixels), mode (Pillow's), bytes (Int64), sha256 and problem ("" = fine).

    Each file is read once and hashed, its header parsed and its end looked for, which finds empty, foreign
    and truncated files. `decode` also decodes all pixels, four times as slow, and finds what the decoder
    notices (bytes overwritten inside a JPEG's scan decode without complaint). A bad file is never an
    exception: its row says what is wrong. `workers` counts threads; a bar is shown where a person watches,
    unless `progress` is False.

    Taught in notebook 01.
    """
    paths = [os.path.join(root, path) for path in records["path"]]
    parts = [paths[start:start + 64] for start in range(0, len(paths), 64)]
    rows: list[tuple] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool, _bar(len(paths), progress) as bar:
        warnings.simplefilter("ignore")  # Pillow's, on large images and odd metadata
        for part in pool.map(partial(_inspect_files, decode=decode), parts):
            rows += part
            bar.update(len(part))
    names = ("width", "height", "mode", "bytes", "sha256", "problem")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return records.assign(**{name: pd.array(values, dtype="Int64" if name in NUMBERS else "str")
                             for name, values in columns.items()})


def _bar(total: int, progress: bool | None) -> tqdm:
    notebook = "ipykernel" in sys.modules
    off = progress is False or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(total=total, desc="reading", unit=" files", leave=False,
                disable=off or not (notebook or sys.stderr.isatty()),
                file=sys.stdout if notebook else sys.stderr)  # a notebook shows stderr in red


def _inspect_files(paths: list[str], decode: bool) -> list[tuple]:
    return [_inspect_file(path, decode) for path in paths]


def _inspect_file(path: str, decode: bool) -> tuple:
    """(width, height, mode, bytes, sha256, problem) of one file."""
    nothing = (None, None, "")
    try:
        data = image_files.content(path)
    except image_files.UnreadableImage as error:
        return (*nothing, None, "", str(error))
    header, problem = image_files.look(data, decode)
    return (*(header or nothing), len(data), hashlib.sha256(data).hexdigest(), problem)


def readable(records: pd.DataFrame) -> pd.DataFrame:
    """The inspected records without a problem. Taught in notebook 01."""
    return records[_problem(records) == ""].reset_index(drop=True)


def problems(records: pd.DataFrame) -> pd.DataFrame:
    """The inspected records with a problem: path, split, label, problem. Taught in notebook 01."""
    return records.loc[_problem(records) != "", ["path", "split", "label", "problem"]].reset_index(drop=True)


def _problem(records: pd.DataFrame) -> pd.Series:
    if "problem" not in records:
        raise _wrong("the records", f"columns {', '.join(records.columns)}", "problem", "call inspect first")
    return records["problem"]


def classes_of(records: pd.DataFrame) -> list[str]:
    """The labels that occur, sorted: the class order wherever none is given."""
    return sorted(records["label"].unique())


def counts(records: pd.DataFrame) -> pd.DataFrame:
    """Images by label (rows) and split (columns train, val, test; "no split"), with a total of each.

    Taught in notebook 01.
    """
    table = pd.crosstab(records["label"], records["split"].replace("", "no split"))
    order = [split for split in ("train", "val", "test", "no split") if split in table]
    table = table[order].rename_axis(index="label", columns="split")
    table["total"] = table.sum(axis=1)
    table.loc["total"] = table.sum()
    return table


def per_patient(records: pd.DataFrame) -> pd.DataFrame:
    """One row a patient: patient, images (int), labels (str, separated by commas); most images first.

    Taught in notebook 01.
    """
    groups = records.groupby("patient")["label"]
    table = groups.agg(images="size", labels=lambda labels: ", ".join(sorted(set(labels)))).reset_index()
    return table.sort_values(["images", "patient"], ascending=[False, True], ignore_index=True)


def save(records: pd.DataFrame, path: str | Path) -> None:
    """Write records as CSV; a reader finds the old file or the new one, never half of one."""
    write_table(path, records)


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
    content = content.where(content != "", records.get("bytes", nothing).astype("str"))
    lines = sorted(map("\0".join, zip(records["path"], records["label"], content, strict=True)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
