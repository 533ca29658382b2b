"""The records that a client knows of its user, and the readers of their changes. No I/O; one event loop."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Self

from playhead.protocol.messages import RecordView


class Records:
    """The records by video, as of revision `rev` of the store with `epoch`."""

    def __init__(self) -> None:
        self._records: dict[str, RecordView] = {}
        self._listeners: weakref.WeakSet[Changes] = weakref.WeakSet()
        """Weak, so that an abandoned reader is forgotten with its iterator."""
        self.rev: int | None = None
        self.epoch: str | None = None
        self._complete = False

    def get(self, video_id: str) -> RecordView | None:
        """The record of a video; None if there is none or it was deleted."""
        record = self._records.get(video_id)
        return None if record is None or record.deleted_at is not None else record

    def welcome(self, epoch: str, rev: int) -> None:
        """Begin a conversation. Forget all records if the store is another, or is behind what it has sent before.

        The server then sends all records. Within one conversation, a lower revision is only a late message.
        """
        if (self.epoch is not None and epoch != self.epoch) or rev < (self.rev or 0):
            self._records.clear()
            self.rev = None
        self.epoch = epoch

    def update(self, records: list[RecordView], rev: int) -> None:
        """Take changed records.

        During the first answer everything up to `rev` is known afterwards. Later that does not hold: changes that this
        device reported are pushed to others only, and a push of theirs may skip them.
        """
        for record in records:
            known = self._records.get(record.video_id)
            if known is not None and known.rev >= record.rev:
                continue
            self._records[record.video_id] = record
            if self._complete:
                for listener in self._listeners:
                    listener.add(record)
        if not self._complete:
            self.rev = max(rev, self.rev or 0)

    def synced(self, rev: int) -> None:
        """Note that everything up to `rev` is known, and that records from now on are changes."""
        self.rev = max(rev, self.rev or 0)
        self._complete = True

    def changes(self, why: Callable[[], Exception | None]) -> "Changes":
        """An iterator over the changes from now on."""
        changes = Changes(why)
        self._listeners.add(changes)
        return changes

    def close(self) -> None:
        """End every reader."""
        for listener in self._listeners:
            listener.close()


class Changes:
    """Changed records, for `async for`. Of each video only the newest is kept, so that a slow reader costs no memory.

    Args:
        why: called at the end; returns the error to raise, if any.
    """

    def __init__(self, why: Callable[[], Exception | None]) -> None:
        self._why = why
        self._waiting: dict[str, RecordView] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RecordView:
        while not self._waiting:
            if self._closed:
                error = self._why()
                raise StopAsyncIteration if error is None else error
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.pop(next(iter(self._waiting)))

    def add(self, record: RecordView) -> None:
        self._waiting.pop(record.video_id, None)  # the newest goes to the end
        self._waiting[record.video_id] = record
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
