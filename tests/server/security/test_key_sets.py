"""Fetched keys: which keys of a set are used, and what happens when the set changes, hangs or is unavailable."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from playhead.protocol.errors import PeerError, Problem
from playhead.server.security.key_sets import COOLDOWN_S, REFRESH_S, TRUST_S, KeySet
from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.rest import rest
from tests.security.callers import (
    ACCEPTED,
    REFUSED,
    TRY_LATER,
    USER,
    bearer,
    by_rest,
    close_code,
    code_of,
    guarded,
    payload,
    say_hello,
    socket,
    verdict,
)
from tests.security.issuer import SECRET, by_hand, encoded, jwk, key_server, private_key, token

pytestmark = pytest.mark.parametrize("store_server", ["valkey"], indirect=True)
"""Independent of the store."""

UNFIT: dict[str, dict[str, Any]] = {
    "symmetric": {"kty": "oct", "k": encoded(SECRET.encode()), "kid": "bad", "alg": "HS256"},
    "symmetric that calls itself RS256": {"kty": "oct", "k": encoded(SECRET.encode()), "kid": "bad", "alg": "RS256"},
    "for encryption": jwk("RS256", "bad", "other", use="enc"),
    "RSA of 1024 bits": jwk("RS256", "bad", "short"),
    "of another algorithm": jwk("RS256", "bad", "other", alg="PS256"),
    "of another kind": jwk("ES256", "bad"),
    "P-256 that calls itself RS256": jwk("ES256", "bad", alg="RS256"),
    "no kid": jwk("RS256", "", "other"),
    "kid in a list": jwk("RS256", "bad", "other") | {"kid": ["bad"]},
    "broken": {"kty": "RSA", "n": "!", "e": 7, "kid": "bad"},
    "not an object": "bad",  # type: ignore[dict-item]
}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("name", UNFIT)
async def test_an_unsuitable_key_of_a_set_is_ignored(store_server: StoreServer, prefix: str, name: str) -> None:
    """The suitable keys beside it are used."""
    signers = [(SECRET, "HS256"), (private_key("RS256", "other"), "RS256"), (private_key("ES256"), "ES256")]
    signers += [(private_key("RS256", "other"), "PS256"), (private_key("RS256", "short"), "RS256")]
    async with key_server(UNFIT[name], jwk("RS256", "known")) as keys:
        async with guarded(store_server, prefix, jwt_jwks_url=keys.url, jwt_algorithm="RS256") as server:
            assert await verdict(server, token(USER, kind="RS256", headers={"kid": "known"})) == ACCEPTED
            for key, kind in signers:
                made = token(USER, kind=kind, key=key, headers={"kid": "bad"})
                assert await verdict(server, made) in (REFUSED, TRY_LATER), "as with any unknown id"
        assert keys.fetches == 2


async def test_a_key_set_is_fetched_once_and_kept(store_server: StoreServer, prefix: str) -> None:
    """For any number of tokens with known ids.

    Hundreds of unknown ids cost one more fetch: it refuses the first of them, and the others, which may be new keys
    rotated in since, are asked to retry.
    """
    async with key_server(jwk("RS256", "known")) as keys:
        async with guarded(store_server, prefix, jwt_jwks_url=keys.url, jwt_algorithm="RS256") as server:
            good = token(USER, kind="RS256", headers={"kid": "known"})
            async with rest(server) as api:
                first = await asyncio.gather(*(api.get(f"/progress/{USER}", headers=bearer(good)) for _ in range(20)))
                assert {each.status_code for each in first} == {200}
                assert keys.fetches == 1
                words = []
                for n in range(200):
                    made = by_hand(json.dumps({"alg": "RS256", "kid": f"k{n}"}), payload())
                    words.append(code_of(await api.get(f"/progress/{USER}", headers=bearer(made))))
                assert words == ["unauthorized", *["keys"] * 199]
                assert code_of(await api.get(f"/progress/{USER}", headers=bearer(good))) == "ok"
        assert keys.fetches == 2


async def test_without_keys_clients_are_asked_to_retry(store_server: StoreServer, prefix: str) -> None:
    """The key set is unreachable, invalid, or redirects: 503, and a goodbye with 4001, which means "retry"."""
    good = token(USER, kind="RS256", headers={"kid": "known"})
    async with key_server() as gone:
        unused = gone.url
    async with guarded(store_server, f"{prefix}a", jwt_jwks_url=unused, jwt_algorithm="RS256") as server:
        assert await verdict(server, good) == TRY_LATER
        response = await by_rest(server, f"Bearer {good}")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        async with socket(server) as opened:
            goodbye = await say_hello(opened, good)
            assert (goodbye["type"], goodbye["code"], goodbye["retryAfter"] > 0) == ("goodbye", "keys", True)
        async with socket(server, token=good, origin=False) as opened:
            assert (await say_hello(opened))["code"] == "keys"
            assert await close_code(opened) == 4001
    async with key_server(jwk("RS256", "known")) as elsewhere, key_server() as keys:
        for status, location in ((500, ""), (200, ""), (302, elsewhere.url), (302, "file:///dev/null")):
            keys.status, keys.location, before = status, location, keys.fetches
            async with guarded(
                store_server, f"{prefix}{status}", jwt_jwks_url=keys.url, jwt_algorithm="RS256"
            ) as server:
                assert await verdict(server, good) == TRY_LATER
            assert keys.fetches == before + 1
        assert elsewhere.fetches == 0, "a redirect is not followed"


async def test_a_key_set_that_hangs_delays_only_clients_that_need_it(store_server: StoreServer, prefix: str) -> None:
    """Others are served meanwhile, and those that waited are served when it answers."""
    async with key_server(jwk("RS256", "known")) as keys:
        async with guarded(store_server, prefix, jwt_jwks_url=keys.url, jwt_algorithm="RS256") as server:
            keys.answers.clear()
            good = token(USER, kind="RS256", headers={"kid": "known"})
            waiting = asyncio.create_task(by_rest(server, f"Bearer {good}"))
            async with asyncio.timeout(PATIENCE_S):
                while not keys.fetches:  # noqa: ASYNC110 the fetch is another thread's
                    await asyncio.sleep(0.01)
            async with rest(server) as api:
                assert (await api.get("/livez")).status_code == 200
            assert await verdict(server, token(USER)) == REFUSED
            assert not waiting.done()
            keys.answers.set()
            assert code_of(await waiting) == "ok"
        assert keys.fetches == 1


async def test_a_caller_that_gives_up_does_not_cancel_the_fetch(store_server: StoreServer, prefix: str) -> None:
    """A handshake's deadline passes during the fetch; the fetched keys are used nevertheless."""
    settings = {"jwt_algorithm": "RS256", "hello_timeout_s": 0.2}
    async with key_server(jwk("RS256", "known")) as keys:
        async with guarded(store_server, prefix, jwt_jwks_url=keys.url, **settings) as server:
            keys.answers.clear()
            good = token(USER, kind="RS256", headers={"kid": "known"})
            async with socket(server, token=good) as opened:
                assert await close_code(opened) == 4008
            keys.answers.set()
            assert await verdict(server, good) == ACCEPTED
        assert keys.fetches == 1


class Hours:
    """A clock for a key set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def problem_of(keys: KeySet, kid: str, address: str = "home") -> Problem | None:
    """The problem for a token of its own."""
    try:
        await keys.key(kid, uuid4().hex, address)
    except PeerError as error:
        return error.problem
    return None


async def settled(keys: KeySet) -> None:
    """Wait until a refresh in the background has ended."""
    if keys._fetching is not None:
        await asyncio.wait_for(keys._fetching, PATIENCE_S)


async def test_changes_of_the_key_set_are_followed(store_server: StoreServer) -> None:
    """A new key is found when a token names it. A removed key is refused once the set has been fetched again."""
    clock = Hours()
    async with key_server(jwk("RS256", "old")) as server:
        keys = KeySet(server.url, "RS256", clock)
        assert await problem_of(keys, "old") is None
        server.keys = [jwk("RS256", "new", "another")]
        assert await problem_of(keys, "new") is None, "however short a time ago the set was fetched"
        assert await problem_of(keys, "old") is Problem.UNAUTHORIZED
        assert server.fetches == 3, "a retired id may have been rotated in again"

        server.keys = [jwk("RS256", "newer", "third")]
        clock.now += REFRESH_S + 1
        assert await problem_of(keys, "new") is None, "no caller waits for the refresh"
        await settled(keys)
        assert await problem_of(keys, "newer") is None
        assert server.fetches == 4
        assert await problem_of(keys, "new", "elsewhere") is Problem.UNAUTHORIZED


async def test_hundreds_of_unknown_ids_cost_one_fetch_in_each_cooldown(store_server: StoreServer) -> None:
    """All from one address."""
    clock = Hours()
    async with key_server(jwk("RS256", "known")) as server:
        keys = KeySet(server.url, "RS256", clock)
        for round_number in range(1, 4):
            found = await asyncio.gather(*(problem_of(keys, f"k{n}") for n in range(300)))
            assert set(found) == {Problem.UNAUTHORIZED}
            assert server.fetches == round_number
            clock.now += COOLDOWN_S


async def test_known_keys_outlast_an_outage_of_the_key_set_but_not_for_ever(
    store_server: StoreServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Until TRUST_S; then no token is accepted until the key set is back.

    In the meantime an unknown id may belong to a new key: 503, not 401. The log has one line at the beginning and one
    at the end, however many fetches fail.
    """
    clock = Hours()
    async with key_server(jwk("RS256", "known")) as server:
        keys = KeySet(server.url, "RS256", clock)
        assert await problem_of(keys, "known") is None
        began, server.status = clock.now, 500
        while clock.now - began + REFRESH_S / 2 <= TRUST_S:
            clock.now += REFRESH_S / 2
            assert await problem_of(keys, "known") is None
            await settled(keys)
        assert await problem_of(keys, "new") is Problem.KEYS
        clock.now = began + TRUST_S + 1
        assert await problem_of(keys, "known") is Problem.KEYS
        failures = keys.failures
        assert failures > 2
        server.status = 200
        clock.now += COOLDOWN_S
        assert await problem_of(keys, "known") is None
        assert await problem_of(keys, "new") is Problem.UNAUTHORIZED
    lost, back = [
        record.getMessage() for record in caplog.records if record.name == "playhead.server.security.key_sets"
    ]
    assert lost.startswith("The key set can't be used: ")
    assert back.startswith("The key set can be used again")
    assert back.endswith(f"and {failures} failures)")


@pytest.mark.parametrize(
    "url", ["http://issuer.example/keys", "file:///etc/passwd", "ftp://issuer.example/k", "https:///k", "keys.json", ""]
)
async def test_a_key_set_needs_https_or_a_loopback_address(store_server: StoreServer, url: str) -> None:
    """Anything else could return another's keys."""
    with pytest.raises(ValueError, match="https"):
        KeySet(url, "RS256")
