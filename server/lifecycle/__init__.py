"""What runs beside requests for the lifetime of a process, such as the drain; nothing here handles a single request."""
