"""The command `garrison`: finds what each room offers and runs it.

Rooms register their command groups under the entry point `garrison.commands`, so that this module imports
neither side, and a host with only `garrison[defender]` still has a working command.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import click

from common.errors import GarrisonError, UsageError
from common.version import VERSION

GROUP: Final = "garrison.commands"


class _Rooms(click.Group):
    """The commands of the installed rooms, imported when one is asked for: a Defender starts small."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all rooms' commands, sorted."""
        return sorted({*super().list_commands(ctx), *entry_points(group=GROUP).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The room's command, imported now."""
        found = entry_points(group=GROUP, name=cmd_name)
        return _load(*found) if found else super().get_command(ctx, cmd_name)


def _load(entry: EntryPoint) -> click.Command:
    command = entry.load()
    if not isinstance(command, click.Command):
        raise TypeError(f"{entry.value} is not a command")
    return command


def _missing(error: ModuleNotFoundError, arguments: Sequence[str]) -> UsageError | None:
    """What to say when a library of an extra is absent; None where the missing module is our own: a bug."""
    module = (error.name or "").split(".")[0]
    rooms = [argument for argument in arguments if argument in ("console", "defender")]
    if module in ("", "common", "console", "defender") or not rooms:
        return None
    remedy = f"install it with: pip install 'garrison[{rooms[0]}]'"
    return UsageError(f"garrison {rooms[0]}", f"the library {module} is not installed", remedy)


@click.group(cls=_Rooms, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="garrison")
def garrison() -> None:
    """A Console and its Defenders over mutual TLS, whose certificates change without a gap.

    \b
    garrison console run                 serve the web page and API on 8083, take Defenders on 8084
    garrison console install-bundle      print what a Defender needs to join
    garrison defender run                report to the Console named by WS_ADDRESS
    garrison certs check DIR             judge a directory of certificates before using it
    garrison certs watch DIR             the same, live
    garrison onebox                      a Console and two Defenders on this machine, to look around

    Options come from the environment or from a twistlock.cfg given by --config. Exit codes: 0 done, 1 it
    failed, 2 wrong usage: an option, argument or setting.
    """  # noqa: D301 - click looks for the control character


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: the one place that turns an error into a message and a code.

    Args:
        arguments: Without the program's name; the process's own by default.
    """
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result = garrison.main(args=words, prog_name="garrison", standalone_mode=False)
    except ModuleNotFoundError as error:
        missing = _missing(error, words)
        if missing is None:
            raise
        click.echo(f"garrison: {missing}", err=True)
        return missing.exit_code
    except GarrisonError as error:
        click.echo(f"garrison: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough (`garrison certs show DIR | head`).
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0
