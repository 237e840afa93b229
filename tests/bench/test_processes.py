"""Programs are on their core, heard, measured, and gone afterwards."""

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.bench.errors import BenchError
from tests.bench.processes import Program, running, wait_until

CORE = min(os.sched_getaffinity(0))


def python(code: str, tmp_path: Path) -> AbstractContextManager[Program]:
    return running("program", (sys.executable, "-c", code), core=CORE, log=tmp_path / "log")


def gone(program: Program) -> bool:
    return not Path(f"/proc/{program.pid}").exists()


def test_a_program_answers_and_ends_with_its_input(tmp_path: Path) -> None:
    with python("import sys; print('{\"port\": 7}', flush=True); sys.stdin.read()", tmp_path) as program:
        assert program.answer(20) == {"port": 7}
        assert os.sched_getaffinity(program.pid) == {CORE}
        assert program.memory() > 2**20
        assert program.cpu_seconds() >= 0
    assert gone(program)


def test_lines_that_come_together_are_told_apart(tmp_path: Path) -> None:
    with python("import sys; print('1'); print('2', flush=True); sys.stdin.read()", tmp_path) as program:
        assert (program.line(20), program.line(20)) == ("1", "2")


def test_a_program_that_ignores_us_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.processes.STOP_SECONDS", 0.1)
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{ignore}; print(1, flush=True); time.sleep(99)"
    with python(code, tmp_path) as program:
        program.line(20)
    assert gone(program)


def test_a_failure_inside_ends_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), python("input()", tmp_path) as program:
        raise KeyboardInterrupt
    assert gone(program)


def test_one_that_ends_early_says_what_it_said(tmp_path: Path) -> None:
    ended = r"(?s)program ended with code 1.*no port for me"
    code = "import sys; sys.exit('no port for me')"
    with python(code, tmp_path) as program, pytest.raises(BenchError, match=ended):
        program.line(20)


def test_one_that_is_silent_is_not_waited_for_forever(tmp_path: Path) -> None:
    with python("input()", tmp_path) as program, pytest.raises(BenchError, match="said nothing"):
        program.line(0.05)


def test_waiting_for_what_a_dead_program_should_do(tmp_path: Path) -> None:
    code = "import sys; sys.exit('broken')"
    with python(code, tmp_path) as program, pytest.raises(BenchError, match=r"(?s)ended.*broken"):
        wait_until(lambda: False, program, seconds=20)


def test_waiting_has_a_bound(tmp_path: Path) -> None:
    with python("input()", tmp_path) as program, pytest.raises(BenchError, match="not up after"):
        wait_until(lambda: False, program, seconds=0.05)
