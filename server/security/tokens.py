"""Verifies JSON Web Tokens (RFC 7519) as RFC 8725 advises.

The algorithm is pinned by configuration and never taken from the token. A token without expiry or subject, or with
another issuer, audience or type, is refused. So is a token that can't be verified because the key set is unavailable.
"""

import time
from typing import Any

import jwt
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers

from playhead.protocol.errors import PeerError, Problem
from playhead.protocol.scalars import MAX_TOKEN, Id
from playhead.server.security.identity import ANYBODY, Identity
from playhead.server.security.key_sets import FixedKey, KeySet, KeySource, key_from_file
from playhead.server.settings import Settings

TYPES = (None, "jwt", "at+jwt", "application/jwt", "application/at+jwt")
"""Accepted `typ` headers, in lower case (RFC 8725, 3.11; RFC 9068). A token for another purpose is refused."""
MAX_KID = 200
MAX_SUBJECT = 200
MAX_EXPIRY = 253_402_300_799
"""The end of the year 9999, s since 1970."""
MAX_TTL_S = 366 * 86_400
"""The longest lifetime of a minted token."""
_id: TypeAdapter[str] = TypeAdapter(Id)


class Authenticator:
    """Verifies tokens and returns identities. Without a configured key, every caller is ANYBODY.

    Raises:
        ValueError: the configured key can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = _source(settings)
        self._audience = settings.jwt_audience
        self._issuer = settings.jwt_issuer
        self._leeway_s = settings.jwt_leeway_s
        self._decoder = jwt.PyJWT({"enforce_minimum_key_length": True})

    @property
    def enabled(self) -> bool:
        """Whether callers need a token."""
        return self._keys is not None

    @property
    def failed_fetches(self) -> int:
        """Failed fetches of the key set; 0 without one."""
        return self._keys.failures if isinstance(self._keys, KeySet) else 0

    async def identify(self, token: str | None, address: str = "") -> Identity:
        """Verify a token, which came from `address`, and return the identity it stands for.

        Raises:
            PeerError: UNAUTHORIZED, TOKEN_EXPIRED, or KEYS if the token can't be verified now.
        """
        if self._keys is None:
            return ANYBODY
        if token is None:
            raise PeerError(Problem.UNAUTHORIZED, "a token is required")
        if len(token) > MAX_TOKEN:
            raise PeerError(Problem.UNAUTHORIZED, f"the token should have at most {MAX_TOKEN} characters")
        try:
            header = jwt.get_unverified_header(token)
            _check_header(header, self._keys.algorithm)
            key = await self._keys.key(header.get("kid"), token, address)
            return self._identity(self._claims(token, key, self._keys.algorithm))
        except PeerError:
            raise
        except jwt.ExpiredSignatureError:
            raise PeerError(Problem.TOKEN_EXPIRED, "the token has expired") from None
        except Exception as error:
            # A forged token may make a parser raise anything; a token that was not verified is refused.
            raise PeerError(Problem.UNAUTHORIZED, _reason(error)) from None

    def _claims(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        claims: dict[str, Any] = self._decoder.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=self._leeway_s,
            options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
        )
        return claims

    def _identity(self, claims: dict[str, Any]) -> Identity:
        subject, expires_at = claims["sub"], claims["exp"]
        if not 0 < len(subject) <= MAX_SUBJECT:
            raise PeerError(Problem.UNAUTHORIZED, "the token's sub is empty or too long")
        if isinstance(expires_at, bool) or not isinstance(expires_at, int | float) or expires_at > MAX_EXPIRY:
            raise PeerError(Problem.UNAUTHORIZED, "the token's exp is not a valid Unix time")
        try:
            user_id = _id.validate_python(subject)
        except ValidationError:
            user_id = None
        return Identity(subject, user_id, _scopes(claims.get("scope", claims.get("scp"))), expires_at + self._leeway_s)


def bearer(headers: Headers) -> str | None:
    """The token in the Authorization header (RFC 6750, 2.1); None without such a header.

    Raises:
        PeerError: the header has another scheme, or occurs more than once.
    """
    values = headers.getlist("authorization")
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip(" "):
        raise PeerError(Problem.UNAUTHORIZED, "there should be one Authorization header: Bearer, a space and the token")
    return token.strip(" ")


def _source(settings: Settings) -> KeySource | None:
    if settings.jwt_secret is not None:
        return FixedKey(settings.jwt_secret.get_secret_value().encode(), "HS256")
    if settings.jwt_key_file is not None:
        return key_from_file(settings.jwt_key_file, settings.jwt_algorithm)
    if settings.jwt_jwks_url is not None and settings.jwt_algorithm is not None:
        return KeySet(settings.jwt_jwks_url, settings.jwt_algorithm)
    return None


def _check_header(header: dict[str, Any], algorithm: str) -> None:
    kind, kid = header.get("typ"), header.get("kid")
    if header.get("alg") != algorithm:
        raise PeerError(Problem.UNAUTHORIZED, f"the token's alg is not {algorithm}")
    if (kind.lower() if isinstance(kind, str) else kind) not in TYPES:
        raise PeerError(Problem.UNAUTHORIZED, "the token's typ is not that of an access token")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID):
        raise PeerError(Problem.UNAUTHORIZED, "the token's kid is empty or too long")
    if "crit" in header:
        raise PeerError(Problem.UNAUTHORIZED, "the token's crit names an extension that is not supported")


def _scopes(value: object) -> frozenset[str]:
    """Parse a scope claim: words separated by U+0020 only (RFC 8693, 4.2), or a list, as some issuers write it."""
    if isinstance(value, str):
        return frozenset(value.split(" "))
    return frozenset(item for item in value if isinstance(item, str)) if isinstance(value, list) else frozenset()


def _reason(error: Exception) -> str:
    """Describe an error in our own words, because the library's may repeat parts of the token."""
    reasons: list[tuple[type[Exception], str]] = [
        (jwt.InvalidSignatureError, "the token's signature does not match"),
        (jwt.InvalidAudienceError, "the token is for another audience"),
        (jwt.InvalidIssuerError, "the token is from another issuer"),
        (jwt.ImmatureSignatureError, "the token is not valid yet"),
        (jwt.MissingRequiredClaimError, "the token lacks exp, sub, iss or aud"),
        (jwt.exceptions.InvalidSubjectError, "the token's sub is not a string"),
    ]
    return next((words for kind, words in reasons if isinstance(error, kind)), "the token can't be read")


def mint(settings: Settings, subject: str, scope: str, ttl_s: float) -> str:
    """Create a token that these settings accept, for trying the service out. Real ones come from an identity provider.

    Raises:
        ValueError: there is no secret to sign with, or the subject or the lifetime is invalid.
    """
    if settings.jwt_secret is None:
        raise ValueError(
            "jwt_secret is not set: run export PLAYHEAD_JWT_SECRET=$(openssl rand -hex 32), here and for the server"
        )
    if not 0 < len(subject) <= MAX_SUBJECT:
        raise ValueError(f"--sub should have 1 to {MAX_SUBJECT} characters")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise ValueError(f"--ttl should be more than 0 and at most {MAX_TTL_S}")
    now = time.time()
    claims = {"sub": subject, "scope": scope, "iat": int(now), "exp": now + ttl_s}
    claims |= {"iss": settings.jwt_issuer} if settings.jwt_issuer is not None else {}
    claims |= {"aud": settings.jwt_audience} if settings.jwt_audience is not None else {}
    return jwt.encode(claims, settings.jwt_secret.get_secret_value(), algorithm="HS256")
