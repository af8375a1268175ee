"""Images in tar files of a few thousand each: what WebDataset calls shards.

A sample is `key.jpg` with its label beside it in `key.json`, `key.cls` or `key.txt`, or in a folder
of its class. Millions of small files are slow to copy and to list, a thousand tar files are not.
`write` packs records, `index` lists what is in shards, whoever wrote them, and `told` reads the
labels; `records.scan` makes a table of it. Nothing is unpacked: `core.tars` reads the images where
they lie, so all that is done with files can be done with shards.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path, PurePosixPath

import pandas as pd

from ..core import dicom, tars
from ..core.images import UnreadableImage, content
from ..core.progress import bar
from ..core.words import many
from .downloads import whole_folder
from .phantoms import MARKER
from .splits import is_readable

_LABELS = ("label", "class", "cls")  # names in a .json
_TOLD = ("label", "split", "patient")
_BESIDE = (".json", ".cls", ".txt")
_LONGEST = 2**16  # bytes of one of these
_LABEL = 100  # characters at most


def write(
    records: pd.DataFrame, root: str | Path, out: str | Path, images_per_shard: int = 1000
) -> pd.DataFrame:
    """Pack images into shards, each split into its own: train-000000.tar, val-000000.tar...

    The images' bytes stay what they are, and so do all results that begin with them; DICOM without
    an ending gets .dcm. Beside each lie its label's number (.cls, by the sorted labels) and label,
    split and patient (.json). The order is that of the table: shuffle it first
    (`records.sample(frac=1)`) for who streams them.

    Parameters
    ----------
    records : DataFrame with path, split, label, patient. Rows with a `problem` are left out.
    root : str or Path, the folder from which paths start.
    out : str or Path, the folder to make; it appears when all is written.
    images_per_shard : int

    Returns
    -------
    DataFrame, the records with their new paths, which start from `out`.

    Raises
    ------
    ValueError
        Where `out` has something in it, or there is no image to write.
    UnreadableImage
        Where a file cannot be read.
    """
    good = records[is_readable(records)].reset_index(drop=True)
    if images_per_shard < 1 or good.empty:
        raise ValueError(
            f"found {many(len(good), 'readable image')} for shards of {images_per_shard}; expected "
            "one at least in each; look at the records"
        )
    split = good["split"].where(good["split"] != "", "images")
    number = good.groupby(split).cumcount() // images_per_shard
    # A key ends at its name's first dot, and no folder may lead out of the shard.
    folder = good["label"].map(lambda label: re.sub(r"^\.|[/\\]", "_", label) or "_")
    names = [_with_ending(path, root) for path in good["path"]]
    stem = pd.Series([name.stem.replace(".", "_") for name in names], good.index)
    again = good.groupby([split, folder, stem]).cumcount()
    packed = good.assign(
        shard=[f"{name}-{n:06d}.tar" for name, n in zip(split, number)],
        key=folder + again.map(lambda n: f"/{n}/" if n else "/") + stem,
        ending=[name.suffix for name in names],
        cls=pd.factorize(good["label"], sort=True)[0],
    )
    with whole_folder(out) as to, bar(None, "writing", len(good)) as shown:
        for name, rows in packed.groupby("shard"):
            with tarfile.open(to / name, "w") as tar:
                for row in rows.to_dict("records"):
                    _add(tar, row, Path(root))
                    shown.update()
            tars.members(to / name)
        for above in (Path(root).absolute(), *Path(root).absolute().parents):
            if (above / MARKER).is_file():  # phantoms stay known as such
                shutil.copy(above / MARKER, to)
    path = packed["shard"] + "/" + packed["key"] + packed["ending"]
    unknown = good["patient"].str.startswith("?")
    return good.assign(path=path, patient=good["patient"].mask(unknown, "?" + path))


def _with_ending(path: str, root: str | Path) -> PurePosixPath:
    """The path of an image, with the ending that readers of shards go by where DICOM lacks it."""
    named = PurePosixPath(path)
    if named.suffix.lower() in dicom.ENDINGS or not dicom.is_dicom(path, root):
        return named
    return named.with_name(f"{named.name}.dcm")


def _add(tar: tarfile.TarFile, row: dict, root: Path) -> None:
    """Append an image and what is known of it."""
    try:
        data = content(root / row["path"])
    except UnreadableImage as error:
        raise UnreadableImage(f"{root / row['path']}: {error}") from None
    known = {name: row[name] for name in _TOLD if not row[name].startswith("?")}
    about = json.dumps(known, ensure_ascii=False).encode()
    parts = {row["ending"]: data, ".cls": str(row["cls"]).encode(), ".json": about}
    for ending, value in parts.items():
        info = tarfile.TarInfo(row["key"] + ending)  # of no time and nobody: the same bytes again
        info.size = len(value)
        tar.addfile(info, io.BytesIO(value))


def files(folder: str | Path) -> list[str]:
    """List the tar files anywhere below a folder, without hidden ones; none is opened.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    list of str, sorted posix paths relative to the folder.
    """
    found = [path.relative_to(folder) for path in Path(folder).rglob("*.tar") if path.is_file()]
    hidden = [any(part.startswith(".") for part in path.parts) for path in found]
    return sorted(path.as_posix() for path, hide in zip(found, hidden) if not hide)


def index(folder: str | Path) -> pd.DataFrame:
    """List what is in the shards below a folder, by the index beside each (see `tars.members`).

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    DataFrame, one row a member: path, of which shard (posix, from the folder) and member are the
        parts; offset and length (int, of its bytes in the shard), problem (why it takes no part, ""
        = fine).

    Raises
    ------
    ValueError
        Where a shard is cut short, damaged or compressed; it is named. Where there is none.
    """
    names, columns = files(folder), ["member", "offset", "length", "problem"]
    parts = [
        pd.DataFrame(tars.members(Path(folder, name)), columns=columns).assign(shard=name)
        for name in bar(names, "listing", unit="shard")
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(path=table["shard"] + "/" + table["member"])


def told(table: pd.DataFrame, images: pd.Series, folder: str | Path) -> pd.DataFrame:
    """Read what stands beside images: label, split and patient in a .json, or a label alone.

    Parameters
    ----------
    table : DataFrame that `index` made.
    images : bool Series, which of its rows are images.
    folder : str or Path, the same as for `index`.

    Returns
    -------
    DataFrame of the images, under their index: the str columns label, split and patient, "" where
        nothing tells it. A .json (label, class or cls) goes before a .cls, that before a .txt.

    Raises
    ------
    ValueError
        Where a .json is none.
    """
    found = []
    for shard, rows in table.groupby("shard", sort=False):
        names = rows["member"]
        short = rows["length"] <= _LONGEST  # what is longer is no label
        beside = {name for name in names[short] if name.endswith(_BESIDE)}
        for name in names[images[rows.index]]:
            found.append(_beside(name, beside, f"{folder}/{shard}") if beside else ("", "", ""))
    return pd.DataFrame(found, table.index[images], _TOLD, dtype="str")


def _beside(image: str, beside: set[str], shard: str) -> tuple[str, str, str]:
    """(label, split, patient) of an image, from members of its name or of its key."""
    at = image.rfind("/") + 1
    ended = os.path.splitext(image)[0]  # DICOM files may have no ending, but dots in their names
    for key in (image, ended, image[:at] + image[at:].partition(".")[0]):
        texts = {
            ending: _text(f"{shard}/{key}{ending}") for ending in _BESIDE if key + ending in beside
        }
        if texts:
            known = _object(texts.pop(".json", "{}"), f"{shard}/{key}.json")
            labels = [*(_plain(known.get(name)) for name in _LABELS), *map(_line, texts.values())]
            return next(filter(None, labels), ""), *(_plain(known.get(n)) for n in _TOLD[1:])
    return "", "", ""


def _text(path: str) -> str:
    return content(path).decode("utf-8-sig", "replace").strip()


def _object(text: str, path: str) -> dict:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no JSON object ({error}); expected such as "
            '{"label": "CNV", "patient": "12"}; make the shard anew'
        ) from None


def _plain(value: object) -> str:
    """A word or whole number as text; "" for all else."""
    is_plain = isinstance(value, (str, int)) and not isinstance(value, bool)
    return str(value).strip() if is_plain else ""


def _line(text: str) -> str:
    """A label; a caption, which is longer, is none."""
    return text if len(text) <= _LABEL and "\n" not in text else ""
