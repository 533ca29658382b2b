"""Learners and their players, over the WebSocket and over the REST fallback, so that each story is written once."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import httpx

from playhead.protocol.scalars import format_instant
from tests.device import Device, device
from tests.serving import FakeClock, Running


class Player(Protocol):
    """One page load on one device."""

    async def report(self, *heartbeats: dict[str, Any], **heartbeat: Any) -> dict[str, Any]:
        """Send heartbeats, several or one given by its fields, and wait until they are stored; the ack."""
        ...


class SocketPlayer:
    """A player with a WebSocket."""

    def __init__(self, opened: Device, video: str) -> None:
        self._device = opened
        self._video = video

    async def report(self, *heartbeats: dict[str, Any], **heartbeat: Any) -> dict[str, Any]:
        for each in heartbeats or (heartbeat,):
            await self._device.beat(self._video, **each)
        return await self._device.acked()


class RestPlayer:
    """A player without a WebSocket: it sends the same heartbeats by POST."""

    def __init__(self, http: httpx.AsyncClient, user: str, video: str) -> None:
        self._http = http
        self._user = user
        self._video = video
        self._session = uuid4().hex
        self._seq = 0

    async def report(self, *heartbeats: dict[str, Any], **heartbeat: Any) -> dict[str, Any]:
        numbered = []
        for each in heartbeats or (heartbeat,):
            self._seq += 1
            numbered.append({"seq": self._seq, "videoId": self._video, **each})
        envelope = {"userId": self._user, "session": self._session, "heartbeats": numbered}
        response = await self._http.post("/progress/realtime", json=envelope)
        assert response.status_code == 200, response.text
        (ack,) = response.json()["acks"]
        assert (ack["session"], ack["seq"]) == (self._session, self._seq)
        return {"rejected": [], "capped": [], **ack}


@dataclass
class Learner:
    """One learner and one video on a running server."""

    server: Running
    http: httpx.AsyncClient
    way: str
    user: str = field(default_factory=lambda: str(uuid4()))
    video: str = field(default_factory=lambda: str(uuid4()))

    @property
    def clock(self) -> FakeClock:
        return self.server.clock

    @property
    def now(self) -> str:
        """The true time, as it is sent."""
        return format_instant(self.clock.wall)

    @contextlib.asynccontextmanager
    async def player(self) -> AsyncIterator[Player]:
        """Open the page of the video on a device of the learner."""
        if self.way == "rest":
            yield RestPlayer(self.http, self.user, self.video)
        else:
            async with device(self.server, self.user) as opened:
                yield SocketPlayer(opened, self.video)

    async def record(self) -> dict[str, Any] | None:
        """The record as readers see it, or None."""
        response = await self.http.get(f"/progress/{self.user}/{self.video}?detail=full")
        if response.status_code == 404:
            return None
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def known(self) -> dict[str, Any]:
        """The record, which must exist."""
        record = await self.record()
        assert record is not None
        return record

    async def delete(self) -> None:
        response = await self.http.delete(f"/progress/{self.user}/{self.video}")
        assert response.json() == {"message": "Progress deleted successfully"}

    async def document(self, path: str, watched: int, last_watched: str) -> httpx.Response:
        """Send the documented body of update, realtime or sync, as a client that knows only the contract does."""
        item = {"videoId": self.video, "watchedDuration": watched, "lastWatched": last_watched}
        body = {"userId": self.user, **({"progressData": [item]} if path == "sync" else item)}
        return await self.http.post(f"/progress/{path}", json=body)
