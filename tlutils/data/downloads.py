"""Fetch and verify: a file from the network.

A clinic's network is slow, breaks, drops packets silently or answers every question with its own
log-in page. So a download resumes where it broke, a file bears its name only when it is complete,
each wait has an end, and every error says what to do by hand.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..core.files import Busy, check_writable, locked
from ..core.packages import needed
from ..core.progress import bar, watched

# Seconds before a broken transfer is taken up again: wifi comes back in 1-5 s.
_WAITS = (1.0, 2.0, 4.0)
_BUSY = (429, 500, 502, 503, 504)  # what a server answers that will do better in a while
_CHUNK = 1 << 16  # bytes; what a transfer that breaks can lose


class DownloadError(FileNotFoundError):
    """A file or folder that is needed could not be had; the message says why, and what to do."""


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
            bar(
                what=self.to.name,
                total=expected,
                unit="B",
                unit_scale=True,
                show=None if self.progress else False,
                initial=start,
            ) as shown,
            open(self.part, "ab" if start else "wb") as file,
        ):
            while first:
                file.write(first)
                shown.update(len(first))
                first = next(chunks, b"")


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
