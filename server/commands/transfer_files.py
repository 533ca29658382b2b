"""`playhead export` and `playhead import`: reads and writes the files, and saves the progress to continue from.

A progress file names the export and the store's epoch that it belongs to. If either has changed, an import starts from
the beginning, which is safe to repeat, and an export is refused.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from playhead.protocol.export import MAX_LINE, EndLine, HeaderLine, read_line
from playhead.server.clock import Clock
from playhead.server.commands.errors import CommandError
from playhead.server.commands.progress_bar import ProgressBar
from playhead.server.settings import Settings
from playhead.storage.store import Import, Store, StoreUnavailable, open_file

BATCH = 200
"""Lines of an import that are stored together."""
BATCH_BYTES = 1_048_576
SHOWN = 20
"""Refused or corrected lines that are reported individually."""


async def export_to(store: Store, settings: Settings, clock: Clock, file: Path | None, resume: bool) -> int:
    """Write all records.

    Returns:
        The exit code: 1 if something could not be read.

    Raises:
        CommandError: the file cannot be written, or there is no export to continue.
    """
    try:
        if file is not None:
            return await _export_into(store, clock, file, resume)
        if resume:
            raise CommandError("--resume needs a FILE")
        return await _export(store, clock, sys.stdout.buffer, None, {})
    except OSError as error:
        if file is None:  # the reader of the pipe is gone: discard what is still buffered
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CommandError(f"{file or 'stdout'} cannot be written ({error.strerror})") from None


async def _export_into(store: Store, clock: Clock, file: Path, resume: bool) -> int:
    cursor = file.with_name(f"{file.name}.cursor")
    state: dict[str, Any] = (
        _read(cursor) if resume else {"epoch": await store.epoch(), "place": "", "bytes": 0, "counts": {}}
    )
    if resume and state.get("epoch") != await store.epoch():
        raise CommandError(f"{cursor} does not belong to an interrupted export of this store: export to a new file")
    if os.path.lexists(file) and not resume:
        raise CommandError(f"{file} exists: choose another name, or continue it with --resume")
    if not resume:
        _write(cursor, state)  # before the file exists, so that an export can be continued wherever it is interrupted
    with open(open_file(file, os.O_RDWR | os.O_CREAT | (0 if resume else os.O_EXCL)), "r+b") as out:
        if out.seek(0, os.SEEK_END) < state["bytes"]:
            raise CommandError(f"{file} is shorter than when the export was interrupted: export to a new file")
        out.seek(out.truncate(state["bytes"]))
        code = await _export(store, clock, out, cursor, state)
    cursor.unlink(missing_ok=True)
    return code


async def _export(store: Store, clock: Clock, out: BinaryIO, cursor: Path | None, state: dict[str, Any]) -> int:
    export = store.exporting(Counter(state.get("counts", {})))
    bar = ProgressBar(sys.stderr)
    try:
        async for page in export.pages(clock().wall, state.get("place", "")):
            out.write(b"".join(page.lines))
            bar.show(page.part, f"{export.counts['records']:,} records")
            if cursor is not None and page.place:
                _sync(out)
                done = {"epoch": await store.epoch(), "place": page.place, "bytes": out.tell(), "counts": export.counts}
                _write(cursor, done)
        out.flush()
        if cursor is not None:
            _sync(out)
    finally:
        bar.close()
    for what in export.failed[:SHOWN]:
        print(f"playhead: left out, because it cannot be read: {what}", file=sys.stderr)
    counts = export.counts
    print(
        f"{counts['records']:,} records, {counts['videos']:,} videos, {counts['ended']:,} ended sessions"
        + (f"; {counts['failed']:,} cannot be read" if counts["failed"] else ""),
        file=sys.stderr,
    )
    return 1 if counts["failed"] else 0


async def import_from(
    store: Store, settings: Settings, clock: Clock, file: Path | None, resume: bool, strict: bool = False
) -> int:
    """Merge all lines into the store.

    The summary covers the whole import, however often it was continued. Only the records of a batch during which the
    process was killed may be missing from the count of new ones.

    Returns:
        The exit code: 1 if a line was refused, or the end line is missing or does not match.
    """
    if file is None:
        if resume:
            raise CommandError("--resume needs a FILE")
        return await _import(store, settings, clock, sys.stdin.buffer, None, resume=False, strict=strict)
    try:
        with file.open("rb") as lines:
            cursor = file.with_name(f"{file.name}.imported")
            return await _import(store, settings, clock, lines, cursor, resume=resume, strict=strict)
    except OSError as error:
        is_cursor = error.filename is not None and Path(error.filename) != file
        what = f"{error.filename} cannot be written" if is_cursor else f"{file} cannot be read"
        raise CommandError(f"{what} ({error.strerror})") from None


async def _import(
    store: Store, settings: Settings, clock: Clock, lines: BinaryIO, cursor: Path | None, resume: bool, strict: bool
) -> int:
    header = lines.readline(MAX_LINE + 1)
    try:
        if not isinstance(first := read_line(header), HeaderLine):
            raise ValueError("type should be playhead export")
    except ValueError as error:
        raise CommandError(f"this is not an export of Playhead: line 1: {error}") from None
    work = store.importing(
        threshold_permille=settings.threshold_permille,
        now=lambda: clock().wall,
        exported_at=first.exported_at,
        strict=strict,
    )
    of = {"export": sha256(header).hexdigest(), "epoch": await store.epoch()}
    number, refused, size = 1, 0, 0
    state: dict[str, Any] = {}
    if cursor is not None:
        size = os.fstat(lines.fileno()).st_size
        state = _read(cursor) if resume else {}
        if {name: state.get(name) for name in of} == of:
            number, refused, work.imported = state["line"], state["refused"], Counter(state["taken"])
            work.changed, work.end = state["changed"], state["end"] and EndLine.model_construct(**state["end"])
            work.corrected = state.get("corrected", 0)
            lines.seek(state["bytes"])
        else:
            state = of | _place(number, lines, refused, work)
    bar = ProgressBar(sys.stderr)
    try:
        while batch := _batch(lines, number):
            number, corrected = batch[-1][0], work.corrected
            rejections = await work.take(batch)
            for sentence in work.corrections[: max(0, SHOWN - corrected)]:
                print(f"playhead: {sentence}", file=sys.stderr)
            for sentence in rejections[: max(0, SHOWN - refused)]:
                print(f"playhead: {sentence}", file=sys.stderr)
            refused += len(rejections)
            if cursor is not None:
                state = of | _place(number, lines, refused, work)
                _write(cursor, state)
                bar.show(lines.tell() / max(size, 1), f"{work.imported['record']:,} records")
            else:
                bar.show(0, f"{work.imported['record']:,} records")
    except (StoreUnavailable, asyncio.CancelledError):
        if cursor is not None:  # records of this batch that are stored already are not counted as new again
            _write(cursor, state | {"changed": work.changed})
        raise
    finally:
        bar.close()
    if cursor is not None:
        cursor.unlink(missing_ok=True)
    counts, again = work.imported, work.retrying.retries
    print(
        f"{counts['record']:,} records, {work.changed:,} of them changed; {counts['video']:,} videos, "
        f"{counts['ended']:,} ended sessions; {refused:,} lines refused"
        + (f"; {work.corrected:,} lines with times in the future, which were corrected" if work.corrected else "")
        + (f"; {again:,} merges repeated because records changed meanwhile" if again else "")
    )
    end = work.end
    if end is None:
        print(
            "playhead: there is no end line, so the file is incomplete. The lines that it has are imported; import a "
            "complete copy as well",
            file=sys.stderr,
        )
    elif not refused and (end.records, end.videos, end.ended) != (
        counts["record"],
        counts["video"],
        counts["ended"],
    ):
        print(
            f"playhead: the end line counts {end.records:,} records, {end.videos:,} videos and {end.ended:,} ended "
            f"sessions, but the file has {counts['record']:,}, {counts['video']:,} and {counts['ended']:,}: lines were "
            "removed or added since the export. The lines that it has are imported. If nobody edited the file, it is "
            "damaged: import another copy as well",
            file=sys.stderr,
        )
        end = None
    return 1 if refused or end is None else 0


def _place(number: int, lines: BinaryIO, refused: int, work: Import) -> dict[str, Any]:
    """The progress of an import, with the counts of its summary."""
    return {
        "line": number,
        "bytes": lines.tell(),
        "refused": refused,
        "taken": dict(work.imported),
        "changed": work.changed,
        "corrected": work.corrected,
        "end": work.end and work.end.model_dump(),
    }


def _batch(lines: BinaryIO, number: int) -> list[tuple[int, bytes]]:
    """The next lines with their numbers. A line that is too long is truncated, which is enough to refuse it."""
    batch: list[tuple[int, bytes]] = []
    held = 0
    while len(batch) < BATCH and held < BATCH_BYTES and (line := lines.readline(MAX_LINE + 1)):
        number += 1
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            while (rest := lines.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        batch.append((number, line))
        held += len(line)
    return batch


def _sync(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())


def _read(cursor: Path) -> dict[str, Any]:
    """The saved progress; empty if there is none that can be read."""
    try:
        with open(open_file(cursor, os.O_RDONLY), "rb") as text:
            state = json.load(text)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write(cursor: Path, state: dict[str, Any]) -> None:
    """Replace the progress file atomically."""
    new = cursor.with_name(f"{cursor.name}.new")
    new.unlink(missing_ok=True)
    with open(open_file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as out:
        out.write(json.dumps(state).encode())
        _sync(out)
    new.replace(cursor)
