"""The audit log: one line in the log `playhead.audit`, at any --log-level, for each action on other users' data.

    event=progress.delete actor=<subject of the token> user=<id> video=<id> outcome=deleted

The names of events and keys are stable. A value with anything but letters, digits and a few signs is quoted, so that a
subject cannot imitate another key. Lines contain no tokens and no content.
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


class Action:
    """An action under way; the code that performs it sets the outcome."""

    outcome = "done"


@contextmanager
def audited(event: str, actor: str, log: bool = True, **target: object) -> Iterator[Action]:
    """Log the action when the block ends, also when it fails. A failed action may have taken effect in part.

    Args:
        event: the name of the action.
        actor: who performs it.
        log: whether to log it; False for learners who act on their own data.
        target: what it acts on.
    """
    action = Action()
    try:
        yield action
    except PeerError as error:
        action.outcome = error.problem.code
        raise
    except (StoreUnavailable, Full):
        action.outcome = "unavailable"
        raise
    except BaseException:
        action.outcome = "failed"
        raise
    finally:
        if log:
            pairs = {"event": event, "actor": actor, **target, "outcome": action.outcome}
            logger.info("%s", " ".join(f"{name}={_quoted(value)}" for name, value in pairs.items()))


def actor_of(identity: Identity) -> str:
    """The subject of the caller's token, or `anybody` where the service runs without tokens."""
    return identity.subject or "anybody"


def operator() -> str:
    """The user who runs a command on this machine."""
    return f"uid:{os.getuid()}" if hasattr(os, "getuid") else "operator"


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text[:200])
