"""The commands `garrison defender …`. What they need is imported when they run: `--help` stays quick."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from common.errors import CustomCertificatesError, ExpiredError
from defender.causes import ExitCode, Failure
from defender.settings import DefenderSettings

_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="A twistlock.cfg (KEY=VALUE lines); the environment wins over it.",
)


@click.group()
def defender() -> None:
    """The agent that runs on a host and reports to its Console."""


@defender.command()
@_CONFIG
def run(config: Path | None) -> int:
    """Stay connected to the Console named by WS_ADDRESS, until SIGTERM.

    Failures to connect are logged with their remedy and tried again for ever. Exit codes: 0 stopped by a
    signal; 1 data folder, instance key or certificates cannot be used; 2 wrong usage: an
    option, argument or setting.
    """
    signal.signal(signal.SIGTERM, _stop_early)
    settings = DefenderSettings.read(os.environ, config)
    from defender.agent import Ending
    from defender.service import run as serve

    ending = serve(settings)
    if ending is Ending.RESTART:
        _start_anew()
    return ExitCode.FAILED if ending is None else ExitCode.OK


@defender.command()
@_CONFIG
@click.option(
    "--hello",
    is_flag=True,
    help=(
        "Prove the identity, too: makes an instance key where there is none, and registers this Defender "
        "at the Console. It must not be running."
    ),
)
def check(config: Path | None, *, hello: bool) -> int:
    """Connect once and prove both directions.

    The Defender may be running meanwhile: nothing is changed on either side, unless --hello is given. That
    makes DATA_FOLDER and an instance key in it, where there are none, and registers this Defender at the
    Console.

    \b
    Exit codes:
       0  both directions are proved
       1  data folder, instance key or certificates cannot be used
       2  wrong usage: an option, argument or setting
      10  the Console cannot be reached
      11  what answers is not a Console's Defender channel
      12  the Console's certificate is of a CA that is not trusted
      13  the Console's certificate has expired or is not valid yet
      14  this Defender's certificate has expired or is not valid yet
      15  the Console's certificate does not name the host in WS_ADDRESS
      16  the Console refuses this Defender
      17  the Console has no room now
      18  one side broke the protocol or fell silent
    """  # noqa: D301 - click wants the control character
    settings = DefenderSettings.read(os.environ, config)
    from defender.service import check as prove

    try:
        checked = prove(settings, hello=hello)
    except CustomCertificatesError as error:
        return error.exit_code  # What is wrong has been said, as `run` says it.
    except ExpiredError as error:
        click.echo(f"garrison: {error}", err=True)
        return ExitCode.OWN_EXPIRED
    ours, outcome = checked.credentials.set, checked.outcome
    if isinstance(outcome, Failure):
        click.echo(f"garrison: {settings.address}: {outcome}", err=True)
        return outcome.cause.exit_code
    click.echo(
        f"{settings.address}: both directions are proved{' and the identity is accepted' if hello else ''}"
    )
    click.echo(f"  the Console's certificate  {outcome.leaf}  (version {outcome.version})")
    click.echo(
        f"  this Defender's            {ours.leaf.fingerprint}  until {ours.not_after:%Y-%m-%d %H:%M} UTC"
    )
    return ExitCode.OK


def _stop_early(_number: int, _frame: FrameType | None) -> NoReturn:
    """Until the agent takes signals itself, there is nothing to hand over."""
    sys.exit(ExitCode.OK)


def _start_anew() -> None:
    """Become a new process of the same command, with what is installed and configured now.

    A supervisor sees the same process go on; without one, nobody else would start it again.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # The whole path: Python finds its environment by the program's own name, and argv[0] may be a bare one.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted
