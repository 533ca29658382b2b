"""HTTP and WebSocket protocols for uvicorn that limit what one peer can cost; nothing here knows about records."""
