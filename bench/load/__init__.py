"""The load generator: the devices of many learners in a separate process, so that it takes no CPU time of the
server."""
