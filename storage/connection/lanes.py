"""Whether each lane to the store works right now: commands and subscriptions, on a cluster at each primary.

A learner who says hello needs both, at the primary that has their records. A lane works if it answers within the time
that a hello would wait for it.
"""

import asyncio
from typing import NamedTuple

from playhead.storage.connection.link import Link, checked
from playhead.storage.connection.subscriptions import Listening
from playhead.storage.errors import StoreUnavailable
from playhead.storage.keys import Keys


class Lane(NamedTuple):
    """The name is for everybody: it holds no address."""

    name: str
    works: bool


async def lanes(link: Link, keys: Keys, listening: Listening, timeout_s: float) -> list[Lane]:
    """All of them, asked at once, each given `timeout_s`; those of commands first.

    Raises:
        StoreUnavailable: it is not known which there are, for no node of the cluster answers.
    """

    async def answers(key: str) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                checked(await link.ask([("GET", key)]))
        except (StoreUnavailable, TimeoutError):
            return False
        return True

    try:
        async with asyncio.timeout(timeout_s):
            await link.primaries()
    except TimeoutError:
        raise StoreUnavailable("no node of the cluster answers in time") from None
    at = {name: (place, key) for name, place in link.places().items() if (key := _key_at(link, keys, name))}
    unheard, answered = await asyncio.gather(
        listening.unheard(), asyncio.gather(*(answers(key) for _, key in at.values()))
    )
    works = {
        "commands": dict(zip(at, answered, strict=True)),
        "subscriptions": {name: name not in unheard for name in at},
    }
    return [Lane(f"{lane} {at[name][0]}".rstrip(), well) for lane, by in works.items() for name, well in by.items()]


def _key_at(link: Link, keys: Keys, primary: str) -> str:
    """One that lives there and that nobody writes; "" where no partition does, and so no learner."""
    if not link.tags:
        return keys.epoch
    found = (keys.fence("probe", tag) for tag in link.tags)
    return next((key for key in found if link.primary_of(key) == primary), "")
