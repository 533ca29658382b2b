"""A key that an issuer has just rotated in: its tokens are accepted at once, or their clients are asked to retry.

UNAUTHORIZED would stop a player for good, so it is the answer only if a fetch of the key set that began after the token
arrived did not find the key.
"""

import asyncio
import json
from typing import Any

import pytest

from playhead.protocol.errors import PeerError, Problem
from playhead.server.security.key_sets import COOLDOWN_S, FETCH_BURST, REFRESH_S, Cooldown, KeySet, KeysUnavailable
from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.rest import rest
from tests.security.callers import (
    ACCEPTED,
    TRY_LATER,
    USER,
    bearer,
    close_code,
    code_of,
    guarded,
    learner,
    payload,
    say_hello,
    socket,
    verdict,
)
from tests.security.issuer import KeyServer, by_hand, jwk, key_server, private_key, token
from tests.server.security.test_key_sets import Hours, problem_of

pytestmark = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)
"""Independent of the store."""

OLD, NEW = jwk("RS256", "old"), jwk("RS256", "new", "other")


def signed(kid: str) -> str:
    """A valid token, signed with the old or the new key."""
    return token(
        USER, kind="RS256", key=private_key("RS256", "first" if kid == "old" else "other"), headers={"kid": kid}
    )


def made_up(kid: str) -> str:
    return by_hand(json.dumps({"alg": "RS256", "kid": kid}), payload())


async def asked(server: KeyServer, times: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while server.fetches < times:  # noqa: ASYNC110 the fetch is another thread's
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("since_s", [0.0, 0.001, COOLDOWN_S / 2, COOLDOWN_S, REFRESH_S - 1, REFRESH_S + 1])
async def test_a_key_rotated_in_after_a_fetch_is_accepted_at_once(store_server: StoreServer, since_s: float) -> None:
    clock = Hours()
    async with key_server(OLD) as server:
        keys = KeySet(server.url, "RS256", clock)
        assert await problem_of(keys, "old") is None
        server.keys.append(NEW)
        clock.now += since_s
        assert await problem_of(keys, "new") is None
        assert server.fetches == 2


async def test_a_key_rotated_in_during_a_fetch_is_accepted_after_a_retry(
    store_server: StoreServer,
) -> None:
    """The issuer answered the fetch under way before the key was there, so that fetch proves nothing."""
    async with key_server(OLD) as server:
        keys = KeySet(server.url, "RS256", Hours())
        server.answers.clear()
        first = asyncio.create_task(problem_of(keys, "old"))
        await asked(server, 1)
        server.keys.append(NEW)
        late = [asyncio.create_task(keys.key("new", f"token {n}", f"address {n}")) for n in range(3)]
        await asyncio.sleep(0)  # they wait for the fetch under way
        server.answers.set()
        assert await first is None
        for each in late:
            with pytest.raises(KeysUnavailable) as refused:
                await each
            assert 0 < refused.value.retry_after_s < COOLDOWN_S
        assert await problem_of(keys, "new") is None
        assert server.fetches == 2


async def test_made_up_ids_of_one_address_do_not_delay_a_new_key_of_another(store_server: StoreServer) -> None:
    """Nor do they cause more than one fetch.

    Other clients at the stranger's address retry when the next fetch may begin.
    """
    clock = Hours()
    async with key_server(OLD) as server:
        keys = KeySet(server.url, "RS256", clock)
        assert await problem_of(keys, "old") is None
        assert await problem_of(keys, "new", "stranger") is Problem.UNAUTHORIZED, "guessed before it was there"
        for n in range(100):
            assert await problem_of(keys, f"k{n}", "stranger") is Problem.KEYS
        assert server.fetches == 2
        server.keys.append(NEW)
        with pytest.raises(KeysUnavailable) as refused:
            await keys.key("new", "token", "stranger")
        assert refused.value.retry_after_s == COOLDOWN_S
        clock.now += refused.value.retry_after_s
        assert await problem_of(keys, "gone", "stranger") is Problem.UNAUTHORIZED, "its turn, and the next is barred"
        assert await problem_of(keys, "new", "stranger") is None
        assert server.fetches == 3


async def test_a_new_key_is_accepted_at_once_despite_a_stranger(store_server: StoreServer) -> None:
    async with key_server(OLD) as server:
        keys = KeySet(server.url, "RS256", Hours())
        assert await problem_of(keys, "old") is None
        assert await problem_of(keys, "made up", "stranger") is Problem.UNAUTHORIZED
        server.keys.append(NEW)
        assert await problem_of(keys, "new") is None


async def test_made_up_ids_of_a_thousand_addresses_cost_few_fetches(store_server: StoreServer) -> None:
    """A burst, then one in each cooldown. A client that is refused in the meantime retries, and that is enough."""
    clock = Hours()
    async with key_server(OLD) as server:
        keys = KeySet(server.url, "RS256", clock)
        assert await problem_of(keys, "old") is None
        found = [await problem_of(keys, f"k{n}", f"address {n}") for n in range(1_000)]
        assert found == [Problem.UNAUTHORIZED] * FETCH_BURST + [Problem.KEYS] * (1_000 - FETCH_BURST)
        server.keys.append(NEW)
        with pytest.raises(KeysUnavailable) as refused:
            await keys.key("new", "token", "home")
        assert 0 < refused.value.retry_after_s <= COOLDOWN_S
        clock.now += refused.value.retry_after_s
        assert await problem_of(keys, "one more", "address 1001") is Problem.UNAUTHORIZED
        assert await problem_of(keys, "new") is None
        for _ in range(20):
            clock.now += COOLDOWN_S
            for n in range(20):
                await problem_of(keys, f"k{n}", f"address {n}")
        assert server.fetches == 2 + FETCH_BURST + 20


async def test_a_token_refused_after_a_fetch_causes_no_other(store_server: StoreServer) -> None:
    """Only this token: one signed with the next key that has this id is another token."""
    clock = Hours()
    async with key_server(OLD) as server:
        keys = KeySet(server.url, "RS256", clock)
        for _ in range(100):
            with pytest.raises(PeerError, match="unknown key"):
                await keys.key("new", "made up", "stranger")
        server.keys.append(NEW)
        assert await problem_of(keys, "new", "stranger") is Problem.KEYS
        assert server.fetches == 1
        assert await problem_of(keys, "new") is None


def test_the_cooldown_is_bounded_and_expires(store_server: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries expire after the cooldown, and beyond the limit the oldest are dropped."""
    monkeypatch.setattr("playhead.server.security.key_sets.MAX_REMEMBERED", 3)
    clock = Hours()
    cooldown = Cooldown(clock)
    for name in "abcd":
        cooldown.add(name)
    cooldown.add("b")
    assert [cooldown.left_s(name) for name in "abcd"] == [0, COOLDOWN_S, COOLDOWN_S, COOLDOWN_S]
    cooldown.add("e")
    assert [cooldown.left_s(name) for name in "bcde"] == [COOLDOWN_S, 0, COOLDOWN_S, COOLDOWN_S]
    clock.now += COOLDOWN_S / 2
    assert cooldown.left_s("b") == COOLDOWN_S / 2
    clock.now += COOLDOWN_S / 2
    assert cooldown.left_s("b") == 0
    cooldown.add("f")
    assert len(cooldown) == 1


async def test_a_failing_issuer_is_not_asked_again_during_the_cooldown(store_server: StoreServer) -> None:
    clock = Hours()
    async with key_server(OLD) as server:
        keys = KeySet(server.url, "RS256", clock)
        assert await problem_of(keys, "old") is None
        server.status = 500
        for n in range(50):
            assert await problem_of(keys, "new", f"address {n}") is Problem.KEYS
        assert server.fetches == 2
        server.status = 200
        server.keys.append(NEW)
        clock.now += COOLDOWN_S
        assert await problem_of(keys, "new") is None


async def test_a_new_key_is_never_refused_for_good(
    store_server: StoreServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By REST, hello and auth, at an address shared with a stranger: clients are asked to retry, and accepted after the
    cooldown."""
    monkeypatch.setattr("playhead.server.security.key_sets.COOLDOWN_S", 2.0)
    async with key_server(OLD) as server_of_keys:
        settings = {"jwt_jwks_url": server_of_keys.url, "jwt_algorithm": "RS256"}
        async with (
            guarded(store_server, prefix, **settings) as server,
            rest(server) as api,
            learner(server, signed("old")) as player,
        ):
            assert code_of(await api.get(f"/progress/{USER}", headers=bearer(made_up("new")))) == "unauthorized"
            server_of_keys.keys[:] = [NEW]
            fresh = signed("new")

            assert await verdict(server, fresh) == TRY_LATER
            answer = await api.get(f"/progress/{USER}", headers=bearer(fresh))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            for hello in ({"token": fresh}, {}):
                async with socket(server, token=None if hello else fresh) as opened:
                    goodbye = await say_hello(opened, **hello)
                    assert (goodbye["type"], goodbye["code"]) == ("goodbye", "keys")
                    assert 0 < goodbye["retryAfter"] <= 2
                    assert await close_code(opened) == 4001
            await player.send(type="auth", token=fresh)
            assert (await player.receive())["code"] == "keys", "and the connection stays open"

            async with asyncio.timeout(PATIENCE_S):
                while (outcome := await verdict(server, fresh)) != ACCEPTED:
                    assert "unauthorized" not in outcome
                    await asyncio.sleep(0.05)
            await player.send(type="auth", token=fresh)
            assert (await player.receive())["type"] == "authorized"


async def test_a_stranger_at_another_address_changes_nothing_for_a_new_key(
    store_server: StoreServer, prefix: str
) -> None:
    """By REST and hello, each right after the stranger."""
    async with key_server(OLD) as server_of_keys:
        settings: dict[str, Any] = {"jwt_jwks_url": server_of_keys.url, "jwt_algorithm": "RS256"}
        async with guarded(store_server, prefix, trusted_proxies="127.0.0.1", **settings) as server:
            assert await verdict(server, signed("old")) == ACCEPTED
            stranger: dict[str, Any] = {"X-Forwarded-For": "203.0.113.9"}
            home: dict[str, Any] = {"X-Forwarded-For": "203.0.113.7"}
            async with rest(server) as api:
                for kid, expected in (("k1", "unauthorized"), ("k2", "keys")):
                    answer = await api.get(f"/progress/{USER}", headers=bearer(made_up(kid)) | stranger)
                    assert code_of(answer) == expected
                server_of_keys.keys[:] = [NEW]
                assert code_of(await api.get(f"/progress/{USER}", headers=bearer(signed("new")) | home)) == "ok"
            async with socket(server, **stranger) as opened:
                assert (await say_hello(opened, made_up("k3")))["code"] == "keys"
            server_of_keys.keys[:] = [NEW, OLD]
            async with socket(server, **home) as opened:
                assert (await say_hello(opened, signed("old")))["type"] == "welcome"


async def test_made_up_ids_are_charged_to_their_address(store_server: StoreServer, prefix: str) -> None:
    """The rate limit also applies to requests that are asked to retry."""
    async with key_server(OLD) as server_of_keys:
        settings: dict[str, Any] = {"jwt_jwks_url": server_of_keys.url, "jwt_algorithm": "RS256"}
        settings |= {"address_requests_burst": 5, "address_requests_per_s": 0.01}
        async with guarded(store_server, prefix, **settings) as server, rest(server) as api:
            answers = [await api.get(f"/progress/{USER}", headers=bearer(made_up(f"k{n}"))) for n in range(8)]
            assert [code_of(each) for each in answers] == ["unauthorized", *["keys"] * 4, *["rate"] * 3]
            async with socket(server) as opened:
                goodbye = await say_hello(opened, made_up("k"))
                assert (goodbye["type"], goodbye["code"]) == ("goodbye", "rate")
