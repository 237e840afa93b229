"""The WebSocket channel's messages and the state machines of both ends. No I/O."""
