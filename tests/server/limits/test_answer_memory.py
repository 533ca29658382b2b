"""Clients that request much and do not read it: unread answers are bounded by user and in total, and dropped in the
end. The connections are real and their windows stay closed: the kernels buffer some bytes, the rest waits in the
process."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from playhead.protocol.record import Report
from playhead.server.limits.answer_memory import AnswerMemory
from playhead.server.limits.body_memory import Kind, Payer
from playhead.storage.store import open_store
from playhead.storage.write.pending import Batch, Delta
from tests.conftest import StoreServer
from tests.rest import ok, refused, rest, scraped
from tests.security.attacker import PATIENCE_S, TEXT, Attacker, frame, head, upgrade
from tests.security.callers import OTHER, USER, bearer, guarded, learner
from tests.security.issuer import token
from tests.serving import START_MS, Running

MANY, MIB = 800, 1_048_576
SEEN = [second for n in range(400) for second in (2 * n, 2 * n + 1)]
"""The size of each record; in full detail all records are 4 MiB of JSON."""


async def fill(store_server: StoreServer, prefix: str, *users: str) -> None:
    async with AsyncExitStack() as stack:
        store = open_store(store_server.url, worker="filling", key_prefix=prefix)
        stack.push_async_callback(store.close)
        for user in users:
            for start in range(0, MANY, 200):
                batch = Batch()
                for n in range(start, start + 200):
                    at = START_MS - 1_000 + n
                    report = Report(at, at, "page", 1, 1, SEEN, [], 5_000)
                    batch.deltas[user, f"7c9e6679-7425-40de-944b-{n:012d}"] = Delta([report])
                await store.commit(batch, START_MS, lambda user_id: False)


@asynccontextmanager
async def greedy(store_server: StoreServer, prefix: str, *users: str, **settings: Any) -> AsyncIterator[Running]:
    await fill(store_server, prefix, *users)
    async with guarded(store_server, prefix, **settings) as server:
        yield server


def get(user: str) -> bytes:
    return head("GET", f"/progress/{user}?detail=full", f"Authorization: Bearer {token(user)}")


async def connect_unread(stack: AsyncExitStack, server: Running, count: int, request: bytes) -> list[Attacker]:
    """Open a number of connections that send a request and read nothing."""
    crowd = []
    for _ in range(count):
        attacker = await Attacker.connect(server.port, receive_buffer=1)
        stack.callback(attacker.close)
        await attacker.send(request)
        crowd.append(attacker)
    return crowd


async def unread(server: Running, until: Callable[[float], bool]) -> float:
    """The bytes that wait, as soon as the condition holds."""
    async with asyncio.timeout(PATIENCE_S), rest(server) as api:
        api.headers.update(bearer(token(str(uuid4()), scope="analytics")))
        while not until(size := (await scraped(api))["playhead_unread_bytes{}"]):  # noqa: ASYNC110 the process under test says it by no event
            await asyncio.sleep(0.02)
        return size


async def status_lines(crowd: list[Attacker]) -> list[int]:
    return [int((await attacker.until(b"\r\n\r\n"))[9:12]) for attacker in crowd]


async def test_a_user_who_exceeds_their_share_affects_nobody_else(store_server: StoreServer, prefix: str) -> None:
    """Only a few of thirty unread answers are built.

    The user is refused before anything is read; others are served, and so is the user once nothing waits.
    """
    limit = 8 * MIB
    async with greedy(store_server, prefix, USER, max_unread_bytes_per_user=limit) as server, AsyncExitStack() as stack:
        crowd = await connect_unread(stack, server, 30, get(USER))
        codes = await status_lines(crowd)
        assert codes.count(200) in range(1, 4)
        assert codes.count(429) == 30 - codes.count(200)
        assert await unread(server, lambda size: size > MIB) <= limit
        async with rest(server) as api:
            answer = await api.get(f"/progress/{USER}?detail=full", headers=bearer(token(USER)))
            assert "max_unread_bytes_per_user" in refused(answer, "rate")["detail"]
            assert int(answer.headers["retry-after"]) >= 1
            ok(await api.get(f"/progress/{OTHER}?detail=full", headers=bearer(token(OTHER))))
            for attacker in crowd:
                attacker.reset()
            await unread(server, lambda size: size == 0)
            assert len(ok(await api.get(f"/progress/{USER}?detail=full", headers=bearer(token(USER))))) == 4


async def test_unread_answers_are_dropped_in_time(
    store_server: StoreServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each chunk of an answer has a deadline. Then the connection is closed, and nothing is logged."""
    async with (
        greedy(store_server, prefix, USER, write_timeout_s=0.5) as server,
        AsyncExitStack() as stack,
    ):
        await connect_unread(stack, server, 2, get(USER))
        await unread(server, lambda size: size > MIB)
        await unread(server, lambda size: size == 0)
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_unread_answers_of_all_users_are_bounded(store_server: StoreServer, prefix: str) -> None:
    """Beyond the bound a large answer is refused to everyone. A short one is not, for users without unread answers."""
    async with (
        greedy(store_server, prefix, USER, OTHER, max_unread_bytes=3 * MIB) as server,
        AsyncExitStack() as stack,
        rest(server) as api,
    ):
        await connect_unread(stack, server, 1, get(USER))
        await unread(server, lambda size: size > MIB)
        answer = await api.get(f"/progress/{OTHER}", headers=bearer(token(OTHER)))
        assert answer.status_code == 503
        assert "max_unread_bytes" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) >= 1
        short = await api.get(f"/progress/{OTHER}/7c9e6679-7425-40de-944b-000000000000", headers=bearer(token(OTHER)))
        assert ok(short)["userId"] == OTHER


async def test_sockets_share_the_users_bound(store_server: StoreServer, prefix: str) -> None:
    """Twenty devices of one user request everything and read nothing.

    Those beyond the share are asked to retry later, the rest are dropped in time.
    """
    limit = 8 * MIB
    hello = {"type": "hello", "device": "d", "session": "page", "token": token(USER), "since": 0}
    request = upgrade("Origin: http://localhost") + frame(TEXT, json.dumps(hello).encode())
    async with (
        greedy(store_server, prefix, USER, max_unread_bytes_per_user=limit, write_timeout_s=2.0) as server,
        AsyncExitStack() as stack,
    ):
        crowd = await connect_unread(stack, server, 20, request)
        assert await unread(server, lambda size: size > 2 * MIB) <= limit
        reading = [asyncio.create_task(attacker.until(b'"goodbye","code":"rate"')) for attacker in crowd]
        refused, _ = await asyncio.wait(reading, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        assert not any(each.exception() for each in refused)
        for each in reading:
            each.cancel()
        await asyncio.wait(reading)
        await unread(server, lambda size: size == 0)


async def test_a_short_unread_answer_counts(store_server: StoreServer, prefix: str) -> None:
    """The part that the kernel does not buffer counts for as long as it waits in the connection's buffer."""
    async with greedy(store_server, prefix, USER, requests_burst=100_000) as server, AsyncExitStack() as stack:
        one = f"/progress/{USER}/7c9e6679-7425-40de-944b-000000000000?detail=full"
        attacker = await Attacker.connect(server.port, receive_buffer=1, segment=100)
        stack.callback(attacker.close)
        for _ in range(1_000):
            await attacker.send(head("GET", one, f"Authorization: Bearer {token(USER)}") * 4)
            if size := await unread(server, lambda size: True):
                break
        assert 0 < size < 100_000
        attacker.reset()
        await unread(server, lambda size: size == 0)


def test_shares_of_a_payer_and_of_all() -> None:
    """One large answer is always possible, services count towards the total only, and released memory is free for
    others."""
    memory = AnswerMemory(100, 40)
    ann, bob, service = Payer(Kind.USER, "ann"), Payer(Kind.USER, "bob"), Payer(Kind.SERVICE, "s")
    first, second = memory.account(ann), memory.account(ann)
    assert first.grow(60) is None, "this user has no unread answers"
    assert second.grow(1) is not None
    assert memory.refusal(ann) is not None
    assert memory.refusal(bob) is None
    machine = memory.account(service)
    assert (machine.grow(20), machine.grow(20)) == (None, None)
    assert memory.size == 100
    refusal = memory.account(bob).grow(1)
    assert refusal is not None
    assert refusal.problem.value.status == 503
    assert memory.refusal(bob) is None, "a short answer"
    first.hold(0)
    assert memory.refusal(ann) is None
    assert memory.account(bob).grow(40) is None
    machine.hold(0)
    assert memory.size == 40


@pytest.mark.parametrize("kind", ["all", "engagement", "hello"])
async def test_a_client_that_reads_promptly_is_never_refused(store_server: StoreServer, prefix: str, kind: str) -> None:
    """It requests one answer after another, in total more than may wait at once. No memory stays in use."""
    limits = {"max_unread_bytes_per_user": 4 * MIB, "requests_burst": 10_000, "user_hellos_burst": 100}
    async with greedy(store_server, prefix, USER, **limits) as server, rest(server) as api:
        for _ in range(8):
            if kind == "hello":
                await hello_and_read_all(server)
            else:
                path = f"/progress/{USER}?detail=full" if kind == "all" else f"/progress/engagement/{USER}"
                ok(await api.get(path, headers=bearer(token(USER))))
        await unread(server, lambda size: size == 0)


async def hello_and_read_all(server: Running) -> None:
    async with learner(server, token(USER)) as player:
        assert len(player.records) == MANY
