"""Programs that the bench runs: started on a core of their own, ended with the bench, however that ends."""

import contextlib
import json
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

from tests.bench.errors import BenchError

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 60.0
STATUS_SECONDS: Final = 0.2
_CPUCLOCK_SCHED: Final = 2
POLL_SECONDS: Final = 0.5
"""Between two readings of a process's memory."""
STEADY: Final = 0.002
"""Three readings in a row that differ by less than this part are a settled process."""


class Program:
    """A running program; its standard input is ours, and most of them end when it does."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._unread = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self, timeout: float) -> str:
        """Its next line on standard output.

        Raises:
            BenchError: there is none in time, or it has ended.
        """
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            output = self._output()
            selector.register(output, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise BenchError(f"{self.name} said nothing for {timeout:.0f} s{self.told()}")
                read = cast("Any", output).read1(65536)
                if not read:
                    raise BenchError(f"{self.name} ended with code {self._process.wait()}{self.told()}")
                self._unread += read
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode()

    def answer(self, timeout: float) -> dict[str, Any]:
        """Its next line on standard output, which is a JSON object."""
        return cast("dict[str, Any]", json.loads(self.line(timeout)))

    def ask(self, line: str, timeout: float = START_SECONDS) -> dict[str, Any]:
        """What it answers to a line on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        return self.answer(timeout)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def told(self) -> str:
        """The last lines of its log, for an error."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        return "".join(f"\n  {line}" for line in lines)

    def cpu_seconds(self) -> float:
        """CPU time that it has used so far, its threads together, those that have ended too."""
        # clock_getcpuclockid(3): nanoseconds, where proc(5) has hundredths. Python has no name for it.
        return time.clock_gettime(~self.pid << 3 | _CPUCLOCK_SCHED)

    def memory(self) -> int:
        """Bytes that are its own: the proportional set size, of which shared pages are a share."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="utf-8")
        found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def settled_memory(self) -> int:
        """Its memory once three readings in a row agree, at most a minute from now."""
        deadline = time.monotonic() + SETTLE_SECONDS
        readings = [self.memory()]
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            readings = [*readings[-2:], self.memory()]
            if len(readings) == 3 and max(readings) - min(readings) <= STEADY * max(readings):
                break
        return readings[-1]

    def close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def stop(self) -> None:
        """End it: by its input, by SIGTERM, at last by SIGKILL. Idempotent."""
        self.close_input()
        if not self.ended():
            self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output().close()

    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[str | Path],
    *,
    core: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """Run a program on one core; it is gone when the block is left.

    It gets a session of its own, so that a Ctrl-C is ours to handle; the kernel kills it if we are killed.
    """
    guarded = ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), *map(str, command)]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            guarded,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
    program = Program(name, process, log)
    try:
        yield program
    finally:
        program.stop()


def wait_for_status(
    program: Program, condition: Callable[[dict[str, Any]], bool], seconds: float
) -> dict[str, Any]:
    """The load generator's status once it meets the condition.

    Raises:
        BenchError: it does not in time; with the status as it is.
    """
    deadline = time.monotonic() + seconds
    while not condition(status := program.ask("status")):
        if time.monotonic() > deadline:
            raise BenchError(f"{program.name} after {seconds:.0f} s: {status}{program.told()}")
        time.sleep(STATUS_SECONDS)
    return status


def wait_until(condition: Callable[[], bool], program: Program, seconds: float = START_SECONDS) -> None:
    """Wait for what a program brings about.

    Raises:
        BenchError: it ended, or the time is over.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if program.ended():
            raise BenchError(f"{program.name} ended{program.told()}")
        if time.monotonic() > deadline:
            raise BenchError(f"{program.name} is not up after {seconds:.0f} s{program.told()}")
        time.sleep(0.02)
