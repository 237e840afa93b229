"""A stand-in for the Console: its transport and protocol, and nothing behind them.

What it costs is what TLS, WebSocket and Hello cost; what the Console costs more is the fleet and the store.
It prints its port as JSON and ends when its standard input does.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from common.certificates import CertificateSet, Role, Source, load, server_context
from common.protocol import (
    MAX_MESSAGE_BYTES,
    SUBPROTOCOL,
    Close,
    CloseCode,
    ConsoleEnd,
    ConsoleOptions,
    ConsoleOutput,
    EventsReceived,
    HelloReceived,
    MoveFailed,
    Send,
    leaf_digest,
)
from common.transport import Generation, Listener, WebSocketConnection, server_factory
from tests.bench.errors import BenchError
from tests.bench.loops import LOOPS, input_ended, loop_factory

SWEEP_SECONDS: Final = 1.0


class LeanGeneration(Generation):
    """A listener generation that knows the leaf it answers with."""

    __slots__ = ("leaf",)

    def __init__(self, certificates: CertificateSet) -> None:
        super().__init__(certificates.fingerprint, server_context(certificates), mutual=True)
        self.leaf = leaf_digest(certificates.leaf.der)


class Server:
    """What the sessions share.

    Attributes:
        generation: What the next ClientHello is answered with.
        supersedes: Whether a Defender's newer session ends its older one, as the Console's does; None if not,
            which takes no memory.
        not_moved: Why Defenders said that they could not reconnect.
    """

    def __init__(self, options: ConsoleOptions, certificates: CertificateSet, *, supersedes: bool) -> None:
        self.options = options
        self.generation = LeanGeneration(certificates)
        self.supersedes: dict[bytes, Session] | None = {} if supersedes else None
        self.not_moved: list[str] = []
        self.sessions: set[Session] = set()
        self.welcomed = 0

    async def sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for session in tuple(self.sessions):
                session.tick(now)


class Session:
    """A connection; implements common.transport.WebSocketHandler."""

    __slots__ = ("_connection", "_end", "_server", "through")

    def __init__(self, server: Server) -> None:
        self.through = 0
        self._server = server
        self._connection: WebSocketConnection | None = None
        self._end: ConsoleEnd

    def on_open(self, connection: WebSocketConnection) -> None:
        assert connection.transport is not None
        generation = connection.transport.get_extra_info("generation")
        assert isinstance(generation, LeanGeneration)
        self._end = ConsoleEnd(self._server.options, nonce=os.urandom(32), leaf=generation.leaf)
        self._connection = connection
        self._server.sessions.add(self)
        self._do(self._end.opened(time.monotonic()))

    def on_message(self, data: bytes) -> None:
        self._do(self._end.receive(data, time.monotonic(), time.time()))

    def on_writable(self) -> None:
        pass

    def on_close(self, code: int, reason: str, exc: Exception | None) -> None:
        if self._connection is None:
            return
        self._end.lost()
        self._server.sessions.discard(self)

    def ask_to_reconnect(self, slot_seconds: float, deadline_seconds: float) -> None:
        """As a Console that drains its listener does."""
        self._do(self._end.reconnect(slot_seconds, deadline_seconds, "drain", time.monotonic()))

    def close(self, code: CloseCode, reason: str) -> None:
        self._do(self._end.close(code, reason))

    def tick(self, now: float) -> None:
        if now >= self._end.next_deadline:
            self._do(self._end.tick(now))

    def _do(self, outputs: Iterable[ConsoleOutput]) -> None:
        assert self._connection is not None
        for output in outputs:
            match output:
                case Send(data):
                    self._connection.send(data)
                case Close(code, reason):
                    self._connection.close(code, reason)
                case HelloReceived(instance_key):
                    self._welcome(instance_key)
                case MoveFailed(_, detail):
                    self._server.not_moved.append(detail)
                case EventsReceived(epoch, first, items):
                    self.through = first + len(items) - 1
                    self._do(self._end.acknowledge(epoch, self.through))

    def _welcome(self, key: bytes) -> None:
        server = self._server
        server.welcomed += 1
        number = server.welcomed
        self._do(self._end.welcome(f"d-{number}", number, self._through(key), time.monotonic(), time.time()))

    def _through(self, key: bytes) -> int:
        """End the session before this one; what that one has acknowledged."""
        sessions = self._server.supersedes
        if sessions is None:
            return 0
        before, sessions[key] = sessions.get(key), self
        if before is None or before._end.epoch != self._end.epoch:
            return 0
        before.close(CloseCode.SUPERSEDED, "a newer connection")
        return before.through


@contextlib.asynccontextmanager
async def serving(
    certificates: Path, *, port: int = 0, options: ConsoleOptions | None = None, supersedes: bool = False
) -> AsyncIterator[tuple[Server, int]]:
    """The stand-in, listening; its sessions and its port."""
    judged = load(certificates, Role.DEFENDER_SERVER, now=datetime.now(UTC), source=Source.CUSTOM)
    if judged.set is None:
        raise BenchError("\n".join(map(str, judged.faults)))
    server = Server(options or ConsoleOptions("bench"), judged.set, supersedes=supersedes)
    listener = await Listener.start(
        "127.0.0.1",
        port,
        select=lambda _hello: server.generation,
        protocol_factory=server_factory(
            lambda: Session(server), subprotocols=(SUBPROTOCOL,), max_size=MAX_MESSAGE_BYTES
        ),
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            sweep = tasks.create_task(server.sweep(), name="sweep")
            try:
                yield server, listener.port
            finally:
                sweep.cancel()
    finally:
        listener.close()
        await listener.wait_closed(0)


async def serve(certificates: Path, heartbeat_seconds: float) -> None:
    """Serve until standard input ends."""
    options = ConsoleOptions("bench", heartbeat_seconds=heartbeat_seconds)
    async with serving(certificates, options=options) as (_, port):
        print(json.dumps({"port": port}), flush=True)
        gc.freeze()  # as the Console does
        await input_ended()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lean", description=__doc__)
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    parser.add_argument("--heartbeat-seconds", type=float, default=30.0)
    options = parser.parse_args()
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner,
    ):
        runner.run(serve(options.certificates, options.heartbeat_seconds))


if __name__ == "__main__":
    main()
