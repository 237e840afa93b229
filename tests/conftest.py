"""What every room's tests share."""

import os

import pytest
from hypothesis import settings

# CI looks at the same examples every time, so that a change is judged by what it changed; people look at new
# ones with every run.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio; a room that must work on uvloop too overrides this."""
    return "asyncio"
