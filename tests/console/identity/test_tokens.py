import base64
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.identity.outcomes import Principal
from console.identity.tokens import ALGORITHM, AUDIENCE, LIFETIME, MAX_TOKEN_CHARACTERS, TokenSigner
from tests.console.api.world import START as NOW

U = Principal("u", "admin")


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def claims(**changed: Any) -> dict[str, Any]:
    now = int(NOW.timestamp())
    own = {"sub": "u", "role": "admin", "jti": "x", "iat": now, "exp": now + 60, "aud": AUDIENCE}
    return own | {"sid": "s", "made": 0.0} | changed


def test_a_token_is_its_holders_for_thirty_minutes() -> None:
    signer = TokenSigner(start=500.0)
    token = signer.issue(Principal("zoë", "admin"), NOW, 1000.0)
    found = signer.verify(token, 1000.0)
    assert found is not None
    assert (found.username, found.role, found.issued, found.expires) == ("zoë", "admin", 1000.0, 2800.0)
    assert signer.verify(token, 2799.0) is not None
    assert signer.verify(token, 2800.0) is None


def test_clients_can_read_when_it_ends() -> None:
    token = TokenSigner(start=500.0).issue(U, NOW, 1000.0)
    said = jwt.decode(token, options={"verify_signature": False})
    assert (said["iat"], said["exp"]) == (NOW.timestamp(), (NOW + LIFETIME).timestamp())
    # How long the host is up is nobody's business.
    assert said["made"] == 500.0


def test_a_wall_clock_that_is_set_back_brings_nothing_back() -> None:
    signer = TokenSigner()
    token = signer.issue(U, NOW + timedelta(days=365), 0.0)
    assert signer.verify(token, LIFETIME.total_seconds()) is None
    assert signer.verify(signer.issue(U, NOW - timedelta(days=365), 0.0), 1.0) is not None


def test_a_login_is_a_session_that_renewed_tokens_stay_in() -> None:
    signer = TokenSigner()
    first = signer.verify(signer.issue(U, NOW, 0.0), 0.0)
    another = signer.verify(signer.issue(U, NOW, 0.0), 0.0)
    assert first is not None
    assert another is not None
    assert first.session != another.session
    renewed = signer.verify(signer.issue(first, NOW, 60.0), 60.0)
    assert renewed is not None
    assert (renewed.session, renewed.issued) == (first.session, 60.0)


@pytest.mark.parametrize("token", ["\xff.a.b", "\udcff.a.b", "é", "a.\udcff.b"])
def test_what_is_not_ascii_is_no_token(token: str) -> None:
    assert TokenSigner().verify(token, 0.0) is None


def test_a_strangers_header_is_not_taken_apart() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 1500).rstrip(b"=").decode()
    assert TokenSigner().verify(f"{deep}.e30.AAAA", 0.0) is None


def test_it_looks_like_the_products() -> None:
    header = jwt.get_unverified_header(TokenSigner().issue(U, NOW, 0.0))
    assert header == {"alg": "HS256", "typ": "JWT"}


def test_each_token_is_another() -> None:
    signer = TokenSigner()
    assert signer.issue(U, NOW, 0.0) != signer.issue(U, NOW, 0.0)


def test_another_process_does_not_take_it() -> None:
    assert TokenSigner().verify(TokenSigner().issue(U, NOW, 0.0), 0.0) is None


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "None", "typ": "JWT"}, {"alg": "HS256"}, {}])
def test_unsigned_and_unkeyed(header: dict[str, str]) -> None:
    body = f"{part(header)}.{part(claims())}"
    for token in (f"{body}.", body, f"{body}.AAAA", f"{body}.{part('')}"):
        assert TokenSigner().verify(token, 0.0) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "another"},
        {"aud": None},
        {"made": -1800.0},
        {"algorithm": "HS512"},
        {"missing": "jti"},
        {"missing": "exp"},
        {"missing": "aud"},
        {"missing": "sub"},
        {"missing": "sid"},
        {"missing": "made"},
    ],
)
def test_our_key_is_not_enough(changed: dict[str, Any]) -> None:
    signer = TokenSigner()
    algorithm = changed.pop("algorithm", ALGORITHM)
    missing = changed.pop("missing", None)
    body = {key: value for key, value in claims(**changed).items() if key != missing}
    token = jwt.encode(body, signer._key * 2, algorithm=algorithm)
    assert signer.verify(token, 0.0) is None
    again = jwt.encode(body, signer._key, algorithm="HS256") if algorithm == ALGORITHM else token
    assert signer.verify(again, 0.0) is None


def test_overlong_is_not_looked_at() -> None:
    assert TokenSigner().verify("x" * (MAX_TOKEN_CHARACTERS + 1), 0.0) is None


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=100)
def test_any_text_is_no_token(text: str) -> None:
    assert TokenSigner().verify(text, 0.0) is None


@given(st.integers(0, 300), st.characters(codec="ascii"))
@settings(deadline=None, max_examples=100)
def test_a_changed_token_is_no_token(place: int, character: str) -> None:
    signer = TokenSigner()
    token = signer.issue(U, NOW, 0.0)
    place %= len(token)
    changed = token[:place] + character + token[place + 1 :]
    found = signer.verify(changed, 0.0)
    # The last character of the signature has two bits that mean nothing.
    assert changed == token or found is None or place == len(token) - 1
