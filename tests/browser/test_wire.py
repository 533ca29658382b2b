"""The page without the SDK, end to end: the server has stored what Chromium says it has played.

The browser keeps its own account of what it played, `video.played`, which the server never receives. These tests use
the player as a learner would, and then compare the server's record with that account.
"""

import json
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocket

from tests.browser.conftest import Server, until

pytestmark = pytest.mark.browser

EDGE_S = 1  # the server keeps whole seconds, so each edge may differ from that of the browser by this much
JOIN_S = 0.05  # between two ranges of one playback that a reload has cut
DURATION_S = 90

Ranges = list[tuple[float, float]]


class Player:
    """The page in one tab, and what a learner does with it."""

    def __init__(self, page: Page, server: Server, user: str, video: str) -> None:
        self.page, self._server, self._user, self._video = page, server, user, video
        self.sent: list[str] = []
        self.socket: WebSocket
        page.on("websocket", self._listen)
        page.goto(f"{server.url}/wire.html?user={user}&video={video}")
        self.wait_until_ready()

    def _listen(self, socket: WebSocket) -> None:
        self.socket = socket
        socket.on("framesent", lambda frame: self.sent.append(str(frame)))

    def reload(self) -> None:
        self.page.reload()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the page is connected, the film is loaded, and the automatic resume, if any, is done."""
        self.page.wait_for_function(
            """() => {
                const video = document.querySelector("video");
                const resume = window.playhead?.record?.resume ?? 0;
                return document.querySelector("#log").textContent.includes("synced")
                    && video.readyState >= 2 && !video.seeking && Math.abs(video.currentTime - resume) < 0.5;
            }"""
        )

    def play_until(self, second: float) -> None:
        """Play, without seeking, until this second."""
        self.page.evaluate("document.querySelector('video').play()")
        self.page.wait_for_function(
            """second => {
                const video = document.querySelector("video");
                return !video.seeking && video.currentTime >= second;
            }""",
            arg=second,
        )

    def seek(self, second: float) -> None:
        """Seek. A pending `timeupdate` may arrive before `seeking`: here one always does."""
        self.page.evaluate(
            """second => {
                const video = document.querySelector("video");
                video.currentTime = second;
                video.dispatchEvent(new Event("timeupdate"));
            }""",
            second,
        )
        self.page.wait_for_function("() => !document.querySelector('video').seeking")

    def speed(self, rate: float) -> None:
        self.page.evaluate("rate => { document.querySelector('video').playbackRate = rate }", rate)

    def pause(self) -> None:
        """Pause, and wait until the server has acknowledged everything."""
        self.page.evaluate("document.querySelector('video').pause()")
        self.wait_for_acks()

    def wait_for_acks(self) -> None:
        self.page.wait_for_function("() => window.playhead.pending.length === 0")

    @property
    def position(self) -> float:
        position: float = self.page.evaluate("document.querySelector('video').currentTime")
        return position

    @property
    def played(self) -> Ranges:
        """What the browser says it has played since this page was loaded."""
        script = """() => {
            const { played } = document.querySelector("video");
            return Array.from({ length: played.length }, (_, i) => [played.start(i), played.end(i)]);
        }"""
        return [(start, end) for start, end in self.page.evaluate(script)]

    @property
    def stored(self) -> dict[str, Any]:
        return self._server.progress(self._user, self._video)

    def sent_of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in map(json.loads, self.sent) if message["type"] == kind]


@pytest.fixture
def open_player(server: Server, new_page: Callable[[], Page]) -> Callable[[], Player]:
    """Each call opens a player of the same learner and the same video, on a device of its own."""
    user, video = str(uuid.uuid4()), str(uuid.uuid4())
    return lambda: Player(new_page(), server, user, video)


def union(ranges: Ranges) -> Ranges:
    joined: Ranges = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1] + JOIN_S:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def assert_same_seconds(seen: list[list[int]], played: Ranges) -> None:
    """Check that there are as many ranges as the browser played, each edge within a second of the browser's."""
    expected = union(played)
    assert len(seen) == len(expected), f"stored {seen}, played {expected}"
    for stored, real in zip(seen, expected, strict=True):
        assert stored == pytest.approx(real, abs=EDGE_S), f"stored {seen}, played {expected}"


def test_the_stored_seconds_are_those_the_browser_played(open_player: Callable[[], Player]) -> None:
    """Play, seek forwards and backwards, double the speed, pause, reload, continue: the same seconds are stored."""
    player = open_player()
    player.play_until(3.4)
    player.seek(30)
    player.play_until(33)
    player.speed(2)
    player.play_until(37)
    player.seek(60)
    player.play_until(64)
    player.speed(1)
    player.seek(20)
    player.play_until(22.3)
    player.pause()
    played = player.played
    left_at = player.position
    assert_same_seconds(player.stored["seen"], played)

    player.reload()
    assert player.position == pytest.approx(left_at, abs=0.1)
    player.play_until(24.6)
    player.pause()

    stored = player.stored
    played += player.played
    assert_same_seconds(stored["seen"], played)
    assert stored["position"] == pytest.approx(player.position, abs=0.1)
    assert stored["playedDuration"] == pytest.approx(sum(end - start for start, end in played), abs=1)


@pytest.mark.parametrize("socket_is_silent", [False, True], ids=["by socket", "by beacon"])
def test_a_reload_in_the_middle_of_playing_loses_nothing(
    open_player: Callable[[], Player], socket_is_silent: bool
) -> None:
    """What was played since the last heartbeat is sent when the page closes, without the WebSocket if necessary."""
    player = open_player()
    player.play_until(3.6)
    played = player.played
    if socket_is_silent:
        player.page.evaluate("WebSocket.prototype.send = () => {}")
    player.page.reload()
    last = math.floor(played[0][1])
    until(lambda: player.stored.get("watchedDuration", 0) >= last, "the last seconds of the old page")

    player.reload()
    assert player.position == pytest.approx(played[0][1], abs=EDGE_S)
    assert_same_seconds(player.stored["seen"], played)


def test_seconds_watched_twice_are_seen_and_seen_again(open_player: Callable[[], Player]) -> None:
    """Seconds played twice, which `video.played` does not show, are recorded, and end where the seek began."""
    player = open_player()
    player.play_until(6)
    player.seek(2)
    player.play_until(4)
    player.seek(40)
    player.play_until(42)
    player.pause()

    stored = player.stored
    assert_same_seconds(stored["seen"], player.played)
    assert_same_seconds(stored["again"], [(2, 4)])
    assert stored["playedDuration"] == pytest.approx(stored["watchedDuration"] + 2, abs=1)


def test_a_second_device_sees_the_change_without_asking(open_player: Callable[[], Player]) -> None:
    """A passive device receives the change, and has sent nothing but hello and ping."""
    watching, looking_on = open_player(), open_player()
    watching.play_until(2.6)
    watching.seek(42)
    watching.play_until(44)
    watching.pause()

    looking_on.page.wait_for_function("() => window.playhead.record?.position >= 44")
    looking_on.page.get_by_text("Another device is at 0:44").wait_for()
    assert looking_on.page.evaluate("window.playhead.record.seen") == watching.stored["seen"]
    assert {json.loads(frame)["type"] for frame in looking_on.sent} <= {"hello", "ping"}

    looking_on.page.get_by_role("button", name="Go there").click()
    looking_on.page.wait_for_function("() => document.querySelector('video').currentTime >= 44")
    looking_on.page.get_by_text("Another device").wait_for(state="hidden")


def test_a_page_receives_the_record_that_its_own_report_made(server: Server, new_page: Callable[[], Page]) -> None:
    """Also where it shares a flush with a report of another device, whose push covers all revisions before the ack."""
    user, video, other = (str(uuid.uuid4()) for _ in range(3))
    tv = Player(new_page(), server, user, other)
    tv.play_until(0.5)
    tv.page.evaluate("setInterval(() => document.querySelector('video').dispatchEvent(new Event('pause')), 100)")
    page = Player(new_page(), server, user, video)
    page.play_until(2.6)
    page.pause()
    assert page.stored["seen"]
    page.page.wait_for_function(
        "seen => JSON.stringify(window.playhead.record?.seen) === seen",
        arg=json.dumps(page.stored["seen"], separators=(",", ":")),
    )


def test_dragging_to_the_end_is_not_watching(open_player: Callable[[], Player]) -> None:
    """After dragging over the whole film to its end, nothing in between is seen and nothing is complete."""
    player = open_player()
    player.play_until(2)
    for tenth in range(2, 10):
        player.seek(DURATION_S * tenth / 10)
    player.seek(DURATION_S - 1.6)
    player.page.wait_for_function("() => document.querySelector('video').ended")
    player.wait_for_acks()

    stored = player.stored
    assert not stored["completed"]
    assert stored["watchedDuration"] <= 2 + 2 + 2 * EDGE_S
    assert not [(a, b) for a, b in stored["seen"] if b > 2 + EDGE_S and a < DURATION_S - 2 - EDGE_S]
    assert stored["resume"] == 0, "at the end of the film, playback starts over"


def test_opening_the_page_changes_nothing(open_player: Callable[[], Player]) -> None:
    """The automatic resume is not a seek: a device that only opens the page sends no heartbeat."""
    first = open_player()
    first.play_until(3)
    first.seek(50)
    first.play_until(52)
    first.pause()
    before = first.stored

    second = open_player()
    assert second.position == pytest.approx(before["position"], abs=0.1)
    second.socket.wait_for_event("framesent", lambda frame: '"ping"' in str(frame))
    assert not second.sent_of_type("heartbeat")
    assert second.stored == before

    second.play_until(before["position"] + 1)
    second.pause()
    assert {heartbeat["seek"] for heartbeat in second.sent_of_type("heartbeat")} == {False}


def test_a_killed_server_loses_nothing(server: Server, open_player: Callable[[], Player]) -> None:
    """Heartbeats that were not acked before the kill wait in the page, and are stored when the server is back."""
    player = open_player()
    player.play_until(2)
    player.seek(20)
    player.page.wait_for_function("() => window.playhead.pending.some((heartbeat) => heartbeat.sent)")
    server.kill()
    player.page.wait_for_function("() => window.playhead.state !== 'online'")
    player.play_until(23)
    player.seek(50)
    player.play_until(52)
    player.page.evaluate("document.querySelector('video').pause()")
    player.page.wait_for_function("() => window.playhead.pending.length > 0")

    server.start()
    player.wait_for_acks()
    assert_same_seconds(player.stored["seen"], player.played)
    numbers = {heartbeat["seq"] for heartbeat in player.sent_of_type("heartbeat")}
    assert numbers == set(range(1, len(numbers) + 1)), "a seq was skipped"


def test_the_page_shows_the_stored_record(open_player: Callable[[], Player], tmp_path: Path) -> None:
    """The texts and the bar match the record; a screenshot is kept with the other files of the test."""
    player = open_player()
    page = player.page
    page.get_by_role("status").filter(has_text="Live").wait_for()
    player.play_until(3)
    player.seek(45)
    player.play_until(48)
    player.pause()

    stored = player.stored
    page.wait_for_function("rev => window.playhead.record?.rev >= rev", arg=stored["rev"])
    assert page.locator("#watched").inner_text() == f"{stored['watchedDuration']} of {DURATION_S} s"
    assert page.locator("#resume").inner_text() == "0:48"
    assert page.locator("#waiting").inner_text() == "0 heartbeats"
    assert page.get_by_role("img", name="0:45 to 0:48").is_visible()

    bar = page.locator("#bar").bounding_box()
    drawn = [segment.bounding_box() for segment in page.locator("#bar .seen").all()]
    assert bar is not None
    for box, (start, end) in zip(drawn, stored["seen"], strict=True):
        assert box is not None
        assert box["x"] - bar["x"] == pytest.approx(bar["width"] * start / DURATION_S, abs=1)
        assert box["width"] == pytest.approx(bar["width"] * (end - start) / DURATION_S, abs=1)

    picture = tmp_path / "player.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 10_000, f"an empty screenshot: {picture}"
