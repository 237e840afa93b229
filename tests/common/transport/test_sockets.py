import asyncio
import select
import socket
from collections.abc import Iterator

import pytest

from common.errors import ListenError
from common.transport.sockets import (
    address_group,
    bind,
    discard,
    has_ended,
    is_edge_triggered,
    listen,
    peer_text,
    wake_at,
    watch_reader,
    watch_writer,
)
from tests.common.transport.helpers import eventually

LINGER_RST = b"\1\0\0\0\0\0\0\0"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection; the first is non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    near.setblocking(False)
    with near, far:
        yield near, far


def readable(sock: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def test_the_kernel_wakes_us_from_so_many_octets_on(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    wake_at(near, 100)
    far.send(bytes(99))
    assert not readable(near, 0.02)
    far.send(b"x")
    assert readable(near, 5)
    wake_at(near, 200)
    assert not readable(near, 0.02)
    wake_at(near, 1)
    assert readable(near, 5)


def test_the_end_of_the_stream_wakes_us_in_any_case(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    wake_at(near, 100)
    far.send(b"x")
    far.shutdown(socket.SHUT_WR)
    assert readable(near, 5)


def test_whether_the_peer_has_ended(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    assert not has_ended(near)
    far.send(b"x")
    near.shutdown(socket.SHUT_WR)
    assert readable(far, 5)
    assert not has_ended(near), "our own end is not the peer's"
    far.shutdown(socket.SHUT_WR)
    while not has_ended(near):
        pass
    assert near.recv(10, socket.MSG_PEEK) == b"x", "what came before it is still there"
    near.close()
    assert has_ended(near)


def test_a_reset_is_an_end(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
    far.close()
    assert readable(near, 5)
    assert has_ended(near)


def test_discard(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    assert discard(near) == 0
    far.send(bytes(10))
    assert readable(near, 5)
    assert discard(near) == 10
    far.shutdown(socket.SHUT_WR)
    assert readable(near, 5)
    assert discard(near) is None
    near.close()
    assert discard(near) is None


@pytest.mark.parametrize(
    ("address", "text", "group"),
    [
        (("192.0.2.1", 5), "192.0.2.1:5", "192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), "[2001:db8::1]:5", "20010db800000000"),
        (("2001:db8::ffff:1", 6, 0, 0), "[2001:db8::ffff:1]:6", "20010db800000000"),
        (("2001:db8:0:1::1", 6, 0, 0), "[2001:db8:0:1::1]:6", "20010db800000001"),
        (("::ffff:192.0.2.1", 5, 0, 0), "[::ffff:192.0.2.1]:5", "192.0.2.1"),
        (("fe80::1%eth0", 5, 0, 2), "[fe80::1%eth0]:5", "fe80000000000000"),
        ("", "?", ""),
    ],
)
def test_addresses(address: object, text: str, group: str) -> None:
    assert peer_text(address) == text
    assert address_group(address) == group


async def test_bind_to_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ListenError, match="Address already in use; stop what listens there"):
            await bind("127.0.0.1", port)


async def test_bind_to_an_address_that_is_not_ours() -> None:
    with pytest.raises(ListenError, match="choose an address of this host"):
        await bind("192.0.2.1", 0)


async def test_bind_to_a_name_that_is_none() -> None:
    with pytest.raises(ListenError, match="correct the listen address"):
        await bind("no-such-host.invalid", 0)


async def test_bind_to_everything_shares_one_port() -> None:
    sockets = await bind(None, 0)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert len({sock.family for sock in sockets}) == len(sockets)
        listen(sockets, 5)
        assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in sockets)
        assert all(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in sockets)
    finally:
        for sock in sockets:
            sock.close()


async def test_two_that_bind_before_either_listens() -> None:
    """SO_REUSEADDR lets both bind; the second to listen is told."""
    first = (await bind("127.0.0.1", 0))[0]
    second = (await bind("127.0.0.1", first.getsockname()[1]))[0]
    listen([first], 5)
    with first, pytest.raises(ListenError, match="in use"):
        listen([second], 5)
    assert second.fileno() == -1


async def test_the_loops_differ() -> None:
    loop = asyncio.get_running_loop()
    assert is_edge_triggered(loop) == type(loop).__module__.startswith("uvloop")


async def test_watching_goes_on_after_the_loop_has_dropped_a_reset_socket(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """uvloop closes its poll handle with the error, keeps it in its table and refuses it ever after."""
    loop = asyncio.get_running_loop()
    near, far = pair
    woken: list[str] = []
    watch_reader(loop, near.fileno(), woken.append, "first")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
    far.close()
    await eventually(lambda: "first" in woken)
    await asyncio.sleep(0.01)
    watch_reader(loop, near.fileno(), woken.append, "second")
    await eventually(lambda: "second" in woken)
    await asyncio.sleep(0.01)
    watch_writer(loop, near.fileno(), woken.append, "third")
    await eventually(lambda: "third" in woken)
    loop.remove_reader(near.fileno())
    loop.remove_writer(near.fileno())
