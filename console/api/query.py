"""The query of a Defenders list → a Search, as a pure function.

Parameters are those of api.json's `GET /api/v1/defenders`. One that is unknown is ignored, as the product
does: clients send what their version knows. One that is known but malformed is refused, for a filter that is
silently dropped answers another question. Lists may be repeated (`type=a&type=b`) or joined (`type=a,b`).
"""

from collections.abc import Iterable
from typing import Final

from multidict import MultiMapping

from console.fleet.directory import Search
from console.store import DefenderQuery, DefenderSort

DEFAULT_LIMIT: Final = 50
"""The product's page; its clients advance by it."""
MAX_LIMIT: Final = 500
MAX_OFFSET: Final = 10_000_000

# What api.json can ask for and no Defender of ours is, so far: asking for it finds none.
_ABSENT_LISTS: Final = ("cluster", "tasClusterIDs", "tasFoundations")
_ABSENT_FLAGS: Final = ("tasBlobstoreScanner", "isVPCObserver")

_SORTS: Final = {sort.value: sort for sort in DefenderSort}

# strconv.ParseBool's words: the product is written in Go.
_FLAGS: Final = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class QueryError(ValueError):
    """A parameter that cannot be meant; its text is for the client."""


def parse_search(query: MultiMapping[str]) -> Search:
    """What a list's query asks for.

    Raises:
        QueryError: naming the first parameter that is malformed.
    """
    stored = DefenderQuery(
        hostname=query.get("hostname", "").strip(),
        connected=_flag(query, "connected"),
        types=_list(query, "type"),
        sort=_sort(query),
        reverse=_flag(query, "reverse") or False,
        offset=_number(query, "offset", default=0, most=MAX_OFFSET),
        limit=_number(query, "limit", default=DEFAULT_LIMIT, most=MAX_LIMIT) or DEFAULT_LIMIT,
    )
    return Search(
        stored,
        using_old_ca=_flag(query, "usingOldCA"),
        certificate_expired=_flag(query, "usingExpiredCA"),
        latest=_flag(query, "latest"),
        supported=_flag(query, "supportedVersion"),
        arm64=_flag(query, "isARM64"),
        nothing=any(_list(query, name) for name in _ABSENT_LISTS)
        or any(_flag(query, name) for name in _ABSENT_FLAGS),
    )


def _flag(query: MultiMapping[str], name: str) -> bool | None:
    text = query.get(name, "")
    if not text:
        return None
    try:
        return _FLAGS[text.lower()]
    except KeyError:
        raise QueryError(f"{name}: write true or false") from None


def _number(query: MultiMapping[str], name: str, *, default: int, most: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    # Length first: int() of a long text takes quadratic time.
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or int(text) > most:
        raise QueryError(f"{name}: write a whole number from 0 to {most}")
    return int(text)


def _list(query: MultiMapping[str], name: str) -> tuple[str, ...]:
    values = query.getall(name, [])
    return tuple(dict.fromkeys(_nonempty(item for value in values for item in value.split(","))))


def _nonempty(items: Iterable[str]) -> Iterable[str]:
    return (item.strip() for item in items if item.strip())


def _sort(query: MultiMapping[str]) -> DefenderSort:
    text = query.get("sort", "")
    if not text:
        return DefenderSort.HOSTNAME
    if text not in _SORTS:
        raise QueryError(f"sort: write one of {', '.join(_SORTS)}")
    return _SORTS[text]
