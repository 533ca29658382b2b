"""Files for browsers: the SDK and the example player, as far as they are there."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

ROOT = Path(__file__).parent.parent
PLAYER = ROOT / "examples" / "player"
CLIENT = ROOT / "client"
MEDIA_TYPES = {".js": "text/javascript", ".ts": "text/plain"}
"""Where the system's table may say something else: .ts is also a film."""


def pages() -> Iterator[Route]:
    """A route for each file of the player and `/` for its page, `/client/…` for the SDK and its types.

    Not mounts: those would answer for every path below, and turn a wrong method elsewhere into 404.
    """
    for file in sorted(PLAYER.glob("*.*")):
        yield Route("/" if file.name == "index.html" else f"/{file.name}", _serves(file))
    for file in sorted((*CLIENT.rglob("*.js"), *CLIENT.rglob("*.d.ts"))):
        yield Route(f"/client/{file.relative_to(CLIENT).as_posix()}", _serves(file))


def _serves(file: Path) -> Callable[[Request], Awaitable[FileResponse]]:
    async def respond(request: Request) -> FileResponse:
        return FileResponse(file, media_type=MEDIA_TYPES.get(file.suffix))

    return respond
