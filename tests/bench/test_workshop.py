"""What the bench makes before it can measure."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tests.bench.machine import Cores
from tests.bench.workshop import SCALAR_BYTES, Workshop, ensure_identities


def test_identities_are_keys_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identities"
    ensure_identities(path, 3)
    first = path.read_bytes()
    ensure_identities(path, 5)
    assert path.read_bytes()[: 3 * SCALAR_BYTES] == first
    assert path.stat().st_mode & 0o077 == 0
    scalars = [path.read_bytes()[n : n + SCALAR_BYTES] for n in range(0, 5 * SCALAR_BYTES, SCALAR_BYTES)]
    keys = [ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1()) for scalar in scalars]
    assert len({key.public_key().public_numbers() for key in keys}) == 5


def test_enough_identities_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "identities"
    ensure_identities(path, 4)
    ensure_identities(path, 2)
    assert path.stat().st_size == 4 * SCALAR_BYTES


def test_a_server_begins_with_an_empty_folder(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, Cores(0, 0))
    (workshop.run_folder("console") / "left over").touch()
    assert list(workshop.run_folder("console").iterdir()) == []
