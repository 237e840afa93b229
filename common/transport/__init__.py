"""TLS on the socket: the listener, the asyncio transport and the WebSocket shell."""

from common.transport.admission import Limits
from common.transport.client_hello import ClientHello, parse_client_hello
from common.transport.connect import connect
from common.transport.endings import PeerTooSlow
from common.transport.failures import ConnectionFailed, FailureKind, HandshakeFailure, classify, describe
from common.transport.generation import Generation
from common.transport.listener import Listener, ListenerStats
from common.transport.sockets import bind
from common.transport.tls import TLSTransport
from common.transport.upgrade import Refusal, UpgradeRequest, client_factory, server_factory
from common.transport.websocket import UpgradeRefused, WebSocketConnection, WebSocketHandler

__all__ = [
    "ClientHello",
    "ConnectionFailed",
    "FailureKind",
    "Generation",
    "HandshakeFailure",
    "Limits",
    "Listener",
    "ListenerStats",
    "PeerTooSlow",
    "Refusal",
    "TLSTransport",
    "UpgradeRefused",
    "UpgradeRequest",
    "WebSocketConnection",
    "WebSocketHandler",
    "bind",
    "classify",
    "client_factory",
    "connect",
    "describe",
    "parse_client_hello",
    "server_factory",
]
