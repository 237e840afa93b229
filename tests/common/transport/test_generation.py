from common.transport import Generation
from tests.common.transport import certs
from tests.common.transport.helpers import Echo, dial, eventually, serving


def test_it_says_what_it_is_without_its_context() -> None:
    assert repr(Generation("g-3", certs.server_context(), mutual=True)) == (
        "Generation('g-3', mutual=True, connections=0)"
    )


async def test_it_knows_its_live_connections_and_only_these() -> None:
    async with serving(Echo) as server:
        first, second = (await dial(server))[0], (await dial(server))[0]
        await server.protocol(1)
        generation = server.generation
        assert generation.connections == {protocol.transport for protocol in server.protocols}
        assert generation.connections == server.listener.connections
        first.close()
        await eventually(lambda: len(generation.connections) == 1)
        second.abort()
        await eventually(lambda: not generation.connections)


async def test_a_replaced_generation_keeps_its_connections() -> None:
    async with serving(Echo) as server:
        transport, client = await dial(server)
        await server.protocol()
        old = server.generation
        server.generation = Generation("two", certs.server_context())
        other, _ = await dial(server)
        await server.protocol(1)
        assert (len(old.connections), len(server.generation.connections)) == (1, 1)
        transport.write(b"still served")
        assert await client.received(12) == b"still served"
        transport.close()
        other.close()
        await eventually(lambda: not old.connections | server.generation.connections)
