"""Ended sessions: published at once, kept for an hour, and never later than now, whatever clock wrote them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.storage.parts import Parts
from playhead.storage.values.damage import FOREIGN, Damaged
from playhead.storage.values.instants import CLOCKS_APART_MS
from playhead.storage.write.ended_sessions import KEEP_MS, parse_ending
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")
NOW = 1_764_000_000_000


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


async def test_an_ending_is_kept_for_an_hour(parts: Parts) -> None:
    assert await parts.ended_sessions.add("a", NOW) is None
    assert await parts.ended_sessions.add("b", NOW + KEEP_MS - 1) is None
    assert sorted(await parts.ended_sessions.recent()) == [("a", NOW), ("b", NOW + KEEP_MS - 1)]
    assert await parts.ended_sessions.add("c", NOW + KEEP_MS) is None
    assert {user for user, _ in await parts.ended_sessions.recent()} == {"b", "c"}
    (ttl_ms,) = await parts.run([("PTTL", parts.ended_sessions.channel)])
    assert 0 < ttl_ms <= KEEP_MS


async def test_an_older_ending_does_not_replace_a_newer_one(parts: Parts) -> None:
    await parts.ended_sessions.add("a", NOW)
    await parts.ended_sessions.add("a", NOW - 5)
    assert await parts.ended_sessions.recent() == [("a", NOW)]


async def test_an_ending_in_the_future_is_moved_to_now(parts: Parts) -> None:
    """Otherwise it would end every session of the learner until then."""
    await parts.ended_sessions.add("ahead", NOW + 60_000)
    await parts.ended_sessions.add("near", NOW + CLOCKS_APART_MS)
    await parts.ended_sessions.add("past", NOW - 5)
    expected = [("ahead", NOW), ("near", NOW + CLOCKS_APART_MS), ("past", NOW - 5)]
    assert sorted(await parts.ended_sessions.until(NOW)) == expected
    assert sorted(await parts.ended_sessions.recent()) == expected, "also for the other processes"


async def test_a_key_of_another_type_ends_nobody(parts: Parts) -> None:
    await parts.run([("SET", parts.ended_sessions.channel, "text")])
    assert await parts.ended_sessions.add("a", NOW) == FOREIGN
    assert await parts.ended_sessions.until(NOW) == []
    assert parts.damage.counts["ended"] == 2


@pytest.mark.parametrize("score", ["inf", "-inf"])
async def test_an_entry_that_cannot_be_read_is_left_out(parts: Parts, score: str) -> None:
    key = parts.ended_sessions.channel
    await parts.run([("ZADD", key, score, "u"), ("ZADD", key, NOW, b"\xff"), ("ZADD", key, NOW, "good")])
    assert await parts.ended_sessions.recent() == [("good", NOW)]
    assert parts.damage.counts["ended"] == 2


@pytest.mark.parametrize(
    ("data", "ending"), [(b"1764000000000 u", ("u", NOW)), (b"0 a b", ("a b", 0)), ("1 é".encode(), ("é", 1))]
)
def test_a_message_has_the_instant_and_the_learner(data: bytes, ending: tuple[str, int]) -> None:
    assert parse_ending(data) == ending


@pytest.mark.parametrize(
    "data", [b"", b"1764000000000", b"1764000000000 ", b"-1 u", b"1.5 u", b"9999999999999999 u", b"u 1"]
)
def test_another_message_is_damaged(data: bytes) -> None:
    assert isinstance(parse_ending(data), Damaged)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_damaged(data: bytes) -> None:
    ending: Any = parse_ending(data)
    assert isinstance(ending, Damaged | tuple)
