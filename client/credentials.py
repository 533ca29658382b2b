"""The token: given once, or fetched by the user's function whenever a fresh one is needed."""

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable

GetToken = Callable[[], Awaitable[str]]
GET_TOKEN_S = 30.0
"""Time limit for the user's function, which may wait for a server without one."""


class Credentials:
    """The token of a client's user.

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
        """The current token, fetched if there is none yet; None for a service without tokens."""
        if self._token is None and self._get_token is not None:
            return await self.fresh()
        return self._token

    async def fresh(self) -> str | None:
        """Fetch a fresh token if there is a function for that, else return the current one.

        Raises TimeoutError after GET_TOKEN_S, and whatever `get_token` raises.
        """
        if self._get_token is not None:
            async with asyncio.timeout(GET_TOKEN_S):
                token = await self._get_token()
            self._token = _checked(token)
        return self._token

    def headers(self, token: str | None) -> dict[str, str]:
        return {} if token is None else {"Authorization": f"Bearer {_checked(token)}"}


def subject(token: str) -> str | None:
    """The subject of a JSON Web Token, None if it cannot be read. It is not verified: the service does that."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["sub"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None


def _checked(token: str) -> str:
    """The token, if a header can hold it. Raises ValueError."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token must be printable ASCII without spaces")
    return token
