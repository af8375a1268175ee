"""What a data folder looks like: where it begins, its images, and what the folders say of each.

`find_root` finds the folder to begin at, `images_in` and `image_files` list images. `in_folders`
and, for those in tar files, `in_shards` read the split and the label of each from the folders
around it; `records.scan` makes records of that. A layout that makes no sense is refused, with what
to do.

Here alone it is said what a data folder looks like. Public sets arrive in odd layouts: Kaggle's OCT
zip holds every image in two folders (`OCT2017 /`, `oct2017/OCT2017 /`), its chest zip in a nested
`chest_xray/chest_xray` beside macOS's `__MACOSX`; whoever simply walks through them counts each
image twice or three times.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd

from ..core import dicom
from ..core.files import BEGUN
from ..core.images import PICTURE_ENDINGS, is_image, state
from ..core.words import many, refusal, some
from . import shards

TABLES = (".csv", ".parquet")  # endings of manifests
LAYOUT = "<split>/<class>/<image> (splits named train, val, test) or <class>/<image>"
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_KINDS = f"{', '.join((*PICTURE_ENDINGS, *dicom.ENDINGS))}, or DICOM without an ending"
# Endings of images that `images.read` does not read.
_UNREAD = re.compile(
    r"\.(?:jp2|jpx|j2k|heic|heif|avif|p[bgp]m|tga|psd|nii|nii\.gz|mha|mhd|nrrd|npy|npz|svs|ndpi)$",
    re.IGNORECASE,
)
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
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
_MASK = re.compile(r"[ _.-](?:mask|seg|segmentation)(?:[ _.-]?\d+)?$")
_Folder = tuple[str, ...]  # its parts, relative to where we look
_Folders = dict[_Folder, list[str]]  # folder -> names of its images


@cache
def split_of(name: str) -> str | None:
    """The split that a folder's name means: Train, training_set, seg_test, dev...

    Parameters
    ----------
    name : str

    Returns
    -------
    str, one of SPLIT_NAMES' values, or None where it means none.

    Examples
    --------
    >>> split_of("Training Set"), split_of("CNV")
    ('train', None)
    """
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    words = [word for word in words if not _BESIDE.fullmatch(word)]
    return SPLIT_NAMES.get(words[0].removesuffix("set")) if len(words) == 1 else None


def _is_junk(name: str) -> bool:
    return _JUNK.fullmatch(name) is not None


def _unread(names: Iterable[str]) -> str:
    """How many files are images of kinds that are not read, and which kinds; "" for none."""
    counts = Counter(match[0].lower() for name in names if (match := _UNREAD.search(name)))
    kinds = ", ".join(f"{counts[ending]:,} {ending}" for ending in sorted(counts))
    return f"{many(counts.total(), 'file')} of kinds that are not read here ({kinds})" * bool(kinds)


def _warn_of_unread(root: Path, names: Iterable[str]) -> None:
    if unread := _unread(names):
        todo = "save them as .png for them to count; images end in"
        warnings.warn(f"left out of {root}: {unread}; {todo} {_KINDS}", stacklevel=5)


# The root


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
    folders, passed = _image_folders(folder)
    passed = f"; passed over were {some(passed)}" if passed else ""
    if not folders and shards.files(folder):
        return folder
    if not folders:
        packed = sorted(path for path in folder.iterdir() if path.name.lower().endswith(_ARCHIVES))
        todo = "Check that this is the folder that holds the images."
        if (folder / "recipe.json").is_file():
            todo = "This is a run's folder; its recipe.json names the folder of its images."
        unread = _unread(name for _, names in _walked(folder) for name in names)
        raise ValueError(
            f"found no image in {folder.absolute()}{unread and f', but {unread}'} (looked for "
            f"{_KINDS}); "
            f"expected {LAYOUT}{passed}. {_how_to_unpack(packed[0]) if packed else todo}"
        )
    roots = _split_roots(folders)
    divided = bool(roots)
    if not roots:  # where the ways to the images part: its subfolders must be the classes
        at = os.path.commonprefix([*folders])
        roots = {at: _below(folders, at)}
    root = _choose(folder, roots, folders)
    labels = [[part for part in parts if not split_of(part)] for parts in roots[root]]
    classes = sorted({parts[0] for parts in labels if parts})
    if len(classes) < 2:
        if root and not classes and not divided:  # a single folder holds all images
            root, classes = root[:-1], [root[-1]]
        what = f"one class folder only ({classes[0]})" if classes else "images but no class folders"
        here, todo = folder.joinpath(*root).absolute(), ""
        splits = [parts[0] for parts in folders if len(parts) == 1 and split_of(parts[0])]
        if splits and not classes:
            what = f"images in {some(splits)} but no class folders"
            todo = " Make class folders in each, or list the images with labels in a CSV manifest."
        elif not root and not classes and _has_images_beside(here):
            todo = f" Perhaps the folder above, {here.parent}, is meant."
        if not classes:
            todo += " To ask a trained model about images without labels, use predict."
        raise ValueError(
            f"found {what} in {here}; expected at least two classes in {LAYOUT}{passed}.{todo}"
        )
    return folder.joinpath(*root)


def _has_images_beside(here: Path) -> bool:
    """Whether another folder beside this one holds images, as one of another class would."""
    beside = here.parent.glob("*/[!.]*")  # which passes over folders that one may not read
    found = {path.parent for path in beside if path.parent.name != here.name and is_image(path)}
    return any(not _made_here(one.name, os.listdir(one)) for one in found)


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
            f"{folder} is a file, expected a folder with {LAYOUT}, or a table in a file that ends "
            f"in {' or '.join(TABLES)}."
        )


def _how_to_unpack(archive: Path) -> str:
    to = archive.with_name(archive.name.split(".")[0])
    names = ", ".join(json.dumps(str(path), ensure_ascii=False) for path in (archive, to))
    code = f"from tlutils.data.downloads import unpack; unpack({names})"
    return f"Unpack it with: {shlex.join(['python', '-c', code])}"


def _image_folders(folder: Path) -> tuple[_Folders, list[str]]:
    """The images of every folder that has some; and those that were made here."""
    found, passed = {}, []
    for parts, names in _walked(folder):
        if parts and (what := _made_here(parts[-1], names)):
            passed.append(f"{'/'.join(parts)} ({what})")
            continue
        inside = os.path.join(folder, *parts)
        if images := [name for name in names if is_image(name, inside)]:
            found[parts] = images
    return found, passed


def _walked(folder: Path) -> Iterator[tuple[_Folder, list[str]]]:
    """Every folder with its files' names, without what systems and notebooks leave behind."""
    seen = set()
    for path, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        ours = path != os.fspath(folder) and _made_here(Path(path).name, files)
        # a link to a folder found before would count it twice, one to a folder above never end
        inner[:] = [] if ours or real in seen else sorted(n for n in inner if not _is_junk(n))
        if real not in seen:
            names = [name for name in files if not _is_junk(name)]
            yield Path(path).relative_to(folder).parts, names
        seen.add(real)


def _made_here(name: str, inside: Iterable[str]) -> str:
    """What a folder is that was made here and holds no data, though maybe pictures; "" for none."""
    if {*BEGUN} <= {*inside}:
        return "a run's folder"
    if "store.json" in inside:
        return "a feature store"
    return "this library" if name == "tlutils" and "__init__.py" in inside else ""


def _split_roots(folders: _Folders) -> dict[_Folder, _Folders]:
    """Folders that hold split folders with class folders in them."""
    roots: dict[_Folder, _Folders] = {}
    wrapped = cache(lambda split: _is_wrapped(split, folders))
    for parts, names in folders.items():
        splits = [i for i, part in enumerate(parts[:-1]) if split_of(part)]
        if splits:
            at = splits[-1]
            while at and wrapped(parts[: at + 1]):
                at -= 1
            roots.setdefault(parts[:at], {})[parts[at:]] = names
    return roots


def _is_wrapped(split: _Folder, folders: Iterable[_Folder]) -> bool:
    """Whether a split's folder stands in one of the same split, alone: train/train/..."""
    outer = split[:-1]
    return split_of(outer[-1]) == split_of(split[-1]) is not None and all(
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
        splits = dict.fromkeys(filter(None, map(split_of, parts)))
        place = [*splits, *(part for part in parts if not split_of(part))]
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


# The images


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


def _files_in(folder: Path) -> list[str]:
    """List the image files as `images_in` does, but none in tar files."""
    return _walk(folder)[0]


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
            f"found no image file in {', '.join(map(str, images))}; images end in {_KINDS}"
        )
    return list(dict.fromkeys(found))


def _is_locked(entry: os.DirEntry) -> bool:
    """Whether a file might be DICOM without an ending, if only one might look into it."""
    bare = dicom.lacks_ending(entry.name) and os.path.isfile(entry.path)
    return bare and not os.access(entry.path, os.R_OK)


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Image files and folders below root, without junk: sorted posix paths relative to it.

    Names that are no text, folders that nobody may look into or that were made here, and images of
    kinds that are not read are left out with a warning.
    """
    images, others, folders, lost, ours = [], [], [], [], {}
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
        if folder and (what := _made_here(Path(folder).name, [entry.name for entry in entries])):
            ours[folder] = f"{folder[:-1]} ({what})"
            continue
        for entry in [entry for entry in entries if not _is_junk(entry.name)]:
            name = folder + entry.name
            if not _is_folder(entry):
                image = is_image(entry.path)
                (images if image else others).append(name)
                if not image and _is_locked(entry):
                    lost.append(f"{ascii(name)} (Permission denied)")
            elif (real := os.path.realpath(entry.path)) not in above:  # upwards would never end
                folders.append(name)
                todo.append((name + "/", (*above, real)))
    lost += [f"{ascii(name)} (its name is not UTF-8)" for name in images if not _is_text(name)]
    if lost:
        warnings.warn(
            f"left out of {root}: {some(lost)}; rename what is not UTF-8, and give yourself the "
            "right to read the rest",
            stacklevel=4,
        )
    if ours:
        warnings.warn(f"left out of {root}: {some(sorted(ours.values()))}", stacklevel=4)
    _warn_of_unread(root, others)
    # The folder around such ones is no class either.
    folders = [name for name in folders if not any(one.startswith(f"{name}/") for one in ours)]
    return sorted(filter(_is_text, images)), sorted(filter(_is_text, folders))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which the inspection will name
        return False


def _is_text(name: str) -> bool:
    return name.encode(errors="ignore").decode() == name


def _no_image(root: Path) -> ValueError:
    wanted = f"{LAYOUT} with images in {_KINDS}"
    todo = "unpack archives first, and check that this is the folder with the images"
    return refusal(root, "no image", wanted, todo)


# Split and label


def in_folders(root: Path, classes: list[str] | None = None) -> pd.DataFrame | None:
    """Tell the split and the label of each image by the folders around it.

    Parameters
    ----------
    root : Path, a folder with <split>/<class>/... or <class>/..., see `records.scan`.
    classes : list of str, the folders that are classes, where that is known.

    Returns
    -------
    DataFrame
        The str columns path, split ("" for none) and label, sorted by path; None where the images
        lie in tar files, which `in_shards` reads.

    Raises
    ------
    ValueError
        Where there is no image, or the layout makes no sense.
    """
    paths, folders = _walk(root)
    if not paths and shards.files(root):
        return None
    depth = _layout(root, paths, classes)
    paths = _in_classes(root, paths, depth)
    _refuse_empty(root, paths, folders, depth, classes)
    parts = [path.split("/") for path in paths]
    columns = {
        "path": paths,
        "split": [split_of(part[0]) or "" for part in parts],
        "label": [part[depth(path)] for part, path in zip(parts, paths, strict=True)],
    }
    return pd.DataFrame(columns, dtype="str")


def _layout(root: Path, paths: list[str], classes: list[str] | None) -> Callable[[str], int]:
    """How many folders stand above the class folder of a path: 1 or more with splits, 0 without."""
    if not paths:
        raise _no_image(root)
    folders = sorted({tuple(path.split("/")[:-1]) for path in paths})
    tops = sorted({parts[0] for parts in folders if parts})
    splits, others = [*filter(split_of, tops)], [top for top in tops if not split_of(top)]
    if splits and others:
        found = f"split folders ({some(splits)}) beside others ({some(others)})"
        todo = "move the others away, as a second copy would count every image twice"
        raise refusal(root, found, LAYOUT, todo)
    if len({split_of(top) for top in splits}) < len(splits):
        found = f"two folders for one split ({', '.join(splits)})"
        raise refusal(root, found, LAYOUT, "move one away")
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
    inside = next((i for i, part in enumerate(parts) if i >= depth and split_of(part)), None)
    if inside is not None:
        found = f"a split folder in another folder ({'/'.join(parts[: inside + 1])!r})"
        todo = f"move the splits above the classes, such as {parts[inside]}/{parts[0]}"
        if len(parts) > inside + 1:
            begin = root.joinpath(*parts[:inside])
            todo = (
                f"point at {begin} if the data begin there, else move the splits above the classes"
            )
        raise refusal(root, found, LAYOUT, todo)


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
        found = f"masks beside their images ({some(masks)})"
        todo = "move the masks away, or list the scans alone in a CSV manifest"
        raise refusal(root, found, f"scans only, as {LAYOUT}", todo)


def _refuse_alike(root: Path, folders: list[_Folder]) -> None:
    """Refuse folders that all hold the same folders: splits, sites or copies, but no classes."""
    inside: dict[str, set[_Folder]] = {}
    for top, *rest in filter(None, folders):
        inside.setdefault(top, set()).add(tuple(rest))
    held = [_parting(below) for below in inside.values()]
    for top, names in zip(inside, held, strict=True):
        if len(again := sorted(names & inside.keys())) > 1:
            todo = "move it away, as a copy within a data set would become a class"
            raise refusal(root, f"the classes {some(again)} once more in {top}", LAYOUT, todo)
    holders = Counter(name for names in held for name in names)
    shared = {name for name, tops in holders.items() if tops > 1}
    if len(shared) < 2 or _no_classes(shared):
        return
    if all(names == held[0] for names in held):
        raise refusal(
            root,
            f"the same folders ({some(sorted(held[0]))}) in each of {some(sorted(inside))}",
            LAYOUT,
            "if these are splits, call them train, val and test; if they are sites or copies, put "
            "the images of each class into one folder, or list them in a CSV manifest; if they are "
            "the classes, name them, in Python, with classes=[...]",
        )
    if 2 * len(shared) >= len(holders):
        warnings.warn(
            f"the labels are {some(sorted(inside))} in {root}, though most folders in them bear "
            f"the same names ({some(sorted(shared))}); if these are the classes, put them above, "
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
    found = f"{many(len(loose))} outside any class folder ({some(loose)})"
    todo = "the folder's name is the label, so move such images into one"
    wrong = refusal(root, found, LAYOUT, todo)
    if not inside:
        raise wrong
    if loose:
        warnings.warn(f"{wrong}; they are left out", stacklevel=4)
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
        and (depth(folder) == 0 or split_of(folder.partition("/")[0]) == "train")
        and (classes is None or folder.rpartition("/")[2] in classes)
    ]
    if empty:
        wanted = f"images ({_KINDS}) in each"
        todo = "fill or remove them, or, in Python, name the classes that count with classes=[...]"
        raise refusal(root, f"class folders without an image ({some(empty)})", wanted, todo)


# In tar files


def in_shards(root: Path) -> pd.DataFrame:
    """Tell the split and the label of each image in tar files, by what stands beside or around it.

    Parameters
    ----------
    root : Path, a folder of tar files.

    Returns
    -------
    DataFrame, the str columns path, split, label and patient, "" where nothing tells it

    Raises
    ------
    ValueError
        Where there is no image, a shard is damaged, or splits or masks make no sense.
    """
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
        "patient": told["patient"],
    }
    frame = pd.DataFrame(columns, dtype="str")
    folders = {tuple(path.split("/")[:-1]) for path in frame["path"]}
    _refuse_masks(root, [*frame["path"]], [*folders])
    return frame


def _shard_images(members: pd.DataFrame, root: Path) -> pd.Series:
    """Which members of tar files are images; what takes no part is named in a warning."""
    bad = members[members["problem"] != ""]
    if len(bad):
        named = bad["path"] + " (" + bad["problem"] + ")"
        warnings.warn(f"left out of {root}: {some(named)}", stacklevel=4)
    kept = members[
        [
            not problem and not any(map(_is_junk, name.split("/")))
            for name, problem in zip(members["member"], members["problem"])
        ]
    ]
    counts = pd.Series([is_image(path, root) for path in kept["path"]], kept.index, bool)
    _warn_of_unread(root, kept["member"][~counts])
    return counts.reindex(members.index, fill_value=False)


def _shard_split(told: str, shard: str, folder: str, root: Path) -> str:
    """The split of an image: told beside it, else by folders and the tar file's name."""
    *outer, name = shard.removesuffix(".tar").split("/")
    names = [told] if told else [*outer, *re.split(r"[\W\d_]+", name), *folder.split("/")]
    splits = sorted(set(filter(None, map(split_of, names))))
    if len(splits) > 1 or (told and not splits):
        found = f"the split {told or ' and '.join(splits)!r} of an image"
        wanted = f"one of {', '.join(SPLIT_NAMES)}"
        raise refusal(root / shard / folder, found, wanted, "rename tar files or folders")
    return splits[0] if splits else ""


def _class_folders(folder: pd.Series) -> pd.Series:
    """The class folder in paths within tar files: below the splits, where the ways part; or ""."""
    parts = {path: tuple(filter(None, path.split("/"))) for path in folder.unique()}
    for path, names in parts.items():
        splits = [i + 1 for i, name in enumerate(names) if split_of(name)]
        parts[path] = names[max(splits, default=0) :]
    ways = [*parts.values()]
    shared = min(len(os.path.commonprefix(ways)), *(len(way) - 1 for way in ways)) if ways else 0
    return folder.map({path: "".join(way[max(0, shared) :][:1]) for path, way in parts.items()})
