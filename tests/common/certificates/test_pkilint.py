"""What the Console issues, before a public linter: no finding from warnings on but those argued away here.

pkilint pins an old cryptography, so that it lives in a virtual environment of its own; PKILINT_BIN names the
directory of its commands (`make test` sets it).
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from common.certificates import Authority, KeyAlgorithm, MintOptions, Role, mint, names_for, parse_san
from tests.common.certificates.pki import NOW

LINT = shutil.which("lint_pkix_cert", path=os.environ.get("PKILINT_BIN") or os.environ.get("PATH"))
LINT_CHAIN = shutil.which(
    "lint_pkix_signer_signee_cert_chain", path=os.environ.get("PKILINT_BIN") or os.environ.get("PATH")
)

pytestmark = pytest.mark.skipif(
    LINT is None or LINT_CHAIN is None,
    reason="pkilint is not installed; set PKILINT_BIN to its bin directory",
)

# pkilint wants a dNSName to be a fully qualified name below a public suffix. RFC 5280 §4.2.1.6 wants the
# "preferred name syntax" of RFC 1034 §3.5, which a single label meets: it is a <domain> of one <label>.
# - `localhost`: the first thing one does on a new Console's host is to open it there, as onebox does.
# - `defender`: the webhook service as it is called within its own namespace (product facts §6).
# - `*.example.com`: whatever CONSOLE_SAN says; RFC 9525 §6.3 says how clients match it.
ARGUED_AWAY = {
    'pkix.invalid_domain_name_syntax (ERROR): Invalid domain name syntax: "*.example.com"',
    'pkix.invalid_domain_name_syntax (ERROR): Invalid domain name syntax: "localhost"',
    'pkix.invalid_domain_name_syntax (ERROR): Invalid domain name syntax: "defender"',
}

MINTED = mint(
    NOW,
    MintOptions(
        "console.example.com",
        "defender.example.com",
        names_for(
            "console.example.com",
            "host.example.com",
            extra=parse_san("DNS:*.example.com IP:192.0.2.1 IP:fd00::1"),
        ),
    ),
)
CERTIFICATES = sorted(name for name, data in MINTED.files.items() if b"CERTIFICATE" in data)


def findings(*command: str | Path | None) -> set[str]:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=50, check=False
    )
    assert "Traceback" not in result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    return {line for line in lines if line and "(" in line and "@" not in line} - ARGUED_AWAY


def lint(path: Path) -> set[str]:
    return findings(LINT, "lint", "-s", "WARNING", path)


def lint_chain(ca: Path, leaf: Path) -> set[str]:
    return findings(LINT_CHAIN, "lint", "-s", "WARNING", ca, leaf)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in CERTIFICATES:
        (tmp_path / name).write_bytes(MINTED.files[name])
    return tmp_path


@pytest.mark.parametrize("name", CERTIFICATES)
def test_each_certificate(folder: Path, name: str) -> None:
    assert lint(folder / name) == set()


@pytest.mark.parametrize("name", [name for name in CERTIFICATES if name not in ("ca.pem", "defender-ca.pem")])
def test_each_leaf_under_its_ca(folder: Path, name: str) -> None:
    ca = "ca.pem" if name.startswith("console") else "defender-ca.pem"
    assert lint_chain(folder / ca, folder / name) == set()


def test_the_linter_finds_faults(folder: Path) -> None:
    """The control: it looks, and its findings are seen."""
    assert lint_chain(folder / "ca.pem", folder / "defender-server-cert.pem")
    authority = MINTED.console.authority
    bad = authority.issue(Role.HTTPS_SERVER, common_name="x", names=names_for("single"), now=NOW)
    (folder / "bad.pem").write_bytes(bad.chain)
    assert lint(folder / "bad.pem") == {
        'pkix.invalid_domain_name_syntax (ERROR): Invalid domain name syntax: "single"'
    }


@pytest.mark.parametrize(
    "algorithm", [KeyAlgorithm.RSA_2048, KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.ED25519]
)
def test_each_algorithm(tmp_path: Path, algorithm: KeyAlgorithm) -> None:
    authority = Authority.create("Garrison Defender CA", now=NOW, algorithm=algorithm)
    leaf = authority.issue(Role.DEFENDER_CLIENT, common_name="d", now=NOW, algorithm=algorithm)
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem)
    (tmp_path / "leaf.pem").write_bytes(leaf.chain)
    assert lint(tmp_path / "ca.pem") == set()
    assert lint(tmp_path / "leaf.pem") == set()
    assert lint_chain(tmp_path / "ca.pem", tmp_path / "leaf.pem") == set()


def test_a_name_too_long_for_the_common_name(tmp_path: Path) -> None:
    name = ".".join(["a" * 60, "b" * 60, "example.com"])
    issued = MINTED.console.authority.issue(
        Role.HTTPS_SERVER, common_name=name, names=names_for(name), now=NOW
    )
    (tmp_path / "leaf.pem").write_bytes(issued.chain)
    assert lint(tmp_path / "leaf.pem") == set()
