"""Faults between players and service: half-open connections, reconnect storms, heartbeats sent by two transports."""

import asyncio
from unittest.mock import patch

from playhead.client import connection, exchange
from tests.faults.cases.envelopes import post, straight
from tests.faults.effort import Effort
from tests.faults.scene import Row, scene

STUCK_S = 0.5
"""Time in which every player has sent something."""


async def half_open(place: str, effort: Effort) -> list[Row]:
    """Half of the connections stop carrying data, and stay open on both sides. The clients notice by their pings."""
    patience_s = effort.either((connection.PING_S, exchange.TIMEOUT_S), (1.0, 2.0))
    with patch.object(connection, "PING_S", patience_s[0]), patch.object(exchange, "TIMEOUT_S", patience_s[1]):
        async with scene(place, line=True) as s:

            async def fault() -> None:
                assert s.line is not None
                s.line.forget(0.5, s.dice)
                await asyncio.sleep(STUCK_S)

            return [await s.under(Row("half of the connections carry nothing", place), fault, effort.times(3, 1))]


async def storm(place: str, effort: Effort) -> list[Row]:
    """All players of two workers are disconnected repeatedly while they reconnect."""
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
    """A tunnel: nothing passes for a while, then everything, late."""
    seconds = effort.either(10, 1)
    async with scene(place, line=True) as s:

        async def fault() -> None:
            assert s.line is not None
            s.line.darken()
            await asyncio.sleep(seconds)
            s.line.lighten()

        name = f"nothing passes to the players for {seconds} s, then everything"
        return [await s.under(Row(name, place), fault, effort.times(3, 1))]


async def beacons(place: str, effort: Effort) -> list[Row]:
    """Each player also sends its unacked heartbeats by POST, as a page does when it unloads. The socket stays open, or
    is reset at the same time and reconnects."""
    async with scene(place, line=True, FLUSH_INTERVAL_S="0.2") as s, straight(s) as http:

        async def fault() -> None:
            assert s.line is not None
            for _ in range(effort.times(20, 4)):
                posts = []
                for player in s.fleet.players:
                    entries = [entry for entry in player.client.pending if entry.seq]
                    if entries:
                        posts.append(post(http, player.user, entries, as_beacon=True))
                if s.dice.random() < 0.5:
                    s.line.reset(0.5, s.dice)
                for acked in await asyncio.gather(*posts):
                    for entry in acked:
                        s.ledger.ack(s.ledger.sent[entry.session, entry.seq])

        return [await s.under(Row("the same heartbeats by beacon and socket", place), fault, effort.times(5, 1))]
