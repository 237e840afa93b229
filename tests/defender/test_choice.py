import math
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.certificates import Source
from common.protocol import ReconnectAsked
from defender.choice import Choice
from defender.credentials import Credentials
from tests.defender.pki import Pki

NOW: Final = datetime.now(UTC)
GRACE: Final = 300.0
CUSTOM, GENERATED = Source.CUSTOM, Source.GENERATED

_ONE: Final = Pki.create()
_OTHER: Final = Pki.create()
_SETS: Final = (
    _ONE.credentials(GENERATED, "generated"),
    _ONE.reissued().credentials(CUSTOM, "custom"),
    _ONE.reissued().credentials(CUSTOM, "custom"),
    _OTHER.credentials(CUSTOM, "custom"),
)
GENERATED_SET, CUSTOM_SET, RENEWED, ELSEWHERE = _SETS
"""The first three trust `_ONE`, the last only `_OTHER`."""
CONSOLE: Final = (_ONE.server.certificate.der, _ONE.authority.certificate.der)


def choice(credentials: Credentials, *, proved: bool = True) -> Choice:
    made = Choice(credentials, grace=GRACE)
    if proved:
        assert made.welcomed(credentials, CONSOLE, now=0.0, wall=NOW)
    return made


def offered(made: Choice, credentials: Credentials, now: float = 10.0) -> bool:
    return made.offer(credentials, now=now, wall=NOW)


def test_with_one_set_there_is_nothing_to_choose() -> None:
    made = choice(CUSTOM_SET, proved=False)
    assert made.sets(0.0) == (CUSTOM_SET,)
    assert made.ends(CUSTOM_SET) == math.inf
    assert made.move(CUSTOM_SET, asked=None, renewed=False, now=0.0) is None


def test_the_one_before_stays_until_the_new_one_is_proved() -> None:
    made = choice(GENERATED_SET)
    assert offered(made, CUSTOM_SET)
    assert made.sets(1e9) == (CUSTOM_SET, GENERATED_SET)
    assert made.welcomed(CUSTOM_SET, CONSOLE, now=11.0, wall=NOW)
    assert made.sets(11.0) == (CUSTOM_SET,)


def test_what_never_was_proved_gives_way() -> None:
    made = choice(GENERATED_SET)
    offered(made, CUSTOM_SET)
    offered(made, RENEWED)
    assert made.sets(10.0) == (RENEWED, GENERATED_SET)


def test_before_anything_is_proved_the_first_one_stays() -> None:
    """The Console may have been away since we started."""
    made = choice(GENERATED_SET, proved=False)
    offered(made, CUSTOM_SET)
    offered(made, RENEWED)
    assert made.sets(1e9) == (RENEWED, GENERATED_SET)


def test_an_operator_who_takes_a_set_back() -> None:
    made = choice(CUSTOM_SET)
    offered(made, RENEWED)
    assert offered(made, CUSTOM_SET)
    assert made.sets(10.0) == (CUSTOM_SET,)
    assert made.move(CUSTOM_SET, asked=None, renewed=False, now=10.0) is None


def test_a_set_that_was_proved_once_has_to_be_proved_again_when_it_comes_back() -> None:
    """The Console may have moved on meanwhile."""
    made = choice(CUSTOM_SET)
    offered(made, RENEWED)
    made.welcomed(RENEWED, CONSOLE, now=11.0, wall=NOW)
    offered(made, CUSTOM_SET)
    assert made.sets(12.0) == (CUSTOM_SET, RENEWED)
    assert not made.welcomed(CUSTOM_SET, CONSOLE, now=13.0, wall=NOW)
    assert made.sets(13.0) == (CUSTOM_SET,)


def test_the_same_set_from_elsewhere_is_no_other_but_counts_as_found_there() -> None:
    made = choice(GENERATED_SET)
    copied = _ONE.credentials(CUSTOM, "custom")
    assert not offered(made, copied)
    assert made.sets(10.0) == (copied,)
    # So that what replaces it is judged as what it is: a removal.
    offered(made, ELSEWHERE)
    assert made.ends(copied) == 10.0 + GRACE


# What a deployment brings


def test_the_fallback_is_renewed_by_a_set_of_its_source() -> None:
    made = choice(GENERATED_SET)
    offered(made, CUSTOM_SET)
    newer = _OTHER.reissued().credentials(GENERATED)
    assert made.renew(newer, now=20.0, wall=NOW)
    assert made.sets(1e9) == (CUSTOM_SET, newer)
    assert not made.renew(newer, now=20.0, wall=NOW)
    assert not made.renew(RENEWED, now=20.0, wall=NOW)
    assert made.sets(1e9) == (CUSTOM_SET, newer)


def test_where_there_is_no_fallback_none_is_made() -> None:
    made = choice(CUSTOM_SET)
    assert not made.renew(GENERATED_SET, now=20.0, wall=NOW)
    assert made.sets(20.0) == (CUSTOM_SET,)


# Removed trust


def test_trust_that_was_removed_ends_after_its_grace() -> None:
    made = choice(CUSTOM_SET)
    offered(made, ELSEWHERE)
    assert made.ends(CUSTOM_SET) == 10.0 + GRACE
    assert made.ends(ELSEWHERE) == math.inf
    assert made.sets(10.0 + GRACE - 1) == (ELSEWHERE, CUSTOM_SET)
    assert made.sets(10.0 + GRACE) == (ELSEWHERE,)


def test_a_renewed_leaf_of_the_same_ca_removes_nothing() -> None:
    made = choice(CUSTOM_SET)
    offered(made, RENEWED)
    assert made.ends(CUSTOM_SET) == math.inf


def test_another_source_is_no_removal() -> None:
    made = choice(GENERATED_SET)
    offered(made, ELSEWHERE)
    assert made.ends(GENERATED_SET) == math.inf


def test_without_grace_it_ends_at_once() -> None:
    made = Choice(CUSTOM_SET, grace=0.0)
    made.welcomed(CUSTOM_SET, CONSOLE, now=0.0, wall=NOW)
    offered(made, ELSEWHERE)
    assert made.sets(10.0) == (ELSEWHERE,)
    assert made.ends(CUSTOM_SET) == 10.0


def test_a_grace_is_not_prolonged_by_yet_another_set() -> None:
    made = choice(CUSTOM_SET)
    offered(made, ELSEWHERE, now=10.0)
    offered(made, _OTHER.reissued().credentials(CUSTOM), now=200.0)
    assert made.ends(CUSTOM_SET) == 10.0 + GRACE


def test_what_is_welcomed_after_its_end_has_no_second_grace() -> None:
    """The attempt began before."""
    made = choice(CUSTOM_SET)
    offered(made, ELSEWHERE, now=10.0)
    late = made.sets(10.0 + GRACE - 1)[1]
    offered(made, _OTHER.reissued().credentials(CUSTOM), now=10.0 + GRACE + 1)
    made.welcomed(late, CONSOLE, now=10.0 + GRACE + 2, wall=NOW)
    assert made.ends(late) == 10.0 + GRACE
    assert made.sets(10.0 + GRACE + 2) == (made.wanted,)


def test_a_connection_that_is_ending_is_not_prolonged_by_another_set() -> None:
    """It takes a moment to close; what is offered meanwhile has an end of its own."""
    made = choice(CUSTOM_SET)
    offered(made, ELSEWHERE, now=10.0)
    offered(made, _OTHER.reissued().credentials(CUSTOM), now=10.0 + GRACE + 1)
    assert made.ends(CUSTOM_SET) == 10.0 + GRACE
    assert made.ends(ELSEWHERE) == 10.0 + GRACE + 1 + GRACE


def test_a_set_that_is_brought_back_after_its_end_is_trusted_again() -> None:
    made = choice(CUSTOM_SET)
    offered(made, ELSEWHERE, now=10.0)
    offered(made, CUSTOM_SET, now=10.0 + GRACE + 1)
    assert made.ends(CUSTOM_SET) == math.inf
    made.welcomed(CUSTOM_SET, CONSOLE, now=1000.0, wall=NOW)
    # And if it is removed once more, it has a grace once more.
    offered(made, ELSEWHERE, now=2000.0)
    assert made.ends(CUSTOM_SET) == 2000.0 + GRACE


def test_trust_that_is_given_back_has_no_end() -> None:
    made = choice(CUSTOM_SET)
    offered(made, ELSEWHERE)
    offered(made, RENEWED, now=20.0)
    assert made.ends(CUSTOM_SET) == math.inf
    assert made.sets(1e9) == (RENEWED, CUSTOM_SET)


def test_a_console_that_was_never_seen_is_not_vouched_for() -> None:
    made = choice(CUSTOM_SET, proved=False)
    offered(made, RENEWED)
    assert made.ends(CUSTOM_SET) == 10.0 + GRACE


def test_what_is_welcomed_after_it_was_replaced_is_what_was_proved_last() -> None:
    """An attempt may begin with a set that is replaced before it is done."""
    made = choice(GENERATED_SET)
    offered(made, CUSTOM_SET)
    offered(made, ELSEWHERE)
    made.welcomed(CUSTOM_SET, CONSOLE, now=20.0, wall=NOW)
    assert made.sets(20.0) == (ELSEWHERE, CUSTOM_SET)
    assert made.ends(CUSTOM_SET) == 20.0 + GRACE


# Reasons to move


def test_the_console_asks_first_then_the_spool_then_the_certificates() -> None:
    made = choice(GENERATED_SET)
    offered(made, CUSTOM_SET)
    asked = ReconnectAsked(20.0, 30.0, "a drain")
    move = made.move(GENERATED_SET, asked=asked, renewed=True, now=10.0)
    assert move is not None
    assert (move.reason, move.at, move.asked) == ("a drain", 20.0, asked)
    assert move.sets == (CUSTOM_SET, GENERATED_SET)
    move = made.move(GENERATED_SET, asked=None, renewed=True, now=10.0)
    assert move is not None
    assert (move.reason, move.sets) == ("the spool began a new epoch", (CUSTOM_SET, GENERATED_SET))
    assert (move.at, move.asked) == (-math.inf, None)
    move = made.move(GENERATED_SET, asked=None, renewed=False, now=10.0)
    assert move is not None
    # Another connection over the set that it is made with already would be worth nothing.
    assert (move.reason, move.sets) == ("the certificates of custom are to be used", (CUSTOM_SET,))
    assert made.move(CUSTOM_SET, asked=None, renewed=False, now=10.0) is None


def test_the_same_reason_is_equal_another_is_not() -> None:
    made = choice(GENERATED_SET)
    offered(made, CUSTOM_SET)
    one = made.move(GENERATED_SET, asked=None, renewed=False, now=10.0)
    assert one == made.move(GENERATED_SET, asked=None, renewed=False, now=99.0)
    offered(made, RENEWED)
    assert one != made.move(GENERATED_SET, asked=None, renewed=False, now=99.0)


# What the Console is told


def test_it_tells_both_with_that_of_the_connection_first() -> None:
    made = choice(GENERATED_SET)
    (held,) = made.held(GENERATED_SET, 0.0)
    assert (held.fingerprint, held.source, held.proved) == (
        GENERATED_SET.set.leaf.fingerprint,
        "generated",
        True,
    )
    offered(made, CUSTOM_SET)
    for using, others in ((CUSTOM_SET, GENERATED_SET), (GENERATED_SET, CUSTOM_SET)):
        held, other = made.held(using, 10.0)
        assert held.fingerprint == using.set.leaf.fingerprint
        assert other.fingerprint == others.set.leaf.fingerprint
        assert {held.source: held.proved, other.source: other.proved} == {"generated": True, "custom": False}


STEPS = st.lists(
    st.tuples(st.sampled_from(["offer", "welcome", "try"]), st.integers(0, 3), st.integers(0, 400)),
    max_size=12,
)


@given(st.integers(0, 3), STEPS)
def test_whatever_happens_there_is_a_set_to_try_and_what_worked_last_is_not_given_up_untimely(
    first: int, steps: list[tuple[str, int, int]]
) -> None:
    made, now = Choice(_SETS[first], grace=GRACE), 0.0
    proved: Credentials | None = None
    ends = math.inf
    for what, number, seconds in steps:
        now += seconds
        if now >= ends:  # What has ended once doesn't come back by another set.
            proved, ends = None, math.inf
        before = proved
        if what == "offer":
            offered(made, _SETS[number], now)
            assert made.wanted is _SETS[number]
        elif what == "welcome":
            # Only over what it would try.
            tried = made.sets(now)
            proved = tried[number % len(tried)]
            made.welcomed(proved, CONSOLE, now=now, wall=NOW)
        sets = made.sets(now)
        assert sets[0] is made.wanted
        assert 1 <= len(sets) <= 2
        if proved is None or proved.same(made.wanted):
            ends = math.inf
            continue
        removed = made.wanted is ELSEWHERE and proved.set.source is CUSTOM
        earlier = ends if before is not None and before.same(proved) else math.inf
        # Proved anew by a Console that was seen only now, it may have been in doubt before that.
        assert made.ends(proved) <= min(earlier, now + GRACE) if removed else made.ends(proved) == math.inf
        ends = made.ends(proved)
        assert any(one.same(proved) for one in sets) == (now < ends)


@pytest.mark.parametrize("using", _SETS)
def test_no_connection_ends_over_the_wanted_set(using: Credentials) -> None:
    made = choice(CUSTOM_SET)
    offered(made, using)
    assert made.ends(using) == math.inf
