"""From a report in memory to a committed record: the running batch, the flusher, the script calls."""
