"""The note about a restart of the store agrees with what a restart does, on real servers and append-only files."""

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from playhead.protocol.record import Report
from playhead.storage.guarantees.aof_replay import FRESH_S, NOT_SHOWN, REPLAYED, ReplayCheck, replay_checks_rights
from playhead.storage.keys import Keys
from playhead.storage.store import Store
from playhead.storage.write.pending import Batch, Delta
from tests.conftest import _await_answer
from tests.inside import parts_of
from tests.intact import intact
from tests.ports import free_port
from tests.replicated import binary
from tests.rest import ok, rest
from tests.server.program import serve
from tests.serving import serving
from tests.storage.features.test_acl import conversation, operate
from tests.storage.own_store import PASSWORD, PATIENCE_S, as_playhead, opened, written_acl

NOW = 1_764_000_000_000
SHIPPED = "user default off resetpass ~* &* +@all"
AS_IT_WAS = "user default off resetpass resetkeys resetchannels -@all"
LEARNERS = 30


class Guarded:
    """A store with an ACL file that may change, and that can be restarted."""

    def __init__(self, kind: str, directory: Path, *options: str) -> None:
        self.kind, self.directory, self.acl = kind, directory, written_acl(directory)
        self.url = as_playhead(directory / "s")
        self._words: list[str | Path] = [binary(kind), "--port", "0", "--save", "", "--appendonly", "yes"]
        self._words += ["--unixsocket", directory / "s", "--dir", directory, "--aclfile", self.acl, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def users(self, *changes: tuple[str, str]) -> None:
        """Change the ACL file."""
        text = self.acl.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.acl.write_text(text)

    def start(self) -> None:
        self._process = subprocess.Popen(self._words, stdout=subprocess.DEVNULL)
        _await_answer(self._process, self.url)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None


@pytest.fixture(params=["redis7", "valkey"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    guarded = Guarded(request.param, tmp_path)
    yield guarded
    guarded.end(signal.SIGKILL)


async def commit(store: Store) -> None:
    """Store a record of each learner, as a flusher does."""
    batch = Batch()
    for number in range(LEARNERS):
        played = Report(NOW, NOW, "s", 1, 1, [0, 30], [], 30_000)
        batch.deltas.setdefault((f"u{number}", "v"), Delta()).ops.append(played)
    await store.commit(batch, NOW, lambda _: False)


async def held(store: Store) -> int:
    """How many of these records exist."""
    return sum([intact(await store.record(f"u{number}", "v")).seen == [0, 30] for number in range(LEARNERS)])


@dataclass(frozen=True)
class Row:
    """The default user's permissions, and whether a restart drops records."""

    name: str
    default: str
    drops: list[str] = field(default_factory=list)
    """The refused commands."""


ALL = [name for name, *_ in REPLAYED]
ROWS = [
    Row("as-shipped", SHIPPED),
    Row("as-it-was-shipped", AS_IT_WAS, ALL),
    Row("no-keys", "user default off resetpass resetkeys &* +@all", ALL),
    Row("other-keys", "user default off resetpass ~other:* &* +@all", ALL),
    Row("our-keys", "user default off resetpass resetkeys ~ph:* +@write"),
    Row("no-hset", "user default off resetpass ~* +@all -hset", ["HSET"]),
    Row("by-a-selector", "user default off resetpass resetkeys -@all (~ph:* +@all)"),
    Row("on-and-without-a-password", "user default on nopass ~* &* +@all"),
    Row("with-a-password", f"user default on >{PASSWORD} ~* &* +@all"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_the_note_agrees_with_a_restart(guarded: Guarded, row: Row) -> None:
    """Without a note all records are restored, after SIGTERM and after kill -9; with one they are not."""
    guarded.users((SHIPPED, row.default))
    guarded.start()
    drops = row.drops if guarded.kind == "redis7" else []
    async with opened(guarded.url) as store:
        await commit(store)
        notes = await store.notes()
        assert await held(store) == LEARNERS
        for number in (signal.SIGTERM, signal.SIGKILL):
            guarded.end(number)
            guarded.start()
            assert await held(store) == (0 if drops else LEARNERS)
    if drops:
        (sentence,) = notes
        assert f"may not use {', '.join(drops)} there" in sentence
        assert PASSWORD not in sentence
    else:
        assert notes == []


@pytest.mark.parametrize(
    ("server", "checks"),
    [
        ({"redis_version": "7.0.15"}, True),
        ({"redis_version": "8.2.3"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.0"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.1"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2-rc1"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "10.0.0"}, False),
        ({}, True),
    ],
)
def test_which_versions_check_the_default_users_permissions(server: dict[str, str], checks: bool) -> None:
    """Tested on real servers: 7.0.15, 8.2.3, 9.0.0, 9.1.0, 9.1.1 and 9.1.2. If unclear, the check is assumed."""
    assert replay_checks_rights(server) == checks


async def test_a_store_without_an_append_only_file_has_no_note(tmp_path: Path) -> None:
    guarded = Guarded("redis7", tmp_path, "--appendonly", "no")
    guarded.users((SHIPPED, AS_IT_WAS))
    guarded.start()
    try:
        async with opened(guarded.url) as store:
            assert await store.notes() == []
    finally:
        guarded.end()


@pytest.mark.parametrize("info", ["", " -info"])
async def test_a_store_that_does_not_show_its_permissions_has_a_note(tmp_path: Path, info: str) -> None:
    """Except for its default user, who has the permissions that were just used."""
    guarded = Guarded("redis7", tmp_path)
    guarded.users((" +acl|dryrun", info), (SHIPPED, f"user default on >{PASSWORD} ~* &* +@all -acl{info}"))
    guarded.start()
    try:
        async with opened(guarded.url) as store:
            assert await store.notes() == [NOT_SHOWN]
        async with opened(guarded.url.replace("playhead:", ":")) as store:
            assert await store.notes() == []
    finally:
        guarded.end()


async def test_changed_permissions_are_checked_again(guarded: Guarded) -> None:
    """An ACL LOAD takes effect after a minute; while the store is unavailable the note stays."""
    now = 0.0
    guarded.start()
    async with opened(guarded.url) as store:
        replay = ReplayCheck(parts_of(store).link, Keys(), lambda: now)
        assert await replay.note() is None
        guarded.users((SHIPPED, AS_IT_WAS), ("user playhead on", "user admin on nopass +@all\nuser playhead on"))
        with redis.Redis.from_url(f"unix://admin:x@{guarded.directory / 's'}", protocol=2) as admin:
            guarded.end()
            guarded.start()
            assert await replay.note() is None
            now += FRESH_S
            assert bool(await replay.note()) == (guarded.kind == "redis7")
            guarded.users((AS_IT_WAS, SHIPPED))
            admin.execute_command("ACL", "LOAD")
            before = await replay.note()
            now += FRESH_S
            guarded.end()
            assert await replay.note() == before
        guarded.start()
        assert await replay.note() is None


async def test_the_checked_commands_are_those_in_the_file(guarded: Guarded) -> None:
    """Whatever learners and operators do: the commands in the transactions of the file are exactly the checked ones."""
    guarded.users((" +acl|dryrun", " +acl|dryrun +@all"))
    guarded.start()
    async with serving(redis_url=guarded.url) as here, serving(redis_url=guarded.url) as there:
        await conversation(here, there)
        await operate(guarded.url, here)
    guarded.end()
    assert in_transactions(guarded.directory) == set(ALL)


def in_transactions(directory: Path) -> set[str]:
    """The commands between MULTI and EXEC of an append-only file."""
    (file,) = directory.glob("appendonlydir/*.incr.aof")
    found, within = set[str](), False
    for name in commands(file.read_bytes()):
        if name in ("MULTI", "EXEC"):
            within = name == "MULTI"
        elif within:
            found.add(name)
    return found


def commands(text: bytes) -> Iterator[str]:
    """The first word of each command of a file in RESP."""
    at = 0

    def number(kind: bytes) -> int:
        nonlocal at
        assert text[at : at + 1] == kind
        end = text.index(b"\r\n", at)
        read, at = int(text[at + 1 : end]), end + 2
        return read

    while at < len(text):
        words = []
        for _ in range(number(b"*")):
            length = number(b"$")
            words.append(text[at : at + length])
            at += length + 2
        yield words[0].decode().upper()


async def test_readiness_and_the_log_have_the_note(tmp_path: Path) -> None:
    """In the log at startup, and in /readyz, which everybody may read: without address and password."""
    guarded = Guarded("redis7", tmp_path)
    guarded.users((SHIPPED, AS_IT_WAS))
    guarded.start()
    try:
        async with serving(redis_url=guarded.url) as server, rest(server) as http:
            ready = ok(await http.get("/readyz"))
        assert ready["status"] == "ready"
        (note,) = ready["notes"]
        assert "drops records" in note
        assert PASSWORD not in note
        assert str(tmp_path) not in note
        async with serve(free_port(), "--redis-url", guarded.url) as program:
            await program.logged(note)
    finally:
        guarded.end()
