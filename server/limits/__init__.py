"""Limits on what one peer, user or address may use; who may do what is decided in security/."""
