"""The Console from start to stop, in order.

Start: ports bound, data folder and store, master key, certificates, services, then listen. What can be
refused is refused before anything is made. Stop: the reverse, each step with a bound.
"""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from common.certificates import MintOptions, Role, local_addresses, local_fqdn, names_for
from common.clock import Clock, SystemClock
from common.errors import GarrisonError, UsageError
from common.logging import configure_logging
from common.protocol import CommandName, ConsoleOptions, Fields
from common.transport import bind
from common.version import VERSION
from console.api import Services, build_app, models
from console.control import Answer, ControlServer, socket_path
from console.fleet.directory import DefenderDirectory, Search
from console.fleet.fleet import Fleet, reply_or_raise
from console.https import HTTPSServer
from console.identity import IdentityService
from console.pki import GeneratedSets, Refused
from console.sealing import MASTER_KEY_NAME, open_data_key
from console.settings import ConsoleSettings
from console.store import Store

logger = logging.getLogger(__name__)


def run_console(settings: ConsoleSettings) -> int:
    """Run a Console in this process until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 after a stop in order; 1 where it can't start: the log says why, and nothing is left
        half-made then.

    Raises:
        UsageError: it was asked for in a way that can't work.
    """
    configure_logging(settings.log_format, level=settings.log_level)
    # A file descriptor per Defender: the soft limit, 1,024 by habit, is for programs that use select().
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(settings, SystemClock()))
    except UsageError:
        raise
    except GarrisonError as error:
        # In the log's own form, for whoever collects it: from here on standard error is the log's.
        for line in str(error).splitlines():
            logger.critical("%s", line)
        return error.exit_code
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Take uvloop where it is installed: about a tenth more handshakes a second (docs/performance.md)."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


async def _run(settings: ConsoleSettings, clock: Clock) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    socket_path(settings.data_folder)
    async with contextlib.AsyncExitStack() as stack:
        https = await _bind(settings, settings.https_port, stack)
        defenders = await _bind(settings, settings.communication_port, stack)
        store = await Store.open(settings.data_folder)
        stack.push_async_callback(store.close)
        options = _mint_options(settings)
        sets = await _certificates(settings, store, options, defenders, clock)
        console = await _assemble(settings, store, sets, clock, stack)
        line = settings.start_line(console_cn=options.console_cn, console_san=tuple(options.names))
        lines = [line, settings.foreign_line(), _unused(settings.custom_certificates)]
        await console.serve(https, defenders, list(filter(None, lines)), stop)


async def _bind(
    settings: ConsoleSettings, port: int | None, stack: contextlib.AsyncExitStack
) -> list[socket.socket]:
    """Take a port before anything is made: one that is taken then costs nothing but a line.

    Raises:
        ListenError: the port is taken or not permitted.
    """
    if port is None:
        return []
    sockets = await bind(settings.listen_address or None, port)
    for sock in sockets:
        stack.callback(sock.close)
    return sockets


def _unused(folder: Path) -> str | None:
    """What to log where an operator has put certificates that this version doesn't read yet."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    return f"the certificates in {folder} are not used: this version has only its own"


def _mint_options(settings: ConsoleSettings) -> MintOptions:
    fqdn = local_fqdn()
    console_cn = settings.console_cn or fqdn
    names = names_for(console_cn, socket.gethostname(), local_addresses(), extra=settings.console_san)
    return MintOptions(console_cn=console_cn, defender_cn=settings.defender_cn or fqdn, names=names)


async def _certificates(
    settings: ConsoleSettings,
    store: Store,
    options: MintOptions,
    defenders: Sequence[socket.socket],
    clock: Clock,
) -> GeneratedSets:
    key_path = settings.master_key_file or settings.data_folder / MASTER_KEY_NAME
    key = await open_data_key(store, key_path)
    port = defenders[0].getsockname()[1] if defenders else 0
    sets = GeneratedSets(store, key, options, communication_port=port)
    await sets.ensure(clock.now())
    return sets


@dataclass(frozen=True, slots=True)
class _Console:
    """What serves: each part knows how to start and to stop."""

    fleet: Fleet
    https: HTTPSServer
    control: ControlServer

    async def serve(
        self,
        https: Sequence[socket.socket],
        defenders: Sequence[socket.socket],
        lines: Sequence[str],
        stop: asyncio.Event,
    ) -> None:
        """Serve until `stop`, then end in order: no new work, what is under way, what is to be written."""
        await self.control.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.fleet.run(), name="fleet")
            if defenders:
                await self.fleet.start(defenders)
            if https:
                await self.https.start(https)
            # What lives by now lives as long as the process: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            for line in lines:
                logger.info("%s", line)
            logger.info("serving HTTPS on port %s, Defenders on port %s", _port(https), _port(defenders))
            try:
                await stop.wait()
                logger.info("stopping")
            finally:
                # Also where the fleet's task failed: connections get their good-bye, requests their answer.
                await self.control.close()
                await self.https.close()
                await self.fleet.close()
        logger.info("stopped")


async def _assemble(
    settings: ConsoleSettings,
    store: Store,
    sets: GeneratedSets,
    clock: Clock,
    stack: contextlib.AsyncExitStack,
) -> _Console:
    await store.defenders.mark_all_disconnected(clock.now())
    identity = IdentityService(store.users, clock)
    stack.push_async_callback(identity.close)
    options = ConsoleOptions(version=VERSION, heartbeat_seconds=settings.heartbeat_seconds)
    fleet = Fleet(store, settings, options, clock)
    fleet.use(sets.current(Role.DEFENDER_SERVER))
    directory = DefenderDirectory(store.defenders, fleet.live, clock)
    services = Services(
        identity=identity, directory=directory, certificates=sets, live=fleet.live, clock=clock
    )
    https = HTTPSServer(build_app(services), clock)
    https.use(sets.current(Role.HTTPS_SERVER))
    control = ControlServer(socket_path(settings.data_folder), _answers(sets, directory, fleet))
    return _Console(fleet, https, control)


def _port(sockets: Sequence[socket.socket]) -> str:
    return str(sockets[0].getsockname()[1]) if sockets else "off"


def _answers(sets: GeneratedSets, directory: DefenderDirectory, fleet: Fleet) -> Mapping[str, Answer]:
    """What the command line may ask for."""

    async def install_bundle(arguments: Mapping[str, str]) -> Any:
        bundle = sets.install_bundle(arguments["address"], arguments["type"])
        if isinstance(bundle, Refused):
            raise UsageError(bundle.thing, bundle.fault, bundle.remedy)
        return {"installBundle": bundle.install_bundle, "wsAddress": bundle.ws_address}

    async def defenders(_: Mapping[str, str]) -> Any:
        page = await directory.list(Search())
        return msgspec.to_builtins([models.defender(item) for item in page.items])

    async def command(arguments: Mapping[str, str]) -> Any:
        name = CommandName(arguments["name"])
        fields: Fields = {"lines": int(arguments["lines"])} if "lines" in arguments else {}
        reply = await fleet.command(arguments["defender"], name, fields)
        return reply_or_raise(arguments["defender"], reply)

    return {"install-bundle": install_bundle, "defenders": defenders, "command": command}
