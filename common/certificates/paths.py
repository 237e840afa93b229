"""From a leaf up to an anchor, as OpenSSL would climb.

The loader must foretell what OpenSSL will do with a set, and say why in words. So the path is built here by
OpenSSL's own rules (X509_verify_cert: an issuer is found by name and key identifier, an anchor before an
intermediate, the one that is valid now before one that is not, and there is no way back from a wrong
choice), rather than by a validator that searches for any path that works. Where OpenSSL's choice would be
a matter of luck, the set is refused as ambiguous.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from common.certificates.parsing import Parsed, signed_by


class End(StrEnum):
    """Why the climb ended."""

    ANCHORED = "anchored"
    SELF_SIGNED = "self-signed"
    NO_ISSUER = "no-issuer"
    BAD_SIGNATURE = "bad-signature"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class Path:
    """A way up.

    Attributes:
        steps: From the leaf on; with ANCHORED the last is an anchor.
        end: Why it ended.
    """

    steps: tuple[Parsed, ...]
    end: End


def is_issuer(child: Parsed, candidate: Parsed) -> bool:
    """Whether OpenSSL takes `candidate` for the issuer before it looks at any signature (X509_check_issued).

    By name, and by what the child's authority key identifier says, where both sides have one.
    """
    if child.issuer_key != candidate.subject_key:
        return False
    wanted, has = child.certificate.aki, candidate.certificate.ski
    if wanted is not None and has is not None and wanted != has:
        return False
    if child.aki_serial is not None and child.aki_serial != candidate.certificate.serial:
        return False
    return child.aki_issuer is None or child.aki_issuer == candidate.issuer_key


def signs(candidate: Parsed, child: Parsed) -> bool:
    """Whether the candidate's key made the child's signature.

    One that can't be checked counts, so that its weak hash is what is told, and not that it is wrong.
    """
    if candidate.key is None:
        return False
    verified = signed_by(child.raw, candidate.key)
    return not child.self_issued if verified is None else verified


def climb(leaf: Parsed, pool: Sequence[Parsed], anchors: Sequence[Parsed], *, now: datetime) -> Path:
    """The path that OpenSSL will take from the leaf, given the order in which the chain is then sent.

    OpenSSL takes the first intermediate that fits and doesn't come back to try another. Since the order in
    which they are sent is ours, one that leads to an anchor can always be made the first.

    Args:
        leaf: Where it begins.
        pool: The other certificates of the chain file.
        anchors: Each of them ends the climb (VERIFY_X509_PARTIAL_CHAIN, docs/decisions/0003).
        now: Of several certificates of one issuer, one that is valid now is taken.

    Returns:
        A path that ends at an anchor, or else the one that was tried first.
    """
    # What stands above a certificate doesn't depend on the way there: each of the pool is tried once, so
    # that rings of cross-signatures end.
    untried = [candidate for candidate in pool if candidate is not leaf]

    def onward(steps: tuple[Parsed, ...]) -> Path:
        end, above = _next(steps[-1], untried, anchors, now)
        if end is not None:
            return Path((*steps, *above), end)
        first = None
        for candidate in above:
            if any(candidate is one for one in untried):
                untried[:] = [one for one in untried if one is not candidate]
                path = onward((*steps, candidate))
                if path.end is End.ANCHORED:
                    return path
                first = first or path
        return first or Path(steps, End.NO_ISSUER)

    return onward((leaf,))


def _next(
    child: Parsed, pool: Sequence[Parsed], anchors: Sequence[Parsed], now: datetime
) -> tuple[End | None, list[Parsed]]:
    """The end of the climb with its last step, or None with the steps to try, the best first."""
    trusted = [candidate for candidate in anchors if is_issuer(child, candidate)]
    if not trusted and child.certificate.self_signed:
        return End.SELF_SIGNED, []
    candidates = trusted or [candidate for candidate in pool if is_issuer(child, candidate)]
    signers = _by_preference([one for one in candidates if signs(one, child)], now)
    if not signers:
        return (End.BAD_SIGNATURE if candidates else End.NO_ISSUER), []
    if len(signers) < len(candidates):
        return End.AMBIGUOUS, signers[:1]
    return (End.ANCHORED, signers[:1]) if trusted else (None, signers)


def _by_preference(signers: Sequence[Parsed], now: datetime) -> list[Parsed]:
    """Valid now before not valid now; then the one that lasts longest."""
    return sorted(
        signers,
        key=lambda one: (one.certificate.valid_at(now), one.certificate.not_after, one.certificate.der),
        reverse=True,
    )


def related(path: Path, pool: Iterable[Parsed]) -> tuple[Parsed, ...]:
    """What is sent: the path's own certificates in their order, then the others that stand above the leaf."""
    own = list(pool)
    found = [step for step in path.steps if any(step is one for one in own)]
    rest, next_ = [one for one in own if not any(one is step for step in found)], 0
    while next_ < len(found):
        above = [one for one in rest if is_issuer(found[next_], one) and signs(one, found[next_])]
        rest = [one for one in rest if not any(one is other for other in above)]
        found += above
        next_ += 1
    return tuple(found)
