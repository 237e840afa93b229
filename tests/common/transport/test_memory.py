"""What an idle connection costs: the server in this process, the clients in another."""

import asyncio
import contextlib
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.common.transport import certs
from tests.common.transport.wshelpers import NAME, Handler, WebSocketServer, websockets

COUNT = 1000
KIB_PER_CONNECTION = 34
"""27 were measured, 23.5 of them OpenSSL's (9.7 for the client certificate alone); asyncio's TLS: 298."""

CLIENTS = """\
import asyncio, ssl, sys
from common.transport import client_factory, connect
from tests.common.transport.wshelpers import NAME, Handler

async def main(port, pem, count, size):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pem)
    context.load_cert_chain(pem)
    handlers = []
    for _ in range(count):
        handlers.append(Handler())
        factory = client_factory(f"wss://localhost:{port}/", handlers[-1], subprotocols=[NAME])
        await connect(
            "127.0.0.1", port, context=context, server_hostname="localhost", protocol_factory=factory
        )
        connection = await handlers[-1].open()
        connection.send("x" * size)
        await handlers[-1].got()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for handler in handlers:
        handler.connection.abort()
    await handlers[-1].ended()

asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


class Echoing(Handler):
    """Answers, and keeps nothing."""

    def on_message(self, data: bytes) -> None:
        self.connection.send(data)


@contextlib.asynccontextmanager
async def clients(server: WebSocketServer, folder: Path, count: int, size: int) -> AsyncIterator[None]:
    leaf = certs.client_leaf()
    pem = folder / "client.pem"
    pem.write_bytes(leaf.certificate + leaf.key + leaf.ca)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENTS, str(server.port), str(pem), str(count), str(size)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert await asyncio.wait_for(process.stdout.readline(), 50) == b"ready\n"
    yield
    process.stdin.close()
    assert await process.wait() == 0


def resident() -> int:
    gc.collect()
    size: int = psutil.Process().memory_info().rss
    return size


@pytest.mark.slow
@pytest.mark.parametrize("size", [200, 60_000])
async def test_an_idle_connection_is_small_whatever_it_has_carried(size: int, tmp_path: Path) -> None:
    async with websockets(Echoing, subprotocols=[NAME]) as server:
        server.tls.generation.context.verify_mode = certs.server_context(mutual=True).verify_mode
        server.tls.generation.context.load_verify_locations(cadata=certs.ca().pem.decode())
        async with clients(server, tmp_path, 20, size):
            before = resident()
            async with clients(server, tmp_path, COUNT, size):
                each = (resident() - before) / COUNT / 1024
        assert each < KIB_PER_CONNECTION, f"{each:.1f} KiB"
