"""The page as a server: who may ask, how much may be sent, and that all are answered."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn
from bombs import png
from serving import serving
from small_runs import first

from tlutils.__main__ import main
from tlutils.serve import server
from tlutils.serve.server import LARGEST, application

OWN = "http://127.0.0.1:8000"


class Page:
    """A browser's requests to the page of an answerer, without a socket."""

    def __init__(self, answerer, host="127.0.0.1"):
        self.to = httpx.ASGITransport(application(answerer, host), raise_app_exceptions=False)

    def ask(self, method, path, **how):
        async def ask():
            async with httpx.AsyncClient(transport=self.to, base_url=OWN) as client:
                return await client.request(method, path, **how)

        return asyncio.run(ask())

    def get(self, path, **how):
        return self.ask("GET", path, **how)

    def post(self, path, **how):
        return self.ask("POST", path, **how)


@pytest.fixture(scope="module")
def page(answerer):
    return Page(answerer)


@pytest.fixture
def scan(tiny_folder):
    return first(tiny_folder, "test/CNV").read_bytes()


def test_an_image_is_answered_as_the_answerer_does(page, answerer, scan):
    found = page.post("/answer", content=scan)
    assert found.status_code == 200 and found.json() == answerer.answer(scan)
    assert page.get("/about").json() == answerer.about() | {"largest": LARGEST}


@pytest.mark.parametrize("path", ["/", "/page.js", "/style.css", "/about", "/none", "/answer"])
def test_every_answer_tells_the_browser_to_let_nothing_in_or_out(page, path):
    headers = page.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "frame-ancestors 'none'" in policy and headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_the_page_holds_no_script_or_style_of_its_own_and_nothing_from_elsewhere(page):
    assert page.get("/").headers["content-type"].startswith("text/html")
    for path in ("/", "/page.js", "/style.css"):
        text = page.get(path).text
        assert not re.search(r"https?:|//\w|innerHTML|\son\w+=|<style|style=", text)


@pytest.mark.parametrize("path", ["/../answers.py", "/static/page.js", "/%2e%2e/answers.py"])
def test_no_path_from_outside_is_opened(page, path):
    found = page.get(path)
    assert found.status_code == 404 and found.json()["error"]


@pytest.mark.parametrize(
    ("host", "asked", "right"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost:9000", True),  # as through a tunnel
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "evil.example:8000", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "127.0.0.1@evil.example", False),
        ("127.0.0.1", "192.168.1.2:8000", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[::1", False),
        ("0.0.0.0", "192.168.1.2:8000", True),
        ("0.0.0.0", "evil.example:8000", False),
        ("desk.local", "desk.local:8000", True),
    ],
)
def test_the_page_answers_to_its_own_addresses_alone(host, asked, right, answerer, scan):
    page = Page(answerer, host)
    for found in (
        page.get("/", headers={"host": asked}),
        page.post("/answer", headers={"host": asked}, content=scan),
    ):
        assert found.status_code == (200 if right else 403)
        assert right or found.json()["error"]


@pytest.mark.parametrize(
    ("origin", "right"),
    [(OWN, True), (None, True), ("http://evil.example", False), ("null", False)]
    + [("http://127.0.0.1:9000", False), ("https://127.0.0.1:8000", False)],
)
def test_images_are_taken_from_its_own_page_alone(origin, right, page, scan):
    headers = {"origin": origin} if origin else {}
    found = page.post("/answer", headers=headers, content=scan)
    assert found.status_code == (200 if right else 403), found.text


@pytest.mark.parametrize(
    ("data", "status", "why"),
    [
        (b"", 400, "empty"),
        (b"some words", 422, "this is no image"),
        (png(50_000, 50_000), 422, "too many pixels"),
    ],
    ids=["nothing", "text", "bomb"],
)
def test_what_is_no_image_is_refused_in_a_sentence(data, status, why, page):
    found = page.post("/answer", content=data)
    assert found.status_code == status and why in found.json()["error"]


def test_a_large_upload_is_refused_while_it_comes(page, monkeypatch):
    monkeypatch.setattr(server, "LARGEST", 2**20)
    sent = []

    async def parts():
        for _ in range(64):
            sent.append(bytes(2**18))
            yield sent[-1]

    for content in (parts(), bytes(2**21)):
        found = page.post("/answer", content=content)
        assert found.status_code == 413 and "1 MB" in found.json()["error"]
    assert len(sent) == 5  # and the rest was never asked for


def test_other_ways_to_ask_are_refused_in_a_sentence(page):
    for found in (page.get("/answer"), page.post("/about"), page.ask("TRACE", "/")):
        assert found.status_code == 405 and found.json()["error"]


def test_an_answer_that_fails_is_a_sentence_and_the_next_one_works(answerer, scan):
    class Failing:
        about = answerer.about

        def answer(self, data):
            if data == b"fail":
                raise RuntimeError("out of memory")
            return answerer.answer(data)

    page = Page(Failing())
    found = page.post("/answer", content=b"fail")
    assert found.status_code == 500 and "the answer failed (RuntimeError)" in found.json()["error"]
    assert found.headers["cache-control"] == "no-store"
    assert page.post("/answer", content=scan).status_code == 200


# Over real sockets


@pytest.mark.parametrize("number", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_many_at_once_are_all_answered_and_memory_stays_flat(number, served, memory, scan):
    address, pid = served
    limits = httpx.Limits(max_connections=None)
    large = scan + bytes(4 * 2**20)  # what follows the end of a JPEG is not looked at
    with httpx.Client(base_url=address, timeout=300, limits=limits) as client:
        first_answer = client.post("answer", content=large).json()
        before = memory(pid)
        with ThreadPoolExecutor(number) as many:
            found = list(many.map(lambda _: client.post("answer", content=large), range(number)))
    assert {one.status_code for one in found} == {200}
    assert all(one.json() == first_answer for one in found)
    assert memory(pid) - before < 150 * 2**20  # of 800 MB that 200 send


def asked(address: str, *lines: str, more: bytes = b"", wait: bool = True) -> bytes:
    """What the server answers to raw lines, or nothing where one hangs up at once."""
    host, port = re.search(r"//(.*):(\d+)/", address).groups()
    with socket.create_connection((host, int(port)), timeout=300) as line:
        line.sendall("\r\n".join([*lines, "", ""]).encode() + more)
        return line.recv(65536) if wait else b""


def test_odd_requests_are_refused_and_hanging_up_harms_nobody(served, scan):
    address, _ = served
    host = re.search(r"//(.*)/", address)[1]
    assert b" 403 " in asked(address, "GET / HTTP/1.0")
    for hosts in (["Host: evil.example"], [f"Host: {host}", "Host: evil.example"]):
        assert re.match(rb"HTTP/1.1 40[03] ", asked(address, "GET / HTTP/1.1", *hosts))
    post = ["POST /answer HTTP/1.1", f"Host: {host}"]
    assert b" 413 " in asked(address, *post, f"Content-Length: {LARGEST + 1}")
    for _ in range(20):
        asked(address, *post, f"Content-Length: {len(scan)}", more=scan[:100], wait=False)
        asked(address, *post, f"Content-Length: {len(scan)}", more=scan, wait=False)
    assert httpx.post(f"{address}answer", content=scan, timeout=300).status_code == 200


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_ctrl_c_ends_it_without_a_trace_of_what_was_sent(sent, code, run, scan):
    with serving(run.folder) as (address, process):
        answer = httpx.post(f"{address}answer?name=Mrs-Smith.png", content=scan, timeout=300)
        assert answer.status_code == 200
        process.send_signal(sent)
        out, err = process.communicate(timeout=300)
    assert process.returncode == code and "Traceback" not in err
    assert "Smith" not in out + err


def test_an_upload_that_does_not_come_makes_room_for_others(answerer, scan, monkeypatch):
    monkeypatch.setattr(server, "_PATIENCE", 0.5)
    config = {"log_level": "error", "lifespan": "off"}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = uvicorn.Server(uvicorn.Config(application(answerer), **config))
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        own = re.search(r"//(.*)/", address)[1]
        slow = ["POST /answer HTTP/1.1", f"Host: {own}", f"Content-Length: {len(scan)}"]
        assert b" 408 " in asked(address, *slow, more=scan[:10])
        assert httpx.post(f"{address}answer", content=scan, timeout=300).status_code == 200
        running.should_exit = True
        thread.join(300)


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(run, said):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(run.folder), "--port", str(port)]) == 3
    error = said()[1]
    assert f"cannot listen on port {port} of 127.0.0.1" in error and "--port" in error


@pytest.mark.parametrize(("words", "code"), [(["--port", "70000"], 2), (["--adapted", "x"], 2)])
def test_wrong_use_is_told(words, code, run, capsys):
    assert main(["serve", str(run.folder), "--port", "0", *words]) == code
    assert capsys.readouterr().err.count("error:") == 1


@pytest.mark.parametrize("module", ["uvicorn", "starlette"])
def test_a_package_that_is_missing_is_named_with_what_to_install(module, run, said, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["serve", str(run.folder), "--port", "0"]) == 3
    assert "pip install starlette uvicorn" in said()[1]


def test_a_host_that_others_reach_is_warned_of():
    with pytest.warns(UserWarning, match="everybody who reaches 0.0.0.0"):
        server._listening("0.0.0.0", 0).close()
    with server._listening("127.0.0.1", 0) as quiet:
        assert quiet.getsockname()[0] == "127.0.0.1"


def test_no_folder_of_a_run_is_an_error(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "0"]) == 3
    assert "no run's folder" in capsys.readouterr().err
