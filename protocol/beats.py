"""A fast decoder for the most frequent message: a heartbeat of the video that the connection's last one was about.

`messages.Heartbeat` defines what a heartbeat is. This module decodes plain ones at a tenth of the cost, and returns
None for any frame it is not sure of, which then takes the slow path (`codecs` and `messages.parse`). A frame that it
does decode is decoded by the slow path to the same values (`tests/protocol/test_beats.py`).
"""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from playhead.protocol.scalars import MAX_AGE_MS, MAX_MEDIA_S, MAX_PLAYED, MAX_SEQ

_Seconds = Annotated[float, Meta(ge=0, le=MAX_MEDIA_S)]


class Beat(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, rename="camel", tag="heartbeat", tag_field="type"
):
    """A heartbeat of the connection's default session. `video_id` is not validated: compare it with one that is."""

    seq: Annotated[int, Meta(ge=1, le=MAX_SEQ)]
    video_id: str
    position: _Seconds | None = None
    played: Annotated[list[tuple[_Seconds, _Seconds]], Meta(max_length=MAX_PLAYED)] | None = None
    duration: _Seconds | None = None
    duration_final: bool | None = None
    state: Literal["playing", "paused", "ended"] | None = None
    span: Annotated[float, Meta(ge=0, le=MAX_MEDIA_S * 1_000)] | None = None
    age: Annotated[float, Meta(ge=0, le=MAX_AGE_MS)] | None = None
    seek: bool | None = None
    session: ClassVar[None] = None
    watched_duration: ClassVar[None] = None
    last_watched: ClassVar[None] = None

    def keys(self) -> int:
        """How many keys the message has if none is repeated or null."""
        return (
            3
            + (self.position is not None)
            + (self.played is not None)
            + (self.duration is not None)
            + (self.duration_final is not None)
            + (self.state is not None)
            + (self.span is not None)
            + (self.age is not None)
            + (self.seek is not None)
        )


_json: Callable[[bytes], Beat] = msgspec.json.Decoder(Beat).decode
_msgpack: Callable[[bytes], Beat] = msgspec.msgpack.Decoder(Beat).decode


def json_beat(payload: bytes) -> Beat | None:
    """Decode the payload of a text frame, UTF-8 or not; None where the slow path has to."""
    try:
        beat = _json(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    # Every key and every string has two quotes, so a surplus means that a key is repeated.
    texts = 2 if beat.state is None else 3
    return beat if payload.count(b'"') == 2 * (beat.keys() + texts) else None


def msgpack_beat(payload: bytes) -> Beat | None:
    """Decode the payload of a binary frame; None where the slow path has to."""
    try:
        beat = _msgpack(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return beat if payload[0] == 0x80 | beat.keys() else None  # the header of a map with that many keys
