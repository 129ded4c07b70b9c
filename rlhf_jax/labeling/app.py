"""The page where people label, over HTTP.

Who comes with a token in the first link has it exchanged for a cookie that no script reads and no other site sends, and is
led on to an address without it. What changes anything is a POST of JSON from the page itself. Nothing that people wrote is
ever put into HTML: it travels as JSON, and the page's scripts write it as text.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_jax.errors import InputError
from rlhf_jax.labelers import FLAGS, LEAST, MOST, DiskError, Lease, RefusedError, Store
from rlhf_jax.labeling.overview import overview
from rlhf_jax.labeling.submission import given_task, submission

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
LARGEST, LONGEST = 256 * 1024, 30.0  # of a body: bytes, and seconds until all of it is there
LABELER, OWNER = "rlhf_labeler", "rlhf_owner"  # cookies
KEPT = 30 * 86400  # seconds that a browser keeps them
LOCAL = ("localhost", "127.0.0.1", "[::1]")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SAFE = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def server(store: Store, hosts: Sequence[str] = ()) -> uvicorn.Server:
    """The page of a store, to be run on sockets that listen; hosts: see `app`. It keeps no log of what is asked for: the
    first visit's address has the token."""
    return uvicorn.Server(
        uvicorn.Config(
            app(store, hosts),
            http="h11",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,  # its own would close and replace the handlers of others
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )


def app(store: Store, hosts: Sequence[str] = ()) -> Starlette:
    """The page of a store. hosts: names beside localhost by which it is reached; a request to any other is refused, so that
    no other site's name can be made to lead here."""
    pages = {"/": "label.html", "/overview": "overview.html"}
    files = {f"/static/{path.name}": path.name for path in STATIC.iterdir() if path.suffix != ".html"}
    return Starlette(
        routes=[
            *(Route(at, partial(_file, _read(name)), methods=["GET"]) for at, name in {**pages, **files}.items()),
            Route("/visit", partial(_visit, store), methods=["GET"]),
            Route("/api/next", partial(_labeling, store, _next), methods=["POST"]),
            Route("/api/submit", partial(_labeling, store, _submit), methods=["POST"]),
            Route("/api/undo", partial(_labeling, store, _undo), methods=["POST"]),
            Route("/api/overview", partial(_overview, store), methods=["GET"]),
        ],
        middleware=[Middleware(Guard, hosts=[*LOCAL, *(host.lower() for host in hosts)])],
        exception_handlers={HTTPException: _http_refusal, InputError: _refusal},
    )


class Guard:
    """Refuses what comes for another host or from another site, and puts SAFE into every response."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in SAFE.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        refused = self._refused(scope["method"], Headers(scope=scope))
        with suppress(
            h11.LocalProtocolError
        ):  # what came after the headers was no HTTP, and uvicorn has refused it already
            await (refused or self.app)(scope, receive, safely)

    def _refused(self, method: str, headers: Headers) -> Response | None:
        host = headers.get("host", "").lower()
        name, _, port = host.rpartition(":")
        if (name if port.isdigit() else host) not in self.hosts:
            return _sentence(421, "this host is not served here: use the link that you were given")
        if method in ("GET", "HEAD"):
            return None
        # Browsers say where a POST comes from, and no page can make them say otherwise.
        own = headers.get("origin", "").lower().partition("://")[2] == host
        if not own or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _sentence(403, "this did not come from the page itself: use the page")
        return None


# Pages.


def _read(name: str) -> Response:
    kind = TYPES[Path(name).suffix]
    return Response((STATIC / name).read_bytes(), media_type=kind)


async def _file(response: Response, request: Request) -> Response:
    return response


async def _visit(store: Store, request: Request) -> Response:
    """The first link. The cookie is not sent along where another site led here, so pages themselves ask for none."""
    token = request.query_params.get("token", "")
    owner = await run_in_threadpool(store.is_owner, token)
    if not owner and await run_in_threadpool(store.labeler_of, token) is None:
        return PlainTextResponse("Nobody has this link: ask for a new one.\n", 403)
    response = RedirectResponse("/overview" if owner else "/", 303)
    response.set_cookie(
        OWNER if owner else LABELER,
        token,
        max_age=KEPT,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


# What the pages ask for.


async def _labeling(store: Store, work: Callable[[Store, str, Any], dict[str, Any]], request: Request) -> Response:
    token = request.cookies.get(LABELER, "")
    person = await run_in_threadpool(store.labeler_of, token)
    if person is None:
        raise HTTPException(401, "you are not known here: open the link that you were given again")
    given = await _json(request)
    return JSONResponse(await run_in_threadpool(work, store, person.name, given))


def _next(store: Store, labeler: str, given: Any) -> dict[str, Any]:
    _nothing(given)
    return _shown(store, labeler, store.lease(labeler))


def _submit(store: Store, labeler: str, given: Any) -> dict[str, Any]:
    return {"kept": store.submit(submission(store, labeler, given))}


def _undo(store: Store, labeler: str, given: Any) -> dict[str, Any]:
    _nothing(given)
    lease = store.undo(labeler)
    return {**_shown(store, labeler, lease or store.lease(labeler)), "undone": lease is not None}


def _nothing(given: dict[str, Any]) -> None:
    if given:
        raise InputError(f"the key {next(iter(given))[:80]!r} is unknown: send {{}}")


def _shown(store: Store, labeler: str, lease: Lease | None) -> dict[str, Any]:
    return {
        "labeler": labeler,
        "share": store.share(labeler)._asdict(),
        "flags": FLAGS,
        "scale": [LEAST, MOST],
        "largest": LARGEST,
        "task": None if lease is None else given_task(lease),
    }


async def _overview(store: Store, request: Request) -> Response:
    token = request.cookies.get(OWNER, "")
    if not await run_in_threadpool(store.is_owner, token):
        raise HTTPException(401, "this is for the owner: rlhf-label owner makes a link")
    return JSONResponse(await run_in_threadpool(overview, store))


async def _json(request: Request) -> dict[str, Any]:
    """The object that a body is."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "this is no JSON: send application/json")
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(LONGEST):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= LARGEST:
                    body += chunk
                elif size > 16 * LARGEST:  # until here it is read and dropped, so that who sends it hears of it
                    break
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {LONGEST:.0f} seconds: send it again", CLOSE) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body ended early: send it again", CLOSE) from None
    if size > LARGEST:
        raise HTTPException(413, f"this is too long: send {LARGEST // 1024} KiB at most", CLOSE)
    try:
        given = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise HTTPException(400, "this cannot be read as JSON: send an object, each key once, in UTF-8") from None
    if not isinstance(given, dict):
        raise HTTPException(400, "this is JSON and no object: send one")
    return given


CLOSE = {"Connection": "close"}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


# Refusals.


def _sentence(status: int, sentence: str, headers: Any = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)


async def _http_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _sentence(error.status_code, error.detail, error.headers)


async def _refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, DiskError):  # whose sentence has paths, which are the owner's
        print(error, flush=True)
        return _sentence(503, "this cannot be kept at the moment: it is sent again by itself")
    return _sentence(409 if isinstance(error, RefusedError) else 400, str(error))
