"""Opens new TLS connections without pause on both ports of a Console, and writes down what became of each.

    python -m tests.bench.prober --https 8083 --websocket 8084 --certificates FOLDER --ca FILE --record FILE

It shares no code with the product's client: blocking sockets in threads. On the HTTPS port an attempt is
TLS, `GET /api/v1/_ping` and the server's orderly end; on the Defenders' it is mutual TLS, the upgrade, the
Console's Challenge, and a close that is answered. It prints a line once the first attempts are through, and
ends when its standard input does.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import random
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.certificates import FILES, Role
from common.protocol import SUBPROTOCOL
from tests.bench.probes import Attempt, Channel, Outcome, percentile
from tests.bench.processes import Program, running
from tests.bench.workshop import Workshop

HUNG_SECONDS: Final = 10.0
PING: Final = b"GET /api/v1/_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CLOSE: Final = b"\x88\x82" + bytes(4) + struct.pack("!H", 1000)
"""A close frame of code 1000; a client's frames are masked, here by zeroes (RFC 6455 §5.3)."""


class WrongAnswer(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The connection stood, and what came was not what should have come."""


@dataclass(frozen=True, slots=True)
class Target:
    """A port, and how a connection to it is taken to its end."""

    channel: Channel
    port: int
    context: ssl.SSLContext
    talk: Callable[[ssl.SSLSocket], None]


def ping(tls: ssl.SSLSocket) -> None:
    """One request; read to the end of the stream."""
    tls.sendall(PING)
    answer = b"".join(iter(lambda: tls.recv(65536), b""))
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise WrongAnswer(repr(answer[:80]))


def be_challenged(tls: ssl.SSLSocket) -> None:
    """Upgrade, read the Challenge, close; read to the end of the stream."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        *("GET / HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Upgrade: websocket"),
        *("Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"),
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
    )
    tls.sendall("\r\n".join((*lines, "", "")).encode())
    answer = b""
    while b'{"kind":"challenge"' not in answer:
        read = tls.recv(65536)
        answer += read
        if not read or not b"HTTP/1.1 101 ".startswith(answer[:13]):
            raise WrongAnswer(repr(answer[:80]))
    tls.sendall(CLOSE)
    while tls.recv(65536):
        pass


def attempt(target: Target, pause: float = 0.0) -> Attempt:
    """One connection, with a pause in seconds between TCP and the ClientHello."""
    began, shaken, leaf = time.monotonic(), 0.0, ""
    outcome, detail = Outcome.OK, ""
    try:
        with socket.create_connection(("127.0.0.1", target.port), HUNG_SECONDS) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if pause:
                time.sleep(pause)
                began = time.monotonic()
            with target.context.wrap_socket(
                sock, server_hostname="localhost", suppress_ragged_eofs=False
            ) as tls:
                shaken = time.monotonic()
                leaf = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
                target.talk(tls)
    except (OSError, WrongAnswer) as error:
        outcome, detail = outcome_of(error), " ".join(str(error).split())
    return Attempt(target.channel, began, shaken, time.monotonic(), outcome, leaf, detail)


def outcome_of(error: Exception) -> Outcome:
    """What a failure is called."""
    match error:
        case TimeoutError():
            return Outcome.HUNG
        case ConnectionRefusedError():
            return Outcome.REFUSED
        case ssl.SSLCertVerificationError():
            return Outcome.UNTRUSTED
        case ssl.SSLEOFError():
            return Outcome.RESET
        case ssl.SSLError():
            return Outcome.ALERT
        case OSError():
            return Outcome.RESET
    return Outcome.WRONG_ANSWER


class Prober:
    """Threads that open one connection after the other.

    Args:
        targets: Where to.
        threads: For each of them.
        record: Where each attempt is written down.
        pause: One thread more for each waits up to so many seconds before it says its ClientHello: it is that
            which chooses the certificate, not the connection. None without any if it is 0.
    """

    def __init__(self, targets: Sequence[Target], threads: int, record: Path, *, pause: float = 0.0) -> None:
        self._record = record.open("w", encoding="utf-8", buffering=1 << 20)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._through = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._probe, args=(target, wait), name=f"{target.channel} {number}")
            for target in targets
            for number, wait in enumerate([0.0] * threads + [pause] * (pause > 0))
        ]
        self.outcomes: Counter[tuple[Channel, Outcome]] = Counter()
        self.seconds: dict[Channel, list[float]] = {target.channel: [] for target in targets}

    def start(self) -> None:
        """Begin; returns once each thread has ended its first attempt."""
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._through.acquire()

    def stop(self) -> None:
        """One attempt more of each thread, begun after this call; then all is written down."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._record.close()

    def summary(self) -> dict[str, Any]:
        """Counts by channel and outcome, and how long attempts took, in seconds."""
        return {
            channel: {
                "outcomes": {str(o): n for (c, o), n in self.outcomes.items() if c is channel},
                "p50": percentile(seconds, 0.5),
                "p99": percentile(seconds, 0.99),
                "max": max(seconds),
            }
            for channel, seconds in self.seconds.items()
        }

    def _probe(self, target: Target, pause: float) -> None:
        first, last = True, False
        while not last:
            last = self._stop.is_set()
            found = attempt(target, random.random() * pause)
            with self._lock:
                print(found, file=self._record)
                self.outcomes[target.channel, found.outcome] += 1
                self.seconds[target.channel].append(found.ended - found.began)
            if first:
                self._through.release()
            first = False


def target_of(channel: Channel, port: int, ca: Path, certificates: Path) -> Target:
    """The HTTPS port needs the CA only, the Defenders' a client set, too."""
    context = ssl.create_default_context(cafile=ca)
    if channel is Channel.HTTPS:
        return Target(channel, port, context, ping)
    files = FILES[Role.DEFENDER_CLIENT]
    context.load_cert_chain(certificates / files.certificate, certificates / files.key)
    return Target(channel, port, context, be_challenged)


@contextlib.contextmanager
def probing(
    workshop: Workshop,
    ports: dict[Channel, int],
    *,
    ca: Path,
    certificates: Path,
    record: Path,
    threads: int,
    pause: float = 0.0,
) -> Iterator[Program]:
    """The prober, at work; see `attempts` for what it writes down."""
    command: list[str | Path] = [sys.executable, "-m", "tests.bench.prober", "--threads", str(threads)]
    command += ["--certificates", certificates, "--ca", ca, "--record", record, "--pause", str(pause)]
    for channel, port in ports.items():
        command += [f"--{channel}", str(port)]
    log = workshop.folder / "run" / "prober.log"
    with running("prober", command, core=workshop.cores.load, log=log) as program:
        program.answer(HUNG_SECONDS + 20)
        yield program


def attempts(record: Path) -> list[Attempt]:
    """What a prober that has ended wrote down."""
    with record.open(encoding="utf-8") as file:
        return [Attempt.parse(line) for line in file]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prober", description=__doc__)
    for channel in Channel:
        parser.add_argument(f"--{channel}", type=int, help="port")
    parser.add_argument("--certificates", type=Path, required=True, help="folder with a Defender's files")
    parser.add_argument("--ca", type=Path, required=True, help="who signed the servers' certificates")
    parser.add_argument("--record", type=Path, required=True, help="file to write")
    parser.add_argument("--threads", type=int, default=3, help="for each port")
    parser.add_argument(
        "--pause",
        type=float,
        default=0.0,
        help="one thread more waits so long at most before its ClientHello",
    )
    options = parser.parse_args()
    ports = {channel: port for channel in Channel if (port := getattr(options, channel)) is not None}
    targets = [target_of(channel, port, options.ca, options.certificates) for channel, port in ports.items()]
    prober = Prober(targets, options.threads, options.record, pause=options.pause)
    prober.start()
    print(json.dumps({"probing": list(ports)}), flush=True)
    sys.stdin.read()
    prober.stop()
    print(json.dumps(prober.summary()), flush=True)


if __name__ == "__main__":
    main()
