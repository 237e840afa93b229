"""The facts that a ratio depends on."""

import os
import resource

from tests.bench.machine import Cores, look, raise_file_limit


def test_the_machine_is_named() -> None:
    machine = look()
    assert machine.cores == os.cpu_count()
    assert machine.openssl[0].isdigit()
    assert machine.python.count(".") == 2
    assert set(machine.as_json()) >= {"cpu", "nginx", "go", "uvloop"}


def test_servers_and_load_get_cores_that_are_permitted() -> None:
    cores = Cores.of_this_process()
    assert {cores.server, cores.load} <= os.sched_getaffinity(0)
    assert cores.shared == (len(os.sched_getaffinity(0)) == 1)


def test_the_file_limit_is_never_lowered() -> None:
    before, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert raise_file_limit(16) == before
