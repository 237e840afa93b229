"""What the documents promise is what there is."""

import re
from pathlib import Path

import pytest

from common.transport import FailureKind
from console.settings import OPTIONS as CONSOLE_OPTIONS
from defender.causes import ExitCode
from defender.settings import OPTIONS as DEFENDER_OPTIONS

ROOT = Path(__file__).parents[1]
OPERATING = (ROOT / "docs" / "operating.md").read_text()


@pytest.mark.parametrize("option", [*CONSOLE_OPTIONS, *DEFENDER_OPTIONS], ids=lambda option: option.name)
def test_every_option_is_documented(option: object) -> None:
    assert f"`{getattr(option, 'name')}`" in OPERATING  # noqa: B009


def test_every_documented_option_exists() -> None:
    known = {option.name for option in (*CONSOLE_OPTIONS, *DEFENDER_OPTIONS)}
    rows = [line.split("|")[1] for line in OPERATING.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([A-Z][A-Z_]+)`", row)}
    assert named <= known


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_documented(code: ExitCode) -> None:
    assert f"\n| {code.value} |" in OPERATING


@pytest.mark.parametrize(
    "kind", ["no certificate", "unknown CA", "certificate expired", "not TLS", "evicted"]
)
def test_documented_failures_are_the_logged_ones(kind: str) -> None:
    assert f"`{kind}`" in OPERATING
    assert kind in set(FailureKind)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
