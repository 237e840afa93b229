from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from common.certificates import CertificateSet, Role, still_trusts
from console.fleet import verdicts as module
from console.fleet.verdicts import Verdicts
from tests.common.certificates.pki import make_ca, make_client
from tests.console.fleet.moving import mixed
from tests.pki import PKI

NOW = datetime.now(UTC)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a chain was looked at for good."""
    count: list[int] = []

    def counted(set_: CertificateSet, chain: Sequence[bytes], *, now: datetime) -> bool:
        count.append(1)
        return still_trusts(set_, chain, now=now)

    monkeypatch.setattr(module, "still_trusts", counted)
    return count


def chain(pki: PKI) -> tuple[bytes, ...]:
    set_ = pki.set(Role.DEFENDER_CLIENT)
    return tuple(one.der for one in set_.path)


def test_a_removed_ca_is_looked_at_once_for_each_chain(asked: list[int]) -> None:
    kept, removed = PKI(name="Kept"), PKI(name="Removed")
    verdicts = Verdicts(mixed(Role.DEFENDER_SERVER, kept), NOW)
    shared, other = chain(removed), chain(removed)
    for _ in range(100):
        assert not verdicts.trusts(shared)
    assert not verdicts.trusts(other)
    assert len(asked) == 2
    verdicts.forget()
    assert not verdicts.trusts(shared)
    assert len(asked) == 3


def test_an_issuer_that_is_still_there_needs_no_look(asked: list[int]) -> None:
    kept, added = PKI(name="Kept"), PKI(name="Added")
    verdicts = Verdicts(mixed(Role.DEFENDER_SERVER, added, added, kept), NOW)
    for _ in range(10):
        assert verdicts.trusts(chain(kept))
    assert not asked


def test_a_root_that_is_still_there_vouches_through_an_intermediate(asked: list[int]) -> None:
    pki, root = PKI(name="Own"), make_ca("root")
    inter = make_ca("inter", root)
    server = mixed(Role.DEFENDER_SERVER, pki)
    path = [one.der for one in (make_client(inter), inter, root)]
    assert not Verdicts(server, NOW).trusts(path)
    assert len(asked) == 1


def test_what_cannot_be_read_is_not_trusted() -> None:
    verdicts = Verdicts(mixed(Role.DEFENDER_SERVER, PKI()), NOW)
    assert not verdicts.trusts(())
    assert not verdicts.trusts((b"x",))
    # Where one part ends and the next begins makes a difference.
    assert not verdicts.trusts((b"xy", b"z"))
    assert not verdicts.trusts((b"x", b"yz"))
    assert len(verdicts._known) == 4
