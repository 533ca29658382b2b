"""The REST contract as methods, returning models of `protocol.rest` and raising problems (RFC 9457) as typed errors."""

import json
import ssl
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

from playhead.client.credentials import Credentials
from playhead.client.errors import RestError, rest_error
from playhead.client.exchange import Answer, exchange
from playhead.client.reading import read
from playhead.protocol.codecs import read_json
from playhead.protocol.errors import FieldError, FrameError, Problem
from playhead.protocol.messages import Ack, Heartbeat, Message, RecordView
from playhead.protocol.rest import Acks, Analytics, Engagement, ProgressList, Summary, VideoView
from playhead.protocol.scalars import EARLIEST, format_instant

M = TypeVar("M", bound=Message)
Id = str | UUID
_PREFIX = "urn:playhead:problem:"


class Rest:
    """REST calls on behalf of `user_id`; with the scope `progress:any`, a call may name another user.

    Every call raises a subclass of RestError for a problem: NotFound, Invalid, Denied, Deleted, TooManyVideos, TooFast
    or Unavailable. It raises OSError if there is no answer, and ValueError if no user is known. An expired token is
    renewed once.
    """

    def __init__(
        self, url: str, credentials: Credentials, user_id: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._tls = tls
        self.user_id = user_id

    async def update(
        self, video_id: Id, watched_duration: int, last_watched: datetime | None = None, user_id: Id | None = None
    ) -> RecordView:
        """Store that `watched_duration` whole seconds were watched.

        Returns the merged record. Also raises Deleted and TooManyVideos.
        """
        body = {"userId": self._user(user_id), **_item(video_id, watched_duration, last_watched)}
        return _read(RecordView, await self._call("POST", "/progress/update?detail=full", body))

    async def sync(
        self, items: Iterable[tuple[Id, int, datetime | None]], user_id: Id | None = None
    ) -> list[RecordView]:
        """Store (video, watched whole seconds, when) for up to 1,000 videos, all or none.

        Returns all records afterwards. Also raises TooManyVideos.
        """
        body = {"userId": self._user(user_id), "progressData": [_item(*item) for item in items]}
        return _records(await self._call("POST", "/progress/sync?detail=full", body))

    async def get(self, video_id: Id, user_id: Id | None = None) -> RecordView:
        """One record in full, with intervals and position in s and instants in ms since 1970. Raises NotFound."""
        return _read(RecordView, await self._call("GET", f"{self._path(user_id, video_id)}?detail=full"))

    async def get_all(self, user_id: Id | None = None) -> list[RecordView]:
        """All records in full, newest first."""
        return _records(await self._call("GET", f"{self._path(user_id)}?detail=full"))

    async def changes(self, since: int | None, epoch: str | None, user_id: Id | None = None) -> ProgressList:
        """The changes after revision `since`, deletions included; all records if the store's epoch is not `epoch`."""
        known = {"detail": "full", "since": since or 0} | ({"epoch": epoch} if epoch else {})
        return _read(ProgressList, await self._call("GET", f"{self._path(user_id)}?{urlencode(known)}"))

    async def delete(self, video_id: Id, user_id: Id | None = None) -> None:
        """Delete a record. Reports from before the deletion stay deleted even if they arrive later. Raises NotFound."""
        await self._call("DELETE", self._path(user_id, video_id))

    async def summary(self, video_id: Id) -> Summary:
        """The mean watched seconds of a video's viewers, and the fraction that completed it, 0.0 to 1.0."""
        return _read(Summary, await self._call("GET", f"/progress/summary/{_quoted(video_id)}"))

    async def engagement(self, limit: int = 10, user_id: Id | None = None) -> Engagement:
        """The total of watched seconds, and the `limit` (1 to 100) most watched videos."""
        return _read(
            Engagement, await self._call("GET", f"/progress/engagement/{self._quoted_user(user_id)}?limit={limit}")
        )

    async def analytics(self, video_id: Id) -> Analytics:
        """The viewers and replays of each second, and totals. Requires the scope `analytics`."""
        return _read(Analytics, await self._call("GET", f"/analytics/videos/{_quoted(video_id)}"))

    async def put_video(self, video_id: Id, title: str, duration: float) -> VideoView:
        """Enter a video of `duration` s (0: not known) into the catalogue. Requires the scope `progress:any`."""
        body = {"title": title, "duration": duration}
        return _read(VideoView, await self._call("PUT", f"/videos/{_quoted(video_id)}", body))

    async def heartbeats(self, session: str, heartbeats: Sequence[Heartbeat]) -> list[Ack]:
        """Store up to 500 heartbeats without a WebSocket; returns when they are stored."""
        items = [heartbeat.model_dump(mode="json", by_alias=True, exclude_none=True) for heartbeat in heartbeats]
        body = {"userId": self._user(None), "session": session, "heartbeats": items}
        return _read(Acks, await self._call("POST", "/progress/realtime", body)).acks

    def _user(self, user_id: Id | None) -> str:
        user = str(user_id) if user_id is not None else self.user_id
        if user is None:
            raise ValueError("user_id: is required; neither the client nor its token has one")
        return user

    def _quoted_user(self, user_id: Id | None) -> str:
        return quote(self._user(user_id), safe="")

    def _path(self, user_id: Id | None, video_id: Id | None = None) -> str:
        return f"/progress/{self._quoted_user(user_id)}" + (f"/{_quoted(video_id)}" if video_id is not None else "")

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        credentials = self._credentials
        answer = await self._send(method, path, body, await credentials.token())
        if answer.status == 401 and _problem(answer).code == Problem.TOKEN_EXPIRED.code and credentials.renewable:
            answer = await self._send(method, path, body, await credentials.fresh())
        if answer.status != 200:
            raise _problem(answer)
        return answer

    async def _send(self, method: str, path: str, body: dict[str, Any] | None, token: str | None) -> Answer:
        headers = {"Accept": "application/json", **self._credentials.headers(token)}
        if body is None:
            return await exchange(method, self._url + path, headers, tls=self._tls)
        headers["Content-Type"] = "application/json"
        return await exchange(method, self._url + path, headers, json.dumps(body).encode(), self._tls)


def _quoted(value: Id) -> str:
    return quote(str(value), safe="")


def _item(video_id: Id, watched_duration: int, last_watched: datetime | None) -> dict[str, Any]:
    """The body of one update; `last_watched` is now if it is None, and in UTC if it is naive."""
    at = last_watched or datetime.now(UTC)
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    ms = max(EARLIEST, round(at.timestamp() * 1_000))
    return {"videoId": str(video_id), "watchedDuration": watched_duration, "lastWatched": format_instant(ms)}


def _read(model: type[M], answer: Answer) -> M:
    try:
        return read(model, read_json(answer.body))
    except FrameError:
        raise RestError(answer.status, "", f"the answer is not a valid {model.__name__}") from None


def _records(answer: Answer) -> list[RecordView]:
    return [record for record in _read(ProgressList, answer).progress_data if isinstance(record, RecordView)]


def _problem(answer: Answer) -> RestError:
    """The error for an answer other than 200, which may also come from a proxy and have any content."""
    try:
        tree = json.loads(answer.body)
        code = str(tree["type"]).removeprefix(_PREFIX) if str(tree["type"]).startswith(_PREFIX) else ""
        detail = str(tree.get("detail", ""))
        fields = tuple(FieldError(str(each["pointer"]), str(each["detail"])) for each in tree.get("errors", ()))
    except (AttributeError, KeyError, TypeError, ValueError):
        code, detail, fields = "", f"HTTP {answer.status}", ()
    after = answer.headers.get("Retry-After", "")
    return rest_error(answer.status, code, detail, fields, float(after) if after.isascii() and after.isdigit() else 0.0)
