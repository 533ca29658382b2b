"""For any bytes a codec returns a tree or raises FrameError; `parse` returns a message or raises PeerError."""

import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from playhead.protocol.codecs import CODECS, Codec, JsonCodec, MsgpackCodec
from playhead.protocol.errors import FrameError, InvalidMessage, PeerError
from playhead.protocol.messages import (
    Ack,
    Error,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Ping,
    Pong,
    Progress,
    RecordView,
    Rejection,
    Sync,
    Synced,
    Welcome,
    parse,
)
from playhead.protocol.scalars import MAX_MEDIA_S, MAX_PLAYED, MAX_SEQ

USER, VIDEO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-00000000000a"
JSON, MSGPACK = JsonCodec(), MsgpackCodec()
WHOLE = {"type": "heartbeat", "seq": 1, "videoId": VIDEO, "played": [[0, 5]], "position": 5, "state": "playing"}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**53, 2**63, 2**64, 10**400, MAX_SEQ]),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from([*WHOLE, "hello", "sync", USER, VIDEO, "\x00", "é" * 100, "2026-11-23", "9999-99-99"]),
)
trees = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(scalars, inner, max_size=4))
)


def decode_and_parse(codec: Codec, frame: str | bytes) -> None:
    """Decode and parse; any exception other than a PeerError fails the test."""
    try:
        tree = codec.decode(frame)
    except FrameError as error:
        refusal = error
    else:
        assert_plain(tree)
        assert_parses_or_fails(tree)
        return
    assert refusal.detail


def assert_plain(tree: Any) -> None:
    """Check a tree without recursion: a frame may be nested as deeply as its codec allows."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        assert type(node) in (dict, list, str, bytes, int, float, bool, type(None))
        if isinstance(node, dict):
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            waiting += node


def error_of(tree: Any) -> FrameError | InvalidMessage | None:
    """Return why `tree` is not a valid message; None where it is one."""
    try:
        message = parse(tree)
    except (FrameError, InvalidMessage) as error:
        return error
    assert isinstance(message, Hello | Heartbeat | Sync | Ping)
    return None


def assert_parses_or_fails(tree: Any) -> None:
    """It is a valid message, or the error can be sent to the peer."""
    refusal = error_of(tree)
    assert refusal is None or refusal.detail.encode()


@given(frame=st.one_of(st.text(), st.binary()))
def test_arbitrary_frames(frame: str | bytes) -> None:
    """Including text for the binary codec and bytes for the text codec."""
    for codec in CODECS.values():
        decode_and_parse(codec, frame)


@given(tree=trees)
def test_arbitrary_trees_in_msgpack(tree: Any) -> None:
    """Including what msgpack can encode and JSON cannot: bytes, and keys that are not text."""
    try:
        frame = msgpack.packb(tree)
    except (OverflowError, TypeError, ValueError):
        frame = msgpack.packb(repr(tree))
    decode_and_parse(MSGPACK, frame)


@given(tree=trees)
def test_arbitrary_trees_parse_or_raise_a_peer_error(tree: Any) -> None:
    """The only errors are FrameError and InvalidMessage, whose text can be sent to the peer."""
    assert_parses_or_fails(tree)
    assert_parses_or_fails({**WHOLE, "type": tree})


@given(frame=st.binary(min_size=1), at=st.integers(0, 200), data=st.data())
def test_damaged_frames(frame: bytes, at: int, data: st.DataObject) -> None:
    """A valid heartbeat that is truncated or partly overwritten."""
    for codec, good in ((JSON, json.dumps(WHOLE).encode()), (MSGPACK, msgpack.packb(WHOLE))):
        bad = data.draw(st.sampled_from([good[:at], good[:at] + frame + good[at + len(frame) :], good + frame]))
        decode_and_parse(codec, bad if codec is MSGPACK else bad.decode(errors="surrogateescape"))


@given(field=st.sampled_from([info.alias or name for name, info in Heartbeat.model_fields.items()]), value=trees)
def test_heartbeats_with_one_invalid_field(field: str, value: Any) -> None:
    """The error has the seq where seq and session are valid, and names no valid field."""
    refusal = error_of({**WHOLE, "session": "s", field: value})
    if isinstance(refusal, FrameError):
        assert field == "type"
    elif refusal is not None and field != "type":
        assert all(bad.pointer.split("/")[1] == field for bad in refusal.fields)
        if field not in ("seq", "session"):
            assert (refusal.seq, refusal.session) == (1, "s")


@pytest.mark.parametrize(
    "frame",
    [
        "",
        " ",
        "nul",
        "NAN",
        "{",
        '{"a":1,}',
        "[1,]",
        "'a'",
        '{"type":"ping"} {"type":"ping"}',
        '{"type":"ping","type":"ping"}',
        '{"a":{"b":1,"b":1}}',
        '{"a":1,"\\u0061":2}',
        '"\\ud800"',
        '"\\udc00\\ud800"',
        "\ud800",
        '"\x01"',
        "\x00",
        "\ufeff{}",
        "01",
        "+1",
        ".5",
        "1.",
        "0x10",
        "1" * 5_000,
        "[" * 300 + "]" * 300,
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda frame: repr(frame[:20]),
)
def test_not_json(frame: str) -> None:
    """What RFC 8259 does not allow, what it leaves to implementations, and what is nested too deeply."""
    with pytest.raises(FrameError, match="not JSON"):
        JSON.decode(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="never used"),
        pytest.param(b"\x80\x80", id="a second object behind the first"),
        pytest.param(b"\x82\xa1a\x01\xa1a\x02", id="a key twice"),
        pytest.param(b"\x81\x01\x02", id="a key that is a number"),
        pytest.param(b"\x81\x90\x01", id="a key that is a list"),
        pytest.param(b"\x81\x80\x01", id="a key that is a map"),
        pytest.param(b"\xa2\xff\xfe", id="text that is not UTF-8"),
        pytest.param(b"\xa3\xed\xa0\x80", id="half a surrogate pair"),
        pytest.param(b"\xd4\x05\x00", id="an extension"),
        pytest.param(b"\xc7\x00\x05", id="an empty extension"),
        pytest.param(b"\xc7\x00\xff", id="an empty timestamp"),
        pytest.param(b"\xd6\xff\x00\x00\x00\x01", id="a timestamp of 32 bits"),
        pytest.param(b"\xd7\xff" + bytes(8), id="a timestamp of 64 bits"),
        pytest.param(b"\xc7\x0c\xff" + bytes(12), id="a timestamp of 96 bits"),
        pytest.param(b"\xdb\xff\xff\xff\xff", id="4 GB of text announced"),
        pytest.param(b"\xc6\xff\xff\xff\xff", id="4 GB of bytes announced"),
        pytest.param(b"\xdd\xff\xff\xff\xff\x00", id="four billion elements announced"),
        pytest.param(b"\xdf\xff\xff\xff\xff\xa0\x00", id="four billion pairs announced"),
        pytest.param(b"\xc9\xff\xff\xff\xff\x05", id="an extension of 4 GB announced"),
        pytest.param(b"\x91" * 10_000 + b"\x00", id="lists 10,000 deep"),
        pytest.param(b"\x81\xa0" * 10_000 + b"\x00", id="maps 10,000 deep"),
        pytest.param(msgpack.packb(WHOLE)[:-1], id="cut off"),
    ],
)
def test_not_msgpack(frame: bytes) -> None:
    """The error comes before memory is allocated for an announced length."""
    with pytest.raises(FrameError, match="not msgpack"):
        MSGPACK.decode(frame)


@pytest.mark.parametrize(("codec", "frame"), [(JSON, b'{"type":"ping"}'), (MSGPACK, '{"type":"ping"}')])
def test_frames_of_the_other_kind(codec: Codec, frame: str | bytes) -> None:
    """JSON requires text frames and msgpack binary ones."""
    with pytest.raises(FrameError, match="frames only"):
        codec.decode(frame)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_nan_and_infinity_are_rejected_by_their_field(word: str) -> None:
    """The whole frame is not, so that the ack can name the heartbeat."""
    with pytest.raises(InvalidMessage) as refusal:
        parse(JSON.decode(json.dumps({**WHOLE, "position": "X"}).replace('"X"', word)))
    assert ([field.pointer for field in refusal.value.fields], refusal.value.seq) == (["/position"], 1)
    with pytest.raises(InvalidMessage) as refusal:
        parse(MSGPACK.decode(msgpack.packb({**WHOLE, "position": math.nan})))
    assert [field.pointer for field in refusal.value.fields] == ["/position"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"seq": 0}, "/seq"),
        ({"seq": True}, "/seq"),
        ({"seq": 1.0}, "/seq"),
        ({"seq": "1"}, "/seq"),
        ({"seq": MAX_SEQ + 1}, "/seq"),
        ({"videoId": "not-an-id"}, "/videoId"),
        ({"videoId": VIDEO + "\n"}, "/videoId"),
        ({"position": -0.001}, "/position"),
        ({"position": MAX_MEDIA_S + 0.001}, "/position"),
        ({"position": 10**400}, "/position"),
        ({"position": True}, "/position"),
        ({"played": [[0]]}, "/played/0/1"),
        ({"played": [[0, 1, 2]]}, "/played/0"),
        ({"played": [[0, 1], [-1, 1]]}, "/played/1/0"),
        ({"played": {}}, "/played"),
        ({"played": [[0, 1]] * (MAX_PLAYED + 1)}, "/played"),
        ({"age": -1}, "/age"),
        ({"age": 366 * 86_400_000 + 1}, "/age"),
        ({"span": -1}, "/span"),
        ({"state": "dancing"}, "/state"),
        ({"seek": 1}, "/seek"),
        ({"session": "a b"}, "/session"),
        ({"session": "s" * 65}, "/session"),
        ({"watchedDuration": 12.0}, "/watchedDuration"),
        ({"lastWatched": 1_764_000_000}, "/lastWatched"),
    ],
)
def test_an_invalid_field_is_named(fields: dict[str, Any], pointer: str) -> None:
    """By a JSON pointer; the error does not repeat the value."""
    with pytest.raises(InvalidMessage) as refusal:
        parse({**WHOLE, **fields})
    assert [field.pointer for field in refusal.value.fields] == [pointer]
    knows_which = not {"seq", "session"} & set(fields)
    assert refusal.value.seq == (1 if knows_which else None)


@pytest.mark.parametrize("tree", [None, 5, "hello", [], [WHOLE], {}, {"type": "dance"}, {"type": None}, {"type": []}])
def test_a_tree_that_is_no_message_is_a_frame_error(tree: Any) -> None:
    """It is not an object, or its type is unknown."""
    with pytest.raises(FrameError):
        parse(tree)


def test_unknown_fields_are_ignored_and_null_is_absent() -> None:
    """A newer player may talk to an older server, and JSON encodes a NaN duration as null."""
    message = parse({**WHOLE, "duration": None, "brandNew": [1]})
    assert isinstance(message, Heartbeat)
    assert message.duration is None


def messages_of(model: type[Message], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Generate messages of a type."""
    return st.fixed_dictionaries(fields).map(lambda drawn: model(**drawn))


instants = st.integers(1, 253_402_300_799_999)
revs = st.integers(0, MAX_SEQ)
media_s = st.floats(0, MAX_MEDIA_S, allow_nan=False)
names = st.text("abcXYZ019_-", min_size=1, max_size=64)
words = st.text(st.characters(codec="utf-8"), max_size=20)
views = messages_of(
    RecordView,
    user_id=st.none() | st.just(USER),
    video_id=st.just(VIDEO),
    watched_duration=st.none() | st.integers(0, MAX_MEDIA_S),
    last_watched=st.none() | instants,
    played_duration=st.none() | media_s,
    position=st.none() | media_s,
    completed=st.none() | st.booleans(),
    seen=st.none() | st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=3),
    rev=revs,
)
messages = st.one_of(
    messages_of(
        Hello, device=names, session=names, user_id=st.just(USER), since=st.none() | revs, epoch=st.none() | names
    ),
    messages_of(
        Heartbeat,
        seq=st.integers(1, MAX_SEQ),
        video_id=st.just(VIDEO),
        position=st.none() | media_s,
        played=st.none() | st.lists(st.tuples(media_s, media_s), max_size=3),
        age=st.none() | st.floats(0, 1e9),
        seek=st.none() | st.booleans(),
        state=st.none() | st.sampled_from(["playing", "paused", "ended"]),
        session=st.none() | names,
    ),
    messages_of(Sync, since=revs),
    st.just(Ping()),
    st.just(Pong()),
    messages_of(Synced, rev=revs),
    messages_of(
        Ack,
        session=names,
        seq=revs,
        rejected=st.none() | st.lists(messages_of(Rejection, seq=revs, code=names, detail=words), max_size=2),
        capped=st.none() | st.lists(revs, max_size=3),
    ),
    messages_of(Progress, records=st.lists(views, max_size=3), rev=revs),
    messages_of(Error, code=names, title=words, detail=words),
    messages_of(Goodbye, code=names, retry_after=st.floats(0, 60)),
    messages_of(
        Welcome,
        server_time=instants,
        epoch=names,
        rev=revs,
        heartbeat_interval=st.floats(0, 60),
        flush_interval=st.floats(0, 60),
        max_frame=revs,
    ),
)


@given(message=messages)
def test_each_codec_decodes_what_it_encodes(message: Message) -> None:
    """Both codecs encode a message to equal trees, and a message of the client parses to the same message."""
    trees_of_both = [codec.decode(codec.encode(message)) for codec in (JSON, MSGPACK)]
    assert (
        trees_of_both[0]
        == trees_of_both[1]
        == TypeAdapter(type(message)).dump_python(message, by_alias=True, exclude_none=True, mode="json")
    )
    if isinstance(message, Hello | Heartbeat | Sync | Ping):
        assert all(parse(tree) == message for tree in trees_of_both)


def test_errors_of_both_layers_are_peer_errors() -> None:
    """One handler catches them all."""
    assert issubclass(FrameError, PeerError)
    assert issubclass(InvalidMessage, PeerError)
