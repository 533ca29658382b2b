"""The REST methods on a real server: typed models, and typed errors for every problem."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from playhead.client import Deleted, Denied, Invalid, NotFound, RestError, TooFast, TooManyVideos, playhead_client
from tests.client.line import client
from tests.client.test_playhead import NOWHERE
from tests.conftest import StoreServer
from tests.security.callers import OTHER, USER, VIDEO, guarded
from tests.security.issuer import token
from tests.serving import Running, serving


async def test_the_whole_contract(server: Running) -> None:
    """Each method returns what its endpoint answers, as models of protocol/."""
    user, one, other = (str(uuid4()) for _ in range(3))
    when = datetime.now(UTC).replace(microsecond=123_000) - timedelta(seconds=60)
    async with client(server.http, user) as p:
        rest = p.rest
        assert (await rest.put_video(one, "A title", 100)).duration == 100
        record = await rest.update(one, 42, when)
        assert (record.user_id, record.watched_duration, record.last_watched) == (
            user,
            42,
            round(when.timestamp() * 1_000),
        )
        records = await rest.sync([(one, 95, when), (other, 7, None)])
        assert {each.video_id: each.watched_duration for each in records} == {one: 95, other: 7}
        assert (await rest.get(one)).completed
        assert {each.video_id for each in await rest.get_all()} == {one, other}
        summary = await rest.summary(one)
        assert (summary.average_watched_duration, summary.completion_rate) == (95, 1.0)
        engagement = await rest.engagement(limit=1)
        assert engagement.total_watched_duration == 102
        assert [each.video_id for each in engagement.most_watched_videos] == [one]
        analytics = await rest.analytics(one)
        assert (analytics.viewers, analytics.completed, analytics.retention) == (1, 1, [])
        await rest.delete(one)
        assert [each.video_id for each in await rest.get_all()] == [other]


async def test_problems_are_typed(server: Running) -> None:
    """The type follows from the status; the error has the stable code and, for 422, a pointer to the field."""
    user, video = str(uuid4()), str(uuid4())
    async with client(server.http, user) as p:
        with pytest.raises(NotFound) as missing:
            await p.rest.get(video)
        assert (missing.value.status, missing.value.code) == (404, "not_found")
        with pytest.raises(Invalid) as invalid:
            await p.rest.update(video, -1)
        assert [field.pointer for field in invalid.value.fields] == ["/watchedDuration"]
        await p.rest.update(video, 5)
        await p.rest.delete(video)
        with pytest.raises(Deleted):
            await p.rest.update(video, 5, datetime(2020, 1, 1))
        with pytest.raises(NotFound):
            await p.rest.get("../../livez")  # stays where it is


async def test_too_many_videos_is_not_reported_as_a_deletion(store_server: StoreServer, prefix: str) -> None:
    """The status is the same but the error is another; a device's reports are rejected with the same code."""
    user = str(uuid4())
    async with (
        serving(redis_url=store_server.url, key_prefix=prefix, max_videos_per_user=1) as server,
        client(server.http, user) as p,
    ):
        await p.rest.update(str(uuid4()), 5)
        for call in (p.rest.update(str(uuid4()), 5), p.rest.sync([(str(uuid4()), 5, None)])):
            with pytest.raises(TooManyVideos) as refused:
                await call
            assert (refused.value.status, refused.value.code) == (409, "too_many_videos")
        p.report(str(uuid4()), [(0, 5)])
        await p.flush()
        assert [each.code for each in p.rejected] == ["too_many_videos"]


async def test_denied_and_rate_limited_calls(store_server: StoreServer, prefix: str) -> None:
    """401 and 403 are Denied; a service may name another user; too many requests are TooFast, with a time to retry."""
    async with guarded(store_server, prefix, requests_burst=2) as server:
        async with client(server.http, token=token(USER)) as p:
            with pytest.raises(Denied) as denied:
                await p.rest.get(VIDEO, user_id=OTHER)
            assert denied.value.code == "forbidden"
            await p.rest.get_all()
            with pytest.raises(TooFast) as fast:
                await asyncio.gather(*(p.rest.get_all() for _ in range(3)))
            assert fast.value.retry_after_s >= 1
        async with client(server.http, token=token(USER, scope="progress:any")) as service:
            await service.rest.update(VIDEO, 9, user_id=OTHER)
            assert (await service.rest.get(VIDEO, user_id=OTHER)).watched_duration == 9


async def test_servers_that_are_not_playhead(server: Running) -> None:
    """No answer is an OSError; the answer of another server is a RestError without a code."""
    async with client(NOWHERE, str(uuid4())) as p:
        with pytest.raises(OSError, match="Connect call failed"):
            await p.rest.get_all()
    async with client(f"{server.http}/else", str(uuid4()), transports=("ws",)) as p:
        with pytest.raises(RestError):
            await p.rest.summary(uuid4())


async def test_the_url_may_be_that_of_the_websocket(server: Running) -> None:
    """ws://…/ws names the same service as http://…"""
    async with client(server.ws, str(uuid4())) as p:
        await p.watch(uuid4(), [(0, 5)], 5)
        assert p.state == "online"
        assert len(await p.rest.get_all()) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://example"},
        {"url": "http://"},
        {"url": "http://example?token=x"},
        {"user_id": None},
        {"user_id": "me"},
        {"device": ""},
        {"transports": ()},
        {"transports": ("carrier pigeon",)},
    ],
)
def test_bad_arguments(options: dict[str, object]) -> None:
    """They raise ValueError before anything is opened."""
    chosen = {"url": "http://127.0.0.1:1", "device": "test", "user_id": USER, **options}
    with pytest.raises(ValueError):  # noqa: PT011 whatever it says
        playhead_client(**chosen)  # type: ignore[arg-type]
