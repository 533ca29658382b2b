"""`playhead export` and `import`: the files, and how far each has come, for who was interrupted.

A file of that sort names what it belongs to. Where that is no longer so, work begins anew: both are safe to repeat.
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
from playhead.server.commands.progress_bar import ProgressBar
from playhead.server.commands.serve import CannotServe
from playhead.server.settings import Settings
from playhead.storage.store import Import, Store, StoreUnavailable, open_file

BATCH = 200
"""Lines of an import that are stored together."""
BATCH_BYTES = 1_048_576
SHOWN = 20
"""Refused lines that are told one by one."""


async def export_to(store: Store, settings: Settings, clock: Clock, file: Path | None, resume: bool) -> int:
    """Write all; the exit code, 1 where something could not be read.

    Raises:
        CannotServe: it can't be written, or there is nothing to go on with.
    """
    try:
        if file is not None:
            return await _export_into(store, clock, file, resume)
        if resume:
            raise CannotServe("--resume needs a FILE")
        return await _export(store, clock, sys.stdout.buffer, None, {})
    except OSError as error:
        if file is None:  # whoever read it is gone; what is left in the buffer goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CannotServe(f"{file or 'stdout'} can't be written ({error.strerror})") from None


async def _export_into(store: Store, clock: Clock, file: Path, resume: bool) -> int:
    cursor = file.with_name(f"{file.name}.cursor")
    state: dict[str, Any] = (
        _read(cursor) if resume else {"epoch": await store.epoch(), "place": "", "bytes": 0, "counts": {}}
    )
    if resume and state.get("epoch") != await store.epoch():
        raise CannotServe(f"{cursor} tells of no interrupted export of this store: export to a new file")
    if os.path.lexists(file) and not resume:
        raise CannotServe(f"{file} exists: give another name, or --resume to go on with it")
    if not resume:
        _write(cursor, state)  # before the file is there, so that whatever is left of one can be gone on with
    with open(open_file(file, os.O_RDWR | os.O_CREAT | (0 if resume else os.O_EXCL)), "r+b") as out:
        if out.seek(0, os.SEEK_END) < state["bytes"]:
            raise CannotServe(f"{file} is shorter than it was: export to a new file")
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
        print(f"playhead: this can't be read, and is left out: {what}", file=sys.stderr)
    counts = export.counts
    print(
        f"{counts['records']:,} records, {counts['videos']:,} videos, {counts['ended']:,} ended sessions"
        + (f"; {counts['failed']:,} can't be read" if counts["failed"] else ""),
        file=sys.stderr,
    )
    return 1 if counts["failed"] else 0


async def import_from(
    store: Store, settings: Settings, clock: Clock, file: Path | None, resume: bool, strict: bool = False
) -> int:
    """Join all; the exit code, 1 where a line was refused, or the end is missing or does not fit.

    What it tells at its end is of the whole import, however often it was resumed; but what it had joined of a batch in
    which it was killed is not told as news.
    """
    if file is None:
        if resume:
            raise CannotServe("--resume needs a FILE")
        return await _import(store, settings, clock, sys.stdin.buffer, None, resume=False, strict=strict)
    try:
        with file.open("rb") as lines:
            cursor = file.with_name(f"{file.name}.imported")
            return await _import(store, settings, clock, lines, cursor, resume=resume, strict=strict)
    except OSError as error:
        is_cursor = error.filename is not None and Path(error.filename) != file
        what = f"{error.filename} can't be written" if is_cursor else f"{file} can't be read"
        raise CannotServe(f"{what} ({error.strerror})") from None


async def _import(
    store: Store, settings: Settings, clock: Clock, lines: BinaryIO, cursor: Path | None, resume: bool, strict: bool
) -> int:
    header = lines.readline(MAX_LINE + 1)
    try:
        if not isinstance(first := read_line(header), HeaderLine):
            raise ValueError("type: should be playhead export")
    except ValueError as error:
        raise CannotServe(f"this is no export that can be imported: line 1: {error}") from None
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
            number, refused, work.taken = state["line"], state["refused"], Counter(state["taken"])
            work.changed, work.end = state["changed"], state["end"] and EndLine.model_construct(**state["end"])
            work.corrected = state.get("corrected", 0)
            lines.seek(state["bytes"])
        else:
            state = of | _place(number, lines, refused, work)
    bar = ProgressBar(sys.stderr)
    try:
        while batch := _batch(lines, number):
            number, corrected = batch[-1][0], work.corrected
            told = await work.take(batch)
            for sentence in work.corrections[: max(0, SHOWN - corrected)]:
                print(f"playhead: {sentence}", file=sys.stderr)
            for sentence in told[: max(0, SHOWN - refused)]:
                print(f"playhead: {sentence}", file=sys.stderr)
            refused += len(told)
            if cursor is not None:
                state = of | _place(number, lines, refused, work)
                _write(cursor, state)
                bar.show(lines.tell() / max(size, 1), f"{work.taken['record']:,} records")
            else:
                bar.show(0, f"{work.taken['record']:,} records")
    except (StoreUnavailable, asyncio.CancelledError):
        if cursor is not None:  # what this batch has joined is no news when it comes again
            _write(cursor, state | {"changed": work.changed})
        raise
    finally:
        bar.close()
    if cursor is not None:
        cursor.unlink(missing_ok=True)
    taken, again = work.taken, work.retrying.retries
    print(
        f"{taken['record']:,} records, {work.changed:,} of them news; {taken['video']:,} videos, "
        f"{taken['ended']:,} ended sessions; {refused:,} lines refused"
        + (f"; {work.corrected:,} lines with instants later than now, which were corrected" if work.corrected else "")
        + (f"; {again:,} times some had changed meanwhile and were read again" if again else "")
    )
    end = work.end
    if end is None:
        print(
            "playhead: there is no end line, so the file was cut off and more lines are missing; those that it has are "
            "imported: import a whole copy as well",
            file=sys.stderr,
        )
    elif not refused and (end.records, end.videos, end.ended) != (taken["record"], taken["video"], taken["ended"]):
        print(
            f"playhead: the end line counts {end.records:,} records, {end.videos:,} videos and {end.ended:,} ended "
            f"sessions, but the file has {taken['record']:,}, {taken['video']:,} and {taken['ended']:,}: lines were "
            "removed or added since the export. All that it has are imported. If you edited it, nothing is wrong; if "
            "nobody did, it is damaged: import another copy as well",
            file=sys.stderr,
        )
        end = None
    return 1 if refused or end is None else 0


def _place(number: int, lines: BinaryIO, refused: int, work: Import) -> dict[str, Any]:
    """How far an import is: all that its end is told by, too."""
    return {
        "line": number,
        "bytes": lines.tell(),
        "refused": refused,
        "taken": dict(work.taken),
        "changed": work.changed,
        "corrected": work.corrected,
        "end": work.end and work.end.model_dump(),
    }


def _batch(lines: BinaryIO, number: int) -> list[tuple[int, bytes]]:
    """The next lines and their numbers, some thousands of bytes; of one that is too long, enough to refuse it."""
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
    try:
        with open(open_file(cursor, os.O_RDONLY), "rb") as text:
            state = json.load(text)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write(cursor: Path, state: dict[str, Any]) -> None:
    """Whole or not at all."""
    new = cursor.with_name(f"{cursor.name}.new")
    new.unlink(missing_ok=True)
    with open(open_file(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as out:
        out.write(json.dumps(state).encode())
        _sync(out)
    new.replace(cursor)
