"""TLS on the socket: the listener, the asyncio transport and the WebSocket shell."""
