"""The outbox on disk, as a file of JSON lines: the next process sends what a killed one has not.

A line is written before its effect is visible outside, so kill -9 at any moment leaves at most a torn last line, about
a change that no one has seen yet. Lines are written but not synced: a power failure may take those of the last seconds.
"""

import contextlib
import errno
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from playhead.client.errors import OutboxBusy
from playhead.client.outbox import Beat, Entry, Restored, heartbeat

try:
    import fcntl
except ImportError:  # Windows, where a second client is not kept out
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

VERSION = 1
COMPACT_BYTES = 262_144
"""The file is rewritten without obsolete lines when it has grown by this much."""


class Journal:
    """A `Keeper` in a file, locked by this process until `close`.

    Args:
        user: whose reports these are; "" if that is not known.

    Raises:
        OutboxBusy: another client has the file, or it holds another user's reports.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, user: str) -> None:
        self._path = path
        self._user = user
        self._lock = _locked(path)
        self._file: IO[str] | None = None
        self._torn = False
        try:
            self.restored = self._read()
            self._entries = {entry.key: _tree(entry) for entry in self.restored.entries}
            self._last_seq = dict(self.restored.last_seq)
            self._rewrite()
        except BaseException:
            self.close()
            raise

    def added(self, entry: Entry) -> None:
        tree = _tree(entry)
        self._entries[entry.key] = tree
        if entry.seq:
            self._last_seq[entry.session] = max(entry.seq, self._last_seq.get(entry.session, 0))
        self._append(tree)

    def removed(self, keys: Sequence[int]) -> None:
        for key in keys:
            self._entries.pop(key, None)
        self._append({"gone": list(keys)})

    def close(self) -> None:
        """Release the file. It stays if it holds reports, and is removed if it is empty."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            if not self._entries:
                self._path.unlink(missing_ok=True)
        self._lock.close()

    def _append(self, tree: dict[str, Any]) -> None:
        """Append a line. A failure is logged and retried with the next line; the reports are still in memory."""
        if self._file is None:
            return
        try:
            if self._torn or self._file.tell() > self._compact_at:
                self._rewrite()
            else:
                self._file.write(_line(tree))
                self._file.flush()
            self._torn = False
        except OSError as error:
            if not self._torn:
                logger.error("The outbox file cannot be written, so reports are in memory only until it can: %s", error)
            self._torn = True

    def _rewrite(self) -> None:
        """Replace the file atomically by one with the current entries only."""
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        with open(_opened(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as file:
            file.write(_line({"playhead-outbox": VERSION, "user": self._user, "last": self._last_seq}))
            file.writelines(_line(tree) for tree in self._entries.values())
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)
        if self._file is not None:
            with contextlib.suppress(OSError):  # lines that it could not write are in the new file
                self._file.close()
        flags = os.O_WRONLY | os.O_APPEND
        self._file = open(_opened(self._path, flags), "a", encoding="utf-8")  # noqa: SIM115 closed by `close`
        self._compact_at = self._path.stat().st_size + COMPACT_BYTES

    def _read(self) -> Restored:
        try:
            with open(_opened(self._path, os.O_RDONLY), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            data = b""
        if not data:
            return Restored()
        head, *trees = [_parsed(line) for line in data.split(b"\n")]
        if head.get("playhead-outbox") != VERSION:
            raise OutboxBusy(
                f"{self._path} is not an outbox file of this version: move it away, or use another outbox_path"
            )
        if head.get("user", "") != self._user:
            raise OutboxBusy(f"{self._path} holds the reports of another user: use an outbox_path for each user")
        last_seq: dict[str, int] = dict(head.get("last", {}))
        entries: dict[int, Entry] = {}
        for tree in trees:
            if "gone" in tree:
                for key in tree["gone"]:
                    entries.pop(key, None)
            elif "key" in tree:
                try:
                    entry = _entry(tree)
                except (KeyError, TypeError, ValueError) as error:
                    logger.warning("Skipped an entry of the outbox file that is not valid: %s", type(error).__name__)
                    continue
                entries[entry.key] = entry
                last_seq[entry.session] = max(entry.seq, last_seq.get(entry.session, 0))
        sessions = {entry.session for entry in entries.values()}
        kept = {session: seq for session, seq in last_seq.items() if session in sessions}
        return Restored([entries[key] for key in sorted(entries)], kept)


def _locked(path: Path) -> IO[str]:
    """Lock the outbox, by a file beside it, because the outbox file itself is replaced. The system releases the lock of
    a process that dies."""
    descriptor = _opened(path.with_name(path.name + ".lock"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lock = open(descriptor, "a", encoding="utf-8")  # noqa: SIM115 closed by `Journal.close`
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise OutboxBusy(f"{path} is in use by another client: use an outbox_path for each client") from None
    return lock


def _opened(path: Path, flags: int) -> int:
    """Open a file, which must not be a link or belong to another user: either could be planted there.

    Raises:
        OSError: it is one of these, or cannot be opened.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
    if hasattr(os, "geteuid") and os.fstat(descriptor).st_uid != os.geteuid():
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "It belongs to another user", os.fspath(path))
    return descriptor


def _tree(entry: Entry) -> dict[str, Any]:
    beat = entry.beat
    fields = {
        "videoId": beat.video_id,
        "played": beat.played,
        "position": beat.position,
        "duration": beat.duration,
        "state": beat.state,
        "seek": beat.seek,
    }
    times = {"since": entry.since_ms, "at": entry.at_ms}
    return {"key": entry.key, "session": entry.session, "seq": entry.seq, **times, "beat": fields}


def _entry(tree: dict[str, Any]) -> Entry:
    fields = tree["beat"]
    beat = Beat(
        video_id=fields["videoId"],
        played=tuple((start, end) for start, end in fields["played"]),
        position=fields["position"],
        duration=fields["duration"],
        state=fields["state"],
        seek=fields["seek"],
    )
    entry = Entry(tree["key"], tree["session"], beat, tree["since"], tree["at"], tree["seq"])
    heartbeat(replace(entry, seq=entry.seq or 1), "", 0)  # raises for one that can never be sent, and would block all
    return entry


def _line(tree: dict[str, Any]) -> str:
    return json.dumps(tree, separators=(",", ":")) + "\n"


def _parsed(line: bytes) -> dict[str, Any]:
    """Parse a line; an unreadable one gives an empty dict."""
    with contextlib.suppress(ValueError):
        tree = json.loads(line) if line else {}
        if isinstance(tree, dict):
            return tree
    logger.warning("Skipped an unreadable line of the outbox file")
    return {}
