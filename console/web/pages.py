"""The pages: sign up, log in, the Defenders, log out. They stand on the API's services."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from aiohttp import hdrs, web
from multidict import MultiDictProxy

from common.clock import Clock
from common.version import VERSION
from console.fleet.directory import DefenderDirectory, LiveFleet, Search
from console.identity import (
    Access,
    AlreadyInitialized,
    Authenticated,
    Busy,
    Denied,
    IdentityService,
    Permission,
    Principal,
    Rejected,
    SignedUp,
    Throttled,
    may,
)
from console.identity.browser import sent_by_other_site
from console.identity.passwords import utf8_size
from console.store import DefenderQuery
from console.web.live import Fragment, Streams, once
from console.web.session import FORM_FIELD, FormTokens, clear_session, session_token, set_session
from console.web.static_files import PREFIX, StaticFiles
from console.web.templates import Templates
from console.web.view import PAGE_SIZE, counts, table

log = logging.getLogger(__name__)

DEFENDERS: Final = "/manage/defenders"
EVENTS: Final = "/manage/defenders/events"
LOGIN: Final = "/login"
SIGNUP: Final = "/signup"
LOGOUT: Final = "/logout"

BODY_TIMEOUT: Final = 10.0
"""Seconds for a form to arrive."""
MAX_OFFSET: Final = 10_000_000

_STALE_FORM: Final = "This form was out of date. Nothing was changed; please try again."
_WRONG: Final = "User name or password is wrong."

Form = MultiDictProxy[str | bytes | bytearray | web.FileField]
PageHandler = Callable[[web.Request, Principal], Awaitable[web.StreamResponse]]


class Pages:
    """Every page, and the event stream behind one.

    Args:
        identity: Who it is.
        directory: The Defenders.
        live: What moves them.
        clock: Says how far off a certificate's end is.
    """

    def __init__(
        self, identity: IdentityService, directory: DefenderDirectory, live: LiveFleet, clock: Clock
    ) -> None:
        self._identity = identity
        self._directory = directory
        self._clock = clock
        self._static = StaticFiles()
        self._templates = Templates(self._static)
        self._forms = FormTokens()
        self._streams = Streams(live, self._fragments)

    def add_to(self, app: web.Application) -> None:
        """Serve the pages in an application, and follow the fleet while it runs."""
        router = app.router
        router.add_get("/", self._home)
        router.add_get(SIGNUP, self._signup_page)
        router.add_post(SIGNUP, self._signup)
        router.add_get(LOGIN, self._login_page)
        router.add_post(LOGIN, self._login)
        router.add_post(LOGOUT, self._logout)
        router.add_get(DEFENDERS, self._for_managers(self._defenders_page))
        router.add_get(EVENTS, self._events, allow_head=False)
        router.add_get(PREFIX + "/{hash}/{name}", self._static.serve)
        app.cleanup_ctx.append(self._following)
        app.on_shutdown.append(self._end_streams)

    def refuse(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
        """A refusal as a page."""
        return self._page("refusal.html", {"reason": reason, "code": status}, status, headers)

    # -- before somebody is known

    async def _home(self, request: web.Request) -> web.Response:
        if self._principal(request) is not None:
            return _see(DEFENDERS)
        return _see(LOGIN if await self._identity.initialized() else SIGNUP)

    async def _signup_page(self, request: web.Request) -> web.Response:
        if await self._identity.initialized():
            return _see(LOGIN)
        return self._form(request, "signup.html")

    async def _signup(self, request: web.Request) -> web.Response:
        form = await _posted(request)
        name, password = _text(form, "username"), _text(form, "password")
        if not self._ours(request, form):
            return self._form(request, "signup.html", status=403, error=_STALE_FORM, username=name)
        if password != _text(form, "repeated"):
            error = "The two passwords differ; type the same one twice."
            return self._form(request, "signup.html", status=400, error=error, username=name)
        match await self._identity.signup(name, password, _address(request)):
            case SignedUp(principal):
                return self._signed_in(principal)
            case AlreadyInitialized():
                return _see(LOGIN)
            case Rejected(reason):
                error = f"{reason[:1].upper()}{reason[1:]}."
                return self._form(request, "signup.html", status=400, error=error, username=name)
            case Busy() as busy:
                return self._later(request, "signup.html", busy, name)

    async def _login_page(self, request: web.Request) -> web.Response:
        if self._principal(request) is not None:
            return _see(DEFENDERS)
        if not await self._identity.initialized():
            return _see(SIGNUP)
        return self._form(request, "login.html")

    async def _login(self, request: web.Request) -> web.Response:
        form = await _posted(request)
        name = _text(form, "username")
        if not self._ours(request, form):
            return self._form(request, "login.html", status=403, error=_STALE_FORM, username=name)
        match await self._identity.authenticate(name, _text(form, "password"), _address(request)):
            case Authenticated(principal):
                return self._signed_in(principal)
            case Denied():
                return self._form(request, "login.html", status=401, error=_WRONG, username=name)
            case Throttled() | Busy() as later:
                return self._later(request, "login.html", later, name)

    async def _logout(self, request: web.Request) -> web.Response:
        if not self._ours(request, await _posted(request)):
            return self.refuse(403, "this form was out of date; go back, reload the page and try again")
        principal = self._principal(request)
        if principal is not None:
            self._identity.revoke(principal)
            self._streams.look_again()
            log.info("User %s logged out", principal.username)
        response = _see(LOGIN)
        clear_session(response)
        return response

    # -- for those who are known

    async def _defenders_page(self, request: web.Request, principal: Principal) -> web.Response:
        offset = _offset(request)
        parts = await self._fragments(offset)
        return self._form(
            request,
            "defenders.html",
            principal=principal,
            parts={part.event: part.html for part in parts},
            events=f"{EVENTS}?offset={offset}&shown={','.join(part.digest for part in parts)}",
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        principal = self._principal(request)
        # An error status would make the browser try for ever; this tells it, and the person, to stop.
        ended = Fragment("session", self._templates.render("_ended.html", login=LOGIN)), Fragment("ended", "")
        if principal is None or not may(principal.role, Permission.MANAGE_DEFENDERS, Access.READ):
            return await once(request, *ended)
        if self._streams.full:
            return self.refuse(503, "no more pages can be live at this moment", {"Retry-After": "30"})
        return await self._streams.serve(
            request, _offset(request), lambda: self._identity.remaining(principal), ended
        )

    async def _fragments(self, offset: int) -> tuple[Fragment, ...]:
        page = await self._directory.list(Search(DefenderQuery(offset=offset, limit=PAGE_SIZE)))
        shown = table(page, offset, self._clock.now())
        tally = await self._directory.tally()
        return (
            Fragment("counts", self._templates.render("_counts.html", counts=counts(tally))),
            Fragment("fleet", self._templates.render("_fleet.html", table=shown, path=DEFENDERS)),
        )

    # -- what they share

    def _for_managers(self, handler: PageHandler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            principal = self._principal(request)
            if principal is None:
                return _see(LOGIN)
            if not may(principal.role, Permission.MANAGE_DEFENDERS, Access.READ):
                return self.refuse(403, "your role does not permit this")
            response = await handler(request, principal)
            if self._identity.due(principal) and (token := await self._identity.renew(principal)):
                set_session(response, token)
            return response

        return guarded

    def _principal(self, request: web.Request) -> Principal | None:
        token = session_token(request)
        return self._identity.verify_token(token) if token else None

    def _ours(self, request: web.Request, form: Form) -> bool:
        ours = self._forms.valid(request, _text(form, FORM_FIELD))
        return ours and not sent_by_other_site(request.headers)

    def _signed_in(self, principal: Principal) -> web.Response:
        response = _see(DEFENDERS)
        set_session(response, self._identity.issue(principal))
        return response

    def _later(self, request: web.Request, template: str, later: Throttled | Busy, name: str) -> web.Response:
        seconds = f"{later.retry_after} second{'' if later.retry_after == 1 else 's'}"
        if isinstance(later, Throttled):
            status, error = 429, f"Too many failed logins. Try again in {seconds}."
        else:
            status, error = 503, f"Too many logins at this moment. Try again in {seconds}."
        response = self._form(request, template, status=status, error=error, username=name)
        response.headers["Retry-After"] = str(later.retry_after)
        return response

    def _form(
        self, request: web.Request, template: str, *, status: int = 200, **values: object
    ) -> web.Response:
        """A page with a form on it, and the cookie that its token belongs to."""
        text, token = self._forms.issue(request)
        blank: dict[str, object] = {
            "error": "",
            "username": "",
            "form_field": FORM_FIELD,
            "form_token": token,
        }
        response = self._page(template, blank | values, status)
        self._forms.keep(response, text)
        return response

    def _page(
        self, template: str, values: dict[str, object], status: int, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        shared: dict[str, object] = {"version": VERSION, "principal": None, "logout": LOGOUT}
        html = self._templates.render(template, **(shared | values))
        return web.Response(status=status, text=html, content_type="text/html", headers=headers)

    async def _following(self, _: web.Application) -> AsyncIterator[None]:
        # The application owns this task: from its start, and until its end has waited for it. A failure ends
        # nothing but live pages, so it isn't passed on to what the Console itself stands on.
        pulse = asyncio.create_task(self._streams.pulse.run(), name="pages follow the fleet")
        pulse.add_done_callback(self._stopped)
        yield
        pulse.cancel()
        await asyncio.wait([pulse])

    def _stopped(self, pulse: asyncio.Task[None]) -> None:
        """Say at once that the pages stand still, to the operator and to whoever looks at one."""
        if not pulse.cancelled() and (error := pulse.exception()) is not None:
            log.critical("Pages don't follow the fleet any more", exc_info=error)
            self._streams.pulse.close()

    async def _end_streams(self, _: web.Application) -> None:
        self._streams.pulse.close()


def _see(path: str) -> web.Response:
    """Go on to another page (RFC 9110 §15.4.4), by its path: the Host header is a claim."""
    return web.Response(status=303, headers={hdrs.LOCATION: path})


def _address(request: web.Request) -> str:
    return request.remote or "unknown"


async def _posted(request: web.Request) -> Form:
    """The form that was posted, in UTF-8: browsers post in the encoding of the page, which is ours."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType
    # Python's codecs are many, and some make text that nothing else can write again.
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise web.HTTPBadRequest
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            form = await request.post()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except ValueError:
        raise web.HTTPBadRequest from None
    if any(isinstance(value, str) and utf8_size(value) is None for value in form.values()):
        raise web.HTTPBadRequest
    return form


def _text(form: Form, name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _offset(request: web.Request) -> int:
    """The page's first row; the first of all for what cannot be meant, since it is only an address."""
    text = request.query.get("offset", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return 0
    return min(int(text), MAX_OFFSET)
