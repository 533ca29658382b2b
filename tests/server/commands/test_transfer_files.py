"""The summary of an import covers all of it, wherever it was interrupted and continued."""

import itertools
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from playhead.protocol.record import Report
from playhead.server.clock import system_clock
from playhead.server.commands.errors import CommandError
from playhead.server.commands.transfer_files import BATCH, export_to, import_from
from playhead.server.settings import Settings
from playhead.storage.parts import Parts
from playhead.storage.store import StoreUnavailable, open_store
from playhead.storage.write.pending import Batch, Delta
from tests.conftest import StoreServer
from tests.stages import BetweenStages

NOW = 1_764_000_000_000
LEARNERS = 2 * BATCH + 50
VIDEO = str(UUID(int=9))
WHOLE = f"{LEARNERS} records, {LEARNERS} of them changed; 0 videos, 0 ended sessions; 0 lines refused\n"
SETTINGS = Settings()


class Dying(BetweenStages):
    """A store that fails after a number of round trips."""

    left = 10_000

    def __init__(self, *args: Any, **more: Any) -> None:
        between = self.between_stages

        class DyingParts(Parts):
            async def run(self, commands: list[tuple[Any, ...]]) -> list[Any]:
                await between()
                return await super().run(commands)

        super().__init__(*args, kind=DyingParts, **more)

    async def between_stages(self) -> None:
        if not self.left:
            raise StoreUnavailable("gone")
        self.left -= 1


@pytest.fixture
async def backup(store_server: StoreServer, prefix: str, tmp_path: Path) -> Path:
    """An export with more learners than one batch of an import."""
    store, file = open_store(store_server.url, worker="source", key_prefix=f"{prefix}source"), tmp_path / "backup"
    batch = Batch()
    for n in range(LEARNERS):
        batch.deltas[str(UUID(int=n)), VIDEO] = Delta(ops=[Report(NOW, NOW, "s", 1, 1, [0, 5], [], 5_000)])
    try:
        await store.commit(batch, NOW, lambda user_id: False)
        assert await export_to(store, SETTINGS, system_clock, file, resume=False) == 0
    finally:
        await store.close()
    return file


async def test_the_summary_of_an_interrupted_import_covers_all_of_it(
    backup: Path, store_server: StoreServer, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is interrupted before each of its round trips in turn, including those that update audiences."""
    interrupted = 0
    for left in itertools.count():
        store = Dying(store_server.url, worker="target", key_prefix=f"{prefix}{left}")
        store.left = left
        capsys.readouterr()
        try:
            assert await import_from(store, SETTINGS, system_clock, backup, resume=False) == 0
            break
        except StoreUnavailable:
            interrupted += 1
            assert capsys.readouterr().out == ""
            store.left = 10_000
            assert await import_from(store, SETTINGS, system_clock, backup, resume=True) == 0
            assert capsys.readouterr().out == WHOLE
        finally:
            await store.close()
    assert capsys.readouterr().out == WHOLE
    assert interrupted >= 9


async def test_an_import_that_was_killed_after_its_last_line_is_complete(
    backup: Path, store_server: StoreServer, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its end line is not read again, but is known to exist."""
    store = open_store(store_server.url, worker="target", key_prefix=prefix)
    put_cursor_behind(backup, await store.epoch())
    capsys.readouterr()
    try:
        assert await import_from(store, SETTINGS, system_clock, backup, resume=True) == 0
    finally:
        await store.close()
    assert capsys.readouterr() == (WHOLE, "")


def put_cursor_behind(file: Path, epoch: str) -> None:
    """Leave the progress file of an import that is killed before it removes the file."""
    lines = file.read_bytes().splitlines(keepends=True)
    state = {
        "export": sha256(lines[0]).hexdigest(),
        "epoch": epoch,
        "line": len(lines),
        "bytes": file.stat().st_size,
        "refused": 0,
        "taken": {"record": LEARNERS, "end": 1},
        "changed": LEARNERS,
        "end": json.loads(lines[-1]),
    }
    file.with_name(f"{file.name}.imported").write_text(json.dumps(state))


@pytest.mark.parametrize("name", ["fresh", "fresh.cursor", "fresh.cursor.new"])
async def test_an_export_follows_no_planted_link(
    store_server: StoreServer, prefix: str, tmp_path: Path, name: str
) -> None:
    """In a shared directory such as /tmp, names can be guessed: helper files are replaced, the export is refused."""
    store, victim = open_store(store_server.url, worker="source", key_prefix=prefix), tmp_path / "victim"
    (tmp_path / name).symlink_to(victim)
    try:
        if name == "fresh":
            with pytest.raises(CommandError, match=r"fresh exists"):
                await export_to(store, SETTINGS, system_clock, tmp_path / "fresh", resume=False)
        else:
            assert await export_to(store, SETTINGS, system_clock, tmp_path / "fresh", resume=False) == 0
            assert (tmp_path / "fresh").stat().st_mode & 0o077 == 0
    finally:
        await store.close()
    assert not victim.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("name", ["fresh", "fresh.cursor"])
async def test_an_export_is_not_continued_in_files_of_others(
    store_server: StoreServer, prefix: str, tmp_path: Path, name: str
) -> None:
    """Their owner could read the records, or their cursor could leave some out."""
    store = open_store(store_server.url, worker="source", key_prefix=prefix)
    cursor = {"epoch": await store.epoch(), "place": "", "bytes": 0, "counts": {}}
    (tmp_path / "fresh").touch()
    (tmp_path / "fresh.cursor").write_text(json.dumps(cursor))
    os.chown(tmp_path / name, 65_534, -1)
    try:
        with pytest.raises(CommandError, match=r"belongs to|an interrupted export"):
            await export_to(store, SETTINGS, system_clock, tmp_path / "fresh", resume=True)
    finally:
        await store.close()
    assert not (tmp_path / "fresh").read_bytes()


async def test_an_import_follows_no_link_beside_its_file(
    backup: Path, store_server: StoreServer, prefix: str, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    for name in ("backup.imported", "backup.imported.new"):
        (tmp_path / name).symlink_to(victim)
    store = open_store(store_server.url, worker="target", key_prefix=prefix)
    try:
        assert await import_from(store, SETTINGS, system_clock, backup, resume=False) == 0
    finally:
        await store.close()
    assert not victim.exists()
