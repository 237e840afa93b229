"""What both sides refuse at their start: early, in one line with the remedy, nothing changed."""

import os
import socket
from pathlib import Path

import pytest

from tests.processes import Fleet, run

PORTS = {
    "MANAGEMENT_PORT_HTTPS": "0",
    "COMMUNICATION_PORT": "0",
    "GARRISON_LISTEN_ADDRESS": "127.0.0.1",
}


@pytest.mark.parametrize("name", ["MANAGEMENT_PORT_HTTPS", "COMMUNICATION_PORT"])
async def test_a_port_that_is_taken(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = PORTS | {"DATA_FOLDER": str(tmp_path / "data"), name: port}
        code, _, errors = await run("console", "run", **settings)
    assert code == 1
    assert port in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "data").exists()


async def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("mine")
    code, _, errors = await run("console", "run", **PORTS, DATA_FOLDER=str(path))
    assert code == 1
    assert str(path) in errors
    assert "Traceback" not in errors
    assert path.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("side", ["console", "defender"])
async def test_a_data_folder_that_cannot_be_written(tmp_path: Path, side: str) -> None:
    mount = tmp_path / "ro"
    mount.mkdir()
    if os.system(f"mount -t tmpfs -o ro tmpfs {mount}") != 0:
        pytest.skip("no tmpfs may be mounted here")
    try:
        extra = {"WS_ADDRESS": "wss://localhost:1"} if side == "defender" else PORTS
        code, _, errors = await run(side, "run", **extra, DATA_FOLDER=str(mount))
    finally:
        os.system(f"umount {mount}")
    assert code == 1
    assert str(mount) in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
async def test_a_data_folder_that_is_full(tmp_path: Path) -> None:
    mount = tmp_path / "full"
    mount.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k tmpfs {mount}") != 0:
        pytest.skip("no tmpfs may be mounted here")
    try:
        code, _, errors = await run("console", "run", **PORTS, DATA_FOLDER=str(mount / "data"))
    finally:
        os.system(f"umount {mount}")
    assert code == 1
    assert str(mount) in errors
    assert "Traceback" not in errors


async def test_a_store_that_is_corrupt(fleet: Fleet) -> None:
    console = await fleet.console()
    await console.process.stop()
    store = console.data / "console.db"
    garbage = b"SQLite format 3\0" + os.urandom(4096)
    store.write_bytes(garbage)
    code, _, errors = await run("console", "run", **PORTS, DATA_FOLDER=str(console.data))
    assert code == 1
    assert str(store) in errors
    assert "Traceback" not in errors
    assert store.read_bytes() == garbage


async def test_a_second_console_on_the_same_data(fleet: Fleet) -> None:
    console = await fleet.console()
    code, _, errors = await run("console", "run", **PORTS, DATA_FOLDER=str(console.data))
    assert code == 1
    assert str(console.data) in errors
    assert "Traceback" not in errors
    assert await console.defenders() == []


async def test_a_lost_master_key(fleet: Fleet) -> None:
    console = await fleet.console()
    await console.process.stop()
    key = console.data / "master.key"
    kept = key.read_bytes()
    key.unlink()
    code, _, errors = await run("console", "run", **PORTS, DATA_FOLDER=str(console.data))
    assert code == 1
    assert str(key) in errors
    assert not key.exists()
    key.write_bytes(kept)
    key.chmod(0o644)
    code, _, errors = await run("console", "run", **PORTS, DATA_FOLDER=str(console.data))
    assert code == 1
    assert str(key) in errors
    key.chmod(0o600)
    await fleet.console()


@pytest.mark.parametrize("side", ["console", "defender"])
async def test_options_that_nobody_knows(tmp_path: Path, side: str) -> None:
    config = tmp_path / "twistlock.cfg"
    config.write_text("DATA_FOLDR=/x\nthis is no assignment\n")
    code, _, errors = await run(side, "run", "--config", str(config), GARRISON_LOG_FROMAT="json")
    assert code == 2
    assert f"{config}:2: not an assignment" in errors
    config.write_text("DATA_FOLDR=/x\n")
    code, _, errors = await run(side, "run", "--config", str(config), GARRISON_LOG_FROMAT="json")
    assert code == 2
    assert f"{config}:1: DATA_FOLDR is not an option; did you mean DATA_FOLDER?" in errors
    assert "GARRISON_LOG_FROMAT is not an option; did you mean GARRISON_LOG_FORMAT?" in errors
    assert "Traceback" not in errors


async def test_the_same_port_twice(tmp_path: Path) -> None:
    settings = {"MANAGEMENT_PORT_HTTPS": "18083", "COMMUNICATION_PORT": "18083"}
    code, _, errors = await run("console", "run", **settings, DATA_FOLDER=str(tmp_path))
    assert code == 2
    assert "18083" in errors


async def test_a_defender_without_an_address(tmp_path: Path) -> None:
    code, _, errors = await run("defender", "run", DATA_FOLDER=str(tmp_path))
    assert code == 2
    assert "WS_ADDRESS" in errors


async def test_a_defender_without_certificates(tmp_path: Path) -> None:
    code, _, errors = await run(
        "defender", "run", DATA_FOLDER=str(tmp_path), WS_ADDRESS="wss://localhost:8084"
    )
    assert code == 1
    assert "INSTALL_BUNDLE" in errors
    assert "Traceback" not in errors


async def test_json_log_lines(fleet: Fleet) -> None:
    console = await fleet.console(GARRISON_LOG_FORMAT="json")
    assert all(line.startswith('{"level": ') for line in console.process.lines)


async def test_a_process_ends_without_a_crash(tmp_path: Path) -> None:
    """Guards against a library that crashes one time in four when the interpreter ends."""
    for _ in range(12):
        code, _, errors = await run("defender", "run", DATA_FOLDER=str(tmp_path))
        assert code == 2, errors
