"""Images in tar files (shards), read where they lie: nothing is unpacked.

The path of such an image is the shard's, then the member's name: `train-000003.tar/CNV/CNV-12.jpg`.
Where its bytes begin is told by an index beside the shard, `train-000003.tar.csv`, which is made
anew where it is missing or the shard has another size or time. All threads read from one open
file a shard, each from its own place.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import os
import posixpath
import stat
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import replacing

_HEAD = ["member", "offset", "length", "problem"]
_BLOCK = 512  # bytes; what a tar file is made of
_OPEN = 128  # shards at once, of the 256 files that macOS gives a process


class Member(NamedTuple):
    """A file in a shard.

    Parameters
    ----------
    name : str, with slashes between folders.
    offset, length : int, where its bytes begin and how many there are.
    problem : str, why it takes no part ("" = fine).
    """

    name: str
    offset: int
    length: int
    problem: str = ""


class Place(NamedTuple):
    """Where the bytes of an image lie.

    Parameters
    ----------
    shard : str, the tar file.
    size, changed : int, its bytes, and when it was changed, in nanoseconds.
    offset, length : int, where the image begins and its bytes.
    """

    shard: str
    size: int
    changed: int
    offset: int
    length: int

    def read(self) -> bytes:
        """Read the bytes of the image.

        Returns
        -------
        bytes

        Raises
        ------
        OSError
            Where the shard cannot be read or has changed since.
        """
        if hasattr(os, "pread"):
            opened = _opened(self.shard, self.size, self.changed)
            data = os.pread(opened.number, self.length, self.offset)
        else:  # Windows
            with open(self.shard, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.length)
        if len(data) < self.length:
            raise OSError(errno.EIO, f"{os.path.basename(self.shard)} ends too early")
        return data


def members(shard: str | Path) -> list[Member]:
    """List the files in a shard by its index, which is made where there is none that fits.

    Members that an extraction could misuse (names that lead out of the folder, links, devices) and
    those whose bytes do not lie in one piece (sparse files) have a problem; of two of one name the
    last counts, as for tar itself.

    Parameters
    ----------
    shard : str or Path

    Returns
    -------
    list of Member, without folders.

    Raises
    ------
    OSError
        Where it cannot be read.
    ValueError
        Where it is cut short, damaged, compressed or no tar file.
    """
    status, index = os.stat(shard), f"{shard}.csv"
    mark = Member("", status.st_mtime_ns, status.st_size)  # stands first: of which shard this is
    with contextlib.suppress(OSError, ValueError, csv.Error), open(index, encoding="utf-8") as file:
        head, first, *rows = csv.reader(file, strict=True)
        found = [Member(name, int(at), int(n), why) for name, at, n, why in [first, *rows]]
        if head == _HEAD and found[0] == mark:
            return found[1:]
    found = _from_headers(shard)
    with (
        contextlib.suppress(OSError),  # in a folder that one may only read each process looks anew
        replacing(index) as part,
        open(part, "w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows([_HEAD, mark, *found])
    return found


def _from_headers(shard: str | Path) -> list[Member]:
    found: dict[str, Member] = {}
    with open(shard, "rb") as file:
        try:
            last = -1
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    if info.offset <= last:
                        raise tarfile.ReadError("a header points backwards")
                    last = info.offset
                    if not info.isdir():
                        member = _member(info)
                        found.pop(member.name, None)
                        found[member.name] = member
                file.seek(tar.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"a header is damaged or no end follows byte {file.tell()}")
        except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{shard} is no whole, uncompressed tar file ({error}); make or copy it again, and "
                "unpack what is compressed (gunzip)"
            ) from None
    return list(found.values())


def _member(info: tarfile.TarInfo) -> Member:
    parts, problem = info.name.split("/"), ""
    if info.name.startswith("/") or ".." in parts:
        problem = "its name leads out of the folder"
    elif info.issym() or info.islnk():
        problem = "a link"
    elif info.issparse():
        problem = "a sparse file"
    elif not info.isreg():
        problem = "no file"
    elif "\\" in info.name or info.name.encode(errors="ignore").decode() != info.name:
        problem = "its name has a backslash or is not UTF-8"
    name = ascii(info.name) if problem else posixpath.normpath(info.name)
    return Member(name, info.offset_data, info.size, problem)


def locate(path: str | Path) -> Place | None:
    """Find where an image in a shard lies.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Place, or None where the path does not lead into a tar file.

    Raises
    ------
    FileNotFoundError
        Where the shard has no such member.
    OSError
        Where it cannot be read.
    ValueError
        Where it is damaged.
    """
    path = os.fspath(path).replace(os.sep, "/")
    end = path.find(".tar/") + 4
    while end > 3:
        shard, name = path[:end], path[end + 1 :]
        try:
            status = os.stat(shard)
        except OSError:  # away
            return None
        if stat.S_ISREG(status.st_mode):  # a folder may be called so, too
            break
        end = path.find(".tar/", end) + 4
    else:
        return None
    keys, places, damage = _table(shard, status.st_size, status.st_mtime_ns)
    if damage:
        raise ValueError(damage)
    key = hash(name)
    at = keys.searchsorted(key)
    if at == len(keys) or keys[at] != key:
        raise FileNotFoundError(errno.ENOENT, f"no such file in {os.path.basename(shard)}")
    return Place(shard, status.st_size, status.st_mtime_ns, *places[at].tolist())


@functools.cache
def _table(shard: str, size: int, changed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """The hashes of the members' names, sorted, their (offset, length), and what damage there is.

    24 bytes a member, where a dict takes 300; two of a million names have one hash once in 40
    million processes.
    """
    try:
        good, damage = [member for member in members(shard) if not member.problem], ""
    except ValueError as error:  # kept, as each image of the shard will ask
        good, damage = [], str(error)
    keys = np.array([hash(member.name) for member in good], np.int64)
    places = np.array([(member.offset, member.length) for member in good], np.int64)
    order = keys.argsort()
    return keys[order], places.reshape(-1, 2)[order], damage


class _Open:
    """A shard that is open until nobody reads from it any more."""

    def __init__(self, shard: str) -> None:
        self.number = os.open(shard, os.O_RDONLY)

    def __del__(self, close=os.close) -> None:
        if "number" in vars(self):
            close(self.number)


@functools.lru_cache(_OPEN)
def _opened(shard: str, size: int, changed: int) -> _Open:
    opened = _Open(shard)
    status = os.fstat(opened.number)
    if (status.st_size, status.st_mtime_ns) != (size, changed):
        raise OSError(errno.ESTALE, f"{os.path.basename(shard)} is being changed")
    return opened
