"""Heartbeats of one session that arrive twice, late or in another order, in envelopes by POST and by WebSocket."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx

from playhead.client.outbox import Beat, Entry, heartbeat
from tests.device import device
from tests.faults.effort import Effort
from tests.faults.ledger import wall_ms
from tests.faults.scene import Row, Scene, scene

BEATS = 40
BEAT_MS = 5_000
VIDEO_S = 3_600


async def envelopes(place: str, effort: Effort) -> list[Row]:
    """Envelopes of random size are sent twice, in another order, and late.

    A heartbeat that arrives after newer ones of its session counts as seen and not as played again; the model joins
    them in the order of arrival.
    """
    rows = []
    async with scene(place, players=12) as s, straight(s) as http:
        for name, session in (
            ("envelopes arrive twice", lambda: _by_post(s, http)),
            ("envelopes arrive twice, at the same time", lambda: _by_post(s, http, at_once=True)),
            ("envelopes arrive twice and in any order", lambda: _by_post(s, http, shuffled=True)),
            ("heartbeats arrive by two sockets at the same time", lambda: _by_sockets(s)),
            ("heartbeats arrive in any order, by one socket and another", lambda: _by_sockets(s, shuffled=True)),
        ):

            async def fault(session: Callable[[], Awaitable[None]] = session) -> None:
                sessions = (session() for _ in range(effort.times(40, 3)))
                await asyncio.gather(*sessions)  # each is another learner's, because an ack may take a second

            rows.append(await s.under(Row(name, place), fault))
        return rows


async def _by_post(s: Scene, http: httpx.AsyncClient, *, shuffled: bool = False, at_once: bool = False) -> None:
    """Send one learner's evening in envelopes. Ages are those of the first sending, so late ones seem younger."""
    user, entries = str(uuid4()), _evening(s, s.dice)
    envelopes = []
    while entries:
        size = s.dice.randrange(1, 12)
        envelopes.append(entries[:size])
        entries = entries[size:]
    for entry in (entry for envelope in envelopes for entry in envelope):
        s.ledger.send(user, entry)
    envelopes = [envelope for envelope in envelopes for _ in range(2)]
    if shuffled:
        s.dice.shuffle(envelopes)
        s.ledger.order[envelopes[0][0].session] = [entry for envelope in envelopes for entry in envelope]
    now_ms = round(wall_ms())
    while envelopes:
        posts = [post(http, user, envelopes.pop(0), now_ms=now_ms) for _ in range(2 if at_once else 1)]
        for acked in await asyncio.gather(*posts):
            for entry in acked:
                s.ledger.ack(s.ledger.sent[entry.session, entry.seq])


async def _by_sockets(s: Scene, *, shuffled: bool = False) -> None:
    """Send one learner's whole evening by each of two connections, as if a client was disconnected, sent everything
    again, and the first transmission arrived too: both at the same time, or one after the other in different orders."""
    user, entries, now_ms = str(uuid4()), _evening(s, s.dice), round(wall_ms())
    for entry in entries:
        s.ledger.send(user, entry)
    if not shuffled:
        await asyncio.gather(*(_by_socket(s, user, entries, now_ms) for _ in range(2)))
        return
    arrived = s.ledger.order[entries[0].session] = []
    for _ in range(2):
        # The newest is sent last, because its ack means that all before it are stored.
        some = [*s.dice.sample(entries[:-1], len(entries) - 1), entries[-1]]
        arrived += some
        await _by_socket(s, user, some, now_ms)


async def _by_socket(s: Scene, user: str, entries: list[Entry], now_ms: int) -> None:
    session = entries[0].session
    async with device(s.service.running, user, session) as opened:
        for entry in entries:
            await opened.send(**_message(entry, now_ms))
        ack = await opened.acked(entries[-1].seq)
    assert not ack["rejected"], ack
    assert not ack["capped"], ack
    for entry in entries:
        s.ledger.ack(s.ledger.sent[session, entry.seq])


def _evening(s: Scene, dice: random.Random) -> list[Entry]:
    """Heartbeats of one session on two videos, some hours ago."""
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


async def post(
    http: httpx.AsyncClient, user: str, entries: list[Entry], *, now_ms: int | None = None, as_beacon: bool = False
) -> list[Entry]:
    """Send one envelope, and return the entries that its acks cover."""
    now_ms = round(wall_ms()) if now_ms is None else now_ms
    beats = [_message(entry, now_ms) for entry in entries]
    body = httpx.Request("POST", "http://x", json={"userId": user, "session": entries[0].session, "heartbeats": beats})
    kind = "text/plain" if as_beacon else "application/json"
    answer = await http.post("/progress/realtime", content=body.content, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    acks = {ack["session"]: ack["seq"] for ack in answer.json()["acks"] if not ack.get("rejected")}
    return [entry for entry in entries if entry.seq <= acks.get(entry.session, 0)]


def _message(entry: Entry, now_ms: int) -> dict[str, Any]:
    return heartbeat(entry, "", now_ms).model_dump(mode="json", by_alias=True, exclude_none=True)


def straight(s: Scene) -> httpx.AsyncClient:
    """A client that connects to the service directly, without the relay."""
    return httpx.AsyncClient(base_url=s.service.running.http, timeout=60, trust_env=False)
