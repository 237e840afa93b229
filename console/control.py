"""The running Console's door for the command line: HTTP on a socket file of mode 0600 (D7).

A command of the CLI never opens the store beside a running Console; it asks the Console. Who may open the
socket is decided by the file system: the user that the Console runs as, and root.
"""

import contextlib
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from common.errors import DataFolderError, GarrisonError

SOCKET_NAME: Final = "console.sock"
# A path of a socket has 108 bytes, with the NUL (unix(7)).
MAX_PATH_BYTES: Final = 107

Answer = Callable[[Mapping[str, str]], Awaitable[Any]]


def socket_path(data_folder: Path) -> Path:
    """Where the Console of this data folder listens for commands.

    Raises:
        DataFolderError: the path is longer than a socket's may be.
    """
    path = data_folder / SOCKET_NAME
    if len(bytes(path)) > MAX_PATH_BYTES:
        raise DataFolderError(
            str(data_folder),
            f"is too long a path for the command socket ({len(bytes(path))} of {MAX_PATH_BYTES} bytes)",
            "choose a shorter DATA_FOLDER",
        )
    return path


class ControlServer:
    """Answers commands on the socket.

    Args:
        path: From `socket_path`.
        answers: For each command, what gives its answer (JSON-able) from its arguments; a GarrisonError is
            answered as its text.
    """

    def __init__(self, path: Path, answers: Mapping[str, Answer]) -> None:
        self._path = path
        self._answers = answers
        app = web.Application()
        app.router.add_post("/{command}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)

    async def start(self) -> None:
        """Listen. A socket file that a killed Console left is replaced: the data folder's lock is ours."""
        if self._path.is_socket():
            self._path.unlink()
        await self._runner.setup()
        site = web.UnixSite(self._runner, str(self._path))
        await site.start()
        # Between bind and chmod the folder, which is 0700, keeps others out.
        self._path.chmod(stat.S_IRUSR | stat.S_IWUSR)

    async def close(self) -> None:
        """Stop, and remove the socket file."""
        await self._runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _handle(self, request: web.Request) -> web.Response:
        answer = self._answers.get(request.match_info["command"])
        if answer is None:
            return web.json_response({"err": "this Console does not know the command"}, status=404)
        arguments = {str(k): str(v) for k, v in (await request.json()).items()}
        try:
            return web.json_response(await answer(arguments))
        except GarrisonError as error:
            fields = {"thing": error.thing, "fault": error.fault, "remedy": error.remedy}
            return web.json_response(fields, status=400)


async def ask(data_folder: Path, command: str, **arguments: str) -> Any:
    """Ask the running Console of this data folder.

    Returns:
        What it answered, from JSON.

    Raises:
        GarrisonError: none runs, the socket is not ours to open, or what it answered with.
    """
    path = socket_path(data_folder)
    connector = aiohttp.UnixConnector(path=str(path))
    try:
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://console/{command}", json=arguments) as response,
        ):
            body = await response.json()
            if response.status == 200:
                return body
    except aiohttp.ClientConnectorError as error:
        raise _unreachable(data_folder, error.os_error) from None
    except aiohttp.ClientError as error:
        raise GarrisonError(str(path), f"the Console did not answer ({error})", "look at its log") from None
    if "thing" in body:
        raise GarrisonError(body["thing"], body["fault"], body["remedy"])
    raise GarrisonError(command, body["err"], "use the command of the Console's own version")


def _unreachable(data_folder: Path, cause: OSError) -> GarrisonError:
    if isinstance(cause, PermissionError):
        return GarrisonError(
            str(data_folder / SOCKET_NAME),
            "may be opened only by the user that the Console runs as",
            "run this command as that user or as root",
        )
    return GarrisonError(
        f"the Console of {data_folder}",
        "does not run",
        "start it with garrison console run, or name its data folder by DATA_FOLDER",
    )
