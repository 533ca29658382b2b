"""Limits on what one peer, one user or one address may use: rates, connections, memory and concurrency."""
