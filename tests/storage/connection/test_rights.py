"""The missing permission is named, whichever store refuses a command and wherever: real stores, real errors."""

from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path

import msgpack
import pytest

from playhead.storage.connection.rights import lacked_right
from playhead.storage.store import Store, StoreUnavailable
from tests.inside import keys_of, parts_of
from tests.ports import free_port
from tests.storage.own_store import as_playhead, opened, running, written_acl

ROWS = [
    (("KEYS", "*"), "KEYS"),
    (("GET", "other"), "a key"),
    (("SPUBLISH", "other", "x"), "a channel"),
    (("HGET", "ph:epoch", "f"), None),
    (("NONSENSE",), None),
]
"""A command, and the permission that its user lacks."""


@pytest.fixture(params=["redis7", "valkey"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    url = as_playhead(tmp_path / "s")
    options = ("--unixsocket", tmp_path / "s", "--aclfile", written_acl(tmp_path), "--save", "")
    with running(request.param, tmp_path, url, *options):
        yield url


async def refusal(store: Store, *command: str | int) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as refused:
        await parts_of(store).run([command])
    return refused.value


async def test_the_missing_permission_of_a_command_alone_and_in_a_script(url: str) -> None:
    async with opened(url) as store:
        await store.epoch()
        for command, lacks in ROWS:
            assert lacked_right(await refusal(store, *command)) == lacks, command
            script = f"return redis.call({','.join(map(repr, command))})"
            await parts_of(store).run([("SCRIPT", "LOAD", script)])
            error = await refusal(store, "EVALSHA", sha1(script.encode(), usedforsecurity=False).hexdigest(), 0)
            assert lacked_right(error) in (lacks, "a command of a script" if lacks == "KEYS" else lacks)


async def test_the_missing_permission_of_our_scripts_if_the_store_names_a_line_only(url: str) -> None:
    async with opened(url) as store:
        forget = parts_of(store).script("forget")
        keys = [
            keys_of(store).audience("v"),
            keys_of(store).summary("v"),
            keys_of(store).curve("v"),
            keys_of(store).before("v"),
        ]
        assert lacked_right(await refusal(store, *forget.call(keys, msgpack.packb([])))) == "EXISTS"


async def test_other_errors_are_not_about_permissions() -> None:
    assert lacked_right(None) is None
    async with opened(f"redis://127.0.0.1:{free_port()}") as store:
        assert lacked_right(await refusal(store, "GET", "ph:epoch")) is None
