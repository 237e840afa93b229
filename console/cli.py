"""`garrison console …`: run the Console, or ask the one that runs."""

import asyncio
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from common.logging import printable

config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="A twistlock.cfg (KEY=VALUE a line); the environment wins over it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def console() -> None:
    """The Console: its web page and API, and the Defenders' listener."""


@console.command()
@config_option
def run(config: Path | None) -> None:
    """Run the Console until SIGTERM or Ctrl-C."""
    from console.app import run_console
    from console.settings import ConsoleSettings

    raise SystemExit(run_console(ConsoleSettings.read(os.environ, config)))


@console.command("install-bundle")
@click.option("--address", required=True, help="The name or IP address by which Defenders reach the Console.")
@click.option("--type", "defender_type", default="serverLinux", show_default=True, help="What it is for.")
@config_option
@json_option
def install_bundle(address: str, defender_type: str, config: Path | None, as_json: bool) -> None:
    """Print what a Defender needs to join: INSTALL_BUNDLE and WS_ADDRESS.

    It holds a private key: whoever has it can speak to the Console as a new Defender.
    """
    bundle = _ask(config, "install-bundle", address=address, type=defender_type)
    if as_json:
        click.echo(json.dumps(bundle))
    else:
        click.echo(f"WS_ADDRESS={bundle['wsAddress']}")
        click.echo(f"INSTALL_BUNDLE={bundle['installBundle']}")
    if bundle["note"]:
        click.echo(f"Note: {bundle['note']}", err=True)


@console.command()
@config_option
@json_option
def defenders(config: Path | None, as_json: bool) -> None:
    """List the Defenders that the Console knows."""
    found = _ask(config, "defenders")
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print_defenders(found)


@console.command()
@click.argument("defender")
@config_option
def restart(defender: str, config: Path | None) -> None:
    """Restart the Defender of this ID or (unambiguous) host name."""
    _ask(config, "command", defender=defender, name="restart")
    click.echo(f"{defender} restarts")


@console.command()
@click.argument("defender")
@click.option("--lines", type=click.IntRange(1, 2000), default=100, show_default=True)
@config_option
def logs(defender: str, lines: int, config: Path | None) -> None:
    """Print the last log lines of the Defender of this ID or (unambiguous) host name."""
    value = _ask(config, "command", defender=defender, name="fetchLogs", lines=str(lines))
    for line in value.get("lines", []):
        click.echo(printable(str(line)))


@console.command()
@click.argument("defender")
@config_option
def state(defender: str, config: Path | None) -> None:
    """Print what the Defender of this ID or (unambiguous) host name says of itself, as JSON."""
    click.echo(json.dumps(_ask(config, "command", defender=defender, name="reportState"), indent=2))


@console.command()
@config_option
@json_option
def certs(config: Path | None, as_json: bool) -> None:
    """Show the certificates that each channel uses, and how a move to new ones goes."""
    found = _ask(config, "certs")
    if as_json:
        click.echo(json.dumps(found))
        return
    from common.clock import SystemClock
    from console.fleet.lines import channel_lines

    now = SystemClock().now()
    for line in (line for channel in found["channels"] for line in channel_lines(channel, now=now)):
        click.echo(printable(line))


@console.command("end-removed-trust")
@click.option(
    "--all",
    "every_source",
    is_flag=True,
    help="Also connections that a change of source has left, as from generated to custom certificates: "
    "they have no grace.",
)
@config_option
def end_removed_trust(config: Path | None, *, every_source: bool) -> None:
    """End connections now whose CA was removed from the Defenders' bundle, before their grace is over."""
    ended = _ask(config, "end-removed-trust", **({"all": "true"} if every_source else {}))["ended"]
    click.echo(f"{ended} connection{'' if ended == 1 else 's'} of removed trust ended")


def _ask(config: Path | None, command: str, **arguments: str) -> Any:
    from console.control import ask
    from console.settings import ConsoleSettings

    settings = ConsoleSettings.read(os.environ, config)
    return asyncio.run(ask(settings.data_folder, command, **arguments))


def _print_defenders(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("STATUS", "HOST", "ID", "TYPE", "VERSION", "CERTIFICATE ENDS", "LAST CHANGE"):
        table.add_column(column, overflow="fold")
    for row in found:
        status = Text("connected", "green") if row["connected"] else Text("disconnected", "red")
        name = row["hostname"] + (" (claimed twice)" if row.get("duplicateHostname") else "")
        times = (_minute(row.get("certificateExpiration")), _minute(row.get("lastModified")))
        # Text and not markup: what a Defender claims may hold brackets, and worse.
        cells = (name, row["id"], row["type"], row["version"], *times)
        table.add_row(status, *(Text(printable(cell)) for cell in cells))
    width = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, width=width).print(table)


def _minute(text: str | None) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M") if text else ""
