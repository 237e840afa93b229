"""`garrison onebox`, as `make onebox` calls it."""

import json
import re
import signal
import socket
from pathlib import Path

from common.certificates import Role
from common.certificates.names import names_of
from common.onebox import PREDEFINED
from tests.operator import Operator
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
    expected = PREDEFINED if PREDEFINED.is_dir() else folder / "custom-certificates"
    assert shared == {expected.resolve()}
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


async def test_the_walk_of_the_document(fleet: Fleet, tmp_path: Path) -> None:
    """Custom certificates, "Onebox", steps 1 to 4, and the mistakes and the mending that follow."""
    directory = tmp_path / "twistlock" / "custom-certificates"
    directory.mkdir(parents=True)  # 1: before installing
    operator = Operator(directory)
    folder = tmp_path / "onebox"
    process = await onebox(fleet, folder, "--custom-certificates", str(directory))  # 2: install
    await process.line(UP)
    names = ("console", "defender-1", "defender-2")
    for name in names:  # 3: check the logs
        await process.line(rf"^{name} +\| DEBU .* Watching custom certificates directory: {directory}$")
    roles = (Role.HTTPS_SERVER, Role.DEFENDER_SERVER, Role.DEFENDER_CLIENT)
    files = {name: data for role in roles for name, data in operator.pki.files(role).items()}
    operator.copy(files)  # 4: copy, and connections are reset
    for line in (
        r"^console +\| INFO .* Console HTTPS custom certificates rotated, resetting listener",
        r"^console +\| INFO .* Console WebSocket custom certificates rotated, resetting listener",
        r"^defender-1 +\| INFO .* Defender custom certificates rotated, resetting connection",
        r"^defender-2 +\| INFO .* Defender custom certificates rotated, resetting connection",
    ):
        await process.line(line)
    ours = operator.judged(Role.DEFENDER_CLIENT, files).leaf.fingerprint[:16]
    for name in names[1:]:
        await process.line(rf"^{name} +\| INFO .* Connected to the Console at .*, ours {ours}\)")
    operator.copy({"defender-client-key.pem": b"not a key"})
    for name in names[1:]:
        await process.line(rf"^{name} +\| ERRO .* Failed to construct defender client TLS config")
    seen = len(process.lines)
    renewed = operator.renew(Role.DEFENDER_CLIENT).leaf.fingerprint[:16]
    for name in names[1:]:
        pattern = rf"^{name} +\| INFO .* Connected to the Console at .*, ours {renewed}\)"
        await process.line(pattern, after=seen)
    assert "Lost the Console" not in process.log
    assert await process.stop(signal.SIGINT) == 0
    # All start with them, too.
    process = await onebox(fleet, folder, "--custom-certificates", str(directory))
    await process.line(UP)
    assert "Cannot connect" not in process.log
    assert len(re.findall("Using custom directory certificates", process.log)) == len(names)


async def test_certificates_that_do_not_name_this_machine_end_it_with_the_reason(
    fleet: Fleet, tmp_path: Path
) -> None:
    operator = Operator(tmp_path / "custom-certificates")
    names = names_of(("console.example",), ())
    issued = operator.pki.authority.issue(
        Role.DEFENDER_SERVER, common_name="elsewhere", names=names, now=operator.pki.now
    )
    operator.copy(operator.pki.files(Role.DEFENDER_SERVER, issued))
    process = await onebox(fleet, tmp_path / "onebox", "--custom-certificates", str(operator.directory))
    assert await process.ended() == 1
    assert "localhost" in process.lines[-1]
    assert "console.example" in process.lines[-1]
