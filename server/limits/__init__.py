"""Limits on what one peer, user or address may use; permissions are in security/."""
