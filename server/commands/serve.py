"""`playhead serve`: opens the port, starts or checks the store, runs the workers, and prints the ready line.

The order is that in which a start can fail, so that nothing is left behind by one that does.
"""

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
from playhead.server.commands.errors import CommandError
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


def serve(settings: Settings) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP.

    Raises:
        CommandError: the port, the data directory, the store or the token key cannot be used.
    """
    try:
        Authenticator(settings)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if settings.foreign_tokens:
        logger.warning(
            "jwt_audience is not set: tokens that the issuer signs for other services are accepted too; set "
            "jwt_audience, or jwt_any_audience if that is intended"
        )
    too_low = raise_limit(settings)
    # uvicorn raises the signal that ended it again; by default SIGTERM would then end the process before our cleanup.
    for number in set(ending()) - {signal.SIGINT}:
        signal.signal(number, _exit)
    store_restarts, worker_restarts = SharedCount(), SharedCount()
    with _listen(settings) as listener, _store(settings, store_restarts.add) as stored:
        asyncio.run(_check(stored, external=settings.redis_url is not None))
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
    """The configuration of uvicorn, in the service and in tests, with every bound that uvicorn offers.

    Args:
        store_restarts, worker_restarts: as for `create_app`, and picklable because worker processes receive them.
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
        # The last quarter; the drain uses the other three (lifecycle/drain.py).
        timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s / 4)),
    )


def _forms(network: str) -> tuple[str, ...]:
    """The notations of a network in X-Forwarded-For: a proxy on a dual-stack socket writes IPv4 as mapped into IPv6."""
    parsed = ip_network(network)
    if isinstance(parsed, IPv6Network):
        return (network,)
    return network, f"::ffff:{parsed.network_address}/{96 + parsed.prefixlen}"


def bound(listener: socket.socket, settings: Settings) -> None:
    """Limit how long the kernel waits for a peer to take data, also after we have closed the connection.

    Accepted connections inherit the option.
    """
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
            raise CommandError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
                "stop the program that uses the port, or set another --port"
            ) from None
        yield listener


@contextlib.contextmanager
def _store(settings: Settings, on_restart: Callable[[], None]) -> Iterator[Settings]:
    """The settings with a `redis_url`. Without one, the embedded store runs until the context ends and has it."""
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
        raise CommandError(str(error)) from error
    finally:
        with held_back():
            valkey.stop()


async def _check(settings: Settings, external: bool) -> None:
    """Check that the store can be used, and log what its operator should know.

    Args:
        external: not the embedded store, so its configuration is audited too.
    """
    try:
        store = create_store(settings)
    except (ValueError, TypeError) as error:
        raise CommandError(f"--redis-url is not valid: {error}") from None
    try:
        await store.check()
        for sentence in (*await store.notes(), *(await store.audit() if external else ())):
            logger.warning("%s", sentence)
        clock = await StoreClock.of(store, or_machine=True)
        logger.log(logging.WARNING if clock.note else logging.INFO, "%s", clock)
    except StoreUnavailable as error:
        right = lacked_right(error)
        remedy = f"; its user lacks {right}: compare it with user playhead in examples/playhead.acl" if right else ""
        raise CommandError(f"the store at --redis-url cannot be used: {error}{remedy}") from None
    finally:
        await store.close()


def _exit(*_: Any) -> None:
    ignore_hangup()
    sys.exit(0)


def _announce(settings: Settings, port: int) -> None:
    """Print the ready line once `/readyz` answers 200."""
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
    logger.error("The service is not ready after %.0f s: see /readyz and the lines above", READY_TIMEOUT_S)
