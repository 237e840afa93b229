"""The route table: every route of the API with the permission it asks for (api.json's `x-permission`)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from console.api import handlers
from console.api.calls import Call
from console.identity import Access, Permission

PREFIX: Final = r"/api/{version:v1|v[0-9]+\.[0-9]+}"
"""`/api/v1/…` is canonical, `/api/v34.04/…` the same route, whatever the numbers (D14)."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        method: Of HTTP.
        path: Behind the prefix.
        permission: What the caller must have.
        handler: What answers it.
        access: How far; a GET reads, unless its answer holds a key.
    """

    method: str
    path: str
    permission: Permission
    handler: Callable[[Call], Awaitable[web.StreamResponse]]
    access: Access = Access.READ


ROUTES: Final = (
    Route("GET", "/_ping", Permission.NONE, handlers.ping),
    Route("POST", "/signup", Permission.NONE, handlers.signup, Access.WRITE),
    Route("POST", "/authenticate", Permission.NONE, handlers.authenticate, Access.WRITE),
    Route("GET", "/authenticate/renew", Permission.USER, handlers.renew),
    Route("GET", "/version", Permission.USER, handlers.version),
    # A certificate is no secret, but nobody without an account needs it: as in the product.
    Route("GET", "/certs/ca.pem", Permission.ACCESS_UI, handlers.ca_pem),
    Route("GET", "/defenders", Permission.MANAGE_DEFENDERS, handlers.defenders),
    Route("GET", "/defenders/names", Permission.MANAGE_DEFENDERS, handlers.defender_names),
    Route("GET", "/defenders/summary", Permission.MANAGE_DEFENDERS, handlers.defender_summary),
    # Its answer holds a client's private key: reading it is not enough.
    Route(
        "GET", "/defenders/install-bundle", Permission.MANAGE_DEFENDERS, handlers.install_bundle, Access.WRITE
    ),
)
