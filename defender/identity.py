"""The instance key: what tells this Defender from those that share its certificate (D9a).

A P-256 key made at first start. The Console binds it to an ID, so it is never replaced silently: a Defender
with another key is another Defender.
"""

import hashlib
import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from common.certificates import write_private
from common.errors import DataFolderError
from common.protocol import instance_key_der

log = logging.getLogger(__name__)

NAME: Final = "instance-key.pem"
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class InstanceKey:
    """This Defender's own key.

    Attributes:
        private: The key, which no repr shows.
        public_key: Its SubjectPublicKeyInfo, DER: what the Console binds an ID to.
    """

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    public_key: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key, in hex."""
        return hashlib.sha256(self.public_key).hexdigest()


def load_or_create(folder: Path) -> InstanceKey:
    """The key in a data folder; made there if there is none. Call it under the folder's lock.

    Raises:
        DataFolderError: if the file is no key of ours or cannot be read or made; nothing is changed then.
    """
    key = load(folder)
    if key is not None:
        return key
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        write_private(folder / NAME, pem)
    except OSError as error:
        raise DataFolderError(
            str(folder / NAME), f"cannot be made ({error.strerror})", "make the folder writable and make room"
        ) from None
    log.info("Made an instance key: this is a new Defender to its Console")
    return _wrap(private)


def load(folder: Path) -> InstanceKey | None:
    """The key in a data folder, or None if there is none.

    Raises:
        DataFolderError: if there is something else, it cannot be read, or others than its owner may use it.
    """
    path = folder / NAME
    try:
        pem = _read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataFolderError(
            str(path), f"cannot be read ({error.strerror})", "make it readable for this user, mode 0600"
        ) from None
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise _not_ours(path, "holds no private key in PEM form") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise _not_ours(path, "holds a key that is not an ECDSA P-256 key")
    return _wrap(private)


def _wrap(private: ec.EllipticCurvePrivateKey) -> InstanceKey:
    return InstanceKey(private, instance_key_der(private.public_key()))


def _not_ours(path: Path, fault: str) -> DataFolderError:
    return DataFolderError(
        str(path),
        fault,
        "restore it from a backup, or move it away to join the Console as a new Defender",
    )


def _read(path: Path) -> bytes:
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_ours(path, "is not a file")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise DataFolderError(
                str(path),
                f"may be used by others than its owner (mode {stat.S_IMODE(status.st_mode):04o})",
                f"chmod 600 {path}, and consider that somebody may have read it",
            )
        return file.read(_MAX_BYTES)
