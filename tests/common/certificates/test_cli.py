"""`garrison certs`: what it prints, and how it exits."""

import json
import signal
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from common.certificates import MintOptions, Role, mint, names_for, publish_generation
from common.certificates.cli import certs
from common.certificates.model import FILES
from tests.common.certificates.followed import files as good
from tests.common.certificates.followed import until_printed, watch
from tests.common.certificates.pki import CLIENT, SERVER, files_for, make_ca, make_client, make_server

NOW = datetime.now(UTC)
MINTED = mint(NOW, MintOptions("console.test", "defender.test", names_for("console.test")))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(certs, [str(one) for one in arguments])


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    return folder


def only(*roles: Role) -> dict[str, bytes]:
    return {name: MINTED.files[name] for role in roles for name in FILES[role].all}


@pytest.fixture
def view(tmp_path: Path) -> Path:
    publish_generation(tmp_path / "certificates", "1", MINTED.files)
    return tmp_path / "certificates"


def test_show_of_the_console_s_own_view(view: Path) -> None:
    result = run("show", view)
    assert result.exit_code == 0
    for words in (
        "Console, web UI and API (8083): good",
        "Console, listener for Defenders (8084): good",
        "Defender, connection to the Console: good",
        "Defender, admission webhook (9998): good",
        "console.test",
        "1094 days left",
        "CA, RSA 3072",
        MINTED.console.web.certificate.fingerprint[:16] + "…",
    ):
        assert words in result.output
    assert MINTED.console.web.certificate.fingerprint not in result.output.replace("\n", "")


def test_show_wide_has_whole_fingerprints(view: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run("show", "--wide", view).output
    joined = "".join(line.split("│")[-2].strip() for line in found.splitlines() if line.count("│") == 7)
    assert MINTED.console.web.certificate.fingerprint in joined


def test_show_of_a_partial_set(tmp_path: Path) -> None:
    write(tmp_path, {"defender-ca.pem": MINTED.files["defender-ca.pem"]})
    assert "no certificate set" in run("show", tmp_path).output
    write(tmp_path, {"defender-client-cert.pem": MINTED.files["defender-client-cert.pem"]})
    result = run("show", tmp_path)
    assert result.exit_code == 0
    assert "Defender, connection to the Console: incomplete" in result.output
    assert "CN=defender.test" in result.output
    assert "defender-client-key.pem: is not there" in result.output


def test_show_of_a_bad_set_shows_what_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, only(Role.DEFENDER_SERVER) | {"defender-server-key.pem": b"rubbish"})
    output = run("show", tmp_path).output
    assert "Console, listener for Defenders (8084): bad" in output
    assert "CN=console.test" in output
    assert (
        "Console, listener for Defenders (8084): error: defender-server-key.pem: holds no PEM block" in output
    )


def test_show_of_nothing(tmp_path: Path) -> None:
    result = run("show", tmp_path)
    assert (result.exit_code, result.output) == (0, f"{tmp_path}: no certificate set\n")


def test_check_of_good_sets(view: Path) -> None:
    result = run("check", view)
    assert result.exit_code == 0
    assert result.output.count("uses this set") == 4


def test_check_of_an_empty_directory_is_no_mistake(tmp_path: Path) -> None:
    result = run("check", tmp_path)
    assert result.exit_code == 0
    assert result.output.count("uses its generated certificates") == 3
    assert "error" not in result.output


def test_check_of_one_channel_s_set_leaves_the_others_alone(tmp_path: Path) -> None:
    write(tmp_path, only(Role.DEFENDER_CLIENT))
    result = run("check", tmp_path)
    assert result.exit_code == 0
    assert result.output.count("uses this set") == 1
    assert result.output.count("no set here") == 2


def test_check_of_an_incomplete_set(tmp_path: Path) -> None:
    write(tmp_path, {"console-cert.pem": MINTED.files["console-cert.pem"]})
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "waits for console-key.pem" in result.output
    assert "Console, web UI and API (8083): error: console-key.pem: is not there" in result.output


def test_check_of_a_bad_set(tmp_path: Path) -> None:
    files = only(Role.HTTPS_SERVER, Role.DEFENDER_SERVER)
    files["defender-server-key.pem"] = files["console-key.pem"]
    write(tmp_path, files)
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "at start it logs why and exits" in result.output
    assert "defender-server-key.pem: is not the key of defender-server-cert.pem" in result.output
    assert "PRIVATE" not in result.output


def test_check_says_how_long_is_left(tmp_path: Path) -> None:
    minted = mint(
        NOW, MintOptions("c.test", "d.test", names_for("c.test"), lifetime=timedelta(hours=5, minutes=30))
    )
    result = run("check", write(tmp_path, minted.files))
    assert "(5 hours left)" in result.output


def test_a_warning_alone_is_no_failure(tmp_path: Path) -> None:
    write(tmp_path, only(Role.HTTPS_SERVER))
    (tmp_path / "console-key.pem").chmod(0o644)
    result = run("check", tmp_path)
    assert result.exit_code == 0
    warning = "console-key.pem: may be read by others (mode 0644); chmod 600"
    assert f"Console, web UI and API (8083): warning: {warning}" in result.output


def test_json_has_everything(tmp_path: Path) -> None:
    write(tmp_path, only(Role.DEFENDER_SERVER) | {"console-cert.pem": b""})
    result = run("check", "--json", tmp_path)
    assert result.exit_code == 1
    reports = {one["role"]: one for one in json.loads(result.output)}
    assert {role: one["state"] for role, one in reports.items()} == {
        "https-server": "incomplete",
        "defender-server": "good",
        "defender-client": "absent",
    }
    good = reports["defender-server"]
    leaf = MINTED.defender.server.certificate
    assert good["set"]["notAfter"] == leaf.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert good["files"]["defender-server-cert.pem"][0]["fingerprint"] == leaf.fingerprint
    assert good["faults"] == []
    assert {fault["kind"] for fault in reports["https-server"]["faults"]} == {"empty", "missing"}
    assert {"file", "kind", "severity", "what", "remedy"} == set(reports["https-server"]["faults"][0])
    shown = json.loads(run("show", "--json", tmp_path).output)
    assert [one["role"] for one in shown] == ["https-server", "defender-server"]


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_directory_that_is_not_there_is_a_usage_error(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path / "absent")
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_markup_in_a_subject_is_only_text(tmp_path: Path) -> None:
    ca = make_ca("[bold red]ca[/] \x1b[31m")
    leaf = make_server(ca, "[link=x]leaf")
    write(
        tmp_path,
        {
            "defender-ca.pem": ca.pem,
            "defender-server-cert.pem": leaf.pem,
            "defender-server-key.pem": leaf.key_pem,
        },
    )
    output = run("show", tmp_path).output
    assert "[bold red]ca[/]" in output
    assert "[link=x]leaf" in output
    assert "\x1b" not in output


def test_help_reads_well() -> None:
    assert "Say what each channel would do" in run("check", "--help").output
    assert "Show the certificate sets" in run("show", "--help").output
    assert {"show", "check"} <= set(run("--help").output.split())


def test_a_fault_is_printed_whole_with_its_remedy(tmp_path: Path) -> None:
    names = [f"a-rather-long-name-{index}.console.test" for index in range(20)]
    client = make_client(make_ca("ca"), names=names, purposes=[SERVER, CLIENT])
    write(tmp_path, files_for(Role.DEFENDER_CLIENT, client, [make_ca("ca")]))
    assert "issue it for clientAuth only" in run("check", tmp_path).output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_follows_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    write(
        tmp_path,
        good("a", Role.HTTPS_SERVER) | good("b", Role.DEFENDER_CLIENT) | {"defender-client-key.pem": b"x"},
    )
    process = await watch(tmp_path)
    assert "bad" in await until_printed(process, "Defender, connection to the Console")
    await until_printed(process, "CRIT Failed to construct defender client TLS config error reading X509")
    await until_printed(process, "A process that starts now exits with these lines. One that runs already:")
    write(tmp_path, good("c", Role.HTTPS_SERVER))
    await until_printed(process, "INFO Console HTTPS custom certificates rotated, resetting listener: set ")
    write(tmp_path, good("d", Role.DEFENDER_CLIENT))
    await until_printed(process, "INFO Defender custom certificates rotated, resetting connection: set ")
    process.send_signal(number)
    assert await process.wait() == 0
