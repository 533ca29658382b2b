"""The keys that verify tokens: one configured key, or a key set (RFC 7517) that is fetched and searched by `kid`.

Invariant: keys come from the configured source only. The values in a token are compared; a URL, file or key in a token
is never used.
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
"""A key set that could not be fetched again for this long is no longer trusted."""
COOLDOWN_S = 10.0
"""The pause after a failed fetch, and between two fetches that one address causes by unknown key ids. It is also the
average pause between the fetches that all addresses cause so."""
FETCH_BURST = 5
"""Fetches that all addresses together may cause at once by unknown key ids."""
MAX_REMEMBERED = 10_000
"""Refused tokens, and addresses, that are remembered; beyond it FETCH_BURST still limits the fetches."""
RETRY_S = 1.0
"""The retry delay for a token that arrived during a fetch which did not find its key."""
FETCH_TIMEOUT_S = 5.0
MIN_RSA_BITS = 2_048


class KeysUnavailable(PeerError):
    """A token cannot be verified now; the client may retry after `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(Problem.KEYS, detail)
        self.retry_after_s = retry_after_s


class Cooldown:
    """Names that must wait for COOLDOWN_S. Their number is bounded by MAX_REMEMBERED."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: dict[str, float] = {}
        """When each name's wait ends, the first to end first, because all waits are equally long."""

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
        """The key with the id `kid`, to verify `token`, which came from `address`.

        Raises:
            PeerError: there is no such key (UNAUTHORIZED), or whether there is one cannot be known now (KEYS).
        """
        ...


class FixedKey:
    """The one configured key, used for all tokens whatever their `kid`."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self._key = key
        self.algorithm = algorithm

    async def key(self, kid: str | None, token: str = "", address: str = "") -> Any:
        return self._key


def algorithm_of(key: object) -> str | None:
    """The algorithm that a public key is for; None if its kind is not supported, or the key is too weak."""
    if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256"
    return "EdDSA" if isinstance(key, Ed25519PublicKey) else None


def key_from_file(path: Path, algorithm: str | None) -> FixedKey:
    """Read a public key from a PEM file.

    Raises:
        ValueError: the file cannot be read, holds no public key or not one for `algorithm`, or is writable by everyone.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise ValueError(f"jwt_key_file {path}: the file is writable by everyone; run chmod o-w on it")
            text = file.read()
    except OSError as error:
        raise ValueError(f"jwt_key_file {path}: {error.strerror}") from None
    try:
        key = load_pem_public_key(text)
    except (ValueError, TypeError):
        raise ValueError(f"jwt_key_file {path}: the file contains no PEM public key") from None
    fits = algorithm_of(key)
    if fits is None:
        raise ValueError(
            f"jwt_key_file {path}: the key should be RSA with {MIN_RSA_BITS} bits or more, P-256 or Ed25519"
        )
    if algorithm not in (None, fits):
        raise ValueError(f"jwt_key_file {path}: the key is for {fits}, but jwt_algorithm is {algorithm}")
    return FixedKey(key, fits)


class KeySet:
    """A JSON Web Key Set at a URL. It is fetched when it is old or lacks a key id, in a thread, one fetch at a time.

    An unknown id may belong to a key that was just rotated in, so a token is refused only after a fetch that began when
    the token had arrived. Fetches are limited, because anyone can make up key ids: an address whose id a fetch did not
    find causes no other fetch for COOLDOWN_S, and all addresses share FETCH_BURST. If a fetch is prevented by these
    limits or fails, the error is KEYS (retry later), never UNAUTHORIZED.

    Raises:
        ValueError: `url` is neither https nor http to this machine.
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
        """Failed fetches since the process began."""
        self._outage = Outage(logger, "The key set can't be used", "The key set can be used again")
        self._failed = False
        """Whether the last fetch failed."""
        self._fetching: asyncio.Task[None] | None = None
        self._requested = False
        """Whether the fetch under way has sent its request: the key of a later token may be newer than the response."""
        self._budget = Bucket(1 / COOLDOWN_S, FETCH_BURST, now())
        self._refused_tokens = Cooldown(now)
        """By digest, not by key id: a stranger can guess the id of the next key, but not sign a token with it."""
        self._refused_addresses = Cooldown(now)
        """Addresses whose last unknown key id was not found by a fetch."""

    async def key(self, kid: str | None, token: str = "", address: str = "") -> Any:
        if kid is None:
            raise PeerError(Problem.UNAUTHORIZED, "the token has no kid")
        if self._age() > REFRESH_S and not self._under_way and not self._cooling:
            self._start_fetch()  # in the background, because the known keys are still trusted
        if kid not in self._keys or self._age() > TRUST_S:
            await self._look_up(kid, sha256(token.encode()).hexdigest(), address)
        return self._keys[kid]

    async def _look_up(self, kid: str, token: str, address: str) -> None:
        """Fetch the key set if needed, and return once `kid` is known.

        Raises:
            PeerError: the issuer has no such key (UNAUTHORIZED), or whether it has cannot be known now (KEYS).
        """
        if self._refused_tokens.left_s(token):
            raise _unknown_key()
        if not self._under_way:
            if wait_s := self._wait_s(address):
                raise KeysUnavailable("the token's key is unknown, and the key set was fetched moments ago", wait_s)
            self._start_fetch()
        decisive = not self._requested
        assert self._fetching is not None  # noqa: S101 under way, or started above
        await asyncio.shield(self._fetching)  # a caller that gives up must not cancel the fetch for others
        if self._age() > TRUST_S or (self._failed and kid not in self._keys):
            raise KeysUnavailable("the key set can't be fetched", COOLDOWN_S)
        if kid in self._keys:
            return
        if not decisive:
            raise KeysUnavailable("the token's key was not in the key set that was being fetched", RETRY_S)
        self._refused_tokens.add(token)
        self._refused_addresses.add(address)
        raise _unknown_key()

    def _wait_s(self, address: str) -> float:
        """Seconds until a token from `address` may cause a fetch; 0 if it may now, which is then counted."""
        now = self._now()
        if self._cooling:
            return self._tried + COOLDOWN_S - now
        if left_s := self._refused_addresses.left_s(address):
            return left_s
        return 0.0 if self._budget.take(now) else self._budget.wait_s()

    @property
    def _under_way(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    @property
    def _cooling(self) -> bool:
        """Whether a fetch failed less than COOLDOWN_S ago; until then no fetch starts, to spare the issuer."""
        return self._failed and self._now() - self._tried < COOLDOWN_S

    def _age(self) -> float:
        return float("inf") if self._fetched is None else self._now() - self._fetched

    def _start_fetch(self) -> None:
        self._tried, self._requested = self._now(), False
        self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        self._requested = True
        try:
            # The client's own timeout limits each read only, not the whole fetch.
            keys = await self._blocking.run(lambda: self._client.get_signing_keys(True), 2 * FETCH_TIMEOUT_S)
        except Exception as error:
            # The issuer is unreachable, or its response is not JSON or has no keys. Only the error's type is logged,
            # because its text may hold the URL, and that may hold secrets.
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
