"""Messages of the server are read as the models of protocol/, and anything else is a FrameError."""

from typing import Any

import pytest

from playhead.client.reading import read, read_message
from playhead.protocol.codecs import CODECS, Codec
from playhead.protocol.errors import FrameError
from playhead.protocol.messages import Ack, Message, Pong, Progress, RecordView, Rejection, Synced, Welcome
from playhead.protocol.rest import ProgressList

VIEW = RecordView(
    video_id="v",
    watched_duration=5,
    last_watched=1_764_000_000_000,
    completed_at=1_764_000_000_001,
    seen=[(0, 5), (7, 9)],
    again=[],
    rev=3,
)
MESSAGES = [
    Welcome(server_time=1_764_000_000_000, epoch="e", rev=3, heartbeat_interval=5, flush_interval=1, max_frame=16_384),
    Progress(records=[VIEW, RecordView(video_id="w", deleted_at=5, rev=4)], rev=4),
    Ack(session="s", seq=7, rejected=[Rejection(seq=6, code="invalid", detail="why")], capped=[5]),
    Synced(rev=3),
    Pong(),
]


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_what_the_server_writes_is_read_as_it_was(codec: Codec, message: Message) -> None:
    """Instants are text on the wire and ms in the models, intervals lists and tuples."""
    assert read_message(codec.decode(codec.encode(message))) == message


@pytest.mark.parametrize("tree", [None, 5, "pong", [], {}, {"type": "news"}, {"type": None}, {"type": ["pong"]}])
def test_a_message_of_a_newer_server_is_none(tree: Any) -> None:
    assert read_message(tree) is None


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "synced"},
        {"type": "synced", "rev": "3"},
        {"type": "progress", "rev": 3, "records": {}},
        {"type": "progress", "rev": 3, "records": [{"videoId": "v", "rev": 3, "lastWatched": "yesterday"}]},
        {"type": "progress", "rev": 3, "records": [{"videoId": "v", "rev": 3, "lastWatched": "1969-01-01T00:00:00Z"}]},
        {"type": "progress", "rev": 3, "records": [{"videoId": "v", "rev": 3, "seen": [5]}]},
        {"type": "progress", "rev": 3, "records": [{"videoId": "v", "rev": 3, "seen": [[1, 2, 3]]}]},
        {"type": "ack", "session": "s", "seq": 1, "rejected": [5]},
    ],
)
def test_a_message_with_a_bad_field_is_a_frame_error(tree: Any) -> None:
    with pytest.raises(FrameError, match="not a valid"):
        read_message(tree)


def test_answers_of_rest_are_read_the_same_way() -> None:
    tree = {"userId": "u", "progressData": [{"videoId": "v", "rev": 3, "seen": [[0, 5]], "lastWatched": "2025-11-24"}]}
    answer = read(ProgressList, {**tree, "new": {"seen": 5}})
    assert answer.progress_data == [RecordView(video_id="v", rev=3, seen=[(0, 5)], last_watched=1_763_942_400_000)]
    with pytest.raises(FrameError):
        read(ProgressList, [tree])
