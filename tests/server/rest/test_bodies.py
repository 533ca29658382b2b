"""How request bodies are read and validated, on a real socket. tests/server/features/test_bad_rest.py has the rest."""

import json
from typing import Any

import pytest

from tests.conftest import StoreServer
from tests.rest import ok, refused, rest
from tests.security.callers import USER, VIDEO
from tests.serving import Running, serving

UPDATE = {"userId": USER, "videoId": VIDEO, "watchedDuration": 5, "lastWatched": "2024-05-01T10:00:00Z"}
BODY = json.dumps(UPDATE).encode()


async def posted(server: Running, content: bytes, **headers: str) -> Any:
    async with rest(server) as api:
        return await api.post("/progress/update", content=content, headers=headers)


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_the_media_type_is_compared_without_case_and_parameters(server: Running, media_type: str) -> None:
    ok(await posted(server, BODY, **{"Content-Type": media_type}))


async def test_identity_is_the_only_content_encoding(server: Running) -> None:
    """The error for another one says which is supported (RFC 9110, 15.5.16)."""
    json_type = {"Content-Type": "application/json"}
    ok(await posted(server, BODY, **json_type, **{"Content-Encoding": "Identity"}))
    answer = await posted(server, BODY, **json_type, **{"Content-Encoding": "identity, gzip"})
    assert "uncompressed" in refused(answer, "media_type")["detail"]
    assert answer.headers["accept-encoding"] == "identity"


async def test_a_duplicate_key_is_not_json(server: Running) -> None:
    twice = BODY[:-1] + b', "watchedDuration": 9}'
    refused(await posted(server, twice, **{"Content-Type": "application/json"}), "not_json")


async def test_the_size_is_limited_whether_or_not_it_is_declared(store_server: StoreServer, prefix: str) -> None:
    async def chunks() -> Any:
        yield BODY
        yield b" " * 2_048

    settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix, "max_body_bytes": 1_024}
    async with serving(**settings) as server, rest(server) as api:
        for content in (BODY + b" " * 2_048, chunks()):
            answer = await api.post("/progress/update", content=content, headers={"Content-Type": "application/json"})
            assert "1024 bytes" in refused(answer, "too_large")["detail"]
        ok(await api.post("/progress/update", json=UPDATE))
