"""Unpack safely: into a folder of its own and nowhere else, whole or not at all.

The archive may come from a stranger: paths and links that lead out, devices, two members for one
place, members or headers without end, a part that looks like the whole are refused, and nothing of
it stays.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..core.progress import bar
from .downloads import DownloadError, alone, human, make_folder

_CHUNK = 1 << 16  # bytes copied at a time
# An archive may fill at most this share of the free space, and at most 100 times its own size, or
# 1 GiB: JPEG and PNG hardly shrink.
_FULL_DISK, _SWELL, _ANYWAY = 0.95, 100, 1 << 30
_BLOCK = 4096  # bytes that the smallest file and each folder take on most disks
_TAR_HEADER = 1 << 15  # bytes of headers before one member of a tar; the longest path takes 4096
_ZIP_DIRECTORY = 1 << 26  # bytes of a zip's directory: half a million members
_DEEPEST = 64  # folders in each other
_WINDOWS = os.name == "nt"  # where a colon in a name hides the file behind another
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_LEFT_BY_SYSTEMS = ("__MACOSX", ".DS_Store", "Thumbs.db")
# What the standard library raises for a damaged archive.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, struct.error)
DAMAGE += (EOFError, NotImplementedError, OverflowError, RecursionError, UnicodeError)


class ArchiveError(ValueError):
    """An archive is damaged, not an archive, or would do more than fill its own folder."""


def unpack(
    archive: str | Path, to: str | Path, limit: int | None = None, progress: bool = True
) -> Path:
    """Unpack a .zip, .tar, .tar.gz or .tgz into a new folder, which appears whole or not at all.

    Only plain files and folders inside `to` are made: an absolute path, `..`, a link or a device
    refuses the whole archive. So do two files of one name, for one would be lost. macOS's
    `__MACOSX`, `._*` and `.DS_Store` are left out, spaces around names too.

    Parameters
    ----------
    archive : str or Path
    to : str or Path, the folder to make.
    limit : int, bytes it may take, counted as a disk counts them, in blocks of 4096, one at least
        for each file and folder; None allows 100 times the archive's own size or 1 GiB, and 95 % of
        the free disk space at most.
    progress : bool, whether a bar may be shown.

    Returns
    -------
    Path, `to`.

    Raises
    ------
    FileNotFoundError
        Where there is no archive.
    ArchiveError
        Where it is damaged, or would do more than fill its own folder.
    DownloadError
        On a full disk.
    """
    archive, to = Path(archive), Path(to)
    if not archive.is_file():
        raise FileNotFoundError(f"there is no archive at {archive.absolute()}")
    with whole_folder(to) as folder:
        if limit is None:
            free = int(shutil.disk_usage(folder).free * _FULL_DISK)
            limit = min(free, max(_ANYWAY, _SWELL * archive.stat().st_size))
        try:
            _extract(archive, folder, limit, progress)
        except DAMAGE as error:
            raise ArchiveError(
                f"{archive.absolute()} is damaged, or neither a zip nor a tar nor a tar.gz "
                f"({error}); delete it and fetch it again."
            ) from error
    return to


@contextmanager
def whole_folder(to: str | Path) -> Iterator[Path]:
    """Give an empty temporary folder to fill, renamed where the block ends well, else removed.

    Its name is that of `to` with ".unfinished" behind; a second process that would fill it waits
    for the first.

    Parameters
    ----------
    to : str or Path, the folder to make.

    Yields
    ------
    Path, the temporary folder.

    Raises
    ------
    ValueError
        Where `to` is already there with something in it.
    DownloadError
        When the disk is full or the temporary folder was removed meanwhile.
    """
    to = Path(to)
    temporary = to.with_name(f"{to.name}.unfinished")
    make_folder(to.parent)
    with alone(temporary):
        if to.exists() and (to.is_file() or any(to.iterdir())):
            raise ValueError(
                f"{to.absolute()} is there already; choose another place, or delete it to make it "
                "anew."
            )
        with _emptied(temporary, to) as folder:
            yield folder


@contextmanager
def _emptied(temporary: Path, to: Path) -> Iterator[Path]:
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
    temporary.mkdir()
    begun = temporary.stat()
    held = None if _WINDOWS else os.open(temporary, os.O_RDONLY)  # so that none gets its inode
    try:
        yield temporary
        # removed, and made anew by whoever fills it, it would look whole and lack what came before
        if not temporary.is_dir() or not os.path.samestat(begun, temporary.stat()):
            raise DownloadError(
                f"{temporary.absolute()} was removed while it was filled; run the same again."
            )
        if to.exists():
            to.rmdir()
        os.replace(temporary, to)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            raise DownloadError(
                f"the disk is full: {to.absolute()} could not be made ({error}). What had been "
                "written of it was removed; make room, or choose a folder on another disk."
            ) from error
        raise
    finally:
        if held is not None:
            os.close(held)


@dataclass
class _Member:
    """An entry of an archive; `read` opens it, `done` are the bytes of the archive read so far."""

    name: str
    kind: str  # "file", "folder" or what else it says it is
    size: int
    read: Callable[[], BinaryIO]
    done: int


def _extract(archive: Path, folder: Path, limit: int, progress: bool) -> None:
    total, made, empty = 0, {folder}, True
    size, show = archive.stat().st_size, None if progress else False
    with bar(what=archive.name, total=size, unit="B", unit_scale=True, show=show) as shown:
        for member in _members(archive):
            target = _target(member, folder, archive)
            missing = _missing_folders(member, target, made) if target else []
            total += _BLOCK * max(1, len(missing) + -(-member.size // _BLOCK))
            if total > limit:
                raise ArchiveError(
                    f"{archive.absolute()} takes more than {human(limit)} unpacked, which is all "
                    "that it may; nothing was unpacked. Make room or choose another disk, and "
                    "where you trust it, pass limit, in bytes."
                )
            if target:
                _place(member, target, missing, archive)
                empty = False
            made.update(missing)
            shown.update(member.done - shown.n)
    if empty:
        raise ArchiveError(f"{archive.absolute()} holds no file; fetch it again from its origin.")


def _missing_folders(member: _Member, target: Path, made: set[Path]) -> list[Path]:
    """The folders that a member needs and that are not made yet, the outermost first."""
    above = [target, *target.parents] if member.kind == "folder" else target.parents
    return list(takewhile(lambda path: path not in made, above))[::-1]


def _place(member: _Member, target: Path, missing: list[Path], archive: Path) -> None:
    try:
        for path in missing:
            path.mkdir(exist_ok=True)
        if member.kind == "file":
            with open(target, "xb") as file, member.read() as source:
                shutil.copyfileobj(source, file, _CHUNK)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveError(
            f"{archive.absolute()} holds two members for one place, the second is "
            f"{member.name!r}; one would be lost (spaces around names are taken off, and some "
            "disks do not tell a from A), so nothing was unpacked. Unpack it by hand."
        ) from error
    except OSError as error:
        if error.errno in _NO_SPACE or isinstance(error, DAMAGE):
            raise
        raise ArchiveError(
            f"{archive.absolute()}: {member.name!r} cannot be made at {target} ({error}); "
            "nothing was unpacked."
        ) from error


def _target(member: _Member, folder: Path, archive: Path) -> Path | None:
    """Where a member goes; None for what a system left. Refuses what would go elsewhere."""
    name = member.name.replace("\\", "/")
    parts = [part.strip() for part in PurePosixPath(name).parts if part != "."]
    # Windows takes dots and spaces off the end of a name: there ".. ." may be ".." and "..."
    # nothing
    leaves = name.startswith("/") or "\0" in name or _WINDOWS and ":" in name
    leaves |= any(re.fullmatch(r"[.\s]*", part) or re.match("[A-Za-z]:", part) for part in parts)
    what = None if member.kind in ("file", "folder") else f"a {member.kind}"
    what = f"a path of {len(parts)} folders" if len(parts) > _DEEPEST else what
    what = "a path that leads out of its folder" if leaves else what
    if what:
        raise ArchiveError(
            f"{archive.absolute()} holds {what}: {member.name!r}. No data set needs that, so "
            "nothing was unpacked; fetch the archive from its origin."
        )
    if any(part in _LEFT_BY_SYSTEMS or part.startswith("._") for part in parts):
        return None
    target = folder.joinpath(*parts)
    inside = target.resolve().is_relative_to(folder.resolve())
    if not inside:  # whatever the system makes of the name
        raise ArchiveError(
            f"{archive.absolute()}: {member.name!r} would lie outside {folder.absolute()}; nothing "
            "was unpacked. Fetch the archive from its origin."
        )
    return target


def _members(archive: Path) -> Iterator[_Member]:
    """By the beginning: the last member of a tar may be a zip, whose end looks like its own."""
    with open(archive, "rb") as file:
        beginning = file.read(4)
    if beginning in (b"PK\3\4", b"PK\5\6"):
        return _zip_members(archive)
    return _tar_members(archive, packed=beginning[:2] == b"\x1f\x8b")


class _Metered:
    """A file that gives `left` more bytes, so that a header cannot claim the whole memory."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self.file, self.left = file, left

    def read(self, size: int = 1 << 17) -> bytes:  # zipfile looks for the end in the last 64 kB
        self.left -= size
        if size < 0 or self.left < 0:
            raise ArchiveError(
                f"{self.file.name} holds far more headers or filling than an archive needs; "
                "nothing was unpacked. Fetch the archive from its origin."
            )
        return self.file.read(size)

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)


def _zip_members(archive: Path) -> Iterator[_Member]:
    done = 0
    with open(archive, "rb") as raw, zipfile.ZipFile(_Metered(raw, _ZIP_DIRECTORY)) as bundle:
        bundle.fp.left = sys.maxsize
        _refuse_odd_zip(bundle.infolist(), archive)
        raw.seek(max(0, archive.stat().st_size - (1 << 16) - 22))
        end = raw.read()  # it gives the number of members (up to 65,535); zipfile never compares
        (number,) = struct.unpack_from("<H", end, end.rfind(b"PK\5\6") + 10)
        if number not in (len(bundle.infolist()) % (1 << 16), (1 << 16) - 1):
            raise zipfile.BadZipFile("its directory does not list as many members as it should")
        for info in bundle.infolist():
            done += info.compress_size
            name, mode = info.orig_filename, (info.external_attr >> 16) & 0o170000
            kind = {0o120000: "link", 0o040000: "folder", 0o100000: "file", 0: "file"}
            kind = kind.get(mode, "device")
            if kind == "file" and name.endswith(("/", "\\")):
                kind = "folder"
            yield _Member(name, kind, info.file_size, partial(bundle.open, info), done)


def _refuse_odd_zip(members: list[zipfile.ZipInfo], archive: Path) -> None:
    """What zipfile would pass over or unpack without end; members in a row begin at byte 0."""
    end = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        if info.flag_bits & 1:
            raise ArchiveError(
                f"{archive.absolute()} is locked with a password; unpack it by hand."
            )
        # zipfile unpacks bzip2 without bound: 4 kB may become gigabytes in memory
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(
                f"{archive.absolute()} is packed in a way that is not unpacked here (method "
                f"{info.compress_type} of zip); unpack it by hand."
            )
        if info.header_offset < end or (end == 0 and info.header_offset):
            what = "members that share their bytes"
            what = what if end else "bytes before those that its directory knows"
            raise ArchiveError(
                f"{archive.absolute()} holds {what}: it is cut off, "
                "two archives in one, or made to do harm. Nothing was unpacked; fetch the archive "
                "from its origin."
            )
        end = info.header_offset + 30 + len(info.orig_filename) + info.compress_size


class _Header(tarfile.TarInfo):
    """A tar's header; tarfile itself takes a damaged or missing one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):  # zeros: this is the end
                raise
            text = f"{error}, where a member or the archive's end was expected"
            raise tarfile.ReadError(text) from error


def _tar_members(archive: Path, packed: bool) -> Iterator[_Member]:
    """Read once from front to back: listing a gzipped tar first would unpack it twice."""
    with open(archive, "rb") as raw, gzip.open(raw) if packed else raw as unpacked:
        stream = _Metered(unpacked, _TAR_HEADER)
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as bundle:
            while info := bundle.next():
                if info.size < 0 or len(str(bundle.pax_headers)) > _TAR_HEADER:
                    raise tarfile.ReadError("a member of negative size, or headers without end")
                kind = "link" if info.issym() or info.islnk() else "device"
                kind = "file" if info.isreg() else "folder" if info.isdir() else kind
                stream.left = sys.maxsize
                read = partial(bundle.extractfile, info)
                yield _Member(info.name, kind, info.size, read, raw.tell())
                stream.left = _TAR_HEADER
                bundle.members.clear()  # or it keeps the headers of a million members
        # to the end, where gzip keeps the sum that proves the whole; a tar is filled up with zeros
        stream.left = 1 << 22
        while rest := stream.read(_CHUNK):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("it goes on after its end")
