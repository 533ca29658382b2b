"""What operators do while the service runs."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from playhead.protocol.errors import Problem
from playhead.protocol.rest import SessionsEnded
from playhead.server.problems import RestError
from playhead.server.rest.bodies import answer
from playhead.server.rest.parameters import only_query, path_id
from playhead.server.security.audit import actor_of, audited
from playhead.server.security.identity import PROGRESS_ANY
from playhead.server.services import Services


class SessionEndpoints:
    """Handlers; `routes` says which path is whose."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        return [Route("/sessions/{userId}", self.end_sessions, methods=["DELETE"])]

    async def end_sessions(self, request: Request) -> Response:
        """Close all WebSockets of a user, in every process. A token that is still valid lets the user in again."""
        identity = await self._services.access.identify(request)
        identity.require(PROGRESS_ANY)
        only_query(request)
        user_id = path_id(request, "userId")
        with audited("sessions.end", actor_of(identity), user=user_id) as act:
            damaged = await self._services.store.end_sessions(user_id, self._services.clock().wall)
            if damaged is not None:
                detail = "running processes were told, but it is kept for no others: repair it with `playhead rebuild`"
                raise RestError(Problem.DAMAGED, detail)
            act.outcome = "ended"
        return answer(SessionsEnded())
