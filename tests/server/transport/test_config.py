"""TCP connections by network: how many there may be, and which of them counts for whom."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from playhead.protocol.errors import Problem
from playhead.server.limits.answer_memory import AnswerMemory
from playhead.server.limits.body_memory import Kind, Payer
from playhead.server.settings import Settings
from playhead.server.transport import config as module
from playhead.server.transport.config import (
    PeerMistakeFilter,
    ServiceConfig,
    TcpConnection,
    error_response,
    most_connections,
)
from playhead.server.transport.counts import TrafficCounts
from tests.device import PATIENCE_S

ADDRESS, OTHER = ("203.0.113.7", 5_000), ("203.0.113.8", 5_000)


def configured(**settings: object) -> ServiceConfig:
    return ServiceConfig(Settings(**settings), app="none:none")  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def transports(count: int) -> AsyncIterator[list[asyncio.Transport]]:
    """The server's transports of `count` real connections."""
    accepted: list[asyncio.Transport] = []

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            accepted.append(transport)

    loop = asyncio.get_running_loop()
    listener = await loop.create_server(Accepting, "127.0.0.1", 0)
    clients = [await loop.create_connection(asyncio.Protocol, *listener.sockets[0].getsockname()) for _ in range(count)]
    async with asyncio.timeout(PATIENCE_S):
        while len(accepted) < count:  # noqa: ASYNC110 the kernel tells of no event
            await asyncio.sleep(0.001)
    try:
        yield accepted
    finally:
        for transport in (*accepted, *(client for client, _ in clients)):
            transport.abort()
        listener.close()
        await listener.wait_closed()


@pytest.mark.parametrize(
    ("client", "network"),
    [
        (None, ""),
        (ADDRESS, "203.0.113.7"),
        (("10.1.2.3", 5), None),
        (("not an address", 5), "not an address"),
    ],
)
def test_a_trusted_proxy_has_no_network(client: tuple[str, int] | None, network: str | None) -> None:
    """Its connections count for the addresses that it forwards."""
    assert configured(trusted_proxies="10.0.0.0/8").network_of(client) == network


def test_without_proxies_every_address_counts_for_itself() -> None:
    assert configured().network_of(("10.1.2.3", 5)) == "10.1.2.3"


async def test_connections_of_a_network_are_counted_until_they_leave() -> None:
    config = configured()
    async with transports(3) as (first, second, third):
        connections = [TcpConnection(config, ADDRESS, first, None), TcpConnection(config, ADDRESS, second, None)]
        other = TcpConnection(config, OTHER, third, None)
        assert config.peers == {"203.0.113.7": 2, "203.0.113.8": 1}
        assert len(config.newcomers) == 3
        other.mark_authenticated()
        assert len(config.newcomers) == 2
        for connection in (*connections, other):
            connection.leave()
        assert config.peers == {}
        assert len(config.newcomers) == 0
        other.mark_unauthenticated()
        assert len(config.newcomers) == 0, "it has left"
        other.abort()


async def test_one_connection_too_many_is_reset_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_CONNECTIONS", 0)
    config = configured(max_connections_per_address=1, max_newcomers_per_address=1)
    counts = TrafficCounts()
    async with transports(4) as accepted:
        for transport in accepted[:2]:
            TcpConnection(config, ADDRESS, transport, counts).mark_authenticated()
        TcpConnection(config, OTHER, accepted[2], counts)
        assert not any(transport.is_closing() for transport in accepted)
        TcpConnection(config, ADDRESS, accepted[3], counts)
        assert [transport.is_closing() for transport in accepted] == [False, False, False, True]


async def test_the_process_has_a_bound_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_CONNECTIONS", 0)
    config = configured(max_connections=1, max_newcomers=1)
    assert most_connections(config.settings) == 2
    async with transports(3) as accepted:
        for number, transport in enumerate(accepted):
            TcpConnection(config, (f"203.0.113.{number}", 5), transport, None).mark_authenticated()
        assert [transport.is_closing() for transport in accepted] == [False, False, True]


async def test_the_oldest_newcomer_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_CONNECTIONS", 0)
    config = configured(max_newcomers_per_address=1)
    async with transports(3) as accepted:
        silent, valid = (TcpConnection(config, ADDRESS, transport, None) for transport in accepted[:2])
        assert accepted[0].is_closing()
        valid.mark_authenticated()
        TcpConnection(config, ADDRESS, accepted[2], None)
        assert [transport.is_closing() for transport in accepted] == [True, False, False]
        silent.leave()


async def test_unsent_bytes_are_charged_to_the_payer_of_the_request() -> None:
    """A proxy's connection serves one user after the other."""
    memory = AnswerMemory(1 << 30, 1 << 30)
    first, second = (Payer(Kind.USER, name) for name in ("a", "b"))
    async with transports(1) as (transport,):
        connection = TcpConnection(configured(), ADDRESS, transport, None)
        connection.update_unread()
        assert memory.size == 0
        connection.charge_to(first, memory)
        transport.write(b"x" * 30_000_000)
        connection.update_unread()
        assert memory.size == transport.get_write_buffer_size() > 0
        connection.charge_to(first, memory)
        connection.charge_to(second, memory)
        assert memory.size == transport.get_write_buffer_size()
        connection.leave()
        assert memory.size == 0


def test_an_error_response_is_a_whole_answer_that_closes() -> None:
    head, _, body = error_response(Problem.NOT_HTTP, "why").partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    assert first == b"HTTP/1.1 400 The request is not valid HTTP"
    assert b"connection: close" in headers
    assert b"content-length: %d" % len(body) in headers
    assert b"x-content-type-options: nosniff" in headers
    assert b"urn:playhead:problem:not_http" in body


@pytest.mark.parametrize(
    ("line", "kept"), [("Invalid UTF-8 sequence received from client.", False), ("Bind failed", True)]
)
def test_lines_that_any_peer_can_cause_are_dropped(line: str, kept: bool) -> None:
    record = logging.LogRecord("uvicorn.error", logging.WARNING, "file", 1, line, None, None)
    assert PeerMistakeFilter().filter(record) is kept
