import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict

from console.api.query import DEFAULT_LIMIT, MAX_LIMIT, QueryError, parse_search
from console.fleet.directory import Search
from console.store import DefenderQuery, DefenderSort

KNOWN = (
    "offset", "limit", "sort", "reverse", "hostname", "role", "connected", "type", "latest",
    "supportedVersion", "cluster", "tasClusterIDs", "tasBlobstoreScanner", "tasFoundations", "usingOldCA",
    "usingExpiredCA", "isARM64", "isVPCObserver",
)  # fmt: skip


def parse(*pairs: tuple[str, str]) -> Search:
    return parse_search(MultiDict(pairs))


def test_nothing_asked() -> None:
    assert parse() == Search(DefenderQuery(limit=DEFAULT_LIMIT))


def test_everything_asked() -> None:
    assert parse(
        ("hostname", " web "),
        ("connected", "true"),
        ("type", "docker,daemonset"),
        ("type", "docker"),
        ("sort", "lastModified"),
        ("reverse", "1"),
        ("offset", "100"),
        ("limit", "10"),
        ("usingOldCA", "true"),
        ("usingExpiredCA", "False"),
        ("latest", "t"),
        ("supportedVersion", "f"),
        ("isARM64", "TRUE"),
        ("unknown", "ignored"),
        ("role", "ignored"),
    ) == Search(
        DefenderQuery(
            hostname="web",
            connected=True,
            types=("docker", "daemonset"),
            sort=DefenderSort.LAST_MODIFIED,
            reverse=True,
            offset=100,
            limit=10,
        ),
        using_old_ca=True,
        certificate_expired=False,
        latest=True,
        supported=False,
        arm64=True,
    )


def test_empty_means_not_asked() -> None:
    assert parse(*((name, "") for name in KNOWN)) == parse()


@pytest.mark.parametrize(
    ("name", "value", "nothing"),
    [
        ("cluster", "east", True),
        ("tasClusterIDs", "x", True),
        ("tasFoundations", "x,y", True),
        ("tasBlobstoreScanner", "true", True),
        ("tasBlobstoreScanner", "false", False),
        ("isVPCObserver", "1", True),
        ("isVPCObserver", "0", False),
    ],
)
def test_what_no_defender_of_ours_is(name: str, value: str, nothing: bool) -> None:
    assert parse((name, value)).nothing is nothing


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connected", "maybe"),
        ("isARM64", "2"),
        ("limit", "-1"),
        ("limit", str(MAX_LIMIT + 1)),
        ("limit", "9" * 5000),
        ("limit", "1.5"),
        ("limit", "٣"),
        ("offset", "x"),
        ("offset", "10000001"),
        ("sort", "password"),
    ],
)
def test_malformed_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(QueryError, match=rf"^{name}: write "):
        parse((name, value))


def test_a_limit_of_zero_is_the_default() -> None:
    assert parse(("limit", "0")).stored.limit == DEFAULT_LIMIT


@given(st.lists(st.tuples(st.sampled_from(KNOWN), st.text(max_size=20)), max_size=6))
@settings(deadline=None, max_examples=100)
def test_any_query_is_bounded_or_refused(pairs: list[tuple[str, str]]) -> None:
    try:
        search = parse(*pairs)
    except QueryError:
        return
    assert search.stored.limit is not None
    assert 1 <= search.stored.limit <= MAX_LIMIT
    assert search.stored.offset >= 0
