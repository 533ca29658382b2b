"""The store's clock is read in ms, and each failure has an error of its own."""

import time
from pathlib import Path
from uuid import uuid4

import pytest

from playhead.storage.errors import StoreUnavailable, TimeNotAllowed
from playhead.storage.parts import Parts
from playhead.storage.read.store_time import store_time
from tests.storage.conftest import NewStore
from tests.storage.own_store import running

pytestmark = pytest.mark.stores("valkey")


async def test_it_is_the_time_of_the_stores_machine(new_store: NewStore) -> None:
    """Which is this one."""
    parts: Parts = new_store(Parts)
    before = time.time_ns() // 1_000_000
    now = await store_time(parts.link, parts.keys)
    assert before <= now <= time.time_ns() // 1_000_000


async def test_a_user_without_the_right_gets_an_error_of_its_own(tmp_path: Path) -> None:
    """The service then goes by its own clock, and says so."""
    path = tmp_path / "store.sock"
    acl = tmp_path / "users.acl"
    acl.write_text("user default on nopass ~* &* +@all\nuser few on >secret ~* &* +@all -time\n")
    with running("valkey", tmp_path, f"unix://{path}", "--unixsocket", path, "--aclfile", acl):
        parts = Parts(f"unix://few:secret@{path}", worker=uuid4().hex)
        try:
            with pytest.raises(TimeNotAllowed):
                await store_time(parts.link, parts.keys)
        finally:
            await parts.link.aclose()


async def test_a_store_that_is_away_is_unavailable(tmp_path: Path) -> None:
    parts = Parts(f"unix://{tmp_path}/nothing.sock", worker="w", timeout_s=0.5)
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await store_time(parts.link, parts.keys)
    finally:
        await parts.link.aclose()
    assert not isinstance(caught.value, TimeNotAllowed)
