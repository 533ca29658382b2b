"""How many files a process may have open. Each connection is one, and the default of many systems is 1,024."""

import contextlib

from playhead.server.settings import Settings
from playhead.storage.store import MAX_CONNECTIONS

OTHERS = 448
"""Requests without a WebSocket, more primaries of a cluster, the store's files, listeners, timers and logs."""


def needed(settings: Settings) -> int:
    """Descriptors of one process with as many connections as its settings allow."""
    return settings.max_connections + settings.max_newcomers + MAX_CONNECTIONS + OTHERS


def raise_limit(settings: Settings) -> str | None:
    """Raise this process' limit as far as it may, also for its children; a sentence where that is not enough."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    want = needed(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, want):  # macOS says that nothing bounds it, and refuses so much
        with contextlib.suppress(ValueError, OSError):
            if soft != resource.RLIM_INFINITY and (limit == resource.RLIM_INFINITY or limit > soft):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                break
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= want:
        return None
    fits = soft - (want - settings.max_connections)
    lower = f"set max_connections to {fits} or less" if fits > 0 else "lower max_connections and max_newcomers"
    return (
        f"The limit of open files is {soft} and can't be raised further from here, but max_connections "
        f"{settings.max_connections} and max_newcomers {settings.max_newcomers} need {want}: at the limit connections "
        f"are refused, also those to the store. Raise it for this process (LimitNOFILE={want} in systemd's unit, "
        f"--ulimit nofile={want} of docker run, ulimit -Hn {want} as root), or {lower}"
    )
