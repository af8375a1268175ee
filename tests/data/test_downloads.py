"""What a download promises, tried on a real local server, and archives: real, damaged and hostile ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import struct
import subprocess
import tarfile
import time
import tracemalloc
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import processes
import pytest
from archives import make_tar, make_zip, special, tarred, zipped
from servers import serving

from tlutils.data import downloads
from tlutils.data.downloads import ArchiveError, DownloadError, download, unpack

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


# -------------------------------------------------------------------------------------------------- downloads


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


# -------------------------------------------------------------------------------------------------- archives

NOISE = os.urandom(300_000)


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


MEMBERS = {"OCT2017 /train/CNV/CNV-1-1.jpeg": NOISE[:5000], "OCT2017 /test/DME/DME-2-1.jpeg": b""}
UNPACKED = {"OCT2017/train/CNV/CNV-1-1.jpeg": NOISE[:5000], "OCT2017/test/DME/DME-2-1.jpeg": b""}
JUNK = {
    "__MACOSX/._CNV-1.jpeg": b"j",
    "OCT2017 /.DS_Store": b"j",
    "OCT2017 /train/CNV/._CNV-1-1.jpeg": b"j",
}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz"])
def test_an_archive_unpacks_whole_and_without_what_macos_left_in_it(tmp_path, name):
    make = make_zip if name.endswith("zip") else make_tar
    archive = make(tmp_path / name, MEMBERS | JUNK)
    (tmp_path / "to.unfinished").mkdir()
    (tmp_path / "to.unfinished" / "of-a-killed-run").write_bytes(b"half")
    assert files(unpack(archive, tmp_path / "to")) == UNPACKED
    assert names(tmp_path) == [name, "to"]


# ------------------------------------------------------------------------------------------------ out of the folder

OUTSIDE = [
    "../out.txt",
    "a/../../out.txt",
    "./../out.txt",
    "..",
    "a/..",
    "/out.txt",
    "//server/share/out.txt",
    "..\\out.txt",
    "a\\..\\..\\out.txt",
    "C:\\out.txt",
    "c:/out.txt",
    "C:out.txt",
    "a/C:out.txt",
    "a/C:\\out.txt",
    "\\\\server\\share\\out.txt",
    "\\\\?\\C:\\out.txt",
    ".. /out.txt",
    " ../out.txt",
    "..\t/out.txt",
    "\u00a0../out.txt",
    "..\u2003/out.txt",
    "a/.. /.. /out.txt",
    ".. ./out.txt",
    ". ./out.txt",
    ".../out.txt",
    "a/ /out.txt",
    "..\r\n/out.txt",
]


@pytest.mark.parametrize("bad", OUTSIDE)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_that_writes_outside_its_folder_is_refused_whole(tmp_path, kind, bad):
    make = make_zip if kind == "zip" else make_tar
    archive = make(tmp_path / f"a.{kind}", {"good.txt": b"good", bad: b"bad"})
    with pytest.raises(ArchiveError, match="leads out of its folder"):
        unpack(archive, tmp_path / "inner" / "to")
    assert names(tmp_path / "inner") == [] and names(tmp_path) == [f"a.{kind}", "inner"]
    assert not Path("/out.txt").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_ends_in_its_middle_is_refused(tmp_path, kind):
    make = make_zip if kind == "zip" else make_tar
    archive = make(
        tmp_path / "a", {"train/CNV/evil.exe%.png" + "ü" * 60: b"bad"}
    )  # the ü ask tar for a pax header
    archive.write_bytes(archive.read_bytes().replace(b"exe%", b"exe\0"))
    with pytest.raises(ArchiveError, match="leads out of its folder|damaged"):
        unpack(archive, tmp_path / "to")
    assert names(tmp_path) == ["a"]


def test_a_colon_hides_no_file_behind_another_on_windows(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"train/1.png:evil.exe": b"bad"})
    assert files(unpack(archive, tmp_path / "here")) or downloads._WINDOWS
    monkeypatch.setattr(downloads, "_WINDOWS", True)
    with pytest.raises(ArchiveError, match="leads out of its folder"):
        unpack(archive, tmp_path / "there")


def test_a_path_that_a_system_leads_elsewhere_is_refused_last_of_all(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", {"1.png": b"x"})
    monkeypatch.setattr(downloads, "whole_folder", lambda to: whole(to))

    @contextmanager
    def whole(to):
        to.mkdir()
        (to / "1.png").symlink_to(tmp_path / "out")  # as nothing in an archive can
        yield to

    with pytest.raises(ArchiveError, match="would lie outside"):
        unpack(archive, tmp_path / "to")
    assert not (tmp_path / "out").exists()


LINKS = {
    "link to a folder": [special("l", tarfile.SYMTYPE, "/etc")],
    "link to a file": [special("l", tarfile.SYMTYPE, "good.txt")],
    "link upwards": [special("l", tarfile.SYMTYPE, "..")],
    "link to itself": [special("l", tarfile.SYMTYPE, "l")],
    "hard link": [special("l", tarfile.LNKTYPE, "good.txt")],
    "hard link outside": [special("l", tarfile.LNKTYPE, "/etc/passwd")],
    "file through a link": [
        special("l", tarfile.SYMTYPE, ".."),
        special("l/out.txt", tarfile.REGTYPE),
    ],
    "link behind its file": [
        special("l/in.txt", tarfile.REGTYPE),
        special("l", tarfile.SYMTYPE, ".."),
    ],
    "character device": [special("d", tarfile.CHRTYPE)],
    "block device": [special("d", tarfile.BLKTYPE)],
    "pipe": [special("d", tarfile.FIFOTYPE)],
    "kind that nobody knows": [special("d", b"Z")],
}


@pytest.mark.parametrize("members", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_links_and_devices_are_refused(tmp_path, kind, members):
    archive = make_tar(tmp_path / f"a.{kind}", {"good.txt": b"good"}, *members)
    with pytest.raises(ArchiveError, match="a link|a device"):
        unpack(archive, tmp_path / "to")
    assert names(tmp_path) == [f"a.{kind}"]


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666, 0o140777])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
    info = zipfile.ZipInfo("link")
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="a link|a device"):
        unpack(tmp_path / "a.zip", tmp_path / "to")
    assert names(tmp_path) == ["a.zip"]


# ------------------------------------------------------------------------------------------------- one for two places

TWINS = [
    ("A /1.png", "A/1.png"),
    ("A/ 1.png", "A/1.png"),
    ("A/1.png", "A/1.png"),
    ("A\\1.png", "A/1.png"),
    ("./A/1.png", "A/1.png"),
    ("A//1.png", "A/1.png"),
    ("A", "A/1.png"),
    ("A/1.png", "A"),
    ("A/1.png", "A/1.png/x"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("first, second", TWINS)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_of_two_members_for_one_place_none_is_lost_silently(tmp_path, kind, first, second):
    members = [(first, b"first"), ("between.png", b""), (second, b"second")]
    archive = (make_zip if kind == "zip" else make_tar)(tmp_path / "a", members)
    with pytest.raises(ArchiveError, match="two members for one place"):
        unpack(archive, tmp_path / "to")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "first, second", [("A/1.png", "a/1.png"), ("A/1.png", "A/1.PNG"), ("A/\u00fc", "A/u\u0308")]
)
def test_what_differs_by_case_or_by_the_form_of_a_letter_is_kept_apart_or_refused(
    tmp_path, first, second
):
    archive = make_zip(tmp_path / "a.zip", {first: b"first", second: b"second"})
    try:
        assert files(unpack(archive, tmp_path / "to")) == {first: b"first", second: b"second"}
    except ArchiveError as error:  # a disk that takes them for one, as macOS's
        assert "two members for one place" in str(error)


def test_one_folder_spelled_in_two_ways_is_one_folder(tmp_path):
    members = {
        "A /": b"",
        "A/": b"",
        "A /1.png": b"1",
        "A/2.png": b"2",
        "B\\": b"",
        "B\\3.png": b"3",
    }
    assert files(unpack(make_zip(tmp_path / "a.zip", members), tmp_path / "to")) == {
        "A/1.png": b"1",
        "A/2.png": b"2",
        "B/3.png": b"3",
    }


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["n" * 300 + ".png", "a/" * 100 + "1.png", "a/" * 3000 + "1.png"])
def test_a_name_too_long_for_the_disk_is_an_error_of_the_archive(tmp_path, kind, name):
    archive = (make_zip if kind == "zip" else make_tar)(tmp_path / "a", {name: b""})
    with pytest.raises(ArchiveError, match="cannot be made|folders"):
        unpack(archive, tmp_path / "to")
    assert names(tmp_path) == ["a"]


# --------------------------------------------------------------------------------------------------- too much of it


def header(kind: bytes, size: int, body: bytes = b"") -> bytes:
    """A header of a tar that claims `size` bytes, and what follows it."""
    info = special("././@header", kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


def pax(kind: bytes = tarfile.XHDTYPE, **keys: str) -> bytes:
    lines = b""
    for key, value in keys.items():
        line = f" {key.replace('_', '.')}={value}\n".encode()
        lines += str(len(line) + len(str(len(line) + 3))).encode() + line
    return header(kind, len(lines), lines)


FILE = special("a.png", tarfile.REGTYPE).tobuf(tarfile.GNU_FORMAT)
END = bytes(1024)
MANY = 8_000_000
SPARSE = pax(
    **{
        "GNU_sparse_major": "1",
        "GNU_sparse_minor": "0",
        "GNU_sparse_realsize": "9",
        "GNU_sparse_name": "a",
    }
)
BOMBS = {
    "header of 8 MB": lambda: header(tarfile.XHDTYPE, MANY, bytes(MANY)) + FILE + END,
    "header of all members of 8 MB": lambda: (
        header(tarfile.XGLTYPE, MANY, bytes(MANY)) + FILE + END
    ),
    "header of Solaris of 8 MB": lambda: (
        header(tarfile.SOLARIS_XHDTYPE, MANY, bytes(MANY)) + FILE + END
    ),
    "name of 8 MB": lambda: header(tarfile.GNUTYPE_LONGNAME, MANY, b"a" * MANY) + FILE + END,
    "link of 8 MB": lambda: header(tarfile.GNUTYPE_LONGLINK, MANY, b"a" * MANY) + FILE + END,
    "headers without a member": lambda: pax(a="b") * 20_000 + FILE + END,
    "long names without a member": lambda: (
        header(tarfile.GNUTYPE_LONGNAME, 2, b"a\0") * 20_000 + FILE + END
    ),
    "growing headers of all members": lambda: (
        b"".join(
            pax(tarfile.XGLTYPE, **{f"k{i}": "v" * 9000})
            + special(f"{i}.png", tarfile.REGTYPE).tobuf()
            for i in range(900)
        )
        + END
    ),
    "holes without end": lambda: (
        SPARSE
        + header(tarfile.REGTYPE, MANY, f"{MANY // 4}\n".encode() + b"1\n" * (MANY // 2))
        + END
    ),
    "filling without end": lambda: FILE + END + bytes(MANY),
    "nothing but zeros": lambda: bytes(MANY),
    "no tar": lambda: b"a" * MANY,
}


@pytest.mark.parametrize("build", BOMBS.values(), ids=BOMBS)
def test_a_small_archive_that_wants_all_the_memory_is_refused_early(tmp_path, build):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(build(), 1))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="far more headers|damaged|holds no file"):
            unpack(archive, tmp_path / "to")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert names(tmp_path) == ["a.tar.gz"]


@pytest.mark.parametrize(
    "build",
    [
        lambda: pax(size="-512") + FILE + FILE + END,
        lambda: pax(size="-1536") + FILE + FILE + END,
        lambda: header(tarfile.XHDTYPE, -512) + FILE + END,
        lambda: header(tarfile.GNUTYPE_SPARSE, -1024) + FILE + END,
        lambda: header(tarfile.REGTYPE, -512) + FILE + END,
    ],
)
def test_a_tar_that_leads_backwards_is_refused_and_not_read_for_ever(tmp_path, build):
    (tmp_path / "a.tar").write_bytes(special("b.png", tarfile.REGTYPE).tobuf() + build())
    with pytest.raises(ArchiveError):
        unpack(tmp_path / "a.tar", tmp_path / "to")


def zip_with(
    offset_of_size: int, content: bytes, claimed: int, method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A zip of one member whose directory gives another unpacked size than it has."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as bundle:
        bundle.writestr("a.png", content)
    changed = bytearray(buffer.getvalue())
    struct.pack_into("<I", changed, changed.rfind(b"PK\1\2") + offset_of_size, claimed)
    return bytes(changed)


def overlapping(n: int) -> bytes:
    """A zip whose directory names the same bytes n times, each time as another member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("a.png", bytes(1_000_000))
    whole = buffer.getvalue()
    start = whole.rfind(b"PK\1\2")
    entry, end = whole[start : whole.rfind(b"PK\5\6")], whole[whole.rfind(b"PK\5\6") :]
    end = end[:8] + struct.pack("<HHII", n, n, n * len(entry), start) + end[20:]
    return whole[:start] + entry * n + end


def claims_a_directory(size: int) -> bytes:
    return b"PK\3\4" + bytes(size) + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, size, 4, 0)


ZIP_BOMBS = {
    "members that share their bytes": (lambda: overlapping(200), "share their bytes"),
    "less claimed than it holds": (lambda: zip_with(24, bytes(MANY), 10), "damaged"),
    "bzip2": (lambda: zip_with(24, bytes(MANY), MANY, zipfile.ZIP_BZIP2), "packed in a way"),
    "LZMA": (lambda: zip_with(24, bytes(MANY), MANY, zipfile.ZIP_LZMA), "packed in a way"),
    "a directory of 70 MB": (lambda: claims_a_directory(70_000_000), "far more headers"),
}


@pytest.mark.parametrize("build, said", ZIP_BOMBS.values(), ids=ZIP_BOMBS)
def test_a_zip_that_swells_is_refused_early(tmp_path, build, said):
    (tmp_path / "a.zip").write_bytes(build())
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=said):
            unpack(tmp_path / "a.zip", tmp_path / "to")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, gzip.compress])
def test_one_packed_file_is_no_archive_and_is_not_unpacked(tmp_path, pack):
    (tmp_path / "a.tar.xz").write_bytes(pack(NOISE))
    with pytest.raises(ArchiveError, match="neither a zip nor a tar nor a tar.gz"):
        unpack(tmp_path / "a.tar.xz", tmp_path / "to")


def test_archives_in_an_archive_stay_files(tmp_path):
    inner = zipped({"zeros": bytes(1_000_000)})
    archive = make_zip(tmp_path / "42.zip", {f"lib {i}.zip": inner for i in range(16)})
    assert files(unpack(archive, tmp_path / "to")) == {f"lib {i}.zip": inner for i in range(16)}


@pytest.mark.parametrize(
    "members",
    [
        {f"{i}": b"" for i in range(300)},
        {f"{i}/": b"" for i in range(300)},
        {f"__MACOSX/{i}": b"" for i in range(300)},
        {f"{i}/" + "a/" * 30 + "b": b"" for i in range(12)},
    ],
    ids=["empty files", "folders", "what is left out", "folders on the way"],
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_members_without_content_count_too(tmp_path, kind, members):
    archive = (make_zip if kind == "zip" else make_tar)(tmp_path / f"a.{kind}", members)
    with pytest.raises(ArchiveError, match="more than 1.0 MB"):
        unpack(archive, tmp_path / "to", limit=1_000_000)
    assert names(tmp_path) == [f"a.{kind}"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_that_swells_a_hundredfold_is_refused_by_default(tmp_path, monkeypatch, kind):
    make = make_zip if kind == "zip" else make_tar
    archive = make(tmp_path / f"a.{kind}", {"zeros": bytes(1_000_000)})
    monkeypatch.setattr(downloads, "_ANYWAY", 100_000)
    with pytest.raises(ArchiveError, match="where you trust it, pass limit"):
        unpack(archive, tmp_path / "to")
    assert files(unpack(archive, tmp_path / "to", limit=2_000_000)) == {"zeros": bytes(1_000_000)}


def test_a_member_with_many_headers_of_use_is_unpacked(tmp_path):
    with tarfile.open(
        tmp_path / "a.tar.gz",
        "w:gz",
        format=tarfile.PAX_FORMAT,
        pax_headers={"comment": "made by " + "x" * 1000},
    ) as bundle:
        for i in range(50):
            info = tarfile.TarInfo("ü/" * 40 + f"{i}.png")
            info.size, info.pax_headers = 5, {"SCHILY.xattr.user.note": "x" * 8000}
            bundle.addfile(info, io.BytesIO(b"12345"))
    assert len(files(unpack(tmp_path / "a.tar.gz", tmp_path / "to"))) == 50


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_that_grows_beyond_the_limit_is_refused_and_removed(tmp_path, name):
    make = make_zip if name.endswith("zip") else make_tar
    archive = make(tmp_path / name, {"a": bytes(40_000), "b": bytes(40_000)})
    with pytest.raises(ArchiveError, match="more than 50.0 kB"):
        unpack(archive, tmp_path / "to", limit=50_000)
    assert names(tmp_path) == [name]


def test_an_archive_that_claims_more_than_the_disk_has_is_refused_by_default(tmp_path):
    info = tarfile.TarInfo("huge")
    info.size = 10**17
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ArchiveError, match="Make room"):
        unpack(tmp_path / "a.tar", tmp_path / "to")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_damaged_archive_leaves_nothing_that_looks_complete(tmp_path, name):
    make = make_zip if name.endswith("zip") else make_tar
    members = {f"{i}.bin": NOISE[i * 1000 : (i + 50) * 1000] for i in range(5)}
    whole = make(tmp_path / name, members).read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(broken), b"no archive at all"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArchiveError, match="damaged"):
            unpack(tmp_path / name, tmp_path / "to")
        assert names(tmp_path) == [name]


# ------------------------------------------------------------------------------------- taken for whole, and is not


def test_a_tar_whose_last_member_is_a_zip_unpacks_as_a_tar(tmp_path):
    inner = zipped({"inner.txt": b"inner"})
    archive = make_tar(tmp_path / "a.tar", {"1.png": b"1", "2.png": b"2", "inner.zip": inner})
    assert files(unpack(archive, tmp_path / "to")) == {
        "1.png": b"1",
        "2.png": b"2",
        "inner.zip": inner,
    }


def zip_in_zip() -> bytes:
    inner, outer = zipped({"inner.txt": b"inner"}), io.BytesIO()
    with zipfile.ZipFile(outer, "w") as bundle:
        bundle.writestr("1.png", b"1")
        bundle.writestr("inner.zip", inner)
    return outer.getvalue()[: outer.getvalue().index(inner) + len(inner)]


def lacks_a_member() -> bytes:
    """A zip whose directory takes the entry of its second member for a comment on the first."""
    whole = bytearray(zipped({"1.png": b"1", "2.png": b"2"}))
    first, second = whole.index(b"PK\1\2"), whole.rindex(b"PK\1\2")
    struct.pack_into("<H", whole, first + 32, whole.index(b"PK\5\6") - second)
    return bytes(whole)


def tar_of(**members: bytes) -> bytes:
    return tarred(members)


def spoiled(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


PARTS = {
    "a zip cut off behind a zip in it": zip_in_zip,
    "a zip behind another": lambda: zipped({"1": b"1"}) + zipped({"2": b"2"}),
    "a directory that lacks a member": lacks_a_member,
    "a tar with a damaged header": lambda: spoiled(tar_of(a=b"1", b=b"2", c=b"3"), 1024 + 3),
    "a tar cut off between members": lambda: tar_of(a=b"1", b=b"2")[:1024],
    "a tar cut off in a header": lambda: tar_of(a=b"1", b=b"2")[: 1024 + 100],
    "a tar cut off before its end": lambda: tar_of(a=b"1")[:1024],
    "a tar cut off in the zeros of a header": lambda: tar_of(a=b"1")[: 1024 + 300],
    "a tar behind another": lambda: tar_of(a=b"1") + tar_of(b=b"2"),
    "a tar with zeros in its middle": lambda: tar_of(a=b"1")[:1024] + bytes(512) + tar_of(b=b"2"),
    "a tar of nothing": lambda: bytes(10240),
    "a zip of nothing": lambda: zipped({}),
    "a zip of what macOS left": lambda: zipped({"__MACOSX/._a": b""}),
}


@pytest.mark.parametrize("build", PARTS.values(), ids=PARTS)
def test_a_part_is_not_taken_for_the_whole(tmp_path, build):
    content = build()
    for packed in [content] if content.startswith(b"PK") else [content, gzip.compress(content)]:
        (tmp_path / "a").write_bytes(packed)
        with pytest.raises(ArchiveError):
            unpack(tmp_path / "a", tmp_path / "to")
        assert not [name for name in names(tmp_path) if name.startswith(("to", "."))]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_damaged_anywhere_is_refused_or_has_all_its_files(tmp_path, kind):
    members = {f"d{i}/{i}.png": NOISE[i * 100 : i * 150] for i in range(5)}
    whole = (make_zip if kind == "zip" else make_tar)(tmp_path / f"a.{kind}", members).read_bytes()
    draw, ended = random.Random(0), {"whole": 0, "refused": 0}
    for i in range(60):
        at = draw.randrange(len(whole))
        (tmp_path / "a").write_bytes(
            [whole[:at], spoiled(whole, at), whole[:at] + whole[at // 2 :]][i % 3]
        )
        try:
            # the names in a tar and the content of its files bear no checksum, so only their number is compared
            assert len(files(unpack(tmp_path / "a", tmp_path / f"to{i}"))) == len(members)
            ended["whole"] += 1
        except ArchiveError:
            ended["refused"] += 1
            assert f"to{i}" not in names(tmp_path)
    assert ended["refused"] > 20


def test_a_folder_removed_while_it_is_filled_is_not_taken_for_whole(tmp_path):
    removed = pytest.raises(DownloadError, match="removed while it was filled")
    with removed, downloads.whole_folder(tmp_path / "to") as folder:
        (folder / "1.png").write_bytes(b"1")
        shutil.rmtree(folder)
        (folder / "later").mkdir(parents=True)
    removed = pytest.raises(DownloadError, match="removed while it was filled")
    with removed, downloads.whole_folder(tmp_path / "to") as folder:
        shutil.rmtree(folder)
    assert names(tmp_path) == []


def test_two_processes_that_unpack_into_one_folder_do_not_mix(tmp_path):
    make_tar(tmp_path / "a.tar", {f"{i}.png": b"a" for i in range(500)})
    code = "from tlutils.data.downloads import unpack; unpack('a.tar', 'to')"
    both = [processes.start("-c", code, cwd=tmp_path) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [
        0,
        1,
    ] and "is there already" in "".join(said)
    assert len(names(tmp_path / "to")) == 500 and names(tmp_path) == ["a.tar", "to"]


def test_a_write_that_fails_for_want_of_room_is_said_and_cleaned_up(tmp_path):
    resource = pytest.importorskip("resource")
    archive = make_zip(tmp_path / "a.zip", {"small": b"s", "large": bytes(200_000)})
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, old[1])
    )  # the system's own limit acts as the disk
    try:
        with pytest.raises(DownloadError, match="the disk is full.*was removed"):
            unpack(archive, tmp_path / "to")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert names(tmp_path) == ["a.zip"]


def test_a_folder_with_something_in_it_is_not_unpacked_over(tmp_path):
    archive = make_zip(tmp_path / "a.zip", MEMBERS)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        unpack(archive, tmp_path / "to")
    assert files(tmp_path / "to") == {"mine.txt": b"mine"}


def test_a_block_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), downloads.whole_folder(tmp_path / "to") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []
