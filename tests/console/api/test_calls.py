from console.api.calls import NOBODY, answer, come_back, refuse, unauthorized
from console.identity import Access, Busy, Permission, Throttled, may


def test_answers_are_json() -> None:
    response = answer(["a"], headers={"Total-Count": "1"})
    assert (response.status, response.body, response.content_type) == (200, b'["a"]', "application/json")
    assert response.headers["Total-Count"] == "1"


def test_refusals_have_the_products_form() -> None:
    response = refuse(400, "why")
    assert (response.status, response.body, response.content_type) == (
        400,
        b'{"err":"why"}',
        "application/json",
    )


def test_who_failed_too_often_and_who_comes_with_too_many() -> None:
    held, busy = come_back(Throttled(7)), come_back(Busy())
    assert (held.status, held.headers["Retry-After"]) == (429, "7")
    assert (busy.status, busy.headers["Retry-After"]) == (503, "1")


def test_a_challenge_names_both_schemes() -> None:
    challenge = unauthorized().headers["WWW-Authenticate"]
    assert "Bearer realm=" in challenge
    assert "Basic realm=" in challenge


def test_nobody_may_nothing() -> None:
    assert not any(may(NOBODY.role, permission, access) for permission in Permission for access in Access)
