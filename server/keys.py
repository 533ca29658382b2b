"""Keys that verify tokens: one that is configured, or a key set (RFC 7517) that is fetched and looked up by `kid`.

Invariant: a key comes from the configuration alone; what a token says is compared, never followed or opened.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from protocol.errors import PeerError, Problem
from server.origin import LOOPBACK_NAMES

logger = logging.getLogger(__name__)

REFRESH_S = 300.0
"""A key set older than this is fetched again."""
TRUST_S = 900.0
"""A key set that could not be fetched again for so long is trusted no more."""
COOLDOWN_S = 10.0
"""Between two fetches, however many unknown key ids come."""
FETCH_TIMEOUT_S = 5.0
MIN_RSA_BITS = 2_048


class KeySource(Protocol):
    algorithm: str

    async def key(self, kid: str | None) -> Any:
        """The key for a token of this id.

        Raises:
            PeerError: there is none (UNAUTHORIZED), or nobody can say now (KEYS).
        """
        ...


class FixedKey:
    """The one that is configured, whatever id a token gives."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self._key = key
        self.algorithm = algorithm

    async def key(self, kid: str | None) -> Any:
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
        ValueError: no such file, no public key in it, or not one for `algorithm`.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else "there is no PEM public key in it"
        raise ValueError(f"jwt_key_file {path}: {why}") from None
    fits = algorithm_of(key)
    if fits is None:
        raise ValueError(f"jwt_key_file {path}: should be RSA of {MIN_RSA_BITS} bits or more, P-256 or Ed25519")
    if algorithm not in (None, fits):
        raise ValueError(f"jwt_key_file {path}: the key is for {fits}, but jwt_algorithm is {algorithm}")
    return FixedKey(key, fits)


class KeySet:
    """A JWKS behind a URL: fetched off the loop, one fetch at a time, when it is old or lacks the id that is asked for.

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
        self._now = now
        self._keys: dict[str, Any] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self.failures = 0
        """Of fetches, since the process began."""
        self._failed = False
        """Whether the last fetch brought no news."""
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str | None) -> Any:
        if kid is None:
            raise PeerError(Problem.UNAUTHORIZED, "the token has no kid")
        if kid not in self._keys or self._age() > TRUST_S:
            self._start_fetch()
            if self._fetching is not None:
                await asyncio.shield(self._fetching)  # others wait too: who gives up does not end it for them
        elif self._age() > REFRESH_S:
            self._start_fetch()  # nobody waits: what we have is still trusted
        if self._age() > TRUST_S or (kid not in self._keys and self._failed):
            raise PeerError(Problem.KEYS, "the key set can't be fetched")
        try:
            return self._keys[kid]
        except KeyError:
            raise PeerError(Problem.UNAUTHORIZED, "the token is signed by an unknown key") from None

    def _age(self) -> float:
        return float("inf") if self._fetched is None else self._now() - self._fetched

    def _start_fetch(self) -> None:
        """Fetch, unless that is under way, or somebody has just done so or tried to."""
        if self._fetching is not None and not self._fetching.done():
            return
        if self._tried is None or self._now() - self._tried >= COOLDOWN_S:
            self._tried = self._now()
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        self._failed = True
        try:
            async with asyncio.timeout(2 * FETCH_TIMEOUT_S):  # the client's own holds for each read only
                keys = await asyncio.to_thread(self._client.get_signing_keys, True)
        except Exception as error:
            # Unreachable, not JSON, no keys: no news. Its type alone is logged: a URL may hold secrets.
            self.failures += 1
            logger.warning("The key set can't be fetched: %s", type(error).__name__)
            return
        self._keys = {
            key.key_id: key.key
            for key in keys
            if isinstance(key.key_id, str) and self.algorithm == key.algorithm_name == algorithm_of(key.key)
        }
        self._failed = False
        self._fetched = self._now()
        if not self._keys:
            logger.warning("The key set has no key for %s", self.algorithm)
