"""uvicorn with bounds: HTTP and WebSocket protocols that limit what one peer may cost. Nothing here knows a record."""
