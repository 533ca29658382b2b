"""What runs beside the requests for the lifetime of a process: signals, the drain, scheduled work."""
