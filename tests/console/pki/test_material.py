"""Generations: minted, sealed, opened, chosen, reissued. All of it pure."""

from dataclasses import replace
from datetime import datetime

import pytest
from cryptography import x509

from common.certificates import FILES, CertificateSet, Role, parse_san, webhook_names
from console.pki.material import (
    CA_FILES,
    OLD_SUFFIX,
    ROLES,
    Material,
    choose,
    current_sets,
    ended,
    mint_material,
    reissue,
    seal,
    seal_files,
    unseal,
    view,
)
from console.sealing import Key
from console.store import Kind
from tests.console.pki.samples import DAY, NOW, YEAR, names, options

KEY = Key.generate()
DEFENDER = mint_material(Kind.DEFENDER, 1, options(), NOW)
CONSOLE = mint_material(Kind.CONSOLE, 1, options(), NOW)


def signed_by(judged: CertificateSet, material: Material) -> bool:
    authority = x509.load_pem_x509_certificate(material.authority.certificate_pem)
    x509.load_der_x509_certificate(judged.leaf.der).verify_directly_issued_by(authority)
    return judged.leaf.aki == material.authority.certificate.ski


@pytest.mark.parametrize("material", [DEFENDER, CONSOLE])
def test_a_generation_has_a_ca_and_a_usable_set_for_each_role(material: Material) -> None:
    for role in ROLES[material.kind]:
        judgement = material.judge(role, NOW)
        assert judgement.faults == ()
        assert judgement.set is not None
        assert signed_by(judgement.set, material)
    assert material.authority.certificate.not_after == NOW + 3 * YEAR


def test_the_admission_leaf_is_not_good_for_the_console() -> None:
    """Every Defender holds its key."""
    judged = DEFENDER.judge(Role.ADMISSION_SERVER, NOW).set
    assert judged is not None
    assert judged.names == webhook_names("twistlock")
    assert not set(judged.names) & set(names())


def test_generations_share_no_key_and_no_name() -> None:
    second = mint_material(Kind.DEFENDER, 2, options(), NOW)
    one, two = DEFENDER.authority.certificate, second.authority.certificate
    assert one.subject != two.subject
    assert one.ski != two.ski
    assert not set(DEFENDER.leaves.values()) & set(second.leaves.values())
    assert "2" in two.subject


@pytest.mark.parametrize("material", [DEFENDER, CONSOLE])
def test_what_is_sealed_is_opened(material: Material) -> None:
    record = seal(material, KEY)
    assert (record.kind, record.number, record.created) == (material.kind, 1, NOW)
    assert record.not_after == material.authority.certificate.not_after
    assert unseal(record, KEY) == material
    for sealed in record.secrets.values():
        assert b"-----BEGIN" not in sealed


def test_another_key_opens_nothing() -> None:
    assert unseal(seal(DEFENDER, KEY), Key.generate()) == tuple(
        sorted({*DEFENDER.files, "defender-ca-key.pem"})
    )


def test_a_missing_secret_is_named() -> None:
    record = seal(CONSOLE, KEY)
    secrets = {name: sealed for name, sealed in record.secrets.items() if name != "ca-key.pem"}
    assert unseal(replace(record, secrets=secrets), KEY) == ("ca-key.pem",)


def test_secrets_that_were_swapped_are_noticed() -> None:
    record = seal(DEFENDER, KEY)
    server, client = "defender-server-key.pem", "defender-client-key.pem"
    swapped = {**record.secrets, server: record.secrets[client], client: record.secrets[server]}
    assert unseal(replace(record, secrets=swapped), KEY) == (client, server)


def test_secrets_of_another_generation_are_noticed() -> None:
    record = seal(DEFENDER, KEY)
    assert isinstance(unseal(replace(record, number=2), KEY), tuple)
    assert isinstance(unseal(replace(seal(CONSOLE, KEY), kind=Kind.DEFENDER), KEY), tuple)


def test_a_reissued_leaf_is_sealed_like_the_one_before() -> None:
    files = {"defender-server-key.pem": b"new"}
    record = seal(DEFENDER, KEY)
    changed = replace(record, secrets={**record.secrets, **seal_files(Kind.DEFENDER, 1, files, KEY)})
    opened = unseal(changed, KEY)
    assert isinstance(opened, Material)
    assert opened.leaves["defender-server-key.pem"] == b"new"


def test_the_newest_that_is_valid_is_chosen() -> None:
    later = mint_material(Kind.DEFENDER, 2, options(), NOW + 10 * DAY)
    assert choose([later, DEFENDER], NOW + 10 * DAY) == later
    # A start with a clock that was ahead made the later one: it has to wait.
    assert choose([later, DEFENDER], NOW) == DEFENDER
    assert choose([later, DEFENDER], NOW + 3 * YEAR) == later
    assert choose([later, DEFENDER], NOW + 4 * YEAR) is None
    assert choose([later, DEFENDER], NOW - 4 * YEAR) is None


def test_a_new_one_is_due_when_all_have_expired_and_not_when_the_clock_is_behind() -> None:
    assert ended([], NOW)
    assert not ended([DEFENDER], NOW)
    assert not ended([DEFENDER], NOW - 4 * YEAR)
    assert not ended([DEFENDER], NOW + 3 * YEAR - DAY)
    assert ended([DEFENDER], NOW + 3 * YEAR)


def test_the_view_has_the_products_names_and_no_ca_key() -> None:
    files = view(DEFENDER, CONSOLE)
    assert set(files) == {
        "defender-ca.pem",
        "defender-server-cert.pem",
        "defender-server-key.pem",
        "defender-client-cert.pem",
        "defender-client-key.pem",
        "admission-cert.pem",
        "admission-key.pem",
        "ca.pem",
        "console-cert.pem",
        "console-key.pem",
    }
    for material in (DEFENDER, CONSOLE):
        assert CA_FILES[material.kind][1] not in files
        body = material.authority.key_pem.splitlines()[1]
        assert not any(body in pem for pem in files.values())


def test_the_view_shows_five_files_of_the_generation_before() -> None:
    second = mint_material(Kind.DEFENDER, 2, options(), NOW)
    files = view(second, CONSOLE, DEFENDER)
    old = {name: pem for name, pem in files.items() if name.endswith(OLD_SUFFIX)}
    assert len(old) == 5
    for role in (Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT):
        for name in FILES[role].all:
            assert old[name + OLD_SUFFIX] == DEFENDER.files[name]
            assert files[name] == second.files[name]


@pytest.mark.parametrize("material", [DEFENDER, CONSOLE])
def test_nothing_is_reissued_while_all_names_are_covered(material: Material) -> None:
    assert reissue(material, options(), NOW) == {}
    assert reissue(material, options(names=parse_san("DNS:console.test")), NOW) == {}
    assert reissue(material, options(console_cn="other", defender_cn="other"), NOW) == {}


@pytest.mark.parametrize(
    ("material", "role"), [(DEFENDER, Role.DEFENDER_SERVER), (CONSOLE, Role.HTTPS_SERVER)]
)
def test_a_name_that_is_missing_makes_the_servers_leaf_anew(material: Material, role: Role) -> None:
    wanted = options(names=names("DNS:new.test"), console_cn="new.test")
    files = reissue(material, wanted, NOW + DAY)
    assert set(files) == {FILES[role].certificate, FILES[role].key}
    renewed = replace(material, leaves={**material.leaves, **files})
    judgement = renewed.judge(role, NOW + DAY)
    assert judgement.faults == ()
    assert judgement.set is not None
    assert judgement.set.names == wanted.names
    assert signed_by(judgement.set, material)
    assert "new.test" in judgement.set.leaf.subject
    assert judgement.set.not_after <= material.authority.certificate.not_after
    assert reissue(renewed, wanted, NOW + DAY) == {}


def test_another_namespace_makes_the_admission_leaf_anew() -> None:
    assert set(reissue(DEFENDER, options(namespace="other"), NOW)) == {
        "admission-cert.pem",
        "admission-key.pem",
    }


def test_leaves_that_cannot_be_used_are_made_anew() -> None:
    broken = replace(DEFENDER, leaves={**DEFENDER.leaves, "defender-client-key.pem": b"damaged"})
    assert set(reissue(broken, options(), NOW)) == set(FILES[Role.DEFENDER_CLIENT].all) - {"defender-ca.pem"}


@pytest.mark.parametrize("now", [NOW - 4 * YEAR, NOW + 4 * YEAR])
def test_a_ca_that_is_not_valid_signs_nothing(now: datetime) -> None:
    assert reissue(DEFENDER, options(names=names("DNS:new.test")), now) == {}


def test_every_role_has_its_set_or_its_faults() -> None:
    sets, faults = current_sets(DEFENDER, CONSOLE, NOW)
    assert set(sets) == set(Role)
    assert faults == ()
    sets, faults = current_sets(DEFENDER, CONSOLE, NOW - 4 * YEAR)
    assert sets == {}
    assert all(fault for fault in faults)
