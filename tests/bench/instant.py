"""How long a swap itself takes: from the call to the end of the first handshake with the new certificate.

Both listeners of a Console run in this process, and so does the client, so that a figure holds both sides of
a handshake. It prints a JSON object: for each channel, pairs of seconds: of the call, and to the end of the
handshake.
"""

import argparse
import asyncio
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from aiohttp import web

from common.certificates import CertificateSet, FileSet, Role, Source, client_context, judge_files
from common.clock import SystemClock
from common.protocol import ConsoleOptions, leaf_digest
from common.transport import bind, connect
from console.fleet.fleet import Fleet
from console.https import HTTPSServer
from console.settings import ConsoleSettings
from console.store import Store
from tests.bench.loops import LOOPS, loop_factory
from tests.bench.probes import Channel
from tests.pki import PKI

WARM: Final = 5
"""Swaps before those that count."""

Pairs = list[tuple[float, float]]


async def swap_often(
    use: Callable[[CertificateSet], None],
    sets: Iterable[CertificateSet],
    port: Callable[[], int],
    context: ssl.SSLContext,
) -> Pairs:
    """Use one set after the other, and meet each."""
    found = []
    for certificates in sets:
        began = time.perf_counter()
        use(certificates)
        called = time.perf_counter()
        transport, _ = await connect(
            "127.0.0.1",
            port(),
            context=context,
            server_hostname="localhost",
            protocol_factory=asyncio.Protocol,
        )
        shaken = time.perf_counter()
        leaf = leaf_digest(transport.get_extra_info("peer_chain")[0])
        assert leaf == leaf_digest(certificates.leaf.der)
        transport.abort()
        found.append((called - began, shaken - began))
    return found[WARM:]


async def measure(folder: Path, swaps: int) -> dict[Channel, Pairs]:
    """Swap each channel's set so often."""
    pki, clock = PKI(), SystemClock()
    known = ssl.create_default_context(cadata=pki.authority.certificate_pem.decode())
    clients = client_context(pki.set(Role.DEFENDER_CLIENT))

    def made(role: Role) -> Iterator[CertificateSet]:
        """One after the other, as they come from the loader, which has asked OpenSSL in a thread by then."""
        for _ in range(swaps + WARM):
            files = FileSet.from_bytes(role, pki.files(role))
            found = judge_files(files, now=pki.now, source=Source.CUSTOM).set
            assert found is not None
            yield found

    async with AsyncExitStack() as stack:
        https = HTTPSServer(web.Application(), clock)
        https.use(pki.set(Role.HTTPS_SERVER))
        await https.start(await bind("127.0.0.1", 0))
        stack.push_async_callback(https.close)
        store = await Store.open(folder)
        stack.push_async_callback(store.close)
        fleet = Fleet(store, ConsoleSettings.read({}), ConsoleOptions("bench"), clock)
        fleet.use(pki.set(Role.DEFENDER_SERVER))
        await fleet.start(await bind("127.0.0.1", 0))
        stack.push_async_callback(fleet.close)
        return {
            Channel.HTTPS: await swap_often(https.use, made(Role.HTTPS_SERVER), lambda: https.port, known),
            Channel.WEBSOCKET: await swap_often(
                fleet.use, made(Role.DEFENDER_SERVER), lambda: fleet.port, clients
            ),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.instant", description=__doc__)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--loop", choices=LOOPS, default="uvloop")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner,
    ):
        print(json.dumps(runner.run(measure(Path(folder, "data"), options.swaps))), flush=True)


if __name__ == "__main__":
    main()
