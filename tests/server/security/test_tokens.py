"""Tokens as attackers make them, against a real server over REST and WebSocket (RFC 8725, RFC 6750)."""

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding
from websockets.exceptions import InvalidStatus

from playhead.protocol.errors import PeerError
from playhead.server.security.key_sets import KeySet
from tests.conftest import StoreServer
from tests.device import PATIENCE_S
from tests.rest import rest
from tests.security.callers import (
    ACCEPTED,
    EXPIRED,
    REFUSED,
    USER,
    bearer,
    by_hello,
    by_rest,
    close_code,
    code_of,
    guarded,
    payload,
    say_hello,
    socket,
    verdict,
)
from tests.security.issuer import (
    KINDS,
    SECRET,
    by_hand,
    claims,
    encoded,
    jwk,
    key_file,
    key_server,
    private_key,
    public_bytes,
    token,
)
from tests.serving import Running

pytestmark = [
    pytest.mark.parametrize("store_server", ["valkey"], indirect=True),  # independent of the store
    pytest.mark.asyncio(loop_scope="module"),  # so that many tests may share one server
]

HOUR = 3_600
SIGNED = json.dumps({"alg": "HS256", "typ": "JWT"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer) -> AsyncIterator[Running]:
    """A server that requires HS256 tokens of an issuer and an audience. The tests that share it store nothing."""
    async with guarded(store_server, f"t{uuid4().hex}") as running:
        yield running


def now() -> int:
    return int(time.time())


GOOD: dict[str, Callable[[], str]] = {
    "plain": lambda: token(USER),
    "sub in upper case": lambda: token(USER.upper()),
    "no typ": lambda: token(USER, headers={"typ": None}),
    "typ at+jwt": lambda: token(USER, headers={"typ": "at+jwt"}),
    "typ application/at+JWT": lambda: token(USER, headers={"typ": "application/at+JWT"}),
    "audience in a list": lambda: token(USER, aud=["other", "playhead"]),
    "expired within the leeway": lambda: token(USER, exp=now() - 1),
    "issued ahead within the leeway": lambda: token(USER, iat=now() + 2, nbf=now() + 2),
    "exp with a fraction": lambda: token(USER, exp=time.time() + HOUR),
    "a kid that a fixed key has no use for": lambda: token(USER, headers={"kid": "any"}),
    "scope in a list, as some issuers write it": lambda: token(USER, scope=["analytics"]),
    "scope that is no words": lambda: token(USER, scope=7),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_valid_token_is_accepted(server: Running, name: str) -> None:
    """By REST in the Authorization header, by WebSocket in the hello."""
    assert await verdict(server, GOOD[name]()) == ACCEPTED


SCOPES: dict[str, tuple[Any, bool]] = {
    "alone": ("analytics", True),
    "among others": ("profile analytics email", True),
    "several spaces": ("  profile   analytics ", True),
    "in a list": (["profile", "analytics"], True),
    "tab": ("profile\tanalytics", False),
    "line break": ("profile\nanalytics", False),
    "carriage return": ("analytics\r", False),
    "form feed": ("profile\x0canalytics", False),
    "vertical tab": ("profile\x0banalytics", False),
    "file separator": ("profile\x1canalytics", False),
    "next line": ("profile\x85analytics", False),
    "no-break space": ("profile\xa0analytics", False),
    "line separator": ("profile\u2028analytics", False),
    "ideographic space": ("profile\u3000analytics", False),
    "comma": ("profile,analytics", False),
    "another case": ("Analytics", False),
    "a part of another": ("analytics:read", False),
    "one string in a list": (["profile analytics"], False),
    "a list in a list": ([["analytics"]], False),
    "an object": ({"analytics": True}, False),
}


@pytest.mark.parametrize("claim", ["scope", "scp"])
@pytest.mark.parametrize("name", SCOPES)
async def test_scopes_are_separated_by_spaces_only(server: Running, name: str, claim: str) -> None:
    value, granted = SCOPES[name]
    async with rest(server) as api:
        answer = await api.get("/metrics", headers=bearer(token(USER, **{claim: value})))
    assert answer.status_code == (200 if granted else 403)


BAD: dict[str, Callable[[], str]] = {
    "alg none, not signed": lambda: jwt.encode(claims(USER), "", algorithm="none"),
    "alg none, signature kept": lambda: by_hand('{"alg": "none", "typ": "JWT"}', payload()),
    "alg None in capitals": lambda: by_hand('{"alg": "NONE", "typ": "JWT"}', payload()),
    "alg hs256 in lower case": lambda: by_hand('{"alg": "hs256", "typ": "JWT"}', payload()),
    "alg missing": lambda: by_hand('{"typ": "JWT"}', payload()),
    "alg in a list": lambda: by_hand('{"alg": ["HS256"], "typ": "JWT"}', payload()),
    "alg twice, the good one first": lambda: by_hand('{"alg": "HS256", "alg": "none"}', payload()),
    "HS512 by the same secret": lambda: by_hand('{"alg": "HS512"}', payload(), digest=hashlib.sha512),
    "HS384 by the same secret": lambda: token(USER, kind="HS384"),
    "RS256 by a key of one's own": lambda: token(USER, kind="RS256"),
    "another secret": lambda: token(USER, key="another-secret-that-has-32-bytes-and-more"),
    "no secret at all": lambda: by_hand(SIGNED, payload(), b""),
    "signature of another token": lambda: f"{token(USER).rpartition('.')[0]}.{token('x').rpartition('.')[2]}",
    "signature cut off": lambda: token(USER).rpartition(".")[0] + ".",
    "signature truncated": lambda: token(USER)[:-4],
    "payload exchanged": lambda: ".".join(
        (token("x").split(".")[0], encoded(payload().encode()), token("x").split(".")[2])
    ),
    "another issuer": lambda: token(USER, iss="https://evil.example"),
    "issuer with a slash more": lambda: token(USER, iss="https://issuer.example/"),
    "issuers in a list": lambda: token(USER, iss=None) and by_hand(SIGNED, payload(iss='["https://issuer.example"]')),
    "no issuer": lambda: token(USER, iss=None),
    "another audience": lambda: token(USER, aud="other"),
    "other audiences in a list": lambda: token(USER, aud=["other", "another"]),
    "audience as a part": lambda: token(USER, aud="playhead-admin"),
    "no audience": lambda: token(USER, aud=None),
    "an empty list of audiences": lambda: token(USER, aud=[]),
    "audience as an object": lambda: by_hand(SIGNED, payload(aud='{"playhead": true}')),
    "typ id+jwt": lambda: token(USER, headers={"typ": "id+jwt"}),
    "typ secevent+jwt": lambda: token(USER, headers={"typ": "secevent+jwt"}),
    "typ logout+jwt": lambda: token(USER, headers={"typ": "logout+jwt"}),
    "typ JWE": lambda: token(USER, headers={"typ": "JWE"}),
    "typ dpop+jwt": lambda: token(USER, headers={"typ": "dpop+jwt"}),
    "typ in a list": lambda: by_hand('{"alg": "HS256", "typ": ["JWT"]}', payload()),
    "five parts, as a JWE has": lambda: ".".join([encoded(b'{"alg": "dir", "enc": "A256GCM"}'), "", "AA", "AA", "AA"]),
    "no exp": lambda: token(USER, exp=None),
    "exp null": lambda: by_hand(SIGNED, payload(exp="null")),
    "exp as text": lambda: by_hand(SIGNED, payload(exp=f'"{now() + HOUR}"')),
    "exp as words": lambda: by_hand(SIGNED, payload(exp='"never"')),
    "exp NaN": lambda: by_hand(SIGNED, payload(exp="NaN")),
    "exp Infinity": lambda: by_hand(SIGNED, payload(exp="Infinity")),
    "exp 1e400": lambda: by_hand(SIGNED, payload(exp="1e400")),
    "exp 1e300": lambda: by_hand(SIGNED, payload(exp="1e300")),
    "exp of 5,000 digits": lambda: by_hand(SIGNED, payload(exp="9" * 5_000)),
    "exp in a list": lambda: by_hand(SIGNED, payload(exp=f"[{now() + HOUR}]")),
    "no sub": lambda: token(None),
    "sub as a number": lambda: by_hand(SIGNED, payload(sub="7")),
    "sub null": lambda: by_hand(SIGNED, payload(sub="null")),
    "sub empty": lambda: token(""),
    "sub of 201 characters": lambda: token("s" * 201),
    "sub in a list": lambda: by_hand(SIGNED, payload(sub=f'["{USER}"]')),
    "nbf in the future": lambda: token(USER, nbf=now() + 60),
    "nbf as words": lambda: by_hand(SIGNED, payload(nbf='"soon"')),
    "iat in the future": lambda: token(USER, iat=now() + 60),
    "iat NaN": lambda: by_hand(SIGNED, payload(iat="NaN")),
    "kid of 201 characters": lambda: token(USER, headers={"kid": "k" * 201}),
    "kid empty": lambda: token(USER, headers={"kid": ""}),
    "kid as a number": lambda: by_hand('{"alg": "HS256", "kid": 7}', payload()),
    "kid as an object": lambda: by_hand('{"alg": "HS256", "kid": {"$ne": 1}}', payload()),
    "crit": lambda: token(USER, headers={"crit": ["exp"], "exp": 1}),
    "crit of an unknown extension": lambda: token(USER, headers={"crit": ["x"], "x": 1}),
    "crit empty": lambda: token(USER, headers={"crit": []}),
    "b64 false": lambda: by_hand('{"alg": "HS256", "b64": false}', payload()),
    "payload that is a list": lambda: by_hand(SIGNED, f'["{USER}"]'),
    "payload that is text": lambda: by_hand(SIGNED, f'"{USER}"'),
    "payload null": lambda: by_hand(SIGNED, "null"),
    "payload that is not JSON": lambda: by_hand(SIGNED, "sub=me"),
    "payload empty": lambda: by_hand(SIGNED, ""),
    "payload of 2,000 brackets": lambda: by_hand(SIGNED, "[" * 2_000),
    "header that is a list": lambda: by_hand('["HS256"]', payload()),
    "header that is not JSON": lambda: by_hand("alg=HS256", payload()),
    "header of 2,000 brackets": lambda: by_hand('{"alg": ' + "[" * 2_000, payload()),
    "one part": lambda: "token",
    "two parts": lambda: token(USER).rpartition(".")[0],
    "four parts": lambda: token(USER) + ".AAAA",
    "dots": lambda: "..",
    "not base64": lambda: "!.!.!",
    "a token in quotes": lambda: f'"{token(USER)}"',
    "a token in a token": lambda: by_hand('{"alg": "HS256", "cty": "JWT"}', token(USER)),
}


@pytest.mark.parametrize("name", BAD)
async def test_an_invalid_token_is_refused(server: Running, name: str) -> None:
    """401 and 4500, whatever is wrong, even if the signature is valid. The reply repeats no part of the token."""
    made = BAD[name]()
    response = await by_rest(server, f"Bearer {made}")
    assert (code_of(response), *await by_hello(server, made)) == REFUSED
    assert len(response.text) < 300
    assert not [part for part in made.split(".") if len(part) > 8 and part in response.text]


HUGE: dict[str, Callable[[], str]] = {
    "kid of 10 KB": lambda: token(USER, headers={"kid": "k" * 10_240}),
    "payload of 10 KB": lambda: token(USER, filler="f" * 10_240),
    "zeros": lambda: "0" * 10_240,
}


@pytest.mark.parametrize("name", HUGE)
async def test_a_huge_token_is_refused_unread(server: Running, name: str) -> None:
    """401; in a frame it exceeds the limit on messages; a handshake with it is not even answered with 101."""
    made = HUGE[name]()
    assert await verdict(server, made) == ("unauthorized", "bad_frame", 4501)
    with pytest.raises(InvalidStatus) as refused:
        await socket(server, token=made, origin=False).__aenter__()
    assert refused.value.response.status_code == 431


GONE: dict[str, Callable[[], object]] = {
    "a minute ago": lambda: now() - 60,
    "in 1970": lambda: 1,
    "before that": lambda: -5,
    "true, which is 1": lambda: True,
}


@pytest.mark.parametrize("name", GONE)
async def test_an_expired_token_has_an_error_of_its_own(server: Running, name: str) -> None:
    """401 `token_expired` and 4005, which ask for a new token; but only if the rest of the token is valid."""
    assert await verdict(server, token(USER, exp=GONE[name]())) == EXPIRED
    assert await verdict(server, token(USER, exp=GONE[name](), key="another-secret-of-32-bytes-or-more")) == REFUSED


TRAPS = {
    "path": "../../../../dev/null",
    "URL": "http://evil.example/key",
    "file URL": "file:///dev/null",
    "SQL": "x' UNION SELECT 'secret' --",
    "command": "|sleep 9",
    "new line": "a\r\nb: c",
    "zero byte": "a\0b",
}


@pytest.mark.parametrize("name", TRAPS)
async def test_a_kid_is_compared_and_never_opened(store_server: StoreServer, prefix: str, name: str) -> None:
    """With an empty secret, as /dev/null would give, the token is refused by a fixed key.

    For a key set it is unknown.
    """
    header = json.dumps({"alg": "HS256", "kid": TRAPS[name]})
    async with guarded(store_server, f"{prefix}a") as server:
        assert await verdict(server, by_hand(header, payload(), b"")) == REFUSED
    async with key_server(jwk("RS256", "known")) as keys:
        settings = {"jwt_jwks_url": keys.url, "jwt_algorithm": "RS256"}
        async with guarded(store_server, f"{prefix}b", **settings) as server:
            made = token(USER, kind="RS256", headers={"kid": TRAPS[name]})
            assert await verdict(server, made) == REFUSED


AUTHORIZATIONS: dict[str, Callable[[], list[str]]] = {
    "none": list,
    "two, both good": lambda: [f"Bearer {token(USER)}"] * 2,
    "Basic": lambda: ["Basic dXNlcjpwYXNz"],
    "Basic with a token": lambda: [f"Basic {token(USER)}"],
    "a bare token": lambda: [token(USER)],
    "Bearer alone": lambda: ["Bearer"],
    "Bearer without a space": lambda: [f"Bearer{token(USER)}"],
    "two tokens": lambda: [f"Bearer {token(USER)}, Bearer {token(USER)}"],
    "Bearer twice": lambda: [f"Bearer Bearer {token(USER)}"],
    "a parameter more": lambda: [f"Bearer {token(USER)} x=1"],
    "not ASCII": lambda: [f"Bearer {token(USER)}\xe9"],
    "Negotiate": lambda: [f"Negotiate {token(USER)}"],
}


@pytest.mark.parametrize("name", AUTHORIZATIONS)
async def test_other_than_one_bearer_header_is_refused(server: Running, name: str) -> None:
    """RFC 6750, 2.1: one header, one scheme, one token. So too in the WebSocket handshake, whatever the hello says."""
    values = AUTHORIZATIONS[name]()
    async with rest(server) as api:
        headers = [(b"Authorization", value.encode("latin-1")) for value in values]
        response = await api.get(f"/progress/{USER}", headers=headers)
    assert (response.status_code, code_of(response)) == (401, "unauthorized")
    assert code_of(await by_rest(server, f"bEaReR  {token(USER)}")) == "ok", "schemes are case-insensitive"
    if len(values) == 1 and values[0].isascii():
        async with socket(server, Authorization=values[0]) as opened:
            assert (await say_hello(opened, token(USER)))["code"] == "unauthorized"
            assert await close_code(opened) == 4500


@contextlib.asynccontextmanager
async def verified_by(
    where: str, kind: str, store: StoreServer, prefix: str, directory: Path
) -> AsyncIterator[Running]:
    """A server with a public key, from a file or from a key set."""
    if where == "file":
        async with guarded(store, prefix, jwt_key_file=key_file(directory, kind)) as server:
            yield server
        return
    async with (
        key_server(jwk(kind, "known")) as keys,
        guarded(store, prefix, jwt_jwks_url=keys.url, jwt_algorithm=kind) as server,
    ):
        yield server


@pytest.mark.parametrize("where", ["file", "key set"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_public_key_verifies_its_own_algorithm_and_no_other(
    store_server: StoreServer, prefix: str, tmp_path: Path, kind: str, where: str
) -> None:
    """RFC 8725, 2.1 and 3.1.

    Neither HMAC with the public key as the secret is accepted, nor another algorithm of the key's family.
    """
    known = {"kid": "known"}
    async with verified_by(where, kind, store_server, prefix, tmp_path) as server:
        assert await verdict(server, token(USER, kind=kind, headers=known)) == ACCEPTED
        another = private_key(kind, "another")
        refused = [token(USER, kind=kind, key=another, headers=known), token(USER, headers=known)]
        for encoding in (Encoding.PEM, Encoding.DER):
            public = public_bytes(private_key(kind), encoding)
            for secret in (public, public.rstrip(b"\n")):
                for header in ({"alg": "HS256"}, {"alg": kind}):
                    refused.append(by_hand(json.dumps(header | known), payload(), secret))
        if kind == "RS256":
            key = private_key(kind)
            refused += [token(USER, kind=other, key=key, headers=known) for other in ("RS384", "RS512", "PS256")]
        for other in set(KINDS) - {kind}:
            refused.append(token(USER, kind=other, headers=known))
            altered = token(USER, kind=other, headers=known).split(".")
            altered[0] = encoded(json.dumps({"alg": kind, **known}).encode())
            refused.append(".".join(altered))
        for made in refused:
            assert await verdict(server, made) == REFUSED, jwt.get_unverified_header(made)
        if where == "key set":
            assert await verdict(server, token(USER, kind=kind)) == REFUSED, "no kid"


async def test_no_key_that_a_token_contains_or_names_is_used(store_server: StoreServer, prefix: str) -> None:
    """`jku`, `x5u`, `jwk`, `x5c`: nothing is fetched, and the keys in them verify nothing (RFC 8725, 3.10)."""
    evil_key = private_key("RS256", "evil")
    async with key_server(jwk("RS256", "known", "evil")) as evil, key_server(jwk("RS256", "known")) as keys:
        async with guarded(store_server, prefix, jwt_jwks_url=keys.url, jwt_algorithm="RS256") as server:
            for headers in (
                {"jku": evil.url},
                {"x5u": evil.url},
                {"jwk": jwk("RS256", "known", "evil")},
                {"x5c": [encoded(public_bytes(evil_key, Encoding.DER))]},
                {"kid": evil.url, "jku": evil.url},
            ):
                made = token(USER, kind="RS256", key=evil_key, headers={"kid": "known", **headers})
                assert await verdict(server, made) == REFUSED
            own = token(USER, kind="RS256", headers={"kid": "known", "jku": evil.url, "x5u": evil.url})
            assert await verdict(server, own) == ACCEPTED, "an ignored header does no harm"
        assert evil.fetches == 0


async def test_no_token_and_no_key_is_in_a_reply_or_a_log(
    store_server: StoreServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Even with every logger at its lowest level: ours, and those of the libraries that never see a token by design."""
    texts: list[str] = []
    private = public_bytes(private_key("RS256")).decode().split("\n")[1]
    server_side = [logging.getLogger(name) for name in ("server", "storage", "protocol", "uvicorn", "asyncio", "jwt")]
    with caplog.at_level(logging.DEBUG):
        for logger in server_side:
            caplog.set_level(logging.DEBUG, logger.name)
        async with guarded(store_server, f"{prefix}a") as server, rest(server) as api:
            seen = [token(USER), *(make() for make in [*BAD.values()][::6])]
            for made in seen:
                texts.append((await by_rest(server, f"Bearer {made}")).text)
                body = {"userId": USER, "session": "s", "token": made, "heartbeats": [{"seq": 0}]}
                texts.append((await api.post("/progress/realtime", json=body)).text)
                texts.append((await api.get(f"/progress/{USER}?token={made}")).text)
                async with socket(server) as opened:
                    texts.append(json.dumps(await say_hello(opened, made)))
                async with socket(server) as opened:
                    assert (await say_hello(opened, token(USER)))["type"] == "welcome"
                    await opened.send(json.dumps({"type": "auth", "token": made}))
                    await opened.send(json.dumps({"type": "auth", "token": [made]}))
                    await opened.send(json.dumps({"type": "ping"}))
                    while (frame := await asyncio.wait_for(opened.recv(), PATIENCE_S)) != '{"type":"pong"}':
                        texts.append(str(frame))
        async with (
            key_server(jwk("RS256", "known")) as keys,
            guarded(
                store_server, f"{prefix}b", jwt_jwks_url=f"{keys.url}?apikey=hush-hush", jwt_algorithm="RS256"
            ) as server,
        ):
            keys.status = 500
            seen.append(token(USER, kind="RS256", headers={"kid": "known"}))
            texts.append((await by_rest(server, f"Bearer {seen[-1]}")).text)
    texts += [
        f"{record.getMessage()} {record.exc_text or ''} {record.exc_info or ''}"
        for record in caplog.records
        if not record.name.startswith(("websockets.client", "httpx", "httpcore"))
    ]
    hidden = {SECRET, private, "hush-hush"} | {part for made in seen for part in made.split(".") if len(part) > 16}
    for text in texts:
        assert not [secret for secret in hidden if secret in text], text[:300]


async def test_the_log_test_captures_our_loggers(caplog: pytest.LogCaptureFixture, store_server: StoreServer) -> None:
    """Records of our loggers arrive where the test above searches for tokens."""
    with caplog.at_level(logging.DEBUG):
        async with key_server() as server:
            with pytest.raises(PeerError):
                await KeySet(server.url, "RS256").key("known")
    assert [record.name for record in caplog.records if "key set" in record.getMessage()] == [
        "playhead.server.security.key_sets"
    ]
