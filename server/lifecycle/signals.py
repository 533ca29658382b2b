"""The signals that end the service, with one process or several: SIGTERM, SIGINT and SIGHUP, all handled alike.

A terminal sends SIGHUP when it closes, and service managers send it for "reload". There is nothing to reload, because
settings are read once, at startup; and its default action would end a process in the middle of a commit, and all
workers without a close frame. If SIGHUP is ignored at startup, as under nohup, it stays ignored.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

HANGUP: int | None = getattr(signal, "SIGHUP", None)  # not on Windows


def is_hangup_ignored() -> bool:
    return HANGUP is None or signal.getsignal(HANGUP) == signal.SIG_IGN


def ignore_hangup() -> None:
    """Ignore SIGHUP from now on: when a terminal closes, both the shell and the kernel send it."""
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)


def ending() -> tuple[int, ...]:
    """The signals that end the process now: SIGHUP is left out while it is ignored."""
    always = (signal.SIGTERM, signal.SIGINT)
    return always if HANGUP is None or is_hangup_ignored() else (*always, HANGUP)


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Delay the signals that end the process, so that none interrupts a step that must complete.

    Python runs a signal's handler between any two instructions, and ours raise. Code that starts threads and processes
    could not clean up after that: a thread may exist before its object knows it.

    Yields:
        A function to call at safe points: it handles the first signal that has arrived. Leaving the context handles one
        that is still pending.
    """
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in ending()}
    arrived: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    def handle() -> None:
        if arrived:
            number = arrived[0]
            arrived.clear()
            if callable(handler := handlers[number]):
                handler(number, None)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield handle
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        handle()
