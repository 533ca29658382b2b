"""The WebSocket channel: one connection from its first frame to its last. protocol/ has the rules."""
