"""Poisons: what a hostile learner may report about a video, all of it valid on the wire."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from playhead.protocol.intervals import MAX_INTERVALS
from playhead.protocol.scalars import MAX_AGE_MS, MAX_MEDIA_S, MAX_SEQ, format_instant
from tests.device import device
from tests.rest import ok
from tests.serving import Running

DURATION = 90
"""Duration of the poisoned video in seconds, in the catalogue if it is there."""
FAR = "9999-12-31T23:59:59.999Z"
HONEST = "honest-page"
"""The session name of the honest devices: names are not secret, and anyone may use another's."""
Beat = dict[str, Any]


@dataclass
class Learner:
    """A learner and the video, with the reports that they may send over each transport."""

    server: Running
    http: httpx.AsyncClient
    video: str
    user: str = field(default_factory=lambda: str(uuid4()))

    async def socket(self, *beats: Beat, session: str | None = None) -> list[dict[str, Any]]:
        """A page load that sends heartbeats one by one, each acked before the next; returns the acks."""
        async with device(self.server, self.user, session) as page:
            acks = []
            for beat in beats:
                await page.beat(self.video, **beat)
                acks.append(await page.acked())
            return acks

    async def envelope(self, *beats: Beat, session: str | None = None) -> dict[str, Any]:
        """The same heartbeats in one POST; returns the acks."""
        numbered = [{"seq": n, "videoId": self.video, **beat} for n, beat in enumerate(beats, 1)]
        body = {"userId": self.user, "session": session or uuid4().hex, "heartbeats": numbered}
        return dict(ok(await self.http.post("/progress/realtime", json=body)))

    async def document(self, watched: int, last_watched: str, *paths: str) -> None:
        """Send the documented bodies."""
        item = {"videoId": self.video, "watchedDuration": watched, "lastWatched": last_watched}
        for path in paths or ("update", "sync", "realtime"):
            body = {"userId": self.user, **({"progressData": [item]} if path == "sync" else item)}
            ok(await self.http.post(f"/progress/{path}", json=body))

    async def delete(self) -> None:
        ok(await self.http.delete(f"/progress/{self.user}/{self.video}"))

    async def record(self) -> dict[str, Any]:
        return dict(ok(await self.http.get(f"/progress/{self.user}/{self.video}?detail=full")))

    @property
    def now(self) -> str:
        return format_instant(self.server.clock.wall)


def every_other(first: int, count: int) -> list[list[int]]:
    """Single seconds, none adjacent to another."""
    return [[first + 2 * n, first + 2 * n + 1] for n in range(count)]


TWO_DAYS_MS = MAX_MEDIA_S * 1_000


async def far_future(mallory: Learner) -> None:
    await mallory.document(7, FAR)
    await mallory.socket({"watchedDuration": 7, "lastWatched": FAR}, {"played": [[0, 5]], "lastWatched": FAR})


async def far_past(mallory: Learner) -> None:
    await mallory.document(7, "1970-01-01T00:00:00.001Z")
    await mallory.socket({"played": [[0, 5]], "position": 5, "lastWatched": "1970-01-02T00:00:00Z"})


async def largest_seq_first(mallory: Learner) -> None:
    first = {"seq": MAX_SEQ, "played": [[0, 5]], "position": 80}
    await mallory.socket(first, *({"seq": n, "played": [[5 * n, 5 * n + 5]], "position": 1} for n in range(1, 5)))


async def largest_seq_in_the_name_of_another(mallory: Learner) -> None:
    await mallory.socket({"seq": MAX_SEQ, "played": [[0, 5]], "position": 80, "seek": True}, session=HONEST)
    await mallory.envelope({"seq": MAX_SEQ, "played": [[0, 5]]}, session=HONEST)


async def ages_at_the_bounds(mallory: Learner) -> None:
    ages = (MAX_AGE_MS, 0, MAX_AGE_MS, 0.4, MAX_AGE_MS - 1)
    await mallory.socket(*({"age": age, "played": [[0, 90]] * 500, "position": 90} for age in ages))


async def more_sessions_than_are_remembered(mallory: Learner) -> None:
    await mallory.envelope(*({"session": f"s{n}", "seq": 1, "played": [[n, n + 1]], "position": n} for n in range(64)))
    for n in range(20):
        await mallory.envelope({"played": [[n, n + 60]], "position": n, "seek": True})


async def two_days_long(mallory: Learner) -> None:
    await mallory.socket({"duration": MAX_MEDIA_S, "played": [[0, 5]], "position": 5})


async def a_millisecond_long(mallory: Learner) -> None:
    await mallory.socket({"duration": 0.001, "position": 2, "state": "playing"}, {"played": [[0, 10]]})


async def a_second_long(mallory: Learner) -> None:
    await mallory.socket({"duration": 1, "played": [[0, 1]], "position": 1, "state": "ended"})


async def at_the_end(mallory: Learner) -> None:
    await mallory.socket(
        {"position": DURATION, "seek": True},
        {"position": MAX_MEDIA_S, "seek": True, "state": "ended"},
        {"position": MAX_MEDIA_S, "state": "playing"},
    )


async def claims_two_days(mallory: Learner) -> None:
    await mallory.document(MAX_MEDIA_S, FAR)
    await mallory.socket({"watchedDuration": MAX_MEDIA_S, "state": "paused"})


async def claims_a_second_that_is_all(mallory: Learner) -> None:
    await mallory.socket({"watchedDuration": MAX_MEDIA_S, "duration": 1, "state": "playing"})


async def plays_two_days_at_once(mallory: Learner) -> None:
    played = {"played": [[0, MAX_MEDIA_S]] * 4, "span": TWO_DAYS_MS, "position": MAX_MEDIA_S}
    await mallory.socket(played)
    await mallory.envelope(*({"session": f"s{n}", **played} for n in range(64)))


async def plays_only_beyond_the_end(mallory: Learner) -> None:
    await mallory.socket({"played": [[1_000, 1_200]], "position": 1_200})


async def as_many_intervals_as_may_be(mallory: Learner) -> None:
    beats = [
        {"played": every_other(1_000 + 1_024 * n, 512), "span": TWO_DAYS_MS, "position": 5_000}
        for n in range(MAX_INTERVALS // 512)
    ]
    await mallory.envelope(*beats, *beats)
    await mallory.socket({"played": every_other(10_000, 60)})


async def ended_and_seeks(mallory: Learner) -> None:
    await mallory.socket(
        *({"position": at, "seek": True, "state": state} for at in (0, 90, 3) for state in ("ended", "paused")),
        {"state": "ended", "position": 90, "duration": 90},
        {"state": "ended", "position": 90, "duration": 90, "seek": True},
    )


async def plays_while_paused(mallory: Learner) -> None:
    await mallory.socket(*({"played": [[80, 90]], "position": 90, "state": "paused", "age": 5} for _ in range(3)))


async def the_same_again_and_again(mallory: Learner) -> None:
    beat = {"seq": 1, "played": [[0, 20]], "position": 20}
    await mallory.socket(*[beat] * 10)
    await mallory.envelope(*[beat] * 500)


async def deletes_and_comes_back(mallory: Learner) -> None:
    for _ in range(3):
        await mallory.document(MAX_MEDIA_S, FAR)
        await mallory.socket({"seq": MAX_SEQ, "played": [[0, 60]], "position": 60})
        await mallory.delete()
        await mallory.socket({"seq": MAX_SEQ, "played": [[0, 60]], "position": 60, "age": 1})
        mallory.server.clock.advance(1)
        await mallory.document(1, FAR)


Poison = Callable[[Learner], Awaitable[None]]
POISONS: list[Poison] = [
    far_future,
    far_past,
    largest_seq_first,
    largest_seq_in_the_name_of_another,
    ages_at_the_bounds,
    more_sessions_than_are_remembered,
    two_days_long,
    a_millisecond_long,
    a_second_long,
    at_the_end,
    claims_two_days,
    claims_a_second_that_is_all,
    plays_two_days_at_once,
    plays_only_beyond_the_end,
    as_many_intervals_as_may_be,
    ended_and_seeks,
    plays_while_paused,
    the_same_again_and_again,
    deletes_and_comes_back,
]
