"""Which signals end the service: SIGTERM, SIGINT and SIGHUP, all in the same way, with one process or several.

SIGHUP is what a terminal sends that is closed, and what service managers send for "reload". There is nothing to reload,
for settings are read once, at the start; and its default would end a process in the middle of a commit, and all workers
without a word. Where it is ignored at the start, as by nohup, it stays ignored.
"""

import signal

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
