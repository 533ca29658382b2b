"""The endpoint that ends a user's sessions."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from playhead.protocol.errors import Problem
from playhead.protocol.rest import SessionsEnded
from playhead.server.problems import RestError
from playhead.server.rest.bodies import json_response
from playhead.server.rest.parameters import check_query, path_id
from playhead.server.security.audit import actor_of, audited
from playhead.server.security.identity import PROGRESS_ANY
from playhead.server.services import Services


class SessionEndpoints:
    """The handlers; `routes` maps paths to them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        return [Route("/sessions/{userId}", self.end_sessions, methods=["DELETE"])]

    async def end_sessions(self, request: Request) -> Response:
        """Close all WebSockets of a user, in every process. The user can reconnect while their token is valid."""
        identity = await self._services.access.identify(request)
        identity.require(PROGRESS_ANY)
        check_query(request)
        user_id = path_id(request, "userId")
        with audited("sessions.end", actor_of(identity), user=user_id) as action:
            damaged = await self._services.store.end_sessions(user_id, self._services.clock().wall)
            if damaged is not None:
                detail = (
                    "running processes have closed the user's WebSockets, but the stored list of ended sessions is "
                    "damaged, so processes that start later do not know of it; repair it with `playhead rebuild`"
                )
                raise RestError(Problem.DAMAGED, detail)
            action.outcome = "ended"
        return json_response(SessionsEnded())
