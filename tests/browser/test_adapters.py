"""The SDK inside the players that people use, the real ones from npm, in a real Chromium.

Nothing of them is kept in the repository: `adapters/package.json` names exact versions, which npm fetches once.
"""

import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import ROOT, Server, until
from tests.browser.sdk_page import (
    EDGE_S,
    Ranges,
    SdkPage,
    assert_nothing_lost_or_doubled,
    assert_same_seconds,
    size,
    union,
)
from tests.missing import missing, program
from tests.ports import free_port

pytestmark = pytest.mark.browser

PAGES = Path(__file__).parent / "adapters"
CACHE = ROOT / ".cache" / "adapters"
FILM = ROOT / "examples" / "player" / "numbered.webm"
FRAGMENT_S = 4
PLAYERS = ["videojs", "hls", "mediachrome", "vidstack"]
INSTALL = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
INSTALL += ["--fetch-retries=1", "--loglevel=error"]
INSTALLED_WITHIN_S = 120
CUT_WITHIN_S = 60
SLOW_MS = 700


@pytest.fixture(scope="module")
def libraries() -> Path:
    """`node_modules` with the versions that are named; kept from run to run."""
    wanted, have = PAGES / "package.json", CACHE / "installed.json"
    if have.exists() and have.read_bytes() == wanted.read_bytes():
        return CACHE / "node_modules"
    npm = program("npm")
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.copy(wanted, CACHE / "package.json")
    try:
        subprocess.run(
            [npm, *INSTALL], cwd=CACHE, check=True, capture_output=True, text=True, timeout=INSTALLED_WITHIN_S
        )
    except subprocess.CalledProcessError as error:
        missing(f"npm could not install the players: {error.stderr}")
    except subprocess.TimeoutExpired:
        missing(f"npm had not installed the players within {INSTALLED_WITHIN_S} s")
    shutil.copy(wanted, have)
    return CACHE / "node_modules"


@pytest.fixture(scope="module")
def fragments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The film as HLS: the same frames, in fragments of 4 s."""
    ffmpeg = program("ffmpeg")
    folder = tmp_path_factory.mktemp("hls")
    cut = ["-c", "copy", "-f", "hls", "-hls_time", str(FRAGMENT_S), "-hls_playlist_type", "vod"]
    cut += ["-hls_segment_type", "fmp4", "film.m3u8"]
    subprocess.run([ffmpeg, "-loglevel", "error", "-i", FILM, *cut], cwd=folder, check=True, timeout=CUT_WITHIN_S)
    return folder


@pytest.fixture(scope="module")
def academy(libraries: Path, fragments: Path) -> Iterator[str]:
    """A site with a page for each player: its origin, not the server's."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            top, _, rest = path.partition("?")[0].strip("/").partition("/")
            folder = {"npm": libraries, "film": fragments}.get(top)
            return str(folder / rest if folder else PAGES / (top if "." in top else f"{top}.html"))

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()


@pytest.fixture(scope="module")
def playhead(academy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that admits the site's pages."""
    with pytest.MonkeyPatch.context() as env:
        env.setenv("PLAYHEAD_ALLOWED_ORIGINS", academy)
        env.setenv("PLAYHEAD_FLUSH_INTERVAL_S", "0.1")
        server = Server(tmp_path_factory.mktemp("adapters") / "data")
        server.start()
        yield server
        server.stop()


class PlayerPage(SdkPage):
    """A page with one of the players, which is driven as that player wants it."""

    def __init__(self, page: Page, site: str, player: str, server: Server, **options: Any) -> None:
        self.fetched: list[str] = []
        page.on("request", lambda request: self.fetched.extend(re.findall(r"/(\w+\.(?:m4s|mp4))$", request.url)))
        film = "/film/film.m3u8" if player == "hls" else f"{server.url}/{FILM.name}"
        user, video = options.pop("learner", None) or (str(uuid.uuid4()), str(uuid.uuid4()))
        super().__init__(page, f"{site}/{player}", server, user, video, **{"film": film} | options)

    def load_again(self) -> None:
        self.fetched.clear()
        self.sent.clear()
        self.page.reload()

    def play_until(self, second: float) -> None:
        """At twice the speed: the tests' time, not the adapters', is saved."""
        self.speed(2)
        self.do("video.paused && does.play()")
        self.wait(f"!video.paused && !video.seeking && video.currentTime >= {second}")

    def seek(self, second: float) -> float:
        left = self.position
        self.do(f"does.seek({second})")
        self.wait(f"!video.seeking && Math.abs(video.currentTime - {second}) < 0.5")
        return left

    def destroy(self) -> Ranges:
        """End the player in the middle of its play; what it had played by then."""
        ranges = "Array.from(video.played, (_, i) => [video.played.start(i), video.played.end(i)])"
        return [(a, b) for a, b in self.do(f"(() => {{ const played = {ranges}; does.destroy(); return played; }})()")]

    def heartbeats(self) -> list[str]:
        return [frame for frame in self.sent if '"heartbeat"' in frame]


Open = Callable[..., PlayerPage]


@pytest.fixture
def open_player(academy: str, playhead: Server, new_page: Callable[[], Page]) -> Open:
    """The page of a player, with a learner and a video of its own."""
    return lambda player, page=None, **options: PlayerPage(page or new_page(), academy, player, playhead, **options)


def watched_before(page: PlayerPage) -> Ranges:
    """The start of a film, a jump, the middle; stored. What was played."""
    page.settled(0)
    page.play_until(3.4)
    page.seek(40)
    page.play_until(43)
    page.pause()
    page.stored()
    return page.played


@pytest.mark.parametrize("player", PLAYERS)
def test_played_stored_resumed_destroyed(player: str, open_player: Open) -> None:
    """Stored is what the browser played; the next page goes on there; and it ends with its player, losing nothing."""
    page = open_player(player)
    played = watched_before(page)
    before = assert_nothing_lost_or_doubled(page)
    at = page.position
    assert before["position"] == pytest.approx(at, abs=0.1)

    page.load_again()
    page.settled(at)
    assert page.position == pytest.approx(at, abs=0.1)
    assert page.played == []
    page.stored()
    assert page.heartbeats() == [], "the player's own way to the place was taken for the learner's"
    assert page.record == before

    page.play_until(at + 3)
    real = union([*played, *page.destroy()])
    assert page.do("tracker.state") == "stopped"
    if not page.sockets[-1].is_closed():
        page.sockets[-1].wait_for_event("close")
    until(lambda: page.record["seen"][-1][1] >= real[-1][1] - EDGE_S, "the last seconds before the end")
    seen = page.record["seen"]
    assert len(seen) == len(real)
    for stored, edges in zip(seen, real, strict=True):
        assert stored == pytest.approx(edges, abs=EDGE_S), f"stored {seen}, really {real}"


def test_hls_fetches_nothing_before_the_place_and_nothing_twice(open_player: Open) -> None:
    """hls.js knows where it starts before its first fragment, however late that is known; for the next film too."""
    page = open_player("hls", slowMs=SLOW_MS)
    watched_before(page)
    at = page.position

    def fetched_from(first: int) -> None:
        page.wait("hls.mainForwardBufferInfo?.len >= hls.config.maxBufferLength")
        assert page.fetched[0] == "init.mp4"
        assert page.fetched[1:] == [f"film{first + i}.m4s" for i in range(len(page.fetched) - 1)]
        page.fetched.clear()

    page.load_again()
    page.settled(at)
    fetched_from(int(at) // FRAGMENT_S)

    page.do(f"(tracker.setVideo('{uuid.uuid4()}'), does.load(lesson.film))")
    page.wait("video.readyState >= 2 && video.currentTime === 0")
    fetched_from(0)

    page.do(f"(tracker.setVideo('{page.video}'), does.load(lesson.film))")
    page.settled(at)
    fetched_from(int(at) // FRAGMENT_S)


def test_hls_starts_where_no_server_answers(open_player: Open) -> None:
    """The film does not wait for us: after two seconds it starts from its beginning."""
    page = open_player("hls", endpoint=f"http://127.0.0.1:{free_port()}")
    page.wait("window.tracker && video.readyState >= 2")
    page.play_until(2)
    assert page.fetched[:2] == ["init.mp4", "film0.m4s"]
    assert page.do("tracker.pending") > 0


def test_vidstack_plays_by_itself_only_from_the_place(open_player: Open) -> None:
    """With autoplay not a frame of the beginning is played before the jump; Vidstack's own storage keeps the volume."""
    page = open_player("vidstack", autoPlay=True, slowMs=SLOW_MS)
    page.settled()
    page.play_until(1)
    page.seek(40)
    page.play_until(43)
    page.pause()
    page.do("player.volume = 0.25")
    page.stored()
    at = page.position

    page.load_again()
    page.settled()
    page.play_until(at + 1)
    [(start, _)] = page.played
    assert start == pytest.approx(at, abs=0.1)
    assert page.do("video.volume") == 0.25


def test_videojs_goes_on_after_a_reset(open_player: Open) -> None:
    """`reset()` gives the player another element; the tracker follows the player."""
    page = open_player("videojs")
    played = watched_before(page)
    at = page.position

    page.do("(window.former = video, player.reset(), player.src({ src: lesson.film, type: 'video/webm' }))")
    page.wait(f"video !== former && video.readyState >= 2 && Math.abs(video.currentTime - {at}) < 0.1")
    page.play_until(at + 3)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page, played)


# ---- Timelines of hls.js ----

LIVE = "/film/live.m3u8"
BROADCAST = datetime(2026, 3, 1, 18, tzinfo=UTC)


class Playlist:
    """A playlist of the film's fragments that changes while it is played: from `first` on, before `last`."""

    def __init__(self, page: Page, fragments: Path, kind: str = "", dated: bool = False) -> None:
        self._lengths = [
            float(length) for length in re.findall(r"#EXTINF:([\d.]+)", (fragments / "film.m3u8").read_text())
        ]
        self._kind, self._dated = kind, dated
        self.first, self.last, self.ended = 0, len(self._lengths), False
        page.route(
            f"**{LIVE}", lambda route: route.fulfill(body=self.text(), content_type="application/vnd.apple.mpegurl")
        )

    @property
    def whole(self) -> int:
        return len(self._lengths)

    def text(self) -> str:
        lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-TARGETDURATION:4", f"#EXT-X-MEDIA-SEQUENCE:{self.first}"]
        lines += [f"#EXT-X-PLAYLIST-TYPE:{self._kind}"] if self._kind else []
        lines += ['#EXT-X-MAP:URI="init.mp4"']
        for i in range(self.first, self.last):
            begins = BROADCAST + timedelta(seconds=sum(self._lengths[:i]))
            lines += [f"#EXT-X-PROGRAM-DATE-TIME:{begins.isoformat()}"] if self._dated else []
            lines += [f"#EXTINF:{self._lengths[i]},", f"film{i}.m4s"]
        return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if self.ended else []), ""])


def test_hls_a_playlist_that_grows(open_player: Open, new_page: Callable[[], Page], fragments: Path) -> None:
    """An EVENT of 8 s completes nothing at 8 s; it does at its end, once the playlist has ended at 90 s."""
    tab = new_page()
    playlist = Playlist(tab, fragments, "EVENT")
    playlist.last = 2
    page = open_player("hls", page=tab, film=LIVE)
    page.settled()
    page.play_until(7)
    page.do("void tracker.flush()")
    until(lambda: page.do("tracker.pending") == 0 and page.record.get("watchedDuration", 0) >= 6, "the first seconds")
    assert not page.record["completed"]
    assert all('"durationFinal":false' in frame for frame in page.heartbeats() if '"duration"' in frame)
    playlist.last, playlist.ended = playlist.whole, True
    page.wait("video.duration > 80")
    page.speed(8)
    page.wait("video.ended && heard.some(([event]) => event === 'completed')")
    page.stored()
    record = assert_nothing_lost_or_doubled(page)
    assert record["completed"]
    assert record["duration"] == pytest.approx(page.do("video.duration"), abs=EDGE_S)


def test_hls_a_window_that_slides_is_not_tracked(
    open_player: Open, new_page: Callable[[], Page], fragments: Path
) -> None:
    """Two visits would mix two timelines: nothing is stored, and the page hears why."""
    tab = new_page()
    playlist = Playlist(tab, fragments)
    playlist.first, playlist.last = 3, 9
    page = open_player("hls", page=tab, film=LIVE)
    page.wait("window.tracker && video.readyState >= 2")
    page.do("void video.play()")
    page.wait("video.played.length && video.played.end(0) - video.played.start(0) > 2")
    page.pause()
    page.do("void tracker.flush()")
    assert {error["code"] for error in page.heard("error")} == {"live"}
    assert page.do("tracker.pending") == 0
    assert page.record == {}


def test_hls_live_by_the_programme_date(open_player: Open, new_page: Callable[[], Page], fragments: Path) -> None:
    """A broadcast has the timeline of its later recording, where the learner goes on; it completes nothing."""
    tab = new_page()
    playlist = Playlist(tab, fragments, dated=True)
    playlist.first, playlist.last = 3, 12
    page = open_player("hls", page=tab, film=LIVE, live={"start": BROADCAST.isoformat()})
    page.wait("window.tracker && video.readyState >= 2 && !video.seeking")
    page.do("void video.play()")
    page.wait("video.played.length && video.played.end(0) - video.played.start(0) > 3")
    page.pause()
    page.stored()
    at = page.do(f"(hls.playingDate - {1000 * BROADCAST.timestamp()}) / 1000")
    assert at > 12
    record = page.record
    assert record["position"] == pytest.approx(at, abs=EDGE_S)
    assert record["seen"] == [[pytest.approx(at - size(page.played), abs=EDGE_S), pytest.approx(at, abs=EDGE_S)]]
    assert not record["completed"]
    assert page.heard("error") == []

    later = open_player("hls", page=tab, learner=(page.user, page.video))
    later.settled(at)
    later.play_until(at + 2)
    later.pause()
    later.stored()
    assert later.record["seen"] == [[record["seen"][0][0], pytest.approx(at + 2, abs=EDGE_S)]]


def test_hls_recovers_from_a_media_error(open_player: Open) -> None:
    """recoverMediaError() in mid-play empties the element: no second prompt, no place lost, no seek by them."""
    page = open_player("hls", resume="prompt")
    page.settled()
    page.play_until(3)
    page.seek(40)
    page.play_until(44)
    before = page.played
    asked = len(page.heard("resume"))
    page.sent.clear()
    page.do("(hls.recoverMediaError(), void video.play())")
    page.wait("!video.seeking && video.currentTime > 46")
    page.pause()
    page.stored()
    assert len(page.heard("resume")) == asked
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)
    assert_same_seconds(page.record["seen"], [*before, *page.played])
    assert not any('"seek":true' in frame for frame in page.sent)
