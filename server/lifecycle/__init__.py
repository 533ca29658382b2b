"""What runs beside requests from the start of a process to its end: signals, the drain, scheduled work."""
