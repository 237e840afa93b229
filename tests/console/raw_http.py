"""An HTTP client that does what it is told and nothing by itself: it retries nothing and hides nothing."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def last(self) -> bool:
        """Whether the server said that its connection ends with it."""
        return self.headers.get("connection", "").lower() == "close"


class RawClient:
    """One connection.

    Attributes:
        shown: The certificate that the server showed, DER.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        self.shown = tls.getpeercert(binary_form=True)
        self.session_reused = tls.session_reused

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> Self:
        return cls(
            *await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        )

    def send(
        self, path: str = "/", method: str = "GET", *headers: str, body: bytes = b"", version: str = "1.1"
    ) -> None:
        """Send a request; with no body of ours, further octets may follow by `writer`."""
        length = [f"Content-Length: {len(body)}"] if body else []
        lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers, *length, "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read an answer's head: status, and headers by lower-case name."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def answer(self, method: str = "GET") -> Answer:
        """Read one whole answer."""
        async with asyncio.timeout(20):
            status, headers = await self.head()
            if method == "HEAD":
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = b"".join([chunk async for chunk in self])
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    async def ask(self, path: str = "/", method: str = "GET", *headers: str, body: bytes = b"") -> Answer:
        self.send(path, method, *headers, body=body)
        return await self.answer(method)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next chunk of a chunked body."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        chunk = (await self.reader.readexactly(size + 2))[:-2]
        if not size:
            raise StopAsyncIteration
        return chunk

    async def ended(self) -> bool:
        """Whether the server ends the connection in order, with nothing more said."""
        async with asyncio.timeout(20):
            rest = await self.reader.read()
        self.writer.close()
        return rest == b""

    def drop(self) -> None:
        self.writer.transport.abort()
