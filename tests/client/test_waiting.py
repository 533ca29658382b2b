"""Waiters for reports: each ends when its report is stored or rejected, or with the client."""

import asyncio
from uuid import UUID

import pytest

from playhead.client.errors import Rejected, Unauthorized
from playhead.client.outbox import Beat, Outbox
from playhead.client.waiting import MAX_REJECTED, Receipt, Waiting
from playhead.protocol.messages import Ack, Rejection

VIDEOS = [str(UUID(int=number)) for number in range(3)]
REFUSED = Rejection(seq=1, code="deleted", detail="why")


def sent(outbox: Outbox, *videos: str) -> list[int]:
    """The keys of new reports, one for each video, which are sent."""
    keys = []
    for video in videos:
        outbox.put(Beat(video, played=((0.0, 5.0),), position=5.0, state="playing"), 0, 5_000)
        keys.append(outbox.last_key)
    list(outbox.take(5_000))
    return keys


async def started(*tasks: "asyncio.Task[object]") -> None:
    """Let the tasks begin to wait."""
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_every_waiter_of_a_stored_report_gets_a_receipt() -> None:
    outbox = Outbox("s")
    waiting = Waiting(outbox)
    first, second = sent(outbox, *VIDEOS[:2])
    tasks = [asyncio.create_task(waiting.stored(key)) for key in (first, first, second)]
    await started(*tasks)
    assert waiting.settle(Ack(session="s", seq=1, capped=[1])) is True
    assert [await task for task in tasks[:2]] == [Receipt(capped=True)] * 2
    assert not tasks[2].done()
    assert waiting.settle(Ack(session="s", seq=2)) is True
    assert await tasks[2] == Receipt(capped=False)
    assert waiting.settle(Ack(session="s", seq=2)) is False, "it settles nothing any more"


async def test_a_rejection_is_raised_in_its_waiters() -> None:
    outbox = Outbox("s")
    waiting = Waiting(outbox)
    (key,) = sent(outbox, VIDEOS[0])
    task = asyncio.create_task(waiting.stored(key))
    await started(task)
    waiting.settle(Ack(session="s", seq=1, rejected=[REFUSED]))
    with pytest.raises(Rejected) as caught:
        await task
    assert (caught.value.code, caught.value.detail, caught.value.video_id) == ("deleted", "why", VIDEOS[0])
    assert not waiting.rejected


async def test_a_rejection_without_a_waiter_is_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    """Only the newest of many are kept. A cancelled waiter does not count as one."""
    outbox = Outbox("s")
    waiting = Waiting(outbox)
    for number in range(MAX_REJECTED + 2):
        (key,) = sent(outbox, VIDEOS[number % 3])
        task = asyncio.create_task(waiting.stored(key))
        await started(task)
        task.cancel()
        await asyncio.wait({task})
        waiting.settle(
            Ack(session="s", seq=number + 1, rejected=[Rejection(seq=number + 1, code="x", detail=f"{number}")])
        )
    assert [error.detail for error in waiting.rejected] == [str(number) for number in range(2, MAX_REJECTED + 2)]
    assert "will not be stored: x: 0" in caplog.text


async def test_a_flush_waits_for_what_was_in_the_outbox_when_it_began() -> None:
    outbox = Outbox("s")
    waiting = Waiting(outbox)
    await waiting.flushed()
    sent(outbox, *VIDEOS[:2])
    flush, cancelled = (asyncio.create_task(waiting.flushed()) for _ in range(2))
    await started(flush, cancelled)
    cancelled.cancel()
    sent(outbox, VIDEOS[2])
    waiting.settle(Ack(session="s", seq=1))
    await started(flush)
    waiting.settle(Ack(session="s", seq=2))
    await flush
    assert len(outbox) == 1


async def test_the_error_that_ends_the_client_is_raised_in_every_waiter() -> None:
    outbox = Outbox("s")
    waiting = Waiting(outbox)
    (key,) = sent(outbox, VIDEOS[0])
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(waiting.stored(key)),
        asyncio.create_task(waiting.flushed()),
        asyncio.create_task(waiting.stored(key)),
    ]
    await started(*tasks)
    tasks[2].cancel()
    await asyncio.wait({tasks[2]})
    waiting.fail(Unauthorized(4500, "why"))
    for task in tasks[:2]:
        with pytest.raises(Unauthorized):
            await task
    waiting.fail(Unauthorized(4500, "why"))
