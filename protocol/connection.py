"""The conversation on one WebSocket as a sans-I/O state machine: a frame and the time in, effects out.

Everything that affects its state lives here. The endpoint moves bytes and carries out effects; from a frame to
the report for the pending buffer there is no await, so any transport can call it. A peer's mistake comes out
as effects too; a LocalError is a bug of ours, and changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import assert_never

import msgspec

from playhead.protocol.beats import Beat
from playhead.protocol.codecs import Codec
from playhead.protocol.errors import CloseCode, FrameError, InvalidMessage, LocalError, PeerError, Problem
from playhead.protocol.messages import (
    CLIENT_MESSAGES,
    Auth,
    ClientMessage,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Ping,
    Pong,
    Sync,
    error_message,
    parse,
)
from playhead.protocol.record import Outcome, Report
from playhead.protocol.session import Now, Plausibility, Sessions


class State(IntEnum):
    OPENING = auto()
    CHECKING = auto()
    """The hello is here; the endpoint finds out who that is."""
    OPEN = auto()
    ENDING = auto()
    """What was taken will be acked; what still comes is not taken, and the client sends it again elsewhere."""
    CLOSED = auto()


TRANSITIONS: dict[State, dict[type[ClientMessage], State]] = {
    State.OPENING: {Hello: State.CHECKING},
    State.CHECKING: {},
    State.OPEN: {model: State.OPEN for model in CLIENT_MESSAGES.values() if model is not Hello},
    State.ENDING: {},
    State.CLOSED: {},
}
"""What a client may say when. Anything else is its mistake."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write this frame."""

    frame: str | bytes


@dataclass(frozen=True, slots=True)
class Handle:
    """Handle this message, which takes I/O.

    - Hello: verify who it is, then `open` and send welcome, what changed after `since` and synced; or `refuse`.
    - Sync: send what changed after `since`, then synced.
    - Auth: verify the token; the connection then lasts as long as the token is valid.
    """

    message: Hello | Sync | Auth


class Take(msgspec.Struct, frozen=True, gc=False):
    """Merge this report into the running batch."""

    video_id: str
    report: Report


@dataclass(frozen=True, slots=True)
class Touch:
    """The next flush owes this connection an ack, though nothing is to be stored."""


@dataclass(frozen=True, slots=True)
class Close:
    code: CloseCode
    reason: str


Output = Send | Close
Effect = Output | Handle | Take | Touch
_TOUCH = (Touch(),)


class Connection:
    """One client's conversation."""

    __slots__ = ("_codec", "_rules", "_sessions", "state")

    def __init__(self, codec: Codec, rules: Plausibility) -> None:
        self._codec = codec
        self._rules = rules
        self._sessions: Sessions | None = None
        self.state = State.OPENING

    def receive(self, frame: str | bytes, now: Now) -> Sequence[Effect]:
        """Take one frame of the client.

        Raises:
            LocalError: the connection is closed already.
        """
        if self.state is not State.OPEN:
            if self.state is State.CLOSED:
                raise LocalError("a frame after the close")
            if self.state is State.ENDING:
                return ()
        try:
            message = parse(self._codec.decode(frame))
            after = TRANSITIONS[self.state].get(type(message))
            if after is None:
                raise self._misplaced()
            self.state = after
            return self._dispatch(message, now)
        except InvalidMessage as error:
            return self._invalid(error)
        except PeerError as error:
            return self._end(error)

    def beat(self, payload: bytes, text: bool, now: Now) -> Sequence[Effect] | None:
        """The short way of a frame that only says how the video plays on, as nearly all do.

        None, and nothing has changed, where it is anything else: `receive` it then.
        """
        if self.state is not State.OPEN or text is not self._codec.text:
            return None
        assert self._sessions is not None  # noqa: S101 OPEN comes only after hello
        beat = self._codec.beat(payload)
        if beat is None or not beat.video_id or beat.video_id != self._sessions.video_id:
            return None
        try:
            return self._heartbeat(beat, now)
        except PeerError as error:
            return self._end(error)

    def open(self, session: str) -> None:
        """Accept the hello. `session` is the default session of the heartbeats that follow.

        Raises:
            LocalError: no hello waits to be accepted.
        """
        if self.state is not State.CHECKING:
            raise LocalError("no hello waits")
        self._sessions = Sessions(session, self._rules)
        self.state = State.OPEN

    def refuse(self, error: PeerError) -> Sequence[Output]:
        """Say what is wrong, and close; nothing for a connection that is closed already."""
        return () if self.state is State.CLOSED else self._end(error)

    def taken(self) -> None:
        """The running batch is on its way to the store."""
        if self._sessions is not None:
            self._sessions.taken()

    def outcome(self, session: str, seqs: Sequence[int], outcome: Outcome) -> None:
        """The store dropped or cut a report of the batch on its way."""
        if self._sessions is not None:
            self._sessions.outcome(session, seqs, outcome)

    def stored(self) -> Iterable[str | bytes]:
        """The batch on its way is stored: the frames that say so."""
        if self._sessions is None:
            return ()
        codec = self._codec
        return [
            codec.plain_ack(session, seq) if ack is None else codec.encode(ack)
            for session, seq, ack in self._sessions.acked()
        ]

    def hold(self) -> None:
        """Take nothing more; a goodbye will follow."""
        if self.state is State.OPEN:
            self.state = State.ENDING

    def goodbye(self, problem: str, code: CloseCode, retry_after_s: float) -> Sequence[Output]:
        """The server wants to end this; nothing for a connection that is closed already."""
        if self.state is State.CLOSED:
            return ()
        self.state = State.CLOSED
        message = Goodbye(code=problem, retry_after=retry_after_s)
        return (Send(self._codec.encode(message)), Close(code, problem))

    def no_hello(self) -> Sequence[Output]:
        """The deadline for the first message has passed."""
        return self._end(self._misplaced()) if self.state is State.OPENING else ()

    def closed(self) -> None:
        """The transport is gone."""
        self.state = State.CLOSED

    def encode(self, message: Message) -> str | bytes:
        """A frame of this connection's subprotocol."""
        return self._codec.encode(message)

    def _heartbeat(self, message: Heartbeat | Beat, now: Now) -> Sequence[Effect]:
        assert self._sessions is not None  # noqa: S101 by the table: OPEN comes only after hello
        report = self._sessions.heartbeat(message, now)
        return _TOUCH if report is None else (Take(self._sessions.video_id, report),)

    def _dispatch(self, message: ClientMessage, now: Now) -> Sequence[Effect]:
        match message:
            case Heartbeat():
                return self._heartbeat(message, now)
            case Ping():
                return (Send(self._codec.encode(Pong())),)
            case Hello() | Sync() | Auth():
                return (Handle(message),)
            case _:
                assert_never(message)

    def _misplaced(self) -> FrameError:
        if self.state is State.OPENING:
            return FrameError("the first message must be hello", Problem.NO_HELLO)
        if self.state is State.CHECKING:
            return FrameError("the hello is not answered yet")
        return FrameError("hello is said once")

    def _invalid(self, error: InvalidMessage) -> Sequence[Effect]:
        """A bad field costs that message, not the connection; but without a hello there is no conversation."""
        if self.state is not State.OPEN:
            return self._end(FrameError(error.detail))
        try:
            if self._sessions is not None and self._sessions.refuse(error):
                return _TOUCH
        except PeerError as full:
            return self._end(full)
        return (Send(self._error(error)),)

    def _end(self, error: PeerError) -> Sequence[Output]:
        self.state = State.CLOSED
        code = error.problem.value.close or CloseCode.BAD_FRAME
        return (Send(self._error(error)), Close(code, error.problem.code))

    def _error(self, error: PeerError) -> str | bytes:
        return self._codec.encode(error_message(error))
