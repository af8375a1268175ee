"""What a download promises, tried on a real local server."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tlutils import downloads
from tlutils.downloads import DownloadError, download

CONTENT = os.urandom(600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Paths name behaviours: /good, /no-ranges, /page, /captive, /breaks..., /hangs; anything else is 404."""
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        what = self.path.split("/")[-1]
        if what == "hangs":
            server.over.wait(20)
        elif what in ("page", "captive"):
            kind = "text/html" if what == "page" else "application/octet-stream"
            self.give(b"<!DOCTYPE html><title>Welcome to our wifi</title>", kind)
        elif what in ("good", "no-ranges", "slow"):
            server.over.wait(0.7 if what == "slow" else 0)
            self.give(CONTENT, ranges=what == "good")
        elif what in ("breaks", "breaks-always", "breaks-no-ranges"):
            times = sum(path == self.path for path, _ in server.asked)
            whole = {"breaks": times > 3, "breaks-no-ranges": times > 1, "breaks-always": False}[what]
            self.give(CONTENT, ranges=what == "breaks", stop=None if whole else 200_000)
        else:
            self.send_error(404)

    def give(self, content: bytes, kind: str = "application/octet-stream", ranges: bool = False,
             stop: int | None = None) -> None:
        asked = self.headers.get("Range")
        start = int(asked.split("=")[1].rstrip("-")) if ranges and asked else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:] if stop is None else content[start:start + stop])

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "WAITS", (0.0, 0.0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.over, server.daemon_threads = [], threading.Event(), True
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -------------------------------------------------------------------------------------------------- downloads

@pytest.mark.parametrize("marks", [
    {"sha256": SHA256}, {"sha256": SHA256[:8]}, {"md5": MD5}, {"size": len(CONTENT)},
    {"sha256": SHA256.upper(), "md5": MD5, "size": len(CONTENT)}, {}])
def test_a_file_with_the_right_marks_arrives_alone_and_is_not_fetched_twice(server, tmp_path, marks):
    to = tmp_path / "new" / "file.bin"
    assert download(f"{server.url}/good", to, **marks) == to
    assert to.read_bytes() == CONTENT and names(to.parent) == ["file.bin"]
    download(f"{server.url}/good", to, **marks)
    assert len(server.asked) == 1


@pytest.mark.parametrize("marks", [
    {"sha256": "0" * 64}, {"sha256": "00000000"}, {"md5": "0" * 32}, {"size": 7}])
def test_a_file_with_wrong_marks_never_bears_the_name(server, tmp_path, marks):
    to = tmp_path / "file.bin"
    with pytest.raises(DownloadError) as error:
        download(f"{server.url}/good", to, **marks)
    assert names(tmp_path) == []
    for said in (f"{server.url}/good", str(to), "expected", f"{list(marks.values())[0]}"):
        assert said in str(error.value)


def test_a_wrong_file_already_there_is_named_and_neither_used_nor_deleted(server, tmp_path):
    to = tmp_path / "file.bin"
    to.write_bytes(b"something else")
    with pytest.raises(DownloadError, match="is not the file that it should be.*sha256"):
        download(f"{server.url}/good", to, sha256=SHA256)
    assert to.read_bytes() == b"something else" and server.asked == []


def test_a_transfer_that_breaks_goes_on_where_it_broke(server, tmp_path):
    to = download(f"{server.url}/breaks", tmp_path / "file.bin", sha256=SHA256)
    assert to.read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for _, asked in server.asked if asked]
    assert server.asked[0][1] is None and len(starts) == 3
    assert starts[0] > 100_000 and starts == sorted(set(starts))


def test_a_transfer_killed_earlier_is_taken_up_from_its_part(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:123_456])
    download(f"{server.url}/good", tmp_path / "file.bin", size=len(CONTENT))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [("/good", "bytes=123456-")] and names(tmp_path) == ["file.bin"]


def test_a_part_that_nothing_can_judge_is_not_trusted(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"of another file")
    download(f"{server.url}/good", tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and server.asked == [("/good", None)]


def test_a_part_of_another_file_is_thrown_away_and_the_next_try_succeeds(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="thrown away"):
        download(f"{server.url}/good", tmp_path / "file.bin", sha256=SHA256)
    assert names(tmp_path) == []
    download(f"{server.url}/good", tmp_path / "file.bin", sha256=SHA256)
    assert names(tmp_path) == ["file.bin"]


def test_a_server_that_cannot_resume_starts_again(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    download(f"{server.url}/no-ranges", tmp_path / "file.bin", sha256=SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    download(f"{server.url}/breaks-no-ranges", tmp_path / "other.bin", sha256=SHA256)
    assert (tmp_path / "other.bin").read_bytes() == CONTENT


def test_a_file_that_always_breaks_off_is_an_error_and_keeps_its_part(server, tmp_path):
    with pytest.raises(DownloadError, match="broke off"):
        download(f"{server.url}/breaks-always", tmp_path / "file.bin", sha256=SHA256)
    assert names(tmp_path) == ["file.bin.part"]


@pytest.mark.parametrize("page", ["page", "captive"])
def test_a_web_page_in_place_of_the_file_is_refused_and_harms_no_part(server, tmp_path, page):
    with pytest.raises(DownloadError, match="web page"):
        download(f"{server.url}/{page}", tmp_path / "file.bin")
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match="web page"):
        download(f"{server.url}/{page}", tmp_path / "file.bin", sha256=SHA256)
    assert names(tmp_path) == ["file.bin.part"]
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:1000]


def test_a_missing_page_is_said_with_its_address_and_the_place_for_the_file(server, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        download(f"{server.url}/gone", tmp_path / "file.bin", sha256=SHA256)
    for said in ("404", f"{server.url}/gone", str(tmp_path / "file.bin"), SHA256):
        assert said in str(error.value)
    assert names(tmp_path) == [] and "\n" not in str(error.value)


def test_a_refused_connection_is_an_error_at_once(server, tmp_path):
    server.shutdown(), server.server_close()
    with pytest.raises(DownloadError, match="no connection"):
        download(f"{server.url}/good", tmp_path / "file.bin")


def test_a_server_that_never_answers_is_given_up(server, tmp_path):
    with pytest.raises(DownloadError, match="did not answer within 0.2 s"):
        download(f"{server.url}/hangs", tmp_path / "file.bin", timeout=0.2)


def test_a_proxy_that_swallows_everything_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    with pytest.raises(DownloadError, match="proxy on the way, did not answer within 0.2 s"):
        download("http://files.invalid/hangs", tmp_path / "file.bin", timeout=0.2)


def test_a_file_larger_than_the_disk_is_refused_before_it_is_begun(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: (self.send_response(200), self.send_header(
        "Content-Length", str(10 ** 18)), self.end_headers()))
    with pytest.raises(DownloadError, match="the disk has"):
        download(f"{server.url}/good", tmp_path / "file.bin")


def test_two_processes_that_want_one_file_fetch_it_once(server, tmp_path):
    code = f"from tlutils.downloads import download; download('{server.url}/slow', 'file.bin', '{SHA256}')"
    environment = {**os.environ, "PYTHONPATH": str(Path(downloads.__file__).parents[1])}
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(server.asked) == 1 and names(tmp_path) == ["file.bin"]
