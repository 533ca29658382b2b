"""Who used a right over others' data: one line for each such act in the log `playhead.audit`, at any --log-level.

    event=progress.delete actor=<subject of the token> user=<id> video=<id> outcome=deleted

Names of events and keys are stable. A value with anything but letters, digits and a few signs is quoted, so that no
subject can pass for another key. There is no token and no content in a line.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from playhead.protocol.errors import PeerError
from playhead.server.security.identity import Identity
from playhead.storage.store import Full, StoreUnavailable

logger = logging.getLogger("playhead.audit")

_PLAIN = re.compile(r"[\w.:/@+-]{1,200}", re.ASCII)


class Act:
    """What is going on; whoever does it says how it ended."""

    outcome = "done"


@contextmanager
def audited(event: str, actor: str, log: bool = True, **target: object) -> Iterator[Act]:
    """Log the act when the block ends, however it ends; a failed one may have been done in part.

    Args:
        log: whether it is one that is logged: learners may do to their own data what is logged of others.
    """
    act = Act()
    try:
        yield act
    except PeerError as error:
        act.outcome = error.problem.code
        raise
    except (StoreUnavailable, Full):
        act.outcome = "unavailable"
        raise
    except BaseException:
        act.outcome = "failed"
        raise
    finally:
        if log:
            pairs = {"event": event, "actor": actor, **target, "outcome": act.outcome}
            logger.info("%s", " ".join(f"{name}={_quoted(value)}" for name, value in pairs.items()))


def actor_of(identity: Identity) -> str:
    """The subject of a caller's token; `anybody`, where the service asks for none."""
    return identity.subject or "anybody"


def operator() -> str:
    """Whoever runs a command on this machine."""
    return f"uid:{os.getuid()}" if hasattr(os, "getuid") else "operator"


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text[:200])
