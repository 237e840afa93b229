"""Volumes for tests: one that is seen through FUSE, without events, and that may stop to answer."""

import os
import signal
import subprocess
import time
from pathlib import Path
from shutil import which

import pytest

needs_fuse = pytest.mark.skipif(
    os.geteuid() != 0 or which("bindfs") is None or not os.access("/dev/fuse", os.W_OK),
    reason="it needs root, bindfs and /dev/fuse",
)


class Bindfs:
    """A folder seen through FUSE, from which no event tells of what happens behind it."""

    def __init__(self, behind: Path, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(["bindfs", "-f", "--no-allow-other", behind, folder])
        deadline = time.monotonic() + 10
        while not folder.is_mount():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("FUSE does not work here")
            time.sleep(0.01)

    def stop_answering(self) -> None:
        """Have every access hang from now on."""
        self.process.send_signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        """End that."""
        self.process.send_signal(signal.SIGCONT)

    def die(self) -> None:
        """Leave a dead mount behind."""
        self.process.kill()
        self.process.wait()
