"""Many learners who watch with the Python client while faults happen.

Some watch live. Others report an evening some hours ago, one report at a time, so that two devices of one learner never
report on the same moment. Some use HTTP only. All report while the gate is open.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from playhead.client import OutboxFull, Playhead, playhead_client
from tests.faults.claims import Claimant
from tests.faults.ledger import Claim, Ledger, Sent, wall_ms

STEP_S = 5.0
EVENING_AGO_S = 12 * 3_600
PATIENCE_S = 90.0
"""Bound on every wait for acks; a fault that takes longer to recover from fails its case."""
CLAIMANTS = 3
DURATIONS_S = (45, 600, 600, 1_800, 3_600, 7_200)
FAST = {"backoff_s": (0.05, 0.5), "websocket_retry_s": 1.0, "poll_s": 5.0, "close_timeout_s": 0.05}


class Player:
    """One device."""

    def __init__(
        self, url: str, client: Playhead, user: str, videos: dict[str, int], dice: random.Random, live: bool
    ) -> None:
        self.url = url
        self.client = client
        self.user = user
        self.wait_s = dice.uniform(0.1, 0.3)
        self.videos = videos
        self._video = ""
        self._dice = dice
        self._live = live
        self._at = dict.fromkeys(videos, 0.0)
        self._happened_s = wall_ms() / 1_000 - EVENING_AGO_S + dice.uniform(0, STEP_S / 4)

    def shift(self, by_s: float) -> None:
        self._happened_s += by_s

    def report(self, video: str | None = None) -> None:
        """Report what was watched since the last report; sometimes, or if `video` is given, after a seek."""
        if video is not None:
            self._report(video)
        elif not self._video or self._dice.random() < 0.12:
            self._report(self._dice.choice(list(self.videos)))
        else:
            self._report(None)

    def report_all(self) -> None:
        for video in self.videos:
            self._report(video)

    def _report(self, seek: str | None) -> None:
        """Report a play; `seek` is the video to seek in, and None continues the current one."""
        if seek is not None:
            self._video = seek
            self._at[self._video] = self._dice.randrange(self.videos[self._video])
        duration = self.videos[self._video]
        start = self._at[self._video]
        end = min(start + (self.wait_s * 2 if self._live else STEP_S), duration)
        self._at[self._video] = end if end < duration else 0.0
        more: dict[str, Any] = {}
        if not self._live:
            self._happened_s += STEP_S
            more = {"age_s": wall_ms() / 1_000 - self._happened_s, "span_s": STEP_S}
        with contextlib.suppress(OutboxFull):  # the outbox is full: the player stops reporting
            self.client.report(self._video, [(start, end)], end, duration=duration, seek=seek is not None, **more)

    async def play(self, gate: asyncio.Event) -> None:
        while True:
            await gate.wait()
            self.report()
            await asyncio.sleep(self.wait_s)


class Fleet:
    """All players of a run."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.players: list[Player] = []
        self.videos: dict[str, int] = {str(uuid4()): duration for duration in DURATIONS_S}
        self.gate = asyncio.Event()
        self.claimants: list[Claimant] = []

    def join(
        self,
        url: str,
        user: str,
        dice: random.Random,
        live: bool = True,
        transports: Sequence[str] = ("ws", "http"),
        videos: dict[str, int] | None = None,
    ) -> Player:
        """Add a device with three of the fleet's videos. The caller enters its client, and then calls `follow`."""
        client = playhead_client(url, device="player", user_id=user, transports=transports, **FAST)  # type: ignore[arg-type]
        player = Player(url, client, user, videos or dict(dice.sample(sorted(self.videos.items()), 3)), dice, live)
        self.players.append(player)
        return player

    def follow(self, player: Player) -> None:
        """Note in the ledger what its outbox sends."""
        engine = player.client._engine
        assert engine is not None
        engine.outbox._keeper = self.ledger.keeper(player.user)

    def lap(self) -> None:
        """Each player reports on each of its videos once more."""
        for player in self.players:
            player.report_all()

    async def acked(self, sent: "list[Sent | Claim]") -> None:
        """Wait until all of these are acked. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE_S):
            while not all(each.acked_ms for each in sent):  # noqa: ASYNC110 an ack of any of many players
                await asyncio.sleep(0.01)

    async def more(self, heartbeats: int) -> None:
        """Wait until this many more heartbeats are acked. Raises TimeoutError."""
        goal = self.ledger.acks + heartbeats
        async with asyncio.timeout(PATIENCE_S):
            while self.ledger.acks < goal:  # noqa: ASYNC110 an ack of any of many players
                await asyncio.sleep(0.01)

    async def quiet(self, seconds: float) -> None:
        """Wait until nothing has been acked for `seconds`. Raises TimeoutError."""
        acks = -1
        async with asyncio.timeout(PATIENCE_S):
            while acks != self.ledger.acks:
                acks = self.ledger.acks
                await asyncio.sleep(seconds)

    async def settle(self) -> list[str]:
        """Stop reporting, wait until every report is acked, and sync. Returns a line for each failure."""
        self.gate.clear()
        wrong = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                for player in self.players:
                    await player.client.flush()
                await asyncio.gather(*(player.client.refresh() for player in self.players))
                await self.acked(self.ledger.unacked())
        except TimeoutError:
            wrong.append(f"{len(self.ledger.unacked())} heartbeats were not acked in {PATIENCE_S:g} s")
        for player in self.players:
            wrong += [f"{player.user}: rejected: {rejection}" for rejection in player.client.rejected]
        return wrong


@contextlib.asynccontextmanager
async def fleet(
    urls: Sequence[str], ledger: Ledger, size: int, dice: random.Random, http: bool = True, live: bool = False
) -> AsyncIterator[Fleet]:
    """Connect `size` devices to the nodes of the service in turn. Of each six, two belong to one learner and three are
    live; one of these uses HTTP only."""
    opened = Fleet(ledger)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(size):
            kind = number % 6
            user = opened.players[-1].user if kind == 1 else str(uuid4())
            transports = ("http",) if http and kind == 5 else ("ws", "http") if http else ("ws",)
            player = opened.join(
                urls[number % len(urls)], user, random.Random(dice.random()), live or kind >= 3, transports
            )
            if kind == 1:
                player.shift(STEP_S / 2)
            await stack.enter_async_context(player.client)
            opened.follow(player)
        if http:
            claimed = sorted(opened.videos)[:CLAIMANTS]
            opened.claimants = [Claimant(urls[n % len(urls)], video, ledger) for n, video in enumerate(claimed)]
        everybody: list[Player | Claimant] = [*opened.players, *opened.claimants]
        tasks = [asyncio.create_task(each.play(opened.gate)) for each in everybody]
        opened.gate.set()
        try:
            yield opened
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        died = [each for each in ended if isinstance(each, Exception)]
        if died:
            raise died[0]
