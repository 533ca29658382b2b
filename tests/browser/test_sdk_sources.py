"""What an element does while its tracker stays: other sources, the same one again, another element, a busy page."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page

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
    union,
    watched_elsewhere,
)

pytestmark = pytest.mark.browser

LEFT_S = 58
OTHERS_PLACE_S = 20
LAST_LOOK_S = 0.6
"""Of the first source the tracker knows what it was at the last `timeupdate`."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving_a_site(tmp_path_factory.mktemp("sdk")) as place:
        yield place


@pytest.fixture
def open_sdk(place: Place, new_page: Callable[[], Page]) -> Open:
    return opener(place, new_page)


# ---- Another video in the same element ----

SET = "tracker.setVideo(other)"
SOURCE = "video.src = server + '/numbered.webm?2'"
MOMENTS = {
    "before the source": f"({SET}, {SOURCE})",
    "after the source": f"({SOURCE}, {SET})",
    "a second before": f"({SET}, setTimeout(() => ({SOURCE}, void video.play()), 1000))",
    "once played": f"({SOURCE}, video.addEventListener('timeupdate', function on() {{"
    f" if (video.currentTime > 1) {{ video.removeEventListener('timeupdate', on); {SET} }} }}))",
} | {
    f"in {event}": f"({SOURCE}, video.addEventListener('{event}', () => {SET}, {{ once: true }}))"
    for event in ("emptied", "loadstart", "durationchange", "loadedmetadata", "loadeddata", "canplay", "canplaythrough")
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("playing", [True, False], ids=["playing", "paused"])
def test_the_next_video_whenever_it_is_named(place: Place, open_sdk: Open, moment: str, playing: bool) -> None:
    """The first, left at 0:58, is stored there; the second has its own seconds only, and resumes at its own place."""
    page = open_sdk().settled()
    other = str(uuid.uuid4())
    watched_elsewhere(place, page.user, other, OTHERS_PLACE_S)
    page.page.reload()
    page.settled()
    page.seek(LEFT_S - 1.5)
    page.play_until(LEFT_S)
    if not playing:
        page.pause()
    page.do(f"(window.left = video.currentTime, window.other = '{other}')")
    page.do(MOMENTS[moment] + ", void video.play()")
    page.wait(f"video.currentSrc.endsWith('?2') && !video.seeking && video.currentTime > {OTHERS_PLACE_S + 2}")
    page.pause()
    page.stored()
    left, first = page.do("left"), page.record
    assert first["position"] == pytest.approx(left, abs=LAST_LOOK_S)
    assert_same_seconds(first["seen"], [(LEFT_S - 1.5, left)])
    second = page.server.progress(page.user, other)
    assert second["position"] == pytest.approx(page.position, abs=EDGE_S)
    assert_same_seconds(second["seen"], union([(0, OTHERS_PLACE_S), *page.played]))


def test_three_videos_in_a_hurry(place: Place, open_sdk: Open) -> None:
    """Two switches within the seconds in which a source could still be named: each video keeps its own."""
    page = open_sdk().settled()
    second, third = str(uuid.uuid4()), str(uuid.uuid4())
    page.play_until(2)
    for number, video in ((2, second), (3, third)):
        page.do(f"(tracker.setVideo('{video}'), video.src = server + '/numbered.webm?{number}')")
        page.play_until(2)
    page.pause()
    page.stored()
    for video in (page.video, second, third):
        record = page.server.progress(page.user, video)
        assert record["seen"] == [[0, pytest.approx(2, abs=EDGE_S)]]
        assert record["playedDuration"] == pytest.approx(2, abs=EDGE_S)


def test_nothing_is_tracked_while_no_video_is_named(open_sdk: Open) -> None:
    """`setVideo(null)` for an advertisement; afterwards the lesson goes on where it was."""
    page = open_sdk().settled()
    page.play_until(5)
    played = page.played
    page.do(f"(tracker.setVideo(null), {SOURCE})")
    page.play_until(2)
    page.do(f"(video.src = server + '/numbered.webm', tracker.setVideo('{page.video}'))")
    page.wait("video.readyState >= 2 && !video.seeking && video.currentTime > 4")
    page.play_until(7)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page, played)


def test_the_first_source_after_the_next_video_was_named(place: Place, open_sdk: Open) -> None:
    """An element without a source is not emptied when it gets one; the resume does not wait for that."""
    page = open_sdk(media="data:,")
    other = str(uuid.uuid4())
    watched_elsewhere(place, page.user, other, OTHERS_PLACE_S)
    page.wait("window.tracker")
    page.do(f"""(tracker.destroy(), document.querySelector('video').remove(), document.body.innerHTML = '<video muted>',
        window.video = document.querySelector('video'), window.tracker = attach(video, options),
        tracker.setVideo('{other}'), {SOURCE}, void video.play())""")
    page.wait(f"video.currentTime > {OTHERS_PLACE_S}")
    [(start, _)] = page.played[-1:]
    assert start == pytest.approx(OTHERS_PLACE_S, abs=EDGE_S)


# ---- Another duration, another timeline ----


def test_an_advertisement_in_the_same_element(place: Place, open_sdk: Open) -> None:
    """Of 8 s, and nobody says so: it counts as nothing of the lesson, which then goes on where it was."""
    page = open_sdk().settled()
    page.seek(40)
    page.play_until(45)
    before = page.played
    page.do(f"(video.src = '{place.site}{SILENCE}?seconds=8', video.playbackRate = 4, void video.play())")
    page.wait("video.ended")
    page.do("(video.src = server + '/numbered.webm', void video.play())")
    page.wait("!video.seeking && video.currentTime > 47")
    page.pause()
    page.stored()
    assert_same_seconds(page.record["seen"], [*before, *page.played])
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)
    assert [error["code"] for error in page.heard("error")] == ["duration"]


def test_a_shorter_rendition(place: Place, open_sdk: Open) -> None:
    """Of 80 s, where the server knows 90: what is played of it is stored."""
    page = open_sdk(media=f"{place.site}{SILENCE}?seconds=80", resume="off")
    watched_elsewhere(place, page.user, page.video, 40, since=30)
    page.page.reload()
    page.settled()
    page.play_until(4)
    page.pause()
    page.stored()
    assert_same_seconds(page.record["seen"], [*page.played, (30, 40)])
    assert page.heard("error") == []


def test_a_timeline_of_unix_time(open_sdk: Open) -> None:
    """It starts at 1.7e9: nothing that the server would refuse is sent, and the page hears that it is not tracked."""
    page = open_sdk().settled()
    page.do("""(async () => {
        const media = new MediaSource();
        tracker.setVideo(crypto.randomUUID());
        video.src = URL.createObjectURL(media);
        await new Promise((ok) => media.addEventListener('sourceopen', ok, { once: true }));
        const film = await (await fetch(server + '/numbered.webm')).arrayBuffer();
        const type = ['vp9', 'vp8', 'av01.0.00M.08'].map((codec) => `video/webm; codecs="${codec}"`);
        for (const each of type) {
            const buffer = media.addSourceBuffer(each);
            buffer.timestampOffset = 1.7e9;
            buffer.appendBuffer(film);
            const good = await new Promise((ok) => {
                buffer.onupdateend = () => ok(buffer.buffered.length > 0);
                buffer.onerror = () => ok(false);
            });
            if (good) break;
            media.removeSourceBuffer(buffer);
        }
        video.currentTime = 1.7e9 + 1;
        void video.play();
    })()""")
    page.wait("video.currentTime > 1.7e9 + 2")
    page.pause()
    page.do("void tracker.flush()")
    assert [error["code"] for error in page.heard("error")] == ["live"]
    assert page.do("tracker.pending") == 0


# ---- The same video, from another source ----

SWITCHES = {
    "the page goes back": """(() => { const { currentTime } = video; video.src = server + '/numbered.webm?720p';
        video.addEventListener('loadedmetadata', () => (video.currentTime = currentTime), { once: true });
        void video.play(); })()""",
    "the page goes back late": """(() => { const { currentTime } = video; video.src = server + '/numbered.webm?720p';
        video.addEventListener('canplay', () => (video.currentTime = currentTime - 1), { once: true });
        void video.play(); })()""",
    "nobody goes back": "(video.src = server + '/numbered.webm?720p', void video.play())",
    "the source is loaded again": "(video.load(), void video.play())",
}


@pytest.mark.parametrize("how", ["auto", "prompt"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_another_quality_goes_on_where_it_was(place: Place, open_sdk: Open, how: str, switch: str) -> None:
    """No second prompt, no place lost, no seek of the learner's."""
    page = open_sdk(resume=how).settled()
    page.seek(50)
    page.play_until(54.5)
    asked = len(page.heard("resume"))
    before = page.played
    page.sent.clear()
    page.do(SWITCHES[switch])
    page.wait("video.currentTime > 56 && !video.seeking")
    page.play_until(58)
    page.pause()
    page.stored()
    assert len(page.heard("resume")) == asked
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)
    assert_same_seconds(page.record["seen"], [*before, *page.played])
    assert not any('"seek":true' in frame for frame in page.sent)


def test_another_quality_before_the_prompt_is_answered(place: Place, open_sdk: Open) -> None:
    """The question stays open, and is not asked again."""
    page = open_sdk()
    watched_elsewhere(place, page.user, page.video, 40)
    page = open_sdk(page=page.page, resume="prompt").settled()
    page.wait("heard.some(([event]) => event === 'resume')")
    page.do("(video.src = server + '/numbered.webm?720p')")
    page.wait("video.currentSrc.endsWith('720p') && video.readyState >= 2")
    assert len(page.heard("resume")) == 1
    page.do("heard.find(([event]) => event === 'resume')[1].accept()")
    page.wait("Math.abs(video.currentTime - 40) < 0.5")


def test_a_prompt_that_playing_has_settled(place: Place, open_sdk: Open) -> None:
    """Three seconds of playing settle it: the page is told, and a late "yes" does nothing."""
    page = open_sdk()
    watched_elsewhere(place, page.user, page.video, 40)
    page = open_sdk(page=page.page, resume="prompt").settled()
    page.wait("heard.some(([event]) => event === 'resume')")
    assert page.heard("settled") == []
    page.play_until(3.5)
    page.wait("heard.some(([event]) => event === 'settled')")
    page.do("heard.find(([event]) => event === 'resume')[1].accept()")
    page.play_until(5)
    assert page.position < 10
    assert len(page.heard("settled")) == 1


# ---- One element, one tracker ----


@pytest.mark.parametrize("copy", ["", "?another copy of the script"])
def test_a_second_tracker_on_an_element(open_sdk: Open, copy: str) -> None:
    """With the same video it is the first one; with another it throws. Nothing counts twice."""
    page = open_sdk().settled()
    page.do(f"import(server + '/client/playhead.js{copy}').then((more) => void (window.again = more.attach))")
    page.wait("!!window.again")
    assert page.do("again(video, options) === tracker && again('video', options) === tracker")
    other = "{ ...options, videoId: crypto.randomUUID() }"
    said = page.do(f"(() => {{ try {{ again(video, {other}) }} catch (error) {{ return error.message }} }})()")
    assert "setVideo" in said
    page.play_until(3)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page)
    assert len(page.sockets) == 1
    page.do("(tracker.destroy(), window.tracker = again(video, options), 0)")
    page.wait("tracker.state === 'online'")


REPLACED = {
    "by its selector": ("video.replaceWith(next)", "'video'"),
    "in its container": ("video.replaceWith(next)", "video"),
    "with its wrapper": (
        "(() => { const box = video.parentNode, wrapper = document.createElement('p'); box.remove();"
        " wrapper.append(next); frame.append(wrapper); })()",
        "video",
    ),
    "a moment later": ("(video.remove(), setTimeout(() => box.append(next), 1000))", "video"),
    "in a shadow tree": ("video.replaceWith(next)", "video"),
}


@pytest.mark.parametrize("how", REPLACED)
def test_an_element_that_is_replaced(open_sdk: Open, how: str) -> None:
    """As Plyr does it for another source: the new element is tracked, and goes on where the old one was."""
    swap, target = REPLACED[how]
    root = "frame.attachShadow({ mode: 'open' })" if "shadow" in how else "frame"
    page = open_sdk().settled()
    page.do(f"""(() => {{
        tracker.destroy();
        window.frame = document.createElement('main'); window.box = document.createElement('div');
        document.body.append(frame); {root}.append(box); box.append(video);
        window.tracker = attach({target}, options);
        tracker.on('error', (error) => heard.push(['error', error]));
        tracker.on('settled', (detail) => heard.push(['settled', detail]));
    }})()""")
    page.wait("tracker.state === 'online'")
    page.play_until(5)
    before = page.played
    page.do(f"""(() => {{ const next = document.createElement('video'); next.muted = true; next.autoplay = true;
        next.src = server + '/numbered.webm?next'; {swap}; window.video = next; }})()""")
    page.wait("!video.seeking && video.currentTime > 7")
    page.pause()
    page.stored()
    assert page.heard("error") == []
    record = page.record
    assert record["position"] == pytest.approx(page.position, abs=EDGE_S)
    assert_same_seconds(record["seen"], union([*before, *page.played]))


def test_an_element_that_is_removed_or_moved(open_sdk: Open) -> None:
    """Moved, it is still tracked; removed for good, the page is told; `setMedia` names the next one."""
    page = open_sdk().settled()
    page.do("(() => { const box = document.createElement('div'); document.body.append(box); box.append(video); })()")
    page.play_until(2)
    page.do("setTimeout(() => document.body.append(video), 500), video.remove()")
    page.wait("video.isConnected")
    page.play_until(4)
    assert page.heard("error") == []
    page.do("(video.remove())")
    page.wait("heard.some(([event, { code }]) => event === 'error' && code === 'detached')")
    played = page.played
    page.do("""(() => { window.video = new Audio(server + '/numbered.webm?audio'); video.muted = true;
        tracker.setMedia(video); void video.play() })()""")
    page.wait("!video.seeking && video.currentTime > 6")
    page.do("video.pause()")
    page.stored()
    assert_same_seconds(page.record["seen"], union([*played, *page.played]))
    assert size(page.played) > 1


def test_set_media_of_a_tracked_element(open_sdk: Open) -> None:
    """An element has one tracker."""
    page = open_sdk().settled()
    page.do("""(window.second = document.createElement('video'), document.body.append(second),
        window.other = attach(second, { ...options, videoId: crypto.randomUUID() }))""")
    said = page.do("(() => { try { other.setMedia(video) } catch (error) { return error.message } })()")
    assert "has a tracker" in said


# ---- A busy page ----


@pytest.mark.parametrize("rate", [1, 2])
@pytest.mark.parametrize("ms", [1_000, 2_500, 4_000])
def test_a_seek_after_the_main_thread_was_busy(open_sdk: Open, rate: float, ms: int) -> None:
    """Not one `timeupdate` while the page was busy: the seconds up to the seek are stored all the same."""
    page = open_sdk().settled()
    page.speed(rate)
    page.play_until(2)
    page.busy(ms, "video.currentTime = 60")
    page.wait("!video.seeking")
    page.busy(ms)
    page.busy(ms, "video.currentTime = 30")
    page.wait("!video.seeking && video.currentTime > 30.5")
    page.busy(ms)
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page)
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)


def test_back_into_seen_seconds_after_the_main_thread_was_busy(open_sdk: Open) -> None:
    """The seek leads into the stretch that has just been played: it is not counted twice."""
    page = open_sdk().settled()
    page.play_until(1)
    page.busy(5_000, "video.currentTime = 3")
    page.wait("!video.seeking && video.currentTime > 3.8")
    page.pause()
    page.stored()
    record = page.record
    assert_same_seconds(record["seen"], page.played)
    assert record["playedDuration"] == pytest.approx(size(page.played) + 0.8, abs=EDGE_S)


def test_the_wall_clock_does_not_keep_the_rhythm(open_sdk: Open) -> None:
    """Set back an hour, then forward two: heartbeats go on, entries are kept, and the record's date stays right."""
    page = open_sdk(before=SKEWED, heartbeatMs=500).settled()
    page.play_until(1.5)
    for skew in (-3_600_000, 3_600_000):
        sent = len(page.sent)
        page.do(f"(window.skew = {skew})")
        page.play_until(page.position + 2)
        assert len([frame for frame in page.sent[sent:] if '"heartbeat"' in frame]) >= 2
        page.page.context.set_offline(True)
        page.wait("tracker.state === 'offline'")
        kept = page.do(KEPT)
        page.play_until(page.position + 2)
        assert page.do(KEPT) > kept
        page.page.context.set_offline(False)
        page.stored()
    page.pause()
    page.stored()
    assert_nothing_lost_or_doubled(page)
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)
    off = page.do("Date.parse(tracker.record.lastWatched) - (Date.now() - skew)")
    assert off == pytest.approx(0, abs=5_000)


SKEWED = """
window.skew = 0;
window.Date = class extends Date {
  constructor(...all) { super(...(all.length ? all : [Date.now()])); }
};
const real = Date.now;
Date.now = () => real() + skew;
"""
KEPT = """new Promise((ok) => {
  indexedDB.open("playhead").onsuccess = ({ target: { result: db } }) => {
    db.transaction("outbox").objectStore("outbox").getAll().onsuccess = ({ target: { result } }) => {
      db.close();
      ok(Math.max(0, ...result.flatMap(({ played = [] }) => played.flat())));
    };
  };
})"""


# ---- What a page is told ----


@pytest.mark.parametrize("call", ["attach(new Audio(), { videoId: 'lesson-1' })", "tracker.setVideo('lesson-1')"])
def test_a_video_id_that_is_no_uuid(open_sdk: Open, call: str) -> None:
    """It throws at once, instead of sending what the server will refuse."""
    page = open_sdk().settled()
    said = page.do(f"(() => {{ try {{ {call} }} catch (error) {{ return `${{error}}` }} }})()")
    assert said == 'TypeError: playhead: the videoId "lesson-1" is not a UUID'


def test_a_malformed_token(open_sdk: Open) -> None:
    """Not "No userId": it names the token."""
    page = open_sdk(before="window.issue = () => 'opaque'", userId=None)
    page.wait("window.tracker?.state === 'stopped'")
    assert [error["message"] for error in page.heard("error")] == ["The token is not a JWT with a sub"]


def test_an_origin_that_the_server_does_not_allow(
    place: Place, new_page: Callable[[], Page], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The page hears which setting lacks it, and the console once. (The SDK comes from elsewhere, as in a bundle.)"""
    with serving_a_site(tmp_path_factory.mktemp("refusing"), allowed_origins="https://elsewhere.example") as refusing:
        page = new_page()
        printed: list[str] = []
        page.on("console", lambda line: printed.append(line.text))
        sdk = SdkPage(page, *place, str(uuid.uuid4()), str(uuid.uuid4()), endpoint=refusing.server.url)
        sdk.wait("window.heard?.some(([event, { code }]) => event === 'error' && code === 'origin')")
        [message, *_] = [error["message"] for error in sdk.heard("error") if error["code"] == "origin"]
        assert message == f"The server's allowed_origins lacks {place.site}"
        assert len([line for line in printed if line.startswith("playhead origin")]) == 1


def test_a_policy_that_forbids_websockets(place: Place, new_page: Callable[[], Page]) -> None:
    """The page hears which directive of its own policy lacks what; the fallback stores meanwhile."""
    sdk = SdkPage(new_page(), place.site + "/policed", place.server, str(uuid.uuid4()), str(uuid.uuid4()))
    sdk.wait("window.heard?.some(([event, { code }]) => event === 'error' && code === 'csp')")
    [message, *_] = [error["message"] for error in sdk.heard("error") if error["code"] == "csp"]
    assert "connect-src" in message
    assert sdk.server.url.replace("http", "ws") in message
    sdk.wait("tracker.state === 'fallback'")


@pytest.mark.parametrize("ms", [300, 900])
def test_media_of_under_a_second_complete(open_sdk: Open, ms: int) -> None:
    """The server counts whole seconds: such a medium is reported as one second long."""
    page = open_sdk(before=f"const ms = {ms};" + SHORT)
    page.wait("window.tracker && video.readyState >= 2 && heard.some(([event]) => event === 'synced')")
    page.do("void video.play()")
    page.wait("heard.some(([event]) => event === 'completed')")
    assert page.record["completed"]


SHORT = """
const bytes = new Uint8Array(44 + 8 * ms).fill(128);
const view = new DataView(bytes.buffer);
bytes.set(new TextEncoder().encode("RIFF....WAVEfmt "));
for (const [at, value] of [[4, 36 + 8 * ms], [16, 16], [24, 8000], [28, 8000], [40, 8 * ms]])
  view.setUint32(at, value, true);
for (const [at, value] of [[20, 1], [22, 1], [32, 1], [34, 8]]) view.setUint16(at, value, true);
bytes.set(new TextEncoder().encode("data"), 36);
const wav = "data:audio/wav;base64," + btoa(String.fromCharCode(...bytes));
const source = Object.getOwnPropertyDescriptor(HTMLMediaElement.prototype, "src");
Object.defineProperty(HTMLMediaElement.prototype, "src", { ...source, set() { source.set.call(this, wav); } });
"""
