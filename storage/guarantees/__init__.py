"""Guarantees for acked data: durability levels, the epoch, fences, replay after a restart; reads are in read/."""
