"""The models of messages: what a client may send, and how an invalid message is reported."""

from typing import Any

import pytest
from pydantic import ConfigDict, ValidationError

from playhead.protocol.errors import FrameError, InvalidMessage, PeerError, Problem
from playhead.protocol.messages import (
    CLIENT_MESSAGES,
    MAX_DETAIL,
    SERVER_MESSAGES,
    Heartbeat,
    Hello,
    RecordView,
    error_message,
    field_errors,
    parse,
)

USER, VIDEO = "3FA85F64-5717-4562-B3FC-2C963F66AFA6", "3fa85f64-5717-4562-b3fc-2c963f66afa7"
MESSAGES: dict[str, dict[str, Any]] = {
    "hello": {"device": "tv", "session": "page"},
    "heartbeat": {"seq": 1, "videoId": VIDEO},
    "sync": {"since": 0},
    "auth": {"token": "a.b.c"},
    "ping": {},
}


@pytest.mark.parametrize("kind", CLIENT_MESSAGES)
def test_type_chooses_the_model(kind: str) -> None:
    message = parse({"type": kind, **MESSAGES[kind]})
    assert type(message) is CLIENT_MESSAGES[kind]
    assert message.type == kind


def test_no_type_belongs_to_both_sides() -> None:
    assert not CLIENT_MESSAGES.keys() & SERVER_MESSAGES.keys()


@pytest.mark.parametrize("kind", SERVER_MESSAGES)
def test_message_of_the_server_is_not_accepted_from_a_client(kind: str) -> None:
    with pytest.raises(FrameError, match="type should be one of hello, heartbeat"):
        parse({"type": kind, "rev": 1, "records": []})


def test_fields_are_camel_case_only() -> None:
    """The Python names are not a second spelling of the protocol."""
    with pytest.raises(InvalidMessage) as caught:
        parse({"type": "heartbeat", "seq": 1, "video_id": VIDEO})
    assert [error.pointer for error in caught.value.fields] == ["/videoId"]


def test_ids_are_lower_case_in_the_model() -> None:
    message = parse({"type": "hello", "device": "tv", "session": "page", "userId": USER})
    assert isinstance(message, Hello)
    assert message.user_id == USER.lower()


@pytest.mark.parametrize("kind", ["hello", "auth"])
def test_repr_contains_no_token(kind: str) -> None:
    """So that a token cannot reach a log or a traceback."""
    assert "secret" not in repr(parse({"type": kind, **MESSAGES[kind], "token": "secret"}))


@pytest.mark.parametrize(
    ("fields", "seq", "session"),
    [
        ({"seq": 7, "session": "page", "position": "five"}, 7, "page"),
        ({"seq": 7, "position": "five"}, 7, None),
        ({"seq": "7", "session": "page"}, None, None),
        ({"seq": 0, "session": "page"}, None, None),
        ({"seq": 7, "session": "a b"}, None, None),
        ({"session": "page"}, None, None),
    ],
)
def test_invalid_heartbeat_is_identified_only_by_a_valid_seq_and_session(
    fields: dict[str, Any], seq: int | None, session: str | None
) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse({"type": "heartbeat", "videoId": VIDEO, **fields})
    assert (caught.value.seq, caught.value.session) == (seq, session)


def test_other_invalid_messages_have_no_seq() -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse({"type": "sync", "seq": 7, "since": -1})
    assert caught.value.seq is None
    assert [error.pointer for error in caught.value.fields] == ["/since"], "without the tag of the union"


def test_detail_never_repeats_the_value() -> None:
    """A value may be long, or secret."""
    value = "Bearer secret" * 1_000
    with pytest.raises(InvalidMessage) as caught:
        parse({"type": "heartbeat", "seq": 1, "videoId": value, "played": value, "state": value, "session": value})
    assert len(caught.value.fields) == 4
    assert "secret" not in caught.value.detail
    assert "should be a UUID" in caught.value.detail


def test_pointer_escapes_and_cuts_keys_of_the_peer() -> None:
    """RFC 6901 writes ~ as ~0 and / as ~1."""

    class Body(Heartbeat):
        model_config = ConfigDict(extra="forbid")

    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"seq": 1, "videoId": VIDEO, "a/b~c": 1, "x" * 1_000: 1})
    assert [error.pointer for error in field_errors(caught.value)] == ["/a~1b~0c", "/" + "x" * 64]


def test_at_most_twenty_fields_are_reported() -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse({"type": "heartbeat", "seq": 1, "videoId": VIDEO, "played": [["a", "b"]] * 400})
    assert len(caught.value.fields) == 20


def test_error_message_is_bounded() -> None:
    message = error_message(PeerError(Problem.RATE, "x" * 10_000))
    assert (message.code, message.title) == ("rate", Problem.RATE.value.title)
    assert message.detail == "x" * MAX_DETAIL


def test_messages_cannot_be_changed() -> None:
    view = RecordView(video_id=VIDEO, rev=1)
    with pytest.raises(ValidationError, match="frozen"):
        view.rev = 2  # type: ignore[misc]  # what the test is about
