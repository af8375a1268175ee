"""Archives made of names and contents."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

# Contents by name, or pairs, of which several may bear one name.
Members = dict[str, bytes | str] | Iterable[tuple[str | tarfile.TarInfo, bytes | str]]


def _pairs(members: Members) -> list[tuple]:
    return list(members.items() if isinstance(members, dict) else members)


def zipped(members: Members) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in _pairs(members):
            bundle.writestr(name, content)
    return buffer.getvalue()


def tarred(
    members: Members, *others: tarfile.TarInfo, mode: str = "w", form: int = tarfile.PAX_FORMAT
) -> bytes:
    """A tar file, then `others`, which are empty; a name that ends in / is a folder. Packed by mode "w:gz"."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as bundle:
        for info, content in [*_pairs(members), *((info, b"") for info in others)]:
            if isinstance(info, str):
                info = special(info, tarfile.DIRTYPE if info.endswith("/") else tarfile.REGTYPE)
            content = content.encode() if isinstance(content, str) else content
            info.size = len(content) if info.isreg() else 0
            bundle.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member of some kind, of a link with its target."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def make_zip(path: Path, members: Members) -> Path:
    """Write a zip file."""
    path.write_bytes(zipped(members))
    return path


def make_tar(path: Path, members: Members, *others: tarfile.TarInfo, **how: object) -> Path:
    """Write a tar file, packed where its name says so, into a folder that may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "w:gz" if path.suffix in (".gz", ".tgz") else "w"
    path.write_bytes(tarred(members, *others, mode=mode, **how))
    return path
