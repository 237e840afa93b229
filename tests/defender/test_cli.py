"""What the commands refuse before there is anything to run, and how they say it."""

import json
import logging
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from common.cli import main
from defender.causes import ExitCode
from defender.cli import _stop_early
from tests.defender.pki import Pki


@pytest.fixture(autouse=True)
def untouched_process() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    terminate = signal.getsignal(signal.SIGTERM)
    levels = {room: logging.getLogger(room).level for room in ("common", "console", "defender")}
    yield
    signal.signal(signal.SIGTERM, terminate)
    root.handlers[:] = handlers
    root.setLevel(level)
    for room, its in levels.items():
        logging.getLogger(room).setLevel(its)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("GARRISON_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WS_ADDRESS", "wss://127.0.0.1:1")
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path))
    return tmp_path


def outcome(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["defender", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("name", "value", "code", "said"),
    [
        ("WS_ADDRESS", "", ExitCode.USAGE, "no wss:// address"),
        ("WS_ADDRESS", "https://console:8083", ExitCode.USAGE, "no wss:// address"),
        ("DEFENDER_TYPE", "toaster", ExitCode.USAGE, "DEFENDER_TYPE"),
        ("GARRISON_SPOOL", "1", ExitCode.USAGE, "did you mean GARRISON_SPOOL_BYTES"),
        ("INSTALL_BUNDLE", "bm90aGluZw==", ExitCode.USAGE, "INSTALL_BUNDLE"),
        ("DEFENDER_TYPE", "docker", ExitCode.FAILED, "holds no certificates for this Defender"),
    ],
)
def test_what_cannot_start_says_why(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    name: str,
    value: str,
    code: ExitCode,
    said: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert outcome(command) == code
    assert said in capfd.readouterr().err


def test_a_folder_that_cannot_be_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_FOLDER", "/proc/garrison")
    assert outcome("run") == ExitCode.FAILED
    assert "/proc/garrison" in capfd.readouterr().err


def test_without_an_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WS_ADDRESS")
    assert outcome("run") == ExitCode.USAGE
    assert "WS_ADDRESS is not set; give" in capfd.readouterr().err


def test_a_config_file_is_read(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = folder / "twistlock.cfg"
    config.write_text("DEFENDER_TYP=docker\n")
    assert outcome("run", "--config", str(config)) == ExitCode.USAGE
    assert "DEFENDER_TYP is not an option; did you mean DEFENDER_TYPE?" in capfd.readouterr().err


def test_bad_certificates_are_all_said(pki: Pki, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pki.deploy(folder)
    (folder / "certificates" / "defender-client-key.pem").write_bytes(b"")
    (folder / "certificates" / "defender-client-cert.pem").write_bytes(b"x")
    assert outcome("run") == ExitCode.FAILED
    said = capfd.readouterr().err
    assert "defender-client-key.pem" in said
    assert "defender-client-cert.pem" in said


def test_a_corrupt_instance_key_is_not_replaced(
    pki: Pki, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pki.deploy(folder)
    (folder / "instance-key.pem").write_bytes(b"corrupt")
    (folder / "instance-key.pem").chmod(0o600)
    assert outcome("run") == ExitCode.FAILED
    assert "restore it from a backup" in capfd.readouterr().err
    assert (folder / "instance-key.pem").read_bytes() == b"corrupt"


def test_a_start_that_fails_leaves_the_folder_free(
    pki: Pki, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert outcome("run") == ExitCode.FAILED
        assert "in use" not in capfd.readouterr().err


def test_check_tells_an_expired_certificate_of_its_own(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Pki.create(client_ends=-timedelta(hours=1)).deploy(folder)
    assert outcome("check") == ExitCode.OWN_EXPIRED
    assert "defender-client-cert.pem" in capfd.readouterr().err


def test_check_tells_of_a_folder_that_run_could_not_use(
    pki: Pki, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INSTALL_BUNDLE", pki.bundle())
    monkeypatch.setenv("DATA_FOLDER", str(folder / "a" / "b"))
    assert outcome("check") == ExitCode.FAILED
    assert "cannot be made" in capfd.readouterr().err
    monkeypatch.setenv("DATA_FOLDER", str(folder / "data"))
    assert outcome("check") == ExitCode.UNREACHABLE  # it could be made, and the check goes on
    assert not list(folder.iterdir())


def test_check_tells_of_an_instance_key_that_run_could_not_use(
    pki: Pki, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pki.deploy(folder)
    (folder / "instance-key.pem").write_bytes(b"corrupt")
    (folder / "instance-key.pem").chmod(0o644)
    assert outcome("check") == ExitCode.FAILED
    assert f"chmod 600 {folder / 'instance-key.pem'}" in capfd.readouterr().err
    (folder / "instance-key.pem").chmod(0o600)
    assert outcome("check") == ExitCode.FAILED
    assert "restore it from a backup" in capfd.readouterr().err


def test_check_says_that_nobody_is_there(pki: Pki, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pki.deploy(folder)
    assert outcome("check") == ExitCode.UNREACHABLE
    said = capfd.readouterr().err
    assert "garrison: wss://127.0.0.1:1: " in said
    assert "check the host and port in WS_ADDRESS" in said


def test_help_names_the_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert outcome("--help") == 0
    said = capfd.readouterr().out
    assert "run" in said
    assert "check" in said


def test_help_says_what_hello_leaves_behind(capfd: pytest.CaptureFixture[str]) -> None:
    assert outcome("check", "--help") == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "makes an instance key where there is none, and registers this Defender at the Console" in said
    assert "cannot be meant" not in said


def test_a_signal_before_the_agent_takes_them_ends_in_order() -> None:
    with pytest.raises(SystemExit) as caught:
        _stop_early(15, None)
    assert caught.value.code == ExitCode.OK


def test_a_start_that_fails_is_said_in_the_logs_own_format(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GARRISON_LOG_FORMAT", "json")
    assert outcome("run") == ExitCode.FAILED
    (line,) = [line for line in capfd.readouterr().err.splitlines() if '"CRIT"' in line]
    assert "holds no certificates for this Defender" in json.loads(line)["message"]
