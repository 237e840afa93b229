import asyncio
import socket
import subprocess
import sys
import threading

import pytest

from defender.resolve import Resolver, addresses, in_thread


async def test_an_address_needs_no_look_up() -> None:
    def fail(host: str, port: int) -> list[str]:
        raise AssertionError

    resolver = Resolver(fail)
    assert await resolver.resolve("127.0.0.1", 1, patience=1) == ["127.0.0.1"]
    assert await resolver.resolve("::1", 1, patience=1) == ["::1"]


async def test_a_name_is_looked_up() -> None:
    found = await Resolver().resolve("localhost", 1, patience=5)
    assert {"127.0.0.1", "::1"} & set(found)
    assert len(found) == len(set(found))


async def test_an_unknown_name_is_an_os_error() -> None:
    with pytest.raises(socket.gaierror):
        await Resolver().resolve("no-such-host.invalid", 1, patience=20)


async def test_a_resolver_that_hangs_costs_one_thread_and_no_wait() -> None:
    release = threading.Event()
    asked = []

    def hang(host: str, port: int) -> list[str]:
        asked.append(host)
        release.wait(30)
        return ["127.0.0.1"]

    resolver = Resolver(hang)
    try:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await resolver.resolve("slow.example", 1, patience=0.01)
        assert asked == ["slow.example"]
    finally:
        release.set()
    async with asyncio.timeout(10):
        while resolver._busy.is_set():
            await asyncio.sleep(0.005)
    assert await resolver.resolve("slow.example", 1, patience=5) == ["127.0.0.1"]


async def test_a_cancelled_look_up_is_left_behind() -> None:
    release = threading.Event()
    task = asyncio.create_task(in_thread(lambda: release.wait(30), patience=30))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()


async def test_an_error_in_the_thread_is_raised_here() -> None:
    def fail() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await in_thread(fail, patience=5)


def test_a_look_up_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    code = (
        "import asyncio, time\n"
        "from defender.resolve import in_thread\n"
        "try: asyncio.run(in_thread(lambda: time.sleep(3600), patience=0.05))\n"
        "except TimeoutError: print('left behind')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=20
    )
    assert result.stdout == "left behind\n"
    assert result.stderr == ""


def test_a_lookup_asks_the_system() -> None:
    assert addresses("127.0.0.1", 80) == ["127.0.0.1"]
