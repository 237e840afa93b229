"""The climb from leaf to anchor, case by case."""

from common.certificates.paths import End, climb, is_issuer, related, signs
from tests.common.certificates.pki import DAY, NOW, Cert, issue, key, make_ca, make_server

ROOT = make_ca("root")
INTER = make_ca("inter", ROOT)
LEAF = make_server(INTER)


def way(leaf: Cert, pool: list[Cert], anchors: list[Cert]) -> tuple[End, list[str]]:
    path = climb(leaf.parsed, [one.parsed for one in pool], [one.parsed for one in anchors], now=NOW)
    return path.end, [step.certificate.subject.removeprefix("CN=") for step in path.steps]


def test_ends_at_the_first_anchor() -> None:
    assert way(LEAF, [INTER], [ROOT]) == (End.ANCHORED, ["server", "inter", "root"])
    assert way(LEAF, [INTER], [ROOT, INTER]) == (End.ANCHORED, ["server", "inter"])
    assert way(LEAF, [], [INTER]) == (End.ANCHORED, ["server", "inter"])


def test_says_why_it_ends_elsewhere() -> None:
    assert way(LEAF, [], [ROOT]) == (End.NO_ISSUER, ["server"])
    assert way(LEAF, [INTER], []) == (End.NO_ISSUER, ["server", "inter"])
    assert way(LEAF, [INTER, ROOT], []) == (End.SELF_SIGNED, ["server", "inter", "root"])
    assert way(make_server(None), [], []) == (End.SELF_SIGNED, ["server"])


def test_a_name_without_its_key_is_no_issuer() -> None:
    twin = make_ca("inter", key_=key("p256", 700), identifiers=False)
    leaf = make_server(INTER, identifiers=False)
    assert way(leaf, [], [twin]) == (End.BAD_SIGNATURE, ["server"])
    assert way(leaf, [twin], []) == (End.BAD_SIGNATURE, ["server"])
    assert way(leaf, [INTER], [twin]) == (End.BAD_SIGNATURE, ["server"])  # an anchor comes first in OpenSSL
    assert not signs(twin.parsed, leaf.parsed)
    assert signs(INTER.parsed, leaf.parsed)


def test_two_that_only_luck_tells_apart_are_ambiguous() -> None:
    twins = [make_ca("twin", key_=key("p256", index), identifiers=False) for index in (701, 702)]
    leaf = make_server(twins[0], identifiers=False)
    end, steps = way(leaf, [], twins)
    assert (end, steps) == (End.AMBIGUOUS, ["server", "twin"])


def test_key_identifiers_and_serials_tell_issuers_apart() -> None:
    other = make_ca("inter", key_=key("p256", 703))
    assert is_issuer(LEAF.parsed, INTER.parsed)
    assert not is_issuer(LEAF.parsed, other.parsed)
    assert is_issuer(LEAF.parsed, make_ca("inter", key_=other.key, identifiers=False).parsed)
    assert not is_issuer(LEAF.parsed, ROOT.parsed)


def test_the_authority_serial_tells_issuers_apart() -> None:
    from cryptography import x509

    pointing = x509.AuthorityKeyIdentifier(
        None, [x509.DirectoryName(ROOT.x509.subject)], INTER.x509.serial_number
    )
    leaf = make_server(INTER, identifiers=False, extra=[(pointing, False)])
    renewed = make_ca("inter", ROOT, key_=INTER.key)
    moved = make_ca("inter", make_ca("elsewhere"), key_=INTER.key, serial=INTER.x509.serial_number)
    assert is_issuer(leaf.parsed, INTER.parsed)
    assert not is_issuer(leaf.parsed, renewed.parsed)
    assert not is_issuer(leaf.parsed, moved.parsed)


def test_prefers_what_is_valid_now_and_lasts_longest() -> None:
    own = key("p256", 704)
    expired = make_ca("ca", key_=own, begin=NOW - 9 * DAY, end=NOW - DAY)
    future = make_ca("ca", key_=own, begin=NOW + DAY, end=NOW + 99 * DAY)
    short = make_ca("ca", key_=own, end=NOW + DAY)
    long = make_ca("ca", key_=own, end=NOW + 9 * DAY)
    leaf = make_server(long)
    pool = [expired.parsed, future.parsed, short.parsed, long.parsed]
    path = climb(leaf.parsed, [], pool, now=NOW)
    assert path.steps[-1].certificate.der == long.der
    path = climb(leaf.parsed, [], pool[:2], now=NOW)
    assert path.steps[-1].certificate.der == future.der


def test_goes_back_from_an_intermediate_that_leads_nowhere() -> None:
    own = key("p256", 705)
    nowhere = make_ca("cross", make_ca("unknown"), key_=own, end=NOW + 99 * DAY)
    there = make_ca("cross", ROOT, key_=own)
    leaf = make_server(there)
    path = climb(leaf.parsed, [nowhere.parsed, there.parsed], [ROOT.parsed], now=NOW)
    assert path.end is End.ANCHORED
    assert [step.certificate.der for step in path.steps] == [leaf.der, there.der, ROOT.der]
    parsed = [one.parsed for one in (leaf, nowhere, there)]
    path = climb(parsed[0], parsed, [ROOT.parsed], now=NOW)
    assert [one.certificate.der for one in related(path, parsed)] == [leaf.der, there.der, nowhere.der]


def test_rings_end_and_cost_little() -> None:
    keys = [key("p256", 710 + index) for index in range(3)]
    seeds = [make_ca(f"r{index}", key_=own) for index, own in enumerate(keys)]
    ring = [
        make_ca(f"r{index}", seeds[other], key_=keys[index], end=NOW + (5 + index + other) * DAY)
        for index in range(3)
        for other in range(3)
        if index != other
    ]
    leaf = make_server(seeds[0])
    path = climb(leaf.parsed, [one.parsed for one in ring], [ROOT.parsed], now=NOW)
    assert path.end is not End.ANCHORED
    assert len(path.steps) <= len(ring) + 1


def test_a_candidate_of_an_unsupported_kind_signs_nothing() -> None:
    odd = issue("odd", ROOT, ca=True, key_=key("ed448"), identifiers=False)
    leaf = make_server(ROOT, issuer_name=odd.x509.subject, identifiers=False)
    assert way(leaf, [], [odd]) == (End.BAD_SIGNATURE, ["server"])
