"""The token in use: given once, or got from the user's own function whenever a fresh one is needed."""

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable

GetToken = Callable[[], Awaitable[str]]
GET_TOKEN_S = 30.0
"""For the user's own function, which may wait for a peer without a bound."""


class Credentials:
    """What a client proves its user by.

    Args:
        token: the first token; without `get_token` the only one.
        get_token: gets a fresh token of the same user.
    """

    def __init__(self, token: str | None, get_token: GetToken | None) -> None:
        self._token = token
        self._get_token = get_token

    @property
    def renewable(self) -> bool:
        return self._get_token is not None

    async def token(self) -> str | None:
        """The one in use, got first where there is none; None where the service runs without."""
        if self._token is None and self._get_token is not None:
            return await self.fresh()
        return self._token

    async def fresh(self) -> str | None:
        """Get a fresh one, where that is possible; raises what `get_token` raises, or TimeoutError after
        GET_TOKEN_S."""
        if self._get_token is not None:
            async with asyncio.timeout(GET_TOKEN_S):
                token = await self._get_token()
            self._token = _checked(token)
        return self._token

    def headers(self, token: str | None) -> dict[str, str]:
        return {} if token is None else {"Authorization": f"Bearer {_checked(token)}"}


def subject(token: str) -> str | None:
    """Whom a JSON Web Token speaks for, unverified: the service verifies it. None where it can't be read."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["sub"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None


def _checked(token: str) -> str:
    """A header can't hold anything else."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token is printable ASCII without spaces")
    return token
