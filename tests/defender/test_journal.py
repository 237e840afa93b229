import logging

from common.logging import TextFormatter
from defender.journal import MAX_BYTES, MAX_LINE, MAX_LINES, Journal


def journal_of(*messages: str) -> Journal:
    journal = Journal(logging.Formatter("%(message)s"))
    for message in messages:
        journal.handle(logging.makeLogRecord({"msg": message}))
    return journal


def test_the_last_lines_come_oldest_first() -> None:
    assert journal_of("a", "b", "c").tail(lines=2) == ["b", "c"]
    assert journal_of().tail() == []


def test_it_is_bounded_in_lines() -> None:
    tail = journal_of(*map(str, range(MAX_LINES + 10))).tail()
    assert tail == [str(number) for number in range(10, MAX_LINES + 10)]


def test_it_is_bounded_in_bytes() -> None:
    tail = journal_of(*["x" * (MAX_LINE * 2)] * 100).tail()
    assert {len(line) for line in tail} == {MAX_LINE}
    assert len(tail) == MAX_BYTES // MAX_LINE


def test_a_tail_is_bounded_by_what_is_asked_for() -> None:
    journal = journal_of("aaaa", "bb", "c")
    assert journal.tail(size=3) == ["bb", "c"]
    assert journal.tail(size=0) == []


def test_lines_look_as_in_the_log() -> None:
    journal = Journal(TextFormatter())
    journal.handle(
        logging.makeLogRecord({"msg": "hello", "levelno": logging.INFO, "filename": "x.py", "lineno": 7})
    )
    assert journal.tail()[0].startswith("INFO ")
    assert journal.tail()[0].endswith("x.py:7 hello")
