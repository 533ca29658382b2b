"""Files for browsers: the SDK and the example player, as far as they are there."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

PACKAGE = Path(__file__).parents[2]
PLAYER = PACKAGE / "player"
CLIENT = PACKAGE / "client"
MEDIA_TYPES = {".js": "text/javascript", ".ts": "text/plain"}
"""Where the system's table may say something else: .ts is also a film."""
FOR_ALL_ORIGINS = {"Cross-Origin-Resource-Policy": "cross-origin"}
"""The SDK is imported by pages of any origin, also by those that are isolated (COEP); any may try it on the film."""
FILM = ".webm"


def pages(demo: bool = True, frame_ancestors: Sequence[str] = ()) -> Iterator[Route]:
    """`/client/…` for the SDK and its types; with `demo`, `/` for the player's page and a route for each of its files.

    Not mounts: those would answer for every path below, and turn a wrong method elsewhere into 404.

    Args:
        frame_ancestors: who may show the player in a frame, as the policy has it.
    """
    for file in sorted((*CLIENT.rglob("*.js"), *CLIENT.rglob("*.d.ts"))):
        yield Route(f"/client/{file.relative_to(CLIENT).as_posix()}", _serves(file, FOR_ALL_ORIGINS))
    own = {"Content-Security-Policy": _policy(frame_ancestors)}
    for file in sorted(PLAYER.glob("*.*")) if demo else ():
        headers = own | FOR_ALL_ORIGINS if file.suffix == FILM else own
        yield Route("/" if file.name == "index.html" else f"/{file.name}", _serves(file, headers))


def _policy(frame_ancestors: Sequence[str]) -> str:
    """Nothing from elsewhere, nothing inline (CSP level 3). `data:` is the icon."""
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
