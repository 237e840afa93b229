"""The commands that ask a running Console, against its real socket."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from common.cli import _run
from common.errors import GarrisonError, UsageError
from console.control import ControlServer, socket_path

HOSTILE = "[/x]evil\x1b[2J\u202e"
DEFENDER = {
    "id": "d-1",
    "hostname": HOSTILE,
    "connected": True,
    "duplicateHostname": True,
    "type": "serverLinux",
    "version": "0.1.0",
    "certificateExpiration": "2029-11-20T23:34:19Z",
    "lastModified": "2026-11-21T23:34:19Z",
}


async def _defenders(_: Mapping[str, str]) -> Any:
    return [
        DEFENDER,
        {**DEFENDER, "id": "d-2", "hostname": "web", "connected": False, "duplicateHostname": False},
    ]


async def _bundle(arguments: Mapping[str, str]) -> Any:
    if arguments["address"] == "x y":
        raise UsageError("address 'x y'", "is not a name", "give one")
    return {"wsAddress": f"wss://{arguments['address']}:8084", "installBundle": "e30=", "note": ""}


async def _command(arguments: Mapping[str, str]) -> Any:
    if arguments["defender"] == "gone":
        raise GarrisonError("gone", "is not connected", "try again once it is")
    return {"lines": ["one", f"two {HOSTILE}"], "version": "0.1.0", "asked": dict(arguments)}


CHANNEL = {
    "channel": "defender",
    "source": "custom",
    "fingerprint": "ab" * 32,
    "notAfter": "2029-11-20T23:34:19+00:00",
    "names": ["DNS:localhost"],
    "watcher": {"state": "bad", "missing": [], "faults": [HOSTILE]},
    "drains": [],
}


async def _certs(_: Mapping[str, str]) -> Any:
    return {"channels": [CHANNEL]}


async def _end(_: Mapping[str, str]) -> Any:
    return {"ended": 2}


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Console's socket, served from a thread, since the commands bring their own loop."""
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path))
    answers = {"defenders": _defenders, "install-bundle": _bundle, "command": _command}
    answers |= {"certs": _certs, "end-removed-trust": _end}
    up, loop = Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        server = ControlServer(socket_path(tmp_path), answers)
        await server.start()
        up.set()
        await over.wait()
        await server.close()

    thread = Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert up.wait(10)
    yield tmp_path
    loop.call_soon_threadsafe(over.set)
    thread.join(10)
    loop.close()


Captured = pytest.CaptureFixture[str]


def test_the_list_shows_what_a_hostile_defender_claims_as_text(console: Path, capsys: Captured) -> None:
    assert _run(["console", "defenders"]) == 0
    shown = capsys.readouterr().out
    assert "[/x]evil\\x1b[2J\\u202e (claimed twice)" in shown
    assert "\x1b[2J" not in shown
    first, second = (next(line for line in shown.splitlines() if id_ in line) for id_ in ("d-1", "d-2"))
    assert first.startswith("connected ")
    assert "2029-11-20 23:34" in first
    assert second.startswith("disconnected ")


def test_the_list_as_json(console: Path, capsys: Captured) -> None:
    assert _run(["console", "defenders", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == DEFENDER


def test_the_certificates_are_shown_as_lines_or_json(console: Path, capsys: Captured) -> None:
    assert _run(["console", "certs"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["defender:", "  certificates  custom, set abababababababab"]
    assert shown[-1] == "                [/x]evil\\x1b[2J\\u202e"
    assert _run(["console", "certs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"channels": [CHANNEL]}


def test_removed_trust_is_ended_and_counted(console: Path, capsys: Captured) -> None:
    assert _run(["console", "end-removed-trust"]) == 0
    assert capsys.readouterr().out == "2 connections of removed trust ended\n"


def test_a_bundle_is_two_lines_that_a_shell_can_read(console: Path, capsys: Captured) -> None:
    assert _run(["console", "install-bundle", "--address", "h"]) == 0
    assert capsys.readouterr().out == "WS_ADDRESS=wss://h:8084\nINSTALL_BUNDLE=e30=\n"


def test_wrong_usage_keeps_its_exit_code_through_the_socket(console: Path, capsys: Captured) -> None:
    assert _run(["console", "install-bundle", "--address", "x y"]) == 2
    assert capsys.readouterr().err == "garrison: address 'x y': is not a name; give one\n"


def test_log_lines_cannot_steer_the_terminal(console: Path, capsys: Captured) -> None:
    assert _run(["console", "logs", "web", "--lines", "2"]) == 0
    assert capsys.readouterr().out == "one\ntwo [/x]evil\\x1b[2J\\u202e\n"


@pytest.mark.parametrize(
    ("words", "check"),
    [
        (
            ["state", "web"],
            lambda out: json.loads(out)["asked"] == {"defender": "web", "name": "reportState"},
        ),
        (["restart", "web"], lambda out: out == "web restarts\n"),
    ],
)
def test_orders(console: Path, capsys: Captured, words: list[str], check: Callable[[str], bool]) -> None:
    assert _run(["console", *words]) == 0
    assert check(capsys.readouterr().out)


def test_an_order_that_fails_says_why(console: Path, capsys: Captured) -> None:
    assert _run(["console", "restart", "gone"]) == 1
    assert capsys.readouterr().err == "garrison: gone: is not connected; try again once it is\n"
