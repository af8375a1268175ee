"""HTTP on this machine, for the tests of what is fetched."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROXIES = [f"{kind}_proxy" for kind in ("http", "https", "all")]
PROXIES += [name.upper() for name in PROXIES]


@contextmanager
def serving(handler: Callable) -> Iterator[ThreadingHTTPServer]:
    """A server at a free port, without proxies before it. It has `url`, a list `asked`, and the event `over`, set at its end."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PROXIES:
            patch.delenv(name, raising=False)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.asked, server.over, server.daemon_threads = [], threading.Event(), True
            server.url = f"http://127.0.0.1:{server.server_address[1]}"
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield server
            server.over.set()
            server.shutdown()


class _Files(SimpleHTTPRequestHandler):
    """The files of a folder; the server's `asked` has the paths."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args) -> None:
        pass


@contextmanager
def serving_files(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """A server of the files of a folder, which is made."""
    folder.mkdir()
    with serving(partial(_Files, directory=folder)) as server:
        server.folder = folder
        yield server


def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
