"""Checks whether each lane to the store works now: commands and subscriptions, on a cluster at each primary.

A hello needs both, at the primary that has the learner's records. A lane works if it answers within the time that a
hello would wait for it.
"""

import asyncio
from typing import NamedTuple

from playhead.storage.connection.link import Link, checked
from playhead.storage.connection.subscriptions import Subscriptions
from playhead.storage.errors import StoreUnavailable
from playhead.storage.keys import Keys


class Lane(NamedTuple):
    """The state of a lane. Its name contains no address, so it may be shown to everyone."""

    name: str
    works: bool


async def lanes(link: Link, keys: Keys, subscriptions: Subscriptions, timeout_s: float) -> list[Lane]:
    """Check all lanes at once, each for at most `timeout_s`. Those for commands come first in the result.

    Raises:
        StoreUnavailable: no node of the cluster answers, so its primaries are unknown.
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
    at = {name: (slots, key) for name, slots in link.locations().items() if (key := _key_at(link, keys, name))}
    unconfirmed, answered = await asyncio.gather(
        subscriptions.unconfirmed_primaries(), asyncio.gather(*(answers(key) for _, key in at.values()))
    )
    works = {
        "commands": dict(zip(at, answered, strict=True)),
        "subscriptions": {name: name not in unconfirmed for name in at},
    }
    return [Lane(f"{lane} {at[name][0]}".rstrip(), well) for lane, by in works.items() for name, well in by.items()]


def _key_at(link: Link, keys: Keys, primary: str) -> str:
    """A key at this primary that is never written; "" if no partition, and so no learner, is there."""
    if not link.tags:
        return keys.epoch
    found = (keys.fence("probe", tag) for tag in link.tags)
    return next((key for key in found if link.primary_of(key) == primary), "")
