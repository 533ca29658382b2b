"""Which signals end the service: SIGTERM, SIGINT and SIGHUP, all in the same way, with one process or several.

SIGHUP is what a terminal sends that is closed, and what service managers send for "reload". There is nothing to reload,
for settings are read once, at the start; and its default would end a process in the middle of a commit, and all workers
without a word. Where it is ignored at the start, as by nohup, it stays ignored.
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
    """From now on: a closing terminal sends it more than once, by the shell and by the kernel."""
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)


def ending() -> tuple[int, ...]:
    """Those that end a process, as things are."""
    always = (signal.SIGTERM, signal.SIGINT)
    return always if HANGUP is None or is_hangup_ignored() else (*always, HANGUP)


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Delay the signals that end the process, so that none interrupts a step that must not be cut in two.

    Python runs a signal's handler between any two instructions, and ours raise. Code that starts threads and processes
    could not clean up after that: a thread may exist before its object knows it.

    Yields:
        A function for the safe points inside: it handles the first signal that has arrived. Leaving the context handles
        one that is left.
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
