"""How a Defender is put together: the order in which it takes its folder, key, certificates and spool."""

import asyncio
import contextlib
import functools
import gc
import logging
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common.clock import Clock, SystemClock
from common.errors import CertificateSetError, GarrisonError, UsageError
from common.logging import JSONFormatter, LogFormat, TextFormatter, configure_logging
from common.protocol import CloseCode, SpoolState
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
        return _run(settings, journal, clock or SystemClock())
    except UsageError:
        raise
    except CertificateSetError as error:
        for fault in error.faults:
            log.critical("%s: %s", error.thing, fault)
    except GarrisonError as error:
        log.critical("%s", error)
    return None


def _run(settings: DefenderSettings, journal: Journal, clock: Clock) -> Ending:
    with _folder(settings) as (key, spool):
        source = _source(settings)
        credentials = source.load(clock.now())
        make = functools.partial(
            Agent,
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
        return asyncio.run(_serve(make))


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
        GarrisonError: if there is nothing to connect with, or `run` could not use the data folder.
    """
    look(settings.data_folder)
    load(settings.data_folder)
    credentials = _source(settings).load((clock or SystemClock()).now())
    if not hello:
        proving = prove(_dialer(settings), credentials, patience=settings.connect_timeout)
        return Checked(credentials, asyncio.run(proving))
    with _folder(settings) as (key, spool):
        return Checked(credentials, asyncio.run(_introduce(settings, key, spool, credentials)))


async def _serve(make: Callable[[], Agent]) -> Ending:
    agent = make()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop, number.name)
    # What the start made lives as long as the process: no collection need look at it again.
    gc.collect()
    gc.freeze()
    return await agent.run()


async def _introduce(
    settings: DefenderSettings, key: InstanceKey, spool: Spool, credentials: Credentials
) -> Proof | Failure:
    host = await gather(defender_type=settings.defender_type, override=settings.hostname)
    position = spool.position
    claims = host.claims(SpoolState(position.epoch, position.first, position.next, position.dropped))
    link = Link(key, claims, observer=Bystander(), jitter=1.0)
    failure = await link.open(_dialer(settings), credentials.context)
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
