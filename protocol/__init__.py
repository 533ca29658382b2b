"""What is true and what is said: the record and its joins, messages, codecs, the connection's state machine.

Pure by contract (import-linter enforces it): no asyncio, no redis, no starlette, no clock. Time is an argument.
"""
