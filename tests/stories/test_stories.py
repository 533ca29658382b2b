"""Stories that must end well: each one is a complaint about a real product, replayed against a real server.

Minutes of watching pass on the server's clock only. The result is read as any reader would read it.
"""

from typing import Any

import pytest

from playhead.protocol.scalars import format_instant
from tests.stories.players import Learner, Player

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.frame_paths]

DURATION = 2_700
MINUTE_MS = 60_000
HOUR_S, DAY_S = 3_600, 86_400
PLAYING: dict[str, Any] = {"state": "playing", "duration": DURATION}


async def watch(learner: Learner, player: Player, start: int, end: int, step: int = 60) -> None:
    """Watch as people do: time passes, and the player reports every `step` seconds."""
    for at in range(start, end, step):
        until = min(at + step, end)
        learner.clock.advance(until - at)
        ack = await player.report(played=[[at, until]], position=until, span=(until - at) * 1_000, **PLAYING)
        assert (ack["rejected"], ack["capped"]) == ([], [])


@pytest.mark.parametrize(
    "paused",
    [
        {"position": 300, "state": "paused"},
        {"position": 300, "state": "paused", "played": []},
        {"position": 300, "state": "paused", "watchedDuration": 300},
        {"position": 300},
    ],
    ids=["bare", "empty", "with-the-documented-field", "stateless"],
)
async def test_a_paused_tv_does_not_hold_the_laptop_back(learner: Learner, paused: dict[str, Any]) -> None:
    """A TV paused at 5:00 keeps sending heartbeats while the laptop plays on to 9:00: the position is 9:00."""
    async with learner.player() as tv, learner.player() as laptop:
        await watch(learner, tv, 0, 300)
        for minute in range(5, 9):
            await tv.report(**paused)
            await watch(learner, laptop, 60 * minute, 60 * minute + 60)
        learner.clock.advance(5)
        await tv.report(**paused)
    record = await learner.known()
    assert record["position"] == record["resume"] == 540
    assert record["seen"] == [[0, 540]]
    assert record["playedDuration"] == 540


STRAY = [
    [{"position": 0, "state": "playing"}, {"position": 5, "played": [[0, 5]], "state": "playing"}],
    [{"position": 4.9, "played": [[0, 4.9]]}, {"position": 9.9, "played": [[4.9, 9.9]]}],
    [{"position": 0, "state": "playing"}, {"position": 0, "state": "paused"}],
]


@pytest.mark.parametrize("beats", STRAY, ids=["just-started", "nearly-ten-seconds", "paused-immediately"])
async def test_a_stray_open_does_not_pull_the_position_back(learner: Learner, beats: list[dict[str, Any]]) -> None:
    """A tab opened on a second device starts at 0:00, sends two heartbeats and closes: the position stays."""
    async with learner.player() as laptop:
        await watch(learner, laptop, 0, 540)
    async with learner.player() as stray:
        for beat in beats:
            learner.clock.advance(5)
            await stray.report(**beat)
    record = await learner.known()
    assert record["position"] == record["resume"] == 540


@pytest.mark.parametrize(
    "beats",
    [
        [{"position": 5, "played": [[0, 5]]}, {"position": 10, "played": [[5, 10]]}],
        [{"position": 10, "seek": True}],
    ],
    ids=["ten-seconds-played", "an-explicit-seek"],
)
async def test_ten_seconds_or_a_seek_do_move_the_position_back(learner: Learner, beats: list[dict[str, Any]]) -> None:
    """The counterpart of the stray open: ten seconds of playing, or one explicit seek, are intentional."""
    async with learner.player() as laptop, learner.player() as phone:
        await watch(learner, laptop, 0, 540)
        for beat in beats:
            learner.clock.advance(5)
            await phone.report(**beat)
    assert (await learner.known())["position"] == 10


async def test_plays_from_a_flight_add_seconds_but_do_not_move_the_position(learner: Learner) -> None:
    """A phone watches minutes 10 to 20 on a flight and reconnects a day later; the laptop has reached minute 40 since:
    the position is minute 40, the seconds seen are the union, and everything that was played counts."""
    async with learner.player() as laptop, learner.player() as phone:
        await watch(learner, laptop, 0, 600, step=300)
        took_off = learner.clock.wall
        learner.clock.advance(2 * HOUR_S)
        await watch(learner, laptop, 1_200, 2_400, step=300)
        learner.clock.advance(DAY_S)
        outbox = [
            {
                "played": [[at, at + 5]],
                "position": at + 5,
                "age": learner.clock.wall - (took_off + (at + 5 - 600) * 1_000),
                **PLAYING,
            }
            for at in range(600, 1_200, 5)
        ]
        ack = await phone.report(*outbox)
    assert (ack["rejected"], ack["capped"]) == ([], [])
    record = await learner.known()
    assert record["position"] == 2_400
    assert (record["seen"], record["playedDuration"]) == ([[0, 2_400]], 2_400)
    assert record["lastWatched"] == format_instant(learner.clock.wall - DAY_S * 1_000)


@pytest.mark.parametrize("age", [{}, {"age": 0}, {"age": 2_500}], ids=["no-age", "now", "a-moment-ago"])
async def test_a_clock_an_hour_ahead_does_not_win_for_an_hour(learner: Learner, age: dict[str, int]) -> None:
    """The clock of one device is an hour ahead: other devices still win when they report later in reality."""
    ahead = format_instant(learner.clock.wall + HOUR_S * 1_000)
    async with learner.player() as fast, learner.player() as honest:
        await fast.report(played=[[0, 30]], position=30, lastWatched=ahead, **age, **PLAYING)
        assert (await learner.known())["lastWatched"] == format_instant(learner.clock.wall - age.get("age", 0))
        learner.clock.advance(60)
        await honest.report(played=[[100, 130]], position=130, lastWatched=learner.now, **PLAYING)
    record = await learner.known()
    assert (record["position"], record["lastWatched"]) == (130, learner.now)


@pytest.mark.parametrize("learner", ["rest"], indirect=True)
@pytest.mark.parametrize("path", ["update", "sync", "realtime"])
async def test_a_documented_body_an_hour_ahead_counts_as_now(learner: Learner, path: str) -> None:
    """The same with the documented body, which has no age: `lastWatched` is at most the time of receipt. Otherwise the
    record or its deletion would lie in the future and suppress what others report."""
    ahead = format_instant(learner.clock.wall + HOUR_S * 1_000)
    assert (await learner.document(path, 40, ahead)).status_code == 200
    assert (await learner.known())["lastWatched"] == learner.now
    await learner.delete()
    learner.clock.advance(1)
    assert (await learner.document(path, 10, learner.now)).status_code == 200
    record = await learner.known()
    assert (record["watchedDuration"], record["lastWatched"]) == (10, learner.now)


async def test_dragging_the_bar_to_the_end_is_not_watching(learner: Learner) -> None:
    """After dragging the bar to the end nothing in between is seen, and `ended` alone completes nothing."""
    async with learner.player() as player:
        await watch(learner, player, 0, 30)
        await player.report(seek=True, position=DURATION - 2, **PLAYING)
        learner.clock.advance(2)
        end = {"played": [[DURATION - 2, DURATION]], "position": DURATION, "duration": DURATION}
        await player.report(state="ended", **end)
    record = await learner.known()
    assert record["seen"] == [[0, 30], [DURATION - 2, DURATION]]
    assert (record["watchedDuration"], record["completed"]) == (32, False)
    assert "completedAt" not in record
    assert (record["position"], record["resume"]) == (DURATION, 0)


@pytest.mark.parametrize("at_once", [False, True], ids=["one-by-one", "in-one-heartbeat"])
async def test_the_first_minute_watched_ten_times_is_one_minute(learner: Learner, at_once: bool) -> None:
    """The first minute watched ten times gives watchedDuration 60, playedDuration 600, and no completion."""
    async with learner.player() as player:
        if at_once:
            await player.report(played=[[0, 60]] * 10, position=60, span=10 * MINUTE_MS, duration=600)
        else:
            for _ in range(10):
                learner.clock.advance(60)
                await player.report(played=[[0, 60]], position=60, duration=600)
    record = await learner.known()
    assert (record["watchedDuration"], record["playedDuration"], record["completed"]) == (60, 600, False)
    assert (record["seen"], record["again"]) == ([[0, 60]], [[0, 60]])


async def test_rewatching_a_completed_video_leaves_it_completed(learner: Learner) -> None:
    """A completed video watched again from the start remains completed, at the original time."""
    async with learner.player() as player:
        await watch(learner, player, 0, DURATION, step=900)
        completed = await learner.known()
        assert completed["completed"] is True
        learner.clock.advance(DAY_S)
        await player.report(seek=True, position=0, **PLAYING)
        await watch(learner, player, 0, 120)
    record = await learner.known()
    assert (record["completed"], record["completedAt"]) == (True, completed["completedAt"])
    assert (record["position"], record["watchedDuration"]) == (120, DURATION)
    assert (record["again"], record["playedDuration"]) == ([[0, 120]], DURATION + 120)


async def test_deleted_records_stay_deleted(learner: Learner) -> None:
    """Deleted on one device while another is offline with old plays, it stays deleted; later plays start afresh."""
    async with learner.player() as laptop, learner.player() as phone:
        await watch(learner, laptop, 0, 120)
        learner.clock.advance(HOUR_S)
        await learner.delete()
        learner.clock.advance(HOUR_S)
        old = [
            {"played": [[at, at + 5]], "position": at + 5, "age": (2 * HOUR_S - at) * 1_000, **PLAYING}
            for at in range(0, 60, 5)
        ]
        ack = await phone.report(*old)
        assert [(r["seq"], r["code"]) for r in ack["rejected"]] == [(seq, "deleted") for seq in range(1, 13)]
        assert await learner.record() is None
        await watch(learner, phone, 300, 330)
    record = await learner.known()
    assert (record["seen"], record["playedDuration"], record["position"]) == ([[300, 330]], 30, 330)


@pytest.mark.parametrize("learner", ["rest"], indirect=True)
@pytest.mark.parametrize(("path", "status"), [("update", 409), ("realtime", 409), ("sync", 200)])
async def test_a_late_documented_body_does_not_restore_a_deleted_record(
    learner: Learner, path: str, status: int
) -> None:
    """The same with the documented bodies: update and realtime answer 409; the answer to a sync omits the record."""
    watched_at = learner.now
    assert (await learner.document("update", 40, watched_at)).status_code == 200
    learner.clock.advance(HOUR_S)
    await learner.delete()
    learner.clock.advance(HOUR_S)
    response = await learner.document(path, 50, watched_at)
    assert response.status_code == status
    assert response.json().get("progressData", []) == []
    assert await learner.record() is None


async def test_double_speed_counts_in_full(learner: Learner) -> None:
    """At double speed, ten seconds of media every five seconds all count, and none are capped."""
    async with learner.player() as player:
        for at in range(0, 300, 10):
            learner.clock.advance(5)
            ack = await player.report(played=[[at, at + 10]], position=at + 10, **PLAYING)
            assert ack["capped"] == []
    record = await learner.known()
    assert (record["seen"], record["playedDuration"], record["position"]) == ([[0, 300]], 300, 300)
