"""What a client is made of: arguments that cannot work are refused before anything is opened."""

from typing import Any

import pytest

from playhead.client import Playhead, playhead_client

USER = "3FA85F64-5717-4562-B3FC-2C963F66AFA6"


def opened(url: str = "https://playhead.example", **more: Any) -> Playhead:
    return playhead_client(url, **{"device": "tv", "user_id": USER, **more})


@pytest.mark.parametrize(
    ("url", "http", "ws"),
    [
        ("https://playhead.example", "https://playhead.example", "wss://playhead.example/ws"),
        ("wss://playhead.example/ws", "https://playhead.example", "wss://playhead.example/ws"),
        ("http://[::1]:8000/", "http://[::1]:8000", "ws://[::1]:8000/ws"),
        ("ws://playhead.example/video/ws", "http://playhead.example/video", "ws://playhead.example/video/ws"),
        ("https://playhead.example/video/", "https://playhead.example/video", "wss://playhead.example/video/ws"),
    ],
)
def test_both_addresses_follow_from_the_url(url: str, http: str, ws: str) -> None:
    """Whichever of the two the user has written."""
    made = opened(url)
    assert made._route.ws_url == ws
    assert made.rest._url == http


@pytest.mark.parametrize(
    "url",
    [
        "",
        "playhead.example",
        "ftp://playhead.example",
        "https://",
        "https://playhead.example?token=secret",
        "https://playhead.example#part",
        "https://user:secret@playhead.example",
    ],
)
def test_a_url_that_cannot_work_is_refused_and_not_repeated(url: str) -> None:
    """It may hold a secret."""
    with pytest.raises(ValueError, match="url: should be like") as caught:
        opened(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("transports", [(), ("ws", "udp"), ["smtp"]])
def test_transports_are_ws_and_http(transports: Any) -> None:
    with pytest.raises(ValueError, match="transports"):
        opened(transports=transports)


def test_a_client_needs_a_user_or_a_token() -> None:
    with pytest.raises(ValueError, match="user_id: is required"):
        opened(user_id=None)
    for more in ({"token": "a.b.c"}, {"get_token": pytest.fail}):
        assert isinstance(opened(user_id=None, **more), Playhead)


@pytest.mark.parametrize(
    ("name", "value"), [("device", ""), ("device", "a/b"), ("device", "x" * 65), ("user_id", "me")]
)
def test_a_bad_name_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        opened(**{name: value})
