"""What a download promises, tried on a real local server."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import processes
import pytest
from servers import serving

from tlutils.data import downloads
from tlutils.data.downloads import DownloadError, download

CONTENT, OTHER = os.urandom(600_000), os.urandom(600_000)
PACKED = gzip.compress(CONTENT, 1)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Paths name behaviours, see do_GET; anything else is 404."""

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
        elif what in ("good", "no-ranges"):
            self.give(CONTENT, ranges=what == "good")
        elif what in ("breaks", "breaks-always", "breaks-no-ranges"):
            times = sum(path == self.path for path, _ in server.asked)
            whole = {"breaks": times > 3, "breaks-no-ranges": times > 1, "breaks-always": False}[
                what
            ]
            self.give(CONTENT, ranges=what == "breaks", stop=None if whole else 200_000)
        elif what == "held":  # answers when the test lets it
            server.over.wait(20)
            self.give(CONTENT)
        elif what.startswith("busy"):
            often = sum(path == self.path for path, _ in server.asked)
            self.send_error(int(what[-3:])) if often < 3 or "always" in what else self.give(CONTENT)
        elif what.startswith("to-"):
            self.send_response(302)
            self.send_header(
                "Location",
                {
                    "to-good": "/good",
                    "to-loop": "/to-loop",
                    "to-file": "file:///etc/passwd",
                    "to-ftp": "ftp://127.0.0.1/x",
                }[what],
            )
            self.end_headers()
        elif what == "changes":  # breaks off once; then another file of the same size lies there
            often = sum(path == self.path for path, _ in server.asked)
            self.give(
                CONTENT if often == 1 else OTHER,
                ranges=True,
                stop=200_000 if often == 1 else None,
                ETag=f'"{min(often, 2)}"',
            )
        elif what == "dribbles":
            self.give(CONTENT[:240], slowly=True)
        elif what == "too-much":
            self.give(CONTENT, length=1000)
        elif what in ("chunked", "chunked-breaks"):
            self.chunked(CONTENT, ends=what == "chunked")
        elif what in (
            "gzip",
            "x-gzip",
            "gzip-breaks",
        ):  # of a file that is packed, or packed on the way
            often = sum(path == self.path for path, _ in server.asked)
            self.give(
                PACKED,
                ranges=True,
                Content_Encoding=what.removesuffix("-breaks"),
                stop=200_000 if what == "gzip-breaks" and often == 1 else None,
            )
        elif what == "no-such-range":
            self.send_error(416)
        elif what == "folder-goes":
            shutil.rmtree(server.folder)
            self.give(CONTENT)
        else:
            self.send_error(int(what) if what.isdigit() else 404)

    def chunked(self, content: bytes, ends: bool) -> None:
        self.protocol_version, self.close_connection = "HTTP/1.1", True
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(content), 100_000):
            piece = content[at : at + 100_000]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n" if ends else b"")

    def give(
        self,
        content: bytes,
        kind: str = "application/octet-stream",
        ranges: bool = False,
        stop: int | None = None,
        length: int | None = None,
        slowly: bool = False,
        **headers: str,
    ) -> None:
        asked = self.headers.get("Range")
        start = int(asked.split("=")[1].rstrip("-")) if ranges and asked else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(content) - start))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        content = content[start:] if stop is None else content[start : start + stop]
        for at in range(0, len(content), 20) if slowly else ():
            self.wfile.write(content[at : at + 20])
            self.server.over.wait(0.15)
        self.wfile.write(b"" if slowly else content)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "_WAITS", (0.0, 0.0))
    with serving(Handler) as server:
        yield server


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "marks",
    [
        {"sha256": SHA256},
        {"sha256": SHA256[:8]},
        {"md5": MD5},
        {"size": len(CONTENT)},
        {"sha256": SHA256.upper(), "md5": MD5, "size": len(CONTENT)},
        {},
    ],
)
def test_a_file_with_the_right_marks_arrives_alone_and_is_not_fetched_twice(
    server, tmp_path, marks
):
    to = tmp_path / "new" / "file.bin"
    assert download(f"{server.url}/good", to, **marks) == to
    assert to.read_bytes() == CONTENT and names(to.parent) == ["file.bin"]
    download(f"{server.url}/good", to, **marks)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "marks", [{"sha256": "0" * 64}, {"sha256": "00000000"}, {"md5": "0" * 32}, {"size": 7}]
)
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
    monkeypatch.setattr(
        Handler,
        "do_GET",
        lambda self: (
            self.send_response(200),
            self.send_header("Content-Length", str(10**18)),
            self.end_headers(),
        ),
    )
    with pytest.raises(DownloadError, match="the disk has"):
        download(f"{server.url}/good", tmp_path / "file.bin")


@pytest.mark.parametrize("answer", [429, 500, 502, 503, 504])
def test_a_server_that_is_busy_is_asked_again_and_given_up_in_the_end(server, tmp_path, answer):
    download(f"{server.url}/busy-{answer}", tmp_path / "file.bin", sha256=SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and len(server.asked) == 3
    server.asked.clear()
    with pytest.raises(DownloadError, match=f"the server answered {answer}"):
        download(f"{server.url}/busy-always-{answer}", tmp_path / "other.bin", sha256=SHA256)
    assert len(server.asked) == 1 + len(downloads._WAITS) and names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("answer", [401, 403, 404, 410, 416, 501])
def test_a_server_that_refuses_is_asked_once_and_its_answer_told(server, tmp_path, answer):
    with pytest.raises(DownloadError, match=f"the server answered {answer}"):
        download(f"{server.url}/{answer}", tmp_path / "file.bin", sha256=SHA256)
    assert len(server.asked) == 1 and names(tmp_path) == []


def test_a_range_that_is_always_refused_is_told_as_that(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match="the server answered 416"):
        download(f"{server.url}/no-such-range", tmp_path / "file.bin", sha256=SHA256)
    assert [asked for _, asked in server.asked] == ["bytes=1000-", None] and names(tmp_path) == []


@pytest.mark.parametrize(
    "where, said",
    [("to-file", "file:///etc/passwd"), ("to-ftp", "ftp://"), ("to-loop", "30 redirects")],
)
def test_a_server_that_leads_elsewhere_is_followed_on_the_web_only_and_not_for_ever(
    server, tmp_path, where, said
):
    download(f"{server.url}/to-good", tmp_path / "good.bin", sha256=SHA256)
    with pytest.raises(DownloadError, match=said):
        download(f"{server.url}/{where}", tmp_path / "file.bin")
    assert names(tmp_path) == ["good.bin"]


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "ftp://127.0.0.1/file", "no address", ""]
)
def test_what_is_no_web_address_is_refused(tmp_path, address):
    with pytest.raises((DownloadError, ValueError)):
        download(address, tmp_path / "file.bin")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "marks, content",
    [
        ({"size": len(CONTENT)}, OTHER),
        ({"sha256": hashlib.sha256(OTHER).hexdigest(), "size": len(CONTENT)}, None),
    ],
    ids=["told by its size", "told by its hash"],
)  # the content is drawn anew in every process
def test_two_versions_of_a_file_are_never_mixed(server, tmp_path, marks, content):
    try:
        download(f"{server.url}/changes", tmp_path / "file.bin", **marks)
    except DownloadError as error:
        assert content is None and "thrown away" in str(error)
        download(f"{server.url}/changes", tmp_path / "file.bin", **marks)
    assert (tmp_path / "file.bin").read_bytes() == OTHER and names(tmp_path) == ["file.bin"]


def test_two_versions_are_not_mixed_either_when_the_first_process_was_killed(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    (tmp_path / "file.bin.part.etag").write_text('"1"\n')
    server.asked.append(("/changes", None))
    download(f"{server.url}/changes", tmp_path / "file.bin", size=len(CONTENT))
    assert (tmp_path / "file.bin").read_bytes() == OTHER and names(tmp_path) == ["file.bin"]


def test_a_transfer_of_the_same_version_goes_on(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(OTHER[:1000])
    (tmp_path / "file.bin.part.etag").write_text('"2"\n')
    server.asked.append(("/changes", None))
    download(f"{server.url}/changes", tmp_path / "file.bin", size=len(CONTENT))
    assert (tmp_path / "file.bin").read_bytes() == OTHER and server.asked[1:] == [
        ("/changes", "bytes=1000-")
    ]


def test_a_slow_server_has_all_the_time_that_it_uses(server, tmp_path):
    download(f"{server.url}/dribbles", tmp_path / "file.bin", size=240, timeout=1)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT[:240]


@pytest.mark.parametrize("marks", [{"size": len(CONTENT)}, {"sha256": SHA256}])
def test_a_server_that_sends_more_than_it_says_gives_no_file(server, tmp_path, marks):
    with pytest.raises(DownloadError, match="1,000 bytes, expected 600,000|thrown away"):
        download(f"{server.url}/too-much", tmp_path / "file.bin", **marks)
    assert names(tmp_path) == []


@pytest.mark.parametrize("marks", [{}, {"sha256": SHA256}, {"size": len(CONTENT)}])
def test_a_file_without_a_length_is_taken_whole_or_not_at_all(server, tmp_path, marks):
    download(f"{server.url}/chunked", tmp_path / "file.bin", **marks)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="broke off"):
        download(f"{server.url}/chunked-breaks", tmp_path / "other.bin", **marks)
    left = [
        name
        for name in names(tmp_path)
        if name not in ("file.bin", "other.bin.part", "other.bin.part.etag")
    ]
    assert not left and (bool(marks) or names(tmp_path) == ["file.bin"])


@pytest.mark.parametrize("named", ["gzip", "x-gzip"])
@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ"])
def test_a_packed_file_that_the_server_calls_packed_arrives_as_it_is(server, tmp_path, named, name):
    marks = {"sha256": hashlib.sha256(PACKED).hexdigest(), "size": len(PACKED)}
    assert download(f"{server.url}/{named}", tmp_path / name, **marks).read_bytes() == PACKED


@pytest.mark.parametrize("marks", [{}, {"sha256": SHA256}, {"size": len(CONTENT)}])
@pytest.mark.parametrize("path", ["gzip", "x-gzip", "gzip-breaks"])
def test_a_file_that_the_server_packs_on_the_way_is_unpacked(server, tmp_path, path, marks):
    if (
        path == "gzip-breaks"
    ):  # what is left is unpacked, and the server would count packed bytes from there
        (tmp_path / "file.npz.part").write_bytes(CONTENT[:1000])
    assert download(f"{server.url}/{path}", tmp_path / "file.npz", **marks).read_bytes() == CONTENT
    assert names(tmp_path) == ["file.npz"]


@pytest.mark.parametrize("marks, left", [({"sha256": SHA256}, ["file.bin.part"]), ({}, [])])
def test_a_full_disk_is_told_and_the_transfer_goes_on_when_there_is_room(
    server, tmp_path, marks, left
):
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (300_000, old[1])
    )  # the system's own limit acts as the disk
    try:
        with pytest.raises(DownloadError, match="writing to disk failed.*too large"):
            download(f"{server.url}/good", tmp_path / "file.bin", **marks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert names(tmp_path) == left
    download(f"{server.url}/good", tmp_path / "file.bin", **marks)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and bool(server.asked[-1][1]) == bool(
        left
    )


def test_a_folder_that_is_removed_meanwhile_is_an_error(server, tmp_path):
    server.folder = tmp_path / "data"
    with pytest.raises(DownloadError, match="writing to disk failed"):
        download(f"{server.url}/folder-goes", tmp_path / "data" / "file.bin", sha256=SHA256)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["ä ö%20#?.bin", "-rf", "a'b\".bin", ".hidden", "a;b&c$(d).bin", "n" * 200]
)
def test_a_file_may_bear_any_name(server, tmp_path, name):
    assert (
        download(f"{server.url}/good", tmp_path / "a folder é" / name, sha256=SHA256).read_bytes()
        == CONTENT
    )
    assert names(tmp_path / "a folder é") == [name]


def fetch_alone(server, folder: Path, path: str) -> subprocess.Popen:
    code = f"from tlutils.data.downloads import download; download('{server.url}/{path}', 'file.bin', '{SHA256}')"
    return processes.start("-c", code, cwd=folder)


def until_asked(server) -> None:
    for _ in range(2000):
        if server.asked:
            return
        time.sleep(0.01)
    raise AssertionError("the process never asked")


def test_two_processes_that_want_one_file_fetch_it_once_and_the_second_says_that_it_waits(
    server, tmp_path
):
    first = fetch_alone(server, tmp_path, "held")
    until_asked(server)
    second = fetch_alone(server, tmp_path, "held")
    assert "another process is making file.bin; waiting for it" in second.stderr.readline()
    server.over.set()
    assert "waiting" not in first.communicate()[1] and second.communicate()[1] == ""
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(server.asked) == 1 and names(tmp_path) == ["file.bin"]


def test_the_lock_of_a_killed_process_is_no_obstacle(server, tmp_path):
    killed = fetch_alone(server, tmp_path, "hangs")
    until_asked(server)
    killed.kill(), killed.communicate()
    assert (tmp_path / ".file.bin.lock").exists()
    assert (
        download(f"{server.url}/good", tmp_path / "file.bin", sha256=SHA256).read_bytes() == CONTENT
    )
    assert not (tmp_path / ".file.bin.lock").exists()
