"""Poison: what a hostile learner may report, and that it harms no other learner, no video's totals, and not the
learner's own record for good. Every report is valid on the wire; each row of POISONS is sent to a real server."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from playhead.protocol.scalars import MAX_MEDIA_S, MAX_SEQ
from playhead.storage.store import Store, open_store
from tests.conftest import StoreServer
from tests.device import Device, device
from tests.inside import keys_of, parts_of, recounted
from tests.intact import intact
from tests.rest import ok, rest
from tests.server.poisons import (
    DURATION,
    FAR,
    HONEST,
    POISONS,
    TWO_DAYS_MS,
    Beat,
    Learner,
    Poison,
    as_many_intervals_as_may_be,
    at_the_end,
)
from tests.serving import Running, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEP = 5
poisons = pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__.replace("_", "-"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer) -> AsyncIterator[Running]:
    """One server for all poisons; its clock only moves forward."""
    async with serving(redis_url=store_server.url, key_prefix=f"t{uuid4().hex}", flush_interval_s=0.01) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(server: Running) -> AsyncIterator[Store]:
    """The same store, read without the server."""
    opened = open_store(str(server.settings.redis_url), worker="reader", key_prefix=server.settings.key_prefix)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="module")
async def http(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with rest(server) as client:
        yield client


async def catalogue(http: httpx.AsyncClient, *videos: str) -> None:
    for video in videos:
        ok(await http.put(f"/videos/{video}", json={"title": "Sets", "duration": DURATION}))


async def watch(server: Running, start: int, end: int, *devices: tuple[Device, str], **fields: Any) -> None:
    """Normal watching: each device plays its video, at the same instants."""
    for at in range(start, end, STEP):
        server.clock.advance(STEP)
        for page, video in devices:
            ack = await page.play(video, at, at + STEP, **fields)
            assert (ack["rejected"], ack["capped"]) == ([], [])


async def stored(store: Store, learner: Learner) -> bytes:
    """The stored bytes of the record."""
    value: bytes = (await parts_of(store).run([("HGET", keys_of(store).progress(learner.user), learner.video)]))[0]
    assert value
    return value


async def audience_entry(store: Store, learner: Learner) -> bytes:
    value: bytes = (await parts_of(store).run([("HGET", keys_of(store).audience(learner.video), learner.user)]))[0]
    assert value
    return value


async def totals_in_bounds(store: Store, http: httpx.AsyncClient, video: str, duration: int) -> dict[str, Any]:
    """The video's analytics, after checking everything that must hold whatever was reported."""
    analytics: dict[str, Any] = ok(await http.get(f"/analytics/videos/{video}"))
    totals, curve, _ = intact(await store.analytics(video, 0))
    assert (totals, curve) == await recounted(store, video)
    assert (analytics["retention"], analytics["replays"]) == (curve.viewers, curve.replays)
    assert 0 <= analytics["completed"] <= analytics["viewers"]
    assert 0 <= analytics["completionRate"] <= 1
    assert 0 <= analytics["averageWatchedDuration"] <= duration
    assert len(analytics["retention"]) == len(analytics["replays"]) <= duration
    for viewers, replays in zip(analytics["retention"], analytics["replays"], strict=True):
        assert 0 <= replays <= viewers <= analytics["viewers"]
    summary = ok(await http.get(f"/progress/summary/{video}"))
    assert {name: analytics[name] for name in summary} == summary
    return analytics


@poisons
async def test_another_learner_is_not_harmed(
    server: Running, store: Store, http: httpx.AsyncClient, poison: Poison
) -> None:
    """The honest learner's record and audience entry are identical to those without a hostile learner.

    The totals differ by one viewer, who counts as at most the whole video.
    """
    honest = Learner(server, http, str(uuid4()))
    control = Learner(server, http, str(uuid4()))
    mallory = Learner(server, http, honest.video)
    await catalogue(http, honest.video, control.video)
    async with device(server, honest.user, HONEST) as page, device(server, control.user, HONEST) as other:
        both = ((page, honest.video), (other, control.video))
        await watch(server, 0, 20, *both)
        await poison(mallory)
        await watch(server, 20, 40, *both)
        await poison(mallory)
        await watch(server, 40, 60, *both)
        await watch(server, 0, 10, *both)
        assert page.inbox == [], "nothing of the other learner's was pushed"
    assert await stored(store, honest) == await stored(store, control)
    assert await audience_entry(store, honest) == await audience_entry(store, control)
    poisoned = await totals_in_bounds(store, http, honest.video, DURATION)
    clean = await totals_in_bounds(store, http, control.video, DURATION)
    assert poisoned["viewers"] - clean["viewers"] in (0, 1)
    assert poisoned["completed"] - clean["completed"] in (0, 1)
    watched = intact(await store.totals(honest.video)).watched - intact(await store.totals(control.video)).watched
    assert 0 <= watched <= DURATION
    for name in ("retention", "replays"):
        shorter = clean[name] + [0] * (len(poisoned[name]) - len(clean[name]))
        assert len(clean[name]) <= len(poisoned[name])
        assert {now - was for now, was in zip(poisoned[name], shorter, strict=True)} <= {0, 1}


@poisons
@pytest.mark.parametrize("known_to", ["nobody", "the-catalogue-later"])
async def test_totals_stay_in_bounds(
    server: Running, store: Store, http: httpx.AsyncClient, poison: Poison, known_to: str
) -> None:
    """Poisoned before the catalogue has the video: within 48 h, and within the catalogue's duration as soon as that is
    known, although the hostile learner never reports again."""
    honest, mallory = (Learner(server, http, video) for video in [str(uuid4())] * 2)
    async with device(server, honest.user) as page:
        await watch(server, 0, 20, (page, honest.video))
    await poison(mallory)
    duration = MAX_MEDIA_S
    if known_to == "the-catalogue-later":
        duration = DURATION
        await catalogue(http, honest.video)
    before = await totals_in_bounds(store, http, honest.video, duration)
    assert before["retention"][:20] >= [1] * 20
    server.clock.advance(1)
    await mallory.socket({"played": [[0, 1]], "position": 1})
    after = await totals_in_bounds(store, http, honest.video, duration)
    assert after["viewers"] == 2


@poisons
async def test_an_honest_device_repairs_the_record(
    server: Running, store: Store, http: httpx.AsyncClient, poison: Poison
) -> None:
    """The same learner's next ten seconds of honest play move the position, and no instant is in the future.

    With a catalogue entry the next report sets the duration, every watched second is there, and the video completes.
    """
    learner = Learner(server, http, str(uuid4()))
    await poison(learner)
    poisoned = await learner.record()
    assert poisoned["lastWatched"] <= learner.now
    assert poisoned.get("completedAt", "") <= learner.now
    async with device(server, learner.user) as page:
        await catalogue(http, learner.video)
        await watch(server, 30, 40, (page, learner.video), duration=DURATION)
        record = await learner.record()
        assert (record["position"], record["duration"], record["lastWatched"]) == (40, DURATION, learner.now)
        assert record["watchedDuration"] <= DURATION
        played = record["playedDuration"]
        await watch(server, 40, 90, (page, learner.video))
        await watch(server, 0, 40, (page, learner.video))
    record = await learner.record()
    assert (record["position"], record["duration"], record["lastWatched"]) == (40, DURATION, learner.now)
    assert (record["completed"], record["watchedDuration"]) == (True, DURATION)
    assert record["seen"][0][0] == 0
    assert record["seen"][0][1] >= DURATION, "seconds reported before the end was known may be beyond it"
    assert record["playedDuration"] == played + 90
    assert record["completedAt"] <= learner.now
    await totals_in_bounds(store, http, learner.video, DURATION)


@poisons
async def test_without_a_catalogue_the_position_moves_again(
    server: Running, http: httpx.AsyncClient, poison: Poison
) -> None:
    """After ten seconds of honest play on another page, the player resumes there."""
    learner = Learner(server, http, str(uuid4()))
    await poison(learner)
    async with device(server, learner.user) as page:
        for at in (30, 35):
            server.clock.advance(STEP)
            assert (await page.play(learner.video, at, at + STEP))["rejected"] == []
    record = await learner.record()
    assert (record["position"], record["lastWatched"]) == (40, learner.now)


@poisons
@pytest.mark.parametrize("in_catalogue", [False, True], ids=["unknown-video", "catalogue"])
async def test_a_deletion_starts_a_new_record(
    server: Running, http: httpx.AsyncClient, poison: Poison, in_catalogue: bool
) -> None:
    """From the next millisecond on, also for a page that was open before: the record equals that of a learner who never
    had one."""
    learner, fresh = (Learner(server, http, video) for video in [str(uuid4())] * 2)
    if in_catalogue:
        await catalogue(http, learner.video)
    async with device(server, learner.user) as page, device(server, fresh.user) as other:
        await watch(server, 0, 5, (page, learner.video))
        await poison(learner)
        await learner.delete()
        response = await http.get(f"/progress/{learner.user}/{learner.video}")
        assert response.status_code == 404
        server.clock.advance(0.001)
        await watch(server, 30, 50, (page, learner.video), (other, fresh.video))
    again, first = await learner.record(), await fresh.record()
    assert first["seen"] == [[30, 50]]
    same = set(first) - {"userId", "rev"}
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    assert set(again) == set(first)


async def test_a_duration_under_a_second_is_ignored(server: Running, http: httpx.AsyncClient) -> None:
    """Otherwise the curve would have seconds of a video that nobody can have watched for a second, and whose viewer is
    not counted as one."""
    mallory = Learner(server, http, str(uuid4()))
    await mallory.socket({"duration": 0.999, "played": [[0, 5]], "position": 5})
    record = await mallory.record()
    assert "duration" not in record
    assert (record["watchedDuration"], record["completed"]) == (5, False)
    analytics = ok(await http.get(f"/analytics/videos/{mallory.video}"))
    assert (analytics["viewers"], analytics["retention"]) == (1, [1] * 5)


async def test_a_claim_from_before_the_catalogue_is_capped(server: Running, http: httpx.AsyncClient) -> None:
    """For a learner who never reports again, so that the record keeps the claim.

    Another catalogue entry caps it anew.
    """
    mallory = Learner(server, http, str(uuid4()))
    await mallory.document(MAX_MEDIA_S, FAR, "update")
    await mallory.socket({"played": [[80, 100]]}, {"played": [[200, 220]]})
    for duration, retention in ((90.5, 90), (210, 210), (300, 220), (60, 0)):
        ok(await http.put(f"/videos/{mallory.video}", json={"title": "Sets", "duration": duration}))
        analytics = ok(await http.get(f"/analytics/videos/{mallory.video}"))
        assert (analytics["viewers"], analytics["averageWatchedDuration"]) == (1, int(duration))
        assert len(analytics["retention"]) == len(analytics["replays"]) == retention
        assert sum(analytics["retention"]) == sum(
            max(0, min(end, int(duration)) - start) for start, end in ((80, 100), (200, 220))
        )


async def test_seconds_beyond_the_end_make_room_for_valid_ones(server: Running, http: httpx.AsyncClient) -> None:
    """A set with the maximum of intervals, all beyond the end, from before the catalogue knew it."""
    learner = Learner(server, http, str(uuid4()))
    await as_many_intervals_as_may_be(learner)
    (refused,) = await learner.socket({"played": [[0, 5]]})
    assert refused["capped"] == [1], "the duration is unknown, so nothing can make room"
    await catalogue(http, learner.video)
    server.clock.advance(1)
    (taken,) = await learner.socket({"played": [[0, 5]]})
    assert (taken["rejected"], taken["capped"]) == ([], [])
    assert (await learner.record())["seen"] == [[0, 5]]


async def test_a_short_video_gets_its_position_back(server: Running, http: httpx.AsyncClient) -> None:
    """A video of 8 s gives no page the ten seconds that it takes to move a position back.

    From beyond its end no page needs them.
    """
    learner = Learner(server, http, str(uuid4()))
    await at_the_end(learner)
    ok(await http.put(f"/videos/{learner.video}", json={"title": "Bell", "duration": 8}))
    async with device(server, learner.user) as page:
        await watch(server, 0, 5, (page, learner.video))
    assert (await learner.record())["position"] == 5


HOUR_S = 3_600


async def test_a_record_made_by_a_clock_that_was_ahead_follows_the_next_report(
    store_server: StoreServer, prefix: str
) -> None:
    """Its position and lastWatched are in the future and do not outrank new reports. Other records are not affected."""
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server, rest(server) as http:
        learner, other = (Learner(server, http, str(uuid4())) for _ in range(2))
        await learner.document(7, FAR)
        for n in range(20):
            await learner.envelope({"played": [[n, n + 1]], "position": 80, "seek": True})
        server.clock.wall -= HOUR_S * 1_000
        async with device(server, learner.user) as page, device(server, other.user) as untouched:
            await watch(server, 0, 20, (page, learner.video), (untouched, other.video))
            record = await learner.record()
            assert (record["seen"], record["position"], record["lastWatched"]) == ([[0, 20]], 20, learner.now)
            assert (await other.record())["position"] == 20
            server.clock.advance(HOUR_S)
            await watch(server, 20, 40, (page, learner.video))
        record = await learner.record()
        assert (record["seen"], record["position"], record["lastWatched"]) == ([[0, 40]], 40, learner.now)


async def test_a_deletion_of_a_record_from_the_future_lasts_no_longer_than_others(
    store_server: StoreServer, prefix: str
) -> None:
    """A play at the instant of the deletion is refused, one a millisecond later is stored."""
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server, rest(server) as http:
        learner = Learner(server, http, str(uuid4()))
        await learner.document(7, FAR)
        server.clock.wall -= HOUR_S * 1_000
        await learner.delete()
        (early,) = await learner.socket({"played": [[0, 5]]})
        assert [rejection["code"] for rejection in early["rejected"]] == ["deleted"]
        server.clock.advance(0.001)
        (late,) = await learner.socket({"played": [[0, 5]]})
        assert late["rejected"] == []
        assert (await learner.record())["seen"] == [[0, 5]]


async def test_what_a_poisoned_page_can_still_report(server: Running, http: httpx.AsyncClient) -> None:
    """A page whose first seq is the largest possible: its later reports add seconds, but count as no play and move no
    position back. Every other page of the learner works as usual, for every video."""
    learner, elsewhere = (Learner(server, http, str(uuid4())) for _ in range(2))
    elsewhere.user = learner.user
    page = uuid4().hex
    await learner.socket({"seq": MAX_SEQ, "played": [[0, 20]], "position": 20}, session=page)
    server.clock.advance(60)
    await learner.socket({"seq": 2, "played": [[20, 40]], "position": 2}, session=page)
    record = await learner.record()
    assert (record["seen"], record["playedDuration"], record["position"]) == ([[0, 40]], 20, 20)
    await elsewhere.socket({"seq": 3, "played": [[0, 20]], "position": 20}, session=page)
    assert (await elsewhere.record())["playedDuration"] == 20
    await learner.socket({"played": [[0, 10]], "position": 10})
    record = await learner.record()
    assert (record["playedDuration"], record["again"], record["position"]) == (30, [[0, 10]], 10)


@pytest.mark.parametrize(
    ("beats", "seen", "played", "capped"),
    [
        pytest.param([{"played": [[0, 300]]}], 242, 242, True, id="at-once"),
        pytest.param([{"played": [[0, 300]], "span": 75_000}], 300, 300, False, id="with-a-span"),
        pytest.param([{"played": [[0, 300]]}, {"played": [[0, 300]]}], 242, 242, True, id="twice-at-once"),
        pytest.param([{"played": [[0, 5]]}, {"span": TWO_DAYS_MS, "played": [[0, 300]]}], 237, 242, True, id="later"),
        pytest.param([{"age": 75_000, "state": "paused"}, {"played": [[0, 600]]}], 542, 542, True, id="ages"),
        pytest.param([{"session": f"s{n}", "played": [[242 * n, 900]]} for n in range(3)], 726, 726, True, id="pages"),
    ],
)
async def test_how_much_a_learner_can_fake(
    server: Running, http: httpx.AsyncClient, beats: list[Beat], seen: int, played: int, capped: bool
) -> None:
    """A page is believed 60 s × 4 + 2 s of media at first, or its span × 4, and then the time between its reports × 4;
    each page anew. So plays can be faked, as SECURITY says."""
    mallory = Learner(server, http, str(uuid4()))
    acks = (await mallory.envelope(*beats))["acks"]
    assert any(ack.get("capped") for ack in acks) == capped
    record = await mallory.record()
    assert record["seen"] == [[0, seen]]
    assert record["playedDuration"] == played
