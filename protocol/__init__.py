"""The rules of the service: records and how reports join into them, messages, codecs and the connection's states.

The package does no I/O, and import-linter enforces that: no asyncio, no redis, no starlette, no clock. Time is an
argument.
"""
