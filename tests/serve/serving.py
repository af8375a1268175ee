"""The page as a process of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import start


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The command, as a person starts it: the address that it prints, and its process."""
    words = ["serve", str(folder), "--port", "0", "--device", "cpu", "--precision", "fp32"]
    with start("-m", "tlutils", *words) as server:
        try:
            assert server.stdout.readline().startswith("loading "), server.stderr.read()
            line = server.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), line + server.stderr.read()
            yield line.split()[0], server
        finally:
            if server.poll() is None:
                server.kill()
