"""The demo page as people use it: what it shows is correct, and it works with any input device and on any screen."""

import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import STEP_WITHIN_S, Server, until
from tests.security.issuer import SECRET, token

pytestmark = pytest.mark.browser

DURATION_S = 90
FRAME_S = 1 / 12
"""The duration of a frame of the film: a seek shows one frame and its time."""
LEAST_CONTRAST = 4.5
"""The minimum contrast of text: WCAG 2.2, 1.4.3."""

CONTRAST = """element => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (colour) => {
        const [r, g, b] = rgba(colour).map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let behind = element;
    while (rgba(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(luminance);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


class Demo:
    """The page in one tab, and what a learner does with it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.requested: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.goto(url)

    def ready(self) -> "Demo":
        """Wait until the page is connected and synchronised and the film is loaded."""
        expect(self["#state"]).to_have_text("Stored")
        self.wait("[...document.querySelectorAll('#frames li')].some((line) => line.textContent.includes('synced'))")
        self.wait("document.querySelector('video').readyState >= 2")
        return self

    def __getitem__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def do(self, script: str) -> Any:
        return self.page.evaluate(f"() => {{ const video = document.querySelector('video'); {script} }}")

    def wait(self, condition: str) -> None:
        self.page.wait_for_function(f"() => {condition}")  # a function, because the page may not use eval

    def play_until(self, second: float) -> None:
        """Play, without seeking, until this second."""
        self.do("void video.play()")
        self.wait(
            f"!document.querySelector('video').seeking && document.querySelector('video').currentTime >= {second}"
        )

    def pause(self) -> None:
        """Pause, and wait until everything is stored and the page shows it."""
        self.do("video.pause()")
        expect(self["#pending"]).to_have_text("nothing")

    def at(self, second: float) -> None:
        """Wait until the film shows this second."""
        self.wait(
            "!document.querySelector('video').seeking"
            f" && Math.abs(document.querySelector('video').currentTime - {second}) <= {FRAME_S}"
        )

    @property
    def position(self) -> float:
        return float(self.do("return video.currentTime"))

    @property
    def paused(self) -> bool:
        return bool(self.do("return video.paused"))

    def drawn(self, kind: str) -> list[tuple[int, int]]:
        """The ranges of a kind, measured on the strip: start and end in seconds."""
        script = """segments => {
            const strip = document.querySelector("#strip").getBoundingClientRect();
            const second = (x) => (90 * (x - strip.left)) / strip.width;
            const boxes = segments.map((each) => each.getBoundingClientRect());
            return boxes.map(({ left, right }) => [second(left), second(right)]);
        }"""
        return [(round(start), round(end)) for start, end in self[f"#seconds .{kind}"].evaluate_all(script)]

    def marked(self, selector: str) -> float:
        """The second at the middle of a mark."""
        script = """mark => {
            const strip = document.querySelector("#strip").getBoundingClientRect();
            const { left, width } = mark.getBoundingClientRect();
            return (90 * (left + width / 2 - strip.left)) / strip.width;
        }"""
        return float(self[selector].evaluate(script))

    def click_second(self, second: int) -> None:
        box = self["#strip"].bounding_box()
        assert box is not None
        self["#strip"].click(position={"x": box["width"] * (second + 0.5) / DURATION_S, "y": box["height"] / 2})


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    expect.set_options(timeout=1000 * STEP_WITHIN_S)
    yield
    expect.set_options(timeout=5_000)  # the default of Playwright


@pytest.fixture
def learner() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def video() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def open_demo(server: Server, new_page: Callable[[], Page], learner: str, video: str) -> Callable[[], Demo]:
    """Each call opens another device of the same learner and the same video."""
    return lambda: Demo(new_page(), f"{server.url}/?user={learner}&video={video}").ready()


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that requires tokens."""
    monkeypatch.setenv("PLAYHEAD_JWT_SECRET", SECRET)
    server = Server(tmp_path / "guarded")
    server.start()
    yield server
    server.stop()


def covered(seen: list[tuple[int, int]]) -> set[int]:
    return {second for start, end in seen for second in range(start, end)}


def freeze(server: Server) -> None:
    """Stop the server: it accepts data but answers nothing."""
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGSTOP)


def ranges(record: dict[str, Any], kind: str) -> list[tuple[int, int]]:
    return [(start, end) for start, end in record[kind]]


def test_the_status_light_shows_whether_everything_is_stored(
    server: Server, open_demo: Callable[[], Demo], learner: str, video: str
) -> None:
    """Stored; waiting while the server does not answer; offline without a server; stored again, with nothing lost.

    Each state has its own word and colour, and a text that explains it.
    """
    demo = open_demo()
    light, words = demo["#state"], demo["#detail"]
    tones = set()

    def tone() -> None:
        tones.add(light.evaluate("light => getComputedStyle(light).color"))

    assert light.get_attribute("aria-live") == "polite"
    expect(words).to_have_text("nothing watched yet")
    tone()
    demo.play_until(1.6)
    expect(light).to_have_text("Stored")
    expect(words).to_have_text("all but the last few seconds")
    expect(demo["#seconds .unstored"]).to_have_count(1)

    freeze(server)
    demo.do("video.pause()")
    expect(light).to_have_text("Waiting")
    expect(words).to_have_text("1 heartbeat not confirmed yet")
    tone()

    server.kill()
    expect(light).to_have_text("Offline")
    tone()
    demo.do("video.currentTime = 30")
    demo.play_until(32)
    demo.do("video.pause()")
    expect(words).to_have_text(re.compile("^[0-9]+ heartbeats kept in this browser until the line is back$"))
    expect(light).to_have_text("Offline")
    shown = demo.drawn("seen") + demo.drawn("unstored")
    assert demo.drawn("unstored")[-1] == (30, 32)
    assert len(tones) == 3

    server.start()
    expect(light).to_have_text("Stored")
    expect(words).to_have_text("all you watched")
    expect(demo["#seconds .unstored"]).to_have_count(0)
    assert covered(ranges(server.progress(learner, video), "seen")) == covered(shown)


def test_the_heat_strip_shows_the_record(
    server: Server, open_demo: Callable[[], Demo], learner: str, video: str
) -> None:
    """Seconds seen and seen again, the playhead and the resume point are those of the server, to the second."""
    demo = open_demo()
    assert not demo.drawn("seen")
    expect(demo["#seen-words"]).to_have_text("Nothing seen yet.")
    demo.play_until(4)
    demo.do("video.currentTime = 1")
    demo.play_until(3)
    demo.do("video.currentTime = 45")
    demo.play_until(48)
    demo.pause()

    record = server.progress(learner, video)
    expect(demo["#watched"]).to_have_text(f"{record['watchedDuration']} of {DURATION_S} s")
    assert demo.drawn("seen") == ranges(record, "seen")
    assert demo.drawn("again") == ranges(record, "again")
    assert [start for start, _ in demo.drawn("seen")] == [0, 45]
    assert [start for start, _ in demo.drawn("again")] == [1]
    again = sum(end - start for start, end in ranges(record, "again"))
    expect(demo["#again"]).to_have_text(f"{again} s")
    expect(demo["#resume"]).to_have_text("0:48")
    assert demo.marked("#head") == pytest.approx(demo.position, abs=0.5)
    assert demo.marked("#resume-flag") == pytest.approx(record["resume"], abs=0.5)
    expect(demo["#seen-words"]).to_have_text(re.compile("^Seen: 0:00 to 0:04, 0:45 to 0:48.$"))
    tones = demo["#seconds .seen, #seconds .again"].evaluate_all(
        "all => [...new Set(all.map((each) => getComputedStyle(each).backgroundColor))]"
    )
    assert len(tones) == 2

    demo.click_second(2)
    demo.at(2)
    expect(demo["#bubble"]).to_have_text("0:02 · seen again")
    demo.click_second(70)
    demo.at(70)
    expect(demo["#bubble"]).to_have_text("1:10 · not seen")


@pytest.mark.parametrize("answer", ["Continue", "Start again"])
def test_the_second_visit_asks_where_to_continue(
    server: Server, open_demo: Callable[[], Demo], learner: str, video: str, answer: str
) -> None:
    """The first visit is not asked. The second is: nothing changes before the answer, which is then obeyed."""
    demo = open_demo()
    expect(demo.page.get_by_role("dialog")).to_be_hidden()
    demo.do("video.currentTime = 40")
    demo.play_until(42)
    demo.pause()
    before = server.progress(learner, video)

    demo.page.reload()
    demo.ready()
    question = demo.page.get_by_role("dialog", name="Continue from 0:42?")
    expect(question).to_be_visible()
    expect(question).to_contain_text(f"You have watched {before['watchedDuration']} of {DURATION_S} seconds.")
    expect(demo.button("Continue")).to_be_focused()
    assert demo.position == 0
    assert demo.paused
    assert server.progress(learner, video) == before

    demo.button(answer).click()
    expect(question).to_be_hidden()
    starts_at = before["resume"] if answer == "Continue" else 0
    demo.wait(f"document.querySelector('video').currentTime > {starts_at + 1}")
    demo.pause()
    assert starts_at < demo.position < starts_at + 10
    record = server.progress(learner, video)
    if answer == "Continue":
        assert record["position"] == pytest.approx(demo.position, abs=0.1)
        assert [start for start, _ in record["seen"]] == [40]
    else:  # the position follows once it has settled: a moment at the start does not lose the old place
        assert [start for start, _ in record["seen"]] == [0, 40]


def test_the_link_opens_the_same_learner_on_another_device(
    open_demo: Callable[[], Demo], new_page: Callable[[], Page]
) -> None:
    """Copied or clicked, it opens where the first device is; then each device shows the changes of the other."""
    first = open_demo()
    first.do("video.currentTime = 20")
    first.play_until(22)
    first.pause()

    first.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    first["#copy"].click()
    expect(first["#copy"]).to_have_text("Copied")
    link = first.do("return navigator.clipboard.readText()")
    assert link == first["#link"].input_value() == first.page.get_by_role("link", name="Open").get_attribute("href")

    second = Demo(new_page(), link).ready()
    expect(second.page.get_by_role("dialog", name="Continue from 0:22?")).to_be_visible()
    until(lambda: second.drawn("seen") == first.drawn("seen"), "the same seconds on both devices")
    second.button("Continue").click()
    second.wait("document.querySelector('video').currentTime > 22")
    second.pause()

    first.do("video.currentTime = 60")
    first.play_until(61)
    first.pause()
    expect(second["#elsewhere"]).to_contain_text("Another device is at 1:01.")
    assert second.marked("#there") == pytest.approx(first.position, abs=0.5)
    until(lambda: second.drawn("seen") == first.drawn("seen"), "the same seconds on both devices")
    second.button("Go there").click()
    second.at(first.position)
    expect(second["#elsewhere"]).to_be_hidden()

    expect(first["#elsewhere"]).to_be_hidden()  # both are at the same place


def test_everything_works_with_the_keyboard(open_demo: Callable[[], Demo]) -> None:
    """Tab reaches every control, with a visible focus ring and an accessible name; the space and arrow keys work."""
    demo = open_demo()
    keyboard = demo.page.keyboard
    keyboard.press("Space")
    expect(demo.button("Pause")).to_be_visible()
    demo.wait("document.querySelector('video').currentTime > 0.5")
    keyboard.press("Space")
    expect(demo.button("Play")).to_be_visible()
    assert demo.paused

    start = demo.position
    keyboard.press("ArrowRight")
    demo.at(start + 5)
    keyboard.press("ArrowRight")
    demo.at(start + 10)
    keyboard.press("ArrowLeft")
    demo.at(start + 5)
    keyboard.press("Home")
    demo.at(0)

    reached = []
    ring = """() => {
        const focused = document.activeElement;
        const ringed = focused.id === "strip" ? document.querySelector("#seconds") : focused;
        const { outlineStyle, outlineWidth } = getComputedStyle(ringed);
        return outlineStyle === "none" ? 0 : parseFloat(outlineWidth);
    }"""
    for _ in range(12):
        keyboard.press("Tab")
        focused = demo.page.locator(":focus")
        if not focused.count():
            break
        reached.append(focused.evaluate("element => element.id || element.tagName"))
        assert demo.page.evaluate(ring) >= 2, f"no focus ring around {reached[-1]}"
    assert reached == [
        "strip",
        "play",
        "back",
        "ahead",
        "speed",
        "full",
        "link",
        "copy",
        "second",
        "SUMMARY",
        "by-hand",
    ]

    strip = demo.page.get_by_role("slider", name="Position in the film")
    strip.focus()
    keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("aria-valuenow", "5")
    expect(strip).to_have_attribute("aria-valuemax", str(DURATION_S))
    expect(strip).to_have_attribute("aria-valuetext", "0:05 of 1:30, not seen")
    for role, name in [
        ("button", "Back 5 seconds"),
        ("button", "Ahead 5 seconds"),
        ("button", "Full screen"),
        ("combobox", "Speed"),
        ("textbox", "Link to the same learner"),
    ]:
        expect(demo.page.get_by_role(role, name=name)).to_be_visible()  # type: ignore[arg-type]

    demo.button("Play").focus()
    keyboard.press("Space")  # handled by the button alone: once, not twice
    demo.wait("!document.querySelector('video').paused")


def test_a_phone_needs_no_horizontal_scrolling(open_demo: Callable[[], Demo]) -> None:
    """At 360 px everything is inside the screen: controls, question, notice and frames."""
    other = open_demo()
    other.do("video.currentTime = 30")
    other.play_until(31)
    other.pause()
    demo = open_demo()
    demo.page.set_viewport_size({"width": 360, "height": 740})

    def fits() -> None:
        assert demo.do("return document.documentElement.scrollWidth") <= 360
        for each in demo.page.locator("button:visible, select, a, #light, #time, #strip, dd").all():
            box = each.bounding_box()
            assert box is not None
            assert box["x"] >= 0, each
            assert box["x"] + box["width"] <= 360, each

    expect(demo.button("Continue")).to_be_visible()
    fits()
    demo.button("Continue").click()
    demo.wait("document.querySelector('video').currentTime > 31")
    demo.pause()
    demo["#wire summary"].click()
    other.do("video.currentTime = 80")
    expect(demo["#elsewhere"]).to_be_visible()
    fits()
    play = demo.button("Play").bounding_box()
    assert play is not None
    assert (play["width"], play["height"]) == (48, 48), "large enough for a thumb, and round"


def test_the_page_follows_the_system_colour_scheme(open_demo: Callable[[], Demo]) -> None:
    """Light or dark like the system, and every text is legible in both, including that of each status."""
    demo = open_demo()
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    grounds = {}
    for scheme in schemes:
        demo.page.emulate_media(color_scheme=scheme)
        grounds[scheme] = demo.do("return getComputedStyle(document.body).backgroundColor")
        for light in ("stored", "waiting", "offline", "refused"):
            demo["#light"].evaluate("(element, light) => { element.dataset.light = light }", light)
            assert demo["#state"].evaluate(CONTRAST) >= LEAST_CONTRAST, (scheme, light)
        for each in demo.page.locator(
            "h1, h2:visible, .soft:visible, dt, dd, button:visible, select, #last, #axis"
        ).all():
            assert each.evaluate(CONTRAST) >= LEAST_CONTRAST, (scheme, each)
    brightness = {scheme: sum(map(int, re.findall(r"\d+", ground)[:3])) for scheme, ground in grounds.items()}
    assert brightness["light"] > 3 * 200
    assert brightness["dark"] < 3 * 60


def test_a_developer_sees_the_most_recent_frames(open_demo: Callable[[], Demo]) -> None:
    """One line shows the newest frame; its details list the earlier ones, newest first."""
    demo = open_demo()
    demo.play_until(1)
    demo.pause()
    expect(demo["#last"]).to_have_text(re.compile(r"^↓ (ack|progress|synced) \{.*\}$"))
    expect(demo["#frames"]).to_be_hidden()
    demo["#wire summary"].click()
    expect(demo["#frames"]).to_be_visible()
    kinds = [line.split()[1] for line in demo["#frames li"].all_text_contents()][::-1]
    assert kinds[:2] == ["hello", "welcome"]
    assert kinds.index("synced") < kinds.index("heartbeat") < kinds.index("ack")


def sign_in(demo: Demo, made: str) -> None:
    """Paste a token into the form of the page."""
    demo.page.get_by_label("The service asks for a token").fill(made)
    demo.page.get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize("page", ["", "wire.html"])
def test_a_pasted_token_identifies_the_learner(
    guarded: Server, new_page: Callable[[], Page], learner: str, video: str, page: str
) -> None:
    """The page reports as that learner, also after a reload; the token appears in no URL and nowhere on the page."""
    made = token(learner, iss=None, aud=None)
    demo = Demo(new_page(), f"{guarded.url}/{page}?video={video}")
    sign_in(demo, made)
    demo.ready() if not page else expect(demo["#connection"]).to_have_text("Live")
    demo.page.reload()
    demo.ready() if not page else expect(demo["#connection"]).to_have_text("Live")
    demo.do("video.play()")
    headers = {"Authorization": f"Bearer {made}"}
    url = f"{guarded.url}/progress/{learner}/{video}?detail=full"
    until(lambda: httpx.get(url, headers=headers).status_code == httpx.codes.OK, "the record")
    assert not [url for url in demo.requested if made in url]
    assert made not in demo["body"].inner_text()
    assert made not in demo.page.content()
    assert made not in demo.page.evaluate("location.href")
    assert not demo["#sign-in"].is_visible()
    if not page:
        assert demo["#link"].input_value() == f"{guarded.url}/?video={video}"


def test_a_token_in_the_url_is_ignored_and_removed_from_the_address_bar(
    guarded: Server, new_page: Callable[[], Page], learner: str, video: str
) -> None:
    """URLs are copied, synchronised and remembered, and a stranger's link could choose the learner."""
    made = token(learner, iss=None, aud=None)
    demo = Demo(new_page(), f"{guarded.url}/?video={video}#token={made}")
    expect(demo["#state"]).to_have_text("Refused")
    assert demo.page.evaluate("location.href") == f"{guarded.url}/?video={video}"


def test_a_refused_token_is_announced(guarded: Server, new_page: Callable[[], Page], learner: str) -> None:
    """There are no endless retries: the status is Refused, an alert explains it, and another token can be pasted."""
    made = token(learner, iss=None, aud=None, key="another-secret-that-is-long-enough-for-any-hash-of-the-family")
    demo = Demo(new_page(), guarded.url)
    for wrong in (made, "no token at all"):
        sign_in(demo, wrong)
        expect(demo["#state"]).to_have_text("Refused")
        expect(demo.page.get_by_role("alert")).to_contain_text("Nothing more is stored from this page.")
    sign_in(demo, token(learner, iss=None, aud=None))
    demo.ready()


def test_the_page_makes_no_requests_to_other_hosts(server: Server, new_page: Callable[[], Page]) -> None:
    """Everything comes from the server, so the page works offline, and also where the browser stores nothing."""
    page = new_page()
    forbidden = "Object.defineProperty(window, '{}', {{ get() {{ throw new DOMException('no', 'SecurityError') }} }})"
    for name in ("localStorage", "indexedDB"):
        page.add_init_script(forbidden.format(name))
    demo = Demo(page, server.url).ready()
    demo.play_until(1.6)
    demo.pause()
    expect(demo["#watched"]).to_have_text(f"2 of {DURATION_S} s")
    until(lambda: any("progress/" in url for url in demo.requested), "the record")
    assert {httpx.URL(url).host for url in demo.requested if not url.startswith("data:")} == {"127.0.0.1"}


def test_the_page_without_the_sdk_is_a_click_away(open_demo: Callable[[], Demo], learner: str) -> None:
    """The link keeps the learner."""
    demo = open_demo()
    demo.page.get_by_role("link", name="the same without the SDK").click()
    demo.page.wait_for_url(f"**/wire.html?user={learner}&*")
    expect(demo["#connection"]).to_have_text("Live")
    demo.page.get_by_role("link", name="the demo").click()
    expect(demo["#state"]).to_have_text("Stored")


@pytest.mark.parametrize("path", ["", "wire.html"])
def test_pages_comply_with_their_content_security_policy(
    server: Server, new_page: Callable[[], Page], path: str
) -> None:
    """Neither page violates it. Inline scripts are refused, and so is another page that shows ours in a frame."""
    page = new_page()
    page.add_init_script("window.refused = []; addEventListener('securitypolicyviolation', (e) => refused.push(e))")
    page.goto(f"{server.url}/{path}")
    page.evaluate("() => void document.querySelector('video').play()")
    page.wait_for_function("() => document.querySelector('video').currentTime > 1")
    assert page.evaluate("() => document.styleSheets.length") == 1
    assert page.evaluate("() => refused.map((event) => event.effectiveDirective)") == []
    page.evaluate("() => document.body.setAttribute('onclick', 'refused.length = 0')")
    page.wait_for_function("() => refused.some((event) => event.effectiveDirective === 'script-src-attr')")
    page.goto("about:blank")
    page.set_content(f'<iframe src="{server.url}/{path}"></iframe>')
    expect(page.frame_locator("iframe").locator("video")).to_have_count(0)
    until(
        lambda: page.evaluate("() => 1") and page.frames[1].url.startswith("chrome-error:"), "the refusal of the frame"
    )
