"""Fetch, verify, unpack safely: a file from the network, and what an archive holds.

A clinic's network is slow, breaks, drops packets silently or answers every question with its own
log-in page. So a download resumes where it broke, a file bears its name only when it is complete,
each wait has an end, and every error says what to do by hand. An archive is unpacked into its own
folder and nowhere else, whole or not at all.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import shutil
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..core.files import Busy, check_writable, locked
from ..core.packages import needed
from ..core.progress import bar, watched

# Seconds before a broken transfer is taken up again: wifi comes back in 1-5 s.
_WAITS = (1.0, 2.0, 4.0)
_BUSY = (429, 500, 502, 503, 504)  # what a server answers that will do better in a while
_CHUNK = 1 << 16  # bytes; what a transfer that breaks can lose
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


class DownloadError(FileNotFoundError):
    """A file or folder that is needed could not be had; the message says why, and what to do."""


class ArchiveError(ValueError):
    """An archive is damaged, not an archive, or would do more than fill its own folder."""


def download(
    url: str,
    to: str | Path,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    timeout: float = 30,
    progress: bool = True,
) -> Path:
    """Fetch a file; one that is already there and right is left as it is.

    An interrupted transfer leaves `<to>.part` and is taken up there next time, if a hash or a size
    will judge the result; else it leaves nothing. Where a size alone will judge, `<to>.part.etag`
    beside it says which version of the server's file it is a part of, and of another version
    nothing is added to it.

    Parameters
    ----------
    url : str, its address on the web.
    to : str or Path, the file to make; folders above it are made.
    sha256, md5 : str, the whole digest in hexadecimal digits or its beginning (torchvision's file
        names carry 8); None where it is not known.
    size : int, in bytes; None where it is not known.
    timeout : float, in seconds, for the connection and for each silence.
    progress : bool, whether a bar may be shown.

    Returns
    -------
    Path, `to`.

    Raises
    ------
    DownloadError
        For all that keeps the right file from being there, a wrong one already in its place
        included.
    """
    wanted = _Download(url, Path(to), sha256, md5, size, timeout, progress)
    if not wanted.is_there():
        make_folder(wanted.to.parent)
        with alone(wanted.to):
            if not wanted.is_there():  # another process may have fetched it meanwhile
                wanted.fetch()
    return wanted.to


def human(size: int | None) -> str:
    """A number of bytes as people say it.

    Parameters
    ----------
    size : int or None, in bytes.

    Returns
    -------
    str

    Examples
    --------
    >>> human(5_793_183_169), human(None)
    ('5.8 GB', 'size unknown')
    """
    if size is None:
        return "size unknown"
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def digest(path: str | Path, algorithm: str = "sha256") -> str:
    """The digest of a file's bytes, read in pieces: memory stays flat for files of any size.

    Parameters
    ----------
    path : str or Path
    algorithm : str, of hashlib.

    Returns
    -------
    str of hexadecimal digits.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold back other processes (those of torchrun, a second notebook) while this one makes a file.

    They wait, and say so. Where the disk knows no locks, as some network disks, nobody is held
    back.

    Parameters
    ----------
    path : Path, the file or folder that is made.

    Yields
    ------
    None
    """
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, path.name))
        except Busy:
            print(f"another process is making {path}; waiting for it", file=sys.stderr)
            held.enter_context(locked(lock, path.name, timeout=-1))
        except OSError:
            pass
        try:
            yield
        finally:
            with suppress(OSError):  # Windows, which removes no open file
                lock.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    DownloadError
        Where one may not write there.
    """
    try:
        check_writable(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(str(error)) from error


class _Refused(Exception):
    """What the server sends is not the file; trying again will not help."""


@dataclass
class _Download:
    """A file to fetch; it grows as `<to>.part`, kept between runs, and gets its name at the end."""

    url: str
    to: Path
    sha256: str | None
    md5: str | None
    size: int | None
    timeout: float
    progress: bool

    def __post_init__(self) -> None:
        self.part = self.to.with_name(self.to.name + ".part")
        self.version = self.to.with_name(self.to.name + ".part.etag")
        self.hashes = {"sha256": self.sha256, "md5": self.md5}
        self.hashes = {name: value for name, value in self.hashes.items() if value}
        self.judged = bool(self.hashes or self.size)

    def is_there(self) -> bool:
        if not self.to.is_file():
            return False
        if problem := self._problem(self.to):
            raise DownloadError(
                f"{self.to.absolute()} is there but is not the file that it should be: {problem}. "
                "It is not used. Delete or rename it and run the same again to fetch it from "
                f"{self.url}."
            )
        return True

    def _problem(self, path: Path) -> str:
        """What is wrong with a file, "" when nothing is; the cheapest check comes first."""
        found = path.stat().st_size
        if self.size is not None and found != self.size:
            return f"it has {found:,} bytes, expected {self.size:,}"
        for algorithm, expected in self.hashes.items():
            if not (actual := digest(path, algorithm)).startswith(expected.lower()):
                return f"its {algorithm} is {actual}, expected {expected}"
        return ""

    def fetch(self) -> None:
        requests = needed("requests", "requests")
        try:
            self._complete()
            if problem := self._problem(self.part):
                self._forget()
                raise _Refused(
                    f"what arrived is not the file that was asked for: {problem}; it was thrown "
                    "away"
                )
            os.replace(self.part, self.to)
            self._forget()
        except requests.RequestException as error:
            raise self._failure(_why(error, self.timeout)) from error
        except _Refused as error:
            raise self._failure(str(error)) from None
        except OSError as error:
            raise self._failure(f"writing to disk failed: {error}") from error

    def _failure(self, why: str) -> DownloadError:
        marks = [human(self.size), *(f"{name} {value}" for name, value in self.hashes.items())]
        return DownloadError(
            f"could not download {self.to.name}: {why}. URL: {self.url}. Run the same again to "
            f"retry or resume, or fetch the file elsewhere ({', '.join(marks)}) and place it at "
            f"{self.to.absolute()}."
        )

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _complete(self) -> None:
        """Have all of the part; where nothing will judge it, one that breaks off is removed."""
        if self.size and self._have() > self.size:
            self._forget()
        try:
            if not (self.size and self._have() == self.size):
                self._persist()
        except BaseException:
            if not self.judged:
                self._forget()
            raise

    def _persist(self) -> None:
        """Try again while something comes or the server is busy; give up where nothing came."""
        from requests.exceptions import ChunkedEncodingError, ConnectionError, HTTPError, Timeout

        failures, begun, most = 0, self._have(), self._have()
        while True:
            try:
                return self._receive()
            except (ConnectionError, Timeout, ChunkedEncodingError, HTTPError) as error:
                answer = error.response.status_code if isinstance(error, HTTPError) else None
                failures = 0 if self._have() > most else failures + 1
                most = max(most, self._have())
                hopeless = answer not in _BUSY if answer else most == begun
                if hopeless or failures > len(_WAITS):
                    raise
                time.sleep(_WAITS[max(failures - 1, 0)])

    def _receive(self) -> None:
        import requests

        start = self._have() if self.judged else 0
        # identity: a server that packs on the way would count other bytes than those that we have
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        timeout = self.timeout
        with requests.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == 416 and start:  # nothing follows: complete, or another file
                if not response.headers.get("Content-Range", "").endswith(f"/{start}"):
                    self._forget()
                    self._receive()
                return
            response.raise_for_status()
            if response.status_code != 206:  # the server knows no ranges and begins at byte 0
                start = 0
            packed = self._packed_on_the_way(response)
            if start and (packed or self._changed(response)):
                self._forget()
                return self._receive()
            expected = self.size if packed else self._expected(response, start)
            chunks = response.iter_content(_CHUNK)
            first = next(chunks, b"")
            _refuse_page(response, first if start == 0 else b"")
            if start == 0 and self.size and not self.hashes:
                self.version.write_text("\n".join(_version(response)), encoding="utf-8")
            self._write(start, expected, first, chunks)
        if expected and self._have() < expected:
            text = f"{self._have()} of {expected} bytes"
            raise requests.exceptions.ChunkedEncodingError(text)

    def _packed_on_the_way(self, response) -> bool:
        """Whether other bytes come than the file's own; of a .tar.gz many servers lie."""
        if self.to.name.lower().endswith((".gz", ".tgz")):
            response.raw.headers.pop("Content-Encoding", None)  # or requests would unpack the file
            return False
        return response.headers.get("Content-Encoding", "identity").lower() != "identity"

    def _changed(self, response) -> bool:
        """Whether the server has another file now, which a hash would tell later, but no size."""
        if self.hashes or not self.version.exists():
            return False
        old = self.version.read_text(encoding="utf-8").split("\n")
        return any(was and now and was != now for was, now in zip(old, _version(response)))

    def _expected(self, response, start: int) -> int | None:
        """The size of the whole file, refused early where it is wrong or too large to hold."""
        if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _Refused(f"the server resumed at another byte than {start}")
        length = response.headers.get("Content-Length")
        if length is None:
            return self.size
        expected = start + int(length)
        web_page = "html" in response.headers.get("Content-Type", "")
        if self.size and expected != self.size and not web_page:
            raise _Refused(f"the server's file has {expected:,} bytes, expected {self.size:,}")
        free = shutil.disk_usage(self.to.parent).free
        if (more := expected - start) > free:
            raise _Refused(f"it needs {human(more)} and the disk has {human(free)} left")
        return expected

    def _write(
        self, start: int, expected: int | None, first: bytes, chunks: Iterator[bytes]
    ) -> None:
        if self.progress and not watched():
            print(f"downloading {self.to.name} ({human(expected)})", file=sys.stderr)
        with (
            _bytes_bar(self.to.name, expected, self.progress, initial=start) as shown,
            open(self.part, "ab" if start else "wb") as file,
        ):
            while first:
                file.write(first)
                shown.update(len(first))
                first = next(chunks, b"")


def _bytes_bar(what: str, total: int | None, progress: bool, initial: int = 0):
    show = None if progress else False
    return bar(what=what, total=total, unit="B", unit_scale=True, show=show, initial=initial)


def _why(error: Exception, timeout: float) -> str:
    """A network exception in words; those of requests carry three layers of object addresses."""
    from requests import exceptions

    if isinstance(error, exceptions.Timeout) or "timed out" in str(error).lower():
        return f"the server, or a proxy on the way, did not answer within {timeout:g} s"
    if isinstance(error, exceptions.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, exceptions.SSLError):
        return f"the server's certificate could not be verified ({error})"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the transfer broke off before the end"
    if isinstance(error, exceptions.ConnectionError):
        return f"no connection: refused, no route, or an unknown host ({type(error).__name__})"
    return str(error)


def _version(response) -> list[str]:
    """What a server says of the version of its file, each "" where it says nothing."""
    return [response.headers.get(name, "") for name in ("ETag", "Last-Modified")]


def _refuse_page(response, beginning: bytes) -> None:
    is_page = beginning.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
    if is_page or "text/html" in response.headers.get("Content-Type", ""):
        raise _Refused(
            "the server sent a web page instead of the file (a network's log-in page, a moved "
            "file, or a site that asks for a click)"
        )


# Archives


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
    with _bytes_bar(archive.name, archive.stat().st_size, progress) as shown:
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
