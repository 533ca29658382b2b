"""Validates decoded JSON or msgpack as models of protocol/.

The models are made for writing. On the wire, instants are text and intervals are lists; in the models they are ms and
tuples.
"""

from typing import Any, TypeVar

from pydantic import ValidationError

from playhead.protocol.errors import FrameError
from playhead.protocol.messages import SERVER_MESSAGES, Message, ServerMessage
from playhead.protocol.scalars import parse_instant

M = TypeVar("M", bound=Message)

_INSTANTS = ("lastWatched", "completedAt", "deletedAt", "serverTime")
_INTERVALS = ("seen", "again")


def read(model: type[M], tree: Any) -> M:
    """Read a tree as a model.

    Raises:
        FrameError: it does not fit the model.
    """
    try:
        return model.model_validate(_revived(tree), by_alias=True, by_name=False)
    except (ValidationError, ValueError, TypeError):
        raise FrameError(f"not a valid {model.__name__}") from None


def read_message(tree: Any) -> ServerMessage | None:
    """Read a message of the server; None for a type that only a newer server has. Raises FrameError."""
    kind = SERVER_MESSAGES.get(str(tree.get("type"))) if isinstance(tree, dict) else None
    return None if kind is None else read(kind, tree)


def _revived(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_revived(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    return {name: _value(name, value) for name, value in tree.items()}


def _value(name: Any, value: Any) -> Any:
    if name in _INSTANTS and isinstance(value, str):
        return parse_instant(value)
    if name in _INTERVALS and isinstance(value, list):
        return [tuple(each) for each in value]
    return _revived(value)
