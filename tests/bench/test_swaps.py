"""The measurements of swaps, in small, against a real Console: counts and no times."""

import pytest

from tests.bench.errors import BenchError
from tests.bench.probes import Channel
from tests.bench.scale import Scale
from tests.bench.swaps import (
    Latencies,
    _call_row,
    _detail,
    _latency_rows,
    console_with_operator,
    swapping,
    watch_swaps,
)
from tests.bench.workshop import Workshop

# The tools of the slow proofs: proved where those are.
pytestmark = pytest.mark.slow

SMALL = Scale(rounds=1, seconds=0.3, warm=0.1, idle=20, swaps=2, watch=0.5, quiet=True)
FOUND = Latencies("with events", 1.0, (0.25, 0.5), 100, {"reset": 1}, 2)


def test_probes_see_each_swap_on_both_ports(bare_workshop: Workshop) -> None:
    found = watch_swaps(bare_workshop, SMALL, "with events", 1.0)
    assert len(found.seconds) == SMALL.swaps * len(Channel)
    assert (found.outcomes, found.strays) == ({}, 0)
    assert found.attempts > 0


def test_an_operator_swaps_until_told_to_stop(
    bare_workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with console_with_operator(bare_workshop, "console") as (console, swapper, _, _):
        with swapping(swapper):
            console.log.wait("WebSocket custom certificates rotated")
        assert len(swapper.swaps[Channel.WEBSOCKET]) == swapper.rotated() >= 1
        monkeypatch.setattr("tests.bench.custom.SWAP_SECONDS", 0.0)
        with pytest.raises(BenchError, match="no line like"), swapping(swapper):
            pass


def test_a_latency_is_shown_beside_its_bound() -> None:
    p50, p99 = _latency_rows(FOUND)
    assert (p50.ours, p99.ours, p99.peers) == ((500,), (500,), (1000,))
    assert p99.note == "3 of 100 connections failed or met another certificate"
    assert _detail([FOUND]).lines == (("with events", "2", "500", "500", "500", "100", "1 reset", "2"),)


def test_a_call_is_shown_with_its_handshake() -> None:
    row = _call_row(Channel.HTTPS, [(0.001, 0.002), (0.001, 0.002), (0.001, 0.004)])
    assert (row.ours, row.peers, row.note) == ((2,), (5,), "p99 4 ms; the call alone 1 ms")
