"""The endpoints for videos: catalogue entries, summaries and analytics."""

from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from playhead.protocol.errors import Problem
from playhead.protocol.rest import Analytics, Summary, VideoBody, VideoView
from playhead.server.problems import RestError
from playhead.server.rest.bodies import BodyReader, json_response
from playhead.server.rest.parameters import check_query, path_id
from playhead.server.security.audit import actor_of, audited
from playhead.server.security.identity import ANALYTICS, PROGRESS_ANY
from playhead.server.services import Services
from playhead.storage.store import Damaged, Totals, Video

T = TypeVar("T")


class VideoEndpoints:
    """The handlers; `routes` maps paths to them."""

    def __init__(self, services: Services, bodies: BodyReader) -> None:
        self._services = services
        self._bodies = bodies

    def routes(self) -> list[Route]:
        return [
            Route("/progress/summary/{videoId}", self.summary),
            Route("/videos/{videoId}", self.dispatch, methods=["GET", "PUT"]),
            Route("/analytics/videos/{videoId}", self.analytics),
        ]

    async def summary(self, request: Request) -> Response:
        """Averages over a video's viewers, in O(1), because the totals are kept up to date with each commit.

        Callers who may read the data of single viewers get the current figures. Others get the figures that
        `min_audience` permits; below that number of viewers the response is that of a video without viewers.
        """
        identity = await self._services.access.identify(request)
        check_query(request)
        video_id = path_id(request, "videoId")
        store, batch = self._services.store, self._services.settings.min_audience
        if identity.has(ANALYTICS) or identity.has(PROGRESS_ANY):
            found = await store.totals(video_id)
        else:
            found = await store.released_totals(video_id, batch)
        totals = _undamaged(found, "totals")
        return json_response(
            Summary(
                video_id=video_id,
                average_watched_duration=_average(totals),
                completion_rate=_completion_rate(totals),
            )
        )

    async def analytics(self, request: Request) -> Response:
        (await self._services.access.identify(request)).require(ANALYTICS)
        check_query(request)
        video_id = path_id(request, "videoId")
        found = await self._services.store.analytics(video_id, self._services.clock().wall)
        totals, curve, watching = _undamaged(found, "totals")
        return json_response(
            Analytics(
                video_id=video_id,
                average_watched_duration=_average(totals),
                completion_rate=_completion_rate(totals),
                viewers=totals.viewers,
                completed=totals.completed,
                watching_now=watching,
                retention=curve.viewers,
                replays=curve.replays,
            )
        )

    async def dispatch(self, request: Request) -> Response:
        return await (self.put if request.method == "PUT" else self.get)(request)

    async def put(self, request: Request) -> Response:
        """Write a catalogue entry. A new duration is also written to existing records, in the background if slow."""
        access = self._services.access
        identity = await access.identify(request)
        identity.require(PROGRESS_ANY)
        check_query(request)
        video_id = path_id(request, "videoId")
        body = await self._bodies.message(request, access.payer(request, identity), VideoBody)
        video = Video(body.title, round(body.duration * 1_000))
        store, backfill = self._services.store, self._services.duration_backfill
        with audited("catalogue.put", actor_of(identity), video=video_id) as action:
            known = await store.video(video_id)
            is_same = isinstance(known, Video) and known.duration_ms == video.duration_ms
            if video.duration_ms and not is_same:
                async with backfill.changing(video_id):
                    _undamaged(await store.put_video(video_id, video), "catalogue entry")
            else:
                _undamaged(await store.put_video(video_id, video), "catalogue entry")
            action.outcome = "created" if known is None else "unchanged" if known == video else "changed"
        return json_response(VideoView(video_id=video_id, title=video.title, duration=video.duration_ms / 1_000))

    async def get(self, request: Request) -> Response:
        await self._services.access.identify(request)
        check_query(request)
        video_id = path_id(request, "videoId")
        video = _undamaged(await self._services.store.video(video_id), "catalogue entry")
        if video is None:
            raise RestError(Problem.NOT_FOUND, "this video is not in the catalogue")
        return json_response(VideoView(video_id=video_id, title=video.title, duration=video.duration_ms / 1_000))


def _undamaged(found: T | Damaged, what: str) -> T:
    """Return what was read from the store. Raises RestError if it is damaged; a retry fails until it is repaired."""
    if isinstance(found, Damaged):
        raise RestError(Problem.DAMAGED, f"the stored {what} of this video is damaged ({found.why})")
    return found


def _average(totals: Totals) -> int:
    """Mean seconds for each viewer, rounded half up; 0 without viewers."""
    return (2 * totals.watched + totals.viewers) // (2 * totals.viewers) if totals.viewers else 0


def _completion_rate(totals: Totals) -> float:
    return totals.completed / totals.viewers if totals.viewers else 0.0
