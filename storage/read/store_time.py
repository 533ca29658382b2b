"""The store's clock, which all nodes go by."""

from redis.exceptions import NoPermissionError, RedisError

from playhead.storage.connection.link import Link, checked
from playhead.storage.errors import StoreUnavailable, TimeNotAllowed
from playhead.storage.keys import Keys


async def store_time(link: Link, keys: Keys) -> int:
    """ms since 1970 by the store's clock; on a cluster, by that of the primary which has the epoch.

    Raises:
        TimeNotAllowed: the store's user may not run TIME.
        StoreUnavailable: no answer.
    """
    primary = await link.primary_for(keys.epoch)
    try:
        seconds, us = map(int, checked(await primary.ask([("TIME",)]))[0])
    except (RedisError, OSError, TypeError, ValueError) as error:
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
    except StoreUnavailable as error:
        if isinstance(error.__cause__, NoPermissionError):
            raise TimeNotAllowed(str(error)) from error
        raise
    return seconds * 1_000 + us // 1_000
