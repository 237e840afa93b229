"""A certificate set → the SSLContext of its side. Built whole, never changed after (D3).

What is set here and why:

- Verification flags, explicitly: TRUSTED_FIRST and PARTIAL_CHAIN (docs/decisions/0003). Not X509_STRICT: it
  refuses what `openssl x509 -req -CA` of OpenSSL 3.0 issues by default (no authority key identifier) and
  roots whose basicConstraints aren't critical, and what it would add for security the loader checks itself
  (CA bit, keyCertSign, path length, key strength). Our own sets pass it, which the tests prove.
- Security level 2 in the cipher string, so that the system's configuration can't lower it.
- No tickets at all. A resumed session skips the check of the peer's certificate, and a full handshake costs
  about what a resumed one does (docs/performance.md). TLS 1.2 still has session IDs, which neither
  `num_tickets` nor OP_NO_TICKET turns off and Python can't: a listener that allows 1.2 asks `resumed` after
  the handshake and closes.
- TLS 1.2 suites of product facts §2, less CBC: ECDHE with AES-GCM.
"""

import hashlib
import os
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Final

from common.certificates.model import FILES, Certificate, CertificateSet, Fault, FaultKind, Judgement, Role
from common.certificates.pem import encode_block
from common.errors import CertificateSetError
from common.openssl import send_no_root

CIPHERS_TLS12: Final = ":".join(
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "@SECLEVEL=2",
    )
)

VERIFY_FLAGS: Final = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN

_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME; Python has no name for it

# The last few sets that passed: role, chain, bundle and key, by their fingerprints.
_passed: Final[deque[tuple[str, str, bytes]]] = deque(maxlen=16)

_FLIGHTS: Final = 8  # two are needed without HelloRetryRequest

_OPTIONS: Final = (
    ssl.Options.OP_NO_COMPRESSION
    | ssl.Options.OP_NO_RENEGOTIATION
    | ssl.Options.OP_NO_TICKET
    | ssl.Options.OP_SINGLE_ECDH_USE
    | ssl.Options.OP_CIPHER_SERVER_PREFERENCE
)


def server_context(
    set_: CertificateSet, *, minimum: ssl.TLSVersion | None = None, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    """The context of a listener: mutual where the role has a bundle, except the admission webhook's.

    Args:
        set_: A set of a server role.
        minimum: The oldest protocol version; 1.3 for the Defender channel and 1.2 otherwise, if not given.
        alpn: Protocols to choose from, the preferred one first.

    Raises:
        CertificateSetError: if OpenSSL refuses what the loader passed, or the host has no descriptor for it
            (FaultKind.HOST).
        ValueError: if the set is a client's.
    """
    if not set_.role.is_server:
        raise ValueError(f"{set_.role} is no server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mutual = set_.role is Role.DEFENDER_SERVER
    _harden(context, minimum or (ssl.TLSVersion.TLSv1_3 if mutual else ssl.TLSVersion.TLSv1_2))
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    _furnish(context, set_, trust=mutual, alpn=alpn)
    return context


def client_context(
    set_: CertificateSet, *, minimum: ssl.TLSVersion | None = None, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    """The context of a Defender's connection: shows its certificate, verifies the Console's and its name.

    The name is the caller's `server_hostname`; only subject alternative names count (RFC 6125 §6.4.4).

    Args:
        set_: A set of the role DEFENDER_CLIENT.
        minimum: The oldest protocol version; 1.3 if not given.
        alpn: Protocols to offer, the preferred one first.

    Raises:
        CertificateSetError: if OpenSSL refuses what the loader passed, or the host has no descriptor for it
            (FaultKind.HOST).
        ValueError: if the set is a server's.
    """
    if set_.role.is_server:
        raise ValueError(f"{set_.role} is no client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, minimum or ssl.TLSVersion.TLSv1_3)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.hostname_checks_common_name = False
    _furnish(context, set_, trust=True, alpn=alpn)
    return context


def confirmed(judgement: Judgement) -> Judgement:
    """The judgement, unless OpenSSL itself refuses the set: then there is none, for its reason.

    The loader foretells what OpenSSL will say. Where two CAs of a bundle have the same name and key, which of
    the two OpenSSL looks at is its own affair.
    """
    found = judgement.set
    if found is None:
        return judgement
    try:
        (server_context if found.role.is_server else client_context)(found)
    except CertificateSetError as error:
        faults = (fault for fault in error.faults if isinstance(fault, Fault))
        return Judgement(None, (*judgement.faults, *faults))
    return judgement


def resumed(connection: ssl.SSLObject | ssl.SSLSocket) -> bool:
    """Whether this handshake reused a session, and so did not check the peer's certificate.

    A listener of a mutual channel that allows TLS 1.2 closes such a connection: its peer's CA may have been
    removed, or its certificate expired, since the session was made (D3).
    """
    return bool(connection.session_reused)


def _harden(context: ssl.SSLContext, minimum: ssl.TLSVersion) -> None:
    context.minimum_version = minimum
    context.set_ciphers(CIPHERS_TLS12)
    context.options |= _OPTIONS
    context.verify_flags = VERIFY_FLAGS


def _furnish(context: ssl.SSLContext, set_: CertificateSet, *, trust: bool, alpn: Sequence[str]) -> None:
    """Put the set in, and prove that OpenSSL takes it."""
    if alpn:
        context.set_alpn_protocols(list(alpn))
    try:
        if trust:
            context.load_verify_locations(cadata=_anchors(set_))
        _load_pair(context, set_, trust=trust)
        if set_.anchors:
            _rehearse(set_)
    except OSError as error:
        raise _refused(set_, error) from error


def _anchors(set_: CertificateSet) -> bytes:
    return b"".join(anchor.der for anchor in set_.anchors)


def _load_pair(context: ssl.SSLContext, set_: CertificateSet, *, trust: bool) -> None:
    """Give OpenSSL chain and key, which it takes by path only: a path to memory, not to the files.

    So what is loaded is what was judged, and the key is not written anywhere.
    """
    sent = _sent(set_, trust=trust, rootless=send_no_root(context))
    handle = os.memfd_create("garrison-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(handle, "wb", closefd=False) as memory:
            memory.writelines(encode_block("CERTIFICATE", one.der) for one in sent)
            memory.write(set_.key.pem)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def _sent(set_: CertificateSet, *, trust: bool, rootless: bool) -> Sequence[Certificate]:
    """What a peer is shown: the chain; for a leaf that stands alone, its path through the set's own bundle.

    A peer that trusts the root only needs what lies between; the root itself it has (RFC 8446 §4.4.2). It is
    sent all the same where `send_no_root` could do nothing: OpenSSL would do so anyway, and build and verify
    that path anew in every handshake (measured: 8 % of the server's share of one), unless it is given more
    than the leaf.
    """
    if not trust or len(set_.chain) > 1:
        return set_.chain
    return [one for one in set_.path if one is set_.leaf or not (rootless and one.self_signed)]


def _rehearse(set_: CertificateSet) -> None:
    """A handshake in memory in which the set's own CAs verify its own chain for its own purpose.

    The loader foretells what OpenSSL will say of a set; here OpenSSL says it, before anybody depends on it.
    Dates are left out if nothing else is wrong: contexts are also built for a set that isn't valid yet.
    So nothing but the set decides, and what passed once is not asked again: a swap is on the loop's time, and
    the loader has asked in a thread of its own.

    Raises:
        ssl.SSLError: with OpenSSL's reason.
    """
    # The fingerprint leaves the bundle's order out, and OpenSSL may not.
    known = (set_.fingerprint, set_.key.fingerprint, hashlib.sha256(_anchors(set_)).digest())
    if known in _passed:
        return
    try:
        _verify_by_handshake(set_, VERIFY_FLAGS)
    except ssl.SSLCertVerificationError:
        _verify_by_handshake(set_, VERIFY_FLAGS | _NO_CHECK_TIME)
    _passed.append(known)


def _verify_by_handshake(set_: CertificateSet, flags: ssl.VerifyFlags) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server.num_tickets = 0
    # Either side may be the one that verifies; the other then shows the set and asks for nothing. A server
    # can't be without a certificate, so in a client's rehearsal both show it.
    verifier = client if set_.role.is_server else server
    for context in (server, client):
        _harden(context, ssl.TLSVersion.TLSv1_3)
    _load_pair(server, set_, trust=True)
    if verifier is server:
        _load_pair(client, set_, trust=True)
    verifier.verify_flags = flags
    verifier.verify_mode = ssl.CERT_REQUIRED
    verifier.load_verify_locations(cadata=_anchors(set_))
    _handshake_in_memory(server, client)


def _handshake_in_memory(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_FLIGHTS):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert not ends, "a handshake in memory did not end"


def _refused(set_: CertificateSet, error: OSError) -> CertificateSetError:
    return CertificateSetError(f"the {set_.role} set ({set_.source})", [_fault(set_, error)])


def _fault(set_: CertificateSet, error: OSError) -> Fault:
    file = FILES[set_.role].certificate
    if not isinstance(error, ssl.SSLError):  # no descriptor or memory for the key: the set is none the worse
        what = f"cannot be given to OpenSSL ({error.strerror or error})"
        return Fault(
            file, FaultKind.HOST, what, "raise what this host allows the process (ulimit -n, memory)"
        )
    reason = getattr(error, "verify_message", None) or error.reason or "no reason given"
    what, remedy = f"OpenSSL refuses it ({reason})", "issue the certificates of this set again"
    return Fault(file, FaultKind.UNTRUSTED, what, remedy)
