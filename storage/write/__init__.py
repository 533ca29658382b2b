"""From a report in memory to a committed record: the pending batch, the flusher, script calls; reads are in read/."""
