"""Files written whole or not at all: beside their place first, then renamed into it.

A reader finds the old one or the new one, never half of one. Where two writers would spoil each
other's work, `locked` lets one in.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

BEGUN = ("recipe.json", "records.csv")  # what a run's folder has from its beginning on
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Busy(ValueError):
    """Another process is at work on the same thing."""


@contextmanager
def locked(lock: str | Path, what: str, timeout: float = 0) -> Iterator[None]:
    """Hold a lock file while the block runs, so that one process alone is at work.

    A thread may hold it several times over. A process that has ended holds nothing.

    Parameters
    ----------
    lock : str or Path, the file, best with a hidden name; made where it is missing, and left.
    what : str, what it guards, for the error.
    timeout : float, seconds to wait for another process; 0 refuses at once, -1 waits for ever.

    Yields
    ------
    None

    Raises
    ------
    Busy
        Where another process or thread holds it.
    OSError
        Where one may not write there.
    """
    lock = Path(lock)
    held = FileLock(lock, is_singleton=True)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=timeout)
    except Timeout:
        raise Busy(
            f"another process is at work on {what}, and two would spoil each other's files. Wait "
            "until it has ended, or stop it, and run the same again; or choose another folder "
            f"(the lock is {lock})"
        ) from None
    except OSError as error:
        raise _unwritable(lock.parent, error) from error
    try:
        yield
    finally:
        held.release()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside a file, renamed to it where the block ends well, else removed.

    Where a process was killed in the block, the next one that writes the file removes what it left.

    Parameters
    ----------
    path : str or Path, the file; folders above it are made.

    Yields
    ------
    Path, where to write.

    Raises
    ------
    IsADirectoryError
        Where a folder is there.
    OSError
        Where the disk is full or the folder is closed, with what to do; what stood there before
        still does.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "numbers.txt")
    ...     with replacing(file) as part:
    ...         _ = part.write_text("1 2 3")
    ...         print(file.exists())
    ...     print(file.read_text(), len(list(Path(folder).iterdir())))
    False
    1 2 3 1
    """
    path = Path(path)
    refuse_folder(path)
    mark = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    part = path.with_name(f".{path.name}.{mark}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        if isinstance(error, RuntimeError) and "write" not in str(error).lower():
            raise
        raise _unwritable(path, error, "Earlier results are intact; ") from error
    finally:
        with contextlib.suppress(NotADirectoryError, PermissionError):
            part.unlink(missing_ok=True)


def refuse_folder(path: str | Path) -> None:
    """Refuse a folder where a file is to be written, best before what the file holds is computed.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    IsADirectoryError
        Where one is there.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file to write in it")


def check_writable(folder: str | Path) -> None:
    """Try whether files can be written in a folder, best before what they will hold is computed.

    Parameters
    ----------
    folder : str or Path; where it is missing, it is tried in the one in which it would be made.

    Raises
    ------
    OSError
        Where they cannot, with what to do.
    """
    folder = Path(folder).absolute()
    try:
        # A link that leads nowhere is in the way of a folder, too.
        there = next((at for at in (folder, *folder.parents) if os.path.lexists(at)), folder)
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:  # without the name of a file that nobody knows
        raise _unwritable(folder, OSError(error.errno, error.strerror)) from error


def _unwritable(path: Path, error: Exception, told: str = "") -> OSError:
    """The error that says what to do where a file or folder cannot be written."""
    number = getattr(error, "errno", errno.ENOSPC)  # torch's RuntimeError has none
    todo = "free some disk space, or " if number in _FULL else ""
    todo = "make the folder writable, or " if number in _CLOSED else todo
    todo = f"{told}{todo}choose another folder, and run the same command again"
    return OSError(f"could not write {path}: {error}. {todo[0].upper()}{todo[1:]}")


def _sweep(path: Path) -> None:
    """Remove what killed processes left beside `path`; on other machines, what is a day old."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*-*-*.part"):
        host, number, _ = part.name.removeprefix(f".{path.name}.").rsplit("-", 2)
        with contextlib.suppress(OSError, ValueError):  # another process has swept it; not ours
            killed = host == platform.node() and not _runs(int(number))
            if killed or time.time() - part.stat().st_mtime > 86_400:
                part.unlink()


def _runs(process: int) -> bool:
    """Whether a process of this number runs; Windows offers no harmless way to ask, so yes."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        pass
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Parameters
    ----------
    path : str or Path, the file; folders above it are made.
    text : str, what it will hold.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: object) -> None:
    """Write plain values as a JSON file, whole or not at all.

    Parameters
    ----------
    path : str or Path, the file; folders above it are made.
    content : dict, list or plain value

    Raises
    ------
    ValueError
        For NaN, which JSON does not have.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False))
