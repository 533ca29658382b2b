"""On the players' side of the service: connections that half die, storms, and heartbeats that come twice, late, in
another order, or by two ways at once."""

import asyncio
import random
from unittest.mock import patch
from uuid import uuid4

import httpx

from client import connection, exchange
from client.outbox import Beat, Entry, heartbeat
from tests.faults.effort import Effort
from tests.faults.ledger import wall_ms
from tests.faults.scene import Row, Scene, scene

BEATS = 40
BEAT_MS = 5_000
VIDEO_S = 3_600
STUCK_S = 0.5
"""For every player to have something on its way."""


async def half_open(place: str, effort: Effort) -> list[Row]:
    """Half of the connections carry nothing any more, and neither side is told. The clients notice by their pings."""
    patience_s = effort.either((connection.PING_S, exchange.TIMEOUT_S), (1.0, 2.0))
    with patch.object(connection, "PING_S", patience_s[0]), patch.object(exchange, "TIMEOUT_S", patience_s[1]):
        async with scene(place, line=True) as s:

            async def fault() -> None:
                assert s.line is not None
                s.line.forget(0.5, s.dice)
                await asyncio.sleep(STUCK_S)

            return [await s.under(Row("half of the connections carry nothing", place), fault, effort.times(3, 1))]


async def storm(place: str, effort: Effort) -> list[Row]:
    """All players are cut off at once, again and again while they come back, to two workers."""
    async with scene(place, players=effort.either(150, 36), workers=2, line=True) as s:

        async def fault() -> None:
            assert s.line is not None
            for _ in range(effort.times(20, 6)):
                s.line.reset()
                await asyncio.sleep(s.dice.random() * 0.3)
            for _ in range(effort.times(20, 6)):
                s.line.reset(0.5, s.dice)
                await asyncio.sleep(s.dice.random() * 0.1)

        return [
            await s.under(Row("all connections of players reset, again and again", place), fault, effort.times(5, 1))
        ]


async def dark(place: str, effort: Effort) -> list[Row]:
    """A tunnel: nothing passes, and then all of it, late."""
    seconds = effort.either(10, 1)
    async with scene(place, line=True) as s:

        async def fault() -> None:
            assert s.line is not None
            s.line.darken()
            await asyncio.sleep(seconds)
            s.line.lighten()

        name = f"nothing passes to the players for {seconds} s, then all of it"
        return [await s.under(Row(name, place), fault, effort.times(3, 1))]


async def beacons(place: str, effort: Effort) -> list[Row]:
    """Each player sends what it has not seen acked by POST as well, as a page does that unloads; the socket goes on, is
    cut right then, or comes back later."""
    async with scene(place, line=True, FLUSH_INTERVAL_S="0.2") as s, _http(s) as http:

        async def fault() -> None:
            assert s.line is not None
            for _ in range(effort.times(20, 4)):
                posts = []
                for player in s.fleet.players:
                    entries = [entry for entry in player.client.pending if entry.seq]
                    if entries:
                        posts.append(_post(http, player.user, entries, as_beacon=True))
                if s.dice.random() < 0.5:
                    s.line.reset(0.5, s.dice)
                for acked in await asyncio.gather(*posts):
                    for entry in acked:
                        s.ledger.ack(s.ledger.sent[entry.session, entry.seq])

        return [await s.under(Row("beacon and socket bring the same heartbeats", place), fault, effort.times(5, 1))]


async def envelopes(place: str, effort: Effort) -> list[Row]:
    """Envelopes of one session by POST, cut anywhere: sent twice, in another order, and late. What comes behind its
    session's newer heartbeats counts as seen, and not as played again: the model joins them in the order of arrival."""
    rows = []
    async with scene(place, players=12) as s, _http(s) as http:
        for name, shuffled, twice, at_once in (
            ("twice", False, True, False),
            ("twice, at the same time", False, True, True),
            ("twice and in any order", True, True, False),
        ):

            async def fault(shuffled: bool = shuffled, twice: bool = twice, at_once: bool = at_once) -> None:
                sessions = (_session(s, http, shuffled, twice, at_once) for _ in range(effort.times(40, 3)))
                await asyncio.gather(*sessions)  # of as many learners, for an ack may take a second

            rows.append(await s.under(Row(f"envelopes arrive {name}", place), fault))
        return rows


async def _session(s: Scene, http: httpx.AsyncClient, shuffled: bool, twice: bool, at_once: bool) -> None:
    """One learner's evening in envelopes; ages are those of the first sending, so that what is late seems younger."""
    user, entries = str(uuid4()), _evening(s, s.dice)
    envelopes = []
    while entries:
        size = s.dice.randrange(1, 12)
        envelopes.append(entries[:size])
        entries = entries[size:]
    for entry in (entry for envelope in envelopes for entry in envelope):
        s.ledger.send(user, entry)
    if twice:
        envelopes = [envelope for envelope in envelopes for _ in range(2)]
    if shuffled:
        s.dice.shuffle(envelopes)
        s.ledger.order[envelopes[0][0].session] = [entry for envelope in envelopes for entry in envelope]
    now_ms = round(wall_ms())
    while envelopes:
        posts = [_post(http, user, envelopes.pop(0), now_ms=now_ms) for _ in range(2 if at_once else 1)]
        for acked in await asyncio.gather(*posts):
            for entry in acked:
                s.ledger.ack(s.ledger.sent[entry.session, entry.seq])


def _evening(s: Scene, dice: random.Random) -> list[Entry]:
    """Heartbeats of one session on two videos, hours ago; the last of each was long after the one before."""
    session, videos = str(uuid4()), dice.sample(sorted(s.fleet.videos), 2)
    ended_ms, entries, at = round(wall_ms()) - 7_200_000, [], 0.0
    for seq in range(1, BEATS + 1):
        seek = seq == 1 or dice.random() < 0.15
        at = dice.randrange(30) if seek else at
        beat = Beat(dice.choice(videos), ((at, at + 5),), at + 5, VIDEO_S, "playing", seek)
        at += 5
        happened = ended_ms - BEAT_MS * (BEATS - seq)
        entries.append(Entry(seq, session, beat, happened - BEAT_MS, happened, seq))
    return entries


async def _post(
    http: httpx.AsyncClient, user: str, entries: list[Entry], *, now_ms: int | None = None, as_beacon: bool = False
) -> list[Entry]:
    """One envelope; those that its acks cover, none where it was cut off."""
    now_ms = round(wall_ms()) if now_ms is None else now_ms
    said = [heartbeat(entry, "", now_ms).model_dump(mode="json", by_alias=True, exclude_none=True) for entry in entries]
    body = httpx.Request("POST", "http://x", json={"userId": user, "session": entries[0].session, "heartbeats": said})
    kind = "text/plain" if as_beacon else "application/json"
    answer = await http.post("/progress/realtime", content=body.content, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    acks = {ack["session"]: ack["seq"] for ack in answer.json()["acks"] if not ack.get("rejected")}
    return [entry for entry in entries if entry.seq <= acks.get(entry.session, 0)]


def _http(s: Scene) -> httpx.AsyncClient:
    """Straight to the service."""
    return httpx.AsyncClient(base_url=s.service.running.http, timeout=60, trust_env=False)
