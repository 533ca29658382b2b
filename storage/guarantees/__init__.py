"""Guarantees for acked data: durability levels, the epoch, fences, and the replay after a restart of the store."""
