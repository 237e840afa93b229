"""The comparison of what was posted with what is stored finds what is missing and what is there twice."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.bench.ledger import DATABASE, accounts, wrong

TABLES = """
CREATE TABLE spools (id INTEGER PRIMARY KEY, defender_id, epoch, missing, dropped);
CREATE TABLE events (id INTEGER PRIMARY KEY, spool_id, number);
"""


def found(folder: Path, numbers: list[int], *, created: int, missing: int = 0) -> bool:
    with sqlite3.connect(folder / DATABASE) as store:
        store.executescript(TABLES)
        store.execute("INSERT INTO spools VALUES (7, 'd-1', 'epoch', ?, 0)", (missing,))
        store.executemany("INSERT INTO events (spool_id, number) VALUES (7, ?)", [(n,) for n in numbers])
    store.close()
    ledger = folder / "ledger.json"
    ledger.write_text(json.dumps([{"name": "one", "id": "d-1", "epoch": "epoch", "created": created}]))
    return not wrong(accounts(ledger, folder))


def test_all_of_them_once(tmp_path: Path) -> None:
    assert found(tmp_path, [1, 2, 3], created=3)


def test_none_at_all(tmp_path: Path) -> None:
    assert found(tmp_path, [], created=0)


@pytest.mark.parametrize("numbers", [[1, 3], [1, 2], [1, 2, 3, 3], [1, 2, 4], [1, 2, 3, 4], []])
def test_a_gap_a_tail_and_a_double_are_seen(tmp_path: Path, numbers: list[int]) -> None:
    assert not found(tmp_path, numbers, created=3)


def test_what_the_console_gave_up_is_seen(tmp_path: Path) -> None:
    assert not found(tmp_path, [1, 2, 3], created=3, missing=1)


def test_a_defender_that_the_store_does_not_know(tmp_path: Path) -> None:
    assert found(tmp_path, [1], created=1)
    ledger = tmp_path / "ledger.json"
    ledger.write_text(json.dumps([{"name": "two", "id": "d-2", "epoch": "epoch", "created": 1}]))
    (account,) = wrong(accounts(ledger, tmp_path))
    assert (account.name, account.gap) == ("two", 1)
