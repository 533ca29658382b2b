"""The link to a single server, and what becomes of error replies."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from playhead.storage.backoff import Backoff
from playhead.storage.connection.address import parse_address
from playhead.storage.connection.link import Single, checked, unavailable
from playhead.storage.connection.pipeline import Command
from playhead.storage.connection.primary import RETRY_S, Primary, pool_of
from playhead.storage.errors import StoreUnavailable
from tests.conftest import StoreServer


class Guard:
    """Counts a key up after the commands, and keeps the replies."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.checked: list[tuple[str, list[Any]]] = []

    def commands(self, primary: str) -> list[Command]:
        return [("INCR", self.key)]

    def check(self, primary: str, replies: list[Any]) -> None:
        self.checked.append((primary, replies))
        if replies == [2]:
            raise StoreUnavailable("the second stage is refused")


@pytest.fixture
async def link(store_server: StoreServer) -> AsyncIterator[Single]:
    link = Single(Primary("", pool_of(parse_address(store_server.url).options, 5.0, Backoff(*RETRY_S)), []))
    yield link
    await link.aclose()


async def test_a_guard_sees_its_own_replies_only(link: Single, prefix: str) -> None:
    guard = Guard(f"{prefix}:fence")
    assert await link.ask([("SET", f"{prefix}:k", "v"), ("GET", f"{prefix}:k")], guard) == [True, b"v"]
    assert guard.checked == [("", [1])]
    with pytest.raises(StoreUnavailable, match="second stage"):
        await link.ask([("SET", f"{prefix}:k", "w")], guard)


async def test_an_error_reply_becomes_unavailable_with_its_cause(link: Single, prefix: str) -> None:
    replies = await link.ask([("SET", f"{prefix}:k", "v"), ("HGET", f"{prefix}:k", "f")])
    assert isinstance(replies[1], ResponseError)
    with pytest.raises(StoreUnavailable) as raised:
        checked(replies)
    assert raised.value.__cause__ is replies[1]
    assert unavailable(raised.value) is raised.value
    assert checked(replies[:1]) == [True]
