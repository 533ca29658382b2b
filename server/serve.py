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
from collections.abc import Iterator

import uvicorn
from uvicorn.supervisors import Multiprocess

from server.app import PLAYER_PAGE, create_app, create_store
from server.settings import Settings
from storage.embedded import EmbeddedStoreFailed, EmbeddedValkey
from storage.store import StoreUnavailable

logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 60.0
BACKLOG = 2_048


class CannotServe(Exception):
    """The service can't start; the message is one sentence for whoever started it."""


def serve(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM.

    Raises:
        CannotServe: the port, the data directory or the store can't be had.
    """
    # uvicorn raises the signal that ended it once more; by default SIGTERM would then cut off our own endings.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listen(settings) as listener, _store(settings) as stored:
        asyncio.run(_check(stored))
        config = uvicorn_config(stored)
        port = listener.getsockname()[1]
        threading.Thread(target=_announce, args=(settings.host, port), daemon=True).start()
        if settings.workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])


def uvicorn_config(settings: Settings) -> uvicorn.Config:
    """How uvicorn is run, also by the tests: what it can be told to bound, it is told here."""
    return uvicorn.Config(
        functools.partial(create_app, settings),
        factory=True,
        workers=settings.workers,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=settings.max_frame_bytes,
        ws_per_message_deflate=False,
        lifespan="on",
        access_log=False,  # it logs query strings
        log_level="warning",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=10,
    )


@contextlib.contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise CannotServe(
                f"can't listen on {settings.host}:{settings.port} ({error.strerror}): "
                "stop what listens there, or give another --port"
            ) from None
        yield listener


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[Settings]:
    """Settings with a `redis_url`: the embedded store's, which then runs as long as we do, where none is given."""
    if settings.redis_url is not None:
        yield settings
        return
    durability = settings.durability or "fsync"
    try:
        with EmbeddedValkey(settings.data_dir, fsync=durability == "fsync") as valkey:
            yield settings.model_copy(update={"redis_url": valkey.url, "durability": durability})
    except EmbeddedStoreFailed as error:
        raise CannotServe(str(error)) from error


async def _check(settings: Settings) -> None:
    try:
        store = create_store(settings)
    except (ValueError, TypeError) as error:
        raise CannotServe(f"--redis-url is not one: {error}") from None
    try:
        await store.check()
    except StoreUnavailable as error:
        raise CannotServe(f"the store at --redis-url can't be used: {error}") from None
    finally:
        await store.close()


def _announce(host: str, port: int) -> None:
    """Say that we are ready when a request has shown it."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
                page = f"; the player page is {address}/" if PLAYER_PAGE.is_dir() else ""
                print(f"Playhead is ready on {address}{page}", flush=True)
                return
        time.sleep(0.05)
    logger.error("Not ready after %.0f s", READY_TIMEOUT_S)
