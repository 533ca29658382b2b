"""A class of device for each protocol: those of the peers, and ours with both codecs."""

import json
from typing import Any, ClassVar

import msgpack
from picows import WSMsgType

from bench.load.device import DURATION_S, Client


class Bare(Client):
    """The bare transport: nothing is answered or awaited."""

    def beat(self, due: float) -> None:
        super().beat(due)
        self.due.clear()


class EachAcked(Client):
    """Naive servers: a JSON ack for each heartbeat."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.path = f"/ws?user={self.user}&session={self.session}"

    def received(self, payload: bytes) -> None:
        at = payload.find(b'"seq":')
        if at < 0:
            super().received(payload)
        else:
            self.ack(int(payload[at + 6 :].split(b",", 1)[0].rstrip(b"}")))


class SocketIo(Client):
    """Engine.IO 4 and Socket.IO 5 directly on a WebSocket: an event with an acknowledgement for each heartbeat."""

    path = "/socket.io/?EIO=4&transport=websocket"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.frame = '42%d["heartbeat",' + self.frame + "]"

    def opened(self) -> None:
        """Ready when the namespace is connected."""

    def heartbeat(self, seq: int, start: float, end: float) -> bytes:
        return (self.frame % (seq, seq, end, start, end)).encode()

    def received(self, payload: bytes) -> None:
        if payload.startswith(b"43"):
            self.ack(int(payload[2 : payload.index(b"[")]))
        elif payload.startswith(b"0"):
            self.say(f'40{{"user":"{self.user}"}}'.encode())
        elif payload.startswith(b"40"):
            self.tally.ready += 1
        elif payload == b"2":
            self.say(b"3")
        else:
            super().received(payload)


class Playhead(Client):
    """Our protocol: it starts with hello, and acks are cumulative."""

    bursts = True

    def hello(self) -> dict[str, Any]:
        known = {} if self.load.since is None else {"since": self.load.since, "epoch": self.load.epoch}
        return {"type": "hello", "device": "bench", "session": self.session, "userId": self.user, **known}


class PlayheadJson(Playhead):
    """Our protocol as JSON text."""

    headers: ClassVar[dict[str, str]] = {"Sec-WebSocket-Protocol": "playhead.v1.json"}

    def opened(self) -> None:
        self.say(json.dumps(self.hello()).encode())

    def received(self, payload: bytes) -> None:
        if payload.startswith(b'{"type":"ack"'):
            at = payload.index(b'"seq":') + 6
            self.ack(int(payload[at:].split(b",", 1)[0].rstrip(b"}")))
            if b'"rejected"' in payload or b'"capped"' in payload:
                self.tally.complain(payload.decode())
        elif payload.startswith(b'{"type":"synced"'):
            self.tally.ready += 1
        elif payload.startswith(b'{"type":"progress"'):
            self.tally.records += payload.count(b'"videoId"')
        elif not payload.startswith(b'{"type":"welcome"'):
            super().received(payload)


class PlayheadMsgpack(Playhead):
    """Our protocol as msgpack."""

    headers: ClassVar[dict[str, str]] = {"Sec-WebSocket-Protocol": "playhead.v1.msgpack"}
    message = WSMsgType.BINARY

    def opened(self) -> None:
        self.say(msgpack.packb(self.hello()))

    def heartbeat(self, seq: int, start: float, end: float) -> bytes:
        beat = {"type": "heartbeat", "seq": seq, "videoId": self.video, "position": end, "played": [[start, end]]}
        return bytes(msgpack.packb({**beat, "duration": DURATION_S, "state": "playing"}))

    def received(self, payload: bytes) -> None:
        message = msgpack.unpackb(payload)
        if message["type"] == "ack":
            self.ack(message["seq"])
            if "rejected" in message or "capped" in message:
                self.tally.complain(str(message))
        elif message["type"] == "synced":
            self.tally.ready += 1
        elif message["type"] not in ("welcome", "progress"):
            super().received(payload)


KINDS: dict[str, type[Client]] = {
    "bare": Bare,
    "each-acked": EachAcked,
    "socketio": SocketIo,
    "json": PlayheadJson,
    "msgpack": PlayheadMsgpack,
}
