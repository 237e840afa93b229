"""A file server that doesn't answer: it stops neither a start that is to end, nor what runs, nor its end."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.certificates import Role
from tests.operator import Operator
from tests.processes import Fleet
from tests.volumes import Bindfs, needs_fuse

POLL = {"GARRISON_CUSTOM_CERTIFICATES_POLL": "500ms"}

pytestmark = needs_fuse


@pytest.fixture
def behind(tmp_path: Path) -> Path:
    path = tmp_path / "behind"
    path.mkdir()
    return path


@pytest.fixture
def volume(tmp_path: Path, behind: Path) -> Iterator[Bindfs]:
    """Mounted as the custom certificates of the Console and of the Defender `one`."""
    folder = tmp_path / "console" / "custom-certificates"
    folder.mkdir(parents=True)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "custom-certificates").symlink_to(folder)
    bindfs = Bindfs(behind, folder)
    yield bindfs
    bindfs.answer_again()
    bindfs.die()
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["console", "defender"])
async def test_a_start_that_waits_for_it_can_be_stopped(
    fleet: Fleet, volume: Bindfs, tmp_path: Path, side: str
) -> None:
    data = tmp_path / ("console" if side == "console" else "one")
    settings = {"DATA_FOLDER": str(data), "GARRISON_LISTEN_ADDRESS": "127.0.0.1"}
    ports = {"MANAGEMENT_PORT_HTTPS": "0", "COMMUNICATION_PORT": "0", "WS_ADDRESS": "wss://localhost:1"}
    volume.stop_answering()
    process = await fleet.start(side, "run", **settings, **ports)
    await process.line(r"^WARN .* has not answered for 30 s", timeout=50)
    assert await process.stop() == 0
    assert "Traceback" not in process.log


async def test_what_runs_goes_on_and_ends_in_order(fleet: Fleet, volume: Bindfs, behind: Path) -> None:
    operator = Operator(behind)
    operator.renew(Role.DEFENDER_SERVER)
    operator.renew(Role.DEFENDER_CLIENT)
    console = await fleet.console(**POLL)
    defender = await fleet.defender("one", await console.bundle(), **POLL)
    await defender.line("Connected to the Console")
    volume.stop_answering()
    found = await console.until(lambda found: all(one["connected"] for one in found))
    assert len(found) == 1
    seen = len(console.process.lines)
    volume.answer_again()
    renewed = operator.renew(Role.DEFENDER_SERVER)
    line = re.escape("Console WebSocket custom certificates rotated, resetting listener")
    assert renewed.fingerprint[:16] in (await console.process.line(line, after=seen)).string
    volume.stop_answering()
    assert await defender.stop() == 0
    assert await console.process.stop() == 0
    assert "Traceback" not in console.process.log + defender.log
