"""A dual-stack socket (`--host ::`): a peer that connects by IPv4 is known by its IPv4 address everywhere."""

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from playhead.server.limits.rates import network_of, unmapped
from playhead.server.security.gate import Gate
from playhead.server.settings import Settings
from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.missing import missing
from tests.serving import Running, serving

pytestmark = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)  # independent of the store


@contextlib.asynccontextmanager
async def dual(store: StoreServer, prefix: str, **settings: Any) -> AsyncIterator[Running]:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        missing("this machine has no IPv6")
    async with serving(dual_stack=True, redis_url=store.url, key_prefix=prefix, **settings) as server:
        yield server


def client(server: Running, host: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False, headers=headers)


async def handshake(server: Running, host: str = "127.0.0.1", **headers: str) -> int:
    """The status of a WebSocket handshake."""
    where = f"ws://{f'[{host}]' if ':' in host else host}:{server.port}/ws"
    try:
        async with connect(where, additional_headers=headers, proxy=None):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
async def test_the_client_address_of_a_connection(
    store_server: StoreServer, prefix: str, monkeypatch: pytest.MonkeyPatch, host: str, expected: str
) -> None:
    """ASGI's `client`, of requests and of WebSockets."""
    seen: list[tuple[str, str]] = []
    original = Gate.__call__

    async def looked_at(self: Gate, scope: Any, *args: Any) -> None:
        if scope["type"] != "lifespan":
            seen.append((scope["type"], scope["client"][0]))
        await original(self, scope, *args)

    monkeypatch.setattr(Gate, "__call__", looked_at)
    async with dual(store_server, prefix) as server, client(server, host) as api:
        assert (await api.get("/livez")).status_code == 200
        assert await handshake(server, host) == 101
    assert seen == [("http", expected), ("websocket", expected)]


@pytest.mark.parametrize("proxies", ["127.0.0.1", "127.0.0.0/8", "::ffff:127.0.0.1", "::ffff:127.0.0.0/104"])
async def test_a_trusted_proxy_is_recognized(store_server: StoreServer, prefix: str, proxies: str) -> None:
    """The service's own page, which the proxy serves by https, is accepted. The same claim by another peer is not."""
    async with dual(store_server, prefix, trusted_proxies=proxies) as server:
        for host, status in (("127.0.0.1", 200), ("::1", 403)):
            async with client(server, host) as api:
                page = {"Origin": str(api.base_url).rstrip("/").replace("http", "https"), "X-Forwarded-Proto": "https"}
                assert (await api.get("/livez", headers=page)).status_code == status
            assert await handshake(server, host, **page) == {200: 101}.get(status, status)


async def test_learners_behind_a_trusted_proxy_pay_for_themselves(store_server: StoreServer, prefix: str) -> None:
    """Each address has its own rate, through one proxy or two, in whichever form they write an address."""
    limits = {"address_requests_burst": 2, "address_requests_per_s": 0.001}
    async with dual(store_server, prefix, trusted_proxies="127.0.0.1,10.0.0.0/8", **limits) as server:
        path = "/progress/0f8fad5b-d9cb-469f-a165-70867728950e"
        for first in ("203.0.113.1", "203.0.113.2", "::ffff:203.0.113.3", "2001:db8::1"):
            for chain in (first, f"{first}, 10.0.0.1", f"{first}, ::ffff:10.0.0.1"):
                async with client(server, **{"X-Forwarded-For": chain}) as api:
                    expected = 429 if chain.endswith("ffff:10.0.0.1") else 200  # the third request of this address
                    assert (await api.get(path)).status_code == expected, chain
        async with client(server, **{"X-Forwarded-For": "203.0.113.3"}) as api:
            assert (await api.get(path)).status_code == 429, "it is the same address, written as a mapped one"


@pytest.mark.parametrize(
    ("address", "expected", "network"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1", "192.0.2.1"),
        ("0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::192.0.2.1", "::192.0.2.1", "::/64"),
        ("2001:db8::ffff:c000:201", "2001:db8::ffff:c000:201", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::/64"),
        ("::1", "::1", "::/64"),
        ("a:b", "a:b", "a:b"),
        ("", "", ""),
    ],
)
def test_which_addresses_are_mapped(store_server: StoreServer, address: str, expected: str, network: str) -> None:
    """Only those in ::ffff:0:0/96."""
    assert (unmapped(address), network_of(address)) == (expected, network)


def test_a_mapped_network_in_a_setting_is_an_ipv4_network(store_server: StoreServer) -> None:
    given = "::ffff:10.0.0.0/104, ::ffff:192.0.2.1, 127.0.0.1, 2001:db8::/32, ::/0"
    expected = ("10.0.0.0/8", "192.0.2.1/32", "127.0.0.1/32", "2001:db8::/32", "::/0")
    assert Settings(trusted_proxies=given).trusted_proxies == expected
