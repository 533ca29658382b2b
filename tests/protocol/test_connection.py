"""The conversation's state machine: what may be said when, and that nothing is acked that isn't stored."""

import json
from collections.abc import Sequence
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from playhead.protocol.codecs import CODECS, Codec, JsonCodec, MsgpackCodec
from playhead.protocol.connection import (
    TRANSITIONS,
    Close,
    Connection,
    Effect,
    Handle,
    Send,
    State,
    Take,
    Touch,
)
from playhead.protocol.errors import CloseCode, FrameError, LocalError, PeerError, Problem
from playhead.protocol.messages import CLIENT_MESSAGES, Auth, ClientMessage, Hello, Pong, Sync, parse
from playhead.protocol.record import Outcome
from playhead.protocol.session import MAX_REJECTED, MAX_SESSIONS, Now, Plausibility

USER, VIDEO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-00000000000a"
NOW = Now(1_764_000_000_000, 5_000_000)
HELLO = {"type": "hello", "device": "tv", "session": "page", "userId": USER}
BEAT = {"type": "heartbeat", "seq": 1, "videoId": VIDEO, "played": [[0, 5]], "position": 5, "state": "playing"}
SYNC, PING, AUTH = {"type": "sync", "since": 7}, {"type": "ping"}, {"type": "auth", "token": "a.b.c"}
BAD = {**BEAT, "position": "five"}
UNTOLD = {**BEAT, "seq": "one"}


def in_state(state: State, codec: Codec | None = None) -> Connection:
    connection = Connection(codec or JsonCodec(), Plausibility())
    if state is not State.OPENING:
        connection.receive(written(connection, HELLO), NOW)
    if state in (State.OPEN, State.ENDING, State.CLOSED):
        connection.open("page")
    if state is State.ENDING:
        connection.hold()
    if state is State.CLOSED:
        connection.closed()
    return connection


def written(connection: Connection, tree: Any) -> str | bytes:
    """A frame as the connection's client writes it."""
    text = isinstance(connection.encode(Pong()), str)
    return json.dumps(tree) if text else msgpack.packb(tree)


def read(frame: str | bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)
    return message


def told(effects: Sequence[Effect]) -> list[Any]:
    """Effects in short: a message's type and code, or the effect."""
    return [
        (read(e.frame)["type"], read(e.frame).get("code")) if isinstance(e, Send) else e
        for e in effects
        if not isinstance(e, Take | Handle)
    ] + [type(e.message) if isinstance(e, Handle) else type(e) for e in effects if isinstance(e, Take | Handle)]


def acks(connection: Connection) -> list[dict[str, Any]]:
    return [read(frame) for frame in connection.stored()]


BAD_FRAME = [("error", "bad_frame"), Close(CloseCode.BAD_FRAME, "bad_frame")]
NO_HELLO = [("error", "no_hello"), Close(CloseCode.NO_HELLO, "no_hello")]
BEFORE_THE_WELCOME: list[Any] = [HELLO, BEAT, SYNC, PING, AUTH, BAD, []]
ANYTHING: list[Any] = [HELLO, BEAT, SYNC, PING, AUTH, BAD, UNTOLD, []]
TABLE: list[tuple[State, Any, State, list[Any]]] = [
    (State.OPENING, HELLO, State.CHECKING, [Hello]),
    (State.OPENING, {**HELLO, "userId": None, "token": "a.b.c"}, State.CHECKING, [Hello]),
    (State.OPENING, {**HELLO, "token": 7}, State.CLOSED, BAD_FRAME),
    (State.OPENING, BEAT, State.CLOSED, NO_HELLO),
    (State.OPENING, SYNC, State.CLOSED, NO_HELLO),
    (State.OPENING, PING, State.CLOSED, NO_HELLO),
    (State.OPENING, AUTH, State.CLOSED, NO_HELLO),
    (State.OPENING, {**HELLO, "userId": "me"}, State.CLOSED, BAD_FRAME),
    (State.OPENING, {"type": "hello"}, State.CLOSED, BAD_FRAME),
    (State.OPENING, BAD, State.CLOSED, BAD_FRAME),
    (State.OPENING, {"type": "dance"}, State.CLOSED, BAD_FRAME),
    (State.OPENING, [], State.CLOSED, BAD_FRAME),
    *((State.CHECKING, message, State.CLOSED, BAD_FRAME) for message in BEFORE_THE_WELCOME),
    (State.OPEN, HELLO, State.CLOSED, BAD_FRAME),
    (State.OPEN, BEAT, State.OPEN, [Take]),
    (State.OPEN, {**BEAT, "played": [], "state": "paused"}, State.OPEN, [Touch()]),
    (State.OPEN, {**BEAT, "played": [[5, 0]]}, State.OPEN, [Touch()]),
    (State.OPEN, SYNC, State.OPEN, [Sync]),
    (State.OPEN, PING, State.OPEN, [("pong", None)]),
    (State.OPEN, AUTH, State.OPEN, [Auth]),
    (State.OPEN, {"type": "auth"}, State.OPEN, [("error", "invalid")]),
    (State.OPEN, {**AUTH, "token": "x" * 8_193}, State.OPEN, [("error", "invalid")]),
    (State.OPEN, BAD, State.OPEN, [Touch()]),
    (State.OPEN, UNTOLD, State.OPEN, [("error", "invalid")]),
    (State.OPEN, {**BEAT, "session": "a b"}, State.OPEN, [("error", "invalid")]),
    (State.OPEN, {**SYNC, "since": -1}, State.OPEN, [("error", "invalid")]),
    (State.OPEN, {**HELLO, "userId": "me"}, State.OPEN, [("error", "invalid")]),
    (State.OPEN, {"type": "dance"}, State.CLOSED, BAD_FRAME),
    (State.OPEN, "hello", State.CLOSED, BAD_FRAME),
    *((State.ENDING, message, State.ENDING, []) for message in ANYTHING),
]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize(("state", "message", "after", "effects"), TABLE)
def test_every_message_in_every_state(
    codec: Codec, state: State, message: Any, after: State, effects: list[Any]
) -> None:
    """What is legal does its work; what is not changes nothing but to close, with a code that tells what to do."""
    connection = in_state(state, codec)
    assert told(connection.receive(written(connection, message), NOW)) == effects
    assert connection.state is after


def test_the_table_has_every_message_in_every_state() -> None:
    """A message added to the union needs rows here too."""
    tried = {(state, message["type"]) for state, message, *_ in TABLE if isinstance(message, dict)}
    assert {(state, name) for state in State if state is not State.CLOSED for name in CLIENT_MESSAGES} <= tried


def test_every_message_is_allowed_in_some_state() -> None:
    """And a frame of an unknown type is told which types there are."""
    allowed = {model for row in TRANSITIONS.values() for model in row}
    assert allowed == set(CLIENT_MESSAGES.values()) == set(get_args(ClientMessage))
    with pytest.raises(FrameError, match="type should be one of hello, heartbeat, sync, auth, ping"):
        parse({"type": "dance"})


@pytest.mark.parametrize("state", [state for state in State if state is not State.CHECKING])
def test_only_a_hello_that_waits_can_be_accepted(state: State) -> None:
    """In any other state `open` is a bug of ours and changes nothing."""
    connection = in_state(state)
    with pytest.raises(LocalError):
        connection.open("page")
    assert connection.state is state


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (Problem.UNAUTHORIZED, CloseCode.UNAUTHORIZED),
        (Problem.TOKEN_EXPIRED, CloseCode.TOKEN_EXPIRED),
        (Problem.FORBIDDEN, CloseCode.FORBIDDEN),
    ],
)
def test_who_is_refused_is_told_why_and_closed(problem: Problem, code: CloseCode) -> None:
    """Said once: nothing for a connection that is closed."""
    connection = in_state(State.CHECKING)
    error = PeerError(problem, "no")
    assert told(connection.refuse(error)) == [("error", problem.code), Close(code, problem.code)]
    assert connection.state is State.CLOSED
    assert connection.refuse(error) == ()


def test_a_token_is_never_in_a_repr() -> None:
    """A model may end up in a log or a traceback; the token in it must not."""
    for message in ({**HELLO, "token": "secret-token"}, {**AUTH, "token": "secret-token"}):
        assert "secret-token" not in repr(parse(message))


@pytest.mark.parametrize("message", [HELLO, BEAT, SYNC, PING, BAD, {}])
def test_after_the_close_a_frame_is_our_own_mistake(message: Any) -> None:
    """Raised, and nothing changes: what was taken before is still acked when it is stored."""
    connection = in_state(State.OPEN)
    connection.receive(json.dumps(BEAT), NOW)
    connection.goodbye("restart", CloseCode.RESTART, 2.0)
    with pytest.raises(LocalError):
        connection.receive(json.dumps(message), NOW)
    assert connection.state is State.CLOSED
    connection.taken()
    assert acks(connection) == [{"type": "ack", "session": "page", "seq": 1}]


@pytest.mark.parametrize("frame", ["{", "", b"", b"\xc1", "\ud800", "[" * 300, "null"])
@pytest.mark.parametrize("state", [State.OPENING, State.OPEN])
def test_frame_that_cannot_be_read_ends_it(state: State, frame: str | bytes) -> None:
    """With the reason first; in JSON a binary frame is one of them."""
    connection = in_state(state)
    assert told(connection.receive(frame, NOW)) == BAD_FRAME
    assert connection.state is State.CLOSED


def test_second_hello_does_not_take_over() -> None:
    """Neither another user nor another session: the ack still names the first."""
    connection = in_state(State.OPEN)
    connection.receive(json.dumps(BEAT), NOW)
    connection.receive(json.dumps({**HELLO, "userId": VIDEO, "session": "other"}), NOW)
    assert connection.state is State.CLOSED
    connection.taken()
    assert [ack["session"] for ack in acks(connection)] == ["page"]


def test_invalid_heartbeat_is_rejected_in_the_next_ack() -> None:
    """By its seq, with the field; the ones around it stand."""
    connection = in_state(State.OPEN)
    connection.receive(json.dumps(BEAT), NOW)
    connection.receive(json.dumps({**BAD, "seq": 2}), NOW)
    connection.receive(json.dumps({**BEAT, "seq": 3}), NOW)
    assert acks(connection) == []
    connection.taken()
    (ack,) = acks(connection)
    (rejected,) = ack["rejected"]
    assert (ack["seq"], rejected["seq"], rejected["code"]) == (3, 2, "invalid")
    assert rejected["detail"].startswith("/position: ")


def test_heartbeat_that_cannot_be_told_leaves_no_trace_in_the_acks() -> None:
    """An error frame at once, and the connection stays."""
    connection = in_state(State.OPEN)
    (effect,) = connection.receive(json.dumps(UNTOLD), NOW)
    assert isinstance(effect, Send)
    assert read(effect.frame)["detail"].startswith("/seq: ")
    connection.taken()
    assert acks(connection) == []
    assert connection.state is State.OPEN


def test_outcome_of_the_store_reaches_the_ack() -> None:
    """And none is invented where nobody has said hello."""
    connection = in_state(State.OPEN)
    connection.receive(json.dumps(BEAT), NOW)
    connection.taken()
    connection.outcome("page", [1], Outcome.DELETED)
    assert [r["code"] for r in acks(connection)[0]["rejected"]] == ["deleted"]
    silent = in_state(State.OPENING)
    silent.taken()
    silent.outcome("page", [1], Outcome.DELETED)
    assert acks(silent) == []


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([{**BEAT, "session": f"s{n}"} for n in range(MAX_SESSIONS + 1)], "too_many_sessions", id="beats"),
        pytest.param([{**BAD, "session": f"s{n}"} for n in range(MAX_SESSIONS + 1)], "too_many_sessions", id="bad"),
        pytest.param([{**BAD, "seq": n + 1} for n in range(MAX_REJECTED + 1)], "too_many_bad", id="rejections"),
    ],
)
def test_who_would_fill_our_memory_is_sent_away(frames: list[dict[str, Any]], code: str) -> None:
    """With a reason; up to the bound the connection stands."""
    connection = in_state(State.OPEN)
    for frame in frames[:-1]:
        connection.receive(json.dumps(frame), NOW)
    assert connection.state.name == "OPEN"
    effects = connection.receive(json.dumps(frames[-1]), NOW)
    assert told(effects)[0] == ("error", code)
    assert isinstance(effects[1], Close)
    assert connection.state is State.CLOSED


def test_goodbye_tells_when_to_come_back_and_is_said_once() -> None:
    """The message first, then the close; nothing for a connection that is closed."""
    connection = in_state(State.OPENING)
    goodbye, close = connection.goodbye("restart", CloseCode.RESTART, 2.5)
    assert isinstance(goodbye, Send)
    assert read(goodbye.frame) == {"type": "goodbye", "code": "restart", "retryAfter": 2.5}
    assert close == Close(CloseCode.RESTART, "restart")
    assert connection.goodbye("restart", CloseCode.RESTART, 2.5) == ()


def test_what_was_taken_is_acked_after_a_hold_and_nothing_more_is_taken() -> None:
    """So a goodbye that follows the flush leaves no report without its ack but those the client must send again."""
    connection = in_state(State.OPEN)
    connection.receive(written(connection, BEAT), NOW)
    connection.hold()
    assert connection.receive(written(connection, {**BEAT, "seq": 2}), NOW) == ()
    connection.taken()
    assert [(ack["type"], ack["seq"]) for ack in acks(connection)] == [("ack", 1)]
    assert told(connection.goodbye("restarting", CloseCode.RESTART, 2.5))[0] == ("goodbye", "restarting")
    assert connection.state is State.CLOSED


@pytest.mark.parametrize("state", [State.OPENING, State.CHECKING, State.CLOSED])
def test_only_an_open_conversation_is_held(state: State) -> None:
    connection = in_state(state)
    connection.hold()
    assert connection.state is state


def test_deadline_of_the_hello() -> None:
    """It ends who has said nothing, and nobody else."""
    assert told(in_state(State.OPENING).no_hello()) == NO_HELLO
    for state in (State.CHECKING, State.OPEN, State.ENDING, State.CLOSED):
        connection = in_state(state)
        assert connection.no_hello() == ()
        assert connection.state is state


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(frames=st.lists(st.one_of(st.text(max_size=40), st.binary(max_size=40)), max_size=6), opened=st.booleans())
def test_random_frames_raise_nothing_of_the_peers(codec: Codec, frames: list[str | bytes], opened: bool) -> None:
    """Only LocalError, only after the close; and nothing is acked of what makes no sense."""
    connection = in_state(State.OPEN if opened else State.OPENING, codec)
    for frame in frames:
        if connection.state is State.CLOSED:
            with pytest.raises(LocalError):
                connection.receive(frame, NOW)
        else:
            connection.receive(frame, NOW)
    connection.taken()
    assert acks(connection) == []


class Conversation(RuleBasedStateMachine):
    """A client that says anything, a store that now and then has the batch, and our own account of both."""

    codec: Codec = JsonCodec()

    def __init__(self) -> None:
        super().__init__()
        self.connection = in_state(State.OPEN, self.codec)
        self.running: set[tuple[str, int]] = set()
        self.on_its_way: set[tuple[str, int]] | None = None
        self.now = NOW

    def say(self, tree: dict[str, Any]) -> Sequence[Effect]:
        self.now = Now(self.now.wall + 5_000, self.now.mono + 5_000)
        return self.connection.receive(written(self.connection, tree), self.now)

    @precondition(lambda self: self.connection.state is State.OPEN)
    @rule(
        seq=st.integers(1, 30),
        session=st.sampled_from([None, "page", "a", "b"]),
        played=st.sampled_from([[], [[0, 5]], [[9, 3]], [[0, 9_000]]]),
        position=st.sampled_from([0, 5, -1, "x"]),
    )
    def beat(self, seq: int, session: str | None, played: Any, position: Any) -> None:
        effects = self.say({**BEAT, "seq": seq, "session": session, "played": played, "position": position})
        assert [type(e) for e in effects] in ([Take], [Touch])
        for effect in effects:
            if isinstance(effect, Take):
                assert (effect.report.session, effect.report.seq) == (session or "page", seq)
        self.running.add((session or "page", seq))

    @precondition(lambda self: self.connection.state is State.OPEN)
    @rule(tree=st.sampled_from([SYNC, PING, UNTOLD, {**SYNC, "since": None}]))
    def other(self, tree: dict[str, Any]) -> None:
        assert self.say(tree)
        assert self.connection.state is State.OPEN

    @precondition(lambda self: self.on_its_way is None)
    @rule()
    def batch_leaves(self) -> None:
        self.connection.taken()
        self.on_its_way, self.running = self.running, set()

    @precondition(lambda self: self.on_its_way is not None)
    @rule(outcome=st.sampled_from(Outcome), seqs=st.lists(st.integers(1, 30), max_size=3))
    def store_says(self, outcome: Outcome, seqs: list[int]) -> None:
        self.connection.outcome("page", seqs, outcome)

    @precondition(lambda self: self.on_its_way is not None)
    @rule()
    def batch_is_stored(self) -> None:
        assert self.on_its_way is not None
        sent = acks(self.connection)
        newest: dict[str, int] = {}
        for session, seq in self.on_its_way:
            newest[session] = max(seq, newest.get(session, 0))
        assert {ack["session"]: ack["seq"] for ack in sent} == newest
        assert len(sent) == len(newest)
        self.on_its_way = None

    @precondition(lambda self: self.connection.state is State.OPEN)
    @rule(tree=st.sampled_from([HELLO, {"type": "dance"}]))
    def mistake(self, tree: dict[str, Any]) -> None:
        assert any(isinstance(effect, Close) for effect in self.say(tree))
        assert self.connection.state is State.CLOSED

    @precondition(lambda self: self.connection.state is State.CLOSED)
    @rule(tree=st.sampled_from([HELLO, BEAT, PING]))
    def frame_after_the_close(self, tree: dict[str, Any]) -> None:
        with pytest.raises(LocalError):
            self.say(tree)

    @invariant()
    def nothing_is_acked_unasked(self) -> None:
        if self.on_its_way is None:
            assert acks(self.connection) == []


class PackedConversation(Conversation):
    codec = MsgpackCodec()


TestConversation = Conversation.TestCase
TestPackedConversation = PackedConversation.TestCase
for _case in (TestConversation, TestPackedConversation):
    _case.settings = settings(stateful_step_count=30)


def short(connection: Connection, tree: Any) -> Sequence[Effect] | None:
    frame = written(connection, tree)
    return connection.beat(frame.encode() if isinstance(frame, str) else frame, isinstance(frame, str), NOW)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_the_short_way_needs_an_open_conversation_and_a_video_that_the_long_way_has_taken(codec: Codec) -> None:
    """Else any text would pass for an id."""
    for state in (State.OPENING, State.CHECKING, State.ENDING, State.CLOSED):
        assert short(in_state(state, codec), BEAT) is None
    connection = in_state(State.OPEN, codec)
    for video in ("", "x", VIDEO, VIDEO.upper()):
        assert short(connection, {**BEAT, "videoId": video}) is None
    (long_way,) = connection.receive(written(connection, BEAT), NOW)
    (short_way,) = short(connection, {**BEAT, "seq": 2}) or ()
    assert isinstance(long_way, Take)
    assert isinstance(short_way, Take)
    assert short_way.video_id is long_way.video_id
    assert (long_way.report.seq, short_way.report.seq) == (1, 2)
    other = CODECS["playhead.v1.msgpack" if codec.text else "playhead.v1.json"]
    frame = written(Connection(other, Plausibility()), {**BEAT, "seq": 3})
    assert connection.beat(frame.encode() if isinstance(frame, str) else frame, other.text, NOW) is None


@given(
    st.sampled_from(list(CODECS.values())),
    st.lists(
        st.tuples(
            st.integers(1, 9),
            st.sampled_from([VIDEO, VIDEO, VIDEO.upper(), USER]),
            st.sampled_from([[[0, 5]], [[5, 0]], [], [[0, 90_000]], None]),
            st.sampled_from(["playing", "paused", "?"]),
            st.sampled_from(["", "flush"]),
        ),
        max_size=12,
    ),
)
def test_both_ways_have_the_same_effects(codec: Codec, beats: list[tuple[int, str, Any, str, str]]) -> None:
    two = in_state(State.OPEN, codec), in_state(State.OPEN, codec)
    for seq, video, played, state, then in beats:
        tree = {**BEAT, "seq": seq, "videoId": video, "played": played, "state": state}
        frame = written(two[0], tree)
        assert two[0].receive(frame, NOW) == (short(two[1], tree) or two[1].receive(frame, NOW))
        if then:
            for connection in two:
                connection.taken()
            assert list(two[0].stored()) == list(two[1].stored())
