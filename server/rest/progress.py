"""The documented REST endpoints for progress. They use the same records, batches and rules as the WebSocket."""

from heapq import nsmallest
from typing import Any, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from playhead.protocol.errors import FieldError, FrameError, InvalidMessage, Problem
from playhead.protocol.messages import Heartbeat, parse
from playhead.protocol.record import IN_SYNC, Outcome, Record, Report
from playhead.protocol.rest import (
    Acks,
    Deleted,
    Engagement,
    Envelope,
    Item,
    ItemOutcome,
    ProgressView,
    SyncBody,
    Update,
    WatchedVideo,
    record_view,
)
from playhead.protocol.scalars import MAX_SEQ
from playhead.protocol.session import Now, Plausibility, Sessions
from playhead.server.lifecycle.waiters import EnvelopeWaiter, OpsWaiter, barrier
from playhead.server.limits.large_reads import LargeRead
from playhead.server.problems import RestError
from playhead.server.rest.bodies import BodyReader, json_response, validated
from playhead.server.rest.parameters import check_query, path_id, query_choice, query_int
from playhead.server.rest.record_pages import WHOLE_BYTES, RecordsResponse, json_parts
from playhead.server.security.audit import actor_of, audited
from playhead.server.security.identity import Identity
from playhead.server.services import Services
from playhead.storage.store import PAGE_RECORDS, WEIGHT_PER_CALL, Damaged, Flusher

T = TypeVar("T")
REPORTS_A_REQUEST = 50
"""This many reports in one body cost as much as one more request."""
REALTIME_TYPES = "application/json", "text/plain"
"""Media types that players send. Beacons use the second; they cannot use the first."""
MAX_BEACON_BYTES = 65_536
"""The largest body that is read before its sender is known. Browsers limit beacons to this size."""


class ProgressEndpoints:
    """The handlers; `routes` maps paths to them."""

    def __init__(self, services: Services, bodies: BodyReader) -> None:
        self._services = services
        self._access = services.access
        self._bodies = bodies
        self._rules = Plausibility(max_rate=services.settings.max_rate)

    def routes(self) -> list[Route]:
        return [
            Route("/progress/update", self.update, methods=["POST"]),  # first, because routes are tried in order
            # One route for each path, so that a 405 lists all of its methods.
            Route("/progress/{userId:segment}/{videoId}", self.dispatch, methods=["GET", "DELETE"]),
            Route("/progress/sync", self.sync, methods=["POST"]),
            Route("/progress/realtime", self.realtime, methods=["POST"]),
            Route("/progress/engagement/{userId}", self.engagement),
            Route("/progress/{userId:segment}", self.get_all),
        ]

    @property
    def _now(self) -> int:
        return self._services.clock().wall

    async def update(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        check_query(request, "detail")
        full = query_choice(request, "detail", ("full",))
        body = await self._bodies.message(request, self._access.payer(request, identity), Update)
        identity.act_for(body.user_id)
        return await self._stored(body, self._services.requests, full)

    async def sync(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        check_query(request, "detail")
        full = query_choice(request, "detail", ("full",))
        body = await self._bodies.message(request, self._access.payer(request, identity), SyncBody)
        identity.act_for(body.user_id)
        self._access.charge(request, identity, len(body.progress_data) / REPORTS_A_REQUEST)
        payer = self._access.payer(request, identity)
        self._access.answer_memory.check(payer, WHOLE_BYTES)  # before storing: a stored sync should not be refused
        outcomes: list[ItemOutcome] = []
        if body.progress_data:
            async with self._services.user_locks.hold(body.user_id):
                outcomes = await self._sync(body, full)
        read = self._access.large_read(payer, WHOLE_BYTES, refuse=False)
        return await self._list_records(request, read, body.user_id, full, outcomes=outcomes)

    async def _sync(self, body: SyncBody, full: str | None) -> list[ItemOutcome]:
        """Store the items of a sync, and return the outcome of each if `full` is set.

        New records are created all or none if the learner might exceed the limit on videos. That takes a single script
        call, and a long one delays other clients of the store. So a long sync is split into several calls if the
        learner would have at most half of the permitted videos.

        Raises:
            RestError: the learner would have too many videos. None of the items is stored.
        """
        user_id, now, items = body.user_id, self._services.clock(), body.progress_data
        limit = self._services.settings.max_videos_per_user
        together = len(items) <= WEIGHT_PER_CALL
        if not together:
            together = await self._services.store.record_count(user_id) + len(items) > limit // 2
        seq = IN_SYNC if together else 0
        waiter = OpsWaiter(user_id, [(item.video_id, _report(item, now, seq)) for item in items])
        committed = await waiter.commit(self._services.requests, together)
        if Outcome.TOO_MANY_VIDEOS in waiter.outcomes:
            raise _too_many_videos(limit)
        outcomes: list[ItemOutcome] = []
        for index, (item, outcome) in enumerate(zip(items if full else (), waiter.outcomes, strict=False)):
            if not index % PAGE_RECORDS:
                await self._services.store.next_time_slice()
            record = committed.record((user_id, item.video_id))
            outcomes.append(ItemOutcome(index=index, video_id=item.video_id, outcome=_outcome(item, outcome, record)))
        return outcomes

    async def realtime(self, request: Request) -> Response:
        """Take the documented body, or a player's envelope of heartbeats, which a beacon may send as text/plain."""
        check_query(request, "detail")
        full = query_choice(request, "detail", ("full",))
        identity, tree = await self._identified(request)
        if isinstance(tree, dict) and "heartbeats" in tree:
            envelope = validated(Envelope, tree)
            del tree  # frees memory, as in _envelope
            identity.act_for(envelope.user_id)
            self._access.charge(request, identity, len(envelope.heartbeats) / REPORTS_A_REQUEST)
            return await self._envelope(envelope)
        body = validated(Update, tree)
        del tree
        identity.act_for(body.user_id)
        return await self._stored(body, self._services.heartbeats, full)

    async def _stored(self, body: Update, lane: Flusher, full: str | None) -> Response:
        """Store the report in `body` and return the record that includes it."""
        waiter = OpsWaiter(body.user_id, [(body.video_id, _report(body, self._services.clock()))])
        committed = await waiter.commit(lane)
        if waiter.outcomes[0] is Outcome.TOO_MANY_VIDEOS:
            raise _too_many_videos(self._services.settings.max_videos_per_user)
        record = _undamaged(committed.record((body.user_id, body.video_id)))
        _refuse_unstored(waiter.outcomes[0], record)
        return _record_response(body.user_id, body.video_id, record, full, self._now)

    async def _identified(self, request: Request) -> tuple[Identity, Any]:
        """The identity of the sender and the body's JSON tree. A beacon has no headers, so its body holds the token."""
        if not self._access.authenticator.enabled or "authorization" in request.headers:
            identity = await self._access.identify(request)
            return identity, await self._bodies.tree(request, self._access.payer(request, identity), *REALTIME_TYPES)
        tree = await self._bodies.tree(
            request, self._access.payer(request), *REALTIME_TYPES, max_bytes=MAX_BEACON_BYTES
        )
        token = tree.get("token") if isinstance(tree, dict) else None
        return await self._access.identify(request, token if isinstance(token, str) else None), tree

    async def dispatch(self, request: Request) -> Response:
        return await (self.delete if request.method == "DELETE" else self.get_one)(request)

    async def get_one(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        check_query(request, "detail")
        full = query_choice(request, "detail", ("full",))
        user_id, video_id = identity.act_for(path_id(request, "userId")), path_id(request, "videoId")
        record = _undamaged(await self._services.store.record(user_id, video_id))
        if not record.exists:
            raise _no_progress()
        return _record_response(user_id, video_id, record, full, self._now)

    async def get_all(self, request: Request) -> Response:
        """All records; with `since`, those changed after that revision, including deleted ones, in full detail."""
        identity = await self._access.identify(request)
        check_query(request, "detail", "since", "epoch")
        full = query_choice(request, "detail", ("full",))
        since = query_int(request, "since", 0, MAX_SEQ)
        user_id = identity.act_for(path_id(request, "userId"))
        epoch = request.query_params.get("epoch")
        read = self._access.large_read(self._access.payer(request, identity), WHOLE_BYTES)
        return await self._list_records(request, read, user_id, full, since, epoch)

    async def delete(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        check_query(request)
        user_id, video_id = identity.act_for(path_id(request, "userId")), path_id(request, "videoId")
        of_another = identity.user_id != user_id
        with audited("progress.delete", actor_of(identity), user=user_id, video=video_id, log=of_another) as action:
            await barrier(self._services.heartbeats)
            waiter = OpsWaiter(user_id, [(video_id, self._now)])
            await waiter.commit(self._services.requests)
            if waiter.outcomes[0] is Outcome.NOTHING_TO_DELETE:
                raise _no_progress()
            if waiter.outcomes[0] is Outcome.FAILED:
                raise _damaged()
            action.outcome = "deleted"
        return json_response(Deleted())

    async def engagement(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        check_query(request, "limit")
        limit = query_int(request, "limit", 1, 100) or 10
        user_id = identity.act_for(path_id(request, "userId"))
        total, most = 0, list[tuple[int, int, str]]()
        with self._access.large_read(self._access.payer(request, identity)) as read:
            changes = _undamaged(read.found(await self._services.store.changes(user_id, admit=read.admit)))
            async for page in changes.pages():
                found = [(-r.watched, -r.last_watched, video_id) for video_id, r in page.records if r.watched]
                total -= sum(watched for watched, _, _ in found)
                most = nsmallest(limit, most + found)
        return json_response(
            Engagement(
                user_id=user_id,
                total_watched_duration=total,
                most_watched_videos=[
                    WatchedVideo(video_id=video_id, watched_duration=-watched) for watched, _, video_id in most
                ],
            )
        )

    async def _list_records(
        self,
        request: Request,
        read: LargeRead,
        user_id: str,
        full: str | None,
        since: int | None = None,
        epoch: str | None = None,
        outcomes: list[ItemOutcome] | None = None,
    ) -> Response:
        """The records, newest first; with `since`, those changed after it, including deleted ones, in full detail."""
        delta = since is not None
        try:
            changes = _undamaged(read.found(await self._services.store.changes(user_id, since, epoch, read.admit)))
            rest = json_parts(
                user_id, changes, self._now, full=delta or full is not None, delta=delta, outcomes=outcomes
            )
            return await RecordsResponse.begin(request, rest, self._services.settings.write_timeout_s, read.close)
        except BaseException:
            read.close()
            raise

    async def _envelope(self, body: Envelope) -> Response:
        """Store an envelope's heartbeats. All are parsed before any is added, so a refused envelope has no effect."""
        sessions = Sessions(body.session, self._rules)
        waiter = EnvelopeWaiter(sessions)
        reports = _reports(body, sessions, self._services.clock())
        body.heartbeats.clear()  # parsed JSON takes many times the body's size; free it before waiting for the store
        lane = self._services.heartbeats
        lane.check_room(body.user_id, len(reports))
        lane.touch(waiter)
        for video_id, report in reports:
            lane.add(body.user_id, video_id, report, waiter)
        await waiter.wait(lane)
        return json_response(Acks(acks=waiter.acks))


def _reports(body: Envelope, sessions: Sessions, now: Now) -> list[tuple[str, Report]]:
    """The reports of the valid heartbeats, each with its videoId. Invalid ones are refused in an ack by their seq.

    Raises:
        RestError: an invalid heartbeat has no usable seq, so no ack can refer to it.
    """
    reports: list[tuple[str, Report]] = []
    for index, tree in enumerate(body.heartbeats):
        try:
            message = parse({**tree, "type": "heartbeat"} if isinstance(tree, dict) else tree)
        except InvalidMessage as error:
            if not sessions.refuse(error):
                raise _bad_heartbeat(index, error.fields) from None
        except FrameError as error:
            raise _bad_heartbeat(index, (FieldError("", error.detail),)) from None
        else:
            assert isinstance(message, Heartbeat)  # noqa: S101 its type was set above
            report = sessions.heartbeat(message, now)
            if report is not None:
                reports.append((message.video_id, report))
    return reports


def _report(item: Item, now: Now, seq: int = 0) -> Report:
    at = min(item.last_watched, now.wall)
    return Report(first_at=at, at=at, seq=seq, claimed=item.watched_duration)


def _record_response(user_id: str, video_id: str, record: Record, full: str | None, now: int) -> Response:
    if full:
        return json_response(record_view(video_id, record, now, user_id))
    return json_response(
        ProgressView(
            user_id=user_id,
            video_id=video_id,
            watched_duration=record.watched,
            last_watched=min(record.last_watched, now),
        )
    )


def _outcome(
    item: Item, outcome: Outcome, record: Record | Damaged
) -> Literal["stored", "capped", "deleted", "failed"]:
    # A deletion may also follow the item in the same commit; then the record does not exist.
    if outcome is Outcome.FAILED or isinstance(record, Damaged):
        return "failed"
    if outcome is Outcome.DELETED or not record.exists:
        return "deleted"
    return "stored" if record.watched >= item.watched_duration else "capped"


def _refuse_unstored(outcome: Outcome, record: Record) -> None:
    """Raise RestError if the update was not stored, or if a deletion followed it in the same commit."""
    if outcome is Outcome.FAILED:
        raise _damaged()
    if outcome is Outcome.DELETED or not record.exists:
        raise RestError(Problem.DELETED, "lastWatched is not after the deletion of this progress")


def _undamaged(found: T | Damaged) -> T:
    """Return what was read from the store. Raises RestError if it is damaged; a retry fails until it is repaired."""
    if isinstance(found, Damaged):
        raise _damaged()
    return found


def _damaged() -> RestError:
    return RestError(Problem.DAMAGED, "the stored value is damaged; an operator can repair it with `playhead rebuild`")


def _bad_heartbeat(index: int, fields: tuple[FieldError, ...]) -> RestError:
    named = tuple(FieldError(f"/heartbeats/{index}{f.pointer}", f.detail) for f in fields)
    return RestError(Problem.INVALID, "; ".join(f"{f.pointer}: {f.detail}" for f in named), named)


def _too_many_videos(limit: int) -> RestError:
    return RestError(Problem.TOO_MANY_VIDEOS, f"at most {limit} videos, including deleted ones (max_videos_per_user)")


def _no_progress() -> RestError:
    return RestError(Problem.NOT_FOUND, "this user has no progress for this video")
