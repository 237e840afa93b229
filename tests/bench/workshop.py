"""Where a bench works: the folder that it leaves, and what it makes there before it can measure."""

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.errors import BenchError
from tests.bench.machine import Cores

HERE: Final = Path(__file__).parent
FOLDER: Final = HERE.parent.parent / ".bench"
GO_PATH: Final = "/usr/share/gocode"
"""Where Debian's packages put Go's libraries."""
SCALAR_BYTES: Final = 32
# The order of P-256 (SEC 2 §2.4.2) begins with 2^32 - 1: a scalar whose first byte is 0 is always below it.
_ZERO: Final = b"\x00"


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every measurement needs.

    Attributes:
        folder: Everything that is made lies in it.
        cores: Where servers and load run.
    """

    folder: Path
    cores: Cores

    @property
    def certificates(self) -> Path:
        """One set for all servers and their clients, under the product's file names."""
        return self.folder / "certificates"

    @property
    def identities(self) -> Path:
        """Instance keys: P-256 scalars of 32 bytes each, one after the other."""
        return self.folder / "identities"

    @property
    def driver(self) -> Path:
        return self.folder / "driver"

    @property
    def gorilla(self) -> Path:
        return self.folder / "gorilla"

    @property
    def template(self) -> Path:
        """The data folder of a Console that has made its certificates and knows no Defender."""
        return self.folder / "template"

    def run_folder(self, name: str) -> Path:
        """An empty folder for what a server keeps; one of an earlier run is gone."""
        path = self.folder / "run" / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, mode=0o700)
        return path


def ensure_identities(path: Path, count: int) -> None:
    """Have at least `count` instance keys in the file; those that are there stay.

    A scalar is a key as it is: nothing has to be computed until one is used.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    present = path.stat().st_size // SCALAR_BYTES if path.exists() else 0
    with path.open("ab") as file:
        path.chmod(0o600)
        for _ in range(count - present):
            file.write(_ZERO + secrets.token_bytes(SCALAR_BYTES - 1))


def build_peers(workshop: Workshop) -> None:
    """Build the Go programs; the compiler's own cache makes a second time free.

    Raises:
        BenchError: Go or gorilla/websocket is missing, or does not build.
    """
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": GO_PATH,
        "GOCACHE": str(workshop.folder / "go-cache"),
        "GOFLAGS": "",
    }
    for target in (workshop.driver, workshop.gorilla):
        command = ["go", "build", "-o", str(target), str(HERE / "peers" / target.name / "main.go")]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise BenchError("Go is missing: apt-get install golang-go") from None
        if done.returncode:
            raise BenchError(f"{target.name} does not build:\n{done.stderr}")
