"""aiohttp's server with our bounds, our words and our log.

By default it answers a request that it cannot read with a part of that request and its own version, and logs
it with a traceback, all of it before any handler or middleware of ours: see `_Protocol`.
"""

import asyncio
import logging
from typing import Any, Final

from aiohttp import hdrs, web

from common.clock import Clock, SystemClock
from console.api.calls import refuse
from console.api.troubles import Troubles
from console.turnover import generation_of

log = logging.getLogger(__name__)

SECURITY_HEADERS: Final = {
    # No script or style but our own files; nothing of ours inside another page, nothing of others in ours.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # RFC 6797; product facts §2: HSTS on. A year.
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

KEEP_ALIVE: Final = 75.0
"""Seconds that a connection may be idle, or take to send a request's head, before it is closed."""
SHUTDOWN: Final = 10.0
"""Seconds for requests to end when the Console stops."""


def make_runner(app: web.Application, clock: Clock | None = None) -> web.AppRunner:
    """A runner whose `server` makes protocols for any TLS listener, with our bounds.

    Args:
        app: What answers.
        clock: Says when the log may repeat itself; the host's by default.
    """
    app.on_response_prepare.append(_last_of_replaced)
    return _Runner(app, Troubles(clock or SystemClock()))


def is_answering(transport: asyncio.Transport) -> bool:
    """Whether a connection of ours has a request under way, and doesn't wait for one."""
    protocol = transport.get_protocol()
    return isinstance(protocol, _Protocol) and protocol.answering


async def _last_of_replaced(request: web.Request, response: web.StreamResponse) -> None:
    """Make an answer the last one of its connection if that was made with certificates since replaced.

    Asked when the answer begins, not when the request came: a swap may lie between. Requests that came with
    this one are answered first, since a client may not send them twice.
    """
    generation = generation_of(request.transport)
    if generation is None or generation.replaced_at is None:
        return
    if isinstance(request.protocol, _Protocol) and request.protocol.has_more:
        return
    response.force_close()
    # aiohttp has decided on this header by now.
    response.headers[hdrs.CONNECTION] = "close"


def secure(response: web.StreamResponse) -> None:
    """Give an answer the headers that every one of ours has."""
    response.headers.update(SECURITY_HEADERS)
    # Which library and version answers is nobody's business.
    response.headers["Server"] = "Garrison"
    response.headers.setdefault("Cache-Control", "no-store")


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, troubles: Troubles) -> None:
        super().__init__(app, shutdown_timeout=SHUTDOWN)
        self._troubles = troubles

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(server, self._troubles)


class _Server(web.Server):
    """Makes protocols of ours for the application that `server` is of."""

    def __init__(self, server: web.Server, troubles: Troubles) -> None:
        super().__init__(server.request_handler, request_factory=server.request_factory)
        self._troubles = troubles

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, self._troubles)


class _Protocol(web.RequestHandler):
    """One connection. What goes wrong outside of the application is answered and logged in our form."""

    __slots__ = ("_troubles",)

    def __init__(self, server: web.Server, troubles: Troubles) -> None:
        options: dict[str, Any] = {
            "keepalive_timeout": KEEP_ALIVE,
            "logger": log,
            "access_log": None,
            # What is packed must be unpacked before it can be bounded; no client of ours packs requests.
            "auto_decompress": False,
        }
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._troubles = troubles

    @property
    def answering(self) -> bool:
        """Whether a request is under way; also while what is left of its body is read."""
        return self._waiter is None

    @property
    def has_more(self) -> bool:
        """Whether a request has come behind the one under way."""
        return bool(self._messages or self._message_tail)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes the request
    ) -> web.StreamResponse:
        """Answer a request that cannot be read, or one whose handling failed; the connection ends."""
        if status < 500:
            self._troubles.unreadable(exc, request.remote or "unknown")
        elif exc is not None and not isinstance(exc, ConnectionError):
            self._troubles.bug(exc, "A request")
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun, and cannot be another one")
        response = refuse(status, "bad request" if status < 500 else "internal error")
        secure(response)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; one that aiohttp made before it asked the application gets our form."""
        if isinstance(resp, web.HTTPException):
            resp = refuse(resp.status, resp.reason.lower())
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what even `handle_error` could not answer."""
        error = kw.get("exc_info")
        if isinstance(error, BaseException):
            self._troubles.bug(error, "A connection")
        else:
            log.error(*args)

    def log_debug(self, *args: Any, **kw: Any) -> None:
        """Log nothing: it is for aiohttp's authors."""
