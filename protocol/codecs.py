"""The two subprotocols, which encode the same messages as JSON text or as msgpack bytes.

Decoding arbitrary bytes either succeeds or raises FrameError, and no other exception. NaN and Infinity are decoded as
numbers on purpose: validation then rejects the field by name, instead of the whole frame.
"""

from typing import Any, Protocol

import jiter
import msgpack

from playhead.protocol.beats import Beat, json_beat, msgpack_beat
from playhead.protocol.errors import FrameError
from playhead.protocol.messages import Message


class Codec(Protocol):
    """The encoding of one subprotocol."""

    subprotocol: str

    def decode(self, frame: str | bytes) -> Any:
        """Decode a frame into dict, list, str, bytes, int, float, bool and None.

        Raises:
            FrameError: the frame cannot be read.
        """
        ...

    def encode(self, message: Message) -> str | bytes: ...

    text: bool
    """Whether frames are text; else they are binary."""

    def beat(self, payload: bytes) -> Beat | None:
        """Decode a plain heartbeat at a tenth of the cost of `decode` and validation; None for anything else."""
        ...

    def plain_ack(self, session: str, seq: int) -> str | bytes:
        """Encode `Ack(session=session, seq=seq)`, the most frequent message, at a tenth of the cost of `encode`."""
        ...


def read_json(text: bytes) -> Any:
    """Parse one JSON value.

    Raises:
        FrameError: not JSON, a repeated key in an object, nesting deeper than the parser's 200, a lone surrogate.
    """
    try:
        return jiter.from_json(text, allow_inf_nan=True, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise FrameError(f"not JSON: {error}") from None


class JsonCodec:
    """`playhead.v1.json`: text frames."""

    subprotocol = "playhead.v1.json"
    text = True
    beat = staticmethod(json_beat)

    def decode(self, frame: str | bytes) -> Any:
        if isinstance(frame, bytes):
            raise FrameError("this subprotocol accepts text frames only")
        try:
            return read_json(frame.encode())
        except UnicodeEncodeError:
            raise FrameError("not JSON: not Unicode text") from None

    def encode(self, message: Message) -> str:
        return message.model_dump_json(by_alias=True, exclude_none=True)

    def plain_ack(self, session: str, seq: int) -> str:
        return f'{{"type":"ack","session":"{session}","seq":{seq}}}'  # session names need no escaping


class MsgpackCodec:
    """`playhead.v1.msgpack`: binary frames."""

    subprotocol = "playhead.v1.msgpack"
    text = False
    beat = staticmethod(msgpack_beat)

    def decode(self, frame: str | bytes) -> Any:
        if isinstance(frame, str):
            raise FrameError("this subprotocol accepts binary frames only")
        try:
            tree = msgpack.unpackb(frame, object_pairs_hook=_unique, ext_hook=_no_ext, max_ext_len=0)
        except Exception as error:
            raise FrameError(f"not msgpack: {type(error).__name__}") from None
        return tree

    def encode(self, message: Message) -> bytes:
        packed: bytes = msgpack.packb(message.model_dump(by_alias=True, exclude_none=True))
        return packed

    def plain_ack(self, session: str, seq: int) -> bytes:
        packed: bytes = msgpack.packb({"type": "ack", "session": session, "seq": seq})
        return packed


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a repeated key")
    return tree


def _no_ext(code: int, data: bytes) -> Any:
    raise ValueError("an extension type")


CODECS: dict[str, Codec] = {codec.subprotocol: codec for codec in (JsonCodec(), MsgpackCodec())}
"""Codecs by the name of their subprotocol, in order of preference."""
