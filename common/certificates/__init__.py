"""Certificate sets: their model, the loader that judges them, the authority that makes them."""

from common.certificates.authority import (
    BACKDATED,
    LIFETIME,
    P256,
    RSA_3072,
    Authority,
    Issued,
    KeyAlgorithm,
    generate_key,
)
from common.certificates.files import publish_generation, write_file, write_private
from common.certificates.judging import inspect, judge
from common.certificates.loader import judge_files, load
from common.certificates.local import local_addresses, local_fqdn
from common.certificates.minting import (
    CONSOLE_CA_FILE,
    ConsoleMaterial,
    DefenderMaterial,
    Minted,
    MintOptions,
    mint,
    mint_console,
    mint_defender,
)
from common.certificates.model import (
    FILES,
    Certificate,
    CertificateSet,
    Fault,
    FaultKind,
    Judgement,
    PrivateKey,
    Role,
    SetFiles,
    Severity,
    Source,
)
from common.certificates.names import Names, names_for, parse_name, parse_san, webhook_names
from common.certificates.reading import MAX_FILE_BYTES, FileSet, read_files
from common.certificates.tls import client_context, resumed, server_context
from common.certificates.trust import still_trusts
from common.certificates.watcher import Channel, Watcher
from common.certificates.watching import ChannelStatus, DirectoryState

__all__ = [
    "BACKDATED",
    "CONSOLE_CA_FILE",
    "FILES",
    "LIFETIME",
    "MAX_FILE_BYTES",
    "P256",
    "RSA_3072",
    "Authority",
    "Certificate",
    "CertificateSet",
    "Channel",
    "ChannelStatus",
    "ConsoleMaterial",
    "DefenderMaterial",
    "DirectoryState",
    "Fault",
    "FaultKind",
    "FileSet",
    "Issued",
    "Judgement",
    "KeyAlgorithm",
    "MintOptions",
    "Minted",
    "Names",
    "PrivateKey",
    "Role",
    "SetFiles",
    "Severity",
    "Source",
    "Watcher",
    "client_context",
    "generate_key",
    "inspect",
    "judge",
    "judge_files",
    "load",
    "local_addresses",
    "local_fqdn",
    "mint",
    "mint_console",
    "mint_defender",
    "names_for",
    "parse_name",
    "parse_san",
    "publish_generation",
    "read_files",
    "resumed",
    "server_context",
    "still_trusts",
    "webhook_names",
    "write_file",
    "write_private",
]
