"""What the bench's tests share."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.certificates import MintOptions, mint_defender, names_for
from common.certificates.authority import KeyAlgorithm
from tests.bench.machine import Cores
from tests.bench.workshop import Workshop


def mint_into(folder: Path) -> None:
    """The Defender channel's files by a new CA; of P-256, since its key is made faster."""
    options = MintOptions("localhost", "defender", names_for("localhost"), algorithm=KeyAlgorithm.P256)
    for name, pem in mint_defender(datetime.now(UTC), options).files.items():
        (folder / name).write_bytes(pem)
        (folder / name).chmod(0o600)


@pytest.fixture
def bare_workshop(tmp_path: Path) -> Workshop:
    """A workshop in which nothing was made yet."""
    made = Workshop(tmp_path, Cores.of_this_process())
    made.run_folder("any")
    return made


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Defender channel's files."""
    folder = tmp_path_factory.mktemp("certificates")
    mint_into(folder)
    return folder
