// A video page that speaks Playhead's WebSocket directly, to show the wire. A real page uses the SDK, as
// player.js does.
//
//   1. Who is watching what
//   2. The wire: connect, say hello, read what comes
//   3. The outbox: a heartbeat is kept until the server says that it is stored
//   4. The playhead: which seconds of the film were really played
//   5. The page
//
// One rule holds it together: send what was played, keep it until it is acked, send it again when in doubt.

import { askForToken, subject, token } from "./token.js";

// ---- 1. Who is watching what ------------------------------------------------------------------------------

const query = new URLSearchParams(location.search);
const userId = token ? subject(token) : (query.get("user") ?? remembered("playhead.user"));
const videoId = query.get("video") ?? "5b1f0c1e-9d3a-4c57-8a44-2f6d7f3e9b10";
const device = remembered("playhead.device");
const session = crypto.randomUUID(); // one page load; its heartbeats are numbered 1, 2, 3…

function remembered(key) {
  const value = localStorage.getItem(key) ?? crypto.randomUUID();
  localStorage.setItem(key, value);
  return value;
}

// ---- 2. The wire ------------------------------------------------------------------------------------------

const PINGS_UNANSWERED = 3; // then the line is taken for dead

let socket;
let state = "connecting"; // connecting | online | offline | refused
let reason = ""; // what the learner should know about it
let welcome = { heartbeatInterval: 5 }; // the server's settings, once it has told them
let record = null; // what the server knows about this learner and this video
let rev; // the learner's revision up to which we know everything
let synced = false; // we have been told all there was
let attempts = 0; // since the last good connection
let retryAfter = 0; // seconds, when the server asks for more than our own backoff
let unanswered = 0; // pings since we last heard anything

function connect() {
  state = "connecting";
  socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws", "playhead.v1.json");
  socket.onopen = () => send({ type: "hello", device, session, token, userId, since: rev, epoch: welcome.epoch });
  socket.onmessage = ({ data }) => {
    unanswered = 0;
    const message = JSON.parse(data);
    log("in", message);
    received[message.type]?.(message); // an unknown type is from a newer server: skip it
    render();
  };
  socket.onclose = closed;
  render();
}

const received = {
  welcome(message) {
    if (message.epoch !== welcome.epoch) {
      record = null; // another store: what we knew was the old one's
      rev = 0;
    }
    welcome = message;
    state = "online";
    reason = "";
    outbox.forEach(deliver); // what was not acked before the line broke, oldest first
  },
  progress({ records }) {
    // Its rev may be beyond a change of our own, which is not pushed to us: only `synced` says that we know all.
    for (const each of records) if (each.videoId === videoId) recordChanged(each);
  },
  synced(message) {
    rev = message.rev;
    synced = true;
    attempts = 0;
    resumeOnce();
  },
  ack({ seq, rejected = [] }) {
    while (outbox.length && outbox[0].seq <= seq) outbox.shift(); // stored, up to and including seq
    for (const each of rejected) reason = `Heartbeat ${each.seq} was refused: ${each.detail}`;
    send({ type: "sync", since: rev }); // our own changes are not pushed to us: ask what they came to
  },
  error({ title, detail }) {
    reason = detail ?? title;
  },
  expiring({ expiresIn }) {
    reason = `The token expires in ${Math.round(expiresIn)} s`; // a real page would get a fresh one and send `auth`
  },
  goodbye(message) {
    retryAfter = message.retryAfter ?? 0; // the close follows
  },
};

function send(message) {
  if (socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  log("out", message);
  return true;
}

// The close code says whether to come back: 4500 to 4999 is for good, anything else is not.
function closed({ code, reason: given }) {
  if (code >= 4500 && code <= 4999) {
    state = "refused";
    reason ||= given || `The server refused this page (close code ${code}).`;
    if (code === 4500 || code === 4503) askForToken(); // none, one that is not valid, or another learner's
  } else {
    if (code === 4005) askForToken(); // it has expired
    state = "offline";
    reason = `Not connected (close code ${code}). What you watch is kept here until the line is back.`;
    setTimeout(connect, 1000 * retryAfter + backoff(attempts++));
    retryAfter = 0;
  }
  render();
}

// Doubling from 1 s to 30 s, and never the same for everybody: many pages lose a server at one moment.
function backoff(attempt) {
  return Math.min(30_000, 1000 * 2 ** attempt) * (0.5 + Math.random() / 2);
}

// A browser may not notice a dead line for minutes, so ask. Count pings, not seconds: a hidden tab is slow.
function watchTheLine() {
  if (state === "online" && ++unanswered > PINGS_UNANSWERED) socket.close();
  else if (state === "online") send({ type: "ping" });
  setTimeout(watchTheLine, 1000 * welcome.heartbeatInterval);
}

// ---- 3. The outbox ----------------------------------------------------------------------------------------

const MOST_PLAYED = 100; // stretches in one heartbeat, to stay far below the server's maxFrame
const POSITIONS_KEPT = 20;

const outbox = []; // heartbeats that are not acked, oldest first
const sentPositions = []; // the last few, to tell our own position from another device's
let lastSeq = 0;

// A heartbeat that was ever sent never changes, for the server may have stored it. One that was not, because
// the line is down, takes in the next: an hour offline is one entry, not seven hundred.
function post(heartbeat) {
  const last = outbox.at(-1);
  if (last && !last.sent && last.played.length < MOST_PLAYED) {
    for (const stretch of heartbeat.played) append(last.played, stretch);
    Object.assign(last, heartbeat, {
      played: last.played,
      seek: last.seek || heartbeat.seek,
      span: last.span + heartbeat.span,
    });
  } else {
    outbox.push({ seq: ++lastSeq, sent: false, ...heartbeat });
  }
  sentPositions.push(heartbeat.position);
  if (sentPositions.length > POSITIONS_KEPT) sentPositions.shift();
  if (state === "online") deliver(outbox.at(-1));
  render();
}

function deliver(heartbeat) {
  if (send({ type: "heartbeat", ...onWire(heartbeat) })) heartbeat.sent = true;
}

// The server dates a heartbeat by its age, so this machine's clock may be as wrong as it likes.
function onWire({ sent, madeAt, ...fields }) {
  return { ...fields, age: Math.max(0, Date.now() - madeAt) };
}

// ---- 4. The playhead --------------------------------------------------------------------------------------
//
// What was played is measured on the film's own clock, not with a timer: a stall, a slow machine or double
// speed cannot make it wrong. A stretch runs from where playing began to where it stopped; a seek ends one
// and begins another.

const TIMEUPDATE_S = 0.25; // while it plays, a browser reports the playhead at least this often
const SEEK_SETTLES_MS = 250; // dragging the bar is many seeks, and one heartbeat

const video = document.querySelector("video");
const played = []; // finished stretches since the last heartbeat, [from, to] in seconds of the film
let from = null; // where the running stretch began; null while nothing plays
let head = 0; // the last playhead that was seen,
let headAt = 0; // and when
let moved = false; // the learner has moved the playhead since the last heartbeat
let resuming = "not yet"; // not yet | seeking | done
let resumeTo = 0;
let lastBeat = Date.now();
let seekSettles;

for (const event of ["playing", "timeupdate", "seeked", "pause"]) video.addEventListener(event, follow);
video.addEventListener("timeupdate", () => {
  if (Date.now() - lastBeat >= 1000 * welcome.heartbeatInterval) beat();
});
video.addEventListener("pause", beat); // at the end of the film too: a browser pauses, then says `ended`
video.addEventListener("seeking", () => {
  finish(headBeforeSeek());
  if (resuming !== "seeking" || Math.abs(video.currentTime - resumeTo) > 0.1) moved = true;
});
video.addEventListener("seeked", () => {
  if (video.seeking) return; // the next one has begun
  if (resuming === "seeking") resuming = "done";
  clearTimeout(seekSettles);
  seekSettles = setTimeout(beat, SEEK_SETTLES_MS);
});
video.addEventListener("loadedmetadata", resumeOnce);
document.addEventListener("visibilitychange", () => document.hidden && beat());
addEventListener("pagehide", () => {
  beat();
  // The socket may be gone before the last heartbeat is. A beacon outlives the page; twice does no harm.
  const heartbeats = outbox.map(onWire);
  const body = JSON.stringify({ token, userId, session, heartbeats }); // a beacon has no headers
  if (heartbeats.length) navigator.sendBeacon("/progress/realtime", body);
});

function follow() {
  if (video.seeking) return; // currentTime is already the target
  head = video.currentTime;
  headAt = performance.now();
  if (video.paused) finish(head);
  else from ??= head;
}

function finish(to) {
  if (from !== null && to > from) append(played, [from, to]);
  from = null;
}

// At `seeking` the old playhead is gone. By the clock it was at most one `timeupdate` beyond the last that we
// saw; and video.played ends just there, unless what follows was played before. The nearer one is right.
function headBeforeSeek() {
  const sinceSeen = Math.min((performance.now() - headAt) / 1000, TIMEUPDATE_S);
  const stretch = ranges(video.played).find(([start, end]) => start <= head && head <= end);
  return Math.min(head + sinceSeen * video.playbackRate, stretch ? stretch[1] : head);
}

function beat() {
  if (resuming !== "done" || video.seeking) return;
  follow();
  if (from !== null) {
    finish(head);
    from = head; // and on it plays
  }
  if (!played.length && !moved) return; // a paused player has nothing to say
  const now = Date.now();
  post({
    videoId,
    position: round(head),
    played: played.splice(0).map((stretch) => stretch.map(round)),
    duration: round(video.duration),
    state: video.ended ? "ended" : video.paused ? "paused" : "playing",
    seek: moved,
    span: now - lastBeat, // ms of wall time that this covers
    madeAt: now,
  });
  moved = false;
  lastBeat = now;
}

// Once, when both the record and the film are there; not if the learner has gone ahead without waiting.
function resumeOnce() {
  if (resuming !== "not yet" || !synced || video.readyState < HTMLMediaElement.HAVE_METADATA) return;
  resumeTo = record?.resume ?? 0;
  resuming = resumeTo > 0 && !moved && video.currentTime < 1 ? "seeking" : "done";
  if (resuming === "seeking") video.currentTime = resumeTo;
  else beat(); // what the learner did while we waited
}

function append(stretches, [start, end]) {
  const last = stretches.at(-1);
  if (last && last[1] === start) last[1] = end;
  else stretches.push([start, end]);
}

function ranges(timeRanges) {
  return Array.from({ length: timeRanges.length }, (_, i) => [timeRanges.start(i), timeRanges.end(i)]);
}

function round(seconds) {
  return Math.round(seconds * 1000) / 1000;
}

// ---- 5. The page ------------------------------------------------------------------------------------------

const LOG_LINES = 40;
const CONNECTION = {
  connecting: "Connecting…",
  online: "Live",
  offline: "Reconnecting…",
  refused: "Refused",
};

let elsewhere = null; // another device's position, while that is the one which counts

// Whose is a new position? Ours, if this page has sent it; else another device of this learner has moved on.
function recordChanged(next) {
  if (synced && next.position !== undefined && next.position !== record?.position) {
    const ours = sentPositions.some((each) => Math.abs(each - next.position) < 0.01);
    elsewhere = ours ? null : next.position;
  }
  record = next.deletedAt ? null : next;
}

function render() {
  const duration = video.duration || record?.duration || 0;
  const seen = record?.seen ?? [];
  const unacked = [...outbox.flatMap((heartbeat) => heartbeat.played), ...played];
  if (from !== null) unacked.push([from, head]);

  document.body.dataset.state = state;
  show("connection", CONNECTION[state]);
  show("reason", reason);
  show("position", `${clock(video.currentTime)} / ${clock(duration)}`);
  show("watched", `${record?.watchedDuration ?? 0} of ${Math.round(duration)} s`);
  show("completed", record?.completed ? "Completed" : "");
  show("resume", record?.resume ? clock(record.resume) : "the start");
  show("waiting", outbox.length === 1 ? "1 heartbeat" : `${outbox.length} heartbeats`);
  show("elsewhere", elsewhere === null ? "" : `Another device is at ${clock(elsewhere)}.`);
  element("follow").hidden = elsewhere === null;

  const percent = (seconds) => `${duration ? Math.min(100, (100 * seconds) / duration) : 0}%`;
  const segments = (kind, stretches) =>
    stretches.map(([start, end]) => {
      const segment = document.createElement("i");
      segment.className = kind;
      segment.style.left = percent(start);
      segment.style.width = percent(end - start);
      return segment;
    });
  element("bar").replaceChildren(
    ...segments("seen", seen),
    ...segments("again", record?.again ?? []),
    ...segments("unacked", unacked),
    ...segments("head", [[video.currentTime, video.currentTime]]),
  );
  const spoken = seen.map(([start, end]) => `${clock(start)} to ${clock(end)}`).join(", ");
  element("bar").setAttribute("aria-label", `Seconds seen: ${spoken || "none yet"}`);
}

function element(id) {
  return document.getElementById(id);
}

// Only what changed is written, or a screen reader would say it all again four times a second.
function show(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function clock(seconds) {
  const whole = Math.floor(seconds || 0);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function log(direction, message) {
  if (message.type === "ping" || message.type === "pong") return; // every few seconds, and never news
  const line = document.createElement("li");
  line.className = direction;
  line.textContent = JSON.stringify(message, (key, value) => (key === "token" ? "…" : value));
  element("log").prepend(line);
  while (element("log").children.length > LOG_LINES) element("log").lastChild.remove();
}

for (const event of ["timeupdate", "seeked", "durationchange"]) video.addEventListener(event, render);
element("follow").addEventListener("click", () => {
  video.currentTime = elsewhere;
  elsewhere = null;
});
element("second").href = `?${new URLSearchParams(token ? { video: videoId } : { user: userId, video: videoId })}`;

// For the browser's console, and for tests.
window.playhead = {
  get record() {
    return record;
  },
  get pending() {
    return outbox;
  },
  get state() {
    return state;
  },
};

connect();
watchTheLine();
