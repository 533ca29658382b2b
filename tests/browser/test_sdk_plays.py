"""The SDK in a real Chromium: what the browser says it has played is what the server has stored.

The page is of another origin than the server, as it is where a course embeds the player. The browser keeps its own
account, `video.played`, and the tests keep theirs of what was left when; neither is shown to the SDK.
"""

import json
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import until
from tests.browser.sdk_page import (
    DURATION_S,
    EDGE_S,
    Open,
    Place,
    Ranges,
    assert_nothing_lost_or_doubled,
    assert_same_seconds,
    opener,
    overlaps,
    serving_a_site,
    size,
    union,
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving_a_site(tmp_path_factory.mktemp("sdk")) as place:
        yield place


@pytest.fixture
def open_sdk(place: Place, new_page: Callable[[], Page]) -> Open:
    return opener(place, new_page)


def test_plain_watching(open_sdk: Open) -> None:
    """Opened, watched, paused: the seconds, the position, and nothing more."""
    page = open_sdk().settled()
    page.play_until(4.3)
    page.pause()
    page.stored()
    record = assert_nothing_lost_or_doubled(page)
    assert record["position"] == pytest.approx(page.position, abs=0.1)
    assert page.do("tracker.watched") == record["watchedDuration"]
    assert page.do("tracker.position") == pytest.approx(page.position, abs=0.1)


def test_twenty_random_seeks(open_sdk: Open) -> None:
    """Seeks anywhere while it plays, back and ahead: seen, seen again and played come out as they were."""
    dice = random.Random(7)
    page = open_sdk().settled()
    page.speed(2)
    page.play_until(1.5)
    account: Ranges = []
    begun = 0.0
    for _ in range(20):
        target = round(dice.uniform(0, DURATION_S - 5), 2)
        account.append((begun, page.seek(target)))
        begun = target
        page.wait(f"video.currentTime >= {target + dice.uniform(0.2, 1.2)}")
    page.pause()
    account.append((begun, page.position))
    page.stored()
    record = page.record
    assert union(account) == [pytest.approx(each, abs=0.3) for each in union(page.played)], "the test's own account"
    assert_same_seconds(record["seen"], union(account))
    assert_same_seconds(record["again"], overlaps(account))
    assert record["playedDuration"] == pytest.approx(size(account), abs=20 * 0.1)
    assert record["position"] == pytest.approx(page.position, abs=0.1)


def test_half_double_and_fourfold_speed(open_sdk: Open) -> None:
    """Media time counts, whatever the speed; it is changed while it plays."""
    page = open_sdk().settled()
    for rate, until_s in ((0.5, 1.3), (2, 5.5), (4, 14.2)):
        page.speed(rate)
        page.play_until(until_s)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page)
    assert not [ack for ack in page.heard("ack") if ack.get("capped")]


def test_a_loop(open_sdk: Open) -> None:
    """Over the end and on from the start, in one go: both stretches, and the second round is seen again."""
    page = open_sdk().settled()
    page.speed(4)
    page.do("video.loop = true")
    page.seek(84)
    page.do("void video.play()")
    page.wait("video.currentTime < 80")
    page.play_until(4)
    page.seek(84)
    page.wait("video.currentTime < 80")
    page.play_until(2)
    page.pause()
    page.stored()
    record = page.record
    assert_same_seconds(record["seen"], page.played)
    assert_same_seconds(record["again"], [(0, page.position), (84, DURATION_S)])
    assert record["playedDuration"] == pytest.approx(size(page.played) + 6 + page.position, abs=2 * EDGE_S)


def test_a_long_pause_says_nothing(open_sdk: Open) -> None:
    """While it pauses nothing is sent but pings, and the record stays as it is; then it goes on without a gap."""
    page = open_sdk(heartbeatMs=200).settled()
    page.play_until(2.2)
    page.pause()
    page.stored()
    before, sent = page.record, len(page.sent)

    def another_frame() -> bool:
        page.page.wait_for_timeout(50)
        return len(page.sent) > sent

    until(another_frame, "the ping")
    assert {frame for frame in page.sent[sent:]} == {'{"type":"ping"}'}
    assert page.record == before
    page.play_until(4.4)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page)


def test_to_the_end_it_is_complete(open_sdk: Open) -> None:
    """Watched to its end: `completed` is heard, and the next page starts again, the stored position as it was."""
    page = open_sdk().settled()
    page.speed(16)
    page.do("void video.play()")
    page.wait("video.ended && heard.some(([event]) => event === 'completed')")
    page.stored()
    record = assert_nothing_lost_or_doubled(page)
    assert record["completed"]
    again = open_sdk(page=page.page).settled(0)
    again.play_until(1)
    assert again.heard("resume") == []
    assert again.record["position"] == pytest.approx(DURATION_S, abs=EDGE_S)


def test_resume_by_prompt(open_sdk: Open) -> None:
    """Asked, nothing moves and nothing is stored; accepted, it jumps, and the jump is no seek of the learner's."""
    first = open_sdk().settled()
    first.speed(2)
    first.seek(40)
    first.play_until(43)
    first.pause()
    first.stored()
    before = first.record

    second = open_sdk(resume="prompt").settled(0)
    assert [each["position"] for each in second.heard("resume")] == [pytest.approx(43, abs=EDGE_S)]
    assert second.do("tracker.watched") == before["watchedDuration"]
    second.do("void video.play()")
    second.wait("video.currentTime > 1.2")
    second.do("heard.find(([event]) => event === 'resume')[1].accept()")
    second.wait("video.currentTime > 43 && !video.seeking")
    second.play_until(45)
    second.pause()
    second.stored()
    assert not any('"seek":true' in frame for frame in second.sent)
    assert first.record["position"] == pytest.approx(45, abs=EDGE_S)
    assert_same_seconds(first.record["seen"], union([*first.played, *second.played]))
    assert before["position"] == pytest.approx(43, abs=EDGE_S)


def test_off_it_does_not_resume(open_sdk: Open) -> None:
    """resume: off leaves the element alone; a start at 0:00 of under 10 s does not pull the position back."""
    first = open_sdk().settled()
    first.seek(40)
    first.play_until(41.5)
    first.pause()
    first.stored()
    second = open_sdk(resume="off").settled(0)
    second.play_until(2)
    second.pause()
    second.stored()
    assert second.heard("resume") == []
    assert second.record["position"] == pytest.approx(41.5, abs=EDGE_S)


def test_the_next_video_in_the_same_element(open_sdk: Open) -> None:
    """setVideo and another source: each video has its own seconds and its own resume."""
    page = open_sdk().settled()
    page.play_until(2.6)
    first_played = page.played
    other = str(uuid.uuid4())
    page.do(f"tracker.setVideo('{other}'); video.src = video.src + '?2'")
    page.wait("video.readyState >= 2")
    page.seek(50)
    page.play_until(52.5)
    page.pause()
    page.stored()
    second_played = page.played
    assert_same_seconds(page.record["seen"], first_played)
    assert size(page.record["seen"]) == pytest.approx(size(first_played), abs=EDGE_S)
    assert_same_seconds(page.server.progress(page.user, other)["seen"], second_played)
    page.do(f"video.src = video.src + '3'; tracker.setVideo('{page.video}')")
    page.settled(first_played[-1][1])


def test_two_tabs_of_one_browser(open_sdk: Open) -> None:
    """Both play, each its own part: nothing is lost, nothing is doubled, and each hears of the other."""
    one = open_sdk().settled()
    two = open_sdk(page=one.page.context.new_page()).settled()
    one.play_until(2.4)
    two.seek(60)
    two.play_until(62.6)
    one.play_until(5)
    for page in (one, two):
        page.pause()
        page.stored()
    assert_nothing_lost_or_doubled(one, two.played)
    assert one.heard("elsewhere")
    assert {json.loads(frame)["device"] for page in (one, two) for frame in page.sent if '"hello"' in frame} == {
        one.page.evaluate(DEVICE)
    }


def test_two_devices(open_sdk: Open) -> None:
    """What one plays the other hears of without asking; the one that only looks on says nothing."""
    watching, looking_on = open_sdk().settled(), open_sdk().settled()
    watching.seek(30)
    watching.play_until(33.3)
    watching.pause()
    watching.stored()
    looking_on.wait("heard.some(([event, detail]) => event === 'elsewhere' && detail.position > 33)")
    assert looking_on.do("tracker.watched") == watching.record["watchedDuration"]
    assert {json.loads(frame)["type"] for frame in looking_on.sent} <= {"hello", "ping"}
    assert not watching.heard("elsewhere")
    assert_nothing_lost_or_doubled(watching)


def test_complete_though_a_push_of_another_device_has_passed_over(tmp_path: Path, new_page: Callable[[], Page]) -> None:
    """Both are stored in one flush, whose push says "all up to here" before the ack: what was ours is asked for too."""
    with serving_a_site(tmp_path, flush_interval_s="1") as place:
        open_sdk = opener(place, new_page)
        tv = open_sdk(videoId=str(uuid.uuid4()), heartbeatMs=100).settled()
        tv.do("void video.play()")
        page = open_sdk(heartbeatMs=60_000).settled()
        page.speed(16)
        page.do("void video.play()")
        page.wait("video.ended")
        page.stored()
        assert page.record["completed"]
        page.wait("heard.some(([event]) => event === 'completed')")
        assert page.do("tracker.record.completed")


def test_what_a_device_did_is_heard_once(open_sdk: Open) -> None:
    """Not again when the line is back, after more was played here."""
    page, tv = open_sdk().settled(), open_sdk().settled()
    tv.seek(60)
    tv.stored()
    page.wait("heard.some(([event, detail]) => event === 'elsewhere' && detail.position === 60)")
    heard = [each["position"] for each in page.heard("elsewhere")]
    page.page.context.set_offline(True)
    page.wait("tracker.state === 'offline'")
    page.play_until(2)
    page.pause()
    page.page.context.set_offline(False)
    page.stored()
    assert [each["position"] for each in page.heard("elsewhere")] == heard
    assert page.do("tracker.record.position") == pytest.approx(page.position, abs=EDGE_S)


DEVICE = """() => new Promise((ok) => {
  const opening = indexedDB.open("playhead");
  opening.onsuccess = () => {
    const asked = opening.result.transaction("outbox").objectStore("outbox").get("device");
    asked.onsuccess = () => ok(asked.result);
  };
})"""
