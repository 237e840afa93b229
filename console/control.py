"""The running Console's door for the command line: HTTP on a socket file of mode 0600 (D7).

A command of the CLI never opens the store beside a running Console; it asks the Console. Who may open the
socket is decided by the file system: the user that the Console runs as, and root.
"""

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from common.errors import DataFolderError, GarrisonError, UsageError

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
        """Listen. A socket file that a killed Console left is replaced: the data folder's lock is ours.

        Raises:
            DataFolderError: something else is in its place, or the folder can't be written.
        """
        if self._path.is_socket():
            self._path.unlink()
        await self._runner.setup()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mode is right from the first moment: a connection is permitted by it, whatever the folder's is.
        mask = os.umask(0o177)
        try:
            sock.bind(str(self._path))
        except OSError as error:
            sock.close()
            fault = f"cannot be made ({error.strerror})"
            raise DataFolderError(str(self._path), fault, "remove what is there and start again") from error
        finally:
            os.umask(mask)
        site = web.SockSite(self._runner, sock)
        await site.start()

    async def close(self) -> None:
        """Stop, and remove the socket file."""
        await self._runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _handle(self, request: web.Request) -> web.Response:
        answer = self._answers.get(request.match_info["command"])
        if answer is None:
            return web.json_response({"err": "this Console does not know the command"}, status=404)
        try:
            arguments = {str(k): str(v) for k, v in (await request.json()).items()}
            return web.json_response(await answer(arguments))
        except (AttributeError, KeyError, ValueError):
            return web.json_response({"err": "the command's arguments do not fit"}, status=400)
        except GarrisonError as error:
            usage = isinstance(error, UsageError)
            fields = {"thing": error.thing, "fault": error.fault, "remedy": error.remedy, "usage": usage}
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
        kind = UsageError if body["usage"] else GarrisonError
        raise kind(body["thing"], body["fault"], body["remedy"])
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
