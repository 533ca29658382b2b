"""The Python client, and the browser's `playhead.js` in the same folder; of the service they know protocol/ only.

The Python client reports what was played until it is stored, and receives changes from other devices.
"""

from playhead.client.errors import (
    ClientError,
    Deleted,
    Denied,
    Forbidden,
    Invalid,
    NotFound,
    NotStored,
    OutboxBusy,
    OutboxFull,
    Refused,
    Rejected,
    RestError,
    Terminal,
    TokenExpired,
    TooFast,
    TooManyVideos,
    Unauthorized,
    Unavailable,
)
from playhead.client.opening import playhead_client
from playhead.client.playhead import Playhead
from playhead.client.waiting import Receipt

__all__ = [
    "ClientError",
    "Deleted",
    "Denied",
    "Forbidden",
    "Invalid",
    "NotFound",
    "NotStored",
    "OutboxBusy",
    "OutboxFull",
    "Playhead",
    "Receipt",
    "Refused",
    "Rejected",
    "RestError",
    "Terminal",
    "TokenExpired",
    "TooFast",
    "TooManyVideos",
    "Unauthorized",
    "Unavailable",
    "playhead_client",
]
