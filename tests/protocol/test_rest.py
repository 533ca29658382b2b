"""The bodies of the REST contract: what is accepted, and what readers see of a record."""

from typing import Any

import pytest
from pydantic import ValidationError

from playhead.protocol.messages import Message
from playhead.protocol.record import ABSENT, Record
from playhead.protocol.rest import (
    MAX_ENVELOPE,
    MAX_ITEMS,
    Envelope,
    SyncBody,
    Update,
    VideoBody,
    item_view,
    record_view,
)

USER, VIDEO = "3fa85f64-5717-4562-b3fc-2c963f66afa6", "3fa85f64-5717-4562-b3fc-2c963f66afa7"
NOW = 1_764_000_000_000
ITEM = {"videoId": VIDEO, "watchedDuration": 5, "lastWatched": "2025-11-24T16:00:00.000Z"}
RECORD = Record(
    rev=3,
    last_watched=NOW - 2,
    played_ms=7_500,
    duration_ms=60_000,
    completed_at=NOW - 1,
    position_ms=5_250,
    position_at=NOW - 2,
    seen=[0, 5, 9, 11],
    again=[1, 2],
)


def body(model: type[Message], tree: Any) -> dict[str, Any]:
    """What the model reads from a body, as a dict."""
    return model.model_validate(tree, by_alias=True, by_name=False).model_dump()


def test_update_has_the_documented_fields() -> None:
    assert body(Update, {"userId": USER.upper(), **ITEM}) == {
        "user_id": USER,
        "video_id": VIDEO,
        "watched_duration": 5,
        "last_watched": NOW,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("userId", None),
        ("userId", "me"),
        ("videoId", 7),
        ("watchedDuration", -1),
        ("watchedDuration", 1.5),
        ("watchedDuration", "5"),
        ("watchedDuration", True),
        ("lastWatched", NOW),
        ("lastWatched", "yesterday"),
    ],
)
def test_update_with_a_bad_field_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        body(Update, {"userId": USER, **ITEM, name: value})
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]


@pytest.mark.parametrize(("count", "accepted"), [(0, True), (MAX_ITEMS, True), (MAX_ITEMS + 1, False)])
def test_sync_is_bounded(count: int, accepted: bool) -> None:
    tree = {"userId": USER, "progressData": [ITEM] * count}
    if accepted:
        assert len(body(SyncBody, tree)["progress_data"]) == count
    else:
        with pytest.raises(ValidationError, match=f"at most {MAX_ITEMS}"):
            body(SyncBody, tree)


@pytest.mark.parametrize(
    ("count", "accepted"), [(0, False), (1, True), (MAX_ENVELOPE, True), (MAX_ENVELOPE + 1, False)]
)
def test_envelope_is_bounded(count: int, accepted: bool) -> None:
    tree = {"userId": USER, "session": "page", "heartbeats": [{}] * count}
    if accepted:
        assert len(body(Envelope, tree)["heartbeats"]) == count
    else:
        with pytest.raises(ValidationError, match=r"at (least|most)"):
            body(Envelope, tree)


def test_heartbeats_of_an_envelope_are_not_validated_with_it() -> None:
    """Each is validated by itself later, so that a bad one does not reject the others."""
    assert body(Envelope, {"userId": USER, "session": "page", "heartbeats": [None, 5, {}]})["heartbeats"] == [
        None,
        5,
        {},
    ]


@pytest.mark.parametrize("duration", [0, 1, 1.5, 172_800])
def test_duration_of_a_video_is_unknown_or_at_least_a_second(duration: float) -> None:
    assert body(VideoBody, {"title": "Intro", "duration": duration})["duration"] == duration


@pytest.mark.parametrize(
    ("title", "duration"),
    [
        ("Intro", 0.5),
        ("Intro", 0.001),
        ("Intro", -1),
        ("Intro", 172_801),
        ("Intro", float("nan")),
        ("Intro", None),
        ("", 60),
        (" \t\u3000", 60),
        ("x" * 301, 60),
        (None, 60),
    ],
)
def test_bad_catalogue_entry_is_refused(title: Any, duration: Any) -> None:
    with pytest.raises(ValidationError):
        body(VideoBody, {"title": title, "duration": duration})


def test_item_view_has_the_documented_fields_only() -> None:
    view = item_view(VIDEO, RECORD, NOW).model_dump(by_alias=True, mode="json")
    assert view == {"videoId": VIDEO, "watchedDuration": 7, "lastWatched": "2025-11-24T15:59:59.998Z"}


def test_record_view_is_in_seconds() -> None:
    view = record_view(VIDEO, RECORD, NOW, USER)
    assert (view.user_id, view.video_id, view.rev) == (USER, VIDEO, 3)
    assert (view.watched_duration, view.played_duration, view.duration) == (7, 7.5, 60)
    assert (view.position, view.resume) == (5.25, 5.25)
    assert (view.seen, view.again) == ([(0, 5), (9, 11)], [(1, 2)])
    assert (view.completed, view.completed_at, view.last_watched) == (True, NOW - 1, NOW - 2)
    assert view.deleted_at is None


def test_record_view_leaves_out_unknown_values() -> None:
    """The view has None for them, which is not written to the wire."""
    view = record_view(VIDEO, Record(rev=1, last_watched=NOW, claimed=5, position_ms=ABSENT), NOW)
    assert (view.position, view.duration, view.completed_at) == (None, None, None)
    assert (view.completed, view.resume) == (False, 5), "a player without a position resumes after what was watched"


def test_view_of_a_tombstone_has_the_deletion_only() -> None:
    view = record_view(VIDEO, Record(rev=4, deleted_at=NOW), NOW)
    assert view.model_dump(exclude_none=True) == {"video_id": VIDEO, "deleted_at": "2025-11-24T16:00:00.000Z", "rev": 4}


def test_no_view_shows_an_instant_after_now() -> None:
    """Only a wrong clock can have produced such an instant."""
    late = Record(last_watched=NOW + 60_000, completed_at=NOW + 60_000)
    assert item_view(VIDEO, late, NOW).last_watched == NOW
    assert (record_view(VIDEO, late, NOW).last_watched, record_view(VIDEO, late, NOW).completed_at) == (NOW, NOW)
    assert record_view(VIDEO, Record(deleted_at=NOW + 60_000), NOW).deleted_at == NOW
