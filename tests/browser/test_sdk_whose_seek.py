"""Whose seek is it? Before the learner has played or acted on the player, seeks are the page's.

They end no resume and move no place. Input on the player makes the next seek the learner's; a click elsewhere does not.
"""

import uuid
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import until
from tests.browser.sdk_page import EDGE_S, Place, SdkPage, serving_a_site, watched_elsewhere

pytestmark = pytest.mark.browser

PLACE_S = 40
STEADY_MS = 1_500
"""After this nobody seeks any more."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving_a_site(tmp_path_factory.mktemp("sdk")) as place:
        yield place


@pytest.fixture
def returning(place: Place, new_page: Callable[[], Page]) -> Callable[..., SdkPage]:
    """The page of a learner who has watched to 0:40 on another device."""
    user, video = str(uuid.uuid4()), str(uuid.uuid4())
    watched_elsewhere(place, user, video, PLACE_S)

    def opened(media: str = "", **options: object) -> SdkPage:
        media = f"{place.server.url}/numbered.webm{media}"
        return SdkPage(new_page(), *place, user, video, media=media, **options)  # type: ignore[arg-type]

    return opened


def once(event: str, second: float) -> str:
    return f"video.addEventListener('{event}', () => (video.currentTime = {second}), {{ once: true }})"


NUDGES = {
    "at canplay, to 0.01": once("canplay", 0.01),
    "at loadedmetadata, to 0": once("loadedmetadata", 0),
    "at each canplay, to 0.1": """
        video.addEventListener("canplay", () => video.currentTime < 1 || n++ > 1 || (video.currentTime = 0.1))""",
    "at play, to 0.001": once("play", 0.001),
    "a resume of the page's own": once("canplay", 25),
}
ON_ATTACH = """
window.n = 0;
const listening = new MutationObserver(() => {
  const video = document.querySelector("video");
  if (!video) return;
  listening.disconnect();
  %s;
});
listening.observe(document, { childList: true, subtree: true });
"""


@pytest.mark.parametrize("fragment", ["#t=0.001", "#t=0,60", "#t=25", "#t=70,80"])
def test_a_media_fragment_moves_nothing(returning: Callable[..., SdkPage], fragment: str) -> None:
    """`#t=0.001` is a usual trick for a first frame on iOS: the resume goes on, and the stored place stays."""
    page = returning(fragment)
    before = page.record
    page.settled(PLACE_S)
    page.page.wait_for_timeout(STEADY_MS)
    assert page.position == pytest.approx(PLACE_S, abs=EDGE_S)
    assert page.record == before
    page.play_until(PLACE_S + 1.5)
    page.pause()
    page.stored()
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)
    assert not any('"seek":true' in frame for frame in page.sent)


@pytest.mark.parametrize("nudge", NUDGES)
@pytest.mark.parametrize("autoplay", [False, True], ids=["paused", "autoplay"])
def test_a_page_that_nudges_moves_nothing(returning: Callable[..., SdkPage], nudge: str, autoplay: bool) -> None:
    """A library's seek before anything was played: the video is played from the place all the same."""
    play = "video.autoplay = true;" if autoplay else ""
    page = returning(before=ON_ATTACH % (play + NUDGES[nudge]))
    before = page.record
    page.settled()
    page.wait(f"video.currentTime > {PLACE_S - EDGE_S}")
    if not autoplay:
        page.page.wait_for_timeout(STEADY_MS)
        assert page.record == before
        assert page.position == pytest.approx(PLACE_S, abs=EDGE_S)
    page.play_until(PLACE_S + 2)
    page.pause()
    page.stored()
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)
    assert not any('"seek":true' in frame for frame in page.sent)


GUARD = """
let farthest = 0;
video.addEventListener("timeupdate", () => {
  if (video.currentTime > farthest + 1) video.currentTime = farthest;
  else farthest = Math.max(farthest, video.currentTime);
});
video.addEventListener("seeking", () => video.currentTime > farthest + 1 && (video.currentTime = farthest));
"""


@pytest.mark.parametrize("autoplay", [False, True], ids=["paused", "autoplay"])
def test_a_no_skip_guard_moves_nothing(returning: Callable[..., SdkPage], autoplay: bool) -> None:
    """A guard of the page that knows of no resume sends it back to the start: the place stays, and the fight ends."""
    page = returning(before=ON_ATTACH % (GUARD + ("video.autoplay = true;" if autoplay else "")))
    page.settled()
    page.page.wait_for_timeout(2 * STEADY_MS)
    page.pause()
    page.do("tracker.flush()")
    page.page.wait_for_timeout(STEADY_MS)
    assert page.record["position"] == PLACE_S
    assert not any('"seek":true' in frame for frame in page.sent)


def test_a_guard_after_play_was_pressed(returning: Callable[..., SdkPage]) -> None:
    """The click on "play" starts the play; the seek that the guard answers it with is not the learner's."""
    page = returning()
    page.settled(PLACE_S)
    page.do("""{
        const box = document.createElement('div'), play = document.createElement('button');
        box.style = 'width: max-content'; play.textContent = 'Play'; play.onclick = () => video.play();
        video.replaceWith(box); box.append(video, play);
        video.addEventListener('timeupdate', () => video.paused || (video.currentTime = 0), { once: true });
    }""")
    page.page.get_by_role("button").click()
    page.wait(f"!video.paused && !video.seeking && video.currentTime > {PLACE_S + 1.5}")
    page.pause()
    page.stored()
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)
    assert not any('"seek":true' in frame for frame in page.sent)


ELSEWHERE = """{
    const there = document.createElement('button');
    there.textContent = 'Accept cookies';
    there.style = 'display: block; margin-top: 300px';
    there.onclick = () => (video.currentTime = 0.01);
    document.body.append(there);
}"""


def test_a_click_elsewhere_is_not_on_the_player(returning: Callable[..., SdkPage]) -> None:
    """It activates the page for ever, but the seek that follows is a script's: back to the place, which stays."""
    page = returning()
    page.settled(PLACE_S)
    before = page.record
    page.do(ELSEWHERE)
    page.page.get_by_role("button").click()
    page.wait(f"!video.seeking && video.currentTime > {PLACE_S - EDGE_S}")
    page.page.wait_for_timeout(STEADY_MS)
    assert page.record == before
    page.play_until(PLACE_S + 1)


def test_a_link_to_a_chapter_is_not_fought(returning: Callable[..., SdkPage]) -> None:
    """A click elsewhere that seeks ahead: it stays where it went, but the place moves only once it is played there."""
    page = returning()
    page.settled(PLACE_S)
    before = page.record
    page.do(ELSEWHERE.replace("0.01", "70"))
    page.page.get_by_role("button").click()
    page.wait("!video.seeking && video.currentTime > 69")
    page.page.wait_for_timeout(STEADY_MS)
    assert page.position == pytest.approx(70, abs=EDGE_S)
    assert page.record == before
    page.play_until(74)
    page.pause()
    page.stored()
    assert page.record["position"] == pytest.approx(page.position, abs=EDGE_S)


def test_seek_of_the_tracker_is_the_learners(returning: Callable[..., SdkPage]) -> None:
    """For a page's own links to chapters."""
    page = returning()
    page.settled(PLACE_S)
    page.do("tracker.seek(70)")
    until(lambda: page.record["position"] == pytest.approx(70, abs=EDGE_S), "the place")


WRAPPED = """{
    const box = document.createElement('div'), skip = document.createElement('button');
    box.style = 'width: max-content';
    skip.textContent = 'Ahead'; skip.onclick = () => (video.currentTime = 70);
    video.replaceWith(box);
    %s
}"""
CONTROLS = {
    "beside the video": WRAPPED % "box.append(video, skip);",
    "deep beside it": WRAPPED % "const bar = document.createElement('p'); bar.append(skip); box.append(video, bar);",
    "in an open shadow tree": WRAPPED % "box.attachShadow({ mode: 'open' }).append(video, skip);",
    "the video slotted": WRAPPED
    % """const root = box.attachShadow({ mode: 'open' });
        root.append(document.createElement('slot'), skip); box.append(video);""",
}


@pytest.mark.parametrize("controls", CONTROLS)
@pytest.mark.parametrize("key", ["", "Enter"], ids=["mouse", "keyboard"])
def test_custom_controls_are_the_players(returning: Callable[..., SdkPage], controls: str, key: str) -> None:
    """A button of the player, by mouse and by keyboard."""
    page = returning()
    page.settled(PLACE_S)
    before = page.do("video")
    assert before is not None
    page.do(CONTROLS[controls])
    button = page.page.get_by_role("button")
    if key:
        button.press(key)
    else:
        button.click()
    until(lambda: page.record["position"] == pytest.approx(70, abs=EDGE_S), "the place")


def test_controls_that_stand_apart_can_be_named(returning: Callable[..., SdkPage]) -> None:
    """`controls`: an element that is neither in nor near the player."""
    page = returning()
    page.settled(PLACE_S)
    page.do(ELSEWHERE.replace("0.01", "70"))
    page.do("""(tracker.destroy(), window.tracker = attach(video, {
        ...options, controls: document.querySelector('button') }))""")
    page.wait("tracker.state === 'online'")
    page.page.get_by_role("button").click()
    until(lambda: page.record["position"] == pytest.approx(70, abs=EDGE_S), "the place")


def test_the_browsers_own_controls(returning: Callable[..., SdkPage]) -> None:
    """A click on the timeline that Chromium draws."""
    page = returning()
    page.settled(PLACE_S)
    page.do("(video.controls = true, video.style = 'width: 640px; height: 360px')")
    box = page.page.locator("video").bounding_box()
    assert box
    page.page.mouse.move(box["x"] + 320, box["y"] + 200)
    page.page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + box["height"] - 16)
    page.wait("!video.seeking && video.currentTime > 60")
    until(lambda: page.record["position"] == pytest.approx(page.position, abs=EDGE_S), "the place")


@pytest.mark.parametrize("focus", ["video", "body"])
def test_keys_on_the_player_or_on_the_page(returning: Callable[..., SdkPage], focus: str) -> None:
    """A shortcut of the page counts as well, as nothing else has the focus."""
    page = returning()
    page.settled(PLACE_S)
    page.do("addEventListener('keydown', ({ key }) => key === 'ArrowRight' && (video.currentTime += 30))")
    page.do(f"(video.tabIndex = 0, '{focus}' === 'video' && video.focus())")
    page.page.keyboard.press("ArrowRight")
    until(lambda: page.record["position"] == pytest.approx(70, abs=EDGE_S), "the place")


def test_typing_elsewhere_is_not_on_the_player(returning: Callable[..., SdkPage]) -> None:
    """A key in a field of the page, then a seek of a script."""
    page = returning()
    page.settled(PLACE_S)
    before = page.record
    page.do("(document.body.append(document.createElement('textarea')))")
    page.page.locator("textarea").press("a")
    page.do("void (video.currentTime = 0.02)")
    page.wait(f"!video.seeking && video.currentTime > {PLACE_S - EDGE_S}")
    page.page.wait_for_timeout(STEADY_MS)
    assert page.record == before


def test_after_something_was_played_each_seek_is_the_learners(returning: Callable[..., SdkPage]) -> None:
    """Resumed at 40, looked at 70, back to 40, closed: the place is 40, not 70."""
    page = returning()
    page.settled(PLACE_S)
    page.play_until(PLACE_S + 1)
    page.seek(70)
    page.play_until(71)
    page.seek(PLACE_S + 0.2)
    page.pause()
    page.page.goto("about:blank")
    until(lambda: page.record["position"] == pytest.approx(PLACE_S, abs=EDGE_S), "the place")
