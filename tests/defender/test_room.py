"""The room's door: what it exports, and that looking in costs nothing."""

import subprocess
import sys
from pathlib import Path

import defender

ROOT = Path(__file__).parents[2]


def test_its_names_are_there() -> None:
    for name in defender.__all__:
        assert getattr(defender, name) is not None


def test_the_door_is_light() -> None:
    code = "import defender, defender.cli, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"ssl", "cryptography", "websockets", "sqlite3", "msgspec", "rich"} & set(loaded)
    assert not any(name.split(".")[0] == "console" for name in loaded)


def test_each_module_has_its_tests() -> None:
    """A module is covered by its own tests (style 21)."""
    here = Path(__file__).parent
    modules = {path.stem for path in (ROOT / "defender").glob("*.py")} - {"__init__"}
    tested = {path.stem.removeprefix("test_") for path in here.glob("test_*.py")}
    assert modules <= tested


def test_no_module_is_too_long() -> None:
    for path in (ROOT / "defender").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path.name
