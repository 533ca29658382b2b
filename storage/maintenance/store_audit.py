"""Audits an operator's own store: who else can connect, whether the connection is encrypted, what is persisted.

The audit only reads. Whatever the store's user may not read (managed stores allow little) is reported once.
"""

import asyncio
import ssl
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import MovedError, RedisError

from playhead.storage.connection.cancellation import kept_cancellation
from playhead.storage.connection.link import Link
from playhead.storage.connection.primary import Primary
from playhead.storage.errors import StoreUnavailable

LOOKUP_S = 5.0
"""The longest wait for the address of a store's host."""
CREDENTIALS = frozenset({"username", "password", "credential_provider", "ssl_certfile", "ssl_keyfile", "ssl_password"})


class _NotShown(Exception):
    """The store does not allow a check; the message says what was to be checked."""


async def concerns(link: Link) -> list[str]:
    """Audit the store: one sentence for each concern, even if it applies to several primaries.

    No sentence contains a part of the store's URL. Errors of the store are not raised.
    """
    found: dict[str, None] = {}
    not_shown: dict[str, None] = {}
    with kept_cancellation(), suppress(StoreUnavailable):
        for primary in await link.primaries():
            local = await _is_local(primary)
            for check in (_encryption, _access, _persistence, _eviction):
                try:
                    sentence = await check(primary, local)
                except _NotShown as what:
                    not_shown[str(what)] = None
                else:
                    found |= {sentence: None} if sentence else {}
    if not_shown:
        found[f"The store does not show its settings, so it could not be checked {' and '.join(not_shown)}."] = None
    return list(found)


async def _encryption(primary: Primary, local: bool) -> str:
    pool = primary.pool
    if not issubclass(pool.connection_class, SSLConnection):
        return "" if local else "The connection to the store is not encrypted: use rediss:// and a store with TLS."
    wanted = pool.connection_kwargs.get("ssl_cert_reqs", "required")
    if wanted in ("required", ssl.CERT_REQUIRED) and pool.connection_kwargs.get("ssl_check_hostname", True):
        return ""
    return "The store's certificate is not fully verified: another server could impersonate the store."


async def _access(primary: Primary, local: bool) -> str:
    """Whether a client without our credentials can connect, tested by connecting as one.

    On the store's own machine this proves nothing about other machines, but such a client may ask where it listens.
    """
    pool = primary.pool
    given = {name: value for name, value in pool.connection_kwargs.items() if name not in CREDENTIALS}
    strangers = BlockingConnectionPool(max_connections=1, connection_class=pool.connection_class, **given)
    async with Redis.from_pool(strangers) as stranger:
        try:
            await stranger.get("ph:epoch")
        except MovedError:
            pass  # a node of a cluster that accepted us and does not have this key
        except (RedisError, OSError):
            return ""
        if local and not await _listens_to_others(stranger):
            return ""
    return "The store accepts connections without a password: turn its default user off."


async def _listens_to_others(stranger: "Redis") -> bool:
    config = await _config(stranger, "bind", "protected-mode", "port", "tls-port")
    if config is None:
        raise _NotShown("who else can reach it")
    ports = {config.get("port", "0"), config.get("tls-port", "0")} - {"0"}
    elsewhere = any(not _is_loopback(address.lstrip("-")) for address in config.get("bind", "").split())
    return bool(ports) and elsewhere and config.get("protected-mode") != "yes"


async def _persistence(primary: Primary, local: bool) -> str:
    info = await _info(primary.redis, "persistence")
    if info is None:
        raise _NotShown("whether it keeps anything on disk")
    if info.get("aof_enabled"):
        return ""
    config = await _config(primary.redis, "save")
    if config is not None and config["save"] == "":
        return "The store keeps nothing on disk, so all progress is lost when it ends: turn its appendonly on."
    return (
        "The store keeps no append-only file, so progress since its last snapshot, if it takes any, is lost when it "
        "ends: turn its appendonly on."
    )


async def _eviction(primary: Primary, local: bool) -> str:
    info = await _info(primary.redis, "memory")
    if info is None:
        raise _NotShown("whether it evicts records")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if not info.get("maxmemory") or policy == "noeviction":
        return ""
    if policy.startswith("allkeys"):
        lost = "it deletes whole records of learners, or the totals of videos"
    else:
        lost = (
            "it deletes keys before they expire; records do not expire, but the list of ended sessions and the counts "
            "of commits do"
        )
    return f"The store's maxmemory-policy is {policy}: when it is full, {lost}. Set noeviction."


async def _info(client: "Redis", section: str) -> dict[str, Any] | None:
    try:
        return dict(await client.info(section))
    except (RedisError, OSError):
        return None


async def _config(client: "Redis", *names: str) -> dict[str, str] | None:
    """Read settings; None if that is not allowed, or the first of them is not shown."""
    found: dict[str | None, str | None] = {}
    try:
        for name in names:
            found |= await client.config_get(name)
    except (RedisError, OSError):
        return None
    return {str(name): value or "" for name, value in found.items()} if names[0] in found else None


async def _is_local(primary: Primary) -> bool:
    """Whether the traffic to the store stays on this machine."""
    pool = primary.pool
    if issubclass(pool.connection_class, UnixDomainSocketConnection):
        return True
    if isinstance(pool, SentinelConnectionPool):
        host = pool.master_address[0] if pool.master_address else ""
    else:
        host = pool.connection_kwargs.get("host", "localhost")
    try:
        async with asyncio.timeout(LOOKUP_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:  # including TimeoutError
        return False
    return all(_is_loopback(str(address[0])) for *_, address in found)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
