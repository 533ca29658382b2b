"""Runs a whole conversation from a script, once in each subprotocol, and compares it with the model in account.py.

A script is text, with a step in each line:

    {"type": ...}          a frame; for msgpack the same tree repacked, or the line itself if it is not JSON
    0x81a4...              a frame of these bytes
    !text                  a frame of the kind (text or binary) that the subprotocol does not use
    many 70 session {...}  the frame 70 times, with `session` (or another field) numbered
    clock 5000 / wall -60000      advance both clocks / set the wall clock only
    accept / refuse forbidden / expired      the endpoint's decisions on a hello and a token
    taken / outcome page 2 1,2,3 / stored    the flusher's calls; `taken` is `committing`
    goodbye / no_hello / closed

Any other line is a frame too. If all frames are JSON, both subprotocols must have the same effects.
"""

import json
from contextlib import suppress
from typing import Any

from playhead.protocol.codecs import Codec, read_json
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
from playhead.protocol.errors import CloseCode, FrameError, InvalidMessage, LocalError, PeerError, Problem
from playhead.protocol.messages import Auth, Heartbeat, Hello, Ping, error_message
from playhead.protocol.record import Outcome
from playhead.protocol.scalars import MAX_SEQ
from playhead.protocol.session import Now
from tests.fuzz.account import RULES, Account
from tests.fuzz.frames import JSON, MSGPACK, judged, repacked
from tests.fuzz.records import whole
from tests.fuzz.values import LAST_INSTANT

MAX_FRAMES, MAX_STEPS, MAX_MANY = 2_500, 300, 1_000
FORBIDDEN = PeerError(Problem.FORBIDDEN, "the token does not permit this")


def conversation(data: bytes) -> None:
    """Run the script in both subprotocols."""
    steps = data.splitlines()[:MAX_STEPS]
    one, other = _Talk(JSON), _Talk(MSGPACK)
    for talk in (one, other):
        talk.run(steps)
    alike = min(one.alike, other.alike)
    assert one.trace[:alike] == other.trace[:alike], "the subprotocols differ"


class _Talk:
    """One connection, its model, and the trace of its effects."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.connection = Connection(codec, RULES)
        self.trace: list[Any] = []
        self.alike = MAX_FRAMES + MAX_STEPS
        """The number of entries at the start of the trace that must be the same in both subprotocols."""
        self.frames = 0
        self.now = Now(1_764_000_000_000, 5_000_000)
        self.session = ""
        self.secrets: set[str] = set()
        self.account = Account()

    def run(self, steps: list[bytes]) -> None:
        for step in steps:
            word, _, rest = step.partition(b" ")
            act = getattr(self, f"_do_{word.decode('latin-1')}", None) if word.isalpha() or b"_" in word else None
            if act is None:
                self._frame(step)
            else:
                act(rest.decode("latin-1").split(" "))
            assert self.connection.state in State
            self.account.bounded(self.connection)

    # Steps

    def _do_clock(self, words: list[str]) -> None:
        ms = _integer(words[0], 0, 400 * 86_400_000)
        self.now = Now(min(self.now.wall + ms, LAST_INSTANT), self.now.mono + ms)

    def _do_wall(self, words: list[str]) -> None:
        ms = _integer(words[0], -LAST_INSTANT, LAST_INSTANT)
        self.now = Now(whole(self.now.wall + ms, 1, LAST_INSTANT, 1), self.now.mono)

    def _do_many(self, words: list[str]) -> None:
        tree = _tree(" ".join(words[2:]).encode("latin-1"))
        if not isinstance(tree, dict) or len(words) < 3:
            return
        first = tree.get(words[1])
        for n in range(_integer(words[0], 0, MAX_MANY)):
            tree[words[1]] = first + n if type(first) is int else f"{first}{n}"
            self._frame(json.dumps(tree).encode())

    def _do_accept(self, words: list[str]) -> None:
        if self.connection.state is not State.CHECKING:
            with _local_error(self.connection):
                self.connection.open("page")
            return
        self.connection.open(self.session)
        assert self.connection.state.name == "OPEN"

    def _do_refuse(self, words: list[str]) -> None:
        problem = next((p for p in Problem if p.code == words[0]), Problem.FORBIDDEN)
        before = self.connection.state
        effects = self.connection.refuse(PeerError(problem, "no"))
        self._note(effects)
        if before is State.CLOSED:
            assert effects == ()
        else:
            self._ended(effects, problem, problem.value.close or CloseCode.BAD_FRAME)

    def _do_expired(self, words: list[str]) -> None:
        before = self.connection.state
        self._note([effect := Send(self.connection.encode(error_message(FORBIDDEN)))])
        assert self._read(effect)["code"] == "forbidden"
        assert self.connection.state is before

    def _do_taken(self, words: list[str]) -> None:
        self.connection.committing()
        self.account.committing()

    def _do_outcome(self, words: list[str]) -> None:
        name = words[0]
        outcome = Outcome(_integer(words[1] if len(words) > 1 else "", 0, len(Outcome) - 1))
        seqs = [_integer(n, 1, MAX_SEQ) for n in (words[2] if len(words) > 2 else "1").split(",")]
        self.connection.outcome(name, seqs, outcome)
        self.account.outcome(name, seqs, outcome)

    def _do_stored(self, words: list[str]) -> None:
        acks = [self._read(Send(frame)) for frame in self.connection.stored()]
        self.trace.append(acks)
        self.account.stored(acks)

    def _do_goodbye(self, words: list[str]) -> None:
        before = self.connection.state
        effects = self.connection.goodbye("unavailable", CloseCode.RESTART, 2.5)
        self._note(effects)
        if before is State.CLOSED:
            assert effects == ()
        else:
            assert [type(e) for e in effects] == [Send, Close]
            assert self._read(effects[0])["type"] == "goodbye"
            assert self.connection.state is State.CLOSED

    def _do_no_hello(self, words: list[str]) -> None:
        before = self.connection.state
        effects = self.connection.no_hello()
        self._note(effects)
        if before is State.OPENING:
            self._ended(effects, Problem.NO_HELLO, CloseCode.NO_HELLO)
        else:
            assert effects == ()
            assert self.connection.state is before

    def _do_closed(self, words: list[str]) -> None:
        self.connection.closed()
        assert self.connection.state is State.CLOSED

    # Frames

    def _frame(self, line: bytes) -> None:
        self.frames += 1
        if self.frames > MAX_FRAMES:
            return
        frame = self._framed(line)
        before = self.connection.state
        if before is State.CLOSED:
            with _local_error(self.connection):
                self.connection.receive(frame, self.now)
            return
        try:
            answer = judged(self.codec.decode(frame))
        except FrameError as refusal:
            answer = refusal
        if isinstance(answer, Hello | Auth) and answer.token is not None and len(answer.token) >= 12:
            self.secrets.add(answer.token)
            assert all(name != "token" for name, _ in answer.__repr_args__()), (
                "a token must not be in the repr, which may be logged"
            )
        effects = self.connection.receive(frame, self.now)
        self._note(effects)
        if isinstance(answer, FrameError):
            self._ended(effects, Problem.BAD_FRAME, CloseCode.BAD_FRAME)
        elif isinstance(answer, InvalidMessage):
            self._invalid(before, answer, effects)
        elif type(answer) not in TRANSITIONS[before]:
            problem = Problem.NO_HELLO if before is State.OPENING else Problem.BAD_FRAME
            self._ended(effects, problem, problem.value.close or CloseCode.BAD_FRAME)
        elif isinstance(answer, Heartbeat):
            self._heartbeat(answer, effects)
        else:
            self._other(before, answer, effects)

    def _framed(self, line: bytes) -> str | bytes:
        text = self.codec is JSON
        if line.startswith(b"!"):
            self._differ()
            return line[1:] if text else line[1:].decode("latin-1")
        if line.startswith(b"0x"):
            self._differ()
            with suppress(ValueError):
                line = bytes.fromhex(line[2:].decode("latin-1"))
        elif (tree := _tree(line)) is not _NO_TREE and (packed := repacked(tree)) is not None:
            return line.decode() if text else packed
        self._differ()
        return line.decode("utf-8", "surrogateescape") if text else line

    def _differ(self) -> None:
        self.alike = min(self.alike, len(self.trace))

    def _invalid(self, before: State, refusal: InvalidMessage, effects: Any) -> None:
        if before is not State.OPEN:
            self._ended(effects, Problem.BAD_FRAME, CloseCode.BAD_FRAME)
        elif refusal.seq is None:
            assert self._codes(effects) == ["invalid"]
            assert self.connection.state is State.OPEN
        elif not self._limit_closed(refusal.session or self.session, effects):
            assert [type(e) for e in effects] == [Touch]
            self.account.refused(refusal.session or self.session, refusal.seq)

    def _heartbeat(self, message: Heartbeat, effects: Any) -> None:
        name = message.session or self.session
        if self._limit_closed(name, effects):
            return
        assert self.connection.state is State.OPEN
        (effect,) = effects
        report = None
        if effect != Touch():
            assert isinstance(effect, Take)
            assert effect.video_id == message.video_id
            report = effect.report
        self.account.accepted(name, message, report, self.now)

    def _other(self, before: State, message: Any, effects: Any) -> None:
        assert self.connection.state is TRANSITIONS[before][type(message)]
        (effect,) = effects
        if isinstance(message, Ping):
            assert self._read(effect) == {"type": "pong"}
        else:
            assert effect == Handle(message)
        if isinstance(message, Hello):
            self.session = message.session

    def _limit_closed(self, name: str, effects: Any) -> bool:
        """Whether the connection was closed because of a limit. Checks that the limit was reached."""
        if not any(isinstance(effect, Close) for effect in effects):
            return False
        (code,) = self._codes(effects[:1])
        if code == "too_many_sessions":
            assert self.account.is_full_for(name)
            self._ended(effects, Problem.TOO_MANY_SESSIONS, CloseCode.RATE)
        else:
            assert self.account.has_too_many_bad(name)
            self._ended(effects, Problem.TOO_MANY_BAD, CloseCode.RATE)
        return True

    # Checks

    def _ended(self, effects: Any, problem: Problem, code: CloseCode) -> None:
        """Check that the effects are the error and then the close, and nothing else."""
        assert self.connection.state is State.CLOSED
        assert self._codes(effects[:1]) == [problem.code]
        assert list(effects[1:]) == [Close(code, problem.code)]

    def _codes(self, effects: Any) -> list[str]:
        messages = [self._read(effect) for effect in effects]
        assert all(message["type"] == "error" and message["title"] for message in messages)
        assert all(len(message["detail"]) <= 500 for message in messages)
        return [message["code"] for message in messages]

    def _read(self, effect: Effect) -> dict[str, Any]:
        """Decode a sent frame, as the client would."""
        assert isinstance(effect, Send)
        assert isinstance(effect.frame, str) == (self.codec is JSON)
        message = self.codec.decode(effect.frame)
        assert isinstance(message, dict)
        return message

    def _note(self, effects: Any) -> None:
        closes = [isinstance(effect, Close) for effect in effects]
        assert not any(closes[:-1]), "nothing follows a close"
        assert not any(closes) or self.connection.state is State.CLOSED
        seen = [self._read(effect) if isinstance(effect, Send) else effect for effect in effects]
        for secret in self.secrets:
            assert not any(secret in message.get("detail", "") for message in seen if isinstance(message, dict))
        self.trace.append(seen)


_NO_TREE = object()


def _tree(text: bytes) -> Any:
    try:
        return read_json(text)
    except FrameError:
        return _NO_TREE


def _integer(word: str, low: int, high: int) -> int:
    try:
        return whole(int(word[:20]), low, high, low)
    except ValueError:
        return low if low >= 0 else 0


class _local_error:
    """Expects a LocalError, which leaves the connection's state unchanged."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before = connection.state

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        assert kind is LocalError, f"expected a LocalError, not {error!r}"
        assert self._connection.state is self._before
        return True
