import os
import socket
import sys
import time
from pathlib import Path

import pytest

from common.version import VERSION
from defender import facts


async def test_the_host_describes_itself() -> None:
    said = await facts.gather(defender_type="daemonset", override=None)
    assert said.hostname == socket.gethostname()
    assert said.fqdn
    assert (said.version, said.type) == (VERSION, "daemonset")
    assert (said.os, said.arch) == (sys.platform, os.uname().machine)


async def test_an_override_stands_for_both_names() -> None:
    said = await facts.gather(defender_type="docker", override="edge-7.example")
    assert (said.hostname, said.fqdn) == ("edge-7.example", "edge-7.example")


async def test_a_slow_resolver_costs_the_full_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "NAME_TIMEOUT", 0.01)
    monkeypatch.setattr(socket, "getfqdn", lambda name: time.sleep(1))
    said = await facts.gather(defender_type="docker", override=None)
    assert said.fqdn == said.hostname == socket.gethostname()


def test_the_system_is_measured(tmp_path: Path) -> None:
    said = facts.system(tmp_path)
    assert said.kernel_version == os.uname().release
    assert said.cpu_count >= 1
    assert said.memory_gb > 0
    assert 0 <= said.free_disk_space_gb <= said.total_disk_space_gb


def test_a_disk_that_cannot_be_asked_is_0(tmp_path: Path) -> None:
    said = facts.system(tmp_path / "gone")
    assert (said.total_disk_space_gb, said.free_disk_space_gb) == (0, 0)
