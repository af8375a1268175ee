"""A folder (or a CSV manifest) of images becomes a table: one row an image.

`records` is a DataFrame with the columns path (posix, relative to the data root), split ("train",
"val" or "test", "" where none is known), label and patient; `inspect` adds width, height, mode,
bytes, sha256 and problem ("" = fine). Every later step takes this table and hands it on.

A folder of tar files (`shards`) is one too; a path then leads into a tar file.

Here alone it is said what a data folder looks like. Public sets arrive in odd layouts: Kaggle's OCT
zip holds every image in two folders (`OCT2017 /`, `oct2017/OCT2017 /`), its chest zip in a nested
`chest_xray/chest_xray` beside macOS's `__MACOSX`; whoever simply walks through them counts each
image twice or three times. `find_root` returns the one folder that `scan` can list.
"""

from __future__ import annotations

import csv as csv_format
import filecmp
import hashlib
import json
import os
import re
import shlex
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ..core import dicom, images
from ..core.files import replacing
from ..core.images import state
from ..core.packages import needed
from ..core.progress import bar
from ..core.words import many
from . import shards
from .splits import SPLITS, is_readable

COLUMNS = ("path", "split", "label", "patient")
TABLES = (".csv", ".parquet")  # endings of manifests
PARQUET_ROWS = 1_000_000  # from so many on `save` can write a CSV's table as Parquet beside it
_CSV_HASH = b"sha256 of the CSV"  # in the metadata of such a Parquet file
_WHOLE_NUMBERS = ("width", "height", "bytes")
_LAYOUT = "<split>/<class>/<image> (splits named train, val, test) or <class>/<image>"
_DICOM = (".dcm", ".dicom")
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", *_DICOM)
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# What may stand beside the name of a split: training_set, seg_test...
_BESIDE = re.compile("set|data|dataset|images?|imgs?|seg|split|folder")
# What macOS, network disks, Windows and file viewers leave behind, and all names that begin with a
# dot.
_JUNK = re.compile(
    r"\..*|__macosx|@eadir|thumbs|thumbnails|#recycle|\$recycle\.bin|system volume information"
    r"|lost\+found",
    re.IGNORECASE | re.DOTALL,
)
_MASKS = re.compile("masks?|segmentations?|annotations?|ground_truth|gt", re.IGNORECASE)
_PICTURES = re.compile("(image|img|scan|picture|original)s?", re.IGNORECASE)
_SIDES = {"left", "right", "l", "r", "od", "os"}
_SIDED = {"eye", "eyes", "side", "breast", "lung", "knee", "hand", "hip"}
_GRADES = {"class", "grade", "stage", "level", "type", "category", "label", "score", "birads", "kl"}
_NOBODY = {"", "-", "--", ".", "?", "nan", "na", "n/a", "#n/a", "<na>", "nat"}
_NOBODY |= {"none", "null", "nil", "unknown", "missing"}
_NOBODY |= {"anon", "anonymous", "anonymized", "anonymised", "removed"}
_MASK = re.compile(r"[ _.-](?:mask|seg|segmentation)(?:[ _.-]?\d+)?$")
_KERMANY = re.compile(
    r"(?:CNV|DME|DRUSEN|NORMAL|BACTERIA|VIRUS)-(\d+)-\d+"
    r"|person(\d+)_(bacteria|virus)_\d+(?:_\d+)*"
    r"|((?:NORMAL2-)?IM)-(\d+)-\d+(?:-\d+)*",
    re.IGNORECASE | re.ASCII,
)
_PatientRule = str | Callable[[str], str | None] | None
_Folder = tuple[str, ...]  # its parts, relative to where we look
_Folders = dict[_Folder, list[str]]  # folder -> names of its images


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


# Folders


@cache
def _split_of(name: str) -> str | None:
    """The split that a folder's name means: Train, training_set, seg_test, dev..."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    words = [word for word in words if not _BESIDE.fullmatch(word)]
    return _SPLIT_NAMES.get(words[0].removesuffix("set")) if len(words) == 1 else None


def _is_junk(name: str) -> bool:
    return _JUNK.fullmatch(name) is not None


def _is_image(name: str) -> bool:
    return name.lower().endswith(_ENDINGS)


def find_root(folder: str | Path) -> Path:
    """Find the one folder below (or at) a folder whose subfolders are the splits or the classes.

    A folder that has tar files and no images beside them is that itself.

    Of several copies of one data set the fullest is taken, of equal ones the tidiest (nothing but
    its own images below it), then the first; a warning names what is left out. A copy has no image
    that the other lacks at the same place, byte for byte; finding that out reads both once (2
    seconds for 5,000 images of 70 kB in memory).

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        Where nothing is there.
    ValueError
        Where it is a file, empty, holds a single class or several different data sets.
    """
    folder = Path(folder)
    _refuse_file(folder)
    folders = _image_folders(folder)
    if not folders and shards.files(folder):
        return folder
    if not folders:
        packed = sorted(path for path in folder.iterdir() if path.name.lower().endswith(_ARCHIVES))
        dicom = _unnamed_dicom(
            folder, [str(path.relative_to(folder)) for path in folder.rglob("*")]
        )
        todo = "Check that this is the folder that holds the images."
        todo = f"Left out: {dicom}." if dicom else todo
        raise ValueError(
            f"found no image in {folder.absolute()} (looked for {', '.join(_ENDINGS)}); "
            f"expected {_LAYOUT}. {_how_to_unpack(packed[0]) if packed else todo}"
        )
    roots = _split_roots(folders)
    divided = bool(roots)
    if not roots:  # where the ways to the images part: its subfolders must be the classes
        depth = min(len(os.path.commonprefix([*folders])), min(map(len, folders)))
        at = next(iter(folders))[:depth]
        roots = {at: _below(folders, at)}
    root = _choose(folder, roots, folders)
    labels = [[part for part in parts if not _split_of(part)] for parts in roots[root]]
    classes = sorted({parts[0] for parts in labels if parts})
    if len(classes) < 2:
        if root and not classes and not divided:  # a single folder holds all images
            root, classes = root[:-1], [root[-1]]
        what = f"one class folder only ({classes[0]})" if classes else "images but no class folders"
        here = folder.joinpath(*root).absolute()
        todo = "" if root else f" Perhaps the folder above, {here.parent}, is meant."
        raise ValueError(
            f"found {what} in {here}; expected at least two classes in {_LAYOUT}.{todo}"
        )
    return folder.joinpath(*root)


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


def _refuse_file(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(
            f"there is no folder {folder.absolute()}; check the spelling, or fetch the data first."
        )
    if folder.is_file() and folder.name.lower().endswith(_ARCHIVES):
        raise ValueError(
            f"{folder} is an archive, expected the folder that it unpacks to. "
            f"{_how_to_unpack(folder)}"
        )
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file, expected a folder with {_LAYOUT}, or a table in a file that ends "
            f"in {' or '.join(TABLES)}."
        )


def _how_to_unpack(archive: Path) -> str:
    to = archive.with_name(archive.name.split(".")[0])
    names = ", ".join(json.dumps(str(path), ensure_ascii=False) for path in (archive, to))
    code = f"from tlutils.data.downloads import unpack; unpack({names})"
    return f"Unpack it with: {shlex.join(['python', '-c', code])}"


def _image_folders(folder: Path) -> _Folders:
    """The images of every folder that has some, without what systems and notebooks leave behind."""
    found, seen = {}, set()
    for path, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        # a link to a folder found before would count it twice, one to a folder above never end
        inner[:] = [] if real in seen else sorted(name for name in inner if not _is_junk(name))
        names = [name for name in files if _is_image(name) and not _is_junk(name)]
        if names and real not in seen:
            found[Path(path).relative_to(folder).parts] = names
        seen.add(real)
    return found


def _split_roots(folders: _Folders) -> dict[_Folder, _Folders]:
    """Folders that hold split folders with class folders in them."""
    roots: dict[_Folder, _Folders] = {}
    wrapped = cache(lambda split: _is_wrapped(split, folders))
    for parts, names in folders.items():
        splits = [i for i, part in enumerate(parts[:-1]) if _split_of(part)]
        if splits:
            at = splits[-1]
            while at and wrapped(parts[: at + 1]):
                at -= 1
            roots.setdefault(parts[:at], {})[parts[at:]] = names
    return roots


def _is_wrapped(split: _Folder, folders: Iterable[_Folder]) -> bool:
    """Whether a split's folder stands in one of the same split, alone: train/train/..."""
    outer = split[:-1]
    return _split_of(outer[-1]) == _split_of(split[-1]) is not None and all(
        parts[: len(split)] == split for parts in folders if parts[: len(outer)] == outer
    )


def _below(folders: _Folders, root: _Folder) -> _Folders:
    """The folders below `root`, named from there."""
    n = len(root)
    return {parts[n:]: names for parts, names in folders.items() if parts[:n] == root}


def _choose(folder: Path, roots: dict[_Folder, _Folders], folders: _Folders) -> _Folder:
    counts = {root: sum(map(len, found.values())) for root, found in roots.items()}
    below = {root: sum(map(len, _below(folders, root).values())) for root in roots}
    best = min(roots, key=lambda root: (-counts[root], below[root] - counts[root], len(root), root))
    for other in roots.keys() - {best}:
        if not _is_copy(_places(folder, other, roots[other]), _places(folder, best, roots[best])):
            raise ValueError(
                f"found several data sets in {folder.absolute()}: {_listed(counts)}; give the "
                "folder of one of them. Where they belong together, as the classes or the sites of "
                "one set, put the splits on top (train/<class>/...), or list all images in a CSV "
                "manifest."
            )
    if left := sum(map(len, folders.values())) - counts[best]:
        others = {root: count for root, count in counts.items() if root != best}
        copies = f", copies in {_listed(others)}" if others else ""
        warnings.warn(
            f"using {folder.joinpath(*best)} ({many(counts[best])}); {many(left)} elsewhere in "
            f"{folder} {'is' if left == 1 else 'are'} left out{copies}.",
            stacklevel=3,
        )
    return best


def _places(folder: Path, root: _Folder, found: _Folders) -> dict[str, Path]:
    """Split, folders and name of each image, however the split is spelled -> its file."""
    places = {}
    for parts, names in found.items():
        splits = dict.fromkeys(filter(None, map(_split_of, parts)))
        place = [*splits, *(part for part in parts if not _split_of(part))]
        places |= {"/".join([*place, name]): folder.joinpath(*root, *parts, name) for name in names}
    return places


def _is_copy(one: dict[str, Path], other: dict[str, Path]) -> bool:
    """Whether each file of one set is in the other too, at the same place and byte for byte.

    Names and sizes are compared first: only true copies, and sets whose files all have one size,
    are read whole.
    """
    return one.keys() <= other.keys() and all(
        _same(file, other[place], shallow)
        for shallow in (True, False)
        for place, file in one.items()
    )


def _same(one: Path, other: Path, shallow: bool) -> bool:
    try:
        alike = os.path.getsize(one) == os.path.getsize(other)
        return alike and (shallow or filecmp.cmp(one, other, shallow=False))
    except OSError:
        return not os.access(one, os.R_OK)  # what nobody can read cannot be lost


def _listed(counts: dict[_Folder, int]) -> str:
    return ", ".join(
        f"{'/'.join(root) or '.'!r} ({many(count)})" for root, count in sorted(counts.items())
    )


def scan(
    root: str | Path, patient: _PatientRule = "auto", classes: list[str] | None = None
) -> pd.DataFrame:
    """List the images of a data folder as records, sorted by path.

    No image is opened, but the heads of DICOM files where they tell the patient.

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
    paths, folders = _walk(root)
    if not paths and shards.files(root):
        return _scan_shards(root, patient, classes)
    depth = _layout(root, paths, classes)
    paths = _in_classes(root, paths, depth)
    _refuse_empty(root, paths, folders, depth, classes)
    parts = [path.split("/") for path in paths]
    columns = {
        "path": paths,
        "split": [_split_of(part[0]) or "" for part in parts],
        "label": [part[depth(path)] for part, path in zip(parts, paths, strict=True)],
    }
    frame = pd.DataFrame(columns, dtype="str")
    _check_labels(frame, str(root), classes)
    return with_patients(frame, patient, root)


def images_in(folder: str | Path) -> list[str]:
    """List the image files anywhere below a folder, without hidden ones.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    list of str, sorted posix paths relative to the folder; those in tar files where there are no
        others.
    """
    folder = Path(folder)
    found = _files_in(folder)
    if found or not shards.files(folder):
        return found
    members = shards.index(folder)
    return sorted(members["path"][_shard_images(members, folder)])


def _files_in(folder: str | Path) -> list[str]:
    """List the image files as `images_in` does, but none in tar files."""
    return _walk(Path(folder))[0]


def _scan_shards(root: Path, patient: _PatientRule, classes: list[str] | None) -> pd.DataFrame:
    """`scan` where the images lie in tar files."""
    members = shards.index(root)
    chosen = _shard_images(members, root)
    found, told = members[chosen], shards.told(members, chosen, root)
    if found.empty:
        raise _no_image(root)
    folder = found["member"].str.rpartition("/")[0]
    split = cache(lambda *names: _shard_split(*names, root))
    untold = told["label"] == ""
    columns = {
        "path": found["path"],
        "split": [*map(split, told["split"], found["shard"], folder)],
        "label": told["label"].mask(untold, _class_folders(folder[untold])),
    }
    frame = pd.DataFrame(columns, dtype="str")
    folders = {tuple(path.split("/")[:-1]) for path in frame["path"]}
    _refuse_masks(root, [*frame["path"]], [*folders])
    frame = with_patients(frame, patient, root)
    if patient == "auto":
        known = ~told["patient"].str.lower().isin(_NOBODY)
        frame["patient"] = frame["patient"].mask(known, told["patient"])
    frame = _with_labels(root, frame)
    _check_labels(frame, str(root), classes)
    return frame.sort_values("path", ignore_index=True)


def _shard_images(members: pd.DataFrame, root: Path) -> pd.Series:
    """Which members of tar files are images; what takes no part is named in a warning."""
    bad = members[members["problem"] != ""]
    if len(bad):
        named = bad["path"] + " (" + bad["problem"] + ")"
        warnings.warn(f"left out of {root}: {_some(named)}", stacklevel=4)
    counts = members["member"].map(
        lambda name: _is_image(name) and not any(map(_is_junk, name.split("/")))
    )
    return counts & (members["problem"] == "")


def _shard_split(told: str, shard: str, folder: str, root: Path) -> str:
    """The split of an image: told beside it, else by folders and the tar file's name."""
    *outer, name = shard.removesuffix(".tar").split("/")
    names = [told] if told else [*outer, *re.split(r"[\W\d_]+", name), *folder.split("/")]
    splits = sorted(set(filter(None, map(_split_of, names))))
    if len(splits) > 1 or (told and not splits):
        found = f"the split {told or ' and '.join(splits)!r} of an image"
        wanted = f"one of {', '.join(_SPLIT_NAMES)}"
        raise _wrong(root / shard / folder, found, wanted, "rename tar files or folders")
    return splits[0] if splits else ""


def _class_folders(folder: pd.Series) -> pd.Series:
    """The class folder in paths within tar files: below the splits, where the ways part; or ""."""
    parts = {path: tuple(filter(None, path.split("/"))) for path in folder.unique()}
    for path, names in parts.items():
        splits = [i + 1 for i, name in enumerate(names) if _split_of(name)]
        parts[path] = names[max(splits, default=0) :]
    ways = [*parts.values()]
    shared = min(len(os.path.commonprefix(ways)), *(len(way) - 1 for way in ways)) if ways else 0
    return folder.map({path: "".join(way[max(0, shared) :][:1]) for path, way in parts.items()})


def _with_labels(root: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The images whose label is known; a warning names the others."""
    loose = frame["path"][frame["label"] == ""]
    found = f"{many(len(loose))} without a label ({_some(loose)})"
    wanted = "a .json, .cls or .txt beside each, or a class folder in the tar file"
    wrong = _wrong(root, found, wanted, "add what is missing")
    if len(loose) == len(frame):
        raise wrong
    if len(loose):
        warnings.warn(f"{wrong}; they are left out", stacklevel=4)
    return frame[frame["label"] != ""]


def image_files(
    images: Iterable[str | Path], listed: Callable[[Path], list[str]] = _files_in
) -> list[Path]:
    """List image files, those given and those in the folders given.

    Parameters
    ----------
    images : iterable of str or Path, files and folders
    listed : Callable, lists a folder; `images_in` looks into tar files too

    Returns
    -------
    list of Path, each once

    Raises
    ------
    FileNotFoundError
        Where one of them does not exist.
    ValueError
        Where there is no image file at all.
    """
    found, images = [], list(map(Path, images))
    for item in images:
        if not item.exists() and state(item) is None:
            raise FileNotFoundError(f"there is no image or folder {item}; look at the name")
        found += [item / name for name in listed(item)] if item.is_dir() else [item]
    if not found:
        raise ValueError(
            f"found no image file in {', '.join(map(str, images))}; images end in "
            f"{', '.join(_ENDINGS)}"
        )
    return list(dict.fromkeys(found))


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Image files and folders below root, without junk: sorted posix paths relative to it.

    Names that are no text and folders that nobody may look into are left out with a warning.
    """
    files, folders, others, lost = [], [], [], []
    todo = [("", (os.path.realpath(root),))]
    while todo:
        folder, above = todo.pop()
        try:
            entries = [*os.scandir(os.path.join(root, folder))]
        except OSError as error:
            if not folder:
                raise
            lost.append(f"{ascii(folder)} ({error.strerror})")
            continue
        for entry in [entry for entry in entries if not _is_junk(entry.name)]:
            name = folder + entry.name
            if not _is_folder(entry):
                (files if _is_image(name) else others).append(name)
            elif (real := os.path.realpath(entry.path)) not in above:  # upwards would never end
                folders.append(name)
                todo.append((name + "/", (*above, real)))
    lost += [f"{ascii(name)} (its name is not UTF-8)" for name in files if not _is_text(name)]
    if lost:
        warnings.warn(
            f"left out of {root}: {_some(lost)}; rename what is not UTF-8, and give yourself the "
            "right to read the rest",
            stacklevel=3,
        )
    if dicom := _unnamed_dicom(root, others):
        warnings.warn(f"left out of {root}: {dicom}", stacklevel=3)
    return sorted(filter(_is_text, files)), sorted(filter(_is_text, folders))


def _unnamed_dicom(root: Path, names: Iterable[str]) -> str:
    """What to do with DICOM files that do not say so by their ending, or nothing.

    Archives and CDs name them IM0001 or 1.2.840.10008.5.1; other names are not looked into.
    """
    looked = [name for name in names if re.fullmatch(r"[^.]+|.*\.\d+", os.path.basename(name))]
    found = [name for name in looked if _is_text(name) and _is_dicom(root / name)]
    files = many(len(found), "DICOM file", "DICOM files")
    return f"{files} without the ending .dcm ({_some(sorted(found))}); add it" if found else ""


def _is_dicom(file: Path) -> bool:
    try:
        if not file.is_file():  # a pipe would never end
            return False
        with open(file, "rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which the inspection will name
        return False


def _is_text(name: str) -> bool:
    return name.encode(errors="ignore").decode() == name


def _some(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _wrong(where: object, found: str, expected: str, todo: str) -> ValueError:
    return ValueError(f"found {found} in {where}; expected {expected}; {todo}")


def _no_image(root: Path) -> ValueError:
    wanted = f"{_LAYOUT} with images in {', '.join(_ENDINGS)}"
    todo = "unpack archives first, and check that this is the folder with the images"
    return _wrong(root, "no image", wanted, todo)


def _layout(root: Path, paths: list[str], classes: list[str] | None) -> Callable[[str], int]:
    """How many folders stand above the class folder of a path: 1 or more with splits, 0 without."""
    if not paths:
        raise _no_image(root)
    folders = sorted({tuple(path.split("/")[:-1]) for path in paths})
    tops = sorted({parts[0] for parts in folders if parts})
    splits, others = [*filter(_split_of, tops)], [top for top in tops if not _split_of(top)]
    if splits and others:
        found = f"split folders ({_some(splits)}) beside others ({_some(others)})"
        todo = "move the others away, as a second copy would count every image twice"
        raise _wrong(root, found, _LAYOUT, todo)
    if len({_split_of(top) for top in splits}) < len(splits):
        found = f"two folders for one split ({', '.join(splits)})"
        raise _wrong(root, found, _LAYOUT, "move one away")
    depths = {top: _depth([parts for parts in folders if parts[:1] == (top,)]) for top in splits}
    for parts in folders:
        _refuse_nested(root, parts, depths.get(parts[0], 0) if parts else 0)
    _refuse_masks(root, paths, folders)
    if not splits and not classes:
        _refuse_alike(root, folders)
    return lambda path: depths.get(path.partition("/")[0], 1 if splits else 0)


def _depth(folders: list[_Folder]) -> int:
    """How many split folders stand around each other: 1 for train/..., 2 for train/train/..."""
    depth = 1
    while len(folders[0]) > depth and _is_wrapped(folders[0][: depth + 1], folders):
        depth += 1
    return depth


def _refuse_nested(root: Path, parts: _Folder, depth: int) -> None:
    inside = next((i for i, part in enumerate(parts) if i >= depth and _split_of(part)), None)
    if inside is not None:
        found = f"a split folder in another folder ({'/'.join(parts[: inside + 1])!r})"
        todo = (
            f"point at {root.joinpath(*parts[:inside])} if the data begin there (records.find_root "
            "looks for that place), else move the splits above the classes"
        )
        raise _wrong(root, found, _LAYOUT, todo)


def _refuse_masks(root: Path, paths: list[str], folders: list[_Folder]) -> None:
    """Drawings of where something is are no scans, though they have their size and ending."""
    every = {parts[:end] for parts in folders for end in range(1, len(parts) + 1)}
    beside = {parts[:-1] for parts in every if _PICTURES.fullmatch(parts[-1])} | set(folders)
    masks = [
        "/".join(parts)
        for parts in sorted(every)
        if _MASKS.fullmatch(parts[-1]) and parts[:-1] in beside
    ]
    stems = {os.path.splitext(path)[0].lower() for path in paths}
    ends = ((stem, _MASK.search(stem)) for stem in sorted(stems))
    masks += [stem for stem, match in ends if match and stem[: match.start()] in stems]
    if masks:
        found = f"masks beside their images ({_some(masks)})"
        todo = "move the masks away, or list the scans alone in a CSV manifest"
        raise _wrong(root, found, f"scans only, as {_LAYOUT}", todo)


def _refuse_alike(root: Path, folders: list[_Folder]) -> None:
    """Refuse folders that all hold the same folders: splits, sites or copies, but no classes."""
    inside: dict[str, set[_Folder]] = {}
    for top, *rest in filter(None, folders):
        inside.setdefault(top, set()).add(tuple(rest))
    held = [_parting(below) for below in inside.values()]
    for top, names in zip(inside, held, strict=True):
        if len(again := sorted(names & inside.keys())) > 1:
            todo = "move it away, as a copy within a data set would become a class"
            raise _wrong(root, f"the classes {_some(again)} once more in {top}", _LAYOUT, todo)
    holders = Counter(name for names in held for name in names)
    shared = {name for name, tops in holders.items() if tops > 1}
    if len(shared) < 2 or _no_classes(shared):
        return
    if all(names == held[0] for names in held):
        raise _wrong(
            root,
            f"the same folders ({_some(sorted(held[0]))}) in each of {_some(sorted(inside))}",
            _LAYOUT,
            "if these are splits, call them train, val and test; if they are sites or copies, put "
            "the images of each class into one folder, or list them in a CSV manifest; if they are "
            "the classes, name them with classes=[...]",
        )
    if 2 * len(shared) >= len(holders):
        warnings.warn(
            f"the labels are {_some(sorted(inside))} in {root}, though most folders in them bear "
            f"the same names ({_some(sorted(shared))}); if these are the classes, put them above, "
            "or list the images in a CSV manifest",
            stacklevel=5,
        )


def _parting(folders: set[_Folder]) -> set[str]:
    """The names among which the way to the images first parts; none where images lie there."""
    way = len(os.path.commonprefix([*folders]))
    deeper = all(len(parts) > way for parts in folders)
    return {parts[way] for parts in folders} if deeper else set()


def _no_classes(names: set[str]) -> bool:
    """Whether folders only count (patient-1, patient-2) or are sides of a body (left_eye...)."""
    words = [set(re.findall(r"[^\W\d_]+", name.lower())) for name in names]
    if all(each & _SIDES and each <= _SIDES | _SIDED for each in words):
        return True
    counted = {re.sub(r"\d+", "", name) for name in names}
    return len(counted) == 1 and counted != {""} and not words[0] & _GRADES


def _in_classes(root: Path, paths: list[str], depth: Callable[[str], int]) -> list[str]:
    inside = [path for path in paths if path.count("/") > depth(path)]
    loose = [path for path in paths if path.count("/") <= depth(path)]
    found = f"{many(len(loose))} outside any class folder ({_some(loose)})"
    todo = "the folder's name is the label, so move such images into one"
    wrong = _wrong(root, found, _LAYOUT, todo)
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
    """Refuse empty class folders; in val or test they are reported as a class missing there."""
    used = {"/".join(path.split("/")[: depth(path) + 1]) for path in paths}
    empty = [
        folder
        for folder in folders
        if folder.count("/") == depth(folder)
        and folder not in used
        and (depth(folder) == 0 or _split_of(folder.partition("/")[0]) == "train")
        and (classes is None or folder.rpartition("/")[2] in classes)
    ]
    if empty:
        wanted = f"images ({', '.join(_ENDINGS)}) in each"
        todo = "fill or remove them, or name the classes that count with classes=[...]"
        raise _wrong(root, f"class folders without an image ({_some(empty)})", wanted, todo)


def _check_labels(frame: pd.DataFrame, where: str, classes: list[str] | None) -> None:
    labels = classes_of(frame)
    bare = [unicodedata.normalize("NFKC", label).strip().casefold() for label in labels]
    double = [repr(label) for label, key in zip(labels, bare, strict=True) if bare.count(key) > 1]
    unknown = [label for label in labels if classes is not None and label not in classes]
    if "" in bare:
        found = f"{many((frame['label'].str.strip() == '').sum(), 'row')} without a label"
        raise _wrong(where, found, "one in each", "give them one or remove them")
    if double:
        found = f"one label in several spellings ({', '.join(double)})"
        todo = "rename the folders or correct the label column"
        raise _wrong(where, found, "one spelling in all splits", todo)
    if unknown:
        found = f"labels that are not among the classes ({_some(unknown)})"
        todo = "rename or remove them, or pass classes=... with all of them"
        raise _wrong(where, found, ", ".join(classes), todo)
    if classes is None and len(labels) < 2:
        found = f"one class only ({', '.join(labels)})"
        todo = "this may be a folder too high or too low"
        raise _wrong(where, found, f"two or more, as {_LAYOUT}", todo)
    _compare_splits({split: {*group} for split, group in frame.groupby("split")["label"]}, where)


def _compare_splits(labels: dict[str, set[str]], where: str) -> None:
    for split in [name for name in ("val", "test") if name in labels and "train" in labels]:
        if new := sorted(labels[split] - labels["train"]):
            found = f"classes in {split} that train does not know ({', '.join(new)})"
            wanted = f"only {', '.join(sorted(labels['train']))}"
            raise _wrong(where, found, wanted, "train on them too, or remove them")
        if gone := sorted(labels["train"] - labels[split]):
            warnings.warn(
                f"found no image of {', '.join(gone)} in the split {split} in {where}, though "
                f"train has some; {split} can say nothing of them",
                stacklevel=4,
            )


# Patients


def with_patients(
    records: pd.DataFrame, patient: _PatientRule = "auto", root: str | Path | None = None
) -> pd.DataFrame:
    """Make the patient column anew from the paths, or from what DICOM files say.

    Parameters
    ----------
    records : DataFrame with path.
    patient : "auto" (the PatientID in a .dcm or .dicom, else `patient_of`), "dicom" (the PatientID,
        whatever the file's name), "dicom-hashed" (16 hexadecimal digits of its SHA-256, which hides
        it from readers but not from who tries all numbers), a regular expression with a group named
        patient that is searched in the path, a function from path to patient or None, or None. Of a
        path into a tar file an expression or function sees what stands behind that file's name.
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
    by_name = not isinstance(patient, str) or patient not in ("auto", "dicom", "dicom-hashed")
    names = [path.rpartition(".tar/")[2] for path in paths] if by_name else paths
    found = [rule(name) if rule else None for name in names]
    if isinstance(patient, str) and patient != "auto" and paths and not any(found):
        wanted = f"it to fit such as {paths[0]!r}"
        todo = "correct the rule, or give none (in Python None) where patients are not known"
        raise _wrong("the paths", f"no patient by the rule {patient!r}", wanted, todo)
    keys = [
        f"?{path}" if str(key).strip().lower() in _NOBODY else str(key)
        for path, key in zip(paths, found, strict=True)
    ]
    return records.assign(patient=pd.Series(keys, index=records.index, dtype="str"))


def _by_file_or_name(root: str | Path) -> Callable[[str], str | None]:
    by_file = _by_file(root)

    def rule(path: str) -> str | None:
        if path.lower().endswith(_DICOM):
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


def _searched(pattern: str) -> Callable[[str], str | None]:
    try:
        expression = re.compile(pattern)
        why = "" if "patient" in expression.groupindex else "it has no group named patient"
    except (re.error, OverflowError, RecursionError) as error:
        why = f"it is no regular expression: {error}"
    if why:
        raise ValueError(
            f"the patient rule {pattern!r} does not work, as {why}; give auto, dicom, "
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
        raise _wrong(csv, "no row below the first", "one for each image", "list the images in it")
    named = table.get("split", [""] * len(table))
    splits = [_split_of(name) if name.strip() else "" for name in named]
    if None in splits:
        found = f"the split {table['split'].iloc[splits.index(None)]!r}"
        todo = "correct the split column"
        raise _wrong(csv, found, f"{', '.join(_SPLIT_NAMES)} or nothing", todo)
    home = start if root is not None or "root" not in table else start / _one_root(table, csv)
    paths = _paths_below(home, start, table["path"], csv)
    frame = pd.DataFrame({"path": paths, "split": splits, "label": table["label"]}, dtype="str")
    frame = with_patients(frame, patient, start)
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
    frame = _rows_with_files(frame, start, csv)
    _check_labels(frame, str(csv), classes)
    return frame.sort_values("path", ignore_index=True)


def _one_root(table: pd.DataFrame, csv: Path) -> str:
    if table["root"].nunique() > 1:
        found = f"several roots ({_some(table['root'].unique())})"
        raise _wrong(csv, found, "one folder above all images", "correct the root column")
    return table["root"].iloc[0]


def _paths_below(home: Path, start: Path, paths: pd.Series, csv: Path) -> list[str]:
    """Paths of a manifest, relative to `home` or whole, from `start` now; none may leave `home`."""
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
        found = f"rows for one path that do not agree ({_some(once['path'][twice])})"
        raise _wrong(csv, found, "one each", "decide which label, split and patient are right")
    there = [images.state(os.path.join(root, path)) is not None for path in once["path"]]
    there = np.array(there, dtype=bool)
    missing = (
        f"found {(~there).sum()} of {len(once)} files of {csv} missing in {root} "
        f"({_some(once['path'][~there])}); paths start from the CSV's folder unless root=... is "
        "given"
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
            (_, head), *rows = [(lines.line_num, row) for row in lines if row]
    except (ValueError, csv_format.Error) as error:
        wanted = f"a CSV file in UTF-8 with the columns {', '.join(columns)}"
        todo = "give a folder of images if that is what you have"
        raise _wrong(csv, f"no table ({error})", wanted, todo) from None
    known, n = _known_columns(head, columns, csv), len(head)
    if long := [str(number) for number, row in rows if any(map(str.strip, row[n:]))]:
        found = f"more values than columns (line {_some(long)})"
        todo = "put quotation marks around a value with a comma in it"
        raise _wrong(csv, found, f"{n} in each line", todo)
    return pd.DataFrame([(row + [""] * n)[:n] for _, row in rows], columns=known, dtype="str")


def _known_columns(head: list[str], columns: tuple[str, ...], csv: Path) -> list[str]:
    """The names of a table's columns, ours as we spell them; refuses a table that lacks some."""
    ours = (*COLUMNS, "root")
    known = [name.strip().lower() if name.strip().lower() in ours else name for name in head]
    if absent := [name for name in columns if name not in known]:
        wanted = f"{', '.join(columns)} between commas"
        todo = f"add {' and '.join(absent)} in the first line"
        raise _wrong(csv, f"the columns {', '.join(head)}", wanted, todo)
    if twice := [name for name in ours if known.count(name) > 1]:
        found = f"several columns for {' and '.join(twice)} ({', '.join(head)})"
        raise _wrong(csv, found, "one each", "rename or remove the others")
    return known


def _is_parquet(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".parquet"


def _read_parquet(path: Path) -> pd.DataFrame:
    """A table as it was saved; what is text, or not known whether, without empty values."""
    needed("pyarrow.parquet", "pyarrow")
    try:
        table = pd.read_parquet(path, engine="pyarrow").reset_index(drop=True)
    except (OSError, ValueError) as error:
        raise _wrong(path, f"no table ({error})", "a Parquet file", "make it anew") from None
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
    return records.assign(**columns)


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
        raise _wrong("the records", found, "problem", "call inspect first")
    return is_readable(records)


def classes_of(records: pd.DataFrame) -> list[str]:
    """The labels that occur: the class order wherever none is given.

    Parameters
    ----------
    records : DataFrame with label.

    Returns
    -------
    list of str, sorted.
    """
    return sorted(records["label"].unique())


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
