"""PEM blocks out of a file's bytes (RFC 7468), and every way in which a file fails to hold them.

More is taken than OpenSSL takes (text around the blocks, any line ending, indented blocks), since OpenSSL
never sees the file: it gets what is written anew from the blocks.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from common.certificates.model import Fault, FaultKind

_MARKER: Final = re.compile(rb"-----(BEGIN|END) ([A-Z0-9][A-Z0-9 ]*)-----")
_NEARLY_MARKER: Final = re.compile(rb"-+ ?(BEGIN|END) [A-Z0-9 ]*")
_HEADER: Final = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:")

# What a file begins with that is something else altogether.
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_SEQUENCE: Final = (b"\x30\x80", b"\x30\x81", b"\x30\x82", b"\x30\x83")  # X.690: a constructed SEQUENCE

MAX_FAULTS: Final = 20
"""Faults told of one file's form; a file with more is not PEM that somebody mistyped."""


@dataclass(frozen=True, slots=True)
class Block:
    """One PEM block.

    Attributes:
        label: Between BEGIN and the dashes, such as `CERTIFICATE`.
        der: What it encodes; never shown, it may be a key.
        headers: The lines before an empty line, of the old form (RFC 1421), such as `Proc-Type: …`.
        line: The number of its first line.
    """

    label: str
    der: bytes = field(repr=False)
    headers: tuple[str, ...]
    line: int


def encode_block(label: str, der: bytes) -> bytes:
    """One PEM block in the strict form of RFC 7468 §3."""
    body = base64.encodebytes(der).replace(b"\n", b"")
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return b"\n".join([f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----".encode(), b""])


def parse_blocks(file: str, data: bytes) -> tuple[tuple[Block, ...], tuple[Fault, ...]]:
    """The blocks of a file, in its order, and what is wrong with its form.

    Args:
        file: The file's name, for the faults.
        data: What it holds.
    """
    foreign = _foreign_form(file, data)
    if foreign:
        return (), (foreign,)
    blocks: list[Block] = []
    faults: list[Fault] = []
    for found in _scan(file, data):
        if isinstance(found, Block):
            blocks.append(found)
        else:
            faults.append(found)
    if not blocks and not faults:
        faults.append(
            Fault(file, FaultKind.NOT_PEM, "holds no PEM block", "put PEM there (-----BEGIN …-----)")
        )
    return tuple(blocks), tuple(faults[:MAX_FAULTS])


def _foreign_form(file: str, data: bytes) -> Fault | None:
    """The fault of a file that is no text with PEM in it at all."""
    if not data.strip():
        return Fault(
            file, FaultKind.EMPTY, "is empty", "copy the file again, and check the disk's free space"
        )
    if data.startswith(_UTF16):
        return Fault(file, FaultKind.NOT_PEM, "is UTF-16 text", "save it as ASCII or UTF-8")
    if data.startswith(_SEQUENCE):
        return Fault(
            file,
            FaultKind.DER,
            "is binary (DER, PKCS#12 or PKCS#7), where PEM is due",
            "convert it: openssl x509 or openssl pkey with -inform DER, or openssl pkcs12 -nodes",
        )
    return None


@dataclass(slots=True)
class _Open:
    """A block whose END has not come yet."""

    label: str
    line: int
    body: list[bytes] = field(default_factory=list, repr=False)


def _scan(file: str, data: bytes) -> Iterator[Block | Fault]:
    """Blocks and faults, in the order of the lines."""
    current: _Open | None = None
    for number, raw in enumerate(data.splitlines(), 1):
        line = raw.strip()
        marker = _MARKER.fullmatch(line)
        if marker is None:
            if _NEARLY_MARKER.match(line):
                yield _bad_marker(file, number)
            elif current is not None:
                current.body.append(line)
            continue
        label = marker[2].decode()
        if marker[1] == b"BEGIN":
            if current is not None:
                yield _truncated(file, current)
            current = _Open(label, number)
        elif current is None or current.label != label:
            yield _headless(file, label, number)
            current = None
        else:
            yield _close(file, current)
            current = None
    if current is not None:
        yield _truncated(file, current)


def _close(file: str, block: _Open) -> Block | Fault:
    headers, body = _split_headers(block.body)
    try:
        der = binascii.a2b_base64(b"".join(body), strict_mode=True)
    except binascii.Error:
        der = b""
    if not der:
        what = f"the {block.label} block from line {block.line} on is damaged"
        return Fault(file, FaultKind.MALFORMED, what, "copy the file again from where it is whole")
    return Block(block.label, der, headers, block.line)


def _split_headers(lines: list[bytes]) -> tuple[tuple[str, ...], list[bytes]]:
    """The headers of the old form (RFC 1421 §4.4) end at an empty line."""
    if lines and _HEADER.match(lines[0]):
        end = lines.index(b"") if b"" in lines else len(lines)
        return tuple(line.decode("ascii", "replace") for line in lines[:end]), lines[end:]
    return (), lines


def _truncated(file: str, block: _Open) -> Fault:
    what = f"the {block.label} block from line {block.line} on has no end: the file is cut off"
    return Fault(file, FaultKind.TRUNCATED, what, "copy the file again, whole")


def _headless(file: str, label: str, number: int) -> Fault:
    what = f"line {number} ends a {label} block that never began: the file is cut off"
    return Fault(file, FaultKind.TRUNCATED, what, "copy the file again, whole")


def _bad_marker(file: str, number: int) -> Fault:
    what = f"line {number} is nearly a PEM marker"
    return Fault(file, FaultKind.MALFORMED, what, "write five dashes on either side of it")
