"""What a handler gets, and the forms in which it answers."""

import asyncio
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from console.api.models import Error
from console.api.services import Services
from console.identity import Busy, Principal, Throttled

MAX_BODY: Final = 64 * 1024
"""Bytes of a request's body. What the API takes has a few hundred."""
BODY_TIMEOUT: Final = 10.0
"""Seconds for a request's body to arrive."""

NOBODY: Final = Principal("", "")
"""Who calls a route that asks nobody who they are."""

_T = TypeVar("_T", bound=msgspec.Struct)


class BadRequestError(Exception):
    """A request that cannot be meant; its text is for the client and holds nothing of the request's body."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request at its route, allowed.

    Attributes:
        request: What came.
        services: What answers it.
        principal: Who it is; NOBODY where the route doesn't ask.
    """

    request: web.Request
    services: Services
    principal: Principal

    @property
    def address(self) -> str:
        """Where the connection comes from. A forwarding header is a claim, and isn't looked at."""
        return self.request.remote or "unknown"

    async def body(self, model: type[_T]) -> _T:
        """The request's JSON as a model, whatever its content type says: scripts leave that out.

        Raises:
            BadRequestError: if it isn't that, or doesn't arrive in time.
        """
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                raw = await self.request.read()
        except TimeoutError:
            raise BadRequestError("the request's body did not arrive in time") from None
        try:
            return msgspec.json.decode(raw, type=model)
        except msgspec.ValidationError as error:
            raise BadRequestError(f"the request's body does not fit: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadRequestError("the request's body is not JSON") from None


def answer(value: object, *, headers: dict[str, str] | None = None) -> web.Response:
    """A value as JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=headers)


def refuse(status: int, err: str, headers: dict[str, str] | None = None) -> web.Response:
    """A refusal, in the product's form."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(Error(err)),
        content_type="application/json",
        headers=headers,
    )


def come_back(outcome: Throttled | Busy) -> web.Response:
    """Refuse for now: 429 to one who failed too often, 503 where too many ask at once."""
    after = {"Retry-After": str(outcome.retry_after)}
    if isinstance(outcome, Throttled):
        return refuse(429, "too many failed logins, try again later", after)
    return refuse(503, "too many logins at this moment, try again", after)


def unauthorized(err: str = "unauthorized") -> web.Response:
    """Refuse whoever did not say who they are, or said it wrong (RFC 9110 §11.6.1)."""
    challenge = 'Bearer realm="garrison", Basic realm="garrison", charset="UTF-8"'
    return refuse(401, err, {"WWW-Authenticate": challenge})
