"""A summary reveals nothing about a single viewer: attacks by polling, by subtraction, with many own accounts."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest

from playhead.server.settings import Settings
from tests.conftest import StoreServer
from tests.rest import ok, rest
from tests.security.callers import bearer, guarded
from tests.security.issuer import token

BATCH = 5
HIDDEN = (0, 0.0)
"""The figures of a video that nobody has watched."""


@dataclass
class Course:
    """One video with its viewers, and an attacker who polls its summary after every event."""

    api: httpx.AsyncClient
    video: str = field(default_factory=lambda: str(uuid4()))
    attacker: str = field(default_factory=lambda: str(uuid4()))
    seen: list[tuple[int, float]] = field(default_factory=list)
    """The answers that the attacker received, without repetitions."""

    async def watch(self, user: str, seconds: int) -> None:
        body = {
            "userId": user,
            "videoId": self.video,
            "watchedDuration": seconds,
            "lastWatched": "2024-05-01T10:00:00Z",
        }
        # After a deletion only later reports count.
        body["lastWatched"] = "2999-01-01T00:00:00Z"
        ok(await self.api.post("/progress/update", json=body, headers=bearer(token(user))))
        await self.poll()

    async def leave(self, user: str) -> None:
        ok(await self.api.delete(f"/progress/{user}/{self.video}", headers=bearer(token(user))))
        await self.poll()

    async def summary(self, **claims: Any) -> tuple[int, float]:
        headers = bearer(token(self.attacker, **claims))
        body = ok(await self.api.get(f"/progress/summary/{self.video}", headers=headers))
        assert set(body) == {"videoId", "averageWatchedDuration", "completionRate"}
        assert body["videoId"] == self.video
        return body["averageWatchedDuration"], body["completionRate"]

    async def poll(self) -> None:
        answer = await self.summary()
        if not self.seen or self.seen[-1] != answer:
            self.seen.append(answer)


def people(count: int) -> list[str]:
    return [str(uuid4()) for _ in range(count)]


def test_the_default_hides_small_audiences_and_one_turns_that_off() -> None:
    assert Settings().min_audience == BATCH
    assert Settings(min_audience=1).min_audience == 1
    with pytest.raises(ValueError, match="min_audience"):
        Settings(min_audience=0)


@pytest.mark.parametrize("scope", ["analytics", "progress:any"])
async def test_small_audiences_are_hidden_from_learners_and_shown_with_the_scope(
    store_server: StoreServer, prefix: str, scope: str
) -> None:
    """Nothing is revealed of one viewer, nor of two by subtraction: the answer is the one for no viewers."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        course = Course(api)
        for number, user in enumerate([course.attacker, *people(BATCH - 2)], 1):
            await course.watch(user, 100 * number)
        assert course.seen == [HIDDEN]
        assert await course.summary(scope=scope) == (250, 0.0)
        await course.watch(str(uuid4()), 500)
        assert course.seen == [HIDDEN, (300, 0.0)]


async def test_polling_shows_whole_batches_only(store_server: StoreServer, prefix: str) -> None:
    """Polled after each viewer who joins and after each step of watching, the summary has one figure for each batch."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        course, users = Course(api), people(3 * BATCH)
        totals: list[tuple[int, float]] = []
        for number, user in enumerate(users, 1):
            await course.watch(user, 10 * number)
            if number % BATCH == 0:
                totals.append(await course.summary(scope="analytics"))
            await course.watch(users[0], 10 + number)
        assert course.seen == [HIDDEN, *totals]
        assert len(set(totals)) == 3


async def test_own_accounts_do_not_reveal_the_seconds_of_another_viewer(store_server: StoreServer, prefix: str) -> None:
    """The accounts leave and return with other figures, before and after one viewer joins, watches and leaves."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        course, own, victim = Course(api), people(BATCH - 2), str(uuid4())
        for user in [*people(BATCH), *own]:
            await course.watch(user, 60)
        before = list(course.seen)
        for round_ in range(3):
            for user in own:
                await course.leave(user)
            await course.watch(victim, 1_000 + 100 * round_)
            for user in own:
                await course.watch(user, 7 + round_)
            await course.leave(victim)
        assert course.seen == before == [HIDDEN, (60, 0.0)]


async def test_own_accounts_cannot_complete_the_first_batch_around_one_viewer(
    store_server: StoreServer, prefix: str
) -> None:
    """All accounts and one learner are too few, in whatever order they join and leave."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        course, own, victim = Course(api), people(BATCH - 2), str(uuid4())
        for user in own:
            await course.watch(user, 1)
        await course.watch(victim, 1_234)
        for user in own:
            await course.leave(user)
            await course.watch(user, 2)
        assert course.seen == [HIDDEN]


async def test_figures_are_hidden_when_viewers_leave_and_start_afresh_without_any(
    store_server: StoreServer, prefix: str
) -> None:
    """Released figures are shown again when the audience returns, because they reveal nothing new."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        course, users = Course(api), people(BATCH)
        for user in users:
            await course.watch(user, 100)
        await course.leave(users[0])
        await course.watch(users[0], 300)
        assert course.seen == [HIDDEN, (100, 0.0), HIDDEN, (100, 0.0)]
        for user in users:
            await course.leave(user)
        course.seen.clear()
        for user in people(BATCH):
            await course.watch(user, 50)
        assert course.seen == [HIDDEN, (50, 0.0)]


async def test_a_minimum_audience_of_one_shows_current_figures(store_server: StoreServer, prefix: str) -> None:
    async with guarded(store_server, prefix, min_audience=1) as server, rest(server) as api:
        course = Course(api)
        for seconds in (10, 20):
            await course.watch(course.attacker, seconds)
        assert course.seen == [(10, 0.0), (20, 0.0)]


async def test_concurrent_readers_of_two_processes_see_the_same_figures(store_server: StoreServer, prefix: str) -> None:
    """Two processes that released batches at different moments would reveal the difference of one viewer."""
    async with (
        guarded(store_server, prefix) as first,
        guarded(store_server, prefix) as second,
        rest(first) as one,
        rest(second) as other,
    ):
        course = Course(one)
        twin = Course(other, course.video)

        async def ask(asked: Course) -> None:
            for _ in range(30):
                await asked.poll()

        async def come() -> None:
            for number, user in enumerate(people(2 * BATCH), 1):
                await course.watch(user, 100 * number)

        await asyncio.gather(come(), *(ask(asked) for asked in (course, twin) for _ in range(3)))
        assert len({*course.seen, *twin.seen} - {HIDDEN}) <= 2
