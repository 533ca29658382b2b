"""Backends that report watched durations by the documented REST body, and retry until they get an answer."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from playhead.client import RestError
from playhead.client.credentials import Credentials
from playhead.client.rest import Rest
from tests.faults.ledger import Ledger, wall_ms

AGAIN_S = 0.2


class Claimant:
    """One learner of a backend without heartbeats."""

    def __init__(self, url: str, video: str, ledger: Ledger) -> None:
        self._rest = Rest(url, Credentials(None, None), str(uuid4()))
        self._video = video
        self._ledger = ledger

    async def play(self, gate: asyncio.Event) -> None:
        watched_s = 0
        while True:
            await gate.wait()
            watched_s += 7
            await self._update(watched_s)
            await asyncio.sleep(AGAIN_S)

    async def _update(self, watched_s: int) -> None:
        assert self._rest.user_id is not None
        claim = self._ledger.claim(self._rest.user_id, self._video, watched_s, round(wall_ms()))
        when = datetime.fromtimestamp(claim.at_ms / 1_000, UTC)
        while True:
            try:
                await self._rest.update(self._video, watched_s, when)
            except (RestError, OSError):
                await asyncio.sleep(AGAIN_S)
            else:
                self._ledger.ack(claim)
                return
