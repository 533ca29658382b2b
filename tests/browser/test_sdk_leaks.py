"""A page that lives long: a thousand videos in one element, two hundred players mounted and unmounted."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page

from tests.browser.sdk_page import Open, Place, SdkPage, opener, serving_a_site

pytestmark = pytest.mark.browser

MOST_GROWTH_BYTES = 300_000
"""Of the heap after garbage collection: less than 300 bytes a video, 1.5 kB a player."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving_a_site(tmp_path_factory.mktemp("sdk")) as place:
        yield place


@pytest.fixture
def open_sdk(place: Place, new_page: Callable[[], Page]) -> Open:
    return opener(place, new_page)


def measured(page: SdkPage) -> tuple[int, int]:
    """Listeners in the document, and bytes of the heap."""
    devtools = page.page.context.new_cdp_session(page.page)
    devtools.send("Performance.enable")
    devtools.send("HeapProfiler.collectGarbage")
    devtools.send("HeapProfiler.collectGarbage")
    metrics = {each["name"]: each["value"] for each in devtools.send("Performance.getMetrics")["metrics"]}
    devtools.detach()
    return metrics["JSEventListeners"], metrics["JSHeapUsedSize"]


def test_a_thousand_videos(open_sdk: Open) -> None:
    """setVideo() leaves nothing of the last video behind but what was played of it."""
    page = open_sdk().settled()
    videos = """async (count) => {
        for (let i = 0; i < count; i++) {
            tracker.setVideo(crypto.randomUUID());
            if (i % 10 === 0) video.load();
            await new Promise((ok) => setTimeout(ok, 2));
        }
    }"""
    page.page.evaluate(videos, 100)
    listeners, heap = measured(page)
    page.page.evaluate(videos, 1_000)
    after = measured(page)
    assert after[0] <= listeners
    assert after[1] - heap < MOST_GROWTH_BYTES


def test_two_hundred_players(open_sdk: Open) -> None:
    """attach() and destroy() of a new element each, some of them replaced or removed before."""
    page = open_sdk().settled()
    players = """async (count) => {
        for (let i = 0; i < count; i++) {
            const element = document.createElement("video");
            document.body.append(element);
            const one = attach(element, { ...options, videoId: crypto.randomUUID() });
            await new Promise((ok) => setTimeout(ok, 10));
            if (i % 2) element.remove();
            one.destroy();
            element.remove();
        }
    }"""
    page.page.evaluate(players, 50)
    page.page.wait_for_timeout(500)
    listeners, heap = measured(page)
    page.page.evaluate(players, 200)
    page.page.wait_for_timeout(500)
    after = measured(page)
    assert after[0] <= listeners
    assert after[1] - heap < MOST_GROWTH_BYTES
    assert page.do("navigator.locks.query().then(({ held, pending }) => held.length + pending.length)") == 1
