import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from common.logging import LogFormat, configure_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(format_: LogFormat, *records: tuple[int, str]) -> list[str]:
    stream = io.StringIO()
    configure_logging(format_, stream=stream)
    for level, message in records:
        logging.getLogger("console.app").log(level, message)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "DEBU"),
        (logging.INFO, "INFO"),
        (logging.WARNING, "WARN"),
        (logging.ERROR, "ERRO"),
        (logging.CRITICAL, "CRIT"),
    ],
)
def test_text_has_the_shape_of_the_product(level: int, name: str) -> None:
    (line,) = lines(LogFormat.TEXT, (level, "Watching custom certificates directory: /x"))
    shape = r"(\w{4}) \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} test_logging\.py:\d+ (.*)"
    match = re.fullmatch(shape, line)
    assert match is not None
    assert match.groups() == (name, "Watching custom certificates directory: /x")


def test_a_peer_cannot_forge_a_second_line() -> None:
    (line,) = lines(LogFormat.TEXT, (logging.INFO, "host a\nCRIT 2026-01-01T00:00:00.000 x.py:1 b\x1b[2J"))
    assert line.endswith("host a\\nCRIT 2026-01-01T00:00:00.000 x.py:1 b\\x1b[2J")


def test_json_is_one_object_a_line() -> None:
    (line,) = lines(LogFormat.JSON, (logging.WARNING, "two\nlines"))
    entry = json.loads(line)
    assert entry["level"] == "WARN"
    assert entry["message"] == "two\nlines"
    assert entry["logger"] == "console.app"
    assert entry["time"].endswith("Z")


@pytest.mark.parametrize("format_", LogFormat)
def test_a_traceback_is_kept(format_: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging(format_, stream=stream)
    try:
        raise ValueError("the cause")
    except ValueError:
        logging.getLogger("defender.agent").exception("it failed")
    assert "ValueError: the cause" in stream.getvalue()


def test_libraries_stay_quiet_below_warning() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("aiohttp.access").info("GET /?token=x")
    logging.getLogger("websockets").debug("< TEXT secret")
    assert stream.getvalue() == ""
