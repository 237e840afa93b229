"""Every command that was begun is counted, as answered or by why it was not."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import GarrisonError
from console.control import ControlServer, socket_path
from tests.bench.commander import commanding, known


async def test_commands_are_counted_by_what_came_of_them(tmp_path: Path) -> None:
    asked: list[str] = []
    enough = asyncio.Event()

    async def command(arguments: Mapping[str, str]) -> Any:
        asked.append(arguments["defender"])
        if len(asked) >= 40:
            enough.set()
        if arguments["defender"] == "gone":
            raise GarrisonError("gone", "is not connected", "try again")
        return {}

    async def defenders(_: Mapping[str, str]) -> Any:
        return [{"id": "here"}, {"id": "gone"}]

    server = ControlServer(socket_path(tmp_path), {"command": command, "defenders": defenders})
    await server.start()
    try:
        ids = await asyncio.to_thread(known, tmp_path)
        assert ids == ["here", "gone"]
        context = commanding(tmp_path, ids)
        commander = context.__enter__()
        await enough.wait()
        await asyncio.to_thread(context.__exit__, None, None, None)
    finally:
        await server.close()
    assert commander.answered == asked.count("here")
    assert dict(commander.failed) == {"is not connected": asked.count("gone")}
