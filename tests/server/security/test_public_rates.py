"""The rate limits of the endpoints that need no token."""

from typing import Any
from uuid import uuid4

from tests.conftest import StoreServer
from tests.rest import rest
from tests.serving import serving


async def test_endpoints_without_tokens_are_rate_limited_by_address(store_server: StoreServer, prefix: str) -> None:
    """Files and health checks have separate limits, for each address. The error says when to retry."""
    settings: dict[str, Any] = {
        "public_requests_burst": 3,
        "public_requests_per_s": 0.1,
        "trusted_proxies": "127.0.0.1",
    }
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "demo": True}
    async with serving(**store, **settings) as server, rest(server) as api:
        stranger, other = {"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": "203.0.113.7"}

        async def statuses(headers: dict[str, str], *paths: str) -> list[int]:
            return [(await api.get(path, headers=headers)).status_code for path in paths]

        assert await statuses(stranger, "/", "/client/playhead.js", "/player.js", "/", "/client/playhead.js") == [
            *[200] * 3,
            *[429] * 2,
        ]
        assert await statuses(stranger, "/readyz", "/livez", "/readyz", "/livez", "/readyz") == [*[200] * 3, *[429] * 2]
        refused = await api.get("/", headers=stranger)
        assert refused.json()["type"] == "urn:playhead:problem:rate"
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["x-content-type-options"] == "nosniff"
        assert await statuses(other, "/", "/readyz") == [200, 200]
        assert await statuses(stranger, f"/progress/{uuid4()}") == [200], "progress is not affected"
        server.clock.advance(10)
        assert await statuses(stranger, "/", "/readyz") == [200, 200]
