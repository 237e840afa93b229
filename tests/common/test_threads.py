"""Jobs in threads of their own: every outcome arrives, and none is waited for at the exit."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from common.threads import in_thread

_BOUND = 5.0


class Panic(BaseException):
    """As an extension raises it that panics."""


def _raising(error: BaseException) -> Callable[[], None]:
    def job() -> None:
        raise error

    return job


async def test_the_result_arrives_from_a_daemon_thread() -> None:
    thread = await asyncio.wait_for(in_thread(threading.current_thread, name="reader"), _BOUND)
    assert thread is not threading.main_thread()
    assert (thread.name, thread.daemon) == ("reader", True)


async def test_an_exception_arrives_as_it_is() -> None:
    error = FileNotFoundError("gone")
    with pytest.raises(FileNotFoundError) as caught:
        await asyncio.wait_for(in_thread(_raising(error)), _BOUND)
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [Panic("pyo3"), SystemExit(3), KeyboardInterrupt("x"), StopIteration("y"), asyncio.CancelledError("z")],
    ids=lambda error: type(error).__name__,
)
async def test_what_no_task_can_raise_arrives_as_a_runtime_error(error: BaseException) -> None:
    with pytest.raises(RuntimeError) as caught:
        await asyncio.wait_for(in_thread(_raising(error)), _BOUND)
    assert str(caught.value) == f"{type(error).__name__}: {error}"
    assert caught.value.__cause__ is error


async def test_a_host_without_threads_is_an_outcome_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    future = in_thread(lambda: None)  # it does not raise here, where nobody catches
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await asyncio.wait_for(future, _BOUND)


async def test_a_job_goes_on_when_nobody_waits_any_more() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        release.wait(_BOUND)
        ended.set()

    future = in_thread(job)
    assert await asyncio.to_thread(begun.wait, _BOUND)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    release.set()
    assert await asyncio.to_thread(ended.wait, _BOUND)


def test_a_job_that_hangs_does_not_hold_the_exit() -> None:
    program = (
        "import asyncio, time\n"
        "from common.threads import in_thread\n"
        "async def main():\n"
        "    await asyncio.wait({in_thread(lambda: time.sleep(3600))}, timeout=0.05)\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], timeout=30, check=False)
    assert ended.returncode == 0
