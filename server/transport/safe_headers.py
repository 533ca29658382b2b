"""Security headers on every response: they keep browsers from using it as another type, or from another origin.

A response that sets one of them itself keeps its own: pages allow their scripts, and other origins may load the SDK.
"""

from starlette.types import Message, Send

_DEFAULTS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    # Not no-referrer: with it, browsers send beacons of our own pages with Origin: null.
    b"referrer-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
SAFE_HEADERS = list(_DEFAULTS.items())
"""The headers of a response that sets none of them."""


def with_safe_headers(send: Send) -> Send:
    """Wrap ASGI's `send` of an HTTP request."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            given = {name for name, _ in headers}
            message["headers"] = [*headers, *(pair for pair in SAFE_HEADERS if pair[0] not in given)]
        await send(message)

    return sending
