"""The conversation on one WebSocket as a sans-I/O state machine: a frame and the time in, effects out.

Everything that affects its state lives here. The endpoint moves bytes and carries out effects; from a frame to
the report for the pending buffer there is no await, so any transport can call it. A peer's mistake comes out
as effects too; a LocalError is a bug of ours, and changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto

import msgspec

from playhead.protocol.beats import Beat
from playhead.protocol.codecs import Codec
from playhead.protocol.errors import CloseCode, FrameError, InvalidMessage, LocalError, PeerError, Problem
from playhead.protocol.messages import Auth, Error, Goodbye, Heartbeat, Hello, Message, Ping, Pong, Sync, parse
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


TRANSITIONS: dict[State, dict[type[Message], State]] = {
    State.OPENING: {Hello: State.CHECKING},
    State.CHECKING: {},
    State.OPEN: {Heartbeat: State.OPEN, Sync: State.OPEN, Auth: State.OPEN, Ping: State.OPEN},
    State.ENDING: {},
    State.CLOSED: {},
}
"""What a client may say when. Anything else is its mistake."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write this frame."""

    frame: str | bytes


@dataclass(frozen=True, slots=True)
class Greet:
    """Find out who says hello, then `open` or `refuse`.

    The answer: welcome, what changed after `since` (everything, where the epoch differs), synced.
    """

    hello: Hello


@dataclass(frozen=True, slots=True)
class Bring:
    """Answer a sync: what changed after `since`, then synced."""

    since: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Verify this token, and let the connection last as long as it does."""

    token: str


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


Effect = Send | Greet | Bring | Renew | Take | Touch | Close
_TOUCH = (Touch(),)


class Connection:
    """One client's conversation."""

    __slots__ = ("_codec", "_rules", "_sessions", "state", "user_id")

    def __init__(self, codec: Codec, rules: Plausibility) -> None:
        self._codec = codec
        self._rules = rules
        self._sessions: Sessions | None = None
        self.state = State.OPENING
        self.user_id = ""

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
            if isinstance(message, Heartbeat):
                return self._heartbeat(message, now)
            return self._other(message)
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

    def open(self, user_id: str, session: str) -> None:
        """The hello is accepted: from now on this connection speaks for `user_id`.

        Raises:
            LocalError: no hello waits to be accepted.
        """
        if self.state is not State.CHECKING:
            raise LocalError("no hello waits")
        self.user_id = user_id
        self._sessions = Sessions(session, self._rules)
        self.state = State.OPEN

    def refuse(self, error: PeerError) -> Sequence[Effect]:
        """Say what is wrong, and close; nothing for a connection that is closed already."""
        return () if self.state is State.CLOSED else self._end(error)

    def error(self, error: PeerError) -> Send:
        """Say what is wrong; the connection stands."""
        return Send(self._error(error))

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

    def goodbye(self, problem: str, code: CloseCode, retry_after_s: float) -> Sequence[Effect]:
        """The server wants to end this; nothing for a connection that is closed already."""
        if self.state is State.CLOSED:
            return ()
        self.state = State.CLOSED
        message = Goodbye(code=problem, retry_after=retry_after_s)
        return (Send(self._codec.encode(message)), Close(code, problem))

    def no_hello(self) -> Sequence[Effect]:
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

    def _other(self, message: Hello | Sync | Auth | Ping) -> Sequence[Effect]:
        if isinstance(message, Hello):
            return (Greet(message),)
        if isinstance(message, Auth):
            return (Renew(message.token),)
        if isinstance(message, Sync):
            return (Bring(message.since),)
        return (Send(self._codec.encode(Pong())),)

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

    def _end(self, error: PeerError) -> Sequence[Effect]:
        self.state = State.CLOSED
        code = error.problem.value.close or CloseCode.BAD_FRAME
        return (Send(self._error(error)), Close(code, error.problem.code))

    def _error(self, error: PeerError) -> str | bytes:
        kind = error.problem
        return self._codec.encode(Error(code=kind.code, title=kind.value.title, detail=error.detail[:500]))
