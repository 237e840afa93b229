"""Events of a directory, as hints only: that something may have changed, and now is a good time to look.

watchfiles runs in a thread of our own that nobody depends on: where the directory lies on a file server that
is dead, even `inotify_add_watch` hangs, and neither the event loop nor the exit may hang with it.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from common.clock import Clock

_STEP_MS: Final = 200  # shorter ones cost CPU while nothing happens: the thread wakes at each
_DEBOUNCE_MS: Final = 400
_CLOSING: Final = 1.0  # seconds for a thread that lives to notice that it is to end
_LEAST: Final = 1.0
_MOST: Final = 60.0

Identity = tuple[int, int]
"""Device and inode of a directory."""


class Events:
    """Events of whatever directory is at a path now.

    A watch follows what it was armed on: a directory that was renamed away, or nothing once its volume was
    unmounted; and what comes in its place can have the same numbers (measured: tmpfs, ext4). So it is armed
    anew for another directory, after the old one's end, and when a change was found that no event told of.
    Where arming fails (limits of inotify), it is tried again at a slowing pace.

    Args:
        directory: The path.
        clock: Its monotonic clock paces the trying.
        changed: Called in the loop's thread when something may have changed.
        failed: Called in the loop's thread with the cause, once, when a watch can't be armed.
    """

    def __init__(
        self,
        directory: Path,
        clock: Clock,
        *,
        changed: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._changed = changed
        self._failed = failed
        self._hints: Hints | None = None
        self._old: list[Hints] = []
        self._identity: Identity | None = None
        self._armed_at = 0.0
        self._not_before = 0.0
        self._delay = _LEAST
        self._told = False

    @property
    def due(self) -> float:
        """When `follow` should be called at the latest, monotonic seconds; infinite if there is no need."""
        return self._not_before if self._hints is None and self._identity is not None else math.inf

    def follow(self, identity: Identity | None, *, anew: bool) -> None:
        """Have events of the directory that is there now.

        Args:
            identity: The directory at the path, None if there is none.
            anew: Don't trust the present watch.
        """
        if anew or identity != self._identity:
            self._drop()
        self._identity = identity
        now = self._clock.monotonic()
        if self._hints is None and identity is not None and now >= self._not_before:
            self._armed_at = now
            self._hints = Hints(self._directory, changed=self._changed, ended=self._ended)

    async def close(self) -> None:
        """End the threads, as far as they live."""
        self._drop()
        await asyncio.gather(*(hints.close() for hints in self._old))

    def _drop(self) -> None:
        self._old = [hints for hints in self._old if not hints.ended]
        if self._hints is not None:
            self._hints.stop()
            self._old.append(self._hints)
            self._hints = None

    def _ended(self, reason: Exception | None, armed: bool) -> None:
        """The watch is dead: at once another if the directory was replaced, else after a while."""
        self._hints = None
        now = self._clock.monotonic()
        if reason is not None:
            # One that had been armed was ended by something odd, such as a file name that isn't UTF-8.
            self._delay = _LEAST if now > self._armed_at + _MOST else self._delay
            self._not_before = now + self._delay
            self._delay = min(self._delay * 2, _MOST)
        if reason is not None and not armed and not self._told:
            self._told = True
            self._failed(reason)
        self._changed()


class Hints:
    """Tells of changes in a directory, until it is closed or can't any more.

    Args:
        directory: Watched itself, and nothing below it: what a set's symlinks point to is found by polling.
        changed: Called in the loop's thread after each change, and once when the watch is armed, since there
            may have been one before.
        ended: Called in the loop's thread when the watch is dead: with None if the directory itself went
            away, else with the cause; and whether it had been armed at all.
    """

    def __init__(
        self,
        directory: Path,
        *,
        changed: Callable[[], None],
        ended: Callable[[Exception | None, bool], None],
    ) -> None:
        self._directory = directory
        self._on_change = changed
        self._on_end = ended
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._done = asyncio.Event()
        try:
            threading.Thread(target=self._follow, name="certificate-hints", daemon=True).start()
        except RuntimeError as error:  # the host has none left
            self._loop.call_soon(self._end, error, False)

    @property
    def ended(self) -> bool:
        """Whether its thread has ended."""
        return self._done.is_set()

    def stop(self) -> None:
        """Tell of nothing any more; the thread ends within a step."""
        self._stop.set()

    async def close(self) -> None:
        """Stop, and wait for the thread as long as a live one takes.

        An interpreter that exits under a thread of native code can crash; one whose directory doesn't answer
        is left behind.
        """
        self.stop()
        # Not wait_for: 3.11's can lose a cancel that comes with the event (gh-86296).
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                await self._done.wait()

    def _follow(self) -> None:
        reason: Exception | None = None
        armed = False
        try:
            from watchfiles import Change, watch  # only where there is a directory

            # Not recursive: that would follow symlinks, wherever they lead. What is polled is polled by us.
            for changes in watch(
                self._directory,
                watch_filter=None,
                debounce=_DEBOUNCE_MS,
                step=_STEP_MS,
                stop_event=self._stop,
                rust_timeout=_DEBOUNCE_MS,
                yield_on_timeout=True,
                raise_interrupt=False,
                force_polling=False,
                recursive=False,
                ignore_permission_denied=False,
            ):
                if changes or not armed:
                    self._tell(self._change)
                armed = True
                if (Change.deleted, str(self._directory)) in changes:
                    break  # the watch is dead; what takes the directory's place may even have its inode
        except FileNotFoundError as error:
            reason, armed = error, True  # gone since it was looked at: nothing to complain of
        except Exception as error:  # noqa: BLE001 - a path that is no UTF-8, no library: polling does without
            reason = error
        except BaseException as error:  # noqa: BLE001 - a panic of the library's: the watch must not seem alive
            reason = RuntimeError(f"{type(error).__name__}: {error}")
        self._tell(lambda: self._end(reason, armed))

    def _tell(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(what)

    def _change(self) -> None:
        if not self._stop.is_set():
            self._on_change()

    def _end(self, reason: Exception | None, armed: bool) -> None:
        self._done.set()
        if not self._stop.is_set():
            self._on_end(reason, armed)
