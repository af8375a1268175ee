"""The folder that holds the images, found in the odd layouts in which public data sets arrive.

Kaggle's OCT zip holds every image in two folders (`OCT2017 /`, `oct2017/OCT2017 /`), its chest zip in a
nested `chest_xray/chest_xray` beside macOS's `__MACOSX`: whoever simply walks through them counts each image
twice or three times. `find_root` returns one folder and says what it leaves out.
"""

from __future__ import annotations

import filecmp
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
BESIDE = ("set", "data", "dataset", "image", "images", "img", "imgs", "seg", "split", "folder")
# What macOS, network disks, Windows and file viewers leave behind; so are all names that begin with a dot.
JUNK = (
    "__macosx",
    "@eadir",
    "thumbs",
    "thumbnails",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
LAYOUTS = "<split>/<class>/<images> (splits: train, val, test) or <class>/<images>"

Folders = dict[
    tuple[str, ...], list[str]
]  # a folder's parts, relative to where we look -> its images


@cache
def split_of(name: str) -> str | None:
    """The split ("train", "val", "test") that a folder's name means: Train, training_set, seg_test, dev..."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word and word not in BESIDE]
    return SPLITS.get(words[0].removesuffix("set")) if len(words) == 1 else None


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is none of a data set's."""
    return name.startswith(".") or name.lower() in JUNK


def find_root(folder: str | Path) -> Path:
    """The one folder below (or at) `folder` whose subfolders are the splits or the classes.

    Of several copies of one data set the fullest is taken, of equal ones the tidiest (nothing but its own
    images below it), then the first; a warning names what is left out. A copy has no image that the other lacks
    at the same place, byte for byte; finding that out reads both once (2 seconds for 5,000 images of 70 kB in memory).

    Raises FileNotFoundError where nothing is there, ValueError where it is a file, empty, holds a single
    class or several different data sets.

    Taught in notebook 01.
    """
    folder = Path(folder)
    _refuse_file(folder)
    folders = _image_folders(folder)
    if not folders:
        raise ValueError(
            f"found no image in {folder.absolute()} (looked for {', '.join(EXTENSIONS)}); "
            f"expected {LAYOUTS}. {_packed(folder)}"
        )
    roots = _split_roots(folders) or {(at := _descend(folders)): _below(folders, at)}
    root = _choose(folder, roots, folders)
    _refuse_single_class(folder, root, roots[root])
    return folder.joinpath(*root)


def _refuse_file(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(
            f"there is no folder {folder.absolute()}; check the spelling, or fetch the data first."
        )
    if folder.is_file() and folder.name.lower().endswith(ARCHIVES):
        raise ValueError(
            f"{folder} is an archive, expected the folder that it unpacks to. "
            f"{_how_to_unpack(folder)}"
        )
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file, expected a folder with {LAYOUTS}, or a table in a .csv."
        )


def _how_to_unpack(archive: Path) -> str:
    to = archive.with_name(archive.name.split(".")[0])
    return (
        f'Unpack it with: python -c "from tlutils.archives import unpack; '
        f'unpack({str(archive)!r}, {str(to)!r})"'
    )


def _packed(folder: Path) -> str:
    packed = sorted(path for path in folder.iterdir() if path.name.lower().endswith(ARCHIVES))
    return (
        _how_to_unpack(packed[0])
        if packed
        else "Check that this is the folder that holds the images."
    )


def _image_folders(folder: Path) -> Folders:
    """The images of every folder that has some, without what systems and notebooks leave behind."""
    found, seen = {}, set()
    for path, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        # a link to a folder met before would count it twice, one to a folder above would never end
        inner[:] = [] if real in seen else sorted(name for name in inner if not is_junk(name))
        images = [name for name in files if name.lower().endswith(EXTENSIONS) and not is_junk(name)]
        if images and real not in seen:
            found[Path(path).relative_to(folder).parts] = images
        seen.add(real)
    return found


def _split_roots(folders: Folders) -> dict[tuple[str, ...], Folders]:
    """Folders that hold split folders with class folders in them."""
    roots: dict[tuple[str, ...], Folders] = {}
    wrapped = cache(lambda split: is_wrapped(split, folders))
    for parts, images in folders.items():
        splits = [i for i, part in enumerate(parts[:-1]) if split_of(part)]
        if splits:
            at = splits[-1]
            while at and wrapped(parts[: at + 1]):
                at -= 1
            roots.setdefault(parts[:at], {})[parts[at:]] = images
    return roots


def is_wrapped(split: tuple[str, ...], folders: Iterable[tuple[str, ...]]) -> bool:
    """Whether a split's folder stands in one of the same split that holds images nowhere else: train/train/..."""
    outer = split[:-1]
    return split_of(outer[-1]) == split_of(split[-1]) is not None and all(
        parts[: len(split)] == split for parts in folders if parts[: len(outer)] == outer
    )


def _descend(folders: Folders) -> tuple[str, ...]:
    """Where the ways to the images part: the folder whose subfolders must be the classes."""
    tops = list(folders)
    depth = len(os.path.commonprefix(tops))
    return tops[0][: min(depth, min(map(len, tops)))]


def _below(folders: Folders, root: tuple[str, ...]) -> Folders:
    """The folders below `root`, named from there."""
    return {
        parts[len(root) :]: images
        for parts, images in folders.items()
        if parts[: len(root)] == root
    }


def _choose(
    folder: Path, roots: dict[tuple[str, ...], Folders], folders: Folders
) -> tuple[str, ...]:
    counts = {root: sum(map(len, found.values())) for root, found in roots.items()}
    below = {root: sum(map(len, _below(folders, root).values())) for root in roots}
    best = min(roots, key=lambda root: (-counts[root], below[root] - counts[root], len(root), root))
    for other in roots.keys() - {best}:
        if not _is_copy(_places(folder, other, roots[other]), _places(folder, best, roots[best])):
            raise ValueError(
                f"found several data sets in {folder.absolute()}: {_listed(counts)}; give the "
                "folder of one of them. Where they belong together, as the classes or the sites of one "
                "set, put the splits on top (train/<class>/...), or list all images in a CSV manifest."
            )
    left = sum(map(len, folders.values())) - counts[best]
    if left:
        others = Counter({root: count for root, count in counts.items() if root != best})
        warnings.warn(
            f"using {folder.joinpath(*best)} ({counts[best]:,} images); {left:,} images elsewhere "
            f"in {folder} are left "
            f"out{f', copies in {_listed(others)}' if others else ''}.",
            stacklevel=3,
        )
    return best


def _places(folder: Path, root: tuple[str, ...], found: Folders) -> dict[str, Path]:
    """Split, folders and name of each image, however the split is spelled -> its file."""
    places = {}
    for parts, names in found.items():
        place = [
            *dict.fromkeys(filter(None, map(split_of, parts))),
            *(part for part in parts if not split_of(part)),
        ]
        places |= {"/".join([*place, name]): folder.joinpath(*root, *parts, name) for name in names}
    return places


def _is_copy(one: dict[str, Path], other: dict[str, Path]) -> bool:
    """Whether each file of one set is in the other too, at the same place and byte for byte.

    Names and sizes are compared first: only true copies, and sets whose files all have one size, are read whole.
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


def _listed(counts: dict[tuple[str, ...], int]) -> str:
    return ", ".join(
        f"{'/'.join(root) or '.'!r} ({count:,} images)" for root, count in sorted(counts.items())
    )


def _refuse_single_class(folder: Path, root: tuple[str, ...], found: Folders) -> None:
    named = [[part for part in parts if not split_of(part)] for parts in found]
    classes = sorted({parts[0] for parts in named if parts})
    if len(classes) < 2:
        what = f"one class folder only ({classes[0]})" if classes else "images but no class folders"
        raise ValueError(
            f"found {what} in {folder.joinpath(*root).absolute()}; expected at least two "
            f"classes in {LAYOUTS}. Perhaps the folder above, "
            f"{folder.joinpath(*root).absolute().parent}, is meant."
        )
