// Tells Playhead what was really played, and keeps that until it is stored. See types.d.ts.
//   import { attach } from "/client/playhead.js";
//   const tracker = attach("video", { videoId, getToken });
/** @import { Ack, Entry, Events, Options, ProgressRecord, State, Store, Tracker } from "./types.d.ts" */

const MOST_PLAYED = 100;
const MOST_KEPT = 500;
const MOST_ADOPTED = 32;
const WINDOW = 32;
const BURST = 100;
const PER_S = 15;
const BODY = 39_000;
const PING_MS = 5_000;
const PINGS = 3;
const SAVE_MS = 1_000;
const UNOPENED = 3;
const AHEAD_S = 3;

/**
 * @param {HTMLMediaElement | string} target
 * @param {Options} options
 * @returns {Tracker}
 */
export function attach(target, options) {
  const media = /** @type {HTMLMediaElement} */ (typeof target === "string" ? document.querySelector(target) : target);
  if (!media) throw new TypeError(`playhead: no ${target}`);
  const { endpoint = new URL("..", import.meta.url), getToken, resume: how = "auto" } = options;
  const { transports = ["ws", "http"] } = options;
  const ws = transports.includes("ws");
  const { minMs = 1_000, maxMs = 30_000 } = options.reconnect ?? {};
  const base = new URL(endpoint, location.href).href.replace(/\/$/, "");
  const abort = new AbortController();
  const { signal } = abort;

  const bus = new EventTarget();
  let state = /** @type {State} */ ("connecting");
  /** @type {Record<string, any>} */
  const timers = {};

  /** @type {<K extends keyof Events>(event: K, detail: Events[K]) => void} */
  function emit(event, detail) {
    bus.dispatchEvent(new CustomEvent(event, { detail }));
  }

  function setState(next = state) {
    if (state !== next) emit("state", (state = next));
  }

  function complain(code = "", message = "", fatal = false) {
    if (fatal) console.error("playhead", code, message);
    emit("error", { code, message, fatal });
  }

  function after(name = "", ms = 0, fn = beat) {
    clearTimeout(timers[name]);
    if (!signal.aborted) timers[name] = setTimeout(fn, ms);
  }

  // ---- Outbox ----

  let videoId = options.videoId.toLowerCase();
  let user = options.userId?.toLowerCase();
  let session = "";
  let lastSeq = 0;
  /** @type {Entry[]} */
  let own = [];
  /** @type {Map<string, Entry[]>} */
  const boxes = new Map(); // by session, ours and those of dead pages
  /** @type {Map<string, Function>} */
  const releases = new Map();
  /** @type {{ seq: number, name: string, ok: () => void, fail: (error: Error) => void }[]} */
  let flushes = [];
  /** @type {Store | undefined} */
  let store;

  function newSession() {
    session = random();
    lastSeq = 0;
    boxes.set(session, (own = []));
    return hold(session);
  }

  /** Who has a session's lock owns its outbox. @returns {Promise<boolean>} */
  function hold(name = "") {
    return new Promise((ok) => {
      if (!navigator.locks) return ok(true); // what two send counts once
      navigator.locks
        .request("playhead " + name, { ifAvailable: true }, (lock) => {
          ok(!!lock);
          return lock && !signal.aborted && new Promise((free) => releases.set(name, free));
        })
        .catch(() => ok(false));
    });
  }

  function release(name = "") {
    releases.get(name)?.();
    releases.delete(name);
  }

  async function adopt() {
    if (!store || !user) return;
    for (const name of await store.sessions(user)) {
      if (boxes.has(name) || boxes.size > MOST_ADOPTED || !(await hold(name))) continue;
      const box = await store.all(user, name);
      if (!box.length) release(name);
      else boxes.set(name, box.map((entry) => ({ ...entry, due: true, sent: undefined })));
    }
  }

  /** What was ever sent never changes: it may be stored. */
  function growing() {
    const last = own.at(-1);
    return last && last.sent === undefined && last.videoId === videoId ? last : undefined;
  }

  function grow() {
    let entry = growing();
    if (!entry || entry.played.length >= MOST_PLAYED) {
      if (entry) entry.due = true;
      own.push((entry = { seq: ++lastSeq, videoId, played: [], startAt: lookedAt, madeAt: lookedAt }));
      if (own.length > MOST_KEPT) {
        forget(session, own.splice(0, 1)[0].seq);
        complain("full", "The oldest heartbeat was dropped");
      }
    }
    return entry;
  }

  /** @param {Entry} entry */
  function touch(entry, now = Date.now()) {
    entry.madeAt = now;
    if (resume === "done") entry.position = record().position = record().resume = head;
    if (media.duration >= 1 && media.duration < Infinity) entry.duration = media.duration;
    if (now - (entry.savedAt ?? 0) >= SAVE_MS) save(entry);
  }

  /** @param {Entry} entry */
  function save(entry) {
    entry.savedAt = Date.now();
    entry.state = media.ended ? "ended" : media.paused ? "paused" : "playing";
    if (user) store?.put([user, session, entry.seq], entry);
  }

  function forget(name = "", seq = 0) {
    if (user) store?.remove(user, name, seq);
  }

  /** @param {Ack} ack */
  function acked(ack) {
    const { session: name, seq, rejected = [] } = ack;
    const box = boxes.get(name);
    if (!box) return;
    while (box[0]?.sent !== undefined && box[0].seq <= seq) box.shift();
    forget(name, seq);
    if (!box.length && box !== own) {
      boxes.delete(name);
      release(name);
    }
    rejected.forEach(received.error);
    emit("ack", ack);
    flushes = flushes.filter((each) => {
      const waits = boxes.get(each.name)?.some((entry) => entry.seq <= each.seq);
      if (!waits) each.ok();
      return waits;
    });
    pump();
  }

  /** Dated by its age, for clocks are wrong. @type {(name: string, entry: Entry) => object} */
  function onWire(name, { seq, videoId, played, position, duration, state, seek, startAt, madeAt }) {
    if (position !== undefined) ours.push((position = round(position)));
    ours.splice(0, ours.length - 50);
    return {
      seq,
      videoId,
      played: played.map((stretch) => stretch.map(round)),
      position,
      duration,
      state,
      seek,
      span: Math.max(0, Math.min(172_800_000, madeAt - startAt)),
      age: Math.max(0, Date.now() - madeAt),
      session: name === session ? undefined : name,
    };
  }

  /** What may go: nothing of ours before the resume has settled. */
  function* waiting(leaving = false) {
    for (const [name, box] of boxes)
      for (const entry of box) {
        if (!entry.due || (box === own && entry.position === undefined && !leaving)) break;
        yield { name, entry };
      }
  }

  function pump() {
    if (!ready) return http && post();
    const now = performance.now();
    credit = Math.min(BURST, credit + ((now - paidAt) / 1000) * PER_S);
    paidAt = now;
    let flying = 0;
    for (const { name, entry } of waiting()) {
      if (flying++ >= WINDOW) break;
      if (entry.sent === connection) continue;
      if (credit < 1) return after("pace", 1000, pump);
      credit--;
      entry.sent = connection;
      send({ type: "heartbeat", ...onWire(name, entry) });
    }
  }

  function envelope(leaving = false) {
    const heartbeats = [];
    let bytes = 0;
    for (const { name, entry } of waiting(leaving)) {
      const heartbeat = onWire(name, entry);
      if ((bytes += JSON.stringify(heartbeat).length) > BODY) break;
      entry.sent ??= 0;
      heartbeats.push(heartbeat);
    }
    return heartbeats.length && user ? JSON.stringify({ userId: user, session, token, heartbeats }) : "";
  }

  // ---- The line ----

  /** @type {WebSocket | undefined} */
  let socket;
  let connection = 1;
  let ready = false; // welcomed
  let readyAt = 0;
  let http = false;
  let connecting = false;
  let posting = false;
  let stopped = false;
  let attempts = 0;
  let unopened = 0;
  let unanswered = 0;
  let refused = 0; // tokens
  let notBefore = 0;
  let wakeAt = Infinity;
  let credit = 0; // frames
  let paidAt = 0;
  let { device } = options;
  /** @type {string | undefined} */
  let token;
  let epoch = "";
  let rev = 0;
  let heartbeatMs = options.heartbeatMs ?? 5_000;

  function send(message = {}) {
    if (socket?.readyState === 1) socket.send(JSON.stringify(message));
  }

  async function connect() {
    clearTimeout(timers.retry);
    wakeAt = Infinity;
    if (stopped || socket || connecting) return;
    connecting = true;
    const known = await prepare();
    connecting = false;
    if (stopped || left) return;
    if (!known) {
      setState("offline");
      return retry();
    }
    if (!ws) return poll();
    if (!http) setState("connecting");
    try {
      const line = (socket = new WebSocket(base.replace(/^http/, "ws") + "/ws", "playhead.v1.json"));
      line.onopen = () => send({ type: "hello", device, session, token, userId: user, since: rev, epoch });
      line.onmessage = ({ data }) => {
        if (line !== socket) return;
        unanswered = 0;
        const message = JSON.parse(data);
        received[message.type]?.(message);
      };
      line.onclose = ({ code, reason }) => line === socket && closed(code, reason);
      after("line", 2 * PING_MS, () => closed());
    } catch {
      closed();
    }
  }

  async function prepare() {
    await open(); // without a network there is no token
    if (!(await renew(refused > 0))) return false;
    const subject = subjectOf(token) ?? user;
    if (!subject || (user && subject !== user)) stop("user", user ? "Another learner's token" : "No userId");
    else user = subject;
    await open();
    await adopt();
    return true;
  }

  async function open() {
    if (store || !user) return;
    store = await openStore(options.storage);
    if (signal.aborted) store.close();
    device ??= await store.device();
    own.forEach(save);
  }

  async function renew(fresh = true) {
    try {
      token = await getToken?.({ fresh });
      return true;
    } catch (error) {
      complain("token", `getToken: ${error}`);
    }
  }

  /** @type {Record<string, (message: any) => void>} */
  const received = {
    welcome(message) {
      if (epoch && message.epoch !== epoch) {
        records.clear(); // another store
        rev = 0;
      }
      epoch = message.epoch;
      heartbeatMs = options.heartbeatMs ?? 1000 * message.heartbeatInterval;
      ready = true;
      readyAt = Date.now();
      http = false;
      unopened = notBefore = 0;
      credit = BURST;
      after("line", PING_MS, watchTheLine);
      setState("online");
      pump();
    },
    progress(message) {
      if (!synced) rev = message.rev; // a push may pass over ours
      message.records.forEach(learn);
    },
    synced(message) {
      rev = message.rev;
      inform();
    },
    ack(message) {
      acked(message);
      if (nearlyDone()) send({ type: "sync", since: rev });
    },
    error: ({ code, detail }) => complain(code, detail),
    async expiring() {
      const line = socket;
      if ((await renew()) && line === socket) send({ type: "auth", token });
    },
    goodbye(message) {
      notBefore = Date.now() + 1000 * message.retryAfter;
    },
  };

  /** By pings: a hidden tab is slow. */
  function watchTheLine() {
    if (unanswered++ >= PINGS) return closed();
    send({ type: "ping" });
    after("line", PING_MS, watchTheLine);
  }

  function drop() {
    clearTimeout(timers.line);
    const line = socket;
    socket = undefined;
    ready = false;
    connection++;
    line?.close();
  }

  function closed(code = 1006, reason = "") {
    drop();
    if (stopped) return;
    if (code >= 3000 && code % 1000 >= 500) return stop(`${code}`, reason);
    if (!readyAt) unopened++;
    else if (Date.now() - readyAt > 10_000) attempts = refused = 0;
    readyAt = 0;
    if (code === 4005) {
      if (refused++ || !getToken) return stop(`${code}`, "The token has expired");
      return schedule();
    }
    if (transports.includes("http") && unopened >= UNOPENED) poll();
    else setState("offline");
    retry();
  }

  function retry() {
    schedule(Math.random() * Math.min(maxMs, minMs * 2 ** attempts++));
  }

  function schedule(ms = 0) {
    wakeAt = Math.max(Date.now() + ms, notBefore);
    after("retry", wakeAt - Date.now(), connect);
  }

  function wake() {
    if (stopped || left) return;
    if (!socket) return schedule();
    if (!ready) return;
    adopt().then(pump);
    unanswered = PINGS;
    send({ type: "ping" });
    after("line", 3_000, watchTheLine);
  }

  function stop(code = "", message = "") {
    stopped = true;
    http = false;
    drop();
    setState("stopped");
    for (const { fail } of flushes.splice(0)) fail(new Error(code));
    if (!signal.aborted) complain(code, message || "Refused", true);
  }

  async function poll(news = false) {
    if (!http || news) {
      const answer = await ask(`/progress/${user}/${videoId}?detail=full`, {
        headers: token ? { Authorization: `Bearer ${token}` } : {},
      });
      if (!answer) return;
      http = true; // before that nothing is sent: it could grow no more
      if (answer.rev) learn(answer);
      inform();
    }
    post();
  }

  async function post() {
    const body = posting || ready || Date.now() < notBefore ? "" : envelope();
    if (!body) return;
    posting = true;
    const answer = await ask("/progress/realtime", { method: "POST", body }); // text/plain: no preflight
    posting = false;
    if (!answer) return;
    answer.acks.forEach(acked);
    if (nearlyDone()) poll(true);
  }

  /** @type {(path: string, request: RequestInit) => any} */
  async function ask(path, request) {
    try {
      const response = await fetch(base + path, { ...request, signal });
      const { status } = response;
      const answer = await response.json();
      if (stopped) return;
      if (response.ok || (status === 404 && !request.method)) {
        if (!ready) setState("fallback");
        refused = 0;
        return answer;
      }
      if (status === 401 && getToken && !refused) refused++;
      else if (status < 404 || status === 422) return stop(`${status}`, answer.detail);
      notBefore = Date.now() + 1000 * Number(response.headers.get("Retry-After"));
    } catch {}
    http = false;
    if (ready || stopped) return;
    setState("offline");
    if (!ws) retry();
  }

  // ---- What the server knows ----

  /** @type {Map<string, ProgressRecord>} */
  const records = new Map();
  /** @type {number[]} */
  const ours = []; // positions
  let synced = false;

  function record(id = videoId) {
    const known = records.get(id) ?? { videoId: id, rev: 0 };
    records.set(id, known);
    return known;
  }

  /** @param {ProgressRecord} news */
  function learn(news) {
    const before = record(news.videoId);
    if (news.rev === before.rev) return;
    records.set(news.videoId, news);
    if (!news.deletedAt) news.seen = union(before.seen, news.seen);
    if (!synced || news.videoId !== videoId) return;
    const { position = head } = news;
    if (news.completed && !before.completed) emit("completed", news);
    if (position !== before.position && Math.abs(position - head) > 1 && !ours.includes(position))
      emit("elsewhere", { position, record: news });
  }

  function inform() {
    synced = true;
    emit("synced", { record: record() });
    resumeOnce();
  }

  /** Ask: our own changes are not pushed to us. */
  function nearlyDone() {
    return synced && !record().completed && watched() >= media.duration / 2;
  }

  function watched() {
    return Math.max(length(record().seen), record().watchedDuration ?? 0);
  }

  // ---- The playhead, by the video's own clock ----

  let playing = false; // when we last looked,
  let head = 0; // and where,
  let headAt = 0; // and when, by performance.now
  let lookedAt = 0; // and Date.now
  let rate = 1;
  let moved = false; // by the learner

  function look() {
    if (media.seeking) return; // currentTime is already the target
    const now = performance.now();
    const at = media.currentTime;
    const most = ((now - headAt) / 1000) * Math.max(rate, media.playbackRate) + 1;
    if (playing && (at - head <= most || at <= playedTo())) add(at); // else it jumped
    head = at;
    headAt = now;
    lookedAt = Date.now();
    rate = media.playbackRate;
    playing = !media.paused && !media.ended;
  }

  function add(to = 0) {
    if (!(to > head)) return;
    const entry = grow();
    const last = entry.played.at(-1);
    if (last?.[1] === head) last[1] = to;
    else entry.played.push([head, to]);
    record().seen = union(record().seen, [[cell(head), cell(to)]]);
    head = to;
    if (length(entry.played) > AHEAD_S) settle();
    touch(entry);
  }

  /** Where head got to; farther, if that was played before. */
  function playedTo() {
    const { played } = media;
    for (let i = 0; i < played?.length; i++)
      if (played.start(i) <= head && head <= played.end(i)) return played.end(i);
    return head;
  }

  /** At `seeking` the old playhead is gone. It was at most a `timeupdate` on. */
  function lookBack() {
    if (playing) add(Math.min(head + Math.min((performance.now() - headAt) / 1000, 0.25) * rate, playedTo()));
    playing = false;
  }

  function beat() {
    look();
    const entry = growing();
    if (entry) {
      entry.due = true;
      save(entry);
    }
    pump();
  }

  // ---- Resume: once, unless the learner has gone ahead ----

  /** @type {"wait" | "asked" | "seek" | "done"} */
  let resume = how === "off" ? "done" : "wait";
  let resumeTo = 0;
  let tries = 0;
  let mine = false; // the next `seeking`

  function resumeOnce() {
    if (resume !== "wait" || !synced || !(media.readyState > 0)) return;
    resumeTo = place();
    if (!resumeTo || moved || media.currentTime > AHEAD_S) return settle();
    resume = "asked";
    const accept = () => {
      resume = "seek";
      jump();
    };
    emit("resume", { position: resumeTo, accept, dismiss: settle });
    if (how === "auto") accept();
  }

  function place() {
    let at = record().resume ?? 0;
    let newest = Date.now() - 300_000; // our unacked word is newer than the server's
    for (const box of boxes.values())
      for (const entry of box)
        if (entry.videoId === videoId && entry.position !== undefined && entry.madeAt > newest) {
          newest = entry.madeAt;
          at = entry.position;
        }
    const end = media.duration;
    return at >= end - Math.max(10, end / 50) ? 0 : at;
  }

  function jump() {
    if (resume !== "seek" || media.seeking || !(media.readyState > 0)) return;
    if (there() || tries++ > 2) return settle();
    mine = true;
    media.currentTime = resumeTo;
  }

  // a player may go by itself
  const there = () => resumeTo && Math.abs(media.currentTime - resumeTo) < 0.5;

  function settle() {
    if (resume === "done") return;
    resume = "done";
    const entry = growing();
    if (entry) touch(entry);
  }

  function restart() {
    playing = moved = mine = false;
    tries = 0;
    resume = how === "off" ? "done" : "wait";
  }

  // ---- The page ----

  let left = false;
  let beaconed = 0;

  /** @type {(target: EventTarget, events: string, fn: (event: any) => any) => void} */
  function listen(target, events, fn) {
    for (const event of events.split(" ")) target.addEventListener(event, fn, { signal });
  }

  listen(media, "play playing timeupdate waiting ratechange", () => {
    look();
    const entry = growing();
    if (entry && Date.now() - entry.startAt >= heartbeatMs) beat();
    if (Date.now() >= wakeAt) connect(); // a hidden tab's timers are slow
  });
  listen(media, "pause ended", beat);
  listen(media, "seeking", () => {
    lookBack();
    if (!mine && !there()) {
      moved = true;
      settle();
    }
    mine = false;
  });
  listen(media, "seeked", () => {
    if (media.seeking) return; // the next one has begun
    look();
    jump();
    if (!moved) return;
    moved = false;
    const entry = grow();
    entry.seek = true;
    touch(entry);
    after("seek", 250, beat);
  });
  listen(media, "loadedmetadata", resumeOnce);
  listen(media, "canplay playing", jump);
  listen(media, "emptied", () => {
    restart();
    head = 0;
  });

  /** Also by beacon: the page may be gone before the socket has sent it. */
  function tell() {
    beat();
    const body = stopped || beaconed === lastSeq ? "" : envelope(true);
    beaconed = lastSeq;
    const url = base + "/progress/realtime";
    if (body && !navigator.sendBeacon?.(url, body)) fetch(url, { method: "POST", body, keepalive: true }).catch(drop);
  }

  function leave() {
    tell();
    left = true;
    clearTimeout(timers.retry);
    drop();
    for (const name of releases.keys()) release(name);
  }

  listen(document, "visibilitychange", () => (document.hidden ? tell() : wake()));
  listen(window, "pagehide", leave);
  listen(window, "pageshow", async ({ persisted }) => {
    if (!persisted) return;
    left = false;
    if (store?.lasting) boxes.clear(); // perhaps another page's by now
    await newSession();
    wake();
  });
  listen(window, "online offline", wake);

  look();
  newSession().then(connect);

  return {
    on(event, fn) {
      const hear = (/** @type {any} */ { detail }) => fn(detail);
      bus.addEventListener(event, hear);
      return () => bus.removeEventListener(event, hear);
    },
    get state() {
      return state;
    },
    get pending() {
      return [...boxes.values()].flat().length;
    },
    get position() {
      return resume === "done" ? head : (record().position ?? 0);
    },
    get watched() {
      return watched();
    },
    get record() {
      return record();
    },
    flush() {
      beat();
      return new Promise((ok, fail) => {
        if (!own.length) ok();
        else if (stopped) fail(new Error("stopped"));
        else flushes.push({ seq: lastSeq, name: session, ok, fail });
      });
    },
    setVideo(id) {
      settle();
      beat();
      videoId = id.toLowerCase();
      restart();
      after("video", 0, () => (http ? poll(true) : resumeOnce())); // with its new source
    },
    destroy() {
      if (signal.aborted) return;
      leave();
      abort.abort();
      stop("destroyed");
      Object.values(timers).forEach(clearTimeout);
      store?.close();
    },
  };
}

/** @returns {Promise<Store>} */
async function openStore(kind = "auto") {
  /** @type {IDBDatabase | undefined} */
  let db;
  if (kind !== "memory")
    try {
      const opening = indexedDB.open("playhead", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("outbox");
      db = await new Promise((ok) => {
        const late = setTimeout(ok, 2_000);
        opening.onsuccess = opening.onerror = () => {
          clearTimeout(late);
          ok(opening.error ? undefined : opening.result);
        };
      });
    } catch {} // forbidden

  /** @type {(write: boolean, act: (rows: IDBObjectStore) => IDBRequest) => Promise<any>} */
  async function run(write, act) {
    try {
      const transaction = db?.transaction("outbox", write ? "readwrite" : "readonly");
      const request = transaction && act(transaction.objectStore("outbox"));
      if (!request) return;
      if (write) transaction.commit?.();
      return await new Promise((ok) => {
        request.onsuccess = () => ok(request.result);
        request.onerror = transaction.onabort = () => ok(undefined);
      });
    } catch {} // full, or closed
  }

  /** @param {(string | number)[]} of */
  const below = (of, to = /** @type {any} */ ([])) => IDBKeyRange.bound(of, [...of, to]);
  return {
    lasting: !!db,
    async sessions(user) {
      const keys = await run(false, (rows) => rows.getAllKeys(below([user])));
      return new Set(keys?.map((/** @type {string[]} */ key) => key[1]));
    },
    all: async (user, name) => (await run(false, (rows) => rows.getAll(below([user, name])))) ?? [],
    put: (key, entry) => run(true, (rows) => rows.put(entry, key)),
    remove: (user, name, seq) => run(true, (rows) => rows.delete(below([user, name], seq))),
    async device() {
      const device = (await run(false, (rows) => rows.get("device"))) ?? random();
      run(true, (rows) => rows.put(device, "device"));
      return device;
    },
    close: () => db?.close(),
  };
}

function random() {
  return (Math.random().toString(36) + Date.now().toString(36)).slice(2);
}

function subjectOf(token = "") {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub.toLowerCase();
  } catch {}
}

function round(seconds = 0) {
  return Math.round(1000 * seconds) / 1000;
}

/** As the server counts: a second is played when its middle is. */
function cell(seconds = 0) {
  return Math.floor(round(seconds) + 0.499);
}

/** @type {[number, number][]} */
const none = [];

function length(ranges = none) {
  return ranges.reduce((sum, [from, to]) => sum + to - from, 0);
}

function union(a = none, b = none) {
  const joined = none.slice();
  for (const [from, to] of [...a, ...b].sort((x, y) => x[0] - y[0])) {
    const last = joined.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else if (to > from) joined.push([from, to]);
  }
  return joined;
}
