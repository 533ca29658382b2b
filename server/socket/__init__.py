"""The WebSocket endpoint, one connection from first to last frame; the rules of messages are in protocol/, not here."""
