"""What the bench's tests share."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.certificates import MintOptions, mint_defender, names_for
from common.certificates.authority import KeyAlgorithm


def mint_into(folder: Path) -> None:
    """The Defender channel's files by a new CA; of P-256, since its key is made faster."""
    options = MintOptions("localhost", "defender", names_for("localhost"), algorithm=KeyAlgorithm.P256)
    for name, pem in mint_defender(datetime.now(UTC), options).files.items():
        (folder / name).write_bytes(pem)
        (folder / name).chmod(0o600)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Defender channel's files."""
    folder = tmp_path_factory.mktemp("certificates")
    mint_into(folder)
    return folder
