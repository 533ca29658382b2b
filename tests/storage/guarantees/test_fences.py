"""Fences: a primary that has lost a commit which it had confirmed is detected by the next one."""

from typing import Any

import pytest

from playhead.storage.errors import StoreUnavailable
from playhead.storage.guarantees.fences import KEEP_S, Fence, FenceGuard, Fences
from playhead.storage.parts import Parts
from playhead.storage.scripts import BEHIND, NO_COUNT
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


def fences_of(parts: Parts) -> Fences:
    return Fences(parts.keys, parts.worker, parts.link, parts.script("fence"), parts.damage)


async def committed(parts: Parts, own: Fences) -> None:
    """Send an empty stage of a commit."""
    await parts.link.ask([("PING",)], FenceGuard(own))


async def test_every_commit_is_counted(parts: Parts) -> None:
    own = fences_of(parts)
    for count in (1, 2, 3):
        await committed(parts, own)
        assert own.at("")[0].known == count
    assert not own.rolled_back
    ttl_ms, stored = await parts.run([("PTTL", own.at("")[0].key), ("GET", own.at("")[0].key)])
    assert stored == b"3"
    assert 0 < ttl_ms <= 1_000 * KEEP_S


@pytest.mark.parametrize("lost", [("SET", "2"), ("DEL",)], ids=["lower", "gone"])
async def test_a_count_below_the_confirmed_one_is_a_rollback(parts: Parts, lost: tuple[str, ...]) -> None:
    own = fences_of(parts)
    for _ in range(3):
        await committed(parts, own)
    key = own.at("")[0].key
    await parts.run([(lost[0], key, *lost[1:])])
    await committed(parts, own)
    assert own.rolled_back
    own.rolled_back = False
    await committed(parts, own)
    assert not own.rolled_back, "the loss was reported, and counting starts over"


async def test_a_value_that_is_no_count_is_damage_and_no_rollback(parts: Parts) -> None:
    own = fences_of(parts)
    await committed(parts, own)
    await parts.run([("SET", own.at("")[0].key, "text")])
    await committed(parts, own)
    assert not own.rolled_back
    assert parts.damage.counts["fence"] == 1
    await committed(parts, own)
    assert (own.at("")[0].known, parts.damage.counts["fence"]) == (3, 1)


def test_a_count_whose_key_may_have_expired_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("playhead.storage.guarantees.fences.time.monotonic", lambda: now)
    fence = Fence("key")
    fence.learn(7, "a")
    now += KEEP_S / 2 - 1
    assert fence.proven() == 7
    now += 1
    assert fence.proven() == 0


@pytest.mark.parametrize(("answers", "known"), [([3, 2], 3), ([3, BEHIND], 0), ([3, NO_COUNT], 4), ([NO_COUNT], 1)])
def test_what_an_answer_proves(answers: list[int], known: int) -> None:
    """Answers of concurrent commits may arrive in any order, so the highest one counts."""
    fence = Fence("key")
    for answer in answers:
        fence.learn(answer, "a")
    assert (fence.known, fence.primary) == (known, "a")


async def test_a_judge_sees_the_last_reply(parts: Parts) -> None:
    """Which is that of the command that waits until the stage is durable."""
    judged: list[Any] = []
    guard = FenceGuard(fences_of(parts), [("ECHO", "one"), ("ECHO", "two")], judged.append)
    assert await parts.link.ask([("ECHO", "command")], guard) == [b"command"]
    assert judged == [b"two"]


async def test_a_failed_count_fails_the_stage(parts: Parts) -> None:
    def refuse(reply: object) -> None:
        raise StoreUnavailable("not durable")

    with pytest.raises(StoreUnavailable, match="not durable"):
        await parts.link.ask([("PING",)], FenceGuard(fences_of(parts), [("PING",)], refuse))
    with pytest.raises(StoreUnavailable, match="unknown command"):
        await parts.link.ask([("PING",)], FenceGuard(fences_of(parts), [("NO_COMMAND",)]))


async def test_one_server_never_moves(parts: Parts) -> None:
    own = fences_of(parts)
    assert own.moved() == set()
    await committed(parts, own)
    assert own.moved() == set()
    assert own.at("elsewhere") == []
