"""Keys that verify tokens: one that is configured, or a key set (RFC 7517) that is fetched and looked up by `kid`.

Invariant: a key comes from the configuration alone; what a token says is compared, never followed or opened.
"""

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from playhead.protocol.errors import PeerError, Problem
from playhead.server.limits.rates import Bucket
from playhead.server.origin import LOOPBACK_NAMES
from playhead.server.security.blocking_calls import BlockingCalls
from playhead.storage.store import Outage

logger = logging.getLogger(__name__)

REFRESH_S = 300.0
"""A key set older than this is fetched again."""
TRUST_S = 900.0
"""A key set that could not be fetched again for so long is trusted no more."""
COOLDOWN_S = 10.0
"""Between two fetches for unknown key ids of one address, and after a failed fetch; on average also of all."""
FETCH_BURST = 5
"""Fetches for unknown key ids at once, of all addresses together."""
MAX_REMEMBERED = 10_000
"""Refused tokens, and their addresses, that are remembered; beyond it FETCH_BURST still limits the fetches."""
RETRY_S = 1.0
"""For a caller whose token arrived during a fetch that did not find its key."""
FETCH_TIMEOUT_S = 5.0
MIN_RSA_BITS = 2_048


class KeysUnavailable(PeerError):
    """Nobody can say now whether a token is good; come back after `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(Problem.KEYS, detail)
        self.retry_after_s = retry_after_s


class Cooldown:
    """Who or what has to wait: bounded, and forgotten after COOLDOWN_S."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: dict[str, float] = {}
        """Oldest first, as all wait equally long."""

    def __len__(self) -> int:
        return len(self._until)

    def add(self, name: str) -> None:
        now = self._now()
        self._until.pop(name, None)
        while self._until and (len(self) >= MAX_REMEMBERED or next(iter(self._until.values())) <= now):
            del self._until[next(iter(self._until))]
        self._until[name] = now + COOLDOWN_S

    def left_s(self, name: str) -> float:
        now = self._now()
        return max(0.0, self._until.get(name, now) - now)


class KeySource(Protocol):
    algorithm: str

    async def key(self, kid: str | None, token: str = "", address: str = "") -> Any:
        """The key with this id, for a `token` that came from `address`.

        Raises:
            PeerError: there is none (UNAUTHORIZED), or nobody can say now (KEYS).
        """
        ...


class FixedKey:
    """The one that is configured, whatever id a token gives."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self._key = key
        self.algorithm = algorithm

    async def key(self, kid: str | None, token: str = "", address: str = "") -> Any:
        return self._key


def algorithm_of(key: object) -> str | None:
    """The algorithm that a public key is for; None where we take no such key, or it is too weak."""
    if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256"
    return "EdDSA" if isinstance(key, Ed25519PublicKey) else None


def key_from_file(path: Path, algorithm: str | None) -> FixedKey:
    """A PEM public key.

    Raises:
        ValueError: no such file, no public key in it, not one for `algorithm`, or anybody can put another one there.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise ValueError(f"jwt_key_file {path}: everybody can write to it: take that right away (chmod o-w)")
            text = file.read()
    except OSError as error:
        raise ValueError(f"jwt_key_file {path}: {error.strerror}") from None
    try:
        key = load_pem_public_key(text)
    except (ValueError, TypeError):
        raise ValueError(f"jwt_key_file {path}: there is no PEM public key in it") from None
    fits = algorithm_of(key)
    if fits is None:
        raise ValueError(f"jwt_key_file {path}: should be RSA of {MIN_RSA_BITS} bits or more, P-256 or Ed25519")
    if algorithm not in (None, fits):
        raise ValueError(f"jwt_key_file {path}: the key is for {fits}, but jwt_algorithm is {algorithm}")
    return FixedKey(key, fits)


class KeySet:
    """A JWKS behind a URL, fetched off the loop, one fetch at a time, when it is old or lacks a key id.

    An id that the set lacks may belong to a key that was just rotated in, so only a fetch that began after the token
    arrived decides about that token. Fetches are limited, since anybody can make up key ids: an address whose id a
    fetch did not find causes no other fetch for COOLDOWN_S, and all addresses share FETCH_BURST. Where these limits, or
    a failed fetch, prevent a fetch, the answer is KEYS (come back later), never UNAUTHORIZED.

    Raises:
        ValueError: `url` is not https, nor http to this machine.
    """

    def __init__(self, url: str, algorithm: str, now: Callable[[], float] = time.monotonic) -> None:
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in (*LOOPBACK_NAMES, "::1")
        if not parts.hostname or (parts.scheme != "https" and not local):
            raise ValueError("jwt_jwks_url should be an https URL")
        self.algorithm = algorithm
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=FETCH_TIMEOUT_S)
        self._blocking = BlockingCalls("key-set")
        self._now = now
        self._keys: dict[str, Any] = {}
        self._fetched: float | None = None
        self._tried = -COOLDOWN_S
        self.failures = 0
        """Of fetches, since the process began."""
        self._outage = Outage(logger, "The key set can't be used", "The key set can be used again")
        self._failed = False
        """Whether the last fetch brought no news."""
        self._fetching: asyncio.Task[None] | None = None
        self._requested = False
        """Whether the fetch under way has sent its request: what arrives later may be newer than its answer."""
        self._budget = Bucket(1 / COOLDOWN_S, FETCH_BURST, now())
        self._refused = Cooldown(now)
        """Digests of tokens, not key ids: a stranger can guess the id of the next key, but not sign a token by it."""
        self._barred = Cooldown(now)
        """Addresses."""

    async def key(self, kid: str | None, token: str = "", address: str = "") -> Any:
        if kid is None:
            raise PeerError(Problem.UNAUTHORIZED, "the token has no kid")
        if self._age() > REFRESH_S and not self._under_way and not self._cooling:
            self._start_fetch()  # nobody waits as long as the keys are still trusted
        if kid not in self._keys or self._age() > TRUST_S:
            await self._decide(kid, sha256(token.encode()).hexdigest(), address)
        return self._keys[kid]

    async def _decide(self, kid: str, token: str, address: str) -> None:
        """Return once `kid` is known.

        Raises:
            PeerError: the issuer does not know it (UNAUTHORIZED), or nobody can say now (KEYS).
        """
        if self._refused.left_s(token):
            raise _unknown_key()
        if not self._under_way:
            if wait_s := self._wait_s(address):
                raise KeysUnavailable("the token's key is not known yet, and its issuer was asked moments ago", wait_s)
            self._start_fetch()
        decisive = not self._requested
        assert self._fetching is not None  # noqa: S101 under way, or started above
        await asyncio.shield(self._fetching)  # others wait too: a caller that gives up does not end it for them
        if self._age() > TRUST_S or (self._failed and kid not in self._keys):
            raise KeysUnavailable("the key set can't be fetched", COOLDOWN_S)
        if kid in self._keys:
            return
        if not decisive:
            raise KeysUnavailable("the token's key is not known yet", RETRY_S)
        self._refused.add(token)
        self._barred.add(address)
        raise _unknown_key()

    def _wait_s(self, address: str) -> float:
        """How long until a token from `address` may cause a fetch; 0: it may now, and has paid for it."""
        now = self._now()
        if self._cooling:
            return self._tried + COOLDOWN_S - now
        if left_s := self._barred.left_s(address):
            return left_s
        return 0.0 if self._budget.take(now) else self._budget.wait_s()

    @property
    def _under_way(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    @property
    def _cooling(self) -> bool:
        """Whether a fetch has failed a moment ago: an issuer in trouble is left alone, whoever asks."""
        return self._failed and self._now() - self._tried < COOLDOWN_S

    def _age(self) -> float:
        return float("inf") if self._fetched is None else self._now() - self._fetched

    def _start_fetch(self) -> None:
        self._tried, self._requested = self._now(), False
        self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        self._requested = True
        try:
            # The client's own timeout holds for each read only.
            keys = await self._blocking.run(lambda: self._client.get_signing_keys(True), 2 * FETCH_TIMEOUT_S)
        except Exception as error:
            # Unreachable, not JSON, no keys: no news. Its type alone is logged: a URL may hold secrets.
            self._failed = True
            self.failures += 1
            self._outage.failed(type(error).__name__)
            return
        self._keys = {
            key.key_id: key.key
            for key in keys
            if isinstance(key.key_id, str) and self.algorithm == key.algorithm_name == algorithm_of(key.key)
        }
        self._failed = False
        self._fetched = self._now()
        if self._keys:
            self._outage.worked()
        else:
            self._outage.failed(f"it has no key for {self.algorithm}")


def _unknown_key() -> PeerError:
    return PeerError(Problem.UNAUTHORIZED, "the token is signed by an unknown key")
