"""The page that answers images: a small server for the person at this machine.

A browser runs whatever page its user opens, and such a page may send requests to this machine too.
So the server answers only those that name it by an address of its own (a rebound name of the DNS
does not) and takes images only from its own page. Nothing that is sent is kept, and no path that is
sent is opened.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from ..core.images import UnreadableImage
from ..core.packages import needed
from ..runs.folder import Run
from .answers import Answerer

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_Application: TypeAlias = Callable[[dict, Callable, Callable], Awaitable[None]]

LARGEST = 64 * 2**20  # bytes of an upload
_PATIENCE = 60  # seconds for an upload, as others wait for it
_PACKAGES = "starlette uvicorn"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


def serve(
    folder: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    adapted: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    log: Callable[[str], None] = print,
) -> None:
    """Answer images on a page until Ctrl-C.

    Parameters
    ----------
    folder : str or Path, the run, finished
    host : str, the address to listen on; all but this machine's own is warned of
    port : int, 0 takes a free one
    adapted, device, precision
        See `answers.Answerer`.
    log : Callable
        Called with a line when loading begins, and with the page's address when it is ready.

    Raises
    ------
    OSError
        Where nobody can listen there, as where another program does.
    ValueError
        For a port that is none, or as `answers.Answerer`.
    """
    needed("starlette", _PACKAGES)
    uvicorn = needed("uvicorn", _PACKAGES)
    with _listening(host, port) as listening:
        Run.load(folder).check_finished()
        log(f"loading {folder} and what its training images look like to it ...")
        app = application(Answerer(folder, adapted, device, precision), host)
        settings = {"access_log": False, "log_level": "warning", "server_header": False}
        settings |= {"ws": "none", "lifespan": "off", "timeout_graceful_shutdown": 5}
        server = uvicorn.Server(uvicorn.Config(app, **settings))
        shown = f"[{host}]" if ":" in host else host
        log(f"http://{shown}:{listening.getsockname()[1]}/ answers images; Ctrl-C ends it")
        server.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}; it is a number from 0 (any free one) to 65535")
    if not _is_local(host):
        warnings.warn(
            f"everybody who reaches {host} can use this page and sees what it shows of the "
            "training images: it has no password and is not encrypted",
            stacklevel=3,
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"cannot listen on port {port} of {host} ({error.strerror}); another program may use "
            "it, so choose another with --port, or 0 for any that is free"
        ) from None


def application(answerer: Answerer, host: str = "127.0.0.1") -> _Application:
    """Make the page as an ASGI application.

    Images are answered one after the other, in the order in which they are asked. A body is read
    when its turn has come, so those that wait take no memory.

    Parameters
    ----------
    answerer : Answerer
    host : str, the address it listens on

    Returns
    -------
    Callable
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    turn, worker = asyncio.Lock(), ThreadPoolExecutor(1, "answers")
    about = answerer.about() | {"largest": LARGEST}

    async def tell(request: Request) -> Response:
        return JSONResponse(about)

    async def answer(request: Request) -> Response:
        async with turn:
            try:
                data = await _body(request)
                if await request.is_disconnected():
                    return Response()
                run = asyncio.get_running_loop().run_in_executor
                return JSONResponse(await run(worker, answerer.answer, data))
            except ClientDisconnect:
                return Response()
            except UnreadableImage as problem:
                return JSONResponse({"error": str(problem)}, 422)

    def refuse(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    def fail(request: Request, error: Exception) -> Response:
        why = f"the answer failed ({type(error).__name__}); the terminal says more"
        return JSONResponse({"error": why}, 500)

    routes = [Route(path, _file(*file)) for path, file in _FILES.items()]
    routes += [Route("/about", tell), Route("/answer", answer, methods=["POST"])]
    handlers = {HTTPException: refuse, Exception: fail}
    return _guarded(Starlette(routes=routes, exception_handlers=handlers), host)


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    from starlette.responses import Response

    content = (Path(__file__).parent / "static" / name).read_bytes()

    async def send(request: Request) -> Response:
        return Response(content, media_type=kind)

    return send


async def _body(request: Request) -> bytes:
    """The bytes of an upload, refused as soon as they are too many."""
    from starlette.exceptions import HTTPException

    too_large = HTTPException(413, f"an image may have {LARGEST // 2**20} MB; this file has more")
    if int(request.headers.get("content-length", 0)) > LARGEST:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                data += part
                if len(data) > LARGEST:
                    raise too_large
    except TimeoutError:
        why = f"the file did not arrive within {_PATIENCE} seconds"
        raise HTTPException(408, why) from None
    if not data:
        raise HTTPException(400, "the file is empty; send the bytes of an image as the body")
    return bytes(data)


def _guarded(app: _Application, host: str) -> _Application:
    """The application for those alone who may ask, with headers that keep its page to itself."""
    from starlette.datastructures import Headers
    from starlette.responses import JSONResponse

    async def guard(scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        headers = Headers(scope=scope)
        why = _why_refused(headers.getlist("host"), headers.getlist("origin"), host)
        answering = JSONResponse({"error": why}, 403) if why else app
        await answering(scope, receive, send_with_headers)

    return guard


def _why_refused(hosts: list[str], origins: list[str], host: str) -> str:
    """Why a request is not answered, from its headers; "" where it is."""
    try:
        (asked,) = hosts
        name = urlsplit(f"//{asked}").hostname or ""
    except ValueError:
        return "the request does not name this page's address once"
    if not (name in ("localhost", host) or _is_address(name, local=_is_local(host))):
        return f"this page is not called {name}; open it by the address that the terminal shows"
    if any(origin != f"http://{asked}" for origin in origins):
        return "the request comes from another page"
    return ""


def _is_local(host: str) -> bool:
    return host == "localhost" or _is_address(host, local=True)


def _is_address(name: str, local: bool) -> bool:
    """Whether a name is an IP address, and one of this machine alone where that is asked."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not local
