import re

import pytest

from console.api.routes import PREFIX, ROUTES
from console.identity import Access, Permission


def prefix() -> re.Pattern[str]:
    return re.compile(PREFIX.replace("{version:", "(").replace("}", ")"))


@pytest.mark.parametrize("path", ["/api/v1", "/api/v34.04", "/api/v1.0", "/api/v22.12"])
def test_versions_of_the_path(path: str) -> None:
    assert prefix().fullmatch(path)


@pytest.mark.parametrize(
    "path", ["/api/v2", "/api/v", "/api/v1.", "/api/v.1", "/api/v1.2.3", "/api/v1x4", "/api/V1"]
)
def test_what_is_no_version(path: str) -> None:
    assert not prefix().fullmatch(path)


def test_each_route_is_there_once() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_what_changes_something_writes() -> None:
    for route in ROUTES:
        assert route.method == "GET" or route.access is Access.WRITE


def test_what_holds_a_key_is_a_write() -> None:
    (bundle,) = (route for route in ROUTES if route.path == "/defenders/install-bundle")
    assert (bundle.permission, bundle.access) == (Permission.MANAGE_DEFENDERS, Access.WRITE)
