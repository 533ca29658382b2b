"""The documented REST contract: eight endpoints over the same records, batches and rules as the socket."""

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
from playhead.server.rest.bodies import BodyReader, answer, validated
from playhead.server.rest.parameters import only_query, path_id, query_choice, query_int
from playhead.server.rest.record_pages import WHOLE_BYTES, Listing, parts
from playhead.server.security.audit import actor_of, audited
from playhead.server.security.identity import Identity
from playhead.server.services import Services
from playhead.storage.store import PAGE_RECORDS, WEIGHT_PER_CALL, Damaged, Flusher

T = TypeVar("T")
REPORTS_A_REQUEST = 50
"""Reports that one body brings at the price of a request more."""
TREES = "application/json", "text/plain"
"""Media types of what a player sends by itself: a beacon can't have the first."""
MAX_BEACON_BYTES = 65_536
"""Of a body that has to be read before its sender is known; browsers send beacons of at most so much."""


class ProgressEndpoints:
    """Handlers; `routes` says which path is whose."""

    def __init__(self, services: Services, bodies: BodyReader) -> None:
        self._services = services
        self._access = services.access
        self._bodies = bodies
        self._rules = Plausibility(max_rate=services.settings.max_rate)

    def routes(self) -> list[Route]:
        return [
            Route("/progress/update", self.update, methods=["POST"]),  # first: routes are tried in turn
            # One route a path, so that a 405 names all of its methods.
            Route("/progress/{userId:segment}/{videoId}", self.one, methods=["GET", "DELETE"]),
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
        only_query(request, "detail")
        full = query_choice(request, "detail", ("full",))
        body = await self._bodies.message(request, self._access.payer(request, identity), Update)
        identity.act_for(body.user_id)
        return await self._stored(body, self._services.requests, full)

    async def sync(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        only_query(request, "detail")
        full = query_choice(request, "detail", ("full",))
        body = await self._bodies.message(request, self._access.payer(request, identity), SyncBody)
        identity.act_for(body.user_id)
        self._access.charge(request, identity, len(body.progress_data) / REPORTS_A_REQUEST)
        payer = self._access.payer(request, identity)
        self._access.answer_memory.check(payer, WHOLE_BYTES)  # now: what is stored should not be refused
        said: list[ItemOutcome] = []
        if body.progress_data:
            async with self._services.user_locks.hold(body.user_id):
                said = await self._sync(body, full)
        read = self._access.large_read(payer, WHOLE_BYTES, refuse=False)
        return await self._all(request, read, body.user_id, full, outcomes=said)

    async def _sync(self, body: SyncBody, full: str | None) -> list[ItemOutcome]:
        """What became of each item, where `full` asks for it.

        Raises RestError where the learner would have too many videos: then nothing of it is stored.

        To be all or none takes one call of the store's script. A long one holds up others there, so the items of a long
        sync go one by one where there is ample room.
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
        said: list[ItemOutcome] = []
        for index, (item, outcome) in enumerate(zip(items if full else (), waiter.outcomes, strict=False)):
            if not index % PAGE_RECORDS:
                await self._services.store.next_piece()
            record = committed.record((user_id, item.video_id))
            said.append(ItemOutcome(index=index, video_id=item.video_id, outcome=_outcome(item, outcome, record)))
        return said

    async def realtime(self, request: Request) -> Response:
        """The documented body, or the players' envelope, which a beacon may send as text/plain."""
        only_query(request, "detail")
        full = query_choice(request, "detail", ("full",))
        identity, tree = await self._identified(request)
        if isinstance(tree, dict) and "heartbeats" in tree:
            envelope = validated(Envelope, tree)
            del tree  # as in _envelope
            identity.act_for(envelope.user_id)
            self._access.charge(request, identity, len(envelope.heartbeats) / REPORTS_A_REQUEST)
            return await self._envelope(envelope)
        body = validated(Update, tree)
        del tree
        identity.act_for(body.user_id)
        return await self._stored(body, self._services.heartbeats, full)

    async def _stored(self, body: Update, lane: Flusher, full: str | None) -> Response:
        """The record, when the report in `body` is part of it."""
        waiter = OpsWaiter(body.user_id, [(body.video_id, _report(body, self._services.clock()))])
        committed = await waiter.commit(lane)
        if waiter.outcomes[0] is Outcome.TOO_MANY_VIDEOS:
            raise _too_many_videos(self._services.settings.max_videos_per_user)
        record = _sound(committed.record((body.user_id, body.video_id)))
        _refuse_unstored(waiter.outcomes[0], record)
        return _one(body.user_id, body.video_id, record, full, self._now)

    async def _identified(self, request: Request) -> tuple[Identity, Any]:
        """Who sends a body, and its tree. A beacon has no headers: it carries its token inside, and is short."""
        if not self._access.authenticator.on or "authorization" in request.headers:
            identity = await self._access.identify(request)
            return identity, await self._bodies.tree(request, self._access.payer(request, identity), *TREES)
        tree = await self._bodies.tree(request, self._access.payer(request), *TREES, max_bytes=MAX_BEACON_BYTES)
        token = tree.get("token") if isinstance(tree, dict) else None
        return await self._access.identify(request, token if isinstance(token, str) else None), tree

    async def one(self, request: Request) -> Response:
        return await (self.delete if request.method == "DELETE" else self.get_one)(request)

    async def get_one(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        only_query(request, "detail")
        full = query_choice(request, "detail", ("full",))
        user_id, video_id = identity.act_for(path_id(request, "userId")), path_id(request, "videoId")
        record = _sound(await self._services.store.record(user_id, video_id))
        if not record.exists:
            raise _no_progress()
        return _one(user_id, video_id, record, full, self._now)

    async def get_all(self, request: Request) -> Response:
        """With `since`, what changed after that revision, deletions too, in full detail."""
        identity = await self._access.identify(request)
        only_query(request, "detail", "since", "epoch")
        full = query_choice(request, "detail", ("full",))
        since = query_int(request, "since", 0, MAX_SEQ)
        user_id = identity.act_for(path_id(request, "userId"))
        epoch = request.query_params.get("epoch")
        read = self._access.large_read(self._access.payer(request, identity), WHOLE_BYTES)
        return await self._all(request, read, user_id, full, since, epoch)

    async def delete(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        only_query(request)
        user_id, video_id = identity.act_for(path_id(request, "userId")), path_id(request, "videoId")
        of_another = identity.user_id != user_id
        with audited("progress.delete", actor_of(identity), user=user_id, video=video_id, log=of_another) as act:
            await barrier(self._services.heartbeats)
            waiter = OpsWaiter(user_id, [(video_id, self._now)])
            await waiter.commit(self._services.requests)
            if waiter.outcomes[0] is Outcome.NOTHING_TO_DELETE:
                raise _no_progress()
            if waiter.outcomes[0] is Outcome.FAILED:
                raise _damaged()
            act.outcome = "deleted"
        return answer(Deleted())

    async def engagement(self, request: Request) -> Response:
        identity = await self._access.identify(request)
        only_query(request, "limit")
        limit = query_int(request, "limit", 1, 100) or 10
        user_id = identity.act_for(path_id(request, "userId"))
        total, most = 0, list[tuple[int, int, str]]()
        with self._access.large_read(self._access.payer(request, identity)) as read:
            changes = _sound(read.found(await self._services.store.changes(user_id, admit=read.admit)))
            async for page in changes.pages():
                found = [(-r.watched, -r.last_watched, video_id) for video_id, r in page.records if r.watched]
                total -= sum(watched for watched, _, _ in found)
                most = nsmallest(limit, most + found)
        return answer(
            Engagement(
                user_id=user_id,
                total_watched_duration=total,
                most_watched_videos=[
                    WatchedVideo(video_id=video_id, watched_duration=-watched) for watched, _, video_id in most
                ],
            )
        )

    async def _all(
        self,
        request: Request,
        read: LargeRead,
        user_id: str,
        full: str | None,
        since: int | None = None,
        epoch: str | None = None,
        outcomes: list[ItemOutcome] | None = None,
    ) -> Response:
        """Newest first; with `since`, what changed after it, deletions too, in full detail."""
        delta = since is not None
        try:
            changes = _sound(read.found(await self._services.store.changes(user_id, since, epoch, read.admit)))
            rest = parts(user_id, changes, self._now, full=delta or full is not None, delta=delta, outcomes=outcomes)
            return await Listing.begin(request, rest, self._services.settings.write_timeout_s, read.close)
        except BaseException:
            read.close()
            raise

    async def _envelope(self, body: Envelope) -> Response:
        """All heartbeats are read before the first is taken, so that a refused envelope leaves nothing behind."""
        sessions = Sessions(body.session, self._rules)
        waiter = EnvelopeWaiter(sessions)
        reports = _reports(body, sessions, self._services.clock())
        body.heartbeats.clear()  # many times the size of the body: not while the store is waited for
        lane = self._services.heartbeats
        lane.check_room(body.user_id, len(reports))
        lane.touch(waiter)
        for video_id, report in reports:
            lane.add(body.user_id, video_id, report, waiter)
        await waiter.wait(lane)
        return answer(Acks(acks=waiter.acks))


def _reports(body: Envelope, sessions: Sessions, now: Now) -> list[tuple[str, Report]]:
    """By videoId, those of the heartbeats that are good. Raises RestError for one that no ack can name."""
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


def _one(user_id: str, video_id: str, record: Record, full: str | None, now: int) -> Response:
    if full:
        return answer(record_view(video_id, record, now, user_id))
    return answer(
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
    """A deletion may also have come right after the item, in the same commit."""
    if outcome is Outcome.FAILED or isinstance(record, Damaged):
        return "failed"
    if outcome is Outcome.DELETED or not record.exists:
        return "deleted"
    return "stored" if record.watched >= item.watched_duration else "capped"


def _refuse_unstored(outcome: Outcome, record: Record) -> None:
    """A deletion may also have come right after the update, in the same commit."""
    if outcome is Outcome.FAILED:
        raise _damaged()
    if outcome is Outcome.DELETED or not record.exists:
        raise RestError(Problem.DELETED, "lastWatched is not after the deletion of this progress")


def _sound(found: T | Damaged) -> T:
    """What the store has, if it can be read. Raises RestError: not until it is repaired; to try again is in vain."""
    if isinstance(found, Damaged):
        raise _damaged()
    return found


def _damaged() -> RestError:
    return RestError(Problem.DAMAGED, "what is stored can't be read; an operator can repair it with `playhead rebuild`")


def _bad_heartbeat(index: int, fields: tuple[FieldError, ...]) -> RestError:
    named = tuple(FieldError(f"/heartbeats/{index}{f.pointer}", f.detail) for f in fields)
    return RestError(Problem.INVALID, "; ".join(f"{f.pointer}: {f.detail}" for f in named), named)


def _too_many_videos(limit: int) -> RestError:
    return RestError(Problem.TOO_MANY_VIDEOS, f"at most {limit} videos (max_videos_per_user), deleted ones included")


def _no_progress() -> RestError:
    return RestError(Problem.NOT_FOUND, "there is no progress of this user for this video")
