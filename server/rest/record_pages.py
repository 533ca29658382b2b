"""All records of a learner as a REST response, built page by page to bound its memory and to let other requests run.

A short response is sent whole, with a Content-Length. A long one is written in chunks: the next page is built only when
the client has taken the chunks before it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from playhead.protocol.messages import RecordView
from playhead.protocol.record import Record
from playhead.protocol.rest import ItemOutcome, ItemView, ProgressList, item_view, record_view
from playhead.server.problems import NO_STORE
from playhead.server.transport.config import TCP_CONNECTION, TcpConnection
from playhead.storage.store import Changes, StoreUnavailable, newest_first

WHOLE_BYTES = 2_097_152
"""The most that is built before the first byte is sent. For HTTP/1.0, which has no chunks, the whole body is built."""
CHUNK_BYTES = 65_536
"""The size of one write, which the client must take within `write_timeout_s`."""
_items = TypeAdapter(list[ItemView])
_views = TypeAdapter(list[RecordView])
_EMPTY = b"[]"


async def json_parts(
    user_id: str,
    changes: Changes,
    now: int,
    *,
    full: bool,
    delta: bool,
    outcomes: list[ItemOutcome] | None = None,
) -> AsyncIterator[bytes]:
    """Generate the JSON of a ProgressList, newest record first.

    Args:
        now: ms since 1970; no instant in the response is later.
        full: whether to include full detail, `rev` and `epoch`.
        delta: whether to include deleted records.
        outcomes: the outcomes of a sync's items, shown in full detail only.
    """
    around = ProgressList(user_id=user_id, progress_data=[])
    if full:
        around = ProgressList(
            user_id=user_id, progress_data=[], outcomes=outcomes, rev=changes.rev, epoch=changes.epoch
        )
    before, _, after = around.model_dump_json(by_alias=True, exclude_none=True).encode().partition(_EMPTY)
    yield before + b"["
    separator = b""
    async for page in changes.pages(newest_first(now)):
        if records := [(video, record) for video, record in page.records if record.exists or delta]:
            yield separator + (_full(records, now) if full else _short(records, now))
            separator = b","
    yield b"]" + after


def _short(records: list[tuple[str, Record]], now: int) -> bytes:
    views = [item_view(video, record, now) for video, record in records]
    return _items.dump_json(views, by_alias=True, exclude_none=True)[1:-1]


def _full(records: list[tuple[str, Record]], now: int) -> bytes:
    views = [record_view(video, record, now) for video, record in records]
    return _views.dump_json(views, by_alias=True, exclude_none=True)[1:-1]


class RecordsResponse(Response):
    """A response that is built in part before it is sent.

    Args:
        ready: its beginning.
        rest: the parts that follow; None if `ready` is all.
        write_timeout_s: how long the client may take for one chunk.
        on_end: called once the response is written or abandoned.
    """

    def __init__(
        self,
        ready: list[bytes],
        rest: AsyncIterator[bytes] | None,
        write_timeout_s: float,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(b"", 200, NO_STORE, media_type="application/json")
        self._ready = ready
        self._rest = rest
        self._write_timeout_s = write_timeout_s
        self._on_end = on_end
        if rest is None:
            self.headers["Content-Length"] = str(sum(map(len, ready)))
        else:
            del self.headers["Content-Length"]

    @classmethod
    async def begin(
        cls, request: Request, rest: AsyncIterator[bytes], write_timeout_s: float, on_end: Callable[[], None]
    ) -> "RecordsResponse":
        """Build the response, or as much of it as may be kept in memory. Raises StoreUnavailable."""
        ready: list[bytes] = []
        size = 0
        async for part in rest:
            ready.append(part)
            size += len(part)
            if size > WHOLE_BYTES and request.scope["http_version"] != "1.0":
                return cls(ready, rest, write_timeout_s, on_end)
        return cls(ready, None, write_timeout_s, on_end)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._write_all(Request(scope, receive), send)
        except (StoreUnavailable, TimeoutError):
            tcp: TcpConnection | None = scope.get(TCP_CONNECTION)
            if tcp is None:
                raise
            tcp.abort()
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._on_end()

    async def _write_all(self, request: Request, send: Send) -> None:
        buffer = bytearray()
        async for part in self._parts():
            buffer += part
            while len(buffer) > CHUNK_BYTES:
                if await request.is_disconnected():
                    return
                await self._write(send, bytes(buffer[:CHUNK_BYTES]), more=True)
                del buffer[:CHUNK_BYTES]
        await self._write(send, bytes(buffer), more=False)

    async def _parts(self) -> AsyncIterator[bytes]:
        self._ready.reverse()
        while self._ready:
            yield self._ready.pop()
        if self._rest is not None:
            async for part in self._rest:
                yield part

    async def _write(self, send: Send, data: bytes, more: bool) -> None:
        """Raises TimeoutError if the client does not take the data."""
        async with asyncio.timeout(self._write_timeout_s):
            await send({"type": "http.response.body", "body": data, "more_body": more})
