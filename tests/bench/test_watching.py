"""What watching costs is read from the right processes; writes in vain are in vain."""

import os
import sys
from pathlib import Path

import pytest

from tests.bench.processes import running
from tests.bench.swaps import console_with_operator
from tests.bench.watching import Reading, Storm, _detail, _rows, look, write_in_vain
from tests.bench.workshop import Workshop

# The tools of the slow proofs: proved where those are.
pytestmark = pytest.mark.slow

CORE = min(os.sched_getaffinity(0))
READINGS = {
    "Console, watching": Reading(30.0, 0.02, 70 << 20),
    "Console": Reading(30.0, 0.01, 68 << 20),
    "Defender": Reading(30.0, 0.0, 30 << 20),
}


def test_who_works_is_told_from_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.watching.SETTLE_SECONDS", 0.1)
    busy = running("busy", (sys.executable, "-c", "while True: pass"), core=CORE, log=tmp_path / "a")
    idle = running("idle", (sys.executable, "-c", "input()"), core=CORE, log=tmp_path / "b")
    with busy as one, idle as two:
        found = look({"busy": one, "idle": two}, 0.3)
    assert found["busy"].cpu > found["idle"].cpu
    assert found["idle"].memory > 2**20


def test_what_is_there_already_makes_no_swap(bare_workshop: Workshop) -> None:
    with console_with_operator(bare_workshop, "console") as (_, swapper, first, _):
        storm = write_in_vain(swapper, first, writes=60)
    assert (storm.swaps, storm.writes) == (0, 60 // len(first) * len(first))
    assert storm.cpu > 0


def test_the_rows_say_what_watching_adds() -> None:
    cpu, memory = _rows("Console", READINGS)
    assert (cpu.ours, cpu.peers) == ((40.0,), (20.0,))
    assert (memory.ours, memory.peers, memory.note) == ((70,), (68,), "+2.0 MiB")


def test_one_that_uses_nothing_can_be_compared(tmp_path: Path) -> None:
    idle = {**READINGS, "Defender, watching": Reading(30.0, 0.0, 30 << 20)}
    cpu, _ = _rows("Defender", idle)
    assert cpu.ratio == 1


def test_the_storm_is_in_the_table() -> None:
    lines = _detail(READINGS, Storm(10_000, 2.5, 0.3, 0)).lines
    assert lines[-1] == ("10,000 writes of the same", "2.5", "", "", "0 swaps; 300 ms CPU in all")
