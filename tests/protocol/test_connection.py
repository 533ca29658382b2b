"""The state machine of a connection: which message is allowed when, and that only stored reports are acked."""

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
UNIDENTIFIED = {**BEAT, "seq": "one"}


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
    """Encode a frame as the client of the connection does."""
    text = isinstance(connection.encode(Pong()), str)
    return json.dumps(tree) if text else msgpack.packb(tree)


def read(frame: str | bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)
    return message


def summary(effects: Sequence[Effect]) -> list[Any]:
    """Summarize effects: the type and code of a message, or the effect itself."""
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
ANYTHING: list[Any] = [HELLO, BEAT, SYNC, PING, AUTH, BAD, UNIDENTIFIED, []]
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
    (State.OPEN, UNIDENTIFIED, State.OPEN, [("error", "invalid")]),
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
    """An allowed message has its effects. Any other closes the connection with a code that says why."""
    connection = in_state(state, codec)
    assert summary(connection.receive(written(connection, message), NOW)) == effects
    assert connection.state is after


def test_the_table_has_every_message_in_every_state() -> None:
    """A message added to the union needs rows here too."""
    tried = {(state, message["type"]) for state, message, *_ in TABLE if isinstance(message, dict)}
    assert {(state, name) for state in State if state is not State.CLOSED for name in CLIENT_MESSAGES} <= tried


def test_every_message_is_allowed_in_some_state() -> None:
    """And the error for an unknown type lists all types."""
    allowed = {model for row in TRANSITIONS.values() for model in row}
    assert allowed == set(CLIENT_MESSAGES.values()) == set(get_args(ClientMessage))
    with pytest.raises(FrameError, match="type should be one of hello, heartbeat, sync, auth, ping"):
        parse({"type": "dance"})


@pytest.mark.parametrize("state", [state for state in State if state is not State.CHECKING])
def test_only_a_waiting_hello_can_be_accepted(state: State) -> None:
    """In any other state `open` raises LocalError and changes nothing."""
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
def test_a_refusal_reports_the_error_and_closes(problem: Problem, code: CloseCode) -> None:
    """Once: a connection that is already closed has no effects."""
    connection = in_state(State.CHECKING)
    error = PeerError(problem, "no")
    assert summary(connection.refuse(error)) == [("error", problem.code), Close(code, problem.code)]
    assert connection.state is State.CLOSED
    assert connection.refuse(error) == ()


def test_a_token_is_never_in_a_repr() -> None:
    """A model may appear in a log or a traceback; its token must not."""
    for message in ({**HELLO, "token": "secret-token"}, {**AUTH, "token": "secret-token"}):
        assert "secret-token" not in repr(parse(message))


@pytest.mark.parametrize("message", [HELLO, BEAT, SYNC, PING, BAD, {}])
def test_a_frame_after_the_close_is_a_local_error(message: Any) -> None:
    """It is raised and changes nothing: reports accepted before are still acked when they are stored."""
    connection = in_state(State.OPEN)
    connection.receive(json.dumps(BEAT), NOW)
    connection.goodbye("restart", CloseCode.RESTART, 2.0)
    with pytest.raises(LocalError):
        connection.receive(json.dumps(message), NOW)
    assert connection.state is State.CLOSED
    connection.committing()
    assert acks(connection) == [{"type": "ack", "session": "page", "seq": 1}]


@pytest.mark.parametrize("frame", ["{", "", b"", b"\xc1", "\ud800", "[" * 300, "null"])
@pytest.mark.parametrize("state", [State.OPENING, State.OPEN])
def test_an_unreadable_frame_closes_the_connection(state: State, frame: str | bytes) -> None:
    """An error comes first. For JSON a binary frame is unreadable too."""
    connection = in_state(state)
    assert summary(connection.receive(frame, NOW)) == BAD_FRAME
    assert connection.state is State.CLOSED


def test_a_second_hello_does_not_replace_the_session() -> None:
    """The ack still names the first session."""
    connection = in_state(State.OPEN)
    connection.receive(json.dumps(BEAT), NOW)
    connection.receive(json.dumps({**HELLO, "userId": VIDEO, "session": "other"}), NOW)
    assert connection.state is State.CLOSED
    connection.committing()
    assert [ack["session"] for ack in acks(connection)] == ["page"]


def test_an_invalid_heartbeat_is_rejected_in_the_next_ack() -> None:
    """The rejection has its seq and the field; the heartbeats around it are acked."""
    connection = in_state(State.OPEN)
    connection.receive(json.dumps(BEAT), NOW)
    connection.receive(json.dumps({**BAD, "seq": 2}), NOW)
    connection.receive(json.dumps({**BEAT, "seq": 3}), NOW)
    assert acks(connection) == []
    connection.committing()
    (ack,) = acks(connection)
    (rejected,) = ack["rejected"]
    assert (ack["seq"], rejected["seq"], rejected["code"]) == (3, 2, "invalid")
    assert rejected["detail"].startswith("/position: ")


def test_a_heartbeat_without_a_valid_seq_is_reported_as_an_error() -> None:
    """The error is sent at once, the connection stays open, and the heartbeat is part of no ack."""
    connection = in_state(State.OPEN)
    (effect,) = connection.receive(json.dumps(UNIDENTIFIED), NOW)
    assert isinstance(effect, Send)
    assert read(effect.frame)["detail"].startswith("/seq: ")
    connection.committing()
    assert acks(connection) == []
    assert connection.state is State.OPEN


def test_an_outcome_of_the_store_is_part_of_the_ack() -> None:
    """And a connection without a hello has no acks."""
    connection = in_state(State.OPEN)
    connection.receive(json.dumps(BEAT), NOW)
    connection.committing()
    connection.outcome("page", [1], Outcome.DELETED)
    assert [r["code"] for r in acks(connection)[0]["rejected"]] == ["deleted"]
    silent = in_state(State.OPENING)
    silent.committing()
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
def test_a_client_that_exceeds_a_memory_bound_is_disconnected(frames: list[dict[str, Any]], code: str) -> None:
    """With an error; up to the bound the connection stays open."""
    connection = in_state(State.OPEN)
    for frame in frames[:-1]:
        connection.receive(json.dumps(frame), NOW)
    assert connection.state.name == "OPEN"
    effects = connection.receive(json.dumps(frames[-1]), NOW)
    assert summary(effects)[0] == ("error", code)
    assert isinstance(effects[1], Close)
    assert connection.state is State.CLOSED


def test_a_goodbye_has_the_retry_delay_and_is_sent_once() -> None:
    """The message first, then the close. A connection that is already closed has no effects."""
    connection = in_state(State.OPENING)
    goodbye, close = connection.goodbye("restart", CloseCode.RESTART, 2.5)
    assert isinstance(goodbye, Send)
    assert read(goodbye.frame) == {"type": "goodbye", "code": "restart", "retryAfter": 2.5}
    assert close == Close(CloseCode.RESTART, "restart")
    assert connection.goodbye("restart", CloseCode.RESTART, 2.5) == ()


def test_after_a_hold_accepted_reports_are_acked_and_no_more_are_accepted() -> None:
    """So after a flush and a goodbye every accepted report is acked, and the client sends the others again."""
    connection = in_state(State.OPEN)
    connection.receive(written(connection, BEAT), NOW)
    connection.hold()
    assert connection.receive(written(connection, {**BEAT, "seq": 2}), NOW) == ()
    connection.committing()
    assert [(ack["type"], ack["seq"]) for ack in acks(connection)] == [("ack", 1)]
    assert summary(connection.goodbye("restarting", CloseCode.RESTART, 2.5))[0] == ("goodbye", "restarting")
    assert connection.state is State.CLOSED


@pytest.mark.parametrize("state", [State.OPENING, State.CHECKING, State.CLOSED])
def test_only_an_open_connection_can_be_held(state: State) -> None:
    connection = in_state(state)
    connection.hold()
    assert connection.state is state


def test_the_deadline_for_the_hello_closes_only_connections_without_one() -> None:
    """In all other states it has no effects."""
    assert summary(in_state(State.OPENING).no_hello()) == NO_HELLO
    for state in (State.CHECKING, State.OPEN, State.ENDING, State.CLOSED):
        connection = in_state(state)
        assert connection.no_hello() == ()
        assert connection.state is state


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(frames=st.lists(st.one_of(st.text(max_size=40), st.binary(max_size=40)), max_size=6), opened=st.booleans())
def test_random_frames_raise_no_exception(codec: Codec, frames: list[str | bytes], opened: bool) -> None:
    """Except LocalError after the close; and nothing is acked."""
    connection = in_state(State.OPEN if opened else State.OPENING, codec)
    for frame in frames:
        if connection.state is State.CLOSED:
            with pytest.raises(LocalError):
                connection.receive(frame, NOW)
        else:
            connection.receive(frame, NOW)
    connection.committing()
    assert acks(connection) == []


class Conversation(RuleBasedStateMachine):
    """A client that sends anything, a store that sometimes completes the batch, and a model of both."""

    codec: Codec = JsonCodec()

    def __init__(self) -> None:
        super().__init__()
        self.connection = in_state(State.OPEN, self.codec)
        self.running: set[tuple[str, int]] = set()
        self.committing: set[tuple[str, int]] | None = None
        self.now = NOW

    def send(self, tree: dict[str, Any]) -> Sequence[Effect]:
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
        effects = self.send({**BEAT, "seq": seq, "session": session, "played": played, "position": position})
        assert [type(e) for e in effects] in ([Take], [Touch])
        for effect in effects:
            if isinstance(effect, Take):
                assert (effect.report.session, effect.report.seq) == (session or "page", seq)
        self.running.add((session or "page", seq))

    @precondition(lambda self: self.connection.state is State.OPEN)
    @rule(tree=st.sampled_from([SYNC, PING, UNIDENTIFIED, {**SYNC, "since": None}]))
    def other(self, tree: dict[str, Any]) -> None:
        assert self.send(tree)
        assert self.connection.state is State.OPEN

    @precondition(lambda self: self.committing is None)
    @rule()
    def batch_is_taken(self) -> None:
        self.connection.committing()
        self.committing, self.running = self.running, set()

    @precondition(lambda self: self.committing is not None)
    @rule(outcome=st.sampled_from(Outcome), seqs=st.lists(st.integers(1, 30), max_size=3))
    def store_reports_an_outcome(self, outcome: Outcome, seqs: list[int]) -> None:
        self.connection.outcome("page", seqs, outcome)

    @precondition(lambda self: self.committing is not None)
    @rule()
    def batch_is_stored(self) -> None:
        assert self.committing is not None
        sent = acks(self.connection)
        newest: dict[str, int] = {}
        for session, seq in self.committing:
            newest[session] = max(seq, newest.get(session, 0))
        assert {ack["session"]: ack["seq"] for ack in sent} == newest
        assert len(sent) == len(newest)
        self.committing = None

    @precondition(lambda self: self.connection.state is State.OPEN)
    @rule(tree=st.sampled_from([HELLO, {"type": "dance"}]))
    def mistake(self, tree: dict[str, Any]) -> None:
        assert any(isinstance(effect, Close) for effect in self.send(tree))
        assert self.connection.state is State.CLOSED

    @precondition(lambda self: self.connection.state is State.CLOSED)
    @rule(tree=st.sampled_from([HELLO, BEAT, PING]))
    def frame_after_the_close(self, tree: dict[str, Any]) -> None:
        with pytest.raises(LocalError):
            self.send(tree)

    @invariant()
    def nothing_is_acked_without_a_commit(self) -> None:
        if self.committing is None:
            assert acks(self.connection) == []


class PackedConversation(Conversation):
    codec = MsgpackCodec()


TestConversation = Conversation.TestCase
TestPackedConversation = PackedConversation.TestCase
for _case in (TestConversation, TestPackedConversation):
    _case.settings = settings(stateful_step_count=30)


def beat_of(connection: Connection, tree: Any) -> Sequence[Effect] | None:
    frame = written(connection, tree)
    return connection.beat(frame.encode() if isinstance(frame, str) else frame, isinstance(frame, str), NOW)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_the_fast_path_requires_an_open_connection_and_a_validated_video(codec: Codec) -> None:
    """Otherwise any text would be accepted as an id."""
    for state in (State.OPENING, State.CHECKING, State.ENDING, State.CLOSED):
        assert beat_of(in_state(state, codec), BEAT) is None
    connection = in_state(State.OPEN, codec)
    for video in ("", "x", VIDEO, VIDEO.upper()):
        assert beat_of(connection, {**BEAT, "videoId": video}) is None
    (slow_path,) = connection.receive(written(connection, BEAT), NOW)
    (fast_path,) = beat_of(connection, {**BEAT, "seq": 2}) or ()
    assert isinstance(slow_path, Take)
    assert isinstance(fast_path, Take)
    assert fast_path.video_id is slow_path.video_id
    assert (slow_path.report.seq, fast_path.report.seq) == (1, 2)
    other = CODECS["playhead.v1.msgpack" if codec.text else "playhead.v1.json"]
    frame = written(Connection(other, Plausibility()), {**BEAT, "seq": 3})
    assert connection.beat(frame.encode() if isinstance(frame, str) else frame, other.text, NOW) is None


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_too_many_rejected_heartbeats_close_the_connection_on_the_fast_path_too(codec: Codec) -> None:
    connection = in_state(State.OPEN, codec)
    connection.receive(written(connection, BEAT), NOW)
    for seq in range(2, MAX_REJECTED + 2):
        assert beat_of(connection, {**BEAT, "seq": seq, "played": [[5, 0]]}) == (Touch(),)
    effects = beat_of(connection, {**BEAT, "seq": MAX_REJECTED + 2, "played": [[5, 0]]})
    assert summary(effects or ()) == [("error", "too_many_bad"), Close(CloseCode.RATE, "too_many_bad")]
    assert connection.state is State.CLOSED


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
def test_both_paths_have_the_same_effects(codec: Codec, beats: list[tuple[int, str, Any, str, str]]) -> None:
    two = in_state(State.OPEN, codec), in_state(State.OPEN, codec)
    for seq, video, played, state, then in beats:
        tree = {**BEAT, "seq": seq, "videoId": video, "played": played, "state": state}
        frame = written(two[0], tree)
        assert two[0].receive(frame, NOW) == (beat_of(two[1], tree) or two[1].receive(frame, NOW))
        if then:
            for connection in two:
                connection.committing()
            assert list(two[0].stored()) == list(two[1].stored())
