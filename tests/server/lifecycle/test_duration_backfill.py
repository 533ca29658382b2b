"""The backfill that writes a new duration to existing records."""

import asyncio
from uuid import uuid4

import pytest

from playhead.server.lifecycle import duration_backfill
from playhead.storage.store import open_store
from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.inside import keys_of, parts_of
from tests.rest import ok, refused, rest
from tests.serving import serving


async def test_the_number_of_videos_that_wait_for_a_new_duration_is_bounded(
    store_server: StoreServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit a new duration is refused and not stored, until there is room again.

    In this test the videos wait because their audiences can't be read.
    """
    monkeypatch.setattr(duration_backfill, "MAX_VIDEOS", 2)
    monkeypatch.setattr(duration_backfill, "PATIENCE_S", 0.1)
    store = open_store(store_server.url, worker=str(uuid4()), key_prefix=prefix)
    videos, entry = [str(uuid4()) for _ in range(10)], {"title": "Sets", "duration": 90}
    audiences = [keys_of(store).audience(shard) for video in videos for shard in keys_of(store).shards(video)]
    await parts_of(store).run([("SET", key, "no hash") for key in audiences])
    try:
        async with serving(redis_url=store_server.url, key_prefix=prefix) as server, rest(server) as api:
            answers = await asyncio.gather(*(api.put(f"/videos/{video}", json=entry) for video in videos))
            refused_puts = {v: answer for v, answer in zip(videos, answers, strict=True) if not answer.is_success}
            assert len(videos) - len(refused_puts) in (2, 3), "one more may be in progress"
            for video, answer in refused_puts.items():
                assert "duration" in refused(answer, "unavailable")["detail"]
                assert answer.headers["Retry-After"] == "2"
                refused(await api.get(f"/videos/{video}"), "not_found")
            ok(await api.put(f"/videos/{next(iter(refused_puts))}", json={"title": "Sets", "duration": 0}))
            await parts_of(store).run([("DEL", key) for key in audiences])
            for video in refused_puts:
                async with asyncio.timeout(PATIENCE_S):
                    while not (await api.put(f"/videos/{video}", json=entry)).is_success:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                assert ok(await api.get(f"/videos/{video}"))["duration"] == 90
    finally:
        await store.close()
