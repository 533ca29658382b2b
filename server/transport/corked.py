"""One system call an answer: uvicorn writes the head and the body of a response apart, and uvloop each at once."""

import asyncio

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Corked:
    """What the answer to one request is written to. The head is held back until something follows it, or nothing will.

    The owner of the transport calls `flush` when the answer is complete: one to HEAD has no body.
    """

    __slots__ = ("_head", "_held", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._held = True
        """The head has not gone yet."""

    def write(self, data: bytes) -> None:
        if not self._held:
            self._transport.write(data)
        elif self._head:
            self._held = False
            self._transport.write(self._head + data)
        elif data == _CONTINUE:
            self._transport.write(data)
        else:
            self._head = data

    def flush(self) -> None:
        if self._held and self._head:
            self._transport.write(self._head)
        self._held = False

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
