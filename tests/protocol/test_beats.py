"""The fast decoder of heartbeats agrees with the complete one or declines, field by field, in both subprotocols.

It must not decline everything: it decodes what our players normally send.
"""

import json
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from playhead.protocol.beats import Beat, json_beat, msgpack_beat
from playhead.protocol.codecs import CODECS
from playhead.protocol.errors import PeerError
from playhead.protocol.messages import Heartbeat, parse
from playhead.protocol.scalars import MAX_AGE_MS, MAX_MEDIA_S, MAX_SEQ

JSON, MSGPACK = CODECS["playhead.v1.json"], CODECS["playhead.v1.msgpack"]
VIDEO = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
STEADY = {
    "type": "heartbeat",
    "seq": 7,
    "videoId": VIDEO,
    "played": [[5, 10.25]],
    "position": 10.25,
    "duration": 5_400,
    "state": "playing",
    "span": 5_000,
    "age": 12.5,
}
FIELDS = Beat.__struct_fields__

edges = st.sampled_from(
    [0, -0.0, -1, 1, 0.5, 12.0, MAX_MEDIA_S, MAX_MEDIA_S + 1, MAX_AGE_MS, MAX_SEQ, MAX_SEQ + 1, 2**70]
)
scalars = st.one_of(st.none(), st.booleans(), edges, st.integers(), st.floats(), st.text(max_size=8))
odd: st.SearchStrategy[Any] = st.one_of(scalars, st.just([]), st.just({}), st.binary(max_size=4))
videos = st.sampled_from([VIDEO, VIDEO.upper(), "x"])
seconds = st.one_of(st.floats(0, MAX_MEDIA_S), st.integers(0, MAX_MEDIA_S), edges)
likely = st.fixed_dictionaries(
    {
        "type": st.just("heartbeat"),
        "seq": st.integers(1, 2**53),
        "videoId": videos,
    },
    optional={
        "position": seconds,
        "duration": seconds,
        "durationFinal": st.booleans(),
        "played": st.lists(st.lists(seconds, min_size=1, max_size=3), max_size=4),
        "state": st.sampled_from(["playing", "paused", "ended", "stalled"]),
        "span": seconds,
        "age": seconds,
        "seek": st.booleans(),
        "session": st.sampled_from(["s", "t"]),
        "watchedDuration": st.integers(0, 9),
        "lastWatched": st.just("2026-11-23T10:00:00Z"),
        "more": odd,
    },
)
trees = st.one_of(
    likely,
    st.builds(
        lambda tree, name, value: {**tree, name: value}, likely, st.sampled_from([*STEADY, "seek", "session"]), odd
    ),
)


def long_way(codec: Any, frame: str | bytes) -> Heartbeat | None:
    try:
        message = parse(codec.decode(frame))
    except PeerError:
        return None
    return message if isinstance(message, Heartbeat) else None


def agree(beat: Beat | None, message: Heartbeat | None) -> None:
    """Any text, which is compared with the current video afterwards."""
    if beat is None or beat.video_id != VIDEO:
        return
    assert message is not None
    assert {name: getattr(beat, name) for name in Heartbeat.model_fields if name != "type"} == {
        name: getattr(message, name) for name in Heartbeat.model_fields if name != "type"
    }


@given(trees, st.sampled_from([None, 1]), st.booleans())
def test_both_decoders_agree_on_text(tree: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(tree, indent=indent, ensure_ascii=ascii_only, default=repr)
    try:
        payload = text.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair has no bytes
    agree(json_beat(payload), long_way(JSON, text))


@given(trees, st.booleans())
def test_both_decoders_agree_on_msgpack(tree: dict[str, Any], single: bool) -> None:
    try:
        payload = msgpack.packb(tree, use_single_float=single)
    except (OverflowError, UnicodeEncodeError):
        return  # msgpack has no such number, or text
    agree(msgpack_beat(payload), long_way(MSGPACK, payload))


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3), st.booleans())
def test_both_decoders_agree_on_damaged_frames(at: int, damage: bytes, insert: bool) -> None:
    for payload, beat, codec in (
        (json.dumps(STEADY).encode(), json_beat, JSON),
        (msgpack.packb(STEADY), msgpack_beat, MSGPACK),
    ):
        at %= len(payload) + 1
        payload = payload[:at] + damage + payload[at if insert else at + len(damage) :]
        try:
            frame = payload.decode() if codec is JSON else payload
        except UnicodeDecodeError:
            found = beat(payload)
            assert found is None or found.video_id != VIDEO  # the transport refuses the frame
            continue
        agree(beat(payload), long_way(codec, frame))


@pytest.mark.parametrize("again", FIELDS)
@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_the_fast_decoder_declines_duplicate_keys(again: str, blank: str) -> None:
    wire = to_camel(again)
    tree = {**STEADY, "seek": True, "durationFinal": False}
    pairs = [f'"{key}"{blank}:{json.dumps(value)}' for key, value in [*tree.items(), (wire, tree[wire])]]
    assert json_beat(("{" + ",".join(pairs[:-1]) + "}").encode()) is not None
    assert json_beat(("{" + ",".join(pairs) + "}").encode()) is None

    packed = bytes([0x80 | (len(tree) + 1)]) + msgpack.packb(tree)[1:] + msgpack.packb(wire) + msgpack.packb(tree[wire])
    assert msgpack_beat(msgpack.packb(tree)) is not None
    assert msgpack_beat(packed) is None


@pytest.mark.parametrize("without", [None, *(key for key in STEADY if key not in ("type", "seq", "videoId"))])
def test_the_fast_decoder_takes_normal_heartbeats(without: str | None) -> None:
    tree = {key: value for key, value in STEADY.items() if key != without}
    for found in (json_beat(json.dumps(tree).encode()), msgpack_beat(msgpack.packb(tree))):
        assert found is not None
        assert (found.seq, found.video_id) == (7, VIDEO)
        agree(found, long_way(JSON, json.dumps(tree)))


@given(st.binary(max_size=64))
@example(b"")
@example(b"\x80")
@example(b"\xff" * 40)
def test_no_bytes_raise_an_unexpected_error(payload: bytes) -> None:
    assert json_beat(payload) is None
    assert msgpack_beat(payload) is None
