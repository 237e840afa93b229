"""A small fleet is drained by a real Console, and the books are compared: no times."""

from pathlib import Path

import pytest

from tests.bench.defenders import defenders
from tests.bench.drain import Drained, _detail, _note, drain, gaps
from tests.bench.ledger import Account, accounts, wrong
from tests.bench.swaps import console_with_operator
from tests.bench.workshop import Workshop

# The tools of the slow proofs: proved where those are.
pytestmark = pytest.mark.slow

DEFENDERS = 20
GOOD, SHORT = Account("one", 3, 3, 3, 3, 0), Account("two", 3, 1, 1, 1, 0)
TOLD = {
    "created": 6,
    "acknowledged": 6,
    "posted": 7,
    "overstayed": 0,
    "lost": {"1006": 1},
    "failed": {},
}


def test_a_fleet_moves_and_its_events_are_all_there(bare_workshop: Workshop, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    more = ("--events-per-minute", "120", "--settle", "20", "--ledger", ledger)
    with (
        console_with_operator(bare_workshop, "console") as (console, swapper, _, clients),
        defenders(bare_workshop, console.server, DEFENDERS, *more, certificates=clients) as load,
    ):
        found = drain(console, swapper, load, DEFENDERS)
        load.close_input()
        told = load.answer(40)
    assert found.cpu > 0
    assert 0 < found.seconds < found.over
    assert (told["moved"], told["lost"], told["failed"]) == (DEFENDERS, {}, {})
    assert told["created"] == told["acknowledged"] > 0
    assert wrong(accounts(ledger, console.data)) == []


def test_a_gap_shows_in_the_note_and_in_the_table() -> None:
    books = [GOOD] * 10 + [SHORT]
    assert gaps(books) == (2, 2)
    assert gaps([GOOD] * 300 + [SHORT]) == (0, 2)
    assert _note(TOLD, books) == "1 lost, p99 gap 2 events, 1 accounts wrong"
    shown = _detail([Drained(20, 0.5, 4.0, 2.0, 5.0, 0.05, 0.1)], TOLD, books)
    assert shown.lines == (("drain 1", "20", "500", "4", "5", "2.0", "40%", "50", "100"),)
    assert 'sent twice 1, gap p99 2, max 2, accounts wrong 1 of 11, lost {"1006": 1}' in shown.title
