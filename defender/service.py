"""How a Defender is put together: the order in which it takes its folder, key, certificates and spool."""

import asyncio
import contextlib
import gc
import logging
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common.certificates import CertificateSet, Channel, Role, Watcher
from common.clock import Clock, SystemClock
from common.errors import CertificateSetError, CustomCertificatesError, GarrisonError, UsageError
from common.logging import JSONFormatter, LogFormat, TextFormatter, configure_logging
from common.protocol import CloseCode, SpoolState
from common.threads import in_thread
from defender.agent import STOP_BOUND, Agent, Ending
from defender.causes import Failure
from defender.check import Bystander, Proof, prove
from defender.connection import Dialer, Link
from defender.credentials import Credentials, CredentialSource
from defender.facts import gather
from defender.folder import DataFolder, look
from defender.identity import InstanceKey, load, load_or_create
from defender.journal import Journal
from defender.resolve import Resolver
from defender.settings import DefenderSettings
from defender.spool import Bounds, Spool

log = logging.getLogger(__name__)


def run(settings: DefenderSettings, clock: Clock | None = None) -> Ending | None:
    """Run a Defender until it is told to stop.

    Returns:
        How it ended; None if it could not start (folder, key, certificates): the log says why, in its own
        format, since that is where a supervisor's reader looks.

    Raises:
        UsageError: for wrong usage: an option, argument or setting.
    """
    journal = _log(settings)
    try:
        return asyncio.run(_serve(settings, journal, clock or SystemClock()))
    except UsageError:
        raise
    except CustomCertificatesError:
        pass  # The watcher has said it, in its own words.
    except CertificateSetError as error:
        for fault in error.faults:
            log.critical("%s: %s", error.thing, fault)
    except GarrisonError as error:
        log.critical("%s", error)
    return None


async def _serve(settings: DefenderSettings, journal: Journal, clock: Clock) -> Ending:
    # What may end it comes before what makes anything.
    look(settings.data_folder)
    source = _source(settings)

    def use(credentials: Credentials) -> None:
        # There is one by then: the watcher says first what it begins with, and follows when it runs.
        agent.offer(credentials)

    watcher = _watcher(settings, clock, use)
    credentials = await _first(settings, watcher, source, clock)
    with _folder(settings) as (key, spool):
        agent = Agent(
            settings,
            key=key,
            spool=spool,
            source=source,
            credentials=credentials,
            journal=journal,
            dialer=_dialer(settings),
            clock=clock,
            rng=random.SystemRandom(),
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stop, number.name)
        # What the start made lives as long as the process: no collection need look at it again.
        gc.collect()
        gc.freeze()
        return await agent.run(watcher.run())


def _watcher(settings: DefenderSettings, clock: Clock, use: Callable[[Credentials], None]) -> Watcher:
    def make_and_use(set_: CertificateSet) -> None:
        use(_custom(settings, set_))

    return Watcher(
        settings.custom_certificates,
        [Channel(Role.DEFENDER_CLIENT, make_and_use)],
        clock=clock,
        poll_seconds=settings.custom_certificates_poll,
    )


async def _first(
    settings: DefenderSettings, watcher: Watcher, source: CredentialSource, clock: Clock
) -> Credentials:
    """What the first handshake uses: the operator's set where there is a whole one, else the generated one.

    Raises:
        CustomCertificatesError: if the operator's is bad; the log has it already.
        GarrisonError: if there is none to use.
    """
    custom = (await watcher.start()).get(Role.DEFENDER_CLIENT)
    if custom:
        return _custom(settings, custom)
    # A volume that doesn't answer would keep this thread from a signal.
    return await in_thread(lambda: source.load(clock.now()), name="deployment")


def _custom(settings: DefenderSettings, set_: CertificateSet) -> Credentials:
    return Credentials.of(set_, settings.custom_certificates, tls_minimum=settings.tls_minimum)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check was made with, and what came of it."""

    credentials: Credentials
    outcome: Proof | Failure


def check(settings: DefenderSettings, *, hello: bool = False, clock: Clock | None = None) -> Checked:
    """Connect once and prove both directions.

    Args:
        settings: The Defender's.
        hello: Prove the identity, too: needs the data folder for itself, and makes the Defender known.
        clock: The wall clock.

    Raises:
        CustomCertificatesError: if the operator's own set is bad; the log has said it.
        GarrisonError: if there is nothing to connect with, or `run` could not use the data folder.
    """
    look(settings.data_folder)
    load(settings.data_folder)
    return asyncio.run(_check(settings, clock or SystemClock(), hello=hello))


async def _check(settings: DefenderSettings, clock: Clock, *, hello: bool) -> Checked:
    source = _source(settings)
    credentials = await _first(settings, _watcher(settings, clock, lambda _: None), source, clock)
    if not hello:
        outcome = await prove(_dialer(settings), credentials, patience=settings.connect_timeout)
        return Checked(credentials, outcome)
    with _folder(settings) as (key, spool):
        return Checked(credentials, await _introduce(settings, key, spool, credentials))


async def _introduce(
    settings: DefenderSettings, key: InstanceKey, spool: Spool, credentials: Credentials
) -> Proof | Failure:
    host = await gather(defender_type=settings.defender_type, override=settings.hostname)
    position = spool.position
    claims = host.claims(SpoolState(position.epoch, position.first, position.next, position.dropped))
    link = Link(key, credentials, claims, observer=Bystander(), jitter=1.0)
    failure = await link.open(_dialer(settings))
    if failure:
        return failure
    link.close(CloseCode.NORMAL, "checked")
    await asyncio.wait({link.ended}, timeout=STOP_BOUND)
    link.abort()
    return Proof(link.leaf, link.console_version)


def _log(settings: DefenderSettings) -> Journal:
    level = logging.INFO if settings.log_prod else logging.DEBUG
    configure_logging(settings.log_format, level=level)
    json = settings.log_format is LogFormat.JSON
    journal = Journal(JSONFormatter() if json else TextFormatter())
    logging.getLogger().addHandler(journal)
    return journal


@contextlib.contextmanager
def _folder(settings: DefenderSettings) -> Iterator[tuple[InstanceKey, Spool]]:
    with DataFolder(settings.data_folder) as folder:
        key = load_or_create(folder.path)
        with contextlib.closing(
            Spool(folder.path, Bounds(settings.spool_bytes, settings.spool_events))
        ) as spool:
            yield key, spool


def _source(settings: DefenderSettings) -> CredentialSource:
    return CredentialSource(settings.install_bundle, settings.data_folder, tls_minimum=settings.tls_minimum)


def _dialer(settings: DefenderSettings) -> Dialer:
    return Dialer(settings.address, Resolver(), patience=settings.connect_timeout)
