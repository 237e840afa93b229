"""`garrison onebox`, as `make onebox` calls it."""

import json
import re
import signal
import socket
from pathlib import Path

from tests.processes import Fleet, Process, run

UP = r"Defenders are connected to the Console over mutual TLS"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def onebox(fleet: Fleet, folder: Path, *arguments: str) -> Process:
    ports = ("--https-port", str(free_port()), "--websocket-port", str(free_port()))
    return await fleet.start("onebox", "--folder", str(folder), *ports, *arguments)


async def known(folder: Path) -> list[tuple[str, str]]:
    _, output, _ = await run("console", "defenders", "--json", DATA_FOLDER=str(folder / "console"))
    return sorted((d["hostname"], d["id"]) for d in json.loads(output))


async def test_it_comes_up_shows_where_and_stops_all(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "onebox"
    process = await onebox(fleet, folder)
    await process.line(UP)
    url = await process.line(r"Open +(https://localhost:\d+)")
    assert url[1]
    await process.line(r"^defender-2 +\| INFO .* Connected to the Console")
    before = await known(folder)
    assert [name for name, _ in before] == ["defender-1.onebox", "defender-2.onebox"]
    shared = {
        (folder / name / "custom-certificates").resolve() for name in ("console", "defender-1", "defender-2")
    }
    assert shared == {folder / "custom-certificates"}
    assert await process.stop(signal.SIGINT) == 0
    last = [line for line in process.lines if re.match(r"(console|defender-\d) +\| ", line)]
    assert last[-1].endswith("stopped")
    assert "Traceback" not in process.log

    # The second start keeps the state.
    chosen = tmp_path / "chosen"
    process = await onebox(fleet, folder, "--custom-certificates", str(chosen))
    await process.line(UP)
    assert await known(folder) == before
    assert (folder / "console" / "custom-certificates").resolve() == chosen
    assert await process.stop(signal.SIGTERM) == 0


async def test_a_port_that_is_taken_ends_it_with_the_reason(fleet: Fleet, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await fleet.start(
            "onebox", "--folder", str(tmp_path / "onebox"), "--https-port", port, "--websocket-port", "1"
        )
        assert await process.ended() == 1
    assert f"port {port}" in process.log
    assert process.lines[-1].startswith("garrison: console: ended with code 1; read its last log lines above")
