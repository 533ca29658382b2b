"""How much one peer, one user or one address may take: rates, connections, memory, turns."""
