"""Starts the service in the order in which things can fail: address, store, workers; then says that it is ready."""

import asyncio
import contextlib
import functools
import http.client
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network, ip_network
from typing import Any

import uvicorn

from playhead.server.app import create_app, create_store
from playhead.server.clock import StoreClock
from playhead.server.commands import logs
from playhead.server.commands.open_files import raise_limit
from playhead.server.commands.shared_count import SharedCount
from playhead.server.commands.workers import Workers
from playhead.server.lifecycle.signals import ending, held_back, ignore_hangup
from playhead.server.rest.pages import PLAYER
from playhead.server.security.tokens import Authenticator
from playhead.server.settings import Settings
from playhead.server.transport.config import ServiceConfig
from playhead.server.transport.fast_path import DirectWebSocket
from playhead.server.transport.http import BoundedHttp
from playhead.server.transport.refusals import Refusals
from playhead.storage.store import EmbeddedStoreFailed, EmbeddedValkey, StoreUnavailable, lacked_right

logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 60.0
BACKLOG = 2_048


class CannotServe(Exception):
    """The service can't start; the message is one sentence for whoever started it."""


def serve(settings: Settings) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP.

    Raises:
        CannotServe: the port, the data directory, the store or the key of tokens can't be had.
    """
    try:
        Authenticator(settings)
    except ValueError as error:
        raise CannotServe(str(error)) from None
    if settings.foreign_tokens:
        logger.warning("jwt_audience is not set: tokens that the issuer signs for other services are accepted, too")
    too_low = raise_limit(settings)
    # uvicorn raises the signal that ended it once more; by default SIGTERM would then cut off our own endings.
    for number in set(ending()) - {signal.SIGINT}:
        signal.signal(number, _end)
    store_restarts, worker_restarts = SharedCount(), SharedCount()
    with _listen(settings) as listener, _store(settings, store_restarts.add) as stored:
        asyncio.run(_check(stored, theirs=settings.redis_url is not None))
        if too_low is not None:
            logger.warning("%s", too_low)
        config = uvicorn_config(stored, logs.config(settings.log_level), store_restarts, worker_restarts)
        port = listener.getsockname()[1]
        threading.Thread(target=_announce, args=(settings, port), daemon=True).start()
        if settings.workers > 1:
            Workers(config, [listener], worker_restarts).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])


def uvicorn_config(
    settings: Settings,
    log_config: dict[str, Any] | None,
    store_restarts: Callable[[], int] = int,
    worker_restarts: Callable[[], int] = int,
) -> ServiceConfig:
    """How uvicorn is run, also by the tests: what it can be told to bound, it is told here.

    Args:
        store_restarts, worker_restarts: as for `create_app`, and picklable, for they go to worker processes.
    """
    refusals = Refusals()
    return ServiceConfig(
        settings,
        refusals,
        app=functools.partial(
            create_app,
            settings,
            own_process=True,
            store_restarts=store_restarts,
            worker_restarts=worker_restarts,
            refusals=refusals,
        ),
        factory=True,
        workers=settings.workers,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=BoundedHttp,
        ws=DirectWebSocket,
        ws_max_size=settings.max_frame_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping_interval_s,
        ws_ping_timeout=settings.ping_timeout_s,
        timeout_keep_alive=settings.keep_alive_s,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[form for network in settings.trusted_proxies for form in _forms(network)],
        lifespan="on",
        access_log=False,  # it logs query strings
        log_level="warning",
        log_config=log_config,
        server_header=False,
        timeout_graceful_shutdown=max(
            1, int(settings.drain_timeout_s / 4)
        ),  # lifecycle/drain.py has the other quarters
    )


def _forms(network: str) -> tuple[str, ...]:
    """A network as it may stand in X-Forwarded-For, written by a proxy that listens to both families."""
    parsed = ip_network(network)
    if isinstance(parsed, IPv6Network):
        return (network,)
    return network, f"::ffff:{parsed.network_address}/{96 + parsed.prefixlen}"


def bound(listener: socket.socket, settings: Settings) -> None:
    """Accepted connections inherit it: the kernel ends one whose peer takes no byte, even after we have closed it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1_000 * settings.write_timeout_s))


@contextlib.contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound(listener, settings)
            listener.bind((settings.host, settings.port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise CannotServe(
                f"can't listen on {settings.host}:{settings.port} ({error.strerror}): "
                "stop what listens there, or give another --port"
            ) from None
        yield listener


@contextlib.contextmanager
def _store(settings: Settings, on_restart: Callable[[], None]) -> Iterator[Settings]:
    """Settings with a `redis_url`: the embedded store's, which then runs as long as we do, where none is given."""
    if settings.redis_url is not None:
        yield settings
        return
    durability = settings.durability or "fsync"
    valkey = EmbeddedValkey(settings.data_dir, fsync=durability == "fsync", on_restart=on_restart)
    try:
        with held_back() as handle_signals:
            valkey.start(handle_signals)
        yield settings.model_copy(update={"redis_url": valkey.url, "durability": durability})
    except EmbeddedStoreFailed as error:
        raise CannotServe(str(error)) from error
    finally:
        with held_back():
            valkey.stop()


async def _check(settings: Settings, theirs: bool) -> None:
    """Of a store that is not our own, say also what its operator should know."""
    try:
        store = create_store(settings)
    except (ValueError, TypeError) as error:
        raise CannotServe(f"--redis-url is not one: {error}") from None
    try:
        await store.check()
        for sentence in (*await store.notes(), *(await store.audit() if theirs else ())):
            logger.warning("%s", sentence)
        clock = await StoreClock.of(store, or_machine=True)
        logger.log(logging.WARNING if clock.note else logging.INFO, "%s", clock)
    except StoreUnavailable as error:
        right = lacked_right(error)
        remedy = f"; its user may not use {right}: compare it with playhead of examples/playhead.acl" if right else ""
        raise CannotServe(f"the store at --redis-url can't be used: {error}{remedy}") from None
    finally:
        await store.close()


def _end(*_: Any) -> None:
    ignore_hangup()
    sys.exit(0)


def _announce(settings: Settings, port: int) -> None:
    """Say that we are ready when a request has shown it."""
    host, deadline = settings.host, time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                page = f"; the player page is {address}/" if settings.serves_demo and PLAYER.is_dir() else ""
                print(f"Playhead is ready on {address}{page}", flush=True)
                return
        time.sleep(0.05)
    logger.error("Not ready after %.0f s", READY_TIMEOUT_S)
