"""What answers each route: from a call to a service and back. No logic."""

import logging

from aiohttp import web

from common.version import VERSION
from console.api import models
from console.api.calls import Call, answer, come_back, refuse, unauthorized
from console.api.query import parse_search
from console.identity import AlreadyInitialized, Authenticated, Busy, Denied, Rejected, SignedUp, Throttled
from console.pki import Refused

log = logging.getLogger(__name__)


async def ping(_: Call) -> web.Response:
    """`GET /_ping`: the Console answers."""
    return web.Response(text="OK")


async def signup(call: Call) -> web.Response:
    """`POST /signup`: make the first user, once."""
    asked = await call.body(models.AuthenticationRequest)
    match await call.services.identity.signup(asked.username, asked.password, call.address):
        case SignedUp():
            return web.Response()
        case AlreadyInitialized():
            # The product's words (facts §11).
            return refuse(400, "system already initialized")
        case Rejected(reason):
            return refuse(400, reason)
        case Busy() as busy:
            return come_back(busy)


async def authenticate(call: Call) -> web.Response:
    """`POST /authenticate`: a token for a user name and password."""
    asked = await call.body(models.AuthenticationRequest)
    match await call.services.identity.authenticate(asked.username, asked.password, call.address):
        case Authenticated(principal):
            return answer(models.AuthenticationResponse(token=call.services.identity.issue(principal)))
        case Denied():
            return unauthorized("invalid credentials")
        case Throttled() | Busy() as later:
            return come_back(later)


async def renew(call: Call) -> web.Response:
    """`GET /authenticate/renew`: a new token for the holder of a good one."""
    token = await call.services.identity.renew(call.principal)
    return unauthorized() if token is None else answer(models.AuthenticationResponse(token=token))


async def version(_: Call) -> web.Response:
    """`GET /version`: the Console's."""
    return answer(VERSION)


async def ca_pem(call: Call) -> web.Response:
    """`GET /certs/ca.pem`: the certificate that the Console's web certificate is checked against."""
    return web.Response(
        body=call.services.certificates.ca_pem(),
        content_type="application/x-pem-file",
        headers={"Content-Disposition": 'attachment; filename="ca.pem"'},
    )


async def defenders(call: Call) -> web.Response:
    """`GET /defenders`: a page of them; how many there are on all pages is in the header Total-Count."""
    page = await call.services.directory.list(parse_search(call.request.query))
    return answer([models.defender(item) for item in page.items], headers={"Total-Count": str(page.total)})


async def defender_names(call: Call) -> web.Response:
    """`GET /defenders/names`: host names, each once."""
    return answer(await call.services.directory.names(parse_search(call.request.query)))


async def defender_summary(call: Call) -> web.Response:
    """`GET /defenders/summary`: counts by category."""
    counts = await call.services.directory.summary()
    return answer([models.summary(category, tally) for category, tally in counts.items()])


async def install_bundle(call: Call) -> web.Response:
    """`GET /defenders/install-bundle`: what a new Defender starts from. Holds a private key."""
    query = call.request.query
    address, type_ = query.get("consoleaddr", ""), query.get("defenderType") or "none"
    if not address:
        reach = "give the name or address by which Defenders reach the Console"
        return refuse(400, f"consoleaddr is missing; {reach}")
    bundle = call.services.certificates.install_bundle(address, type_)
    if isinstance(bundle, Refused):
        return refuse(400, str(bundle))
    log.info("User %s took an install bundle for %s from %s", call.principal.username, address, call.address)
    return answer(
        models.DefenderInstallBundle(install_bundle=bundle.install_bundle, ws_address=bundle.ws_address)
    )
