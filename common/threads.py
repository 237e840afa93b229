"""Jobs that may hang, in threads that nobody has to wait for: a read from a file server that is gone.

The event loop's own pool joins its threads at the exit, and so hangs with them. These are daemon threads,
one per job: one that hangs is left behind, at the latest by the exit.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def in_thread(job: Callable[[], _T], *, name: str = "job") -> asyncio.Future[_T]:
    """Run a job in a daemon thread of its own. From the loop's thread.

    Args:
        job: What may block; what it does goes on when the future is cancelled, and nobody sees its outcome.
        name: The thread's.

    Returns:
        Its outcome, which is there whatever happens: what the job returns or the Exception that it raises;
        RuntimeError where the host has no thread for it, or where it ends by what is no Exception (an
        extension's panic), which nobody who waits for it would be prepared for.
    """
    outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def work() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            outcome.set_exception(_as_exception(error))
        else:
            outcome.set_result(result)

    future = asyncio.wrap_future(outcome)
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as error:
        outcome.set_exception(error)
    return future


def _as_exception(error: BaseException) -> Exception:
    """What a future can hold and a task can raise without ending its loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
