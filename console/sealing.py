"""What is secret in the store is sealed (D11).

A data key encrypts the secrets; the master key, a file, encrypts ("wraps") only the data key. So the master
key can be replaced without touching the rest, and who has the database file has nothing without the other.

Sealed bytes: one byte of format (1), twelve of nonce, then AES-256-GCM's ciphertext and tag (NIST SP
800-38D). The nonce is random; under one key that is good for 2³² messages (ibid., 8.3), and a Console seals a
dozen in a year and a half. The associated data says which secret it is, so that one put in another's place is
refused.

The master key file: one line of base64 for 32 random bytes, mode 0600. Nothing else is in it, so that
`openssl rand -base64 32` can make one.
"""

import asyncio
import base64
import binascii
import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.certificates import write_private
from common.errors import MasterKeyError, StoreError
from console.store import Store

KEY_BYTES: Final = 32
MASTER_KEY_NAME: Final = "master.key"
DATA_KEY: Final = "data-key"
"""The name of the wrapped data key, in the store's meta table and in its associated data."""

_FORMAT: Final = b"\x01"
_NONCE_BYTES: Final = 12
_MAX_FILE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Broken:
    """Sealed bytes that could not be opened: another key, another name, or damaged."""

    name: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key for sealing; it doesn't show itself.

    Attributes:
        secret: 32 bytes.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError("a key has 32 bytes")

    @classmethod
    def generate(cls) -> Self:
        """A new one, random."""
        return cls(AESGCM.generate_key(KEY_BYTES * 8))

    def seal(self, plain: bytes, *name: str) -> bytes:
        """Encrypt `plain` as the secret of this name.

        Args:
            plain: What to keep secret.
            name: Which secret it is, in parts, such as kind, number, file name.
        """
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + AESGCM(self.secret).encrypt(nonce, plain, _identity(name))

    def open(self, sealed: bytes, *name: str) -> bytes | Broken:
        """Decrypt what was sealed by this key under this name; anything else is Broken."""
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if sealed[:1] != _FORMAT or len(nonce) != _NONCE_BYTES:
            return Broken("/".join(name))
        try:
            return AESGCM(self.secret).decrypt(nonce, rest, _identity(name))
        except InvalidTag:
            return Broken("/".join(name))


def _identity(name: tuple[str, ...]) -> bytes:
    # Each part with its length: ("a", "bc") and ("ab", "c") are different secrets.
    parts = [part.encode() for part in name]
    return b"garrison sealed secret v1" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The key that wraps the data key, and the file it is in."""

    key: Key
    path: Path

    @property
    def fingerprint(self) -> str:
        """Tells two master keys apart without giving either away: 8 bytes of a one-way hash, hex."""
        return hashlib.blake2b(self.key.secret, digest_size=8, person=b"garrison-master").hexdigest()

    def wrap(self, data_key: Key) -> bytes:
        """The data key as the store may keep it."""
        return self.key.seal(data_key.secret, DATA_KEY)

    def unwrap(self, wrapped: bytes) -> Key:
        """The data key out of the store.

        Raises:
            MasterKeyError: if this isn't the master key that wrapped it.
        """
        secret = self.key.open(wrapped, DATA_KEY)
        if isinstance(secret, Broken) or len(secret) != KEY_BYTES:
            raise MasterKeyError(
                str(self.path),
                "is not the master key that this store was sealed with",
                "put the right file there, or name it by GARRISON_MASTER_KEY_FILE",
            )
        return Key(secret)


def load_master_key(path: Path, *, create: bool) -> MasterKey:
    """The master key in a file; a new one if there is no file and `create` permits.

    Args:
        path: The file.
        create: Whether nothing has been sealed yet, so that a new key can't be the wrong one.

    Raises:
        MasterKeyError: if it is missing, not for its owner only, malformed, or can't be made.
    """
    try:
        return MasterKey(_read(path), path)
    except FileNotFoundError as error:
        if not create:
            raise MasterKeyError(
                str(path),
                "is missing, and the store was sealed with it",
                "restore it from a backup, or name its place by GARRISON_MASTER_KEY_FILE",
            ) from error
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        write_private(path, base64.b64encode(Key.generate().secret) + b"\n")
        return MasterKey(_read(path), path)
    except OSError as error:
        raise _unusable(path, error) from error


async def open_data_key(store: Store, path: Path) -> Key:
    """The key that this store's secrets are sealed with; both keys are made if this is the first start.

    Args:
        store: The store.
        path: The master key's file.

    Raises:
        MasterKeyError: if the master key is missing though something was sealed, isn't the one that did it,
            may be read by others, or can't be read or made.
        StoreError: if the store can't be used, or has lost its data key.
    """
    wrapped = await store.meta.get(DATA_KEY)
    if wrapped is None and await store.generations.any_sealed():
        fault = "has sealed secrets and no data key to open them"
        raise StoreError(str(store.data_folder), fault, "restore the store from a backup")
    master = await asyncio.to_thread(load_master_key, path, create=wrapped is None)
    if wrapped is None:
        fresh = Key.generate()
        if await store.meta.put_new(DATA_KEY, master.wrap(fresh)):
            return fresh
        wrapped = await store.meta.get(DATA_KEY)  # another Console on the same store was faster
        assert wrapped is not None
    return master.unwrap(wrapped)


def _unusable(path: Path, error: OSError) -> MasterKeyError:
    return MasterKeyError(
        str(path),
        f"cannot be used ({error.strerror})",
        "see that the user that runs the Console may read it, or name another by GARRISON_MASTER_KEY_FILE",
    )


def _read(path: Path) -> Key:
    # Not blocking: somebody may have put a FIFO there.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MasterKeyError(str(path), "is not a file", "put the master key's file there")
        if status.st_mode & 0o077:
            raise MasterKeyError(
                str(path),
                f"may be read by others than its owner (mode {stat.S_IMODE(status.st_mode):04o})",
                "chmod 600 it, and consider that somebody may have read it",
            )
        content = file.read(_MAX_FILE_BYTES)
    try:
        return Key(base64.b64decode(content.strip(), validate=True))
    except (binascii.Error, ValueError):
        # Without its cause, which could quote the content.
        fault = "does not hold a master key (base64 of 32 bytes)"
        raise MasterKeyError(str(path), fault, "restore it from a backup") from None
