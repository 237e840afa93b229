"""What every room's tests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio; a room that must work on uvloop too overrides this."""
    return "asyncio"
