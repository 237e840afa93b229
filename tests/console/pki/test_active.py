"""Which set wins, and who is told."""

import pytest

from common.certificates import CertificateSet, Role, Source
from common.errors import CertificateSetError
from console.pki import ActiveSets
from tests.pki import PKI

SERVER = Role.DEFENDER_SERVER


@pytest.fixture(scope="module")
def pki() -> PKI:
    return PKI()


def of(pki: PKI, source: Source, role: Role = SERVER) -> CertificateSet:
    return pki.set(role, source=source)


def test_the_directory_wins_whenever_it_comes(pki: PKI) -> None:
    generated, custom = of(pki, Source.GENERATED), of(pki, Source.CUSTOM)
    for offers in ([generated, custom], [custom, generated]):
        active = ActiveSets()
        for set_ in offers:
            active.offer(set_)
        assert active.current(SERVER) is custom


def test_a_server_uses_what_is_in_force_from_the_start_on(pki: PKI) -> None:
    active = ActiveSets()
    used: list[CertificateSet] = []
    generated, custom, renewed = (of(pki, s) for s in (Source.GENERATED, Source.CUSTOM, Source.CUSTOM))
    active.offer(generated)
    active.serve(SERVER, used.append)
    active.offer(custom)
    active.offer(of(pki, Source.CUSTOM, Role.HTTPS_SERVER))
    active.offer(renewed)
    assert used == [generated, custom, renewed]


def test_a_rotation_of_what_the_console_made_does_not_displace_the_directorys(pki: PKI) -> None:
    active = ActiveSets()
    used: list[CertificateSet] = []
    custom = of(pki, Source.CUSTOM)
    active.offer(custom)
    active.serve(SERVER, used.append)
    active.offer(of(pki, Source.GENERATED))
    assert {one.fingerprint for one in used} == {custom.fingerprint}


@pytest.mark.parametrize("source", [Source.GENERATED, Source.CUSTOM])
def test_a_set_that_the_server_refuses_changes_nothing(pki: PKI, source: Source) -> None:
    active = ActiveSets()
    generated, bad = of(pki, Source.GENERATED), of(pki, source)

    def use(set_: CertificateSet) -> None:
        if set_ is bad:
            raise CertificateSetError("it", ["a fault"])

    active.offer(generated)
    active.serve(SERVER, use)
    with pytest.raises(CertificateSetError):
        active.offer(bad)
    assert active.current(SERVER) is generated


def test_nothing_was_offered() -> None:
    with pytest.raises(KeyError):
        ActiveSets().current(SERVER)
