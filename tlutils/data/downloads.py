"""Getting a file from the network, whole and verified.

A clinic's network is slow, breaks, drops packets silently or answers every question with its own log-in page.
So here a download resumes where it broke, a file bears its name only when it is complete, each wait has an
end, and every error says what to do by hand.

    file = download("https://.../octmnist.npz", "data/octmnist.npz", md5="c68d92d5b585d8d81f7112f81e2d0842")
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

from ..core.files import Busy, locked
from ..core.progress import bar, watched

WAITS = (
    1.0,
    2.0,
    4.0,
)  # seconds before a broken transfer is taken up again: wifi comes back in 1-5 s
BUSY = (429, 500, 502, 503, 504)  # what a server answers that will do better in a while
CHUNK = 1 << 16  # bytes; what a transfer that breaks can lose


class DownloadError(FileNotFoundError):
    """A file or folder that is needed could not be had; the message says what, from where, and what to do."""


def download(
    url: str,
    to: str | Path,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    timeout: float = 30,
    progress: bool = True,
) -> Path:
    """Fetch `url` into the file `to` and return its path; a file already there and right is left as it is.

    sha256 may be the whole digest or its beginning (torchvision's file names carry 8 hex digits); size is in
    bytes; timeout is in seconds, for the connection and for each silence. An interrupted transfer leaves
    `<to>.part` and is taken up there next time, if a hash or a size will judge the result; else it leaves
    nothing. Where a size alone will judge, `<to>.part.etag` beside it says which version of the server's file
    it is a part of, and of another version nothing is added to it. Raises DownloadError for everything that
    keeps the right file from being there, a wrong file already bearing its name included.

    Taught in notebook 01.
    """
    to = Path(to)
    if _is_there(to, url, sha256, md5, size):
        return to
    make_folder(to.parent)
    with alone(to):
        if not _is_there(
            to, url, sha256, md5, size
        ):  # another process may have fetched it meanwhile
            _retrieve(url, to, sha256, md5, size, timeout, progress)
    return to


def human(size: int | None) -> str:
    """A number of bytes as people say it: 5793183169 -> "5.8 GB"; None -> "size unknown"."""
    if size is None:
        return "size unknown"
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def digest(path: str | Path, algorithm: str = "sha256") -> str:
    """The hex digest of a file's bytes, read in pieces: memory stays flat for files of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold back other processes (those of torchrun, a second notebook) while this one makes `path`.

    They wait, and say so. Where the disk knows no locks, as some network disks, nobody is held back.
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"cannot make the folder {folder.absolute()} ({error}); choose one that you may "
            "write to."
        ) from error


def _is_there(to: Path, url: str, sha256: str | None, md5: str | None, size: int | None) -> bool:
    if not to.is_file():
        return False
    problem = _problem(to, sha256, md5, size)
    if problem:
        raise DownloadError(
            f"{to.absolute()} is there but is not the file that it should be: {problem}. It "
            "is not used. Delete or rename it and run the same again to fetch it from "
            f"{url}."
        )
    return True


def _problem(path: Path, sha256: str | None, md5: str | None, size: int | None) -> str:
    """What is wrong with a file, "" when nothing is; the cheapest check comes first."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found:,} bytes, expected {size:,}"
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if expected and not (actual := digest(path, algorithm)).startswith(expected.lower()):
            return f"its {algorithm} is {actual}, expected {expected}"
    return ""


def _retrieve(
    url: str,
    to: Path,
    sha256: str | None,
    md5: str | None,
    size: int | None,
    timeout: float,
    progress: bool,
) -> None:
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError(f"downloads need pooch ({error}): pip install pooch") from error
    transfer = _Transfer(to, sha256, md5, size, timeout, progress)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # its advice on hashes is for those who write downloaders
    try:
        pooch.retrieve(url, known_hash=None, fname=to.name, path=to.parent, downloader=transfer)
    except requests.RequestException as error:
        raise _failure(_why(error, timeout), url, to, sha256, md5, size) from error
    except _Refused as error:
        raise _failure(str(error), url, to, sha256, md5, size) from None
    except OSError as error:
        raise _failure(f"writing to disk failed: {error}", url, to, sha256, md5, size) from error
    finally:
        logger.setLevel(level)


def _failure(
    why: str, url: str, to: Path, sha256: str | None, md5: str | None, size: int | None
) -> DownloadError:
    marks = [human(size)] + [
        f"{name} {value}" for name, value in (("sha256", sha256), ("md5", md5)) if value
    ]
    return DownloadError(
        f"could not download {to.name}: {why}. URL: {url}. Run the same again to retry or "
        f"resume, or fetch the file elsewhere ({', '.join(marks)}) and place it at "
        f"{to.absolute()}."
    )


def _why(error: Exception, timeout: float) -> str:
    """A network exception in words; the exceptions of requests carry three layers of object addresses."""
    import requests

    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"the server, or a proxy on the way, did not answer within {timeout:g} s"
    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the server's certificate could not be verified ({error})"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the transfer broke off before the end"
    if isinstance(error, requests.ConnectionError):
        return f"no connection: refused, no route, or an unknown host ({type(error).__name__})"
    return str(error)


class _Refused(Exception):
    """What the server sends is not the file; trying again will not help."""


@dataclass
class _Transfer:
    """A downloader for pooch that resumes.

    pooch makes the temporary file and gives it the final name at the end; its own downloader starts each
    attempt at byte 0, which for 5.8 GB over wifi means never. This one fills `<to>.part`, kept between runs,
    and hands it over only when it is complete and its hash is right, so a broken or wrong file never gets as
    far as the final name.
    """

    to: Path
    sha256: str | None
    md5: str | None
    size: int | None
    timeout: float
    progress: bool

    @property
    def part(self) -> Path:
        return self.to.with_name(self.to.name + ".part")

    @property
    def mark(self) -> Path:
        return self.to.with_name(self.to.name + ".part.etag")

    @property
    def judged(self) -> bool:
        return bool(self.sha256 or self.md5 or self.size)

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        if self.size and self._have() > self.size:
            self._forget()
        try:
            if not (self.size and self._have() == self.size):
                self._persist(url)
        except BaseException:
            if not self.judged:
                self._forget()
            raise
        problem = _problem(self.part, self.sha256, self.md5, self.size)
        if problem:
            self._forget()
            raise _Refused(
                f"what arrived is not the file that was asked for: {problem}; it was thrown away"
            )
        os.replace(self.part, output_file)
        self._forget()

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _persist(self, url: str) -> None:
        """Try again as long as something comes or the server is busy; where nothing ever came, say so at once."""
        from requests.exceptions import (
            ChunkedEncodingError,
            ConnectionError,
            HTTPError,
            Timeout,
        )

        failures, begun, most = 0, self._have(), self._have()
        while True:
            try:
                return self._receive(url)
            except (ConnectionError, Timeout, ChunkedEncodingError, HTTPError) as error:
                answer = error.response.status_code if isinstance(error, HTTPError) else None
                failures = 0 if self._have() > most else failures + 1
                most = max(most, self._have())
                hopeless = answer not in BUSY if answer else most == begun
                if hopeless or failures > len(WAITS):
                    raise
                time.sleep(WAITS[max(failures - 1, 0)])

    def _receive(self, url: str) -> None:
        import requests
        from requests.exceptions import ChunkedEncodingError

        start = self._have() if self.judged else 0
        # identity: a server that compresses on the way would count other bytes than those that we have
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if (
                response.status_code == 416 and start
            ):  # nothing after our last byte: complete, or not this file
                return self._at_the_end(response, start, url)
            response.raise_for_status()
            if response.status_code != 206:  # the server knows no ranges and begins at byte 0
                start = 0
            packed = self._packed_on_the_way(response)
            if start and (packed or self._changed(response)):
                self._forget()
                return self._receive(url)
            expected = self.size if packed else self._expected(response, start)
            chunks = response.iter_content(CHUNK)
            first = next(chunks, b"")
            _refuse_page(response, first if start == 0 else b"")
            if start == 0 and self.size and not (self.sha256 or self.md5):
                self.mark.write_text("\n".join(_version(response)), encoding="utf-8")
            self._write(start, expected, first, chunks)
        if expected and self._have() < expected:
            raise ChunkedEncodingError(f"{self._have()} of {expected} bytes")

    def _packed_on_the_way(self, response) -> bool:
        """Whether other bytes come than the file's own. Many servers say gzip of a .tar.gz and mean the file."""
        if self.to.name.lower().endswith((".gz", ".tgz")):
            response.raw.headers.pop("Content-Encoding", None)  # or requests would unpack the file
            return False
        return response.headers.get("Content-Encoding", "identity").lower() != "identity"

    def _changed(self, response) -> bool:
        """Whether the server's file is another than the part's; a hash would tell afterwards, a size would not."""
        if self.sha256 or self.md5 or not self.mark.exists():
            return False
        old = self.mark.read_text(encoding="utf-8").split("\n")
        return any(was and now and was != now for was, now in zip(old, _version(response)))

    def _at_the_end(self, response, start: int, url: str) -> None:
        if not response.headers.get("Content-Range", "").endswith(f"/{start}"):
            self._forget()
            self._receive(url)

    def _expected(self, response, start: int) -> int | None:
        """The size that the whole file will have, refused early where it is wrong or too large to hold."""
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
        if expected - start > free:
            raise _Refused(
                f"it needs {human(expected - start)} and the disk has {human(free)} left"
            )
        return expected

    def _write(
        self, start: int, expected: int | None, first: bytes, chunks: Iterator[bytes]
    ) -> None:
        if self.progress and not watched():
            print(f"downloading {self.to.name} ({human(expected)})", file=sys.stderr)
        shown = bar(
            what=self.to.name,
            total=expected,
            initial=start,
            unit="B",
            unit_scale=True,
            show=None if self.progress else False,
        )
        with shown, open(self.part, "ab" if start else "wb") as file:
            while first:
                file.write(first)
                shown.update(len(first))
                first = next(chunks, b"")


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
