"""A supervised process that is not a Valkey. tests/storage/embedded/test_valkey.py has one that is."""

import os
import time
from pathlib import Path

import pytest

from playhead.storage.embedded import supervisor as module
from playhead.storage.embedded.data_dir import EmbeddedStoreFailed
from playhead.storage.embedded.supervisor import Supervisor
from tests.storage.conftest import PATIENCE_S


@pytest.fixture
def lock(tmp_path: Path) -> int:
    return os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)


def test_a_server_that_dies_at_the_start_is_reported_with_its_last_output(tmp_path: Path, lock: int) -> None:
    """It is not restarted: a server that never answered would fail in the same way."""
    restarts: list[int] = []
    command = ["sh", "-c", "echo first; echo no such option >&2; exit 3"]
    server = Supervisor(command, lock=lock, log=tmp_path / "log", on_restart=lambda: restarts.append(1))
    server.start()
    with pytest.raises(EmbeddedStoreFailed, match="did not start: no such option"):
        server.await_answer(tmp_path / "socket")
    server.stop()
    assert restarts == []
    os.close(lock)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.2)
    server = Supervisor(["sleep", "600"], lock=lock, log=tmp_path / "log")
    server.start()
    with pytest.raises(EmbeddedStoreFailed, match="does not answer: nothing"):
        server.await_answer(tmp_path / "socket")
    pid = server.pid
    assert pid is not None
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    os.close(lock)


def test_a_server_that_ignores_sigterm_is_killed(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.2)
    script = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    server = Supervisor(["sh", "-c", script], lock=lock, log=tmp_path / "log")
    server.start()
    deadline = time.monotonic() + PATIENCE_S
    while "ready" not in ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.stop()
    assert any("killing it" in line for line in caplog.messages)
    assert server.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)
    os.close(lock)


def test_stop_before_start_does_nothing(tmp_path: Path, lock: int) -> None:
    server = Supervisor(["true"], lock=lock, log=tmp_path / "log")
    server.stop()
    assert server.pid is None
    os.close(lock)
