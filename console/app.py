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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from common.certificates import (
    Channel,
    MintOptions,
    Role,
    Source,
    Watcher,
    local_addresses,
    local_fqdn,
    names_for,
)
from common.clock import Clock, SystemClock
from common.errors import CustomCertificatesError, GarrisonError, UsageError
from common.logging import configure_logging
from common.protocol import CommandName, ConsoleOptions, Fields
from common.transport import bind
from common.version import VERSION
from console.api import Services, build_app, models
from console.control import Answer, ControlServer, socket_path
from console.fleet.directory import DefenderDirectory, Search
from console.fleet.fleet import Fleet, reply_or_raise
from console.fleet.report import certificates_report
from console.https import HTTPSServer
from console.identity import IdentityService
from console.pki import ActiveSets, GeneratedSets, InstallBundle, Refused
from console.sealing import MASTER_KEY_NAME, open_data_key
from console.settings import ConsoleSettings
from console.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

SERVED: Final = (Role.HTTPS_SERVER, Role.DEFENDER_SERVER)


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
    except CustomCertificatesError as error:
        return error.exit_code  # its lines are in the log, as the product's documents have them
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
        active = ActiveSets()
        watcher = _watcher(settings, active, clock)
        found = await _unless_stopped(stop, watcher.start())
        if found is None:
            return
        for custom in found.values():
            active.offer(custom)
        store = await Store.open(settings.data_folder)
        stack.push_async_callback(store.close)
        options = _mint_options(settings)
        sets = await _certificates(settings, store, options, defenders, clock)
        for role in SERVED:
            active.offer(sets.current(role))
        console = await _assemble(settings, store, _Certificates(sets, active, watcher), clock, stack)
        line = settings.start_line(console_cn=options.console_cn, console_san=tuple(options.names))
        await console.serve(https, defenders, list(filter(None, [line, settings.foreign_line()])), stop)


async def _unless_stopped(stop: asyncio.Event, start: Coroutine[Any, Any, T]) -> T | None:
    """The outcome of a part of the start that may hang on a file server; None if it was to stop meanwhile."""
    starting, stopping = asyncio.ensure_future(start), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        return starting.result() if starting.done() else None
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.wait((starting, stopping))


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


def _watcher(settings: ConsoleSettings, active: ActiveSets, clock: Clock) -> Watcher:
    """Of the operator's directory; a port that is off has no use for certificates."""
    ports = {Role.HTTPS_SERVER: settings.https_port, Role.DEFENDER_SERVER: settings.communication_port}
    channels = [Channel(role, active.offer) for role in SERVED if ports[role] is not None]
    poll = settings.custom_certificates_poll
    return Watcher(settings.custom_certificates, channels, clock=clock, poll_seconds=poll)


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
class _Certificates:
    """What this Console has of certificates. Implements `console.api.services.Certificates`."""

    generated: GeneratedSets
    active: ActiveSets
    watcher: Watcher

    def ca_pem(self) -> bytes:
        """The certificate of the CA that signs the Console's own web certificate."""
        return self.generated.ca_pem()

    def install_bundle(self, address: str, defender_type: str) -> InstallBundle | Refused:
        """A bundle for a Defender that dials `address`, which must be a name that it will see."""
        names = self.active.current(Role.DEFENDER_SERVER).names
        return self.generated.install_bundle(address, defender_type, names=names)

    @property
    def install_note(self) -> str:
        """What an install bundle alone doesn't do, empty where it does all."""
        if self.active.current(Role.DEFENDER_SERVER).source is not Source.CUSTOM:
            return ""
        return (
            "this Console takes Defenders by custom certificates: the bundle brings a Defender its address, "
            "and its own custom-certificates directory must hold a client set of a CA that is trusted here"
        )


@dataclass(frozen=True, slots=True)
class _Console:
    """What serves: each part knows how to start and to stop."""

    watcher: Watcher
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
            watching = tasks.create_task(self.watcher.run(), name="custom certificates")
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
                watching.cancel()
                await self.control.close()
                await self.https.close()
                await self.fleet.close()
        logger.info("stopped")


async def _assemble(
    settings: ConsoleSettings,
    store: Store,
    certificates: _Certificates,
    clock: Clock,
    stack: contextlib.AsyncExitStack,
) -> _Console:
    await store.defenders.mark_all_disconnected(clock.now())
    identity = IdentityService(store.users, clock)
    stack.push_async_callback(identity.close)
    options = ConsoleOptions(version=VERSION, heartbeat_seconds=settings.heartbeat_seconds)
    fleet = Fleet(store, settings, options, clock)
    certificates.active.serve(Role.DEFENDER_SERVER, fleet.use)
    directory = DefenderDirectory(store.defenders, fleet.live, clock)
    services = Services(
        identity=identity, directory=directory, certificates=certificates, live=fleet.live, clock=clock
    )
    https = HTTPSServer(build_app(services), clock)
    certificates.active.serve(Role.HTTPS_SERVER, https.use)
    answers = _answers(certificates, directory, fleet, https)
    control = ControlServer(socket_path(settings.data_folder), answers)
    return _Console(certificates.watcher, fleet, https, control)


def _port(sockets: Sequence[socket.socket]) -> str:
    return str(sockets[0].getsockname()[1]) if sockets else "off"


def _answers(
    certificates: _Certificates, directory: DefenderDirectory, fleet: Fleet, https: HTTPSServer
) -> Mapping[str, Answer]:
    """What the command line may ask for."""

    async def install_bundle(arguments: Mapping[str, str]) -> Any:
        bundle = certificates.install_bundle(arguments["address"], arguments["type"])
        if isinstance(bundle, Refused):
            raise UsageError(bundle.thing, bundle.fault, bundle.remedy)
        return {
            "installBundle": bundle.install_bundle,
            "wsAddress": bundle.ws_address,
            "note": certificates.install_note,
        }

    async def defenders(_: Mapping[str, str]) -> Any:
        page = await directory.list(Search())
        return msgspec.to_builtins([models.defender(item) for item in page.items])

    async def command(arguments: Mapping[str, str]) -> Any:
        name = CommandName(arguments["name"])
        fields: Fields = {"lines": int(arguments["lines"])} if "lines" in arguments else {}
        reply = await fleet.command(arguments["defender"], name, fields)
        return reply_or_raise(arguments["defender"], reply)

    async def certs(_: Mapping[str, str]) -> Any:
        return certificates_report(fleet, https, certificates.watcher.status())

    async def end_removed_trust(arguments: Mapping[str, str]) -> Any:
        return {"ended": await fleet.end_removed_trust(every_source=arguments.get("all") == "true")}

    return {
        "install-bundle": install_bundle,
        "defenders": defenders,
        "command": command,
        "certs": certs,
        "end-removed-trust": end_removed_trust,
    }
