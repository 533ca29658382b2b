// The demo: one line attaches the SDK, and the rest of this file is the page around it.
//
//   1. Who is watching what
//   2. The one line
//   3. What is stored
//   4. The light: stored, waiting, offline
//   5. The heat strip
//   6. Continue from 12:34?
//   7. Controls and keys
//   8. Another device
//   9. The last frames

import { attach } from "./client/playhead.js";
import { askForToken, subject, token } from "./token.js";

const video = document.querySelector("video");
const element = (id) => document.getElementById(id);

// ---- 1. Who is watching what ------------------------------------------------------------------------------

const query = new URLSearchParams(location.search);
const userId = token ? undefined : (query.get("user") ?? remembered("playhead.user"));
const videoId = query.get("video") ?? "5b1f0c1e-9d3a-4c57-8a44-2f6d7f3e9b10";

function remembered(key) {
  const fresh = crypto.randomUUID();
  try {
    const value = localStorage.getItem(key) ?? fresh;
    localStorage.setItem(key, value);
    return value;
  } catch {
    return fresh; // the browser forbids it: somebody new on each visit
  }
}

// ---- 2. The one line --------------------------------------------------------------------------------------

tapTheWire(); // for part 9 only
const tracker = attach(video, { videoId, userId, getToken: token && (() => token), resume: "prompt" });

tracker.on("state", render);
tracker.on("synced", ({ record }) => record?.rev && refresh()); // else there is nothing yet
tracker.on("ack", refresh);
tracker.on("completed", refresh);
tracker.on("elsewhere", movedElsewhere);
tracker.on("resume", ask);
const NO_TOKEN = ["401", "4005", "4500", "4503"]; // none, an old one, one that is not valid, or another learner's
tracker.on("error", ({ code, message, fatal }) => {
  show("alert", fatal ? `${message.replace(/\.$/, "")}. Nothing more is stored from this page.` : message);
  element("alert").hidden = false;
  if (NO_TOKEN.includes(code)) askForToken();
});

// ---- 3. What is stored ------------------------------------------------------------------------------------
//
// The tracker's own record runs ahead: it has what was played here at once. This page also shows what is stored and
// what is not yet, so whenever something has changed it asks the server. Most pages need not.

let record; // the server's
let asking = false;
let askAgain = false;

async function refresh() {
  render();
  if (asking) return void (askAgain = true);
  asking = true;
  do {
    askAgain = false;
    try {
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      const answer = await fetch(`progress/${userId ?? subject(token)}/${videoId}?detail=full`, { headers });
      if (answer.ok) record = await answer.json();
    } catch {} // offline: the next ack asks again
  } while (askAgain);
  asking = false;
  render();
}

/** Whole seconds that the browser has played and the server has not confirmed. */
function unstored() {
  if (!tracker.pending && !asking) return [];
  const known = new Set(seconds(record?.seen ?? []));
  const played = Array.from({ length: video.played.length }, (_, i) => [
    Math.round(video.played.start(i)),
    Math.round(video.played.end(i)),
  ]);
  const stretches = [];
  for (const second of [...new Set(seconds(played))].sort((a, b) => a - b)) {
    if (known.has(second)) continue;
    if (stretches.at(-1)?.[1] === second) stretches.at(-1)[1]++;
    else stretches.push([second, second + 1]);
  }
  return stretches;
}

function seconds(stretches) {
  return stretches.flatMap(([from, to]) => Array.from({ length: to - from }, (_, i) => from + i));
}

function length(stretches = []) {
  return stretches.reduce((sum, [from, to]) => sum + to - from, 0);
}

// ---- 4. The light -----------------------------------------------------------------------------------------

const GRACE_MS = 2_000; // an ack takes up to a flush, a second: before that nobody waits
const WORDS = { stored: "Stored", waiting: "Waiting", offline: "Offline", refused: "Refused" };

let met = false; // the server has answered once
let lateSince; // since when more waits than what is being played now

function light() {
  const { state, pending } = tracker;
  const connected = state === "online" || state === "fallback";
  if (connected) met = true;
  if (pending > (video.paused ? 0 : 1)) lateSince ??= Date.now();
  else lateSince = undefined;
  if (state === "stopped") return "refused";
  if (!connected) return met || state === "offline" ? "offline" : "waiting";
  return Date.now() - lateSince > GRACE_MS ? "waiting" : "stored";
}

function detail(now) {
  const { state, pending } = tracker;
  const heartbeats = pending === 1 ? "1 heartbeat" : `${pending} heartbeats`;
  switch (now) {
    case "refused":
      return "this page may not report";
    case "offline":
      return pending ? `${heartbeats} kept in this browser until the line is back` : "trying to reach the server";
    case "waiting":
      return met ? `${heartbeats} not confirmed yet` : "connecting to the server";
    default:
      if (!pending && !record) return "nothing watched yet";
      return (pending ? "all but the last few seconds" : "all you watched") + (state === "fallback" ? ", by HTTP" : "");
  }
}

function renderLight() {
  const now = light();
  element("light").dataset.light = now;
  show("state", now === "waiting" && !met ? "Connecting" : WORDS[now]);
  show("detail", detail(now));
}

// ---- 5. The heat strip ------------------------------------------------------------------------------------

const strip = element("strip");
const LEAST_CELL_PX = 4; // narrower seconds are drawn without a gap
const AXIS_STEPS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
const LABEL_PX = 60;

let drawn; // what the strip shows, as text: it is drawn anew only if that changes

const duration = () => video.duration || record?.duration || 0;
const percent = (second) => `${duration() ? Math.min(100, (100 * second) / duration()) : 0}%`;

function renderStrip() {
  const layers = { seen: record?.seen ?? [], again: record?.again ?? [], unstored: unstored() };
  const shape = JSON.stringify([layers, duration(), strip.clientWidth]);
  if (shape !== drawn) {
    drawn = shape;
    draw(layers);
  }
  element("head").style.left = percent(video.currentTime);
  mark("resume-flag", record?.resume || undefined);
  mark("there", there);

  strip.ariaValueMax = String(Math.round(duration()));
  strip.ariaValueNow = String(Math.floor(video.currentTime));
  strip.ariaValueText = `${clock(video.currentTime)} of ${clock(duration())}, ${kind(Math.floor(video.currentTime))}`;
}

function draw(layers) {
  const segments = Object.entries(layers).flatMap(([kind, stretches]) =>
    stretches.map(([from, to]) => {
      const segment = document.createElement("i");
      segment.className = kind;
      segment.style.left = percent(from);
      segment.style.width = percent(Math.min(to, duration()) - from);
      return segment;
    }),
  );
  element("seconds").replaceChildren(...segments);

  const width = strip.clientWidth;
  element("cells").hidden = !(width / duration() >= LEAST_CELL_PX);
  element("cells").style.setProperty("--cell", `calc(100% / ${duration()})`);

  const most = Math.max(1, Math.floor(width / LABEL_PX));
  const step = AXIS_STEPS.find((each) => duration() / each <= most) ?? duration();
  const labels = [];
  for (let at = 0; duration() && at <= duration(); at += step) {
    const label = document.createElement("span");
    label.textContent = clock(at);
    label.style.left = percent(at);
    labels.push(label);
  }
  element("axis").replaceChildren(...labels);
  element("axis").classList.toggle("whole", duration() % step === 0);

  const spoken = layers.seen.map(([from, to]) => `${clock(from)} to ${clock(to)}`).join(", ");
  show("seen-words", spoken ? `Seen: ${spoken}.` : "Nothing seen yet.");
}

function mark(id, second) {
  element(id).hidden = second === undefined;
  if (second !== undefined) element(id).style.left = percent(second);
}

function kind(second) {
  const within = ([from, to]) => from <= second && second < to;
  if (record?.again?.some(within)) return "seen again";
  return record?.seen?.some(within) ? "seen" : unstored().some(within) ? "not stored yet" : "not seen";
}

function secondAt({ clientX }) {
  const { left, width } = strip.getBoundingClientRect();
  const second = Math.floor((duration() * (clientX - left)) / width);
  return Math.max(0, Math.min(second, Math.ceil(duration()) - 1));
}

function hover(event) {
  const second = secondAt(event);
  element("bubble").hidden = !duration();
  element("bubble").style.left = percent(second + 0.5);
  show("bubble", `${clock(second)} · ${kind(second)}`);
}

strip.addEventListener("pointerdown", (event) => {
  if (event.button || !duration()) return;
  strip.setPointerCapture(event.pointerId);
  seek(secondAt(event));
});
strip.addEventListener("pointermove", (event) => {
  hover(event);
  if (strip.hasPointerCapture(event.pointerId) && !video.seeking) seek(secondAt(event));
});
strip.addEventListener("pointerup", (event) => {
  if (strip.hasPointerCapture(event.pointerId) && Math.floor(video.currentTime) !== secondAt(event))
    seek(secondAt(event));
});
strip.addEventListener("pointerleave", () => (element("bubble").hidden = true));
new ResizeObserver(render).observe(strip);

// ---- 6. Continue from 12:34? ------------------------------------------------------------------------------

let answer; // { accept, dismiss }, while the question stands

function ask(resume) {
  answer = resume;
  video.pause(); // somebody may have begun without waiting
  show("question", `Continue from ${clock(resume.position)}?`);
  show("so-far", `You have watched ${tracker.watched} of ${Math.round(duration())} seconds.`);
  element("prompt").hidden = false;
  element("continue").focus({ preventScroll: true });
}

function answered(how) {
  const { [how]: act } = answer ?? {};
  answer = undefined;
  if (element("prompt").contains(document.activeElement)) strip.focus({ preventScroll: true, focusVisible: false });
  element("prompt").hidden = true;
  act?.();
}

element("continue").addEventListener("click", () => {
  answered("accept");
  play();
});
element("restart").addEventListener("click", () => {
  answered("dismiss");
  play();
});
video.addEventListener("seeking", () => answer && answered("dismiss")); // an answer too
video.addEventListener("play", () => answer && answered("accept")); // by a media key

// ---- 7. Controls and keys ---------------------------------------------------------------------------------

const STEP_S = 5;

video.removeAttribute("controls"); // ours follow; without scripts there are the browser's

function play() {
  video.play().catch(() => {}); // the browser wants a gesture first: the button says that it is paused
}

function toggle() {
  if (answer) answered("accept");
  if (video.paused) play();
  else video.pause();
}

function seek(second) {
  video.currentTime = Math.max(0, Math.min(second, duration()));
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else element("stage").requestFullscreen?.();
}

const KEYS = {
  " ": toggle,
  k: toggle,
  f: fullScreen,
  ArrowLeft: () => seek(video.currentTime - STEP_S),
  ArrowRight: () => seek(video.currentTime + STEP_S),
  Home: () => seek(0),
  End: () => seek(duration()),
  Escape: () => answer && answered("dismiss"),
};

/** Whether what has the focus has a use for the key itself. */
function isTheirs({ key, target }) {
  if (key === "Escape") return false;
  return target.closest("input, select, #frames, #prompt") || (key === " " && target.closest("button, a, summary"));
}

document.addEventListener("keydown", (event) => {
  const act = KEYS[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || isTheirs(event)) return;
  event.preventDefault();
  act();
});

element("play").addEventListener("click", toggle);
video.addEventListener("click", toggle);
element("back").addEventListener("click", KEYS.ArrowLeft);
element("ahead").addEventListener("click", KEYS.ArrowRight);
element("full").addEventListener("click", fullScreen);
element("full").hidden = !document.fullscreenEnabled;
element("speed").addEventListener("change", (event) => (video.playbackRate = Number(event.target.value)));

function renderControls() {
  element("play").classList.toggle("playing", !video.paused);
  element("play").ariaLabel = video.paused ? "Play" : "Pause";
  show("now", clock(video.currentTime));
  show("total", `/ ${clock(duration())}`);
  show("watched", `${record?.watchedDuration ?? 0} of ${Math.round(duration())} s`);
  show("share", duration() ? `${Math.floor((100 * (record?.watchedDuration ?? 0)) / duration())} %` : "");
  show("completed", record?.completed ? "Completed" : "");
  show("again", `${length(record?.again)} s`);
  show("resume", record?.resume ? clock(record.resume) : "the start");
  const { pending } = tracker;
  show("pending", pending ? `${pending} ${pending === 1 ? "heartbeat" : "heartbeats"}` : "nothing");
}

// ---- 8. Another device ------------------------------------------------------------------------------------

let there; // where another device is, while that is the latest word
let staying = false; // the learner has said so: then only the mark moves

function movedElsewhere({ position }) {
  there = position;
  show("elsewhere-words", `Another device is at ${clock(position)}.`);
  element("elsewhere").hidden = staying || !video.paused || Boolean(answer);
  refresh();
}

function forgetElsewhere() {
  there = undefined;
  element("elsewhere").hidden = true;
  render();
}

element("follow").addEventListener("click", () => {
  seek(there);
  forgetElsewhere();
});
element("stay").addEventListener("click", () => {
  staying = true;
  element("elsewhere").hidden = true;
});
video.addEventListener("play", forgetElsewhere);

const same = new URL("?", location.href);
same.search = new URLSearchParams(token ? { video: videoId } : { user: userId, video: videoId });
if (token) show("link-words", "Sign in with this learner's token there, too.");
element("link").value = element("second").href = same.href;
element("link").addEventListener("focus", () => element("link").select());
element("by-hand").href = `wire.html${same.search}`;

element("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(same.href);
    show("copy", "Copied");
    setTimeout(show, 2_000, "copy", "Copy link");
  } catch {
    element("link").focus(); // no clipboard without https: it is selected, to be copied by hand
  }
});

// ---- 9. The last frames -----------------------------------------------------------------------------------

const FRAMES_SHOWN = 40;

/** Stands between the SDK and the browser's WebSocket, and changes nothing. */
function tapTheWire() {
  globalThis.WebSocket = class extends WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => frame("received", data));
      this.addEventListener("close", ({ code }) => frame("received", JSON.stringify({ type: "closed", code })));
    }
    send(data) {
      frame("sent", data);
      super.send(data);
    }
  };
}

function frame(direction, text) {
  const { type, ...rest } = JSON.parse(text, (key, value) => (key === "token" ? "…" : value));
  if (type === "ping" || type === "pong") return; // every few seconds, and never news
  const said = `${direction === "sent" ? "↑" : "↓"} ${type} ${JSON.stringify(rest)}`;
  const line = document.createElement("li");
  line.className = direction;
  line.textContent = said;
  element("frames").prepend(line);
  while (element("frames").children.length > FRAMES_SHOWN) element("frames").lastChild.remove();
  show("last", said);
}

// ---- All of it --------------------------------------------------------------------------------------------

/** Only what changed is written, or a screen reader would say it all again four times a second. */
function show(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function clock(at) {
  const whole = Math.floor(at || 0);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const tail = String(whole % 60).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

function render() {
  renderLight();
  renderStrip();
  renderControls();
}

for (const event of ["timeupdate", "seeking", "seeked", "durationchange", "play", "pause"])
  video.addEventListener(event, render);
setInterval(render, 500); // what waits too long is told by no event
render();

window.playhead = tracker; // for the browser's console, and for tests
