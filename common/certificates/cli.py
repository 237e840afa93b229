"""`garrison certs`: what is in a directory of certificates, and what the channels would do with it."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.certificates.checks import when
from common.certificates.contents import printable
from common.certificates.model import Certificate, Role, Severity
from common.certificates.report import (
    CUSTOMIZABLE,
    TITLES,
    ChannelReport,
    as_json,
    examine,
    remaining,
)
from common.certificates.watcher import Channel, Watcher
from common.certificates.watching import DirectoryState
from common.clock import SystemClock
from common.errors import CustomCertificatesError
from common.logging import LEVELS
from common.logging import printable as escaped

_SHORT: Final = 16  # hex digits of a fingerprint that people compare: 64 bits
_PIPE_WIDTH: Final = 160  # columns where nothing says how wide the output is
_STYLES: Final = {
    DirectoryState.GOOD: "green",
    DirectoryState.BAD: "red",
    DirectoryState.INCOMPLETE: "yellow",
    DirectoryState.ABSENT: "dim",
}

_DIRECTORY = click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
_JSON = click.option("--json", "as_json_", is_flag=True, help="Print JSON, with everything in full.")
_WIDE = click.option("--wide", is_flag=True, help="Print whole fingerprints and all names.")


@click.group()
def certs() -> None:
    """Look at certificate sets and judge them."""


@certs.command()
@_DIRECTORY
@_JSON
@_WIDE
def show(directory: Path, as_json_: bool, wide: bool) -> None:
    """Show the certificate sets in DIRECTORY, whole or partial: names, expiry, fingerprints, faults.

    DIRECTORY may be an operator's (custom-certificates) or a Console's own view (certificates).
    """
    now = SystemClock().now()
    reports = [examine(directory, role, now=now) for role in Role]
    reports = [report for report in reports if report.state is not DirectoryState.ABSENT]
    if as_json_:
        _print_json(reports)
        return
    console = _console()
    if not reports:
        console.print(Text(f"{directory}: no certificate set"))
    for report in reports:
        _print_set(console, report, now, wide=wide)
        _print_faults(console, report)


@certs.command()
@_DIRECTORY
@_JSON
@click.pass_context
def check(context: click.Context, directory: Path, as_json_: bool) -> None:
    """Say what each channel would do with DIRECTORY as its custom certificates.

    Exits with 0 if every set that is there would be used, and with 1 if one is incomplete or refused.
    """
    now = SystemClock().now()
    reports = _verdicts(directory, now)
    if as_json_:
        _print_json(reports)
    else:
        _print_verdicts(_console(), reports, now)
    context.exit(1 if any(report.is_mistake for report in reports) else 0)


@certs.command()
@_DIRECTORY
@click.option(
    "--poll",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to read it where no event tells of a change.",
)
def watch(directory: Path, poll: float) -> None:
    """Follow DIRECTORY as a Console and a Defender would, until Ctrl-C.

    First what each channel would do with it at a start, as `check` says; then, with their time (UTC), the
    lines that would be in the log of a process that follows it.
    """
    now = SystemClock().now()
    _print_verdicts(_console(), _verdicts(directory, now), now)
    asyncio.run(_follow(directory, poll))


async def _follow(directory: Path, poll: float) -> None:
    """Be a watcher of all channels, whose sets nobody uses."""
    clock = SystemClock()

    def say(level: int, text: str) -> None:
        click.echo(f"{when(clock.now())} {LEVELS[level]} {escaped(text)}")

    channels = [Channel(role, lambda _: None) for role in CUSTOMIZABLE]
    watcher = Watcher(directory, channels, clock=clock, poll_seconds=poll, say=say)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        try:
            await watcher.start()
        except CustomCertificatesError:
            click.echo("A process that starts now exits with these lines. One that runs already:")
        await watcher.run()


def _verdicts(directory: Path, now: datetime) -> Sequence[ChannelReport]:
    reports = [examine(directory, role, now=now) for role in Role]
    return [one for one in reports if one.role in CUSTOMIZABLE or one.state is not DirectoryState.ABSENT]


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def _print_json(reports: Iterable[ChannelReport]) -> None:
    click.echo(json.dumps([as_json(report) for report in reports], indent=2))


def _print_verdicts(console: Console, reports: Sequence[ChannelReport], now: datetime) -> None:
    table = Table(title=None, title_justify="left")
    for heading in ("Channel", "State", "What it does", "Valid until"):
        table.add_column(heading, overflow="fold")
    for report in reports:
        table.add_row(
            TITLES[report.role],
            Text(report.state.value, style=_STYLES[report.state]),
            Text(report.verdict),
            _until(report, now),
        )
    console.print(table)
    for report in reports:
        _print_faults(console, report)


def _until(report: ChannelReport, now: datetime) -> str:
    found = report.judgement.set
    return "" if found is None else f"{when(found.not_after)} ({remaining(found.not_after, now)})"


def _print_set(console: Console, report: ChannelReport, now: datetime, *, wide: bool) -> None:
    title = Text(f"{TITLES[report.role]}: ")
    title.append(report.state.value, style=_STYLES[report.state])
    found = report.judgement.set
    if found is not None:
        title.append(f", set {_fingerprint(found.fingerprint, wide=wide)}")
    console.print(title)
    table = Table()
    for heading in ("File", "Subject", "Names", "Key", "Valid until", "SHA-256"):
        table.add_column(heading, overflow="fold")
    for file, held in report.certificates.items():
        for certificate in held:
            table.add_row(*_row(file, certificate, now, wide=wide))
    console.print(table)


def _row(file: str, certificate: Certificate, now: datetime, *, wide: bool) -> Iterable[Text]:
    """Text, not markup: a subject may hold what looks like it."""
    kind = "CA, " if certificate.is_ca else ""
    until = f"{when(certificate.not_after)} ({remaining(certificate.not_after, now)})"
    return (
        Text(file),
        Text(printable(certificate.subject)),
        Text(_names(certificate, wide=wide)),
        Text(f"{kind}{certificate.algorithm}"),
        Text(until, style="" if certificate.valid_at(now) else "red"),
        Text(_fingerprint(certificate.fingerprint, wide=wide)),
    )


def _names(certificate: Certificate, *, wide: bool) -> str:
    names = list(certificate.names)
    shown = names if wide or len(names) <= 4 else [*names[:3], f"and {len(names) - 3} more"]
    return printable(", ".join(shown)) if not wide else ", ".join(map(printable, shown))


def _fingerprint(fingerprint: str, *, wide: bool) -> str:
    return fingerprint if wide else f"{fingerprint[:_SHORT]}…"


def _print_faults(console: Console, report: ChannelReport) -> None:
    for fault in report.faults:
        style = "red" if fault.severity is Severity.ERROR else "yellow"
        line = Text(f"{TITLES[report.role]}: ")
        line.append(fault.severity.value, style=style)
        line.append(f": {escaped(str(fault))}")
        console.print(line, soft_wrap=True)
