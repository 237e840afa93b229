"""A store in a folder of its own for each test that asks."""

import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from console.store import Store
from console.store.folder import LOCK_NAME


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test puts a fresh store, for the others to copy: migrations take longer than a copy."""
    return tmp_path_factory.mktemp("template") / "data"


@pytest.fixture
async def folder(tmp_path: Path, template: Path) -> Path:
    """A data folder with an empty store, closed."""
    if not template.exists():
        await (await Store.open(template)).close()
    return Path(shutil.copytree(template, tmp_path / "data", ignore=shutil.ignore_patterns(LOCK_NAME)))


@pytest.fixture
async def store(folder: Path) -> AsyncGenerator[Store]:
    async with await Store.open(folder) as opened:
        yield opened
