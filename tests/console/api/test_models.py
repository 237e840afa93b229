import json
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from console.api.models import AuthenticationRequest, DefenderInstallBundle, Error, summary, to_second
from console.fleet.directory import Category, Tally


def test_secrets_do_not_show() -> None:
    asked = AuthenticationRequest(username="u", password="hidden", token="hidden")
    assert "hidden" not in repr(asked)
    assert "u" in repr(asked)
    assert "hidden" not in repr(DefenderInstallBundle(install_bundle="hidden", ws_address="wss://c:8084"))


def test_requests_refuse_unknown_fields() -> None:
    assert msgspec.json.decode(b'{"username": "u"}', type=AuthenticationRequest).username == "u"
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"user": "u"}', type=AuthenticationRequest)


def test_times_are_utc_to_the_second() -> None:
    east = timezone(timedelta(hours=2))
    time = datetime(2026, 1, 1, 1, 0, 0, 999_999, tzinfo=east)
    assert to_second(time) == datetime(2025, 12, 31, 23, 0, tzinfo=UTC)
    assert msgspec.json.encode(to_second(time)) == b'"2025-12-31T23:00:00Z"'


def test_licensed_is_deployed() -> None:
    assert json.loads(msgspec.json.encode(summary(Category.HOST, Tally(3, 1)))) == {
        "category": "host",
        "deployed": 3,
        "connected": 1,
        "licensed": 3,
    }


def test_errors_have_the_products_form() -> None:
    assert msgspec.json.encode(Error("why")) == b'{"err":"why"}'
