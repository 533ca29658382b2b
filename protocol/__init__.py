"""The rules of the service, about records, messages, codecs and a connection's states; nothing here does I/O.

Import-linter enforces that: no asyncio, no redis, no starlette, no clock. Time is an argument.
"""
