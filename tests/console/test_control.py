import os
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataFolderError, GarrisonError
from console.control import MAX_PATH_BYTES, ControlServer, ask, socket_path


async def _echo(arguments: Mapping[str, str]) -> Any:
    return dict(arguments)


async def _fail(_: Mapping[str, str]) -> Any:
    raise GarrisonError("web-1", "is not connected", "try again once it is")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(socket_path(tmp_path), {"echo": _echo, "fail": _fail})
    await server.start()
    yield server
    await server.close()


async def test_an_answer(server: ControlServer, tmp_path: Path) -> None:
    assert await ask(tmp_path, "echo", a="1", b="ü") == {"a": "1", "b": "ü"}


async def test_an_error_arrives_whole(server: ControlServer, tmp_path: Path) -> None:
    with pytest.raises(GarrisonError) as caught:
        await ask(tmp_path, "fail")
    assert str(caught.value) == "web-1: is not connected; try again once it is"


async def test_a_command_that_an_older_console_does_not_know(server: ControlServer, tmp_path: Path) -> None:
    with pytest.raises(
        GarrisonError, match="does not know the command; use the command of the Console's own"
    ):
        await ask(tmp_path, "dance")


async def test_only_its_user_may_open_it(server: ControlServer, tmp_path: Path) -> None:
    assert stat.S_IMODE(socket_path(tmp_path).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_is_told_whose_it_is(server: ControlServer, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder != Path("/tmp"):
            folder.chmod(0o711)
    os.seteuid(65534)
    try:
        with pytest.raises(GarrisonError, match="may be opened only by the user that the Console runs as"):
            await ask(tmp_path, "echo")
    finally:
        os.seteuid(0)


async def test_no_console(tmp_path: Path) -> None:
    with pytest.raises(GarrisonError, match="does not run; start it with garrison console run"):
        await ask(tmp_path, "echo")


async def test_a_socket_that_a_killed_console_left_is_replaced(tmp_path: Path) -> None:
    first = ControlServer(socket_path(tmp_path), {})
    await first.start()
    second = ControlServer(socket_path(tmp_path), {"echo": _echo})
    await second.start()
    assert await ask(tmp_path, "echo") == {}
    await second.close()
    assert not socket_path(tmp_path).exists()
    await first.close()


async def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * MAX_PATH_BYTES)
    with pytest.raises(
        DataFolderError, match=r"too long a path for the command socket .* shorter DATA_FOLDER"
    ):
        socket_path(folder)
