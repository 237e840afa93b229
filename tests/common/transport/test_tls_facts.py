import ssl
from typing import Any

import pytest

from common.transport.tls_facts import peer_chain, socket_fact
from tests.common.transport import certs
from tests.common.transport.helpers import dial, serving


async def facts_of_a_server(**options: Any) -> dict[str, Any]:
    """What the server's end of a connection tells, while it lives."""
    names = (
        "alpn",
        "cipher",
        "compression",
        "peercert",
        "peer_chain",
        "sockname",
        "socket",
        "sslcontext",
        "odd",
    )
    async with serving(**options) as server:
        transport, _ = await dial(server, context=certs.client_context(certs.client_leaf(), alpn=("g-1",)))
        protocol = await server.protocol()
        found = {name: protocol.transport.get_extra_info(name) for name in names}
        found["port"] = server.port
        found["context"] = server.generation.context
        transport.abort()
        return found


async def test_of_a_mutual_connection() -> None:
    facts = await facts_of_a_server(context=certs.server_context(mutual=True, alpn=("g-1",)), mutual=True)
    assert facts["alpn"] == "g-1"
    assert facts["cipher"][1] == "TLSv1.3"
    assert facts["compression"] is None
    assert ("DNS", "client") in facts["peercert"]["subjectAltName"]
    ca = ssl.PEM_cert_to_DER_cert(certs.ca().pem.decode())
    assert facts["peer_chain"] == (certs.client_leaf().der, ca)
    assert facts["sockname"] == ("127.0.0.1", facts["port"])
    assert facts["sslcontext"] is facts["context"]
    assert isinstance(facts["socket"], ssl.SSLSocket)
    assert facts["odd"] is None


async def test_of_a_one_way_connection() -> None:
    facts = await facts_of_a_server()
    assert facts["peer_chain"] is None
    assert not facts["peercert"]
    assert facts["alpn"] is None


async def test_once_it_is_closed() -> None:
    async with serving(mutual=True) as server:
        transport, client = await dial(server)
        sock = transport.get_extra_info("socket")
        transport.abort()
        await client.ended()
        for name in ("sockname", "peercert", "peer_chain"):
            assert socket_fact(sock, name) is None
            assert transport.get_extra_info(name, "gone") == "gone"


async def test_the_leaf_is_told_where_python_hides_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hiding:
        """Python without get_verified_chain."""

    async with serving(mutual=True) as server:
        transport, _ = await dial(server)
        sock = (await server.protocol()).transport.get_extra_info("socket")

        class Socket:
            _sslobj = Hiding()

            def getpeercert(self, *, binary_form: bool) -> bytes | None:
                leaf: bytes | None = sock.getpeercert(binary_form)
                return leaf

        assert peer_chain(Socket()) == (certs.client_leaf().der,)  # type: ignore[arg-type] # as far as it is asked
        transport.abort()


async def test_a_chain_that_is_bytes_already() -> None:
    class Tells:
        def get_verified_chain(self) -> list[bytes]:
            return [b"leaf", b"ca"]

    class Socket:
        _sslobj = Tells()

        def getpeercert(self, *, binary_form: bool) -> bytes:
            return b"leaf"

    assert peer_chain(Socket()) == (b"leaf", b"ca")  # type: ignore[arg-type] # Python 3.13's shape
