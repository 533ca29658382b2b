"""The load generator: devices of many learners in one process of its own, so that it costs the server nothing."""
