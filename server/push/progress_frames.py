"""Changed records as progress messages of a bounded size, the oldest change first.

A device that is disconnected between two messages therefore has every change up to the `rev` of the last one it got.
"""

from collections.abc import Iterator, Sequence

from playhead.protocol.messages import PAGE, Progress, RecordView
from playhead.protocol.record import Record
from playhead.protocol.rest import record_view
from playhead.server.push.device import Device
from playhead.storage.store import Changes, oldest_change_first

FRAME_BYTES = 262_144
"""Estimated size of the records in one message, exceeded by one record at most: far less than may be queued."""
RECORD_BYTES, SECOND_BYTES = 300, 8
"""Estimated size on the wire of a record, and of each end of an interval in it."""


def progress_messages(records: Sequence[tuple[str, Record]], rev: int, now: int) -> Iterator[Progress]:
    """Messages for changes that are in memory; none where there are none.

    Args:
        records: (videoId, record), in any order.
        rev: the revision that the last message leads to.
        now: ms since 1970; no instant in the messages is later.
    """
    ordered = sorted(records, key=lambda item: item[1].rev)
    start = size = 0
    for end, (_, record) in enumerate(ordered, 1):
        size += RECORD_BYTES + SECOND_BYTES * (len(record.seen) + len(record.again))
        if end == len(ordered) or end - start == PAGE or size >= FRAME_BYTES:
            views = [record_view(*item, now) for item in ordered[start:end]]
            yield Progress(records=views, rev=rev if end == len(ordered) else record.rev)
            start, size = end, 0


async def send_changes(device: Device, changes: Changes, now: int) -> None:
    """Send any number of changes, each page when the one before is written: together they may be more than may be
    queued.

    Args:
        now: ms since 1970; no instant in the messages is later.

    Raises:
        StoreUnavailable: a page can't be read.
    """
    waiting: list[RecordView] = []
    upto = 0
    async for page in changes.pages(oldest_change_first):
        if waiting:
            await device.drained()
            device.send(Progress(records=waiting, rev=upto))
        waiting = [record_view(*item, now) for item in page.records]
        upto = min(page.last, changes.rev)  # a record that changed while they were read has a higher revision
    if waiting:
        await device.drained()
        device.send(Progress(records=waiting, rev=changes.rev))
