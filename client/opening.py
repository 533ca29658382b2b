"""From what a user says to a client: addresses, bounds, and which file keeps the outbox. The only place that wires."""

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
    """A client for `async with`. It connects in the background, and comes back whenever the connection is lost.

    Args:
        url: the service: http, https, ws or wss; a path before `/ws` is kept. Proxies of the environment are not used,
            and redirects not followed.
        device: a name of 1 to 64 letters, digits, spaces or . _ : - that tells this device from the user's others.
        token: a JSON Web Token of the user; none where the service runs without.
        get_token: gets a fresh token of the same user, whenever one is needed; also instead of `token`.
        user_id: whose progress this is; by default the token's subject.
        outbox_path: a file that keeps what is not stored yet beyond the life of this process. One client at a time.
        codec: the subprotocol.
        transports: `("ws",)` never gives way to HTTP, `("http",)` never tries the WebSocket.
        max_pending: entries of the outbox; reports of one video that wait are merged, so this is many reports.
        backoff_s: bounds of the first delay before coming back, and of all later ones; the delay is a random part.
        websocket_retry_s: while HTTP serves, how often the WebSocket is tried again.
        poll_s: while HTTP serves, how often changes are asked for.
        close_timeout_s: how long `aclose` may wait for what is not stored.
        tls: for https and wss; by default the system's authorities.

    Raises:
        ValueError: an argument is not valid, or nothing says who the user is.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("url: should be such as https://playhead.example, without a query or a user")
    if user_id is None and token is None and get_token is None:
        raise ValueError("user_id: without a token, say whose progress this is")
    if not transports or not set(transports) <= {"ws", "http"}:
        raise ValueError("transports: should be ws, http or both")
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
