"""The named data sets: where they come from, under which license, and how to have them here.

`fetch` downloads, verifies, unpacks and returns the folder that holds the images; `get` also takes
a folder or manifest that a person already has. Nothing is fetched twice, and a folder bears a set's
name only when the set is complete.

    python -m tlutils fetch pneumoniamnist
    root = fetch("pneumoniamnist")

Its images are then data/pneumoniamnist/{train,val,test}/{NORMAL,PNEUMONIA}/*.png.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from PIL import Image

from ..core.progress import bar
from ..core.words import did_you_mean
from . import phantoms
from .downloads import DAMAGE, alone, download, human, make_folder, unpack, whole_folder
from .layouts import TABLES, find_root
from .splits import SPLITS

_log = logging.getLogger(__name__)

_OCT, _CHEST = ("CNV", "DME", "DRUSEN", "NORMAL"), ("NORMAL", "PNEUMONIA")
_CELL = (
    "Kermany D. S., Goldbaum M., Cai W. et al.: Identifying Medical Diagnoses and Treatable "
    "Diseases by Image-Based Deep Learning. Cell 172(5), 1122-1131, 2018, "
    "doi:10.1016/j.cell.2018.02.010"
)
_MENDELEY = (
    "Kermany D., Zhang K., Goldbaum M.: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray "
    "Images for Classification. Mendeley Data, V2, 2018, doi:10.17632/rscbjbr9sj.2"
)
_MEDMNIST = (
    "Yang J., Shi R., Wei D. et al.: MedMNIST v2 - A large-scale lightweight benchmark for 2D and "
    "3D biomedical image classification. Scientific Data 10, 41, 2023, "
    "doi:10.1038/s41597-022-01721-8"
)
_KERMANY_PAGE = "https://data.mendeley.com/datasets/rscbjbr9sj/2"
_KERMANY_FILES = "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files"
_MEDMNIST_PAGE = "https://zenodo.org/records/10519652"
_LARGEST_SIDE = 1024  # pixels; MedMNIST's largest images have 224


@dataclass(frozen=True)
class Source:
    """One data set.

    Parameters
    ----------
    name, title : str, for the program, and for people.
    kind : "archive" (zip or tar of images), "medmnist" (npz of arrays) or "phantom" (drawn here).
    classes : tuple of str
    images : int, in all splits; None where an option decides.
    license, citation, note : str, what one may do with it, whom to name, and what to know.
    origin : str, the page that offers it.
    url, file : str, the address, and the file's name here.
    bytes : int, size of the file; None where its maker does not say.
    sha256, md5 : str, digests of the file; None where its maker does not say.
    """

    name: str
    title: str
    kind: str
    classes: tuple[str, ...]
    images: int | None
    license: str
    citation: str
    note: str
    origin: str = ""
    url: str = ""
    file: str = ""
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None


def _kermany(name: str, title: str, classes: tuple[str, ...], images: int, **more) -> Source:
    return Source(
        name,
        title,
        "archive",
        classes,
        images,
        license="CC BY 4.0",
        citation=f"{_MENDELEY}. {_CELL}",
        origin=_KERMANY_PAGE,
        **more,
    )


def _medmnist(
    name: str,
    classes: tuple[str, ...],
    images: int,
    files: dict[int, tuple[str | None, int | None]],
) -> list[Source]:
    """The sizes of one MedMNIST set; files maps pixels to (md5, bytes)."""
    return [
        Source(
            name if size == 28 else f"{name}-{size}",
            f"{name}, {size}x{size} px",
            "medmnist",
            classes,
            images,
            license="CC BY 4.0",
            citation=f"{_MEDMNIST}. {_CELL}",
            note="validation was split off by image and no patient is known, so it flatters; test "
            "is Kermany's",
            origin=_MEDMNIST_PAGE,
            md5=md5,
            bytes=count,
            file=(file := f"{name}.npz" if size == 28 else f"{name}_{size}.npz"),
            url=f"{_MEDMNIST_PAGE}/files/{file}",
        )
        for size, (md5, count) in files.items()
    ]


def _phantom(name: str, title: str, classes: tuple[str, ...]) -> Source:
    return Source(
        name,
        title,
        "phantom",
        classes,
        images=None,
        license="MIT",
        citation="tlutils.data.phantoms",
        note="drawings of nobody: good for learning the way, worth nothing as evidence",
    )


_ALL = [
    _kermany(
        "kermany-oct",
        "Retinal OCT, 4 classes",
        _OCT,
        84_484,
        url=f"{_KERMANY_FILES}/5699a1d8-d1b6-45db-bb92-b61051445347/file_downloaded",
        file="OCT2017.tar.gz",
        bytes=5_793_183_169,
        note="test shares most patients, and 595 of 1,000 very images, with train: split by "
        "patient",
    ),
    _kermany(
        "kermany-chest",
        "Chest X-ray, normal or pneumonia",
        _CHEST,
        5_856,
        url=f"{_KERMANY_FILES}/f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        file="ChestXRay2017.zip",
        bytes=1_235_512_464,
        sha256="13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
        note="train and test share no patient, but there is no validation set: split one off by "
        "patient",
    ),
    *_medmnist(
        "octmnist",
        _OCT,
        109_309,
        {
            28: ("c68d92d5b585d8d81f7112f81e2d0842", None),
            64: ("e229e9440236b774d9f0dfef9d07bdaf", None),
            128: ("0a97e76651ace45c5d943ee3f65b63ae", None),
            224: ("abc493b6d529d5de7569faaef2773ba3", 3_959_197_818),
        },
    ),
    *_medmnist(
        "pneumoniamnist",
        _CHEST,
        5_856,
        {
            28: ("28209eda62fecd6e6a2d98b1501bb15f", None),
            64: (None, None),
            128: (None, None),
            224: ("d6a3c71de1b945ea11211b03746c1fe1", 214_384_716),
        },
    ),
    _phantom("phantom-oct", "Phantom OCT scans, drawn here", _OCT),
    _phantom("phantom-chest", "Phantom chest X-rays, drawn here", _CHEST),
    _phantom("phantom-textures", "Pictures of nothing, drawn here", phantoms.TEXTURE_CLASSES),
]
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}


def table() -> pd.DataFrame:
    """List the sources for people.

    Returns
    -------
    DataFrame with name, images, size (of the download), license, origin.
    """
    rows = [
        {
            "name": source.name,
            "images": f"{source.images:,}" if source.images else "as you like",
            "size": "drawn here" if source.kind == "phantom" else human(source.bytes),
            "license": source.license,
            "origin": source.origin or source.citation,
        }
        for source in SOURCES.values()
    ]
    return pd.DataFrame(rows)


def get(data: str | Path, to: str | Path = "data", **options) -> Path:
    """Have data here, whatever a person names: a source is fetched, a folder recognised.

    Parameters
    ----------
    data : str or Path, a source's name, a folder, or a manifest, which stays what it is.
    to : str or Path, the folder for what is fetched.
    **options : for `fetch`.

    Returns
    -------
    Path, the folder that holds the images, or the manifest.

    Raises
    ------
    FileNotFoundError
        Where it is none of them.
    ValueError
        Where it is something that must be unpacked first or holds no classes of images.
    """
    if str(data) in SOURCES:
        return fetch(str(data), to, **options)
    path = Path(data)
    if path.is_file() and path.suffix.lower() in TABLES:
        return path
    if not path.exists():
        beside = [str(path.parent / one.name) for one in path.parent.glob("*")]
        guess = did_you_mean(str(path), [*SOURCES, *beside])
        raise FileNotFoundError(
            f"{data} is neither a folder here ({path.absolute()}) nor the name of a "
            f"source{guess}; the names are {', '.join(SOURCES)}."
        )
    return find_root(path)


def fetch(name: str, to: str | Path = "data", progress: bool = True, **options) -> Path:
    """Have a source in `<to>/<name>`; where that is there already, nothing is done.

    A file placed by hand as `<to>/<file>` is taken, else that of the environment's TLUTILS_MIRROR,
    a folder's address, else the source's own. Hash and size are checked all the same. For phantoms
    each choice of options has a folder of its own.

    Parameters
    ----------
    name : str, one of SOURCES.
    to : str or Path, the folder for all data.
    progress : bool, whether bars may be shown.
    **options : for phantoms: patients, seed, flaws, size, see `phantoms.write_oct`; images, seed,
        size for "phantom-textures".

    Returns
    -------
    Path, the folder that holds the images.

    Raises
    ------
    ValueError
        For an unknown name or option and for phantoms of an older version of the drawings.
    DownloadError
        Where the file cannot be had.
    """
    if name not in SOURCES:
        guess = did_you_mean(name, SOURCES)
        raise ValueError(f"there is no source {name!r}{guess}; the names are {', '.join(SOURCES)}.")
    source, to = SOURCES[name], Path(to)
    if options and source.kind != "phantom":
        raise ValueError(
            f"{name} knows no options, found {', '.join(options)}; only phantoms can be "
            "drawn to order."
        )
    chosen = [f"{key}-{_short(value)}" for key, value in sorted(options.items())]
    folder = to / "-".join([name, *chosen])
    if folder.is_dir() and any(folder.iterdir()):
        if source.kind == "phantom":
            phantoms.check_version(folder)
        return find_root(folder)
    make_folder(folder.parent)
    with alone(folder):
        if not folder.is_dir() or not any(folder.iterdir()):
            _make(source, folder, progress, options)
    return find_root(folder)


def _short(value: object) -> str:
    """An option's value as a part of a folder's name: {"CNV": 3, "DME": 2} -> "CNV-3-DME-2"."""
    return re.sub(r"[^\w.]+", "-", json.dumps(value, sort_keys=True)).strip("-")


def _make(source: Source, folder: Path, progress: bool, options: dict) -> None:
    if source.kind == "phantom":
        _draw(source, folder, progress, options)
        return
    mirror = os.environ.get("TLUTILS_MIRROR")
    url = f"{mirror.rstrip('/')}/{source.file}" if mirror else source.url
    if not (source.sha256 or source.md5):
        warnings.warn(
            f"no hash of {source.file} is known, so its content cannot be verified beyond "
            f"{'its size' if source.bytes else 'its form'}.",
            stacklevel=4,
        )
    file = folder.parent / source.file
    marks = {"sha256": source.sha256, "md5": source.md5, "size": source.bytes}
    download(url, file, **marks, progress=progress)
    if source.kind == "medmnist":
        _unpack_medmnist(file, folder, source, progress)
    else:
        unpack(file, folder, progress=progress)
    size = human(file.stat().st_size)
    _log.info("%s is complete; %s (%s) is not needed any more", folder, file, size)


def _draw(source: Source, folder: Path, progress: bool, options: dict) -> None:
    write = getattr(phantoms, f"write_{source.name.removeprefix('phantom-')}")
    known = [*inspect.signature(write).parameters]
    known = [name for name in known if name not in ("folder", "progress")]
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(
            f"{source.name} knows no option {', '.join(unknown)}; its options are "
            f"{', '.join(known)}."
        )
    with whole_folder(folder) as unfinished:
        write(unfinished, progress=None if progress else False, **options)


def _unpack_medmnist(file: Path, folder: Path, source: Source, progress: bool) -> None:
    """An npz becomes <folder>/<split>/<class>/<source>-<split>-<index>.png, grey.

    The index is the row in the array, so an image can be traced back. Images are read one by one:
    the largest set has 4.9 GB in one array, which need not fit in memory.
    """
    try:
        with (
            whole_folder(folder) as unfinished,
            zipfile.ZipFile(file) as bundle,
            bar(what=source.name, total=source.images, show=None if progress else False) as shown,
        ):
            for split in SPLITS:
                labels = _labels(bundle, split, source, file)
                for row, image in enumerate(_images(bundle, split, len(labels), file)):
                    name = f"{source.name}-{split}-{row:06d}.png"
                    path = unfinished / split / source.classes[labels[row]] / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(path, compress_level=1)  # 3 times as fast
                    shown.update()
    except DAMAGE as error:
        raise _bad(file, str(error)) from error


def _labels(bundle: zipfile.ZipFile, split: str, source: Source, file: Path) -> np.ndarray:
    """int (N,) labels of a split, refused where they are no class numbers."""
    name, most = f"{split}_labels", source.images
    with _array(bundle, name, file) as stream:
        shape, _, dtype = _header(stream, name, file)
        if dtype.kind not in "iu" or not shape or math.prod(shape) != shape[0]:
            raise _bad(file, f"{name} is {dtype} {shape}, expected one integer an image")
        if shape[0] > most:
            what = f"{split} has {shape[0]:,} images, expected {most:,} at most in all splits"
            raise _bad(file, what)
        content = stream.read(shape[0] * dtype.itemsize)
    if len(content) < shape[0] * dtype.itemsize:
        raise _bad(file, f"{name} ends early")
    labels, last = np.frombuffer(content, dtype), len(source.classes) - 1
    if labels.size and not 0 <= labels.min() <= labels.max() <= last:
        found = f"{name} runs from {labels.min()} to {labels.max()}"
        raise _bad(file, f"{found}, expected 0 to {last}")
    return labels


def _images(bundle: zipfile.ZipFile, split: str, count: int, file: Path) -> Iterator[np.ndarray]:
    """The images of a split, each uint8 (S, S), refused where the array is of another kind."""
    name = f"{split}_images"
    with _array(bundle, name, file) as stream:
        shape, by_column, dtype = _header(stream, name, file)
        fits = dtype == np.uint8 and len(shape) == 3 and shape[0] == count and not by_column
        if not fits or not all(1 <= side <= _LARGEST_SIDE for side in shape[1:]):
            wanted = f"expected uint8 ({count}, size, size)"
            raise _bad(file, f"{name} is {dtype} {shape}, {wanted}")
        for _ in range(count):
            pixels = stream.read(shape[1] * shape[2])
            if len(pixels) < shape[1] * shape[2]:
                raise _bad(file, f"{name} ends early")
            yield np.frombuffer(pixels, np.uint8).reshape(shape[1:])


def _header(stream: BinaryIO, name: str, file: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):  # later ones are for headers of up to 4 GB
            raise ValueError(f"version {version} of the format")
        return np.lib.format.read_array_header_1_0(stream)
    except Exception as error:
        raise _bad(file, f"{name} cannot be read ({error})") from error


def _array(bundle: zipfile.ZipFile, name: str, file: Path) -> BinaryIO:
    if f"{name}.npy" not in bundle.namelist():
        raise _bad(file, f"there is no {name} in it")
    info = bundle.getinfo(f"{name}.npy")
    # zipfile unpacks bzip2 without bound
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _bad(file, f"{name} is packed in another way than numpy's")
    try:
        return bundle.open(info)
    except (OSError, RuntimeError) as error:  # RuntimeError: locked with a password
        raise _bad(file, f"{name} cannot be read ({error})") from error


def _bad(file: Path, what: str) -> ValueError:
    return ValueError(
        f"{file.absolute()} is not the MedMNIST file that it should be: {what}. Nothing was "
        "made of it; delete it and fetch it again."
    )
