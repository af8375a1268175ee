"""Unpacking an archive without harm: into its own folder and nowhere else, whole or not at all.

folder = unpack("data/ChestXRay2017.zip", "data/kermany-chest")
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
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..core.progress import bar
from .downloads import CHUNK, DownloadError, alone, human, make_folder

FULL_DISK = 0.95  # an archive may fill at most this share of the free space
SWELL, ANYWAY = (
    100,
    1 << 30,
)  # and at most 100 times its own size, or 1 GiB: JPEG and PNG hardly shrink
BLOCK = 4096  # bytes that the smallest file and each folder take on most disks
HEADER = 1 << 15  # bytes of headers before one member of a tar; the longest path takes 4096
DIRECTORY = 1 << 26  # bytes of a zip's directory: half a million members
DEEPEST = 64  # folders in each other
WINDOWS = os.name == "nt"  # where a colon in a name hides the file behind another
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db")
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    UnicodeError,
)


class ArchiveError(ValueError):
    """An archive is damaged, not an archive, or would do more than fill its own folder."""


def unpack(
    archive: str | Path, to: str | Path, limit: int | None = None, progress: bool = True
) -> Path:
    """Unpack a .zip, .tar, .tar.gz or .tgz into the new folder `to` and return it.

    Only plain files and folders inside `to` are made: an absolute path, `..`, a link or a device refuses the
    whole archive. So do two files of one name, for one would be lost, and more than `limit` bytes, counted as
    a disk counts them, in blocks of 4096, one at least for each file and folder (default: 100 times the
    archive's own size or 1 GiB, and 95 % of the free disk space at most). macOS's `__MACOSX`, `._*` and
    `.DS_Store` are left out, spaces around names too. `to` appears when everything is there, or not at all.
    Raises ArchiveError (a ValueError) or, on a full disk, DownloadError.

    Taught in notebook 01.
    """
    archive, to = Path(archive), Path(to)
    if not archive.is_file():
        raise FileNotFoundError(f"there is no archive at {archive.absolute()}")
    with whole_folder(to) as folder:
        if limit is None:
            limit = min(
                int(shutil.disk_usage(folder).free * FULL_DISK),
                max(ANYWAY, SWELL * archive.stat().st_size),
            )
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
    """Give an empty temporary folder to fill: it becomes `to` if the block ends well and vanishes otherwise.

    Its name is that of `to` with ".unfinished" behind; a second process that would fill it waits for the first.

    Raises ValueError where `to` is already there with something in it, DownloadError when the disk is full or
    the temporary folder was removed meanwhile.
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
    held = (
        None if WINDOWS else os.open(temporary, os.O_RDONLY)
    )  # while it is open none else gets its inode
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
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise DownloadError(
                f"the disk is full: {to.absolute()} could not be made ({error}). What had "
                "been written of it was removed; make room, or choose a folder on another "
                "disk."
            ) from error
        raise
    finally:
        if held is not None:
            os.close(held)


@dataclass
class _Member:
    """One entry of an archive; read() opens it, done is how far the archive has been read, in bytes."""

    name: str
    kind: str  # "file", "folder" or what else it says it is
    size: int
    read: Callable[[], BinaryIO]
    done: int


def _extract(archive: Path, folder: Path, limit: int, progress: bool) -> None:
    total, made, empty = 0, {folder}, True
    with bar(
        what=archive.name,
        total=archive.stat().st_size,
        unit="B",
        unit_scale=True,
        show=None if progress else False,
    ) as shown:
        for member in _members(archive):
            target = _target(member, folder, archive)
            missing = _missing_folders(member, target, made) if target else []
            total += BLOCK * max(1, len(missing) + -(-member.size // BLOCK))
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
                shutil.copyfileobj(source, file, CHUNK)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArchiveError(
            f"{archive.absolute()} holds two members for one place, the second is "
            f"{member.name!r}; one would be lost (spaces around names are taken off, and some "
            "disks do not tell a from A), so nothing was unpacked. Unpack it by hand."
        ) from error
    except OSError as error:
        if error.errno in NO_ROOM or isinstance(error, DAMAGE):
            raise
        raise ArchiveError(
            f"{archive.absolute()}: {member.name!r} cannot be made at {target} ({error}); "
            "nothing was unpacked."
        ) from error


def _target(member: _Member, folder: Path, archive: Path) -> Path | None:
    """Where a member goes; None for what a system left in the archive. Refuses what would go elsewhere."""
    name = member.name.replace("\\", "/")
    parts = [part.strip() for part in PurePosixPath(name).parts if part != "."]
    # Windows takes dots and spaces off the end of a name: there ".. ." may be ".." and "..." nothing
    leaves = (
        name.startswith("/")
        or any(re.fullmatch(r"[.\s]*", part) or re.match("[A-Za-z]:", part) for part in parts)
        or "\0" in name
        or WINDOWS
        and ":" in name
    )
    if leaves or len(parts) > DEEPEST or member.kind not in ("file", "folder"):
        what = (
            "a path that leads out of its folder"
            if leaves
            else f"a path of {len(parts)} folders"
            if len(parts) > DEEPEST
            else f"a {member.kind}"
        )
        raise ArchiveError(
            f"{archive.absolute()} holds {what}: {member.name!r}. No data set needs that, so "
            "nothing was unpacked; fetch the archive from its origin."
        )
    if any(part in JUNK or part.startswith("._") for part in parts):
        return None
    target = folder.joinpath(*parts)
    if not target.resolve().is_relative_to(
        folder.resolve()
    ):  # whatever the system makes of the name
        raise ArchiveError(
            f"{archive.absolute()}: {member.name!r} would lie outside {folder.absolute()}; nothing "
            "was unpacked. Fetch the archive from its origin."
        )
    return target


def _members(archive: Path) -> Iterator[_Member]:
    """The kind is told by the beginning: the last member of a tar may be a zip, whose end looks like its own."""
    with open(archive, "rb") as file:
        beginning = file.read(4)
    if beginning in (b"PK\3\4", b"PK\5\6"):
        return _zip_members(archive)
    return _tar_members(archive, packed=beginning[:2] == b"\x1f\x8b")


class _Metered:
    """A file that gives `left` more bytes and no more, so that a header cannot claim the whole memory."""

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
    with open(archive, "rb") as raw, zipfile.ZipFile(file := _Metered(raw, DIRECTORY)) as bundle:
        file.left = sys.maxsize
        _refuse_odd_zip(bundle.infolist(), archive)
        raw.seek(max(0, archive.stat().st_size - (1 << 16) - 22))
        end = (
            raw.read()
        )  # it gives the number of members (65,535 or fewer), which zipfile never compares
        (number,) = struct.unpack_from("<H", end, end.rfind(b"PK\5\6") + 10)
        if number not in (len(bundle.infolist()) % (1 << 16), (1 << 16) - 1):
            raise zipfile.BadZipFile("its directory does not list as many members as it should")
        for info in bundle.infolist():
            done += info.compress_size
            mode = (info.external_attr >> 16) & 0o170000
            kind = (
                "link"
                if mode == 0o120000
                else "device"
                if mode not in (0, 0o100000, 0o040000)
                else "folder"
                if info.orig_filename.endswith(("/", "\\")) or mode == 0o040000
                else "file"
            )
            yield _Member(
                info.orig_filename, kind, info.file_size, lambda info=info: bundle.open(info), done
            )


def _refuse_odd_zip(members: list[zipfile.ZipInfo], archive: Path) -> None:
    """What zipfile would pass over or unpack without end; members one after the other begin at byte 0."""
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
            what = (
                "members that share their bytes"
                if end
                else "bytes before those that its directory knows"
            )
            raise ArchiveError(
                f"{archive.absolute()} holds {what}: it is cut off, two archives in one, or made "
                "to do harm. Nothing was unpacked; fetch the archive from its origin."
            )
        end = info.header_offset + 30 + len(info.orig_filename) + info.compress_size


class _Header(tarfile.TarInfo):
    """A header of a tar; tarfile itself takes a damaged or missing one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):  # zeros: this is the end
                raise
            raise tarfile.ReadError(
                f"{error}, where a member or the archive's end was expected"
            ) from error


def _tar_members(archive: Path, packed: bool) -> Iterator[_Member]:
    """Read once from front to back: listing a gzipped tar first would unpack its gigabytes twice."""
    with open(archive, "rb") as raw, gzip.open(raw) if packed else raw as unpacked:
        stream = _Metered(unpacked, HEADER)
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as bundle:
            while info := bundle.next():
                if info.size < 0 or len(str(bundle.pax_headers)) > HEADER:
                    raise tarfile.ReadError("a member of negative size, or headers without end")
                kind = (
                    "file"
                    if info.isreg()
                    else "folder"
                    if info.isdir()
                    else "link"
                    if info.issym() or info.islnk()
                    else "device"
                )
                stream.left = sys.maxsize
                yield _Member(
                    info.name,
                    kind,
                    info.size,
                    lambda info=info: bundle.extractfile(info),
                    raw.tell(),
                )
                stream.left = HEADER
                bundle.members.clear()  # or it keeps the headers of a million members
        # to the end, where gzip keeps the sum that proves the whole; a tar is filled up with zeros
        stream.left = 1 << 22
        while rest := stream.read(CHUNK):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("it goes on after its end")
