import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)

from common.errors import DataFolderError
from defender.identity import NAME, load, load_or_create


def test_a_first_start_makes_a_key_for_the_owner_alone(tmp_path: Path) -> None:
    key = load_or_create(tmp_path)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    public = load_der_public_key(key.public_key)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)


def test_the_next_start_finds_the_same(tmp_path: Path) -> None:
    first = load_or_create(tmp_path)
    assert load_or_create(tmp_path).public_key == first.public_key
    found = load(tmp_path)
    assert found is not None
    assert found.fingerprint == first.fingerprint


def test_two_folders_are_two_defenders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert load_or_create(tmp_path / "a").public_key != load_or_create(tmp_path / "b").public_key


def test_without_a_key_load_makes_none(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    key = load_or_create(tmp_path)
    assert "rivate" not in repr(key)
    assert "PRIVATE" not in repr(key)


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b"") -> bytes:
    hidden = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)


P256 = pem(ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        P256[: len(P256) // 2],
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(rsa.generate_private_key(65537, 2048)),
        pem(ec.generate_private_key(ec.SECP256R1()), b"password"),
    ],
    ids=["empty", "garbage", "half", "hollow", "P-384", "RSA", "encrypted"],
)
def test_what_is_no_key_of_ours_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    (tmp_path / NAME).chmod(0o600)
    with pytest.raises(DataFolderError) as caught:
        load_or_create(tmp_path)
    assert "restore it from a backup, or move it away" in str(caught.value)
    assert (tmp_path / NAME).read_bytes() == content


def test_a_fifo_or_folder_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(DataFolderError, match="is not a file"):
        load_or_create(tmp_path)
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    with pytest.raises(DataFolderError):
        load_or_create(tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    key = load_or_create(tmp_path)
    (tmp_path / NAME).chmod(mode)
    with pytest.raises(DataFolderError, match=f"mode 0{mode:o}") as caught:
        load_or_create(tmp_path)
    assert f"chmod 600 {tmp_path / NAME}" in str(caught.value)
    (tmp_path / NAME).chmod(0o400)
    assert load_or_create(tmp_path).public_key == key.public_key


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, resource\n"
        "from common.errors import DataFolderError\n"
        "from defender.identity import load_or_create\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try: load_or_create(pathlib.Path(sys.argv[1]))\n"
        "except DataFolderError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path], check=False, capture_output=True, text=True
    )
    assert "cannot be made" in result.stdout, result.stderr
    assert not list(tmp_path.iterdir())
