"""`playhead_client`: validates the arguments and wires a client. The only place that wires."""

import random
import ssl
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from playhead.client.credentials import Credentials, GetToken
from playhead.client.engine import Route
from playhead.client.outbox import MAX_ENTRIES
from playhead.client.pace import Backoff
from playhead.client.playhead import Playhead
from playhead.client.rest import Rest
from playhead.protocol.codecs import JsonCodec, MsgpackCodec
from playhead.protocol.messages import Hello

Transport = Literal["ws", "http"]
_SCHEMES = {"http": ("http", "ws"), "ws": ("http", "ws"), "https": ("https", "wss"), "wss": ("https", "wss")}


def playhead_client(
    url: str,
    *,
    device: str,
    token: str | None = None,
    get_token: GetToken | None = None,
    user_id: str | UUID | None = None,
    outbox_path: str | PathLike[str] | None = None,
    codec: Literal["json", "msgpack"] = "json",
    transports: Collection[Transport] = ("ws", "http"),
    max_pending: int = MAX_ENTRIES,
    backoff_s: tuple[float, float] = (0.5, 30.0),
    websocket_retry_s: float = 30.0,
    poll_s: float = 10.0,
    close_timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> Playhead:
    """Make a client for `async with`. It connects in the background, and reconnects whenever the connection is lost.

    Args:
        url: of the service: http, https, ws or wss; a path before `/ws` is kept. Proxy settings of the environment are
            ignored, and redirects are not followed.
        device: a name that distinguishes this device from the user's others: 1 to 64 letters, digits, spaces or . _ : -
        token: a JSON Web Token of the user; not needed for a service without tokens.
        get_token: fetches a fresh token of the same user whenever one is needed; may replace `token`.
        user_id: whose progress this is; by default the token's subject.
        outbox_path: a file that keeps reports which are not stored yet after this process ends. One client at a time.
        codec: the encoding of WebSocket messages.
        transports: `("ws",)` never falls back to HTTP, `("http",)` never tries the WebSocket.
        max_pending: maximum of entries in the outbox. Waiting reports of one video are merged into one entry.
        backoff_s: upper bounds of the first delay before reconnecting and of all later ones; delays are random.
        websocket_retry_s: time between attempts to return to the WebSocket, while HTTP is used.
        poll_s: time between requests for changes, while HTTP is used.
        close_timeout_s: how long `aclose` waits for reports to be stored.
        tls: for https and wss; default: the system's certificate authorities.

    Raises:
        ValueError: an argument is not valid, or there is no user.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("url: should be like https://playhead.example, without query, fragment or user")
    if user_id is None and token is None and get_token is None:
        raise ValueError("user_id: is required without a token")
    if not transports or not set(transports) <= {"ws", "http"}:
        raise ValueError('transports: should be "ws", "http" or both')
    where = f"{parts.netloc}{parts.path.rstrip('/').removesuffix('/ws')}"
    http, ws = _SCHEMES[parts.scheme]
    user = None if user_id is None else str(user_id).lower()
    credentials = Credentials(token, get_token)
    return Playhead(
        route=Route(
            ws_url=f"{ws}://{where}/ws",
            codec=MsgpackCodec() if codec == "msgpack" else JsonCodec(),
            tls=tls,
            websocket="ws" in transports,
            http="http" in transports,
            websocket_retry_s=websocket_retry_s,
            poll_s=poll_s,
        ),
        rest=Rest(f"{http}://{where}", credentials, user, tls),
        credentials=credentials,
        hello=Hello(device=device, session=str(uuid4()), user_id=user),
        outbox_path=None if outbox_path is None else Path(outbox_path),
        max_pending=max_pending,
        backoff=Backoff(*backoff_s, random.random),
        close_timeout_s=close_timeout_s,
    )
