import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import protocol

MODULES = sorted(Path(protocol.__file__).parent.glob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_room_does_no_io_and_asks_no_clock(path: Path) -> None:
    io = {"asyncio", "ssl", "socket", "time", "random", "secrets", "os", "threading", "logging", "websockets"}
    assert not io & {name.split(".")[0] for name in imported(path)}


def test_the_door_shows_what_is_there() -> None:
    assert protocol.__all__ == sorted(
        protocol.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    assert all(hasattr(protocol, name) for name in protocol.__all__)
    assert protocol.SUBPROTOCOL == "garrison.defender.v1"
