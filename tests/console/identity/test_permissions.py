import pytest

from console.api.routes import ROUTES
from console.identity.permissions import ADMIN, AUDITOR, DEFENDER_MANAGER, ROLES, Access, Permission, may


def allowed(role: str) -> set[str]:
    return {route.path for route in ROUTES if may(role, route.permission, route.access)}


EVERYTHING = {route.path for route in ROUTES}


@pytest.mark.parametrize(
    ("role", "paths"),
    [
        (ADMIN, EVERYTHING),
        (DEFENDER_MANAGER, EVERYTHING),
        # Signing in is a write, and asks for no role.
        (AUDITOR, EVERYTHING - {"/defenders/install-bundle", "/signup", "/authenticate"}),
        ("nobody", set()),
        ("", set()),
    ],
)
def test_roles_and_routes(role: str, paths: set[str]) -> None:
    assert allowed(role) == paths


def test_who_reads_cannot_take_a_key() -> None:
    assert may(AUDITOR, Permission.MANAGE_DEFENDERS, Access.READ)
    assert not may(AUDITOR, Permission.MANAGE_DEFENDERS, Access.WRITE)


def test_whoever_writes_reads() -> None:
    for role in ROLES:
        for permission in Permission:
            assert may(role, permission, Access.READ) >= may(role, permission, Access.WRITE)
