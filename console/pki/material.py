"""A generation as it is used: PEM by file name. Pure; the store keeps the same, sealed, by the same names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from common.certificates import (
    CONSOLE_CA_FILE,
    FILES,
    Authority,
    CertificateSet,
    FileSet,
    Judgement,
    MintOptions,
    Names,
    Role,
    Source,
    judge,
    mint_console,
    mint_defender,
    webhook_names,
)
from common.certificates.names import WEBHOOK_SERVICE
from console.sealing import Broken, Key
from console.store import GenerationRecord, Kind

CA_FILES: Final[Mapping[Kind, tuple[str, str]]] = MappingProxyType(
    {
        # Product facts §1; the keys' names are ours, and they are names of secrets: no such file is written.
        Kind.DEFENDER: ("defender-ca.pem", "defender-ca-key.pem"),
        Kind.CONSOLE: (CONSOLE_CA_FILE, "ca-key.pem"),
    }
)

ROLES: Final[Mapping[Kind, tuple[Role, ...]]] = MappingProxyType(
    {
        Kind.DEFENDER: (Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT, Role.ADMISSION_SERVER),
        Kind.CONSOLE: (Role.HTTPS_SERVER,),
    }
)

OLD_SUFFIX: Final = ".old"

_ROTATED: Final = (
    "defender-ca.pem",
    "defender-server-cert.pem",
    "defender-server-key.pem",
    "defender-client-cert.pem",
    "defender-client-key.pem",
)
"""The files of the generation before that the view shows too (product facts §1); the admission set isn't."""


@dataclass(frozen=True, slots=True)
class Material:
    """One generation, opened.

    Attributes:
        kind: Whose CA.
        number: Counts from 1 within its kind.
        created: When it was minted.
        authority: The CA with its key.
        leaves: File name → PEM of the leaves and their keys.
    """

    kind: Kind
    number: int
    created: datetime
    authority: Authority
    leaves: Mapping[str, bytes] = field(repr=False)

    @property
    def files(self) -> dict[str, bytes]:
        """File name → PEM, as the view shows it: all but the CA's key."""
        return {CA_FILES[self.kind][0]: self.authority.certificate_pem, **self.leaves}

    def judge(self, role: Role, now: datetime) -> Judgement:
        """One of its sets, judged as every set is."""
        return judge(FileSet.from_bytes(role, self.files), now=now, source=Source.GENERATED)


def mint_material(kind: Kind, number: int, options: MintOptions, now: datetime) -> Material:
    """A new generation. An RSA key takes up to a second: not for the event loop."""
    options = replace(options, generation=number)
    minted = mint_defender(now, options) if kind is Kind.DEFENDER else mint_console(now, options)
    leaves = {name: pem for name, pem in minted.files.items() if name != CA_FILES[kind][0]}
    return Material(kind, number, now, minted.authority, leaves)


def seal(material: Material, key: Key) -> GenerationRecord:
    """As the store keeps it."""
    plain = {**material.files, CA_FILES[material.kind][1]: material.authority.key_pem}
    secrets = seal_files(material.kind, material.number, plain, key)
    not_after = material.authority.certificate.not_after
    return GenerationRecord(material.kind, material.number, material.created, not_after, secrets)


def seal_files(kind: Kind, number: int, files: Mapping[str, bytes], key: Key) -> dict[str, bytes]:
    """Each of the files, sealed under its place in the store."""
    return {name: key.seal(pem, kind, str(number), name) for name, pem in files.items()}


def unseal(record: GenerationRecord, key: Key) -> Material | tuple[str, ...]:
    """A generation from the store, or what of it is missing or can't be opened."""
    ca, ca_key = CA_FILES[record.kind]
    wanted = {ca, ca_key, *(n for r in ROLES[record.kind] for n in (FILES[r].certificate, FILES[r].key))}
    opened: dict[str, bytes] = {}
    for name, sealed in record.secrets.items():
        plain = key.open(sealed, record.kind, str(record.number), name)
        if not isinstance(plain, Broken):
            opened[name] = plain
    if missing := wanted - opened.keys():
        return tuple(sorted(missing))
    authority = Authority.restore(opened.pop(ca), opened.pop(ca_key))
    return Material(record.kind, record.number, record.created, authority, opened)


def choose(materials: Sequence[Material], now: datetime) -> Material | None:
    """The newest generation whose CA is valid at `now`.

    Not just the newest: a start with a clock far ahead may have made one that isn't valid yet.
    """
    valid = [material for material in materials if material.authority.certificate.valid_at(now)]
    return max(valid, key=lambda material: material.number, default=None)


def ended(materials: Iterable[Material], now: datetime) -> bool:
    """Whether nothing is left to use: every CA has expired, or there is none."""
    return all(material.authority.certificate.not_after <= now for material in materials)


def view(defender: Material, console: Material, old: Material | None = None) -> dict[str, bytes]:
    """The files of `<DATA_FOLDER>/certificates`: the current generation, and of the one before the five."""
    files = {**defender.files, **console.files}
    if old is not None:
        files |= {name + OLD_SUFFIX: old.files[name] for name in _ROTATED}
    return files


def reissue(material: Material, options: MintOptions, now: datetime) -> dict[str, bytes]:
    """New leaves where the configured names are no longer covered, by file name; empty if all are.

    A server's certificate that lacks a name that it is asked for by now is made anew by the same CA, so that
    no Defender notices: with the configured names only, so that names of the past don't pile up. One that
    has more names than configured is left alone, since Defenders may have been deployed with any of them.
    Common names alone reissue nothing: nobody verifies them. A leaf that can't be used at all (it may have
    been given a shorter life than its CA) is made anew too.
    """
    if not material.authority.certificate.valid_at(now):
        return {}
    files: dict[str, bytes] = {}
    for role in ROLES[material.kind]:
        names, common_name = _wanted(role, options)
        usable = material.judge(role, now).set
        if usable is None or not set(names) <= set(usable.names):
            issued = material.authority.issue(
                role, common_name=common_name, names=names, now=now, lifetime=options.lifetime
            )
            files |= {FILES[role].certificate: issued.chain, FILES[role].key: issued.key}
    return files


def _wanted(role: Role, options: MintOptions) -> tuple[Names, str]:
    match role:
        case Role.DEFENDER_CLIENT:
            return Names(), options.defender_cn
        case Role.ADMISSION_SERVER:
            return webhook_names(options.namespace), WEBHOOK_SERVICE
    return options.names, options.console_cn


def current_sets(
    defender: Material, console: Material, now: datetime
) -> tuple[dict[Role, CertificateSet], tuple[str, ...]]:
    """The set of every role, and a sentence for each fault that keeps one from being used."""
    sets: dict[Role, CertificateSet] = {}
    faults: list[str] = []
    for material in (defender, console):
        for role in ROLES[material.kind]:
            judgement = material.judge(role, now)
            faults += [str(fault) for fault in judgement.errors]
            if judgement.set is not None:
                sets[role] = judgement.set
    return sets, tuple(faults)
