// Reports to Playhead what was really played; types.d.ts explains how.
/** @import { Ack, Entry, Options, ProgressRecord, State, Tracker } from "./types.d.ts" */

const AHEAD_S = 3;
const LONGEST_S = 172_800;
const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;
const STREAMED = /^(blob:|$)|\.(m3u8|mpd)\b/i;
const KEY = Symbol.for("playhead");
/** @type {WeakMap<object, Tracker>} */
const trackers = (/** @type {any} */ (globalThis)[KEY] ??= new WeakMap());

function checked(id = "") {
  if (!UUID.test(id)) throw new TypeError(`playhead: the videoId "${id}" is not a UUID`);
  return id.toLowerCase();
}

const now = () => performance.timeOrigin + performance.now();
const drift = () => Date.now() - now();

const ignore = () => {};

/** @param {any} media */
const rootOf = (media) => media[KEY] ?? media;

/**
 * @param {HTMLMediaElement | string} target
 * @param {Options} options
 * @returns {Tracker}
 */
export function attach(target, options) {
  let media = /** @type {HTMLMediaElement} */ (typeof target === "string" ? document.querySelector(target) : target);
  if (!media) throw new TypeError(`playhead: no element matches ${target}`);
  let videoId = checked(options.videoId);
  const first = trackerOf(media);
  if (first) {
    if (first.videoId !== videoId) throw new Error("playhead: the element has a tracker; call its setVideo()");
    console.warn("playhead: the element has a tracker");
    return first;
  }
  const { endpoint = new URL("..", import.meta.url), getToken, resume: how = "auto", live } = options;
  const { transports = ["ws", "http"], reconnect: { minMs = 1_000, maxMs = 30_000 } = {} } = options;
  const ws = transports.includes("ws");
  const base = new URL(endpoint, location.href).href.replace(/\/$/, "");
  const abort = new AbortController();
  const { signal } = abort;

  const bus = new EventTarget();
  let state = /** @type {State} */ ("connecting");
  /** @type {Record<string, any>} */
  const timers = {};
  const said = new Set();

  function emit(event = "", detail = /** @type {any} */ (state)) {
    bus.dispatchEvent(new CustomEvent(event, { detail }));
  }

  function setState(next = state) {
    if (state !== next) emit("state", (state = next));
  }

  function complain(code = "", message = "", fatal = false) {
    if (said.size < said.add(code).size) console.error("playhead", code, message);
    emit("error", { code, message, fatal });
  }

  function after(name = "", ms = 0, fn = beat) {
    clearTimeout(timers[name]);
    if (!signal.aborted) timers[name] = setTimeout(fn, ms);
  }

  // ---- Outbox ----

  let user = options.userId?.toLowerCase() ?? "";
  let session = "";
  let lastSeq = 0;
  /** @type {Entry[]} */
  let own = [];
  const boxes = new Map([[session, own]]); // by session
  const releases = new Map();
  /** @type {any[]} */
  let flushes = [];
  /** @type {any} */
  let db;

  /** @param {(rows: IDBObjectStore) => any} act */
  async function run(act) {
    try {
      const transaction = user && db.transaction("outbox", "readwrite");
      const request = act(transaction.objectStore("outbox"));
      transaction.commit?.();
      await new Promise((ok) => (transaction.oncomplete = transaction.onabort = ok));
      return request.result;
    } catch {}
  }

  function newSession() {
    session = random();
    lastSeq = 0;
    boxes.set(session, (own = []));
    return hold(session);
  }

  function hold(name = "") {
    return new Promise((ok) => {
      if (!navigator.locks) return ok(true);
      navigator.locks
        .request("playhead " + name, { ifAvailable: true }, (lock) => {
          ok(lock);
          return lock && !signal.aborted && new Promise((free) => releases.set(name, free));
        })
        .catch(() => ok(0));
    });
  }

  function release(name = "") {
    releases.get(name)?.();
    releases.delete(name);
  }

  async function adopt() {
    const all = await run((rows) => rows.getAllKeys(below(user)));
    for (const name of new Set(all?.map((key = [""]) => key[1]))) {
      if (boxes.has(name) || boxes.size > 32 || !(await hold(name))) continue;
      const box = ((await run((rows) => rows.getAll(below(user, name)))) ?? []).map(revive);
      if (box.length) boxes.set(name, box);
      else release(name);
      box.forEach(join);
    }
  }

  function revive(entry = own[0]) {
    const by = (entry.drift ?? 0) - drift();
    entry.startAt += by;
    entry.madeAt += by;
    return { ...entry, drift: drift(), due: true, sent: undefined };
  }

  function growing() {
    const last = own.at(-1);
    return last && last.sent === undefined && !last.shut && last.videoId === videoId ? last : undefined;
  }

  function shut() {
    const entry = growing();
    playing = false;
    if (!entry) return;
    entry.due = entry.shut = true;
    save(entry);
    pump();
  }

  function grow() {
    let entry = growing();
    if (!entry || entry.played.length >= 100) {
      if (entry) entry.due = entry.shut = true;
      const after = lastWatched() + (lastSeq ? 0 : 1_000);
      own.push((entry = { seq: ++lastSeq, videoId, played: [], startAt: lookedAt, madeAt: lookedAt, after }));
      if (own.length > 500) {
        erase(session, own.splice(0, 1)[0].seq);
        complain("full", "The oldest heartbeat was dropped");
      }
    }
    return entry;
  }

  function touch(entry = own[0]) {
    entry.madeAt = now();
    entry.drift = drift();
    if (resume === "done") entry.position = head;
    const { duration } = media;
    if (!live && duration > 0 && duration < Infinity) {
      entry.duration = Math.max(1, duration);
      entry.durationFinal = final() ? undefined : false;
      if (final()) longest = Math.max(longest, duration);
    }
    if (!unclaimed) join(entry);
    if (entry.madeAt - (entry.savedAt ?? 0) >= 1_000) save(entry);
  }

  function save(entry = own[0]) {
    entry.savedAt = now();
    entry.state = media.ended ? "ended" : media.paused ? "paused" : "playing";
    run((rows) => rows.put(entry, [user, session, entry.seq]));
    keep([entry.videoId]);
  }

  function erase(name = "", seq = 0) {
    run((rows) => rows.delete(IDBKeyRange.bound([user, name], [user, name, seq])));
  }

  function keep(all = [videoId]) {
    run((rows) => all.map((id) => rows.put(record(id), ["records", user, id])).pop());
  }

  /** @param {Ack} ack */
  function acked(ack) {
    const { session: name, seq, rejected = [] } = ack;
    const box = boxes.get(name);
    if (!box) return;
    while (box[0]?.sent !== undefined && box[0].seq <= seq) box.shift();
    erase(name, seq);
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

  const serverTime = (at = now()) => at + (offset ?? drift());

  function dated(entry = own[0]) {
    const asleep = Math.max(0, Math.min(slept, drift() - (entry.drift ?? Infinity)));
    return Math.max(entry.after ?? 0, serverTime(entry.madeAt) - asleep);
  }

  function onWire(name = "", entry = own[0]) {
    const { seq, videoId, played, duration, durationFinal, state, seek, startAt, madeAt } = entry;
    const position = entry.position && round(entry.position);
    if (position !== undefined) ours.push(position);
    ours.splice(0, ours.length - 50);
    return {
      seq,
      videoId,
      played: played.map((stretch) => stretch.map(round)),
      position,
      duration,
      durationFinal,
      state,
      seek,
      span: Math.max(0, Math.min(1000 * LONGEST_S, madeAt - startAt)),
      age: Math.max(0, serverTime() - dated(entry)),
      session: name === session ? undefined : name,
    };
  }

  function* waiting(leaving = false) {
    for (const [name, box] of boxes)
      for (const entry of box) {
        if (!entry.due || (box === own && entry.position === undefined && !entry.shut && !leaving)) break;
        yield { name, entry };
      }
  }

  function pump() {
    if (!ready) return shared.http && poll();
    credit = Math.min(100, credit + ((now() - paidAt) / 1000) * 15);
    paidAt = now();
    let flying = 0;
    for (const { name, entry } of waiting()) {
      if (flying++ >= 32) break;
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
      if ((bytes += JSON.stringify(heartbeat).length) > 39_000) break;
      entry.sent ??= 0;
      heartbeats.push(heartbeat);
    }
    return heartbeats.length && user ? JSON.stringify({ userId: user, session, token, heartbeats }) : "";
  }

  // ---- Connection ----

  /** @type {WebSocket | undefined} */
  let socket;
  let connection = 1;
  let ready = false;
  let readyAt = 0;
  let connecting = false;
  let opened = false;
  let stopped = false;
  let attempts = 0;
  let unopened = 0;
  let unanswered = 0;
  let wakeAt = Infinity;
  let credit = 0;
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
    if (!shared.http) setState("connecting");
    try {
      const line = (socket = new WebSocket(base.replace(/^http/, "ws") + "/ws", "playhead.v1.json"));
      line.onopen = () => send({ type: "hello", device, session, token, userId: user, since: rev, epoch });
      line.onmessage = ({ data }) => {
        if (line !== socket) return;
        unanswered = 0;
        const message = JSON.parse(data);
        received[message.type]?.(message);
      };
      const lost = (/** @type {any} */ { code, reason }) => line === socket && closed(code, reason);
      line.onclose = line.onerror = lost;
      after("line", 10_000, closed);
    } catch {
      closed();
    }
  }

  async function prepare() {
    await open();
    if (!(await renew(shared.refused > 0))) return false;
    const subject = subjectOf(token) || user;
    if (!subject || (user && subject !== user))
      stop("user", user ? "The token is another learner's" : token ? "The token is not a JWT with a sub" : "No userId");
    else user = subject;
    await open();
    return true;
  }

  async function open() {
    if (!user) return;
    if (!opened) {
      opened = true;
      if (options.storage !== "memory")
        db = await new Promise((ok) => {
          after("db", 2_000, () => ok(0));
          const opening = indexedDB.open("playhead", 1);
          opening.onupgradeneeded = () => opening.result.createObjectStore("outbox");
          opening.onsuccess = () => ok(opening.result);
          opening.onerror = () => ok(0);
        }).catch(ignore);
      if (signal.aborted) db?.close();
      device ??= (await run((rows) => rows.get("device"))) ?? random();
      run((rows) => rows.put(device, "device"));
      await recall();
      own.forEach(save);
    }
    await adopt();
    setRecalled();
    resumeOnce();
  }

  async function recall(id = videoId) {
    const kept = id && !synced && (await run((rows) => rows.get(["records", user, id])));
    if (!kept || synced || record(id).rev) return;
    records.set(id, { ...kept, kept: true });
    rejoin(id);
    resumeOnce();
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
        records.clear();
        rev = 0;
      }
      epoch = message.epoch;
      const by = Date.parse(message.serverTime) - now();
      slept = offset === undefined ? Infinity : Math.max(0, by - offset);
      offset = by;
      heartbeatMs = options.heartbeatMs ?? 1000 * message.heartbeatInterval;
      readyAt = now();
      shared.http = false;
      unopened = shared.notBefore = 0;
      credit = 100;
      after("line", 5_000, watchTheLine);
    },
    progress(message) {
      if (!synced) rev = message.rev;
      learn(message.records);
    },
    synced(message) {
      rev = message.rev;
      ready = true;
      setState("online");
      inform();
      pump();
    },
    ack(message) {
      acked(message);
      if (nearlyDone()) send({ type: "sync", since: rev });
    },
    error: ({ code, detail }) => complain(code, detail),
    async expiring() {
      const asked = socket;
      if ((await renew()) && asked === socket) send({ type: "auth", token });
    },
    goodbye(message) {
      shared.notBefore = now() + 1000 * message.retryAfter;
    },
  };

  function watchTheLine() {
    if (unanswered++ >= 3) return closed();
    send({ type: "ping" });
    after("line", 5_000, watchTheLine);
  }

  function drop() {
    clearTimeout(timers.line);
    const last = socket;
    socket = undefined;
    ready = false;
    connection++;
    last?.close();
  }

  function closed(code = 1006, reason = "") {
    drop();
    if (stopped) return;
    if (code >= 3000 && code % 1000 >= 500) return stop(`${code}`, reason);
    if (!readyAt) {
      if (++unopened % 8 === 2) import("./more/refusal.js").then(({ refusal }) => refusal(base, complain), ignore);
    } else if (now() - readyAt > 10_000) attempts = shared.refused = 0;
    readyAt = 0;
    if (code === 4005) {
      if (shared.refused++ || !getToken) return stop(`${code}`, "The token has expired");
      return schedule();
    }
    if (transports.includes("http") && unopened >= 3) poll();
    else setState("offline");
    retry();
  }

  const retry = () => schedule(Math.random() * Math.min(maxMs, minMs * 2 ** attempts++));

  function schedule(ms = 0) {
    wakeAt = Math.max(now() + ms, shared.notBefore);
    after("retry", wakeAt - now(), connect);
  }

  function wake() {
    if (stopped || left) return;
    if (!socket) return schedule();
    if (!ready) return;
    adopt().then(pump);
    unanswered = 3;
    send({ type: "ping" });
    after("line", 3_000, watchTheLine);
  }

  function stop(code = "", message = "") {
    stopped = true;
    shared.http = false;
    drop();
    setState("stopped");
    for (const { fail } of flushes.splice(0)) fail(new Error(code));
    if (!signal.aborted) complain(code, message || "Refused", true);
  }

  const poll = (news = false) => import("./more/http.js").then((more) => more.poll(shared, news), unreached);

  function unreached() {
    shared.http = false;
    if (ready || stopped) return;
    setState("offline");
    if (!ws) retry();
  }

  const shared = {
    http: false,
    posting: false,
    refused: 0,
    notBefore: 0,
    request: () => ({ base, signal, user, videoId, token, renewable: !!getToken, open: ready, stopped }),
    ...{ envelope, acked, learn, inform, nearlyDone, setState, stop, unreached },
  };

  // ---- Records ----

  /** @type {Map<string, ProgressRecord>} */
  const records = new Map();
  const ours = [0]; // positions
  let synced = false;
  let setRecalled = ignore;
  let recalled = new Promise((ok) => (setRecalled = () => ok(0)));
  /** @type {number | undefined} */
  let offset;
  let slept = Infinity;

  function record(id = videoId) {
    const known = records.get(id) ?? { videoId: id, rev: 0 };
    records.set(id, known);
    return known;
  }

  const lastWatched = (known = record()) => Date.parse(known.lastWatched ?? "") || 0;

  function join(entry = own[0]) {
    const { played, position } = entry;
    const known = record(entry.videoId);
    const at = dated(entry);
    if (at < Date.parse(known.deletedAt ?? "")) return;
    known.seen = union(
      known.seen,
      played.map(([from, to]) => [cell(from), cell(to)]),
    );
    if (position === undefined || at < lastWatched(known)) return;
    known.lastWatched = new Date(at).toISOString();
    known.position = position;
    known.resume = atEnd(position, known.duration) ? 0 : position;
  }

  function rejoin(id = "") {
    const { position = -1 } = record(id);
    const since = lastWatched(record(id)) + 1;
    for (const box of boxes.values()) {
      let later = box === own && ours.includes(position);
      for (const entry of box)
        if (entry.videoId === id) {
          if (later) entry.after = Math.max(entry.after ?? 0, since);
          later ||= round(entry.position) === position;
          join(entry);
        }
    }
  }

  /** @param {ProgressRecord[]} all */
  function learn(all) {
    for (const news of all) {
      const id = news.videoId;
      const before = record(id);
      if (news.rev === before.rev && !before.kept) continue;
      records.set(id, news);
      if (!news.deletedAt) news.seen = union(before.seen, news.seen);
      rejoin(id);
      if (!synced || id !== videoId) continue;
      const { position = head } = news;
      if (news.completed && !before.completed) emit("completed", news);
      if (position !== before.position && Math.abs(position - head) > 1 && !ours.includes(position))
        emit("elsewhere", { position, record: news });
    }
    keep(all.map((each) => each.videoId));
  }

  function inform() {
    synced = true;
    if (record().kept && record().rev) {
      records.delete(videoId);
      rejoin(videoId);
    }
    emit("synced", { record: record() });
    resumeOnce();
  }

  function nearlyDone() {
    return synced && !record().completed && watched() >= media.duration / 2;
  }

  const watched = () => Math.max(length(record().seen), record().watchedDuration ?? 0);

  // ---- Playhead ----

  let playing = false;
  let head = 0;
  let lookedAt = 0;
  let rate = 1;
  let stretches = none;
  let delta = 0; // to the video's time
  let ran = 0; // s of this source
  let longest = 0;
  let lasts = 0; // duration
  let grownAt = 0;
  let unfit = false;
  let awaited = false; // its source is still to come
  let unclaimed = false; // setVideo() may follow

  const timeline = () => options.timeline?.();

  function fits() {
    if (!videoId || awaited) return false;
    const { duration, currentTime, seekable } = media;
    const endless = duration === Infinity && STREAMED.test(media.currentSrc);
    let code = "";
    if (live) {
      delta = (+(live.date() || NaN) - +new Date(live.start)) / 1000 - currentTime;
      if (!(delta + currentTime >= 0)) code = "live";
    } else if (
      currentTime > LONGEST_S ||
      (live !== false && (endless || (seekable?.length && seekable.start(0) > 1) || timeline() === "live"))
    )
      code = "live";
    else if (duration < 180 && duration < 0.7 * Math.max(longest, record().duration ?? 0)) code = "duration";
    if (code && !unfit) complain(code, "Not tracked; see docs/sdk.md");
    return !(unfit = !!code);
  }

  const final = () => timeline() ? timeline() === "final" : media.ended || now() - grownAt > 30_000;

  function look() {
    if (media.seeking || !media.readyState) return;
    if (!fits()) return (playing = false);
    const at = delta + (media.ended && media.duration < 1 ? 1 : media.currentTime);
    const most = ((now() - lookedAt) / 1000) * Math.max(rate, media.playbackRate) + 1;
    const all = ranges();
    if (!playing) {
      const [from] = all.find(([a, b]) => a < at && at < b + 0.1) ?? [at];
      head = stretches.some(([a]) => near(a, from)) ? at : from;
      lookedAt = now() - 1_000 * (at - head);
    }
    if (!playing || at - head <= most || at <= playedTo(head)) add(at);
    head = at;
    lookedAt = now();
    rate = media.playbackRate;
    playing = !media.paused && !media.ended;
    stretches = all;
  }

  function add(to = 0) {
    if (!(to > head)) return;
    const entry = grow();
    const last = entry.played.at(-1);
    if (last?.[1] === head) last[1] = to;
    else entry.played.push([head, to]);
    if (!ran) acted = 0;
    ran += to - head;
    if (ran > AHEAD_S) unclaimed = false;
    if (ran > AHEAD_S || (resume !== "asked" && resumeTo && Math.abs(to - 1 - resumeTo) < 0.5)) settle();
    head = to;
    touch(entry);
  }

  function ranges(all = none.slice()) {
    for (let i = 0; i < (media.played?.length ?? 0); i++)
      all.push([delta + media.played.start(i), delta + media.played.end(i)]);
    return all;
  }

  const playedTo = (from = 0) => ranges().find(([a, b]) => a <= from && from <= b)?.[1] ?? from;

  function lookBack() {
    const end = playedTo(head);
    const old = stretches.find(([, to]) => near(to, end));
    const most = head + Math.min((now() - lookedAt) / 1000, 0.25) * rate;
    if (playing) add(old ? Math.min(end, Math.max(most, old[0])) : end);
    playing = false;
    stretches.push(...ranges().filter(([, to]) => to === end));
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

  // ---- Resume ----

  let { start } = options;
  let resume = "wait"; // asked, seek, done; back: the same video again
  let resumeTo = 0;
  let tries = 0;
  let mine = false; // the next `seeking`
  let shown = false;

  function resumeOnce() {
    if (resume === "done" || resume === "back" || awaited || !media.readyState) return;
    const id = videoId;
    const position = place();
    if (!position) {
      if (!synced && start === undefined) return;
      if (tries && !ran) leap();
      return settle();
    }
    if (resume !== "wait" && Math.abs(position - resumeTo) < 1) return;
    resumeTo = position;
    tries = 0;
    resume = "asked";
    const accept = () => {
      if (resume !== "asked" || id !== videoId) return;
      resume = "seek";
      jump();
    };
    if (start === undefined) emit("resume", { position, accept, dismiss: () => id === videoId && settle() });
    if (how === "auto" || start !== undefined) accept();
  }

  function place() {
    const at = record().resume ?? 0;
    return start ?? (atEnd(at, media.duration) ? 0 : at);
  }

  function jump() {
    if ((resume !== "seek" && resume !== "back") || media.seeking || !media.readyState) return;
    if (there() || (resume === "back" && how === "off") || !fits()) return;
    if (tries && lately(clicked) && media.currentTime > AHEAD_S) tries = 3;
    if (tries++ < 3) leap(resumeTo - delta);
  }

  function leap(to = 0) {
    mine = true;
    media.currentTime = to;
  }

  function there() {
    const off = Math.abs(delta + media.currentTime - resumeTo);
    return resume !== "done" && resumeTo && off < (resume === "back" ? AHEAD_S : 0.5);
  }

  function settle() {
    if (resume === "done") return;
    resume = "done";
    const entry = growing();
    if (entry) touch(entry);
    emit("settled", { position: head });
  }

  function restart(same = false) {
    if (!same) {
      resume = live || (how === "off" && start === undefined) ? "done" : "wait";
      resumeTo = 0;
    } else if (resume === "done" && head && !live && !atEnd(head, lasts)) {
      resume = "back";
      resumeTo = head;
    }
    playing = moved = mine = unfit = false;
    shown = media.readyState > 1;
    tries = ran = head = acted = 0;
    lasts = media.duration;
    grownAt = STREAMED.test(media.currentSrc) ? now() : 0;
    stretches = ranges();
  }

  // ---- Whose seek? ----

  let acted = 0;
  let clicked = 0;
  let held = false;
  let moved = false;
  const lately = (at = 0) => now() - at < 1_500;

  function act(event = /** @type {any} */ (bus)) {
    if (!event.isTrusted) return;
    clicked = now();
    if (held) acted = clicked;
    held = false;
    const path = event.composedPath();
    const root = rootOf(media);
    let box = root;
    while (box && !(path.includes(box) && (box === root || holds(box, root)))) box = box.parentNode ?? box.host;
    const key = event.type === "keydown" && path[0] === document.body; // a shortcut
    if (!box && !key && ![options.controls].flat().some((each) => path.includes(each))) return;
    acted = clicked;
    held = event.type === "pointerdown";
  }

  /** @param {any} box @param {any} root */
  const holds = (box, root) =>
    box.matches?.("body,html") === false &&
    !(root.offsetWidth && box.offsetWidth > root.offsetWidth + 96) &&
    box.offsetHeight <= root.offsetHeight + 96;

  /** Before play or input a seek is the page's. */
  function learners() {
    if (mine || !fits()) return false;
    if (held || lately(acted)) return true;
    const ahead = media.currentTime > AHEAD_S;
    if (ran > 0.5) return !there() && (ahead || ran > AHEAD_S); // no guard's
    return ahead && shown && resume === "done" && synced && !lastWatched();
  }

  // ---- Page ----

  let left = false;
  let beaconed = 0;
  let heard = abort;

  function listen(target = bus, events = "", fn = act, options = {}) {
    for (const event of events.split(" ")) target.addEventListener(event, fn, { signal, passive: true, ...options });
  }

  listen(window, "pointerdown pointerup pointercancel keydown click input", act, { capture: true });

  function hear() {
    heard = new AbortController();
    const on = (events = "", fn = act) => listen(media, events, fn, { signal: heard.signal });
    on("play playing timeupdate waiting ratechange", () => {
      look();
      const entry = growing();
      if (entry && now() - entry.startAt >= heartbeatMs) beat();
      if (now() >= wakeAt) connect();
    });
    on("pause ended", () => {
      if (ran && there()) settle();
      beat();
    });
    on("seeking", () => {
      lookBack();
      if (learners()) {
        moved = true;
        settle();
      }
      mine = false;
    });
    on("seeked", () => {
      if (media.seeking) return;
      look();
      jump();
      if (!moved) return;
      moved = false;
      const entry = grow();
      entry.seek = true;
      touch(entry);
      after("seek", 250, beat);
    });
    on("durationchange", () => {
      const { duration } = media;
      if (!(Math.abs(duration - lasts) < 1)) grownAt = lasts || STREAMED.test(media.currentSrc) ? now() : 0;
      lasts = duration;
    });
    on("loadedmetadata", () => {
      acted = 0;
      resumeOnce();
    });
    on("loadeddata", () => (shown = true));
    on("canplay playing", jump);
    on("emptied", emptied);
    on("loadstart", () => awaited && emptied());
  }

  function emptied() {
    shut();
    restart(!awaited);
    unclaimed = !awaited;
    awaited = false;
  }

  const observer = new MutationObserver((changes) => {
    const root = rootOf(media);
    if (root.isConnected) return;
    observer.disconnect();
    import("./more/replacement.js").then(
      (more) => more.replace({ changes, root, target, trackerOf, setMedia, watch, complain, signal }),
      ignore,
    );
  });

  function watch() {
    observer.disconnect();
    const root = rootOf(media);
    if (!root.isConnected) return;
    for (const node of [document, root.getRootNode()]) observer.observe(node, { childList: true, subtree: true });
  }

  function setMedia(element = media) {
    if (element === media) return;
    if (trackerOf(element)) throw new Error("playhead: the element has a tracker");
    look();
    heard.abort();
    trackers.delete(rootOf(media));
    media = element;
    trackers.set(rootOf(media), tracker);
    emptied();
    hear();
    watch();
    resumeOnce();
    jump();
  }

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
    if (db) boxes.clear();
    await newSession();
    wake();
  });
  listen(window, "online offline", wake);

  restart();
  hear();
  watch();
  look();
  boxes.clear();
  newSession().then(connect);

  /** @type {Tracker} */
  const tracker = {
    get videoId() {
      return videoId;
    },
    place: () => recalled.then(() => place()),
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
    seek(position) {
      acted = now();
      media.currentTime = position - delta;
    },
    setMedia,
    setVideo(id) {
      const next = id ? checked(id) : "";
      if (next === videoId) return;
      look();
      const entry = unclaimed && next && growing();
      if (entry) entry.videoId = next;
      else shut();
      const strayed = resume === "back" ? tries : 0;
      if (!lastWatched()) records.delete(videoId);
      videoId = next;
      if (entry) join(entry);
      awaited = !unclaimed && !!next;
      unclaimed = false;
      start = undefined;
      longest = 0;
      restart();
      tries = strayed;
      if (shared.http) synced = false;
      recalled = recalled.then(() => recall()).then(() => (shared.http ? poll(true) : resumeOnce()));
      after("awaited", 3_000, () => {
        awaited = false;
        resumeOnce();
      });
    },
    destroy() {
      if (signal.aborted) return;
      leave();
      abort.abort();
      heard.abort();
      observer.disconnect();
      trackers.delete(rootOf(media));
      stop("destroyed");
      Object.values(timers).forEach(clearTimeout);
      db?.close();
    },
  };
  trackers.set(rootOf(media), tracker);
  return tracker;
}

/** @param {any} media Or its player, or what is in that */
function trackerOf(media) {
  const root = rootOf(media);
  const around = [...(root.querySelectorAll?.("video,audio") ?? [])];
  for (let each = root; each; each = each.parentElement) around.push(each);
  return trackers.get(around.find((each) => trackers.has(each)));
}

/** Delete what this browser keeps of a learner. @param {string} userId @returns {Promise<void>} */
export const forget = async (userId) => (await import("./forget.js")).forget(userId);

const below = (/** @type {string[]} */ ...of) => IDBKeyRange.bound(of, [...of, []]);

const random = () => (Math.random().toString(36) + Date.now().toString(36)).slice(2);

function subjectOf(token = "") {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub.toLowerCase();
  } catch {}
}

const atEnd = (at = 0, end = Infinity) => at >= end - Math.max(10, end / 50);

const round = (seconds = 0) => Math.round(1000 * seconds) / 1000;

const near = (a = 0, b = 0) => Math.abs(a - b) < 0.1;

/** A second is played when its middle is. */
const cell = (seconds = 0) => Math.floor(round(seconds) + 0.499);

/** @type {[number, number][]} */
const none = [];

const length = (ranges = none) => ranges.reduce((sum, [from, to]) => sum + to - from, 0);

function union(a = none, b = none) {
  const joined = none.slice();
  for (const [from, to] of [...a, ...b].sort((x, y) => x[0] - y[0])) {
    const last = joined.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else if (to > from) joined.push([from, to]);
  }
  return joined;
}
