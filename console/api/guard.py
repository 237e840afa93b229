"""Who calls, and whether they may: in front of every handler, so that no route can be without it."""

import base64
import binascii
from typing import Final

from aiohttp import hdrs, web

from console.api.calls import NOBODY, Call, come_back, refuse, unauthorized
from console.api.routes import Route
from console.api.services import Services
from console.identity import Authenticated, Denied, Permission, Principal, may
from console.identity.browser import sent_by_other_site

_SAFE: Final = ("GET", "HEAD")


class Guarded:
    """A route's handler behind its permission.

    Args:
        route: What is asked for.
        services: What knows the users.
    """

    def __init__(self, route: Route, services: Services) -> None:
        self._route = route
        self._services = services

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, or refuse it."""
        if request.method not in _SAFE and sent_by_other_site(request.headers):
            return refuse(403, "a page of another site sent this request")
        if self._route.permission is Permission.NONE:
            return await self._route.handler(Call(request, self._services, NOBODY))
        caller = await self._caller(request)
        if isinstance(caller, web.Response):
            return caller
        if not may(caller.role, self._route.permission, self._route.access):
            return refuse(403, "your role does not permit this")
        return await self._route.handler(Call(request, self._services, caller))

    async def _caller(self, request: web.Request) -> Principal | web.Response:
        scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        match scheme.lower():
            case "bearer":
                return self._services.identity.verify_token(value.strip()) or unauthorized()
            case "basic":
                return await self._basic(value.strip(), request.remote or "unknown")
        return unauthorized()

    async def _basic(self, value: str, address: str) -> Principal | web.Response:
        credentials = parse_basic(value)
        if credentials is None:
            return unauthorized()
        outcome = await self._services.identity.verify_basic(*credentials, address)
        if isinstance(outcome, Authenticated):
            return outcome.principal
        return unauthorized() if isinstance(outcome, Denied) else come_back(outcome)


def parse_basic(value: str) -> tuple[str, str] | None:
    """User name and password of basic credentials (RFC 7617 §2, in UTF-8), or None if they are none."""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    username, colon, password = text.partition(":")
    return (username, password) if colon else None
