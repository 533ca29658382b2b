"""A store that accepts TLS only, as one server and as a cluster; test_sentinel.py has sentinels."""

import asyncio
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest

from playhead.storage.store import StoreUnavailable
from tests.clustered import Secure, by_keys, clustered
from tests.device import device
from tests.inside import keys_of, parts_of
from tests.intact import intact
from tests.ports import free_port
from tests.replicated import binary
from tests.rest import ok, rest
from tests.server.program import refused
from tests.serving import serving
from tests.storage.authority import Authority, tls
from tests.storage.connection.test_cluster import LEARNERS, batch, commit
from tests.storage.own_store import PASSWORD, PATIENCE_S, as_playhead, opened, running, written_acl


async def test_a_heartbeat_is_stored_over_tls(tmp_path: Path) -> None:
    """rediss:// with the authority's certificate: played, acked and read back.

    Without TLS the store does not answer.
    """
    authority, port = Authority(tmp_path, "authority"), free_port()
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={quote(str(authority.path))}"
    with running("redis7", tmp_path, url, *tls(authority, port, "127.0.0.1")):
        async with serving(redis_url=url) as server, rest(server) as http:
            user, video = str(uuid4()), str(uuid4())
            async with device(server, user) as player:
                assert (await player.play(video, 0, 30, span=30_000))["rejected"] == []
            record = ok(await http.get(f"/progress/{user}/{video}?detail=full"))
            assert (record["seen"], record["position"]) == ([[0, 30]], 30)
            assert ok(await http.get("/readyz"))["status"] == "ready"
        async with opened(f"redis://127.0.0.1:{port}/0", timeout_s=2) as store:
            with pytest.raises(StoreUnavailable):
                await store.check()


async def test_a_store_may_require_a_client_certificate(tmp_path: Path) -> None:
    """With ssl_certfile and ssl_keyfile the store accepts the connection, without them it does not."""
    authority, port = Authority(tmp_path, "authority"), free_port()
    certificate, key = authority.issue("client")
    without = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={quote(str(authority.path))}"
    url = f"{without}&ssl_certfile={quote(str(certificate))}&ssl_keyfile={quote(str(key))}"
    with running("redis7", tmp_path, url, *tls(authority, port, "127.0.0.1", clients="yes")):
        async with opened(url) as store:
            await store.check()
        async with opened(without) as store:
            with pytest.raises(StoreUnavailable):
                await store.check()


@pytest.mark.parametrize("wrong", ["authority", "host"])
async def test_an_untrusted_certificate_is_refused_in_a_sentence(tmp_path: Path, wrong: str) -> None:
    """From an unknown authority, or for another host: the program reports it without a password, and exits."""
    authority, port = Authority(tmp_path, "authority"), free_port()
    ours = Authority(tmp_path, "stranger") if wrong == "authority" else authority
    hosts = ["127.0.0.1"] if wrong == "authority" else ["store.example"]
    url = f"rediss://playhead:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0?ssl_ca_certs={quote(str(ours.path))}"
    acl = written_acl(tmp_path)
    options = (*tls(authority, port, *hosts), "--unixsocket", tmp_path / "s", "--aclfile", acl)
    with running("redis7", tmp_path, as_playhead(tmp_path / "s"), *options):
        async with opened(url) as store:
            with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await store.check()
        code, out, err = await refused("--port", str(free_port()), "--redis-url", url)
    assert (code, out) == (2, "")
    assert "CERTIFICATE_VERIFY_FAILED" in err
    assert "--redis-url" in err
    assert "Traceback" not in err
    assert PASSWORD not in err
    assert quote(PASSWORD, safe="") not in err


async def test_a_cluster_uses_tls_at_every_node(tmp_path: Path) -> None:
    """Commits, pushes, a slot that moves and a killed primary.

    Without TLS no node answers, and a stranger's certificate is refused.
    """
    authority = Authority(tmp_path, "authority")
    certificates = tls(authority, 0, "127.0.0.1")[2:]
    secure = Secure(binary("redis7"), authority.path, certificates)
    with clustered(tmp_path / "nodes", "--appendonly", "yes", secure=secure) as servers:
        url = servers.url.replace("redis+", "rediss+", 1)
        async with opened(f"{url}?ssl_ca_certs={quote(str(authority.path))}", timeout_s=2.0) as store:
            await store.check()
            await commit(store, batch(0))
            heard = asyncio.Queue[str]()
            listening = parts_of(store).listen(lambda name, data: heard.put_nowait(name), lambda name: None)
            task = asyncio.create_task(listening.run())
            channel = keys_of(store).push(LEARNERS[0])
            async with asyncio.timeout(PATIENCE_S):
                await listening.subscribe(channel).wait()
            key = keys_of(store).progress(LEARNERS[0])
            source = servers.primary_of(key)
            target = next(member for member in servers.primaries() if member is not source)
            for _ in by_keys(source, target, int(source.ask("CLUSTER", "KEYSLOT", key))):
                await commit(store, batch(1))
            target.kill()
            await commit(store, batch(2))
            while not heard.empty():
                heard.get_nowait()
            async with asyncio.timeout(PATIENCE_S):
                while heard.empty():  # until the channel is subscribed again
                    await parts_of(store).events(lambda event: None).announce(LEARNERS[0])
                    await asyncio.sleep(0.05)
            assert heard.get_nowait() == channel
            task.cancel()
            await asyncio.wait({task})
            assert intact(await store.record(LEARNERS[0], "v0")).seen == [0, 3]
        stranger = Authority(tmp_path, "stranger")
        for wrong in (servers.url, f"{url}?ssl_ca_certs={quote(str(stranger.path))}"):
            async with opened(wrong, timeout_s=2.0) as store:
                with pytest.raises(StoreUnavailable):
                    await store.check()
