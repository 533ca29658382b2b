"""Health checks: `/livez` for the process, `/readyz` for whether a heartbeat would be stored."""

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from playhead.server.clock import StoreClock
from playhead.server.problems import NO_STORE
from playhead.server.services import Services
from playhead.storage.store import NotDurable, StoreUnavailable


class HealthEndpoints:
    """`/livez`: the process answers. `/readyz`: so does the store on every lane, and no batch is stuck."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        return [Route("/livez", self.live), Route("/readyz", self.ready)]

    async def live(self, request: Request) -> Response:
        return _status(200, "alive")

    async def ready(self, request: Request) -> Response:
        services = self._services
        if services.drain.begun:
            return _status(503, "the process is shutting down")
        try:
            lanes = await services.hub.lanes()
            async with asyncio.timeout(services.store.timeout_s):
                missing = await services.store.missing()
                notes = await services.store.notes()
        except (StoreUnavailable, TimeoutError):
            return _status(503, "the store does not answer")
        shown = {lane.name: "ready" if lane.works else "does not answer" for lane in lanes}
        if silent := [lane.name for lane in lanes if not lane.works]:
            return _status(503, f"the store does not answer: {', '.join(silent)}", lanes=shown)
        trouble = services.heartbeats.trouble or services.requests.trouble
        if isinstance(trouble, NotDurable):
            missing = missing or str(trouble)
        if missing:
            return _status(503, f"nothing is acked: {missing}", lanes=shown)
        if trouble:
            return _status(503, "the store does not accept records", lanes=shown)
        more: dict[str, Any] = {"lanes": shown}
        if isinstance(clock := services.clock, StoreClock):
            notes = [*notes, *([clock.note] if clock.note else [])]
            more["clock"] = {
                "reference": clock.reference,
                "offsetMs": clock.offset_ms,
                "uncertaintyMs": clock.uncertainty_ms,
                "sampledMsAgo": clock.sampled_ms_ago,
            }
        return _status(200, "ready", **({"notes": notes} if notes else {}), **more)


def _status(code: int, text: str, **more: Any) -> Response:
    return Response(json.dumps({"status": text, **more}), code, NO_STORE, media_type="application/json")
