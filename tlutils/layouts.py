"""The folder that holds the images, found in the odd layouts in which public data sets arrive.

Kaggle's OCT zip holds every image in two folders (`OCT2017 /`, `oct2017/OCT2017 /`), its chest zip in a
nested `chest_xray/chest_xray` beside macOS's `__MACOSX`: whoever simply walks through them counts each image
twice or three times. `find_root` returns one folder and says what it leaves out.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path

# The same as in records, which this room does not know; a test holds them together.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
COPY = 0.5                       # from this share of common images on, two folders are copies of one set
LAYOUTS = "<split>/<class>/<images> (splits: train, val, test) or <class>/<images>"

Folders = dict[tuple[str, ...], list[str]]       # a folder's parts, relative to where we look -> its images


def find_root(folder: str | Path) -> Path:
    """The one folder below (or at) `folder` whose subfolders are the splits or the classes.

    Of several copies of one data set the fullest is taken, of equal ones the tidiest (nothing but its own
    images below it), then the first; a warning names what is left out. Images are not opened.

    Raises FileNotFoundError where nothing is there, ValueError where it is a file, empty, holds a single
    class or several different data sets.

    Taught in notebook 01.
    """
    folder = Path(folder)
    _refuse_file(folder)
    folders = _image_folders(folder)
    if not folders:
        raise ValueError(f"found no image in {folder.absolute()} (looked for {', '.join(EXTENSIONS)}); "
                         f"expected {LAYOUTS}. {_packed(folder)}")
    roots = _split_roots(folders) or {(at := _descend(folders)): _below(folders, at)}
    root = _choose(folder, roots, folders)
    _refuse_single_class(folder, root, roots[root])
    return folder.joinpath(*root)


def _refuse_file(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder.absolute()}; check the spelling, or fetch the "
                                "data first.")
    if folder.is_file() and folder.name.lower().endswith(ARCHIVES):
        raise ValueError(f"{folder} is an archive, expected the folder that it unpacks to. "
                         f"{_how_to_unpack(folder)}")
    if folder.is_file():
        raise ValueError(f"{folder} is a file, expected a folder with {LAYOUTS}, or a table in a .csv.")


def _how_to_unpack(archive: Path) -> str:
    to = archive.with_name(archive.name.split(".")[0])
    return (f'Unpack it with: python -c "from tlutils.archives import unpack; '
            f"unpack({str(archive)!r}, {str(to)!r})\"")


def _packed(folder: Path) -> str:
    packed = sorted(path for path in folder.iterdir() if path.name.lower().endswith(ARCHIVES))
    return _how_to_unpack(packed[0]) if packed else "Check that this is the folder that holds the images."


def _image_folders(folder: Path) -> Folders:
    """The images of every folder that has some, without what systems and notebooks leave behind."""
    found, seen = {}, set()
    for path, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        # a link to a folder met before would count it twice, one to a folder above would never end
        inner[:] = [] if real in seen else sorted(name for name in inner if not _is_junk(name))
        images = [name for name in files if name.lower().endswith(EXTENSIONS) and not _is_junk(name)]
        if images and real not in seen:
            found[Path(path).relative_to(folder).parts] = images
        seen.add(real)
    return found


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_split(name: str) -> bool:
    return name.strip().lower() in SPLITS


def _split_roots(folders: Folders) -> dict[tuple[str, ...], Folders]:
    """Folders that hold split folders with class folders in them."""
    roots: dict[tuple[str, ...], Folders] = {}
    for parts, images in folders.items():
        splits = [i for i, part in enumerate(parts[:-1]) if _is_split(part)]
        if splits:
            roots.setdefault(parts[:splits[-1]], {})[parts[splits[-1]:]] = images
    return roots


def _descend(folders: Folders) -> tuple[str, ...]:
    """Where the ways to the images part: the folder whose subfolders must be the classes."""
    tops = list(folders)
    depth = len(os.path.commonprefix(tops))
    return tops[0][:min(depth, min(map(len, tops)))]


def _below(folders: Folders, root: tuple[str, ...]) -> Folders:
    """The folders below `root`, named from there."""
    return {parts[len(root):]: images for parts, images in folders.items() if parts[:len(root)] == root}


def _names(found: Folders) -> set[str]:
    return {"/".join([*(part.strip().lower() for part in parts), name]) for parts, names in found.items()
            for name in names}


def _choose(folder: Path, roots: dict[tuple[str, ...], Folders], folders: Folders) -> tuple[str, ...]:
    counts = {root: sum(map(len, found.values())) for root, found in roots.items()}
    below = {root: sum(map(len, _below(folders, root).values())) for root in roots}
    best = min(roots, key=lambda root: (-counts[root], below[root] - counts[root], len(root), root))
    names = _names(roots[best])
    for other in roots.keys() - {best}:
        if len(names & _names(roots[other])) < COPY * counts[other]:
            raise ValueError(f"found several data sets in {folder.absolute()}: {_listed(counts)}; give the "
                             "folder of one of them.")
    left = sum(map(len, folders.values())) - counts[best]
    if left:
        others = Counter({root: count for root, count in counts.items() if root != best})
        warnings.warn(f"using {folder.joinpath(*best)} ({counts[best]:,} images); {left:,} images elsewhere "
                      f"in {folder} are left "
                      f"out{f', copies in {_listed(others)}' if others else ''}.", stacklevel=3)
    return best


def _listed(counts: dict[tuple[str, ...], int]) -> str:
    return ", ".join(f"{'/'.join(root) or '.'!r} ({count:,} "
                     "images)" for root, count in sorted(counts.items()))


def _refuse_single_class(folder: Path, root: tuple[str, ...], found: Folders) -> None:
    in_class = [parts for parts in found if len(parts) > (1 if parts and _is_split(parts[0]) else 0)]
    classes = sorted({parts[1] if _is_split(parts[0]) else parts[0] for parts in in_class})
    if len(classes) < 2:
        what = f"one class folder only ({classes[0]})" if classes else "images but no class folders"
        raise ValueError(f"found {what} in {folder.joinpath(*root).absolute()}; expected at least two "
                         f"classes in {LAYOUTS}. Perhaps the folder above, "
                         f"{folder.joinpath(*root).absolute().parent}, is meant.")
