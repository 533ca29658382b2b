"""What this client knows of its user's records, and who wants to hear of changes. No I/O; one loop."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Self

from playhead.protocol.messages import RecordView


class Records:
    """The records by video, as of `rev` of the store of `epoch`."""

    def __init__(self) -> None:
        self._records: dict[str, RecordView] = {}
        self._listeners: weakref.WeakSet[Changes] = weakref.WeakSet()
        """A reader who stopped to read is forgotten with its iterator."""
        self.rev: int | None = None
        self.epoch: str | None = None
        self._complete = False

    def get(self, video_id: str) -> RecordView | None:
        """None for one that isn't there, or was deleted."""
        record = self._records.get(video_id)
        return None if record is None or record.deleted_at is not None else record

    def welcome(self, epoch: str, rev: int) -> None:
        """Another store, or one that is behind what it has told us, knows nothing of what was: all that there is comes.

        Within one conversation a lower revision is only late.
        """
        if (self.epoch is not None and epoch != self.epoch) or rev < (self.rev or 0):
            self._records.clear()
            self.rev = None
        self.epoch = epoch

    def told(self, records: list[RecordView], rev: int) -> None:
        """These have changed. Within the first answer everything up to `rev` is then known; later it is not: what
        this device reported itself is pushed to others only, and a push of theirs may pass over it."""
        for record in records:
            known = self._records.get(record.video_id)
            if known is not None and known.rev >= record.rev:
                continue
            self._records[record.video_id] = record
            if self._complete:
                for listener in self._listeners:
                    listener.tell(record)
        if not self._complete:
            self.rev = max(rev, self.rev or 0)

    def synced(self, rev: int) -> None:
        """Everything up to `rev` is known; what comes from now on is a change."""
        self.rev = max(rev, self.rev or 0)
        self._complete = True

    def changes(self, why: Callable[[], Exception | None]) -> "Changes":
        """What changes from now on."""
        changes = Changes(why)
        self._listeners.add(changes)
        return changes

    def close(self) -> None:
        """Nothing comes any more: every reader ends."""
        for listener in self._listeners:
            listener.close()


class Changes:
    """Changed records, for `async for`. Of one video the newest is kept: a slow reader costs no memory.

    Args:
        why: asked at the end: the error to raise, if any.
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

    def tell(self, record: RecordView) -> None:
        self._waiting.pop(record.video_id, None)  # the newest goes to the end
        self._waiting[record.video_id] = record
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
