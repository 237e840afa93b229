"""API and pages as one aiohttp application."""

import logging
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from common.errors import StoreError
from console.api.calls import MAX_BODY, BadRequestError, refuse
from console.api.guard import Guarded
from console.api.query import QueryError
from console.api.routes import PREFIX, ROUTES
from console.api.services import Services
from console.web import Pages

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


def build_app(services: Services) -> web.Application:
    """The application: every route of the API and every page.

    Args:
        services: What answers.
    """
    pages = Pages(services.identity, services.directory, services.live, services.clock)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors(pages)])
    app.on_response_prepare.append(_add_headers)
    for route in ROUTES:
        if route.method == "GET":
            app.router.add_get(PREFIX + route.path, Guarded(route, services).__call__)
        else:
            app.router.add_route(route.method, PREFIX + route.path, Guarded(route, services).__call__)
    pages.add_to(app)
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """A runner whose `server` makes protocols for any TLS listener, with our bounds."""
    return web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE,
        shutdown_timeout=SHUTDOWN,
        # What is packed must be unpacked before it can be bounded; no client of ours packs requests.
        auto_decompress=False,
    )


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)
    # Which library and version answers is nobody's business.
    response.headers["Server"] = "Garrison"
    response.headers.setdefault("Cache-Control", "no-store")


def _errors(pages: Pages) -> Middleware:
    """What goes wrong, in the form that whoever asked can read: JSON for the API, a page for people."""

    def say(
        request: web.Request, status: int, err: str, headers: dict[str, str] | None = None
    ) -> web.Response:
        if request.path.startswith("/api/"):
            return refuse(status, err, headers)
        return pages.refuse(status, err, headers)

    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (BadRequestError, QueryError) as error:
            return say(request, 400, str(error))
        except web.HTTPMethodNotAllowed as error:
            return say(
                request, 405, "method not allowed", {"Allow": ", ".join(sorted(error.allowed_methods))}
            )
        except web.HTTPError as error:
            return say(request, error.status, error.reason.lower())
        except StoreError:
            log.exception("The store failed at %s %s", request.method, request.path)
            return say(request, 503, "the store cannot be used at this moment", {"Retry-After": "5"})
        except ConnectionError:
            # The client went away while we answered; nobody is left to be told.
            raise
        except Exception:
            # The last door: without it the client would get aiohttp's own words, not the API's form. What
            # happened is for the log, never for the peer.
            log.exception("%s %s failed", request.method, request.path)
            return say(request, 500, "internal error")

    return errors
