"""What the service is measured against: servers that somebody would write instead, run as `python -m bench.peers.x`."""
