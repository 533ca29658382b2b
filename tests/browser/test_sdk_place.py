"""Where a page goes on: the newest of what this browser kept, what waits to be sent, and what the server knows.

Pages are opened and closed in several orders, with and without a line, and with wall clocks that jump in between.
"""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import until
from tests.browser.sdk_page import (
    EDGE_S,
    Open,
    Place,
    SdkPage,
    assert_same_seconds,
    opener,
    serving_a_site,
    watched_elsewhere,
)

pytestmark = pytest.mark.browser

NO_LINE = "http://127.0.0.1:9"
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving_a_site(tmp_path_factory.mktemp("sdk")) as place:
        yield place


@pytest.fixture
def open_sdk(place: Place, new_page: Callable[[], Page]) -> Open:
    return opener(place, new_page)


def skewed(ms: int) -> str:
    """The page's wall clock is wrong by so much."""
    return f"""
    const real = Date.now;
    Date.now = () => real() + {ms};
    window.Date = class extends Date {{ constructor(...all) {{ super(...(all.length ? all : [Date.now()])); }} }};
    """


def again(page: SdkPage, open_sdk: Open, **options: Any) -> SdkPage:
    """The next page of the same browser, after the last one was closed."""
    tab = page.page.context.new_page()
    page.page.close()
    return open_sdk(page=tab, **options)


def at(page: SdkPage, second: float) -> SdkPage:
    page.wait(f"window.video?.readyState >= 2 && !video.seeking && Math.abs(video.currentTime - {second}) < {EDGE_S}")
    return page


def watched_and_cut_off(open_sdk: Open) -> tuple[SdkPage, float]:
    """Online to 0:06, then offline to 0:24; where it was left."""
    page = open_sdk().settled()
    page.speed(4)
    page.play_until(6)
    page.stored()
    page.page.context.set_offline(True)
    page.wait("tracker.state === 'offline'")
    page.play_until(24)
    page.pause()
    left = page.position
    return page, left


def kept_here_and_watched_elsewhere(place: Place, open_sdk: Open) -> BrowserContext:
    """A browser without pages that keeps a record at 0:16, while another device went on to 0:50."""
    page = open_sdk().settled()
    page.speed(4)
    page.play_until(16)
    page.pause()
    page.stored()
    context = page.page.context
    page.page.close()
    watched_elsewhere(place, page.user, page.video, 50)
    return context


SKEWS = {"right": 0, "6 min ahead": 6 * MINUTE_MS, "an hour ahead": 60 * MINUTE_MS, "an hour behind": -60 * MINUTE_MS}


@pytest.mark.parametrize("clock", SKEWS)
def test_cut_off_closed_and_opened_again(open_sdk: Open, clock: str) -> None:
    """It goes on where it was left, not at what was stored; and that is what is stored in the end."""
    page, left = watched_and_cut_off(open_sdk)
    page.do("(WebSocket.prototype.send = () => {}, navigator.sendBeacon = () => true)")
    played = page.played
    context = page.page.context
    page.page.close()
    context.set_offline(False)
    # What the dead page's socket still held arrives now, or is lost with it; both are before the next page opens.
    until(lambda: "\nplayhead_connections 0.0\n" in httpx.get(f"{page.server.url}/metrics").text, "no open socket")
    heir = at(open_sdk(page=context.new_page(), before=skewed(SKEWS[clock])).settled(), left)
    heir.wait("tracker.pending === 0")
    assert heir.record["position"] == pytest.approx(left, abs=EDGE_S)
    assert_same_seconds(heir.record["seen"], played)
    heir.play_until(left + 2)
    heir.pause()
    heir.stored()
    assert heir.record["position"] == pytest.approx(heir.position, abs=EDGE_S)


@pytest.mark.parametrize("clock", SKEWS)
def test_without_a_line_it_goes_on_at_once(open_sdk: Open, clock: str) -> None:
    """Three pages: watched online, watched further without a line, opened without a line, then with one again."""
    page = open_sdk().settled()
    page.speed(4)
    page.play_until(20)
    page.pause()
    page.stored()
    first = page.played
    left = page.position

    second = at(again(page, open_sdk, endpoint=NO_LINE, before=skewed(SKEWS[clock])), left)
    second.speed(4)
    second.play_until(40)
    second.pause()
    played = [*first, *second.played]
    left = second.position

    third = at(again(second, open_sdk, endpoint=NO_LINE), left)
    assert [each["position"] for each in third.heard("resume")] == [pytest.approx(left, abs=EDGE_S)]

    last = at(again(third, open_sdk).settled(), left)
    last.wait("tracker.pending === 0")
    assert last.record["position"] == pytest.approx(left, abs=EDGE_S)
    assert_same_seconds(last.record["seen"], played)


def test_the_server_corrects_what_was_kept(place: Place, open_sdk: Open) -> None:
    """Another device went on to 0:50: this browser's 0:16 is corrected, as nothing was played yet."""
    context = kept_here_and_watched_elsewhere(place, open_sdk)
    slow = open_sdk(page=context.new_page(), before="window.issue = () => new Promise((ok) => setTimeout(ok, 8000))")
    at(slow, 16)
    at(slow, 50)
    slow.play_until(52)
    slow.pause()
    slow.stored()
    assert slow.record["position"] == pytest.approx(52, abs=EDGE_S)
    assert not any('"seek":true' in frame for frame in slow.sent)


def test_the_server_is_not_followed_once_something_was_played(place: Place, open_sdk: Open) -> None:
    """The answer comes late: the learner has gone on from what was kept, and is not moved.

    Ten seconds of playing settle the place for the server.
    """
    context = kept_here_and_watched_elsewhere(place, open_sdk)
    slow = open_sdk(page=context.new_page(), before="window.issue = () => new Promise((ok) => setTimeout(ok, 8000))")
    at(slow, 16)
    slow.play_until(18)
    slow.settled()
    slow.speed(4)
    slow.play_until(30)
    slow.pause()
    slow.stored()
    assert slow.position < 40
    assert slow.record["position"] == pytest.approx(slow.position, abs=EDGE_S)


def test_metadata_that_is_later_than_the_answer(place: Place, open_sdk: Open) -> None:
    """The server says 0:50, this browser has 0:16, and the film is slow: it begins at 0:50."""
    context = kept_here_and_watched_elsewhere(place, open_sdk)
    tab = context.new_page()
    tab.add_init_script(
        "const source = Object.getOwnPropertyDescriptor(HTMLMediaElement.prototype, 'src');"
        "Object.defineProperty(HTMLMediaElement.prototype, 'src', { ...source, set(url) {"
        " setTimeout(() => source.set.call(this, url), 2000); } });"
    )
    slow = open_sdk(page=tab)
    slow.wait("window.heard?.some(([event]) => event === 'synced')")
    assert slow.do("video.readyState") == 0
    at(slow, 50)
    slow.play_until(51.5)
    slow.pause()
    slow.stored()
    assert slow.record["position"] == pytest.approx(slow.position, abs=EDGE_S)


def test_a_second_tab_without_a_line(open_sdk: Open) -> None:
    """The outbox of a tab that lives belongs to that tab; where it was is known all the same."""
    page, left = watched_and_cut_off(open_sdk)
    page.page.context.set_offline(False)
    second = at(open_sdk(page=page.page.context.new_page(), endpoint=NO_LINE), left)
    assert second.do("tracker.pending") == 0


def test_kept_by_learner(open_sdk: Open) -> None:
    """Another learner of the same browser does not go on there."""
    page = open_sdk().settled()
    page.speed(4)
    page.play_until(16)
    page.pause()
    page.stored()
    stranger = again(page, open_sdk, endpoint=NO_LINE, userId=str(uuid.uuid4()))
    stranger.wait("tracker.state === 'offline'")
    assert stranger.position == 0


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_forget(open_sdk: Open, offline: bool) -> None:
    """At a logout nothing of the learner stays in this browser: no record, no outbox. Offline, from its own file."""
    page, _ = watched_and_cut_off(open_sdk)
    page.page.context.set_offline(False)
    if offline:
        page.do("import(server + '/client/forget.js').then((more) => void Object.assign(window, more))")
        page.page.context.set_offline(True)
    page.do(f"(tracker.destroy(), forget('{page.user}'.toUpperCase()).then(() => void (window.forgotten = true)))")
    page.wait("window.forgotten")
    assert page.do(ROWS) == ["device"]
    page.page.context.set_offline(False)
    next_one = again(page, open_sdk, endpoint=NO_LINE)
    next_one.wait("tracker.state === 'offline'")
    assert next_one.position == 0


ROWS = """new Promise((ok) => {
  indexedDB.open("playhead").onsuccess = ({ target: { result: db } }) => {
    db.transaction("outbox").objectStore("outbox").getAllKeys().onsuccess = ({ target: { result } }) => {
      db.close();
      ok(result.map(String));
    };
  };
})"""


@pytest.mark.parametrize("start", [0, 10, 70])
def test_a_start_of_the_page_wins(place: Place, open_sdk: Open, start: int) -> None:
    """`start`, 0 too, instead of the resume, without a prompt; the place moves once it is played there."""
    page = open_sdk()
    watched_elsewhere(place, page.user, page.video, 40)
    page = open_sdk(page=page.page, start=start).settled()
    at(page, start)
    assert page.heard("resume") == []
    assert page.record["position"] == 40
    page.play_until(start + 2)
    page.seek(start + 14)
    page.play_until(start + 15)
    page.pause()
    page.stored()
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)
