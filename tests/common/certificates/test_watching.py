"""What each look means, without files: a channel's set through hours of copying in no time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.certificates import FILES, CertificateSet, FaultKind, FileSet, Judgement, Role
from common.certificates.loader import judge_files
from common.certificates.model import Fault, Source
from common.certificates.watching import (
    AGAIN,
    CHANGING,
    DATES,
    QUIET,
    SETTLE,
    Age,
    Ageing,
    ChannelStatus,
    DirectoryState,
    Expired,
    Finding,
    Gone,
    Refused,
    Restored,
    Waiting,
    Watch,
)
from tests.common.certificates.pki import DAY, NOW, files_for, make_ca, make_client

ROLE = Role.DEFENDER_CLIENT
CA_FILE, CERT, KEY = FILES[ROLE].all
CA = make_ca("ca")
OTHER = make_ca("other")

HOUR = timedelta(hours=1)

Files = Mapping[str, bytes]
A = files_for(ROLE, make_client(CA, "a"), [CA])
B = files_for(ROLE, make_client(CA, "b"), [CA])
LATER = files_for(ROLE, make_client(CA, "later", begin=NOW + HOUR, end=NOW + 9 * DAY), [CA])
FOREIGN = files_for(ROLE, make_client(OTHER, "foreign"), [CA])


def without(files: Files, *names: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name not in names}


def set_of(files: Files) -> CertificateSet:
    judgement = judge_files(FileSet.from_bytes(ROLE, files), now=NOW, source=Source.CUSTOM)
    assert judgement.set is not None
    return judgement.set


@dataclass
class Driver:
    """Does with a Watch what the shell does."""

    watch: Watch = field(default_factory=lambda: Watch(ROLE))
    at: float = 1000.0
    now: datetime = NOW
    used: list[CertificateSet] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    judged: int = 0
    refuse: bool = False
    kind: FaultKind = FaultKind.UNTRUSTED

    def see(self, files: Files | FileSet, *, after: float = QUIET) -> None:
        """A look `after` seconds."""
        self.at += after
        self.now += timedelta(seconds=after)
        seen = files if isinstance(files, FileSet) else FileSet.from_bytes(ROLE, files)
        if self.watch.look(seen, at=self.at):
            self.judged += 1
            judgement = judge_files(seen, now=self.now, source=Source.CUSTOM)
            set_ = self.watch.judged(judgement, at=self.at)
            if set_ is not None and self.refuse:
                self.watch.refused((Fault(CERT, self.kind, "is not taken", "issue it again"),))
            elif set_ is not None:
                self.used.append(set_)
                self.watch.used(set_)
        found = self.watch.finding(at=self.at)
        if found is not None:
            self.found.append(found)

    def settle(self, files: Files | FileSet, seconds: float = 60.0) -> None:
        """Look whenever the watch wants to, and otherwise every ten seconds."""
        end = self.at + seconds
        self.see(files)
        while self.at < end:
            due = self.watch.due
            self.see(files, after=max(QUIET, min((due or end), end, self.at + 10) - self.at))

    def using(self, files: Files) -> "Driver":
        self.settle(files, 1.0)
        assert self.used.pop() == set_of(files)
        assert not self.found
        self.judged = 0
        return self


def test_a_set_is_used_when_two_looks_have_seen_the_same() -> None:
    driver = Driver()
    driver.see(A)
    assert not driver.judged
    assert driver.watch.due == driver.at + QUIET
    driver.see(A, after=QUIET)
    assert driver.used == [set_of(A)]
    assert driver.watch.status.state is DirectoryState.GOOD
    assert driver.watch.status.fingerprint == set_of(A).fingerprint
    assert driver.watch.status.not_after == set_of(A).not_after
    driver.settle(A, 3600)
    assert driver.used == [set_of(A)]
    assert not driver.found


def test_two_looks_too_close_to_each_other_prove_nothing() -> None:
    driver = Driver()
    driver.see(A)
    driver.see(A, after=QUIET / 2)
    assert not driver.used
    assert driver.watch.status.state is DirectoryState.SETTLING


def test_a_bundle_that_is_cut_at_the_end_of_a_certificate_is_not_used_while_it_grows() -> None:
    whole = files_for(ROLE, make_client(CA, "a"), [CA, OTHER])
    driver = Driver().using(whole)
    driver.see(whole | {CA_FILE: CA.pem})
    driver.settle(whole)
    assert not driver.used


def test_copied_one_file_at_a_time_within_the_settling_time_nothing_is_told() -> None:
    driver = Driver().using(A)
    driver.settle(A | {CERT: B[CERT]}, SETTLE - 2 * QUIET)
    driver.settle(B)
    assert driver.used == [set_of(B)]
    assert not driver.found


def test_certificate_first_and_its_key_a_minute_later() -> None:
    driver = Driver().using(A)
    driver.settle(A | {CERT: B[CERT]}, 60)
    [found] = driver.found
    assert isinstance(found, Refused)
    assert [fault.kind for fault in found.faults] == [FaultKind.KEY_MISMATCH]
    assert found.kept == set_of(A)
    assert driver.watch.status.state is DirectoryState.BAD
    assert driver.watch.status.faults == found.faults
    assert driver.watch.status.fingerprint == set_of(A).fingerprint
    driver.settle(B)
    assert driver.used == [set_of(B)]
    assert driver.found == [found]


def test_the_first_set_file_by_file() -> None:
    driver = Driver()
    driver.settle({CA_FILE: A[CA_FILE]})
    assert not driver.found  # the CA alone is other sets' too
    assert driver.watch.status == ChannelStatus(DirectoryState.ABSENT)
    driver.settle(without(A, KEY))
    assert driver.found == [Waiting((KEY,))]
    assert driver.watch.status == ChannelStatus(DirectoryState.INCOMPLETE, missing=(KEY,))
    driver.settle(A)
    assert driver.used == [set_of(A)]


def test_a_bad_set_is_told_once_and_what_runs_is_kept() -> None:
    driver = Driver()
    driver.settle(FOREIGN, 3600)
    [found] = driver.found
    assert isinstance(found, Refused)
    assert found.kept is None
    assert driver.judged == 1
    driver.settle(A | {KEY: b"rubbish"}, 3600)
    assert len(driver.found) == 2
    assert not driver.used


def test_a_bad_set_is_told_after_the_settling_time_only() -> None:
    driver = Driver()
    driver.see(FOREIGN)
    driver.see(FOREIGN, after=QUIET)
    assert driver.judged
    assert driver.watch.due is not None
    assert driver.watch.due == pytest.approx(driver.at - QUIET + SETTLE)
    driver.see(FOREIGN, after=SETTLE - 2 * QUIET)
    assert not driver.found
    driver.see(FOREIGN, after=QUIET)
    assert len(driver.found) == 1
    assert driver.watch.due is None


def test_a_directory_that_flaps_is_told_of_once_a_while() -> None:
    driver = Driver().using(A)
    seconds = 10 * 60 * 60
    for _ in range(seconds // 20):
        driver.settle({}, 10)
        driver.settle(A, 10)
    # One more than once a while: after the one return that was told.
    assert len([found for found in driver.found if isinstance(found, Gone)]) <= seconds / AGAIN + 2
    assert len([found for found in driver.found if isinstance(found, Restored)]) <= seconds / AGAIN + 1
    assert not driver.used


def test_what_was_told_and_is_over_is_told_too() -> None:
    driver = Driver().using(A)
    driver.settle(without(A, KEY))
    assert driver.found == [Gone((KEY,), set_of(A))]
    assert driver.watch.status.missing == (KEY,)
    driver.settle(A)
    assert driver.found[1:] == [Restored(set_of(A))]
    assert driver.watch.status.state is DirectoryState.GOOD
    assert not driver.used
    assert not driver.judged


def test_the_same_mistake_after_a_return_is_told_again() -> None:
    """Or the last word of the log would be that all is well."""
    bad = A | {KEY: b"rubbish"}
    driver = Driver().using(A)
    for _ in range(2):
        driver.settle(bad, 10)
        driver.settle(A, 10)
    driver.settle(A, 10)  # the second return is told when it has lasted longer
    assert [type(found) for found in driver.found] == [Refused, Restored, Refused, Restored]


def test_a_return_must_last_longer_each_time_and_that_is_forgotten() -> None:
    driver = Driver().using(A)

    spans = [returns(driver, A) for _ in range(6)]
    assert spans == sorted(spans)
    assert spans[0] <= SETTLE + 2
    assert AGAIN <= spans[-1] <= AGAIN + 2
    driver.settle(A, AGAIN)
    assert returns(driver, A) <= SETTLE + 2
    returns(driver, A)
    driver.settle(B)
    assert returns(driver, B) <= SETTLE + 2


def returns(driver: Driver, files: Files) -> float:
    """All is gone for a while; seconds for which it must have come back until that is told."""
    driver.settle({}, 10)
    begun, told = driver.at, len(driver.found)
    while len(driver.found) == told:
        driver.see(files, after=1.0)
    assert isinstance(driver.found[-1], Restored)
    return driver.at - begun


def test_a_mistake_that_was_told_is_told_again_of_another_set() -> None:
    bad = A | {KEY: b"rubbish"}
    driver = Driver().using(A)
    driver.settle(bad, 10)
    driver.settle(B, 10)
    driver.settle(bad, 10)
    assert [(type(found), getattr(found, "kept", None)) for found in driver.found] == [
        (Refused, set_of(A)),
        (Refused, set_of(B)),
    ]


def test_a_new_set_ends_the_alarm() -> None:
    driver = Driver().using(A)
    driver.settle(without(A, KEY))
    driver.settle(B)
    told = list(driver.found)
    driver.settle({}, SETTLE - 2 * QUIET)  # for a moment, of which nothing is told
    driver.settle(B)
    assert driver.found == told


def test_what_the_host_could_not_do_is_tried_again_without_another_word() -> None:
    driver = Driver(refuse=True, kind=FaultKind.HOST)
    driver.settle(A, 60)
    assert len(driver.found) == 1
    assert driver.judged > 60 / DATES - 2
    driver.refuse = False
    driver.settle(A, 2 * DATES)
    assert driver.used == [set_of(A)]
    assert len(driver.found) == 1


def test_a_file_that_is_gone_for_a_moment_is_nothing() -> None:
    driver = Driver().using(A)
    driver.settle(without(A, KEY), SETTLE - 2 * QUIET)
    driver.settle(A)
    assert not driver.found


def test_all_files_gone_keep_what_is_loaded() -> None:
    driver = Driver().using(A)
    driver.settle({}, 3600)
    assert driver.found == [Gone((CA_FILE, CERT, KEY), set_of(A))]
    assert driver.watch.status.state is DirectoryState.ABSENT
    assert driver.watch.status.missing == (CA_FILE, CERT, KEY)


def test_the_same_set_in_another_form_needs_no_swap() -> None:
    chain = files_for(ROLE, make_client(CA, "a"), [CA, OTHER])
    driver = Driver().using(chain)
    comment = b"# renewed by hand\n"
    driver.settle(chain | {CA_FILE: comment + OTHER.pem + CA.pem})
    driver.settle(chain | {CERT: chain[CERT].replace(b"\n", b"\r\n")})
    assert driver.judged == 2
    assert not driver.used
    assert not driver.found
    assert driver.watch.status.state is DirectoryState.GOOD


def test_back_to_the_set_before() -> None:
    driver = Driver().using(A)
    driver.settle(B)
    driver.settle(A)
    assert driver.used == [set_of(B), set_of(A)]


def test_a_set_before_its_time_is_used_when_that_has_come_without_another_word() -> None:
    driver = Driver()
    driver.settle(LATER, HOUR.total_seconds() - 60)
    assert len(driver.found) == 1
    assert not driver.used
    driver.settle(LATER, 60 + 2 * DATES)
    assert [one.leaf.subject for one in driver.used] == ["CN=later"]
    assert len(driver.found) == 1


def test_what_has_other_errors_than_its_dates_is_not_judged_again() -> None:
    driver = Driver()
    driver.settle(LATER | {KEY: A[KEY]}, 3600)
    assert driver.judged == 1


def test_a_set_that_cannot_be_put_in_force_counts_as_bad() -> None:
    driver = Driver(refuse=True)
    driver.settle(A, 3600)
    [found] = driver.found
    assert isinstance(found, Refused)
    assert found.faults[0].what == "is not taken"
    assert driver.judged == 1
    assert driver.watch.in_use is None


def test_a_file_that_changes_under_its_readers_is_told_late() -> None:
    changing = tuple(Fault(name, FaultKind.CHANGING, "changes", "wait") for name in (CA_FILE, CERT, KEY))
    files = FileSet(ROLE, {}, changing)
    driver = Driver().using(A)
    driver.settle(files, CHANGING - 1)
    assert not driver.found
    driver.settle(files, 10)
    assert [type(found) for found in driver.found] == [Refused]
    driver.settle(B)
    assert driver.used == [set_of(B)]


def test_while_somebody_writes_the_same_nonsense_nothing_is_told_for_a_while() -> None:
    driver = Driver().using(A)
    seconds = 0.0
    while not driver.found:
        marks = tuple((1, 2, 3, int(driver.at * 1000)) for _ in FILES[ROLE].all)
        files = FileSet.from_bytes(ROLE, A | {KEY: b""})
        driver.see(FileSet(ROLE, files.contents, files.faults, marks=marks), after=1.0)
        seconds += 1
    assert CHANGING <= seconds <= CHANGING + 2


def test_nothing_is_waited_for_at_a_start() -> None:
    watch = Watch(ROLE)
    watch.look(FileSet.from_bytes(ROLE, without(A, CERT)), at=0)
    assert watch.finding(at=0, patient=False) == Waiting((CERT,))
    watch = Watch(ROLE)
    watch.look(FileSet.from_bytes(ROLE, FOREIGN), at=0)
    assert watch.finding(at=0, patient=False) is None  # not judged yet
    watch.judged(Judgement(None, (Fault(CERT, FaultKind.EMPTY, "is empty", "fill it"),)), at=0)
    assert isinstance(watch.finding(at=0, patient=False), Refused)


def test_the_age_of_the_set_in_use_is_told_once() -> None:
    old = files_for(ROLE, make_client(CA, "old", begin=NOW - 10 * DAY, end=NOW + 10 * DAY), [CA])
    driver = Driver().using(old)
    kept = set_of(old)
    quarter = kept.not_after - (kept.not_after - kept.not_before) / 4
    ages: list[Age] = []

    def ask(now: datetime) -> None:
        for _ in range(2):
            age = driver.watch.age(now=now)
            if age is not None:
                ages.append(age)

    ask(quarter - timedelta(seconds=1))
    assert ages == []
    ask(quarter)
    assert ages == [Ageing(kept)]
    ask(kept.not_after)
    assert ages == [Ageing(kept), Expired(kept)]
    ask(quarter)  # the clock was set back
    assert len(ages) == 2
    driver.settle(B)
    ask(set_of(B).not_after)
    assert ages[2:] == [Expired(set_of(B))]


def test_the_set_in_use_is_not_refused_for_its_age() -> None:
    driver = Driver().using(A)
    driver.now += 365 * DAY
    driver.settle(without(A, KEY))
    driver.settle(A)
    assert [type(found) for found in driver.found] == [Gone, Restored]


def test_warnings_of_the_set_in_use_are_in_its_status() -> None:
    expired = make_ca("past", end=NOW - HOUR)
    files = files_for(ROLE, make_client(CA, "a"), [CA, expired])
    driver = Driver()
    driver.settle(files)
    assert [fault.kind for fault in driver.watch.status.faults] == [FaultKind.EXPIRED]
    assert driver.watch.status.state is DirectoryState.GOOD


def test_before_the_first_look_there_is_nothing() -> None:
    watch = Watch(ROLE)
    assert watch.status.state is DirectoryState.ABSENT
    assert watch.due is None
    assert watch.finding(at=0) is None
    assert watch.age(now=NOW) is None


def test_a_key_cut_at_any_byte_is_not_used() -> None:
    driver = Driver().using(A)
    whole = B[KEY].rstrip(b"\n")
    for length in range(len(whole)):
        driver.settle(B | {KEY: whole[:length]}, 2 * QUIET)
    assert driver.judged == len(whole)
    assert not driver.used
    driver.settle(B | {KEY: whole})
    assert driver.used == [set_of(B)]


PIECES = {
    CA_FILE: [A[CA_FILE], A[CA_FILE] + OTHER.pem, OTHER.pem, A[CA_FILE][:-40], b"", None],
    CERT: [A[CERT], B[CERT], FOREIGN[CERT], A[CERT][:100], LATER[CERT], None],
    KEY: [A[KEY], B[KEY], FOREIGN[KEY], B[KEY][:50], b"rubbish", LATER[KEY], None],
}
STEPS = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([A, B, FOREIGN]).map(lambda files: sorted(files.items())),
            st.sampled_from(sorted(PIECES)).flatmap(
                lambda name: st.sampled_from(PIECES[name]).map(lambda data: [(name, data)])
            ),
        ),
        st.sampled_from([0.0, QUIET, 2 * QUIET, 1.0, SETTLE, 10.0]),
    ),
    max_size=30,
)


@given(STEPS)
@settings(deadline=None)
def test_whatever_is_copied_in_whatever_order_only_whole_good_sets_are_used(
    steps: list[tuple[list[tuple[str, bytes | None]], float]],
) -> None:
    driver = Driver()
    there: dict[str, bytes] = {}
    in_use: CertificateSet | None = None
    for changes, seconds in steps:
        for name, data in changes:
            there.pop(name, None)
            if data is not None:
                there[name] = data
        already = len(driver.used)
        driver.settle(dict(there), seconds)
        for used in driver.used[already:]:
            # What is used is what lies there now, whole, and not what was in use before.
            assert used == set_of(there)
            assert in_use is None or used.fingerprint != in_use.fingerprint
            in_use = used
    driver.settle(A, 60)
    assert driver.watch.in_use is not None
    assert driver.watch.in_use.fingerprint == set_of(A).fingerprint
    assert driver.watch.status.state is DirectoryState.GOOD
    assert driver.watch.due is None
