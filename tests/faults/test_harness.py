"""The harness finds lost and changed records and wrong totals, its relays forward and fail as requested, and its stores
are repaired as their operators would."""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from playhead.client.outbox import Beat, Entry
from playhead.storage.store import Store, open_store
from playhead.storage.values.packing import pack_record
from tests.faults.damage import aof
from tests.faults.ledger import Ledger
from tests.faults.places import PLACES
from tests.faults.relay import Relay, relay
from tests.faults.scene import Row, Scene, scene
from tests.faults.test_faults import missing_store_skips
from tests.inside import keys_of, parts_of
from tests.intact import intact

Damage = Callable[[Store, Scene], Awaitable[object]]


def somebody(s: Scene) -> tuple[str, str]:
    """A user and a video of an acked heartbeat."""
    sent = next(iter(s.ledger.sent.values()))
    return sent.user, sent.entry.beat.video_id


async def drop_record(store: Store, s: Scene) -> None:
    user, video = somebody(s)
    await parts_of(store).run([("HDEL", keys_of(store).progress(user), video)])


async def count_twice(store: Store, s: Scene) -> None:
    user, video = somebody(s)
    record = intact(await store.record(user, video))
    record.played_ms += 5_000
    await parts_of(store).run([("HSET", keys_of(store).progress(user), video, pack_record(record))])


async def invent_a_viewer(store: Store, s: Scene) -> None:
    user, video = somebody(s)
    await parts_of(store).run([("HINCRBY", keys_of(store).summary(keys_of(store).shard(video, user)), "viewers", 1)])


async def bend_the_curve(store: Store, s: Scene) -> None:
    user, video = somebody(s)
    await parts_of(store).run([("HINCRBY", keys_of(store).curve(keys_of(store).shard(video, user)), "a3", 1)])


@contextlib.asynccontextmanager
async def _by_hand(url: str) -> AsyncIterator[Store]:
    store = open_store(url, worker="by-hand")
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("place", ["embedded", "cluster"])
async def test_lost_and_wrong_values_are_found(place: str) -> None:
    """At first there are none. Then each damage is reported by the value that it changed, a removed record as lost, and
    a server that has ended with its exit code."""
    async with scene(place, players=6) as s, _by_hand(s.place.url) as store:
        await s.fleet.more(30)
        sound = Row("none", place)
        await s.judge(sound)
        assert (sound.lost, sound.wrong) == ([], [])
        damages: list[tuple[Damage, str]] = [
            (count_twice, "playedDuration is"),
            (invent_a_viewer, "viewers is"),
            (bend_the_curve, "replays is"),
            (drop_record, "missing"),
        ]
        for damage, message in damages:
            row = Row("damage", place)
            await damage(store, s)
            await s.judge(row)
            assert any(message in line for line in row.wrong), message
            assert bool(row.lost) == (damage is drop_record)
            assert not row.passed
        assert s.service.program is not None
        await s.service.program.stop()
        row = Row("ended", place)
        await s.judge(row)
        assert row.wrong[0].startswith("the server ended with 0: ")


@pytest.mark.parametrize("place", ["valkey", "redis"])
async def test_a_store_whose_file_ends_within_a_script_never_applies_half_of_it(place: str) -> None:
    """Neither at the start that repairs the file nor at a later one."""
    script = "for field = 1, 9 do redis.call('HSET', KEYS[1], field, ARGV[1]) end"

    def tear(directory: Path) -> None:
        os.truncate(aof(directory), aof(directory).stat().st_size - 100)

    with missing_store_skips():
        async with PLACES[place]() as store:
            (admin,) = store.writers()
            with admin() as client:
                client.eval(script, 1, "key", "whole")
                client.eval(script, 1, "key", "torn")
            await store.kill(tear)
            with admin() as client:
                client.eval(script, 1, "another", "whole")
            await store.kill()
            with admin() as client:
                assert set(client.hvals("key")) == {b"whole"}
                assert client.hlen("another") == 9


async def test_a_cluster_is_reached_only_through_its_relays() -> None:
    """While they carry nothing, no report is acked."""
    async with scene("cluster", players=6) as s:
        await s.fleet.more(30)
        assert s.place.relay is not None
        s.place.relay.darken()
        await s.fleet.quiet(1.0)
        s.place.relay.lighten()
        row = Row("dark", "cluster")
        await s.judge(row)
        assert row.passed, row


@pytest.mark.parametrize("late", [False, True])
def test_a_late_position_is_expected_only_where_it_counts(late: bool) -> None:
    """The newest position is far behind the others. If it arrives before them, no session has settled it."""
    ledger, at_ms, video = Ledger(), 1_764_000_000_000, str(uuid4())
    plays = [*range(0, 40, 5), 5]
    entries = [
        Entry(seq, "s", Beat(video, ((at, at + 5),), at + 5, 3_600, "playing"), at_ms, at_ms + 5_000 * seq, seq)
        for seq, at in enumerate(plays, 1)
    ]
    for entry in entries:
        ledger.send("u", entry)
    if late:
        ledger.order["s"] = [entries[-1], *entries[:-1]]
    assert ledger.expected()["u", video].positions == {None if late else 10.0}


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(100):
            writer.write(data)
    writer.close()


async def test_the_relay_forwards_and_fails_as_requested() -> None:
    """Held requests and answers are forwarded or dropped, data sent in the dark arrive late, a reset reaches the peer,
    and a forgotten connection is silent."""
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with echo, relay(echo.sockets[0].getsockname()[1]) as between:
        for answer in (False, True):
            catch = between.catch(b"stop", answer=answer)
            assert await _said(between, b"go") == b"go"
            asking = asyncio.create_task(_said(between, b"stop"))
            await catch.caught.wait()
            assert not asking.done()
            catch.let_go(drop=False)
            assert await asking == b"stop"
            catch = between.catch(b"stop", answer=answer)
            asking = asyncio.create_task(_said(between, b"stop"))
            await catch.caught.wait()
            catch.let_go(drop=True)
            with pytest.raises(ConnectionResetError):
                await asking
        between.darken()
        asking = asyncio.create_task(_said(between, b"late"))
        assert not (await asyncio.wait({asking}, timeout=0.1))[0]
        between.lighten()
        assert await asking == b"late"
        reader, writer = await asyncio.open_connection("127.0.0.1", between.port)
        writer.write(b"known")
        assert await reader.read(100) == b"known"
        assert between.forget(1.0, random.Random(1)) == 1
        writer.write(b"forgotten")
        asking = asyncio.create_task(reader.read(100))
        assert not (await asyncio.wait({asking}, timeout=0.1))[0]
        assert between.reset() == 1
        with pytest.raises(ConnectionResetError):
            await asking
        writer.close()


async def test_the_relay_stands_in_for_a_unix_socket(tmp_path: Path) -> None:
    """Connections to the old path go through the relay, and those to the new path do not."""

    async def said(path: Path, words: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(words)
        answer = await reader.read(100)
        writer.close()
        return answer

    path = tmp_path / "a.sock"
    async with await asyncio.start_unix_server(_echo, path), relay() as between:
        behind = await between.stand_in(path)
        catch = between.catch(b"stop")
        asking = asyncio.create_task(said(path, b"stop"))
        await catch.caught.wait()
        assert await said(behind, b"stop") == b"stop"
        assert not asking.done()
        catch.let_go(drop=False)
        assert await asking == b"stop"


def test_a_lost_shard_affects_only_the_learners_whose_records_it_had() -> None:
    """The ledger forgets what was acked to them, and nothing else."""
    ledger, video = Ledger(), str(uuid4())
    for user in "ab":
        for seq in (1, 2):
            sent = ledger.send(user, Entry(seq, user, Beat(video, ((seq, seq + 1),)), 1_000, 1_000, seq))
            if seq == 1:
                ledger.ack(sent)
        ledger.ack(ledger.claim(user, video, 7, 1_000))
    assert ledger.rebase({}, {"b"}) == 2
    assert {user: (each.record.seen, each.record.claimed) for (user, _), each in ledger.expected().items()} == {
        "a": ([1, 3], 7),
        "b": ([2, 3], 0),
    }


async def _said(between: Relay, words: bytes) -> bytes:
    """Send `words`, and return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", between.port)
    try:
        writer.write(words)
        async with asyncio.timeout(10):
            return await reader.read(100)
    finally:
        writer.close()
