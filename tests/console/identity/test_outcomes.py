from console.identity.outcomes import Busy, Principal


def test_a_password_gives_a_principal_without_an_end() -> None:
    principal = Principal("u", "admin")
    assert (principal.session, principal.issued, principal.expires) == ("", None, None)


def test_busy_is_over_soon() -> None:
    assert Busy().retry_after == 1
