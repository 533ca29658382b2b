"""The limit of open files, raised at startup: each connection is one, and the default of many systems is 1,024."""

import contextlib

from playhead.server.settings import Settings
from playhead.storage.store import MAX_CONNECTIONS

OTHERS = 448
"""Descriptors for requests without a WebSocket, more primaries of a cluster, the store's files, listeners, logs."""


def needed(settings: Settings) -> int:
    """The descriptors that one process needs for as many connections as its settings allow."""
    return settings.max_connections + settings.max_newcomers + MAX_CONNECTIONS + OTHERS


def raise_limit(settings: Settings) -> str | None:
    """Raise the limit of this process and its children as far as needed.

    Returns:
        A warning, if the limit is still too low.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    want = needed(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, want):  # macOS reports an infinite hard limit but refuses to set it
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
        f"The limit of open files is {soft} and this process cannot raise it, but max_connections "
        f"{settings.max_connections} and max_newcomers {settings.max_newcomers} need {want}: at the limit, connections "
        f"are refused, including those to the store. Raise the limit (LimitNOFILE={want} in the systemd unit, "
        f"--ulimit nofile={want} of docker run, ulimit -Hn {want} as root), or {lower}"
    )
