"""Signals that end the service wait for a safe point while the embedded store starts."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from playhead.server.lifecycle.signals import held_back
from playhead.storage.embedded.supervisor import Supervisor
from playhead.storage.embedded.valkey import EmbeddedValkey


@contextlib.contextmanager
def raising(number: int) -> Iterator[None]:
    def handler(*_: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_delayed_until_the_next_safe_point(number: signal.Signals) -> None:
    steps = []
    with raising(number):
        with pytest.raises(KeyboardInterrupt), held_back() as handle:  # noqa: PT012 - which step raises is the test
            steps.append("before")
            signal.raise_signal(number)
            steps.append("after")
            handle()
            steps.append("never")
        assert steps == ["before", "after"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)  # the handler is in place again


def test_a_signal_without_a_safe_point_is_handled_at_the_end() -> None:
    with raising(signal.SIGTERM), pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_is_handled_once() -> None:
    handled = []
    before = signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
    try:
        with held_back() as handle:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            handle()
            handle()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handled == [1]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held_back() as handle:
            signal.raise_signal(signal.SIGHUP)
            handle()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("moment", ["before the thread", "after the thread"])
def test_a_signal_around_the_start_of_the_thread_leaves_nothing_behind(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start of the supervisor's thread cannot be interrupted, nor the moment before it."""
    start, others = Supervisor.start, set(threading.enumerate())

    def interrupted(supervisor: Supervisor) -> None:
        if moment == "before the thread":
            signal.raise_signal(signal.SIGINT)
        start(supervisor)
        if moment == "after the thread":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Supervisor, "start", interrupted)
    valkey = EmbeddedValkey(tmp_path / "data")
    with raising(signal.SIGINT), pytest.raises(KeyboardInterrupt), held_back() as handle:
        valkey.start(handle)
    assert set(threading.enumerate()) <= others
    monkeypatch.undo()
    with EmbeddedValkey(tmp_path / "data") as again:  # the directory is free
        os.kill(again.pid, 0)


def test_a_supervisor_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    Supervisor(["true"], lock=0, log=tmp_path / "log").stop()
