"""The state machine of one WebSocket, without I/O: a frame and the time go in, effects come out.

Everything that affects the state is in this module. The endpoint moves bytes and carries out effects. Nothing is
awaited between a frame and its report, so any transport can use it. A peer's mistake results in effects as well; a
LocalError is a bug in the caller and changes nothing.
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
    """A hello was received, and the endpoint is verifying it."""
    OPEN = auto()
    ENDING = auto()
    """Reports that were accepted will be acked. Later ones are ignored, and the client sends them elsewhere."""
    CLOSED = auto()


TRANSITIONS: dict[State, dict[type[ClientMessage], State]] = {
    State.OPENING: {Hello: State.CHECKING},
    State.CHECKING: {},
    State.OPEN: {model: State.OPEN for model in CLIENT_MESSAGES.values() if model is not Hello},
    State.ENDING: {},
    State.CLOSED: {},
}
"""Which messages a client may send in which state, and the state that follows. Any other message is an error."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write the frame."""

    frame: str | bytes


@dataclass(frozen=True, slots=True)
class Handle:
    """Handle a message that requires I/O.

    - Hello: verify the token, then call `open` and send welcome, the changes after `since` and synced; or `refuse`.
    - Sync: send the changes after `since`, then synced.
    - Auth: verify the token, which then limits how long the connection lasts.
    """

    message: Hello | Sync | Auth


class Take(msgspec.Struct, frozen=True, gc=False):
    """Add the report to the running batch."""

    video_id: str
    report: Report


@dataclass(frozen=True, slots=True)
class Touch:
    """Ack after the next flush, although there is nothing to store."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the WebSocket."""

    code: CloseCode
    reason: str


Output = Send | Close
Effect = Output | Handle | Take | Touch
_TOUCH = (Touch(),)


class Connection:
    """One client's WebSocket."""

    __slots__ = ("_codec", "_rules", "_sessions", "state")

    def __init__(self, codec: Codec, rules: Plausibility) -> None:
        self._codec = codec
        self._rules = rules
        self._sessions: Sessions | None = None
        self.state = State.OPENING

    def receive(self, frame: str | bytes, now: Now) -> Sequence[Effect]:
        """Process a frame of the client.

        Raises:
            LocalError: the connection is already closed.
        """
        if self.state is not State.OPEN:
            if self.state is State.CLOSED:
                raise LocalError("a frame was received after the close")
            if self.state is State.ENDING:
                return ()
        try:
            message = parse(self._codec.decode(frame))
            after = TRANSITIONS[self.state].get(type(message))
            if after is None:
                raise self._unexpected()
            self.state = after
            return self._dispatch(message, now)
        except InvalidMessage as error:
            return self._invalid(error)
        except PeerError as error:
            return self._end(error)

    def beat(self, payload: bytes, text: bool, now: Now) -> Sequence[Effect] | None:
        """Process a frame on the fast path: a plain heartbeat of the same video as the last one, as nearly all are.

        Returns:
            The effects; None for any other frame, which changes nothing and has to be passed to `receive`.
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
            LocalError: no hello is waiting to be accepted.
        """
        if self.state is not State.CHECKING:
            raise LocalError("no hello is waiting")
        self._sessions = Sessions(session, self._rules)
        self.state = State.OPEN

    def refuse(self, error: PeerError) -> Sequence[Output]:
        """Report an error and close; no effects if the connection is already closed."""
        return () if self.state is State.CLOSED else self._end(error)

    def committing(self) -> None:
        """Note that the running batch is being committed."""
        if self._sessions is not None:
            self._sessions.committing()

    def outcome(self, session: str, seqs: Sequence[int], outcome: Outcome) -> None:
        """Note that the store dropped or capped a report of the batch being committed."""
        if self._sessions is not None:
            self._sessions.outcome(session, seqs, outcome)

    def stored(self) -> Iterable[str | bytes]:
        """Note that the batch is stored, and return the frames of its acks."""
        if self._sessions is None:
            return ()
        codec = self._codec
        return [
            codec.plain_ack(session, seq) if ack is None else codec.encode(ack)
            for session, seq, ack in self._sessions.acked()
        ]

    def hold(self) -> None:
        """Accept nothing more; a goodbye will follow."""
        if self.state is State.OPEN:
            self.state = State.ENDING

    def goodbye(self, problem: str, code: CloseCode, retry_after_s: float) -> Sequence[Output]:
        """Send a goodbye and close; no effects if the connection is already closed."""
        if self.state is State.CLOSED:
            return ()
        self.state = State.CLOSED
        message = Goodbye(code=problem, retry_after=retry_after_s)
        return (Send(self._codec.encode(message)), Close(code, problem))

    def no_hello(self) -> Sequence[Output]:
        """Close because the deadline for the hello has passed; no effects once a hello was received."""
        return self._end(self._unexpected()) if self.state is State.OPENING else ()

    def closed(self) -> None:
        """Note that the transport is gone, or that nothing more will be written to it."""
        self.state = State.CLOSED

    def encode(self, message: Message) -> str | bytes:
        """Encode a message in this connection's subprotocol."""
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

    def _unexpected(self) -> FrameError:
        if self.state is State.OPENING:
            return FrameError("the first message must be hello", Problem.NO_HELLO)
        if self.state is State.CHECKING:
            return FrameError("the hello has not been answered yet")
        return FrameError("hello may be sent only once")

    def _invalid(self, error: InvalidMessage) -> Sequence[Effect]:
        """Reject a message with invalid fields. The connection stays open, unless it is not open yet."""
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
