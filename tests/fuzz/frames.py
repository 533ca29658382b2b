"""Any bytes as a frame: the codecs and `parse` accept or refuse them as documented, and both codecs agree."""

import json
import math
import sys
from typing import Any

import msgpack

from playhead.protocol.codecs import Codec, JsonCodec, MsgpackCodec, read_json
from playhead.protocol.errors import FrameError, InvalidMessage
from playhead.protocol.messages import ClientMessage, Heartbeat, Message, parse
from playhead.protocol.scalars import MAX_SEQ, format_instant, parse_instant

JSON, MSGPACK = JsonCodec(), MsgpackCodec()
MAX_FIELDS, MAX_DETAIL = 20, 10_000
Answer = ClientMessage | FrameError | InvalidMessage


def json_frame(data: bytes) -> None:
    """JSON text as a frame and as a body. The same tree as msgpack gets the same answer."""
    text = data.decode("utf-8", "surrogateescape")
    body, frame = _read(read_json, data), _read(JSON.decode, text)
    assert repr(body) == repr(frame) or isinstance(body, FrameError) == isinstance(frame, FrameError)
    assert _read(MSGPACK.decode, text) is not None
    assert isinstance(_read(JSON.decode, data), FrameError), "a binary frame"
    if isinstance(frame, FrameError):
        return
    _plain(frame, (str, int, float, bool, type(None)))
    _read_by_another(text, frame)
    answer = judged(frame)
    _comes_again(answer, JSON)
    if (packed := repacked(frame)) is not None:
        same_answer(answer, judged(MSGPACK.decode(packed)))


def msgpack_frame(data: bytes) -> None:
    """msgpack bytes as a frame."""
    assert isinstance(_read(MSGPACK.decode, data.decode("latin-1")), FrameError), "a text frame"
    tree = _read(MSGPACK.decode, data)
    if isinstance(tree, FrameError):
        return
    _plain(tree, (str, bytes, int, float, bool, type(None)))
    msgpack.unpackb(data, object_pairs_hook=_each_once)
    _comes_again(judged(tree), MSGPACK)


def judged(tree: Any) -> Answer:
    """Return the message or the refusal; any other exception of `parse` is a finding."""
    try:
        return parse(tree)
    except FrameError as unreadable:
        return unreadable
    except InvalidMessage as invalid:
        refusal = invalid
    assert 1 <= len(refusal.fields) <= MAX_FIELDS
    assert len(refusal.detail) <= MAX_DETAIL
    for field in refusal.fields:
        assert not field.pointer or field.pointer.startswith("/"), "RFC 6901"
        assert field.detail
    refusal.detail.encode()
    assert refusal.seq is None or (type(refusal.seq) is int and 1 <= refusal.seq <= MAX_SEQ)
    assert refusal.session is None or refusal.seq is not None
    return refusal


def same_answer(one: Answer, other: Answer) -> None:
    assert type(one) is type(other), (one, other)
    if isinstance(one, Message):
        assert one == other
    elif isinstance(one, InvalidMessage):
        assert isinstance(other, InvalidMessage)
        assert (one.fields, one.seq, one.session) == (other.fields, other.seq, other.session)


def repacked(tree: Any) -> bytes | None:
    """Encode a JSON tree as msgpack; None if that is impossible: an integer beyond 64 bits, or too deep nesting."""
    try:
        packed: bytes = msgpack.packb(tree)
    except (OverflowError, ValueError):
        return None
    return packed


def _read(decode: Any, frame: str | bytes) -> Any:
    """Return the tree or the FrameError."""
    try:
        return decode(frame)
    except FrameError as refusal:
        refusal.detail.encode()
        return refusal


def _plain(tree: Any, scalars: tuple[type, ...]) -> None:
    """Check that the tree has documented types only; without recursion, because it may be deep."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if type(node) is dict:
            assert all(type(key) in (str, bytes) for key in node)
            todo += node.values()
        elif type(node) is list:
            todo += node
        else:
            assert type(node) in scalars, type(node)


def _read_by_another(text: str, tree: Any) -> None:
    """Check that Python's own parser reads the same tree, and no key twice."""
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert repr(json.loads(text, object_pairs_hook=_each_once)) == repr(tree)
    finally:
        sys.set_int_max_str_digits(digits)


def _each_once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    tree = dict(pairs)
    assert len(tree) == len(pairs), "a key occurs twice"
    return tree


def _comes_again(answer: Answer, codec: Codec) -> None:
    """Check that an accepted message is the same after encoding and decoding, and within its bounds."""
    if not isinstance(answer, Message):
        return
    if isinstance(answer, Heartbeat):
        assert 1 <= answer.seq <= MAX_SEQ
        for number in (answer.position, answer.duration, answer.age, answer.span):
            assert number is None or (type(number) is float and math.isfinite(number) and number >= 0)
        if answer.last_watched is not None:
            assert parse_instant(format_instant(answer.last_watched)) == answer.last_watched
            answer = answer.model_copy(update={"last_watched": None})  # ms in the model, text on the wire
    assert parse(codec.decode(codec.encode(answer))) == answer
