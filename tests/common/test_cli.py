import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from common.cli import GROUP, _missing, _run
from common.version import VERSION


def test_help_names_every_room(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("certs", "console", "defender", "onebox"):
        assert f"\n  {command} " in shown


@pytest.mark.parametrize("command", [entry.name for entry in entry_points(group=GROUP)])
def test_each_command_has_a_help_that_reads(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: garrison {command} ")
    assert len(shown.splitlines()) > 4


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["--version"]) == 0
    assert capsys.readouterr().out == f"garrison, version {VERSION}\n"


@pytest.mark.parametrize("words", [["consol"], ["console", "rn"], ["certs", "check"], ["--nonsense"]])
def test_usage_errors_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(words) == 2
    assert "Error: " in capsys.readouterr().err


def test_an_error_of_ours_is_one_line_and_its_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GARRISON_NONSENSE", "1")
    assert _run(["console", "run"]) == 2
    assert capsys.readouterr().err.startswith("garrison: environment: GARRISON_NONSENSE is not an option")


def test_a_library_that_is_not_installed_is_asked_for_by_its_extra() -> None:
    error = _missing(ModuleNotFoundError("no aiohttp", name="aiohttp.web"), ["console", "run"])
    assert str(error) == (
        "garrison console: the library aiohttp is not installed; "
        "install it with: pip install 'garrison[console]'"
    )
    # A module of our own that is missing is a bug, and is shown as one.
    assert _missing(ModuleNotFoundError("bug", name="console.nothing"), ["console", "run"]) is None


def test_a_defender_imports_nothing_of_the_console() -> None:
    script = (
        "import sys; import defender.service, common.cli; "
        "heavy = {'aiohttp', 'sqlalchemy', 'alembic', 'jinja2', 'argon2', 'jwt', 'console', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout == "[]\n"
