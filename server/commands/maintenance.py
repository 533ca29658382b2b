"""The commands `rebuild`, `export` and `import`: run by operators, beside a running service or without."""

import argparse
import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from playhead.server.app import create_store
from playhead.server.clock import Clock, StoreClock
from playhead.server.commands import options
from playhead.server.commands.errors import CommandError
from playhead.server.commands.progress_bar import ProgressBar
from playhead.server.commands.transfer_files import export_to, import_from
from playhead.server.security.audit import audited, operator
from playhead.server.settings import Settings
from playhead.storage.store import (
    DataDirLocked,
    EmbeddedStoreFailed,
    EmbeddedValkey,
    Found,
    Store,
    StoreUnavailable,
    lacked_right,
    running_url,
)

AUDITED = ("import", "rebuild")
"""Commands that change what is stored."""
DRIFT = 1
"""Exit code: something has drifted, or could not be repaired."""
STORE = ("data_dir", "redis_url")
"""The settings that select the store."""
Command = Callable[[Store, Settings, Clock], Awaitable[int]]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "rebuild",
        help="recount audiences and totals from the records, and repair them",
        description="Recount the audiences and totals of videos from the records, and repair what differs. Safe while "
        "the service runs; may be interrupted and run again.",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="report what has drifted, and change nothing; exit code 1 for drift",
    )
    _add_store(command)
    command = commands.add_parser(
        "export",
        help="write all records as lines of JSON",
        description="Write all records as lines of JSON. Safe while the service runs. FILE.cursor holds the progress "
        "until the export is complete.",
    )
    command.add_argument("file", nargs="?", type=Path, help="file to create; without one, the lines go to stdout")
    command.add_argument("--resume", action="store_true", help="continue an interrupted export to FILE")
    _add_store(command)
    command = commands.add_parser(
        "import",
        help="merge an export into the stored records",
        description="Merge an export into the stored records. Safe while the service runs; importing a file twice "
        "changes nothing. FILE.imported holds the progress until the import is complete.",
    )
    command.add_argument("file", nargs="?", type=Path, help="file to read; without one, the lines come from stdin")
    command.add_argument("--resume", action="store_true", help="continue an interrupted import of FILE")
    command.add_argument(
        "--strict", action="store_true", help="refuse lines with times in the future; default: correct them"
    )
    _add_store(command)


def run(chosen: str, given: dict[str, Any]) -> int:
    """Run a command with its options.

    Returns:
        The exit code.

    Raises:
        CommandError: the store cannot be used, or the command cannot continue.
        ValidationError: a setting is not valid.
    """
    stores = {name: value for name in STORE if (value := given.pop(name)) is not None}
    return asyncio.run(_with_store(chosen, Settings(**stores), given))


def _add_store(command: argparse.ArgumentParser) -> None:
    for name in STORE:
        options.add(command, name)


async def _with_store(name: str, settings: Settings, given: dict[str, Any]) -> int:
    command: Command = functools.partial(COMMANDS[name], **given)
    async with _embedded(settings) as stored:
        try:
            store = create_store(stored)
        except (ValueError, TypeError) as error:
            raise CommandError(f"--redis-url is not valid: {error}") from None
        try:
            await store.check()
            clock = await StoreClock.of(store)
            shown = {option: value for option, value in given.items() if value not in (None, False)}
            with audited(name, operator(), log=name in AUDITED and not given.get("check"), **shown) as action:
                code = await command(store, stored, clock)
                action.outcome = "done" if code == 0 else "incomplete"
            return code
        except StoreUnavailable as error:
            if right := lacked_right(error):
                raise CommandError(
                    f"the store's user lacks {right}, which `playhead {name}` needs ({error}): use the user "
                    "playhead-operator of examples/playhead-operator.acl in --redis-url"
                ) from None
            raise CommandError(
                f"the store cannot be used ({error}); nothing is half done: run the command again"
            ) from None
        finally:
            await store.close()


@contextlib.asynccontextmanager
async def _embedded(settings: Settings) -> AsyncIterator[Settings]:
    """The settings with a `redis_url`. Without one it is the embedded store's, also of a service that runs."""
    if settings.redis_url is not None:
        yield settings
        return
    if not settings.data_dir.is_dir():
        raise CommandError(f"there is no data directory {settings.data_dir}: set --data-dir or --redis-url")
    durability = settings.durability or "fsync"
    valkey = EmbeddedValkey(settings.data_dir, fsync=durability == "fsync")
    try:
        await asyncio.to_thread(valkey.start)
        url = valkey.url
    except DataDirLocked:
        try:
            url = running_url(settings.data_dir)
        except EmbeddedStoreFailed as error:
            raise CommandError(str(error)) from error
    except EmbeddedStoreFailed as error:
        raise CommandError(str(error)) from error
    try:
        yield settings.model_copy(update={"redis_url": url, "durability": durability})
    finally:
        await asyncio.to_thread(valkey.stop)


async def _rebuild(store: Store, settings: Settings, clock: Clock, check: bool) -> int:
    progress = ProgressBar(sys.stderr)

    def show(walk: str, part: float, found: Found) -> None:
        half = part / 2 + (0.5 if walk == "videos" else 0)
        progress.show(
            half, f"{found.records:,} records, {found.audiences:,} audiences, {found.drift.total():,} drifted"
        )

    try:
        found = await store.rebuild(
            repair=not check, grace_s=settings.store_timeout_s, now=lambda: clock().wall, progress=show
        )
    finally:
        progress.close()
    for example in found.examples:
        print(example)
    for kind, times in (found.drift + found.failed).items():
        print(f"{times:,} × {kind}")
    if not found.drift and not found.failed:
        verdict = "nothing has drifted"
    elif check or found.failed:
        verdict = "run `playhead rebuild` to repair it" if check else "not all of it could be repaired"
    else:
        verdict = "repaired"
    print(f"{found.records:,} records, {found.audiences:,} audiences: {verdict}")
    return DRIFT if found.failed or (check and found.drift) else 0


COMMANDS: dict[str, Callable[..., Awaitable[int]]] = {"rebuild": _rebuild, "export": export_to, "import": import_from}
