"""One server that takes writes, by its address or as sentinels name it: pipelines over a pool of connections."""

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
from playhead.storage.connection.pipeline import Command, closing, exchange, exchanging

MAX_CONNECTIONS = 64
"""To one server, from one process; who finds none free waits."""
RETRIES, RETRY_S = 1, (0.01, 0.01)
"""Of redis-py, for a connection and for a pipeline: what was only a connection that had gone stale works then. All else
is for loops of ours, which wait longer."""


class Primary:
    """A pool, and what goes through it.

    Args:
        name: "" for a single server, host:port on a cluster.
        scripts: Lua texts that the server must know.
    """

    def __init__(self, name: str, pool: ConnectionPool, scripts: Sequence[str]) -> None:
        exchanging(pool)
        self.name = name
        self.pool = pool
        self.redis: Redis = Redis.from_pool(pool)
        self._scripts = scripts

    async def ask(self, commands: list[Command]) -> list[Any]:
        """Replies, or in their places the errors, of one round trip; forgotten scripts are loaded, and all sent again.

        Raises:
            RedisError, OSError: no answer, or not in time; any of them may have been carried out.
        """
        replies = await self.pipeline(commands)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self.pipeline([("SCRIPT", "LOAD", text) for text in self._scripts])
            replies = await self.pipeline(commands)
        return replies

    async def pipeline(self, commands: list[Command]) -> list[Any]:
        """As `ask`, without a word about scripts."""
        with kept_cancellation():
            return await exchange(self.redis, commands)

    async def aclose(self) -> None:
        """Cut all connections, and let none come; whoever waits for an answer gets an error."""
        sentinels = self.pool.sentinel_manager.sentinels if isinstance(self.pool, SentinelConnectionPool) else []
        for client in (self.redis, *sentinels):
            closing(client.connection_pool)
            await client.aclose()


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Asks the sentinels at each new connection; who finds none free waits."""


class _Counted(AbstractBackoff):
    """redis-py's delays are ours, and counted, of all connections together."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff

    def compute(self, failures: int) -> float:
        return self._backoff.next_s()

    def __deepcopy__(self, memo: object) -> Self:
        """Each connection makes a copy."""
        return self


def pool_of(options: Mapping[str, Any], timeout_s: float, retrying: Backoff) -> ConnectionPool:
    """Connections to one server. retrying: of RETRY_S, told how often something was tried again."""
    return BlockingConnectionPool(**{**_bounds(timeout_s, retrying), **options})


def sentinel_pool(address: Address, timeout_s: float, retrying: Backoff) -> ConnectionPool:
    """Connections to the server that the sentinels of `address` name.

    They are asked in turn, each once and for its share of the time: one that is silent does not hide the others.
    Where it is no primary any more it refuses to write; redis-py then drops the connection and asks again.
    """
    ours = _bounds(timeout_s, retrying)
    share_s = timeout_s / (len(address.hosts) + 1)
    bounds = {"socket_timeout": share_s, "socket_connect_timeout": share_s, "retry": Retry(NoBackoff(), 0)}
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call] # redis-py has no types here
        address.hosts, sentinel_kwargs={**bounds, **address.sentinel_options}
    )
    for client in sentinels.sentinels:
        exchanging(client.connection_pool)
    options = dict(address.options)
    secure = options.pop("connection_class", None) is not None
    for name in ("host", "port"):
        options.pop(name, None)
    options = {**ours, **options, "ssl": secure}
    return _SentinelPool(address.service, sentinels, **options)  # type: ignore[no-untyped-call] # nor here


def node_pool(address: Address, host: str, port: int, timeout_s: float, retrying: Backoff) -> ConnectionPool:
    """Connections to one node of the cluster of `address`."""
    return pool_of({**address.options, "host": host, "port": port}, timeout_s, retrying)


def _bounds(timeout_s: float, retrying: Backoff) -> dict[str, Any]:
    return {
        "max_connections": MAX_CONNECTIONS,
        "timeout": timeout_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(_Counted(retrying), RETRIES),
    }
