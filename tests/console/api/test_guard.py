import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.api.guard import parse_basic


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("text", "credentials"),
    [
        ("u:p", ("u", "p")),
        ("u:p:q", ("u", "p:q")),
        ("zoë:ü", ("zoë", "ü")),
        (":", ("", "")),
        ("nothing", None),
    ],
)
def test_basic(text: str, credentials: tuple[str, str] | None) -> None:
    assert parse_basic(encoded(text)) == credentials


@pytest.mark.parametrize("value", ["", "%", "a", "YQ", base64.b64encode(b"\xff:").decode(), "dTpw\n", "é"])
def test_what_is_no_basic(value: str) -> None:
    assert parse_basic(value) is None


@given(
    st.text(st.characters(exclude_characters=":", codec="utf-8"), max_size=40),
    st.text(st.characters(codec="utf-8")),
)
@settings(deadline=None, max_examples=50)
def test_every_name_and_password_arrives(username: str, password: str) -> None:
    assert parse_basic(encoded(f"{username}:{password}")) == (username, password)
