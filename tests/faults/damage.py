"""Damage to the files of a store that is down, and the records that they still hold."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from playhead.protocol.record import Record
from playhead.storage.embedded.valkey import server_binary
from playhead.storage.keys import NOT_VIDEOS
from playhead.storage.values.packing import unpack_record
from tests.faults.ledger import Key
from tests.intact import intact
from tests.server.program import END_S, START_S

FOLDER, SNAPSHOT = "appendonlydir", "dump.rdb"
TORN = b"*4\r\n$4\r\nHSET\r\n$60\r\nph:{u00}:prog"
CUT_BYTES = 20_000


def aof(directory: Path) -> Path:
    """The file that the store appends to: the newest increment of its append-only file."""
    return max(directory.glob(f"{FOLDER}/*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))


def wipe(directory: Path) -> None:
    """Delete all data."""
    shutil.rmtree(directory / FOLDER)


def tear(directory: Path) -> None:
    """Append an incomplete command, as a power cut in the middle of a write leaves it."""
    with aof(directory).open("ab") as file:
        file.write(TORN)


def cut(directory: Path) -> None:
    """Remove the last bytes of the file, as a damaged disk might; it then ends in the middle of a command."""
    path = aof(directory)
    os.truncate(path, max(0, path.stat().st_size - CUT_BYTES))


def held(directory: Path) -> dict[Key, Record]:
    """All records of a store that is down, read by a second server from a copy of its files."""
    with TemporaryDirectory(prefix="faults-") as copy:
        appends = (directory / FOLDER).exists()
        if appends:
            shutil.copytree(directory / FOLDER, Path(copy) / FOLDER)
        else:
            shutil.copy(directory / SNAPSHOT, copy)
        path = Path(copy) / "s"
        words: list[str | Path] = [server_binary(), "--port", "0", "--unixsocket", path, "--dir", copy, "--save", ""]
        words += ["--appendonly", "yes" if appends else "no"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            with redis.Redis.from_url(f"unix://{path}") as client:
                deadline = time.monotonic() + START_S
                while True:
                    with contextlib.suppress(redis.ConnectionError):  # BusyLoadingError is one
                        client.ping()
                        break
                    assert time.monotonic() < deadline, "the copy does not start"
                    time.sleep(0.02)
                return {
                    (key.decode().rpartition(":")[2], video.decode()): intact(unpack_record(value))
                    for key in client.scan_iter(match="*:progress:*", count=1_000)
                    for video, value in client.hgetall(key).items()
                    if video not in NOT_VIDEOS
                }
        finally:
            process.kill()
            process.wait(END_S)
