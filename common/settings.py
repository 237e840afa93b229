"""Options from the environment and from a `twistlock.cfg`, parsed once into typed values.

A side declares its options as `Option` values and gets them back as a mapping of parsed values; everything
that is wrong is said together. The environment wins over the file, so that a container can override what its
image brings. Names are the product's (product facts §2); our own start with `GARRISON_`. A name in the file
that nobody declared, and an undeclared `GARRISON_` variable, are refused: a misspelt option that is silently
ignored is worse than a start that fails.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.errors import SettingsError, UsageError

OWN_PREFIX: Final = "GARRISON_"

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)\Z", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|y)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "y": 365 * 86400.0}


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: As an operator types it.
        parse: From its text to its value; raises ValueError with what is wrong with the text.
        default: Its value where it is not set.
        help: One line for `--help` and the documents.
        secret: Its value may not be shown, not even in an error.
    """

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    secret: bool = False


def read_config(path: Path | None) -> dict[str, tuple[str, int]]:
    """The assignments of the `twistlock.cfg` that was named, none where none was; see `parse_config`.

    Raises:
        UsageError: it can't be read.
        SettingsError: see `parse_config`.
    """
    if path is None:
        return {}
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(str(path), "is not UTF-8 text", "give a twistlock.cfg of KEY=VALUE lines") from None
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
        raise UsageError(str(path), fault, "name a file that exists and is readable") from None
    return parse_config(text, path=path)


def parse_config(text: str, *, path: Path | str) -> dict[str, tuple[str, int]]:
    """The assignments of a `twistlock.cfg`: name → (value, line number).

    The file is shell-like (the product's own script sources it): `KEY=VALUE` a line, `#` comments, an
    optional `export`, one pair of matching quotes around the value. Nothing is expanded.

    Raises:
        SettingsError: naming each line that is no assignment, or sets what is set already.
    """
    values: dict[str, tuple[str, int]] = {}
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ASSIGNMENT.match(line)
        if match is None:
            faults.append(f"{path}:{number}: not an assignment; write KEY=VALUE, or # before a comment")
            continue
        name, raw = match[1], match[2].strip()
        if name in values:
            faults.append(
                f"{path}:{number}: {name} is set already in line {values[name][1]}; keep one of them"
            )
            continue
        value, fault = _unquote(raw)
        if fault:
            faults.append(f"{path}:{number}: {name}: {fault}")
        values[name] = (value, number)
    if faults:
        raise SettingsError(faults)
    return values


def _unquote(raw: str) -> tuple[str, str]:
    if raw[:1] in ("'", '"'):
        end = raw.find(raw[0], 1)
        rest = raw[end + 1 :].strip()
        if end < 0:
            return raw, "a quote is not closed; close it or leave both out"
        if rest and not rest.startswith("#"):
            return raw, "text follows the closing quote; put it inside, or a # before it"
        return raw[1:end], ""
    return re.split(r"\s#", raw, maxsplit=1)[0].rstrip(), ""


def read_settings(
    options: Sequence[Option],
    environ: Mapping[str, str],
    *,
    config: Mapping[str, tuple[str, int]] | None = None,
    config_path: Path | str = "twistlock.cfg",
    foreign: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Every declared option with its value: the environment's, else the file's, else its default.

    Args:
        options: What may be set.
        environ: The process's environment.
        config: What `parse_config` returned.
        config_path: The file's name, for errors.
        foreign: Names that belong to the other side or to the product's installer; they may be set in a
            shared file or environment and mean nothing here.

    Raises:
        SettingsError: with every unknown name and every value that does not parse.
    """
    known = {option.name: option for option in options}
    faults: list[str] = []
    texts: dict[str, tuple[str, str]] = {}
    for name, (text, number) in (config or {}).items():
        if name in known:
            texts[name] = (text, f"{config_path}:{number}")
        elif name not in foreign:
            faults.append(f"{config_path}:{number}: {name} is not an option{_nearest(name, known)}")
    for name, text in environ.items():
        if name in known:
            texts[name] = (text, "environment")
        elif name.startswith(OWN_PREFIX) and name not in foreign:
            faults.append(f"environment: {name} is not an option{_nearest(name, known)}")
    values = {option.name: option.default for option in options}
    for name, (text, origin) in texts.items():
        try:
            values[name] = known[name].parse(text)
        except ValueError as error:
            shown = "" if known[name].secret else f" {text!r}"
            faults.append(f"{origin}: {name}{shown}: {error}")
    if faults:
        raise SettingsError(faults)
    return values


def _nearest(name: str, known: Mapping[str, Option]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; remove it"


def parse_text(text: str) -> str:
    """Any text but an empty one."""
    if not text.strip():
        raise ValueError("is empty; give a value or remove the option")
    return text.strip()


def parse_path(text: str) -> Path:
    """An absolute path; `~` is the home folder."""
    path = Path(parse_text(text)).expanduser()
    if not path.is_absolute():
        raise ValueError("is relative; give the whole path")
    return path


def parse_port(text: str) -> int | None:
    """A TCP port; an empty value turns the listener off (product facts §2); 0 lets the system choose."""
    if not text.strip():
        return None
    if not text.strip().isdecimal() or int(text) > 65535:
        raise ValueError("is no port; give a number from 0 to 65535, or nothing to turn the listener off")
    return int(text)


def parse_flag(text: str) -> bool:
    """A switch: true or false, 1 or 0, on or off, yes or no."""
    match text.strip().lower():
        case "true" | "1" | "on" | "yes":
            return True
        case "false" | "0" | "off" | "no" | "":
            return False
    raise ValueError("is no switch; write true or false")


def parse_seconds(text: str) -> float:
    """A duration in seconds, from a number with a unit (ms, s, m, h, d, y = 365 d); without one, seconds."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("is no duration; write a number and one of ms s m h d y, such as 30s")
    return float(match[1]) * _UNITS[match[2] or "s"]


def parse_choice(*choices: str) -> Callable[[str], str]:
    """One of the choices, in any case."""

    def parse(text: str) -> str:
        for choice in choices:
            if choice.lower() == text.strip().lower():
                return choice
        raise ValueError(f"is none of {', '.join(choices)}")

    return parse
