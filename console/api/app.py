"""API and pages as one aiohttp application."""

from aiohttp import web
from aiohttp.http_exceptions import PayloadEncodingError
from aiohttp.typedefs import Handler, Middleware

from common.errors import StoreError
from console.api.calls import MAX_BODY, BadRequestError, refuse
from console.api.guard import Guarded
from console.api.query import QueryError
from console.api.routes import PREFIX, ROUTES
from console.api.server import secure
from console.api.services import Services
from console.api.troubles import Troubles
from console.web import Pages


def build_app(services: Services) -> web.Application:
    """The application: every route of the API and every page.

    Args:
        services: What answers.
    """
    pages = Pages(services.identity, services.directory, services.live, services.clock)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors(pages, Troubles(services.clock))])
    app.on_response_prepare.append(_add_headers)
    for route in ROUTES:
        if route.method == "GET":
            app.router.add_get(PREFIX + route.path, Guarded(route, services).__call__)
        else:
            app.router.add_route(route.method, PREFIX + route.path, Guarded(route, services).__call__)
    pages.add_to(app)
    return app


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    secure(response)


def _errors(pages: Pages, troubles: Troubles) -> Middleware:
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
        except (web.RequestPayloadError, PayloadEncodingError):
            return say(request, 400, "the request's body cannot be read")
        except StoreError as error:
            troubles.store(error, _name(request))
            response = say(request, 503, "the store cannot be used at this moment", {"Retry-After": "5"})
        except ConnectionError:
            # The client went away while we answered; nobody is left to be told.
            raise
        # The last door: without it the client would get aiohttp's own words, not the API's form. What
        # happened is for the log, never for the peer.
        except Exception as error:  # noqa: BLE001 - logged by `bug`
            troubles.bug(error, _name(request))
            response = say(request, 500, "internal error")
        if request.writer.output_size > 0:
            # Another answer would be taken for a part of the one that has begun.
            raise ConnectionResetError("the answer had begun")
        return response

    return errors


def _name(request: web.Request) -> str:
    """What was asked, for the log: the route, not what stands in the request."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical}" if resource is not None else "A request for nothing"
