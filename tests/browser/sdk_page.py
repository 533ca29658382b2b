"""A page of one video and one line of the SDK, and what a learner and a bad day do to it."""

import io
import json
import threading
import uuid
import wave
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Page, WebSocket

from tests.browser.conftest import Server, until

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"
EDGE_S = 1
"""The server keeps whole seconds, so each edge may be rounded away from the browser's by this much."""
JOIN_S = 0.3
"""Ranges of one playback that was cut: it played on for a moment after the browser was asked how far it was."""
DURATION_S = 90
POLICED = "/policed"
"""A page whose Content-Security-Policy admits requests, but no WebSockets."""
SILENCE = "/silence.wav"

Ranges = list[tuple[float, float]]

HTML = b"""<!doctype html><meta charset="utf-8"><title>A course</title>
<video muted preload="auto"></video>
<script type="module">
  const { server, media, ...options } = JSON.parse(decodeURIComponent(location.search.slice(1)));
  const { attach, forget } = await import(server + "/client/playhead.js");
  Object.assign(window, { attach, forget, server, options });
  window.heard = [];
  window.video = document.querySelector("video");
  video.src = media ?? server + "/numbered.webm";
  if (window.issue) options.getToken = window.issue;
  window.tracker = attach("video", options);
  for (const event of ["state", "synced", "resume", "settled", "elsewhere", "completed", "ack", "error"])
    tracker.on(event, (detail) => heard.push([event, detail]));
</script>"""


def silent(seconds: int = DURATION_S) -> bytes:
    """Sound without a picture: a hidden film is paused, a hidden lecture plays on."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8_000)
        sound.writeframes(b"\x80" * 8_000 * seconds)
    return file.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, seconds = self.path.partition("?seconds=")
        silence = path == SILENCE
        body = silent(int(seconds or DURATION_S)) if silence else HTML
        self.send_response(200)
        self.send_header("Content-Type", "audio/wav" if silence else "text/html")
        if self.path.startswith(POLICED):
            self.send_header("Content-Security-Policy", "connect-src http:")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def academy() -> Iterator[str]:
    """A site that embeds the player: its origin, not the server's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as site:
        threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()


class SdkPage:
    """One tab. Options are the SDK's own."""

    def __init__(
        self, page: Page, site: str, server: Server, user: str, video: str, before: str = "", **options: Any
    ) -> None:
        """`before`: a script that runs before those of the page, at each load."""
        self.page, self.server, self.user, self.video = page, server, user, video
        chosen = {"videoId": video, "userId": user, "heartbeatMs": 1000, "reconnect": {"minMs": 100, "maxMs": 1000}}
        chosen |= options
        self.url = f"{site}/?{quote(json.dumps({'server': server.url, **chosen}))}"
        self.sent: list[str] = []
        self.sockets: list[WebSocket] = []
        page.on("websocket", self._listen)
        if before:
            page.add_init_script(before)
        page.goto(self.url)

    def _listen(self, socket: WebSocket) -> None:
        self.sockets.append(socket)
        socket.on("framesent", lambda frame: self.sent.append(str(frame)))

    def settled(self, at: float | None = None) -> "SdkPage":
        """Connected, the film loaded, the automatic resume done."""
        self.wait("window.tracker && heard.some(([event]) => event === 'synced')")
        self.wait("video.readyState >= 2 && !video.seeking")
        if at is not None:
            self.wait(f"Math.abs(video.currentTime - {at}) <= {EDGE_S}")
        return self

    def wait(self, condition: str) -> None:
        self.page.wait_for_function(condition)

    def do(self, script: str) -> Any:
        return self.page.evaluate(script)

    def speed(self, rate: float) -> None:
        self.do(f"video.playbackRate = {rate}")

    def play_until(self, second: float) -> None:
        """Play, not jump, to a place ahead."""
        self.do("void video.play()")
        self.wait(f"!video.seeking && video.currentTime >= {second}")

    def seek(self, second: float) -> float:
        """Jump; from where, is returned."""
        left: float = self.do(
            f"(() => {{ const left = video.currentTime; video.currentTime = {second}; return left; }})()"
        )
        self.wait("!video.seeking")
        return left

    def pause(self) -> None:
        self.do("video.pause()")
        self.wait("video.paused")

    def busy(self, ms: int, then: str = "") -> None:
        """Block the main thread for so long, then run a script in the same task."""
        self.do(f"(() => {{ const end = performance.now() + {ms}; while (performance.now() < end); {then} }})()")

    def stored(self) -> None:
        """All that was played is on the server."""
        self.do("tracker.flush()")
        self.wait("tracker.pending === 0")

    @property
    def played(self) -> Ranges:
        """The browser's own account, for this page load."""
        script = "Array.from(video.played, (_, i) => [video.played.start(i), video.played.end(i)])"
        return [(start, end) for start, end in self.do(script)]

    @property
    def position(self) -> float:
        return float(self.do("video.currentTime"))

    @property
    def record(self) -> dict[str, Any]:
        return self.server.progress(self.user, self.video)

    def heard(self, event: str) -> list[Any]:
        return [detail for name, detail in json.loads(self.do("JSON.stringify(heard)")) if name == event]


def union(ranges: Iterable[tuple[float, float]]) -> Ranges:
    joined: Ranges = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1] + JOIN_S:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def overlaps(ranges: Ranges) -> Ranges:
    """What lies in two or more of them."""
    return union(
        (max(a[0], b[0]), min(a[1], b[1]))
        for i, a in enumerate(ranges)
        for b in ranges[:i]
        if min(a[1], b[1]) > max(a[0], b[0])
    )


def assert_same_seconds(stored: list[list[int]], real: Ranges) -> None:
    """A second is stored if its middle was played; within half a second of an edge it may be either way."""
    for second in range(DURATION_S):
        middle = second + 0.5
        if any(abs(middle - edge) <= EDGE_S / 2 for each in real for edge in each):
            continue
        was_played = any(a <= middle < b for a, b in real)
        assert was_played == any(a <= second < b for a, b in stored), f"{second}: stored {stored}, really {real}"


def assert_nothing_lost_or_doubled(page: SdkPage, played: Ranges | None = None) -> dict[str, Any]:
    """The record against the browser's own account, where nothing was played twice; `played` of earlier pages."""
    real = union([*(played or []), *page.played])
    record = page.record
    seen = record["seen"]
    assert len(seen) == len(real), f"stored {seen}, really {real}"
    for stored, edges in zip(seen, real, strict=True):
        assert stored == pytest.approx(edges, abs=EDGE_S), f"stored {seen}, really {real}"
    assert record["playedDuration"] == pytest.approx(size(real), abs=EDGE_S)
    assert record["again"] == []
    return record


def size(ranges: Iterable[tuple[float, float]]) -> float:
    return sum(end - start for start, end in ranges)


class Place(NamedTuple):
    """A site whose pages embed the player, and the server that admits them."""

    site: str
    server: Server


Open = Callable[..., SdkPage]


class _Server(Server):
    def __init__(self, data_dir: Path, **settings: str) -> None:
        super().__init__(data_dir)
        self._settings = settings

    def start(self) -> None:
        with pytest.MonkeyPatch.context() as env:
            for name, value in self._settings.items():
                env.setenv(f"PLAYHEAD_{name.upper()}", value)
            super().start()


@contextmanager
def serving_a_site(folder: Path, **settings: str) -> Iterator[Place]:
    """`settings` as the environment gives them. The server may be down at the end."""
    with academy() as site:
        server = _Server(folder / "data", **{"allowed_origins": site, "flush_interval_s": "0.1"} | settings)
        server.start()
        try:
            yield Place(site, server)
        finally:
            server.stop()


def opener(place: Place, new_page: Callable[[], Page]) -> Open:
    """Pages of one learner and one video, each on a device of its own unless it is given a page."""
    user, video = str(uuid.uuid4()), str(uuid.uuid4())

    def open_sdk(page: Page | None = None, **options: Any) -> SdkPage:
        return SdkPage(page or new_page(), place.site, place.server, user, video, **options)

    return open_sdk


def watched_elsewhere(place: Place, user: str, video: str, position: float, since: float = 0) -> dict[str, Any]:
    """Store what another device has played, from `since` to `position`; the record."""
    beat = {"seq": 1, "videoId": video, "played": [[since, position]], "position": position, "duration": DURATION_S}
    body = {"userId": user, "session": str(uuid.uuid4()), "heartbeats": [beat | {"span": 3_600_000, "age": 0}]}
    httpx.post(f"{place.server.url}/progress/realtime", json=body).raise_for_status()
    return until(lambda: stored_at(place, user, video, position), "the record of the other device")


def stored_at(place: Place, user: str, video: str, position: float) -> dict[str, Any]:
    record = place.server.progress(user, video)
    return record if record.get("position") == position else {}
