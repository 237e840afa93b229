"""Certificates that modules of the agent's tests share, and its log."""

import logging
from collections.abc import Iterator

import pytest

from tests.defender.pki import Pki


@pytest.fixture(scope="module")
def pki() -> Pki:
    """The Console's and the Defender's."""
    return Pki.create()


@pytest.fixture(scope="module")
def renewed(pki: Pki) -> Pki:
    """New certificates of the same CA."""
    return pki.reissued()


@pytest.fixture(scope="module")
def elsewhere() -> Pki:
    """Another CA altogether."""
    return Pki.create()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Its log as an operator has it, without DEBUG."""
    with caplog.at_level(logging.INFO):
        yield
