"""What a replaced generation's connections are given, decided without a socket."""

import ssl
from typing import Any

import pytest

from console.turnover import Drain, DrainBounds, HTTPSGeneration, generation_of

BOUNDS = DrainBounds(handshakes=10, requests=300, waiting=135)
NAME = "0123456789abcdef" * 4


class Connection:
    """As much of a transport as a drain looks at."""

    def __init__(
        self, generation: HTTPSGeneration, *, answering: bool = False, closing: bool = False
    ) -> None:
        self.answering = answering
        self.closing = closing
        self.generation = generation
        generation.connections.add(self)  # type: ignore[arg-type]

    def is_closing(self) -> bool:
        return self.closing

    def end(self) -> None:
        self.generation.connections.discard(self)


def due(drain: Drain, now: float) -> list[Any]:
    def is_answering(connection: Any) -> bool:
        return bool(connection.answering)

    return [*drain.due(now, is_answering)]


@pytest.fixture
def generation() -> HTTPSGeneration:
    return HTTPSGeneration(NAME, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def replaced(generation: HTTPSGeneration) -> Drain:
    generation.replace(1000.0)
    return Drain(generation, BOUNDS)


def test_who_waits_is_told_once_of_the_swap(generation: HTTPSGeneration) -> None:
    told: list[str] = []

    def callback() -> None:
        told.append("once")

    for _ in range(3):
        generation.tell(callback)
    generation.tell(lambda: told.append("another"))
    assert generation.remaining(30.0, 5.0) == float("inf")
    generation.replace(1000.0)
    assert sorted(told) == ["another", "once"]
    assert generation.remaining(30.0, 1012.0) == 18.0
    assert generation.remaining(0.0, 1000.0) == 0.0


def test_a_generation_is_over_when_nobody_is_left_and_nobody_can_come(generation: HTTPSGeneration) -> None:
    early = Connection(generation)
    drain = replaced(generation)
    assert drain.left == 1
    assert not drain.over(1011.0)
    early.end()
    # A handshake that began before the swap may still become a connection.
    assert not drain.over(1009.0)
    late = Connection(generation)
    assert not drain.over(1011.0)
    late.end()
    assert drain.over(1011.0)
    assert drain.line(1011.0) == (
        "Console HTTPS: nobody is connected on the replaced certificates (0123456789abcdef) any more, "
        "11 s after the swap"
    )


def test_only_who_answers_is_cut_at_the_bound(generation: HTTPSGeneration) -> None:
    busy, waiting = Connection(generation, answering=True), Connection(generation)
    closing = Connection(generation, answering=True, closing=True)
    drain = replaced(generation)
    assert due(drain, 1299.9) == []
    assert due(drain, 1300.0) == [busy]
    for connection in (busy, closing):
        connection.end()
    # What comes to it now is answered, and isn't cut at the next look.
    waiting.answering = True
    assert due(drain, 1300.5) == []
    assert due(drain, 1434.9) == []
    assert due(drain, 1435.0) == [waiting]
    waiting.end()
    assert drain.cut == 2
    assert drain.over(1435.5)
    assert drain.line(1435.5).endswith(
        "any more, 436 s after the swap; 2 requests still under way were cut off after 300 s"
    )


def test_one_that_is_cut_is_said_in_the_singular(generation: HTTPSGeneration) -> None:
    Connection(generation, answering=True)
    drain = replaced(generation)
    due(drain, 1300.0)
    assert drain.line(1301.0).endswith("; 1 request that was still under way was cut off after 300 s")


def test_a_lost_connection_has_no_generation() -> None:
    assert generation_of(None) is None
