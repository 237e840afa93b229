"""A set's bytes → a set, or every reason why not (D2). No I/O, no clock."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from common.certificates.checks import (
    check_ca,
    check_leaf,
    check_path,
    check_signature,
    check_strength,
    check_time,
)
from common.certificates.contents import MAX_ANCHORS, MAX_CHAIN, Held, certificates_of, key_of, printable
from common.certificates.model import (
    Certificate,
    CertificateSet,
    Fault,
    FaultKind,
    Judgement,
    Severity,
    Source,
)
from common.certificates.parsing import (
    Parsed,
    SupportedPrivateKey,
    key_fits,
    spki_fingerprint,
    to_private_key,
)
from common.certificates.paths import End, Path, climb, related, signs
from common.certificates.reading import FileSet


@dataclass(frozen=True, slots=True)
class _Contents:
    """What the files hold, before anything is said about how it hangs together."""

    anchors: tuple[Held, ...]
    chain: tuple[Held, ...]
    key: SupportedPrivateKey | None
    faults: tuple[Fault, ...]


def judge(files: FileSet, *, now: datetime, source: Source) -> Judgement:
    """Judge a set as a whole.

    All faults are found together, as far as one doesn't hide another: what a file that cannot be read might
    hold is not guessed at. Certificates of the chain file that have nothing to do with its leaf are left
    out, with a warning: they do no harm but to be sent in vain, and bundles from CAs often bring them. CAs
    of the bundle that are expired or not yet valid are a warning while the set's own path doesn't need
    them: a bundle outlives its oldest CA.

    Args:
        files: What was read.
        now: The instant at which the set is to be used; aware.
        source: Where it came from.

    Returns:
        The set with warnings at most, or no set and at least one error.
    """
    contents = _contents(files)
    leaf = _leaf(contents, now)
    faults = [*files.faults, *contents.faults]
    if leaf is None:
        faults += [fault for held in contents.anchors for fault in _check_anchor(held, contents)]
        return Judgement(None, _sorted(files, faults))
    pool = [held.parsed for held in contents.chain]
    path = climb(leaf.parsed, pool, [held.parsed for held in contents.anchors], now=now)
    kin = related(path, pool)
    faults += check_leaf(leaf, files.role)
    faults += _check_key(files, contents, leaf)
    faults += _check_ways(files, contents, path, now)
    if source is Source.CUSTOM and not any(fault.severity is Severity.ERROR for fault in faults):
        faults += _check_alone(files, leaf, path)
    faults += _check_each(contents, leaf, kin, path, now)
    found = _sorted(files, faults)
    if contents.key is None or any(fault.severity is Severity.ERROR for fault in found):
        return Judgement(None, found)
    return Judgement(
        CertificateSet(
            role=files.role,
            source=source,
            chain=_certificates(kin),
            anchors=_certificates([held.parsed for held in contents.anchors]),
            path=_certificates(path.steps),
            key=to_private_key(contents.key),
        ),
        found,
    )


def inspect(files: FileSet) -> Mapping[str, tuple[Certificate, ...]]:
    """The certificates that can be read at all, by file: to show a set that is partial or bad."""
    contents = _contents(files)
    found: dict[str, tuple[Certificate, ...]] = {}
    for held in (*contents.anchors, *contents.chain):
        found[held.file] = (*found.get(held.file, ()), held.parsed.certificate)
    return MappingProxyType(found)


def _contents(files: FileSet) -> _Contents:
    names, data = files.names, files.contents
    faults: tuple[Fault, ...] = ()
    anchors: tuple[Held, ...] = ()
    chain: tuple[Held, ...] = ()
    key = None
    if names.ca is not None and names.ca in data:
        anchors, told = certificates_of(names.ca, data[names.ca], MAX_ANCHORS)
        faults += told
    if names.certificate in data:
        chain, told = certificates_of(names.certificate, data[names.certificate], MAX_CHAIN)
        faults += told
    if names.key in data:
        key, told = key_of(names.key, data[names.key])
        faults += told
    return _Contents(anchors, chain, key, faults)


def _leaf(contents: _Contents, now: datetime) -> Held | None:
    """The key's own certificate, wherever it stands; else the first that is no CA; else the first.

    Of several with this key (a renewed one appended to its file), the one that is valid and lasts longest.
    """
    chain = contents.chain
    if contents.key is not None:
        wanted = spki_fingerprint(contents.key.public_key())
        own = [held.parsed.certificate for held in chain if held.parsed.certificate.key_fingerprint == wanted]
        if own:
            best = max(own, key=lambda one: (one.valid_at(now), one.not_after))
            return next(held for held in chain if held.parsed.certificate is best)
    leaves = [held for held in chain if not held.parsed.certificate.is_ca]
    return next(iter([*leaves, *chain]), None)


def _check_key(files: FileSet, contents: _Contents, leaf: Held) -> Iterator[Fault]:
    key, public = contents.key, leaf.parsed.key
    if key is None or public is None:
        return
    if spki_fingerprint(key.public_key()) != leaf.parsed.certificate.key_fingerprint:
        what = f"is not the key of {files.names.certificate}, {leaf.place}"
        remedy = "copy the key and the certificate that belong together"
        yield Fault(files.names.key, FaultKind.KEY_MISMATCH, what, remedy)
    elif not key_fits(key, public):
        what = "the private key is damaged: its signatures are not its certificate's"
        yield Fault(files.names.key, FaultKind.MALFORMED, what, "copy the file again from where it is whole")


def _check_each(
    contents: _Contents, leaf: Held, kin: Sequence[Parsed], path: Path, now: datetime
) -> Iterator[Fault]:
    """Every certificate for itself."""
    steps = {id(step) for step in path.steps}
    relatives = {id(one) for one in kin}
    for held in contents.anchors:
        yield from _check_anchor(held, contents)
        if id(held.parsed) not in steps:
            yield from check_time(held, now, Severity.WARNING)
    for held in contents.chain:
        if held is leaf:
            yield from check_time(held, now)
        elif id(held.parsed) not in relatives:
            yield _unrelated(held)
            continue
        else:
            yield from check_ca(held)
            if id(held.parsed) not in steps:
                yield from check_time(held, now, Severity.WARNING)
        yield from check_strength(held)
        yield from check_signature(held)


def _check_anchor(held: Held, contents: _Contents) -> Iterator[Fault]:
    """A CA of the bundle; one that names itself as its issuer was signed by itself, or by its former key."""
    yield from check_ca(held)
    yield from check_strength(held)
    yield from check_signature(held)
    parsed = held.parsed
    if parsed.key is None or parsed.certificate.self_signed or not parsed.self_issued:
        return
    if not any(signs(other.parsed, parsed) for other in (*contents.anchors, *contents.chain)):
        what = f"{held.place} is damaged: its signature is not its own"
        yield Fault(held.file, FaultKind.BAD_SIGNATURE, what, "copy the file again from where it is whole")


def _unrelated(held: Held) -> Fault:
    what = f"{held.place} has nothing to do with the leaf, and is left out"
    return Fault(held.file, FaultKind.UNRELATED, what, "remove it", Severity.WARNING)


def _check_ways(files: FileSet, contents: _Contents, path: Path, now: datetime) -> Iterator[Fault]:
    """The path as a whole, and where it ends."""
    places = {id(held.parsed): held for held in (*contents.chain, *contents.anchors)}
    steps = [places[id(step)] for step in path.steps]
    yield from check_path(steps, files.role, now)
    last, ca = steps[-1], files.names.ca
    subject, issuer = (
        printable(name) for name in (last.parsed.certificate.subject, last.parsed.certificate.issuer)
    )
    match path.end:
        case End.BAD_SIGNATURE:
            what = (
                f"{last.place} was not signed by the certificate here that has its issuer's name ({issuer})"
            )
            remedy = "use the CA that issued it: another one of the same name is no substitute"
            yield Fault(last.file, FaultKind.BAD_SIGNATURE, what, remedy)
        case End.AMBIGUOUS:
            what = f"{last.place} cannot be told from another CA of its name by key identifiers"
            remedy = "remove the other one, or issue with subject and authority key identifiers"
            yield Fault(last.file, FaultKind.AMBIGUOUS_ISSUER, what, remedy)
        case End.NO_ISSUER if ca in files.contents and ca is not None:
            what = f"{last.place} was issued by {issuer}, which is neither in this file nor in {ca}"
            yield Fault(
                last.file, FaultKind.UNTRUSTED, what, f"add that CA to {ca}, or its intermediate here"
            )
        case End.SELF_SIGNED if ca in files.contents and ca is not None:
            what = f"{last.place} ends the chain at {subject}, which is not in {ca}"
            yield Fault(last.file, FaultKind.UNTRUSTED, what, f"add the CA that issued the leaf to {ca}")


def _check_alone(files: FileSet, leaf: Held, path: Path) -> Iterator[Fault]:
    """A web certificate without its intermediate: only clients could tell, and they refuse it."""
    if files.names.ca is None and path.end is End.NO_ISSUER and len(path.steps) == 1:
        issuer = printable(leaf.parsed.certificate.issuer)
        what = f"{leaf.place} comes without its issuer ({issuer}), which clients may not know"
        remedy = "add the intermediates after the leaf, unless that issuer is the root that clients know"
        yield Fault(leaf.file, FaultKind.UNTRUSTED, what, remedy, Severity.WARNING)


def _sorted(files: FileSet, faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """In the order of the files, each once, errors before warnings of one file."""
    order = {name: index for index, name in enumerate(files.names.all)}
    unique = dict.fromkeys(faults)
    return tuple(
        sorted(unique, key=lambda fault: (order.get(fault.file, -1), fault.severity is Severity.WARNING))
    )


def _certificates(parsed: Sequence[Parsed]) -> tuple[Certificate, ...]:
    return tuple(one.certificate for one in parsed)
