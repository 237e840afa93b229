"""What the tests of the watcher share."""

import pytest

from common.certificates import hints, watcher, watching


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits for people or saves CPU waits for less."""
    for module in (watching, watcher):
        monkeypatch.setattr(module, "QUIET", 0.05)
        monkeypatch.setattr(module, "SETTLE", 0.5)
    monkeypatch.setattr(watching, "CHANGING", 1.0)
    monkeypatch.setattr(watching, "DATES", 0.2)
    monkeypatch.setattr(hints, "_STEP_MS", 50)
    monkeypatch.setattr(hints, "_DEBOUNCE_MS", 100)
