"""The process: `garrison defender run` and `check` as an operator starts them, against a real Console."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest

from common.protocol import CloseCode, details
from common.protocol.events import Stopped
from defender.causes import ExitCode
from tests.defender.peer import PATIENCE, Console, console, eventually, tcp_server
from tests.defender.pki import Pki

ROOT = Path(__file__).parents[2]


def environment(port: int, folder: Path, **changes: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        # A warning would be a line in somebody's log.
        "PYTHONWARNINGS": "error",
        "WS_ADDRESS": f"wss://127.0.0.1:{port}",
        "DATA_FOLDER": str(folder),
        "GARRISON_HOSTNAME": "test-host",
        "GARRISON_CONNECT_TIMEOUT": "5s",
        **changes,
    }


class Process:
    """A command that runs; its standard error is kept."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""

    async def read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log += line.decode()

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def started(command: str, environ: Mapping[str, str], *arguments: str) -> AsyncIterator[Process]:
    async with launched(("-m", "common", "defender", command, *arguments), environ) as process:
        yield process


@asynccontextmanager
async def launched(arguments: Sequence[str], environ: Mapping[str, str]) -> AsyncIterator[Process]:
    """A Python that is ended after, however it stands."""
    process = Process(
        await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            env=environ,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(process.read())
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.process.kill()
            await process.process.wait()


async def outcome(command: str, environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Its exit code, standard output and standard error."""
    async with started(command, environ, *arguments) as process:
        assert process.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            output = await process.process.stdout.read()
        code = await process.ended()
    return code, output.decode(), process.log


async def connected(peer: Console, number: int = 1) -> None:
    await peer.welcomed(number)
    await eventually(lambda: "certificateProved" in peer.only.types)


def has_started(peer: Console, times: int) -> bool:
    return peer.only_types("started") == times


# run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(pki: Pki, tmp_path: Path, number: signal.Signals) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, started("run", environment(peer.port, tmp_path)) as process:
        await connected(peer)
        process.process.send_signal(number)
        assert await process.ended() == ExitCode.OK
        assert peer.sessions[0].closed == (CloseCode.GOING_AWAY, number.name)
        assert details(peer.only.events[-1]) == Stopped(number.name)
    assert "Traceback" not in process.log
    assert f"Stopping: {number.name}" in process.log
    assert all(line.startswith(("INFO ", "DEBU ")) for line in process.log.splitlines()), process.log


async def test_it_has_no_threads_of_its_own(pki: Pki, tmp_path: Path) -> None:
    """Its memory and processor time are the bench's to say."""
    pki.deploy(tmp_path)
    async with console(pki) as peer, started("run", environment(peer.port, tmp_path)) as process:
        await connected(peer)
        its = psutil.Process(process.process.pid)
        # asyncio's look-up of the address leaves a thread.
        assert its.num_threads() <= 2


async def test_what_it_imports_is_what_it_needs() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import defender.service, sys; print(*sys.modules)"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    heavy = {"aiohttp", "rich", "sqlalchemy", "watchfiles", "uvloop", "click", "jinja2", "http.client"}
    assert not heavy & set(output.decode().split())
    assert not any(name.split(".")[0] == "console" for name in output.decode().split())


@asynccontextmanager
async def hanging(where: str, pki: Pki) -> AsyncIterator[dict[str, str]]:
    """A place where an attempt hangs, as the settings that lead there."""
    if where == "connect":
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            with socket.socket() as filler:
                filler.connect(deaf.getsockname())
                yield {"WS_ADDRESS": f"wss://127.0.0.1:{deaf.getsockname()[1]}"}
    elif where == "handshake":
        async with tcp_server(lambda reader, _writer: reader.read()) as port:
            yield {"WS_ADDRESS": f"wss://127.0.0.1:{port}"}
    elif where == "upgrade":
        async with tcp_server(lambda reader, _writer: reader.read(), pki.bare_context()) as port:
            yield {"WS_ADDRESS": f"wss://127.0.0.1:{port}"}
    elif where == "welcome":
        async with console(pki) as peer:
            peer.silent = True
            yield {"WS_ADDRESS": f"wss://127.0.0.1:{peer.port}"}
    else:
        assert where == "back-off"
        yield {"WS_ADDRESS": "wss://127.0.0.1:1", "GARRISON_RECONNECT_CAP": "1h"}


@pytest.mark.parametrize("where", ["connect", "handshake", "upgrade", "welcome", "back-off"])
async def test_a_signal_ends_it_at_once_wherever_it_is(pki: Pki, tmp_path: Path, where: str) -> None:
    pki.deploy(tmp_path)
    async with hanging(where, pki) as address:
        environ = environment(1, tmp_path, GARRISON_CONNECT_TIMEOUT="60s") | address
        async with started("run", environ) as process:
            await eventually(lambda: "Connecting to the Console" in process.log)
            begun = time.monotonic()
            process.process.terminate()
            assert await process.ended() == ExitCode.OK
            assert time.monotonic() - begun < 2
    assert "Traceback" not in process.log


async def test_killed_it_loses_no_event_and_comes_back_as_itself(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        for number in range(3):
            async with started("run", environment(peer.port, tmp_path)) as process:
                await eventually(partial(has_started, peer, number + 1))
                process.process.kill()
                await process.ended()
        assert len(peer.defenders) == 1
        (applied,) = peer.only.applied.values()
        assert list(applied) == list(range(1, len(applied) + 1))


async def test_ordered_to_restart_it_becomes_a_new_process_of_the_same_id(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, started("run", environment(peer.port, tmp_path)) as process:
        await connected(peer)
        peer.sessions[0].command("restart")
        await peer.welcomed(2)
        assert process.process.returncode is None
        await eventually(lambda: peer.only_types("started") == 2)
        assert peer.only.types.index("stopped") < len(peer.only.types) - 1
        process.process.terminate()
        assert await process.ended() == ExitCode.OK
    assert "Traceback" not in process.log


async def test_two_on_one_folder(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, started("run", environment(peer.port, tmp_path)) as process:
        await connected(peer)
        code, _, said = await outcome("run", environment(peer.port, tmp_path))
        assert code == ExitCode.FAILED
        assert f"in use by another Defender (process {process.process.pid})" in said
        # A check changes nothing, so it may run beside it.
        code, output, _ = await outcome("check", environment(peer.port, tmp_path))
        assert code == ExitCode.OK
        assert "both directions are proved" in output
        code, _, _ = await outcome("check", environment(peer.port, tmp_path), "--hello")
        assert code == ExitCode.FAILED
        assert peer.sessions[0].closed is None


async def test_log_lines_as_json(pki: Pki, tmp_path: Path) -> None:
    environ = environment(1, tmp_path, GARRISON_LOG_FORMAT="json")
    pki.deploy(tmp_path)
    async with started("run", environ) as process:
        await eventually(lambda: "Cannot connect" in process.log)
        process.process.terminate()
        assert await process.ended() == ExitCode.OK
    assert all(line.startswith('{"level"') for line in process.log.splitlines())


# check


async def test_check_proves_both_directions(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer:
        code, output, _ = await outcome("check", environment(peer.port, tmp_path))
        assert (code, peer.defenders) == (ExitCode.OK, {})
        assert pki.server.certificate.fingerprint in output
        assert pki.client.certificate.fingerprint in output
        code, output, _ = await outcome("check", environment(peer.port, tmp_path), "--hello")
        assert code == ExitCode.OK
        assert "identity is accepted" in output
        assert len(peer.defenders) == 1


async def test_check_exits_with_the_cause(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    expired = Pki.create(authority=pki.authority, server_ends=-timedelta(hours=1))
    misnamed = Pki.create(authority=pki.authority, san="DNS:elsewhere.example")
    for its, expected in (
        (Pki.create(), ExitCode.UNKNOWN_CA),
        (expired, ExitCode.CONSOLE_EXPIRED),
        (misnamed, ExitCode.WRONG_NAME),
    ):
        async with console(its) as peer:
            code, _, said = await outcome("check", environment(peer.port, tmp_path))
            assert (code, code) == (expected, expected), said
    async with console(pki) as peer:
        peer.refuse = CloseCode.LOCKED
        code, _, said = await outcome("check", environment(peer.port, tmp_path), "--hello")
        assert code == ExitCode.REFUSED
        assert "look at the Console's log" in said
    code, _, _ = await outcome("check", environment(peer.port, tmp_path))
    assert code == ExitCode.UNREACHABLE


# The operator's own certificates

POLL = {"GARRISON_CUSTOM_CERTIFICATES_POLL": "500ms"}
ROTATED = "Defender custom certificates rotated, resetting connection"
FAULT = "Failed to construct defender client TLS config error reading X509 key pair ({cert}, {key}): "


def break_key(custom: Path) -> str:
    """Spoil the key; the line that says so."""
    cert, key = custom / "defender-client-cert.pem", custom / "defender-client-key.pem"
    key.write_bytes(b"no key")
    return FAULT.format(cert=cert, key=key)


async def test_it_starts_with_nothing_but_a_custom_set_and_follows_it(pki: Pki, tmp_path: Path) -> None:
    custom = pki.copy_custom(tmp_path)
    async with console(pki) as peer:
        async with started("run", environment(peer.port, tmp_path, **POLL)) as process:
            await connected(peer)
            assert peer.sessions[0].presented == pki.client.certificate.der
            renewed = pki.reissued()
            renewed.copy_custom(tmp_path)
            await peer.welcomed(2)
            assert peer.sessions[1].presented == renewed.client.certificate.der
            assert peer.sessions[1].beside == [peer.sessions[0]]
            # A mistake costs nothing, and is said.
            fault = break_key(custom)
            await eventually(lambda: "ERRO " in process.log and fault in process.log)
            assert peer.sessions[1].closed is None
            process.process.terminate()
            assert await process.ended() == ExitCode.OK
        assert "connectionLost" not in peer.only.types
    begin = [f"Watching custom certificates directory: {custom}", "Using custom directory certificates"]
    after = [ROTATED, "session 2", fault, "Stopping: SIGTERM"]
    positions = [process.log.index(words) for words in (*begin, "session 1", *after)]
    assert positions == sorted(positions)
    assert "Traceback" not in process.log


async def test_an_incomplete_set_leaves_it_to_the_generated_one(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    later = pki.reissued()
    later.copy_custom(tmp_path, "defender-client-cert.pem", "defender-ca.pem")
    async with console(pki) as peer, started("run", environment(peer.port, tmp_path, **POLL)) as process:
        await connected(peer)
        assert peer.sessions[0].presented == pki.client.certificate.der
        later.copy_custom(tmp_path, "defender-client-key.pem")
        await peer.welcomed(2)
        assert peer.sessions[1].presented == later.client.certificate.der
        await eventually(lambda: ROTATED in process.log)


async def test_a_bad_set_at_the_start_ends_it_with_nothing_made(pki: Pki, tmp_path: Path) -> None:
    """Whatever else there is to use: the directory wins."""
    pki.deploy(tmp_path)
    fault = break_key(pki.copy_custom(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    async with console(pki) as peer:
        code, _, said = await outcome("run", environment(peer.port, tmp_path, **POLL))
        assert code == ExitCode.FAILED
        lines = said.splitlines()
        assert lines[-1].startswith("CRIT ")
        assert fault in lines[-1]
        assert [line for line in lines if "Using custom directory certificates" in line]
        code, output, said = await outcome("check", environment(peer.port, tmp_path))
        assert (code, output) == (ExitCode.FAILED, "")
        assert said.count(fault) == 1
        assert peer.sessions == []
    assert sorted(tmp_path.rglob("*")) == before
    assert "Traceback" not in said


async def test_without_the_directory_the_feature_is_off(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    async with console(pki) as peer, started("run", environment(peer.port, tmp_path, **POLL)) as process:
        await connected(peer)
        assert "Custom certificates watcher disabled: certificates directory is not mounted" in process.log
        loaded = Path(f"/proc/{process.process.pid}/maps").read_text()
        assert "_rust_notify" not in loaded  # watchfiles, and what memory it takes


async def test_with_neither_an_incomplete_set_is_not_enough(pki: Pki, tmp_path: Path) -> None:
    pki.copy_custom(tmp_path, "defender-ca.pem")
    code, _, said = await outcome("run", environment(1, tmp_path, **POLL))
    assert code == ExitCode.FAILED
    assert "holds no certificates for this Defender" in said


async def test_a_check_is_made_with_the_custom_set(pki: Pki, tmp_path: Path) -> None:
    pki.deploy(tmp_path)
    custom = pki.reissued()
    custom.copy_custom(tmp_path)
    async with console(pki) as peer:
        for more in ([], ["--hello"]):
            code, output, _ = await outcome("check", environment(peer.port, tmp_path), *more)
            assert code == ExitCode.OK
            assert custom.client.certificate.fingerprint in output
        assert peer.open_sessions()[0].presented == custom.client.certificate.der


HANGING = """
import os, sys, time
from common.cli import main

place, open_ = sys.argv[1], os.open

def hang(path, *arguments, **more):
    if str(path) != place:
        return open_(path, *arguments, **more)
    print("it hangs", file=sys.stderr, flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:  # no signal ends a read from a file server that is gone
            pass

os.open = hang
main(["defender", "run"])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize("place", ["custom-certificates", "certificates"])
async def test_a_signal_ends_it_while_a_directory_does_not_answer(
    tmp_path: Path, number: signal.Signals, code: int, place: str
) -> None:
    """A volume that doesn't answer makes no process that can only be killed."""
    (tmp_path / place).mkdir()
    environ = environment(1, tmp_path)
    async with launched(("-c", HANGING, str(tmp_path / place)), environ) as process:
        await eventually(lambda: "it hangs" in process.log)
        process.process.send_signal(number)
        assert await process.ended() == code
    assert "Traceback" not in process.log
    assert list(tmp_path.iterdir()) == [tmp_path / place]
