import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.identity.tokens import ALGORITHM, AUDIENCE, LIFETIME, MAX_TOKEN_CHARACTERS, TokenSigner
from tests.console.api.world import START as NOW


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def claims(**changed: Any) -> dict[str, Any]:
    now = int(NOW.timestamp())
    return {"sub": "u", "role": "admin", "jti": "x", "iat": now, "exp": now + 60, "aud": AUDIENCE} | changed


def test_a_token_is_its_holders_for_thirty_minutes() -> None:
    signer = TokenSigner()
    token = signer.issue("zoë", "admin", NOW)
    found = signer.verify(token, NOW)
    assert found is not None
    assert (found.username, found.role, found.issued, found.expires) == ("zoë", "admin", NOW, NOW + LIFETIME)
    assert signer.verify(token, NOW + LIFETIME - timedelta(seconds=1)) is not None
    assert signer.verify(token, NOW + LIFETIME) is None


def test_it_looks_like_the_products() -> None:
    header = jwt.get_unverified_header(TokenSigner().issue("u", "admin", NOW))
    assert header == {"alg": "HS256", "typ": "JWT"}


def test_each_token_is_another() -> None:
    signer = TokenSigner()
    assert signer.issue("u", "admin", NOW) != signer.issue("u", "admin", NOW)


def test_another_process_does_not_take_it() -> None:
    assert TokenSigner().verify(TokenSigner().issue("u", "admin", NOW), NOW) is None


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "None", "typ": "JWT"}, {"alg": "HS256"}, {}])
def test_unsigned_and_unkeyed(header: dict[str, str]) -> None:
    body = f"{part(header)}.{part(claims())}"
    for token in (f"{body}.", body, f"{body}.AAAA", f"{body}.{part('')}"):
        assert TokenSigner().verify(token, NOW) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "another"},
        {"aud": None},
        {"exp": int(NOW.timestamp()) - 1},
        {"algorithm": "HS512"},
        {"missing": "jti"},
        {"missing": "exp"},
        {"missing": "aud"},
        {"missing": "sub"},
    ],
)
def test_our_key_is_not_enough(changed: dict[str, Any]) -> None:
    signer = TokenSigner()
    algorithm = changed.pop("algorithm", ALGORITHM)
    missing = changed.pop("missing", None)
    body = {key: value for key, value in claims(**changed).items() if key != missing}
    token = jwt.encode(body, signer._key * 2, algorithm=algorithm)
    assert signer.verify(token, NOW) is None
    again = jwt.encode(body, signer._key, algorithm="HS256") if algorithm == ALGORITHM else token
    assert signer.verify(again, NOW) is None


def test_overlong_is_not_looked_at() -> None:
    assert TokenSigner().verify("x" * (MAX_TOKEN_CHARACTERS + 1), NOW) is None


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=100)
def test_any_text_is_no_token(text: str) -> None:
    assert TokenSigner().verify(text, NOW) is None


@given(st.integers(0, 300), st.characters(codec="ascii"))
@settings(deadline=None, max_examples=100)
def test_a_changed_token_is_no_token(place: int, character: str) -> None:
    signer = TokenSigner()
    token = signer.issue("u", "admin", NOW)
    place %= len(token)
    changed = token[:place] + character + token[place + 1 :]
    found = signer.verify(changed, datetime(2026, 11, 21, 20, 0, tzinfo=UTC))
    # The last character of the signature has two bits that mean nothing.
    assert changed == token or found is None or place == len(token) - 1
