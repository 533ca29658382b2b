"""HTTP and WebSocket protocols for uvicorn that limit what one peer can cost. Nothing here knows about records."""
