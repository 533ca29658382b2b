"""Static files for browsers: the SDK with its types, and the demo player."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

PACKAGE = Path(__file__).parents[2]
PLAYER = PACKAGE / "player"
CLIENT = PACKAGE / "client"
MEDIA_TYPES = {".js": "text/javascript", ".ts": "text/plain"}
"""Types that the system's table may have differently: .ts is also a video format."""
FOR_ALL_ORIGINS = {"Cross-Origin-Resource-Policy": "cross-origin"}
"""For the SDK, which pages of any origin import, including isolated ones (COEP), and for the demo film."""
FILM = ".webm"


def pages(demo: bool = True, frame_ancestors: Sequence[str] = ()) -> Iterator[Route]:
    """Routes for `/client/…` and, with `demo`, for the player at `/` and each of its files.

    They are not mounts: a mount answers for every path below it, and would turn a wrong method elsewhere into 404.

    Args:
        frame_ancestors: sources that may embed the player in a frame, in the notation of a Content-Security-Policy.
    """
    for file in sorted((*CLIENT.rglob("*.js"), *CLIENT.rglob("*.d.ts"))):
        yield Route(f"/client/{file.relative_to(CLIENT).as_posix()}", _serves(file, FOR_ALL_ORIGINS))
    own = {"Content-Security-Policy": _policy(frame_ancestors)}
    for file in sorted(PLAYER.glob("*.*")) if demo else ():
        headers = own | FOR_ALL_ORIGINS if file.suffix == FILM else own
        yield Route("/" if file.name == "index.html" else f"/{file.name}", _serves(file, headers))


def _policy(frame_ancestors: Sequence[str]) -> str:
    """A policy that allows nothing from other origins and nothing inline (CSP level 3); `data:` is for the icon."""
    framed_by = " ".join(frame_ancestors) or "'none'"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors {framed_by}"
    )


def _serves(file: Path, headers: dict[str, str]) -> Callable[[Request], Awaitable[FileResponse]]:
    async def respond(request: Request) -> FileResponse:
        return FileResponse(file, headers=headers, media_type=MEDIA_TYPES.get(file.suffix))

    return respond
