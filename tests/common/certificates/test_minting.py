"""All that a Console makes for itself: every set passes the loader, and the Defenders' keys open little."""

from datetime import timedelta

import pytest

from common.certificates import (
    CONSOLE_CA_FILE,
    FILES,
    FileSet,
    KeyAlgorithm,
    MintOptions,
    Role,
    Source,
    judge,
    mint,
    mint_defender,
    names_for,
    parse_san,
)
from tests.common.certificates.pki import NOW

OPTIONS = MintOptions(
    "console.test", "defender.test", names_for("console.test", "host.test", extra=parse_san("IP:192.0.2.1"))
)
MINTED = mint(NOW, OPTIONS)


@pytest.mark.parametrize("role", Role)
def test_every_set_passes_without_a_warning(role: Role) -> None:
    judgement = judge(FileSet.from_bytes(role, MINTED.files), now=NOW, source=Source.GENERATED)
    assert judgement.faults == ()
    assert judgement.set is not None
    assert judgement.set.not_after == NOW + timedelta(days=1095)


def test_the_view_has_the_product_s_names_and_no_ca_key() -> None:
    expected = {name for role in Role for name in FILES[role].all} | {CONSOLE_CA_FILE}
    assert set(MINTED.files) == expected
    for authority in (MINTED.defender.authority, MINTED.console.authority):
        assert authority.key_pem not in MINTED.files.values()


def test_who_is_called_what() -> None:
    assert MINTED.defender.server.certificate.subject == "CN=console.test,O=Garrison"
    assert MINTED.defender.server.certificate.names == OPTIONS.names
    assert MINTED.console.web.certificate.names == OPTIONS.names
    assert MINTED.defender.client.certificate.subject == "CN=defender.test,O=Garrison"
    assert not MINTED.defender.client.certificate.names


def test_the_admission_leaf_has_no_name_of_the_console() -> None:
    names = MINTED.defender.admission.certificate.names
    assert not names.addresses
    assert all(name == "defender" or name.startswith("defender.twistlock") for name in names.dns)
    assert not set(names) & set(OPTIONS.names)


def test_the_two_cas_are_apart() -> None:
    assert MINTED.defender.authority.certificate.subject != MINTED.console.authority.certificate.subject
    assert MINTED.console.web.certificate.aki == MINTED.console.authority.certificate.ski
    assert MINTED.defender.server.certificate.aki == MINTED.defender.authority.certificate.ski


def test_the_next_generation_shares_nothing() -> None:
    options = MintOptions(
        "console.test", "defender.test", OPTIONS.names, generation=2, algorithm=KeyAlgorithm.P256
    )
    second = mint_defender(NOW + timedelta(days=548), options)
    first = MINTED.defender
    assert " 2 " in second.authority.certificate.subject
    assert not set(second.files.values()) & set(first.files.values())
    mixed = {**first.files, "defender-ca.pem": second.files["defender-ca.pem"]}
    for role in (Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT):
        assert judge(FileSet.from_bytes(role, mixed), now=NOW, source=Source.GENERATED).set is None


def test_lifetimes_of_seconds_for_tests() -> None:
    options = MintOptions("c.test", "d.test", OPTIONS.names, lifetime=timedelta(seconds=5))
    minted = mint(NOW, options)
    files = FileSet.from_bytes(Role.DEFENDER_SERVER, minted.files)
    assert judge(files, now=NOW, source=Source.GENERATED).set is not None
    assert judge(files, now=NOW + timedelta(seconds=5), source=Source.GENERATED).set is None
