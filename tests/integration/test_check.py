"""`garrison defender check` against real Consoles: what went wrong is told apart, by text and exit code."""

import socket
from pathlib import Path

from defender.causes import ExitCode
from tests.processes import Fleet, run


async def check(folder: Path, bundle: dict[str, str], **more: str) -> tuple[int, str]:
    settings = {"DATA_FOLDER": str(folder), "GARRISON_CONNECT_TIMEOUT": "5s"}
    code, output, errors = await run("defender", "check", **{**settings, **bundle, **more})
    return code, output + errors


async def test_it_is_the_right_console(fleet: Fleet, tmp_path: Path) -> None:
    console = await fleet.console()
    code, said = await check(tmp_path / "d", await console.bundle())
    assert code == ExitCode.OK, said


async def test_a_bundle_of_another_console(fleet: Fleet, tmp_path: Path) -> None:
    ours = await fleet.console("ours")
    other = await fleet.console("other")
    bundle = {**await ours.bundle(), "WS_ADDRESS": (await other.bundle())["WS_ADDRESS"]}
    code, said = await check(tmp_path / "d", bundle)
    assert code == ExitCode.UNKNOWN_CA, said
    assert "Traceback" not in said
    # The Console is told so too, and says what to do.
    await other.process.line(r"peer does not know our CA: it does not trust this Console's CA")
    assert await other.defenders() == []


async def test_a_name_that_the_certificate_lacks(fleet: Fleet, tmp_path: Path) -> None:
    console = await fleet.console(GARRISON_LISTEN_ADDRESS="127.0.0.3")
    bundle = await console.bundle()
    bundle["WS_ADDRESS"] = f"wss://127.0.0.3:{console.websocket_port}"
    code, said = await check(tmp_path / "d", bundle)
    assert code == ExitCode.WRONG_NAME, said
    assert "CONSOLE_SAN" in said


async def test_nothing_listens(fleet: Fleet, tmp_path: Path) -> None:
    console = await fleet.console()
    bundle = await console.bundle()
    await console.process.stop()
    code, said = await check(tmp_path / "d", bundle)
    assert code == ExitCode.UNREACHABLE, said


async def test_something_that_speaks_no_tls(fleet: Fleet, tmp_path: Path) -> None:
    console = await fleet.console()
    bundle = await console.bundle()
    with socket.create_server(("127.0.0.1", 0)) as server:
        # Nobody accepts: the kernel completes the TCP handshake, and no TLS answer ever comes.
        bundle["WS_ADDRESS"] = f"wss://localhost:{server.getsockname()[1]}"
        code, said = await check(tmp_path / "d", bundle, GARRISON_CONNECT_TIMEOUT="1s")
    assert code == ExitCode.UNREACHABLE, said
