"""Files written whole or not at all: beside their place first, then renamed into it.

A reader finds the old one or the new one, never half of one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it there if the block ends well, remove it if not.

    Raises
    ------
    OSError naming the file where the disk is full or the folder is closed; what stood there before still does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        if isinstance(error, RuntimeError) and "write" not in str(error).lower():
            raise
        raise OSError(f"could not write {path}: {error}. Earlier results are intact; "
                      "free some disk space, or choose another folder, and run the same command again") from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
