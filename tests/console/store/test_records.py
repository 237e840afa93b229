"""The values that go in and out."""

import re

import pytest

from console.store import (
    Admission,
    Applied,
    DefenderRecord,
    EventBatch,
    Outcome,
    SpoolState,
    defender_id,
)
from console.store.records import MAX_NUMBER, storable
from tests.console.store.samples import NOW, Happening, facts, generation, user


def test_an_id_comes_from_the_key_alone() -> None:
    assert defender_id(b"key") == defender_id(b"key") != defender_id(b"other")
    assert re.fullmatch(r"d-[a-z2-7]{20}", defender_id(b"key"))


def test_hashes_and_sealed_bytes_are_not_shown() -> None:
    assert "argon2id" not in repr(user())
    assert "sealed" not in repr(generation())


@pytest.mark.parametrize(
    ("epoch", "first", "next_", "dropped"),
    [
        ("e", 0, 1, 0),
        ("e", 3, 2, 0),
        ("e", 1, MAX_NUMBER + 1, 0),
        ("e", 1, 1, -1),
        ("", 1, 1, 0),
        ("e\0", 1, 1, 0),
    ],
)
def test_a_spool_that_cannot_be_is_refused(epoch: str, first: int, next_: int, dropped: int) -> None:
    with pytest.raises(ValueError, match=r"run from 1|printable"):
        SpoolState(epoch, first, next_, dropped)


@pytest.mark.parametrize(
    ("epoch", "first", "dropped"),
    [("e", 0, 0), ("e", MAX_NUMBER, 0), ("e", 1, -1), ("", 1, 0), ("\ud800", 1, 0)],
)
def test_a_batch_that_cannot_be_is_refused(epoch: str, first: int, dropped: int) -> None:
    with pytest.raises(ValueError, match=r"run from 1|printable"):
        EventBatch("d-x", 1, epoch, first, [Happening(), Happening()], dropped)


def test_the_greatest_numbers_are_taken() -> None:
    assert SpoolState("e", MAX_NUMBER, MAX_NUMBER, MAX_NUMBER).first == MAX_NUMBER
    assert EventBatch("d-x", 1, "e", MAX_NUMBER, [Happening()]).first == MAX_NUMBER


def test_what_comes_next_follows_what_is_settled() -> None:
    assert Applied("d-x", "e", Outcome.GAP, 7).expected == 8


def test_an_admission_has_its_records_session() -> None:
    record = DefenderRecord("d-x", b"", facts(), NOW, NOW, NOW, True, 5, "", NOW, "", False)
    assert Admission(record, "e", 0, new=True, missing=0).session == 5


@pytest.mark.parametrize(("text", "kept"), [("plain ü", "plain ü"), ("a\0b", "a?b"), ("\ud800x", "?x")])
def test_text_is_made_storable(text: str, kept: str) -> None:
    assert storable(text) == kept
