"""Stored values that Playhead did not write: by hand, by another program, or by a damaged disk."""

import asyncio
import contextlib
from uuid import uuid4

import redis

from playhead.storage.keys import Keys
from tests.device import Device, device
from tests.faults.effort import Effort
from tests.faults.scene import Row, scene
from tests.random_damage import KINDS, RandomDamage

PLAYS = 40
WHOLE = "learner", "revision"
"""Kinds of damage that are left out: with them no report of the learner would be stored at all."""


async def damaged(place: str, effort: Effort) -> list[Row]:
    """Damage the values of a learner with two devices, and of a video that only this learner watches.

    Their reports are in the same flushes as all others. The learner gets an ack or a rejection for each report, and is
    not disconnected.
    """
    row = Row("values of one learner and one video are damaged", place)
    async with scene(place) as s:

        async def fault() -> None:
            learner, videos = str(uuid4()), [str(uuid4()), str(uuid4())]
            kinds = [kind for kind in KINDS if kind not in WHOLE]
            harm = RandomDamage(Keys(), str(s.dice.random()), [learner], videos, kinds)
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
                                with contextlib.suppress(redis.ResponseError):  # the key already has another type
                                    await asyncio.to_thread(client.execute_command, *command)

            async with device(s.service.running, learner) as one, device(s.service.running, learner) as other:
                await asyncio.gather(plays(one), plays(other), does_harm())
            row.remark = f"{refused} reports of that learner were refused in the last run"
            if not refused:
                row.wrong.append("no report met a damaged value")

        return [await s.under(row, fault, effort.times(10, 1))]
