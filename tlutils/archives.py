"""Unpacking an archive without harm: into its own folder and nowhere else, whole or not at all.

    folder = unpack("data/ChestXRay2017.zip", "data/kermany-chest")
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from .downloads import CHUNK, DownloadError, human, make_folder
from .progress import bar

FULL_DISK = 0.95                 # an archive may fill at most this share of the free space
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)


class ArchiveError(ValueError):
    """An archive is damaged, not an archive, or would do more than fill its own folder."""


def unpack(archive: str | Path, to: str | Path, limit: int | None = None, progress: bool = True) -> Path:
    """Unpack a .zip, .tar, .tar.gz or .tgz into the new folder `to` and return it.

    Only plain files and folders inside `to` are made: an absolute path, `..`, a link or a device refuses the
    whole archive, and so does more than `limit` bytes (default: 95 % of the free disk space). macOS's
    `__MACOSX`, `._*` and `.DS_Store` are left out, spaces at the end of folder names too. `to` appears when
    everything is there, or not at all. Raises ArchiveError (a ValueError) or, on a full disk, DownloadError.

    Taught in notebook 01.
    """
    archive, to = Path(archive), Path(to)
    if not archive.is_file():
        raise FileNotFoundError(f"there is no archive at {archive.absolute()}")
    with whole_folder(to) as folder:
        limit = int(shutil.disk_usage(folder).free * FULL_DISK) if limit is None else limit
        try:
            _extract(archive, folder, limit, progress)
        except DAMAGE as error:
            raise ArchiveError(f"{archive.absolute()} is damaged or no zip or tar archive ({error}); delete "
                               "it and fetch it again.") from error
    return to


@contextmanager
def whole_folder(to: str | Path) -> Iterator[Path]:
    """Give an empty temporary folder to fill: it becomes `to` if the block ends well and vanishes otherwise.

    Raises ValueError where `to` is already there with something in it, DownloadError when the disk is full.
    """
    to = Path(to)
    if to.exists() and (to.is_file() or any(to.iterdir())):
        raise ValueError(f"{to.absolute()} is there already; choose another place, or delete it to make it "
                         "anew.")
    temporary = to.with_name(f"{to.name}.unfinished")
    make_folder(to.parent)
    shutil.rmtree(temporary, ignore_errors=True)              # what a killed run left
    temporary.mkdir()
    try:
        yield temporary
        if to.exists():
            to.rmdir()
        os.replace(temporary, to)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise DownloadError(f"the disk is full: {to.absolute()} could not be made ({error}). What had "
                                "been written of it was removed; make room, or choose a folder on another "
                                "disk.") from error
        raise


@dataclass
class _Member:
    """One entry of an archive; read() opens it, done is how far the archive has been read, in bytes."""
    name: str
    kind: str                      # "file", "folder" or what else it says it is
    size: int
    read: Callable[[], BinaryIO]
    done: int


def _extract(archive: Path, folder: Path, limit: int, progress: bool) -> None:
    total = 0
    with bar(what=archive.name, total=archive.stat().st_size, unit="B", unit_scale=True,
             show=None if progress else False) as shown:
        for member in _members(archive):
            target = _target(member, folder, archive)
            total += member.size
            if total > limit:
                raise ArchiveError(f"{archive.absolute()} holds more than {human(limit)}, which is all that "
                                   "may be unpacked here; nothing was unpacked. Make room, or choose another "
                                   "disk.")
            if target is not None:
                _write_member(member, target)
            shown.update(member.done - shown.n)


def _write_member(member: _Member, target: Path) -> None:
    if member.kind == "folder":
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.read() as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, CHUNK)


def _target(member: _Member, folder: Path, archive: Path) -> Path | None:
    """Where a member goes; None for what a system left in the archive. Refuses what would go elsewhere."""
    name = member.name.replace("\\", "/")
    parts = [part for part in PurePosixPath(name).parts if part != "."]
    leaves = name.startswith("/") or ".." in parts or bool(PureWindowsPath(name).drive) or "\0" in name
    if leaves or member.kind not in ("file", "folder"):
        what = "a path that leads out of its folder" if leaves else f"a {member.kind}"
        raise ArchiveError(f"{archive.absolute()} holds {what}: {member.name!r}. No data set needs that, so "
                           "nothing was unpacked; fetch the archive from its origin.")
    if any(part in JUNK or part.startswith("._") for part in parts):
        return None
    return folder.joinpath(*[part.strip() for part in parts])


def _members(archive: Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        return _zip_members(archive)
    with open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return _tar_members(archive, packed)


def _zip_members(archive: Path) -> Iterator[_Member]:
    done = 0
    with zipfile.ZipFile(archive) as bundle:
        for info in bundle.infolist():
            if info.flag_bits & 1:
                raise ArchiveError(f"{archive.absolute()} is locked with a password; unpack it by hand.")
            done += info.compress_size
            is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
            kind = "link" if is_link else "folder" if info.is_dir() else "file"
            yield _Member(info.filename, kind, info.file_size, lambda info=info: bundle.open(info), done)


def _tar_members(archive: Path, packed: bool) -> Iterator[_Member]:
    """Read as a stream: listing a gzipped tar first would unpack its gigabytes twice."""
    with open(archive, "rb") as raw, (gzip.open(raw) if packed else raw) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as bundle:
            for info in bundle:
                kind = "file" if info.isreg() else "folder" if info.isdir() else \
                    "link" if info.issym() or info.islnk() else "device"
                yield _Member(info.name, kind, info.size, lambda info=info: bundle.extractfile(info),
                              raw.tell())
        while packed and stream.read(CHUNK):      # to the end, where gzip keeps the sum that proves the whole
            pass
