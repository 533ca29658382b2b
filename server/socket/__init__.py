"""The WebSocket endpoint: one connection from its first frame to its last. Its rules are in protocol/."""
