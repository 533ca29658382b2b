"""The outermost middleware, on a real socket: what it refuses, and that it does so before anything else is done."""

from tests.conftest import StoreServer
from tests.rest import refused, rest
from tests.security.callers import USER, VIDEO, bearer, guarded
from tests.security.issuer import token
from tests.serving import Running

PAGE, FOREIGN = "https://academy.example", "https://evil.example"


async def test_a_token_in_the_url_is_refused_beside_a_valid_one(store_server: StoreServer, prefix: str) -> None:
    """The error says how to send it. Unknown paths are refused in the same way."""
    async with guarded(store_server, prefix) as server, rest(server) as api:
        for path in (f"/progress/{USER}", "/nowhere"):
            answer = await api.get(path, params={"token": token(USER)}, headers=bearer(token(USER)))
            assert "Authorization: Bearer" in refused(answer, "unauthorized")["detail"]


async def test_a_foreign_origin_changes_nothing(store_server: StoreServer, prefix: str) -> None:
    """Neither with a valid token nor as a preflight request. The allowed origin is served, with CORS headers."""
    async with guarded(store_server, prefix, allowed_origins=PAGE) as server, rest(server) as api:
        update = {"userId": USER, "videoId": VIDEO, "watchedDuration": 5, "lastWatched": "2024-05-01T10:00:00Z"}
        for origin, status in ((FOREIGN, 403), (PAGE, 200)):
            headers = bearer(token(USER)) | {"Origin": origin}
            assert (await preflight(server, origin)) == (status, PAGE if status == 200 else None)
            assert (await api.post("/progress/update", json=update, headers=headers)).status_code == status
            stored = await api.get(f"/progress/{USER}", headers=bearer(token(USER)))
            assert len(stored.json()["progressData"]) == (status == 200)


async def preflight(server: Running, origin: str) -> tuple[int, str | None]:
    """The status of a CORS preflight request, and the origin that it allows."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with rest(server) as api:
        answer = await api.options("/progress/update", headers=asked)
    return answer.status_code, answer.headers.get("access-control-allow-origin")
