"""Values in the store that no process of ours has written: by hand, by another program, or by a disk."""

import asyncio
import contextlib
from uuid import uuid4

import redis

from playhead.storage.keys import Keys
from tests.device import Device, device
from tests.faults.effort import Effort
from tests.faults.scene import Row, scene
from tests.harm import KINDS, Harm

PLAYS = 40
WHOLE = "learner", "revision"
"""Of these no report would be stored any more; what is refused by the record is of more kinds."""


async def damaged(place: str, effort: Effort) -> list[Row]:
    """All that is stored of a learner who plays on two devices, and of a video that nobody else watches; their reports
    are in the same flushes as all others. The learner is told what became of each report, and is not sent away."""
    row = Row("values of one learner and one video are damaged", place)
    async with scene(place) as s:

        async def fault() -> None:
            learner, videos = str(uuid4()), [str(uuid4()), str(uuid4())]
            kinds = [kind for kind in KINDS if kind not in WHOLE]
            harm = Harm(Keys(), str(s.dice.random()), [learner], videos, kinds)
            refused = 0

            async def plays(on: Device) -> None:
                nonlocal refused
                for n in range(PLAYS):
                    ack = await on.play(s.dice.choice(videos), 5 * n, 5 * n + 5)
                    refused += any(rejection["code"] == "damaged" for rejection in ack["rejected"])

            async def does_harm() -> None:
                (admin,) = s.place.writers()
                with admin() as client:
                    for n in range(PLAYS):
                        for commands in harm(n):
                            for command in commands:
                                with contextlib.suppress(redis.ResponseError):  # what it is of another type already
                                    await asyncio.to_thread(client.execute_command, *command)

            async with device(s.service.running, learner) as one, device(s.service.running, learner) as other:
                await asyncio.gather(plays(one), plays(other), does_harm())
            row.remark = f"{refused} reports of that learner were refused in the last run"
            if not refused:
                row.wrong.append("no damage was met")

        return [await s.under(row, fault, effort.times(10, 1))]
