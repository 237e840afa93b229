import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from console.web.session import FORM_COOKIE, FormTokens, clear_session, session_token, set_session


def with_form(text: str) -> web.Request:
    return make_mocked_request("GET", "/", headers={"Cookie": f"{FORM_COOKIE}={text}"})


def test_cookies_stay_with_this_host_and_away_from_scripts() -> None:
    response = web.Response()
    set_session(response, "token")
    (cookie,) = response.cookies.values()
    assert cookie.key == "__Host-garrison-session"
    assert (cookie["path"], cookie["secure"], cookie["httponly"], cookie["samesite"]) == (
        "/",
        True,
        True,
        "Strict",
    )
    assert not cookie.get("domain")
    assert not cookie.get("max-age")


def test_clearing_is_accepted_by_the_browser() -> None:
    response = web.Response()
    clear_session(response)
    (cookie,) = response.cookies.values()
    # Without these a browser refuses to touch a __Host- cookie.
    assert (cookie["path"], cookie["secure"], str(cookie["max-age"])) == ("/", True, "0")


def test_no_cookie_no_token() -> None:
    assert session_token(make_mocked_request("GET", "/")) == ""


def test_a_form_belongs_to_its_browser() -> None:
    forms = FormTokens()
    text, token = forms.issue(make_mocked_request("GET", "/"))
    assert forms.valid(with_form(text), token)
    other, _ = forms.issue(make_mocked_request("GET", "/"))
    assert not forms.valid(with_form(other), token)
    assert not forms.valid(make_mocked_request("GET", "/"), token)
    assert not forms.valid(with_form(text), "")
    assert not forms.valid(with_form(text), "\ud800")
    assert not FormTokens().valid(with_form(text), token)


def test_a_browser_keeps_its_text() -> None:
    forms = FormTokens()
    text, token = forms.issue(make_mocked_request("GET", "/"))
    assert forms.issue(with_form(text)) == (text, token)
    assert forms.issue(with_form("short"))[0] != "short"
    assert len(forms.issue(with_form("x" * 5000))[0]) < 64


@pytest.mark.parametrize("text", ["é" * 20, "a b" * 8, "x" * 65, "x" * 15, 'x"' * 10])
def test_nothing_strange_is_sent_back_to_a_browser(text: str) -> None:
    issued, token = FormTokens().issue(with_form(text))
    assert issued != text
    assert issued.isascii()
    assert token
