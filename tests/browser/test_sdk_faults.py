"""The SDK on bad days, in a real Chromium: reloads, kills, dead networks, expired tokens, forbidden storage.

After each the record must be what the browser says it has played: nothing lost, nothing doubled.
"""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import until
from tests.browser.raw_chromium import Chromium
from tests.browser.sdk_page import (
    EDGE_S,
    SILENCE,
    Open,
    Place,
    SdkPage,
    assert_nothing_lost_or_doubled,
    assert_same_seconds,
    opener,
    serving_a_site,
    size,
)

pytestmark = pytest.mark.browser

SECRET = "a-secret-of-the-tests-and-of-nobody-else"
KILL_LOSES_S = 1.5
"""A killed tab says nothing more: what it had on disk is at most this old, of the film at normal speed."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving_a_site(tmp_path_factory.mktemp("sdk")) as place:
        yield place


@pytest.fixture
def open_sdk(place: Place, new_page: Callable[[], Page]) -> Open:
    return opener(place, new_page)


@pytest.mark.parametrize("mute", ["", "WebSocket.prototype.send = () => {}", "navigator.sendBeacon = () => true"])
def test_a_reload_in_the_middle(open_sdk: Open, mute: str) -> None:
    """Reloaded while it plays: socket or beacon bring the rest, or the next page; it goes on where it was."""
    page = open_sdk(heartbeatMs=60_000).settled()
    page.speed(2)
    page.play_until(3.6)
    page.do(mute)
    played = page.played
    page.page.reload()
    page.settled(played[-1][1])
    page.play_until(5.5)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page, played)
    assert page.heard("elsewhere") == [], "it is itself that was elsewhere"


def renderers(browser: Browser) -> list[int]:
    infos = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    return [info["id"] for info in infos if info["type"] == "renderer"]


def test_a_tab_that_is_killed(open_sdk: Open, browser: Browser) -> None:
    """kill -9 of the tab's process, which could not say a word: the next page of this browser tells what it kept."""
    page = open_sdk(heartbeatMs=500).settled()
    page.play_until(1.2)
    page.do("WebSocket.prototype.send = () => {}")
    page.speed(2)
    page.play_until(6)
    played = page.played
    for process in renderers(browser):
        os.kill(process, signal.SIGKILL)
    until(lambda: page.page.is_closed() or crashed(page.page), "the crash")
    assert page.record["seen"][-1][1] < 4, "the dead tab could not have told the rest"

    heir = open_sdk(page=page.page.context.new_page()).settled()
    heir.wait("tracker.pending === 0")
    seen = heir.record["seen"]
    assert len(seen) == 1
    assert played[-1][1] - 2 * KILL_LOSES_S <= seen[0][1] <= played[-1][1] + EDGE_S
    assert heir.record["playedDuration"] == pytest.approx(seen[0][1], abs=EDGE_S)
    assert heir.position == pytest.approx(seen[0][1], abs=EDGE_S)


def crashed(page: Page) -> bool:
    try:
        page.evaluate("1")
    except Exception:
        return True
    return False


def test_a_server_that_is_killed(place: Place, open_sdk: Open) -> None:
    """kill -9 while it plays, back after some seconds: the same page goes on as if nothing had been."""
    page = open_sdk(heartbeatMs=300).settled()
    page.speed(2)
    page.play_until(2)
    place.server.kill()
    page.play_until(4.5)
    page.seek(30)
    page.play_until(32)
    assert page.do("tracker.state") == "offline"
    place.server.start()
    page.play_until(34.2)
    page.pause()
    page.stored()
    assert page.do("tracker.state") == "online"
    assert_nothing_lost_or_doubled(page)


def test_half_a_minute_without_a_network(open_sdk: Open) -> None:
    """Thirty seconds offline, at normal speed, are one or two entries, told when the network is back."""
    page = open_sdk(heartbeatMs=500).settled()
    page.play_until(1.5)
    page.page.context.set_offline(True)
    page.play_until(16)
    page.play_until(31.5)
    assert page.do("tracker.state") in ("offline", "connecting")  # it tries now and then
    assert 1 <= page.do("tracker.pending") <= 20
    page.page.context.set_offline(False)
    page.play_until(34)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page)


def test_an_hour_offline_is_a_few_entries(open_sdk: Open) -> None:
    """Played, sought and played while no server answers: what waits grows together instead of growing long."""
    page = open_sdk(endpoint="http://127.0.0.1:9", heartbeatMs=20)
    page.wait("video.readyState >= 2")
    page.speed(8)
    page.play_until(20)
    for target in (40, 50, 60, 70):
        page.seek(target)
        page.play_until(target + 2)
    assert page.do("tracker.pending") <= 3
    page.wait("tracker.state === 'offline'")  # it tries now and then


def test_websockets_blocked(open_sdk: Open) -> None:
    """A network that lets no WebSocket through: by HTTP, resume and all; and back when they do get through."""
    page = open_sdk(transports=["ws"]).settled()
    page.speed(2)
    page.seek(20)
    page.play_until(22)
    page.pause()
    page.stored()
    played = page.played

    blocked = open_sdk(before=REDIRECTED).settled(22)
    assert blocked.do("tracker.state") == "fallback"
    blocked.speed(2)
    blocked.play_until(25)
    blocked.pause()
    blocked.stored()
    assert blocked.do("tracker.state") == "fallback"
    assert_nothing_lost_or_doubled(blocked, played)

    blocked.do("void (window.WebSocket = RealWebSocket)")
    blocked.wait("tracker.state === 'online'")
    blocked.play_until(27)
    blocked.pause()
    blocked.stored()
    assert_nothing_lost_or_doubled(blocked, played)


REDIRECTED = """
window.RealWebSocket = WebSocket;
window.WebSocket = class extends WebSocket { constructor(url, protocols) { super("ws://127.0.0.1:9", protocols); } };
"""


def test_http_only(open_sdk: Open) -> None:
    """transports: http. No WebSocket is tried."""
    page = open_sdk(transports=["http"]).settled()
    page.speed(2)
    page.play_until(3)
    page.seek(40)
    page.play_until(42)
    page.pause()
    page.stored()
    assert page.sockets == []
    assert_nothing_lost_or_doubled(page)


def test_storage_forbidden(open_sdk: Open) -> None:
    """IndexedDB and locks throw: it works as long as the page lives, and a beacon ends it."""
    page = open_sdk(before=FORBIDDEN).settled()
    page.speed(2)
    page.play_until(2)
    page.seek(30)
    page.play_until(32.4)
    played = page.played
    page.page.reload()
    page.settled()
    until(lambda: page.record["watchedDuration"] >= round(size(played)) - 1, "the beacon")
    page.page.reload()
    page.settled(32.4)
    page.play_until(34)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page, played)


FORBIDDEN = """
const forbid = (object, name) =>
  Object.defineProperty(object, name, { get() { throw new DOMException("forbidden", "SecurityError"); } });
for (const name of ["indexedDB", "localStorage", "sessionStorage"]) forbid(window, name);
LockManager.prototype.request = () => Promise.reject(new DOMException("forbidden", "SecurityError"));
"""


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path / "profile")
    chromium.start()
    yield chromium
    chromium.kill()


def test_a_hidden_tab(place: Place, open_sdk: Open, chromium: Chromium) -> None:
    """It plays on behind another tab, where timers are slow: all of it counts, and hiding tells all at once."""
    page = open_sdk(page=chromium.tab(), media=place.site + SILENCE, heartbeatMs=1_500).settled()
    page.play_until(1.2)
    assert page.record == {}
    chromium.tab()
    page.wait("document.hidden")
    until(lambda: page.record, "what was played before it was hidden")
    page.play_until(6)
    assert page.do("document.hidden")
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page)


def test_back_from_the_back_forward_cache(open_sdk: Open, chromium: Chromium) -> None:
    """Left, kept by the browser and come back to: a session of its own, on which nothing is lost or doubled."""
    page = open_sdk(page=chromium.tab(), heartbeatMs=60_000).settled()
    page.do("addEventListener('pageshow', ({ persisted }) => { window.restored = persisted; })")
    page.play_until(2.4)
    page.page.goto(f"{page.server.url}/livez")
    until(lambda: page.record.get("watchedDuration", 0) >= 2, "what was played before")
    page.do("history.back()")
    page.wait("window.restored")
    page.wait("tracker.state === 'online' && tracker.pending === 0")
    page.play_until(5)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page)


def test_a_browser_that_is_killed(open_sdk: Open, chromium: Chromium) -> None:
    """kill -9 of the whole browser: started again, it tells what the dead one had not."""
    page = open_sdk(page=chromium.tab(), heartbeatMs=60_000).settled()
    page.speed(2)
    page.play_until(5)
    played = page.played
    chromium.kill()
    assert page.record == {}, "nothing has been told"
    chromium.start()
    heir = open_sdk(page=chromium.tab()).settled()
    heir.wait("tracker.pending === 0")
    assert heir.record["seen"] == [[0, pytest.approx(played[-1][1], abs=2 * KILL_LOSES_S)]]
    assert heir.position == pytest.approx(heir.record["seen"][0][1], abs=EDGE_S)


# ---- Tokens ----


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The same, but who comes needs a token."""
    with serving_a_site(tmp_path_factory.mktemp("locked"), jwt_secret=SECRET) as place:
        yield place


def token(user: str, lasts_s: float) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + lasts_s}, SECRET)


class Issuer:
    """Who gives tokens to one page: so long each, and what the page said when it asked."""

    def __init__(self, page: Page, user: str, *lasts_s: float) -> None:
        self.asked: list[dict[str, Any]] = []
        self._user, self._lasts_s = user, lasts_s
        page.expose_function("issue", self._issue)

    def _issue(self, why: dict[str, Any]) -> str:
        self.asked.append(why)
        return token(self._user, self._lasts_s[min(len(self.asked), len(self._lasts_s)) - 1])


def record(place: Place, user: str, video: str) -> dict[str, Any]:
    url = f"{place.server.url}/progress/{user}/{video}?detail=full"
    answer: dict[str, Any] = httpx.get(url, headers={"Authorization": f"Bearer {token(user, 60)}"}).json()
    return answer


@pytest.mark.parametrize("transport", ["ws", "http"])
def test_tokens_that_expire(locked: Place, new_page: Callable[[], Page], transport: str) -> None:
    """Each lasts four seconds: the page gets a fresh one in time, or when it is told, and nobody notices."""
    user, video = str(uuid.uuid4()), str(uuid.uuid4())
    tab = new_page()
    issuer = Issuer(tab, user, 4 if transport == "ws" else -60, 4 if transport == "ws" else 60)
    page = SdkPage(tab, *locked, user, video, userId=None, transports=[transport]).settled()
    page.play_until(7 if transport == "ws" else 2)
    page.pause()
    page.stored()
    seen = record(locked, user, video)
    assert_same_seconds(seen["seen"], page.played)
    assert seen["playedDuration"] == pytest.approx(size(page.played), abs=EDGE_S)
    assert [why for why in issuer.asked if why["fresh"]]
    assert len(issuer.asked) <= 6
    assert page.heard("error") == []


@pytest.mark.parametrize("transport", ["ws", "http"])
def test_a_token_that_is_never_good(locked: Place, new_page: Callable[[], Page], transport: str) -> None:
    """Expired for long, and the next one too: asked once more, then it stops, and says so. Nothing played is lost."""
    user, video = str(uuid.uuid4()), str(uuid.uuid4())
    tab = new_page()
    issuer = Issuer(tab, user, -3600)
    page = SdkPage(tab, *locked, user, video, userId=None, transports=[transport])
    page.wait("window.tracker?.state === 'stopped'")
    page.speed(2)
    page.play_until(4)
    page.pause()
    assert len([error for error in page.heard("error") if error["fatal"]]) == 1
    assert [why["fresh"] for why in issuer.asked] == [False, True]
    assert page.do("tracker.flush().catch((error) => `${error}`)") == "Error: stopped"
    played = page.played

    good = tab.context.new_page()
    Issuer(good, user, 60)
    heir = SdkPage(good, *locked, user, video, userId=None).settled()
    tab.close()
    heir.page.reload()
    heir.settled()
    heir.wait("tracker.pending === 0")
    assert_same_seconds(record(locked, user, video)["seen"], played)


def test_a_page_that_is_refused_stops(locked: Place, new_page: Callable[[], Page]) -> None:
    """No token at all: 4500 is for good."""
    page = SdkPage(new_page(), *locked, str(uuid.uuid4()), str(uuid.uuid4()))
    page.wait("window.tracker?.state === 'stopped'")
    assert [error["code"] for error in page.heard("error") if error["fatal"]] == ["4500"]
    assert len(page.sockets) == 1


def test_it_comes_back_when_it_is_told_to(tmp_path: Path, new_page: Callable[[], Page]) -> None:
    """Sent away for too many frames: nothing, not even the network's return, brings it back before retryAfter."""
    with serving_a_site(tmp_path, frames_burst="6", frames_per_s="2") as place:
        page = opener(place, new_page)(heartbeatMs=10, before=WATCHED).settled()
        page.do("video.addEventListener('timeupdate', () => dispatchEvent(new Event('online')))")
        page.play_until(6)
        page.pause()
        page.stored()
        assert_nothing_lost_or_doubled(page)
        told, opened = page.do("goodbyes"), page.do("opened")
        assert told
        for at, retry_after in told:
            assert not [each for each in opened if at < each < at + 1000 * retry_after - 10], (told, opened)


WATCHED = """
window.goodbyes = [];
window.opened = [];
window.WebSocket = class extends WebSocket {
  constructor(...all) {
    super(...all);
    opened.push(Date.now());
    this.addEventListener("message", ({ data }) => {
      const { type, retryAfter } = JSON.parse(data);
      if (type === "goodbye") goodbyes.push([Date.now(), retryAfter]);
    });
  }
};
"""


# ---- The end ----


def test_destroy_leaves_nothing(open_sdk: Open) -> None:
    """No listener, no timer, no socket, no lock, no database; what was played is told."""
    page = open_sdk(before=COUNTED)
    page.settled()
    page.play_until(2.5)
    page.do("tracker.on('ack', () => {})")
    devtools = page.page.context.new_cdp_session(page.page)
    scripts: dict[str, str] = {}
    devtools.on("Debugger.scriptParsed", lambda event: scripts.update({event["scriptId"]: event["url"]}))
    devtools.send("Debugger.enable")

    def listeners(target: str) -> set[str]:
        handle = devtools.send("Runtime.evaluate", {"expression": target})["result"]["objectId"]
        found = devtools.send("DOMDebugger.getEventListeners", {"objectId": handle})["listeners"]
        return {each["type"] for each in found if scripts[each["scriptId"]].endswith("/client/playhead.js")}

    assert {"timeupdate", "seeking", "pagehide"} < listeners("video") | listeners("window")
    page.do("tracker.destroy(); tracker.destroy()")
    for target in ("video", "document", "window"):
        assert listeners(target) == set()
    assert page.do("timers.size") == 0
    page.wait("sockets.every(({ readyState }) => readyState === WebSocket.CLOSED)")
    assert page.do("sockets.length") == 1
    assert page.do("navigator.locks.query().then(({ held, pending }) => held.length + pending.length)") == 0
    assert page.do(DELETED) == "deleted"
    played = page.played
    until(lambda: size(page.record.get("seen", [])) >= 2, "what was played before")
    page.play_until(4)
    page.pause()
    assert_same_seconds(page.record["seen"], played)
    assert len(page.sockets) == 1


COUNTED = """
window.timers = new Set();
window.sockets = [];
const [set, clear] = [setTimeout, clearTimeout];
window.setTimeout = (fn, ms) => {
  const timer = set(() => { timers.delete(timer); fn(); }, ms);
  timers.add(timer);
  return timer;
};
window.clearTimeout = (timer) => { timers.delete(timer); clear(timer); };
window.WebSocket = class extends WebSocket { constructor(...all) { super(...all); sockets.push(this); } };
"""
DELETED = """new Promise((ok) => {
  const deleting = indexedDB.deleteDatabase("playhead");
  deleting.onsuccess = () => ok("deleted");
  deleting.onblocked = () => ok("still open");
})"""
