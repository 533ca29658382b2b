"""Servers that the service is compared with, as one might write them instead; run as `python -m bench.peers.x`."""
