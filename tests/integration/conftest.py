"""Processes of the product for integration tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.processes import Fleet


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """Starts Consoles and Defenders; all of them end with the test."""
    async with Fleet(tmp_path).cleaned_up() as fleet:
        yield fleet
