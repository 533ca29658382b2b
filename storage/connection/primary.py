"""One server that accepts writes, found by its address or through sentinels: pipelines over a connection pool."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import AbstractBackoff, NoBackoff
from redis.exceptions import NoScriptError

from playhead.storage.backoff import Backoff
from playhead.storage.connection.address import Address
from playhead.storage.connection.cancellation import kept_cancellation
from playhead.storage.connection.pipeline import Command, close_pool, run_pipeline, use_pipelining

MAX_CONNECTIONS = 64
"""Connections to one server from one process; callers wait for a free one."""
RETRIES, RETRY_S = 1, (0.01, 0.01)
"""redis-py's retries of a connection attempt and of a pipeline. They suffice if a connection had only gone stale; all
other failures are left to our own retry loops, which wait longer."""


class Primary:
    """One server and its connection pool.

    Args:
        name: "" for a single server, host:port on a cluster.
        scripts: the Lua scripts to load when the server does not have them.
    """

    def __init__(self, name: str, pool: ConnectionPool, scripts: Sequence[str]) -> None:
        use_pipelining(pool)
        self.name = name
        self.pool = pool
        self.redis: Redis = Redis.from_pool(pool)
        self._scripts = scripts

    async def ask(self, commands: list[Command]) -> list[Any]:
        """Send commands in one round trip and return the replies, error replies included.

        If the server no longer has a script, the scripts are loaded and all commands are sent again.

        Raises:
            RedisError, OSError: there was no answer in time. Any of the commands may have been executed.
        """
        replies = await self.pipeline(commands)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self.pipeline([("SCRIPT", "LOAD", text) for text in self._scripts])
            replies = await self.pipeline(commands)
        return replies

    async def pipeline(self, commands: list[Command]) -> list[Any]:
        """Like `ask`, without loading scripts."""
        with kept_cancellation():
            return await run_pipeline(self.redis, commands)

    async def aclose(self) -> None:
        """Abort all connections and refuse new ones; callers that wait for an answer get an error."""
        sentinels = self.pool.sentinel_manager.sentinels if isinstance(self.pool, SentinelConnectionPool) else []
        for client in (self.redis, *sentinels):
            close_pool(client.connection_pool)
            await client.aclose()


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Asks the sentinels for the address of each new connection; callers wait for a free one."""


class _SharedBackoff(AbstractBackoff):
    """Gives redis-py the delays of our Backoff, which counts the retries of all connections together."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff

    def compute(self, failures: int) -> float:
        return self._backoff.next_s()

    def __deepcopy__(self, memo: object) -> Self:
        """Return this object, because redis-py copies the backoff for each connection."""
        return self


def pool_of(options: Mapping[str, Any], timeout_s: float, retrying: Backoff) -> ConnectionPool:
    """A pool of connections to one server. `retrying` has the delays RETRY_S and counts the retries."""
    return BlockingConnectionPool(**{**_bounds(timeout_s, retrying), **options})


def sentinel_pool(address: Address, timeout_s: float, retrying: Backoff) -> ConnectionPool:
    """A pool of connections to the server that the sentinels of `address` name.

    The sentinels are asked in turn, each once and for its share of the timeout, so that a silent one does not use up
    the time for the others. A server that is no longer the primary refuses writes; redis-py then drops the connection
    and asks the sentinels again.
    """
    ours = _bounds(timeout_s, retrying)
    share_s = timeout_s / (len(address.hosts) + 1)
    bounds = {"socket_timeout": share_s, "socket_connect_timeout": share_s, "retry": Retry(NoBackoff(), 0)}
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call] # redis-py has no types here
        address.hosts, sentinel_kwargs={**bounds, **address.sentinel_options}
    )
    for client in sentinels.sentinels:
        use_pipelining(client.connection_pool)
    options = dict(address.options)
    secure = options.pop("connection_class", None) is not None
    for name in ("host", "port"):
        options.pop(name, None)
    options = {**ours, **options, "ssl": secure}
    return _SentinelPool(address.service, sentinels, **options)  # type: ignore[no-untyped-call] # nor here


def node_pool(address: Address, host: str, port: int, timeout_s: float, retrying: Backoff) -> ConnectionPool:
    """A pool of connections to one node of the cluster of `address`."""
    return pool_of({**address.options, "host": host, "port": port}, timeout_s, retrying)


def _bounds(timeout_s: float, retrying: Backoff) -> dict[str, Any]:
    return {
        "max_connections": MAX_CONNECTIONS,
        "timeout": timeout_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(_SharedBackoff(retrying), RETRIES),
    }
