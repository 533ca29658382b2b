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


def test_a_command_that_cannot_be_run_is_reported(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without setpriv, which would start and then fail itself; and without a directory for the log."""
    monkeypatch.setenv("PATH", str(tmp_path))
    server = Supervisor([tmp_path / "no-such-program"], lock=lock, log=tmp_path / "missing" / "log")
    server.start()
    with pytest.raises(EmbeddedStoreFailed, match=r"did not start: its log can't be read \(.*No such file"):
        server.await_answer(tmp_path / "socket")
    server.stop()
    os.close(lock)


@pytest.mark.parametrize("script", ["sleep 600", "exit 1"], ids=["too slow", "fails"])
def test_a_setpriv_that_does_not_work_is_not_used(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """The server then has no signal that ends it with its owner; the next owner shuts it down."""
    monkeypatch.setattr(module, "PROBE_S", 0.2)
    (tmp_path / "setpriv").write_text(f"#!/bin/sh\nexec {script}\n")
    (tmp_path / "setpriv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = Supervisor(["sh", "-c", "echo started; exit 3"], lock=lock, log=tmp_path / "log")
    server.start()
    with pytest.raises(EmbeddedStoreFailed, match="did not start: started"):
        server.await_answer(tmp_path / "socket")
    server.stop()
    os.close(lock)
