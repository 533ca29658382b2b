/**
 * What `playhead.js` takes and gives, and how it works; `playhead.d.ts` is made from that file. It is kept short, for
 * every page loads it, so what would be said there is said here.
 *
 * One rule holds it together: send what was played, keep it until it is acked, send it again when in doubt.
 *
 * - A page is a session, its heartbeats are numbered. One that was ever sent never changes, for the server may have
 *   stored it. One that was not takes in what is played next: an hour offline is one entry, not seven hundred.
 * - Every entry is in IndexedDB too, the growing one once a second: the browser's own process has it when this one is
 *   killed, and the disk when the browser is (localStorage would get there seconds later). The next page takes over what
 *   dead pages left: who has a session's Web Lock owns its outbox, and a lock dies with its page.
 * - Where a second was played is measured by the media element's clock alone. No timer decides anything.
 * - What we ask for is all since the last `synced`. The push of another device may pass over what we reported
 *   ourselves, which is not pushed to us; so some of what was pushed comes again, and is no news.
 * - Bounds: 100 stretches an entry (a frame of the server's takes 500), 500 entries a page, 32 dead pages at a time, 32
 *   heartbeats on their way, frames by a bucket of 100 and 15 a second (the server's has 200 and 20), bodies of 39 kB and
 *   a token (a beacon may have 64 KiB), 3 unanswered pings of 5 s, 3 WebSockets that never opened before HTTP is tried.
 */

/**
 * `fallback`: no WebSocket is to be had, so by HTTP. `stopped`: refused for good, or destroyed; what is played is
 * still kept for the next page where the browser can.
 */
export type State = "connecting" | "online" | "fallback" | "offline" | "stopped";

export interface Options {
  /** A UUID. */
  videoId: string;
  /** The server's URL. Default: where `playhead.js` came from. */
  endpoint?: string;
  /** The learner's token. `fresh`: the last one is no longer good, so none from a cache. */
  getToken?: (why: { fresh: boolean }) => string | Promise<string>;
  /** Where the server asks for no token, or for the time in which there is none to be had. */
  userId?: string;
  /** Jump to where the learner was, or emit `resume` and wait for the answer, or neither. Default: auto. */
  resume?: "auto" | "prompt" | "off";
  /** The one there is: msgpack would cost more bytes than it saves. */
  codec?: "json";
  /** Default: what the server asks for. */
  heartbeatMs?: number;
  /** Where unacked heartbeats are kept: IndexedDB if the browser lets us, or only in this page. Default: auto. */
  storage?: "auto" | "memory";
  /** Default: both, HTTP only while WebSockets don't get through. */
  transports?: ("ws" | "http")[];
  /** Bounds of the backoff. Default: 1,000 and 30,000. */
  reconnect?: { minMs?: number; maxMs?: number };
  /** Default: a random name, kept in the browser. */
  device?: string;
}

/** What the server knows of this learner and a video; times in s. A deleted one has only `videoId`, `deletedAt` and `rev`. */
export interface ProgressRecord {
  videoId: string;
  rev: number;
  position?: number;
  /** Where to start; 0 where the learner was at the end. */
  resume?: number;
  watchedDuration?: number;
  playedDuration?: number;
  duration?: number;
  completed?: boolean;
  completedAt?: string;
  lastWatched?: string;
  seen?: [number, number][];
  again?: [number, number][];
  deletedAt?: string;
}

/** Every heartbeat of `session` up to `seq` is stored, but for those rejected, which never will be. */
export interface Ack {
  session: string;
  seq: number;
  rejected?: { seq: number; code: string; detail: string }[];
  capped?: number[];
}

export interface Events {
  state: State;
  /** We know what the server knows. */
  synced: { record: ProgressRecord };
  /** There is a place to go on from. With `prompt` nothing is stored until `accept`, `dismiss`, or 3 s of playing. */
  resume: { position: number; accept: () => void; dismiss: () => void };
  /** Another device, or tab, of this learner has moved on. */
  elsewhere: { position: number; record: ProgressRecord };
  completed: ProgressRecord;
  ack: Ack;
  /** `fatal`: nothing more is sent. That goes to the console too. */
  error: { code: string | number; message: string; fatal: boolean };
}

export interface Tracker {
  /** Returns what ends it. */
  on<K extends keyof Events>(event: K, fn: (detail: Events[K]) => void): () => void;
  readonly state: State;
  /** Heartbeats that are not acked, the growing one among them. */
  readonly pending: number;
  /** s */
  readonly position: number;
  /** Distinct whole seconds, those that are not yet stored among them. */
  readonly watched: number;
  /** What the server knows, with what was played here since. */
  readonly record: ProgressRecord;
  /** Resolves when all that was played so far is stored; rejects where it can't be. */
  flush(): Promise<void>;
  /** The element shows another video now, or is about to in this task. */
  setVideo(videoId: string): void;
  /** Leaves no listener, timer or connection behind. */
  destroy(): void;
}

/** A heartbeat in the outbox. */
export interface Entry {
  seq: number;
  videoId: string;
  played: [number, number][];
  /** It covers the time from here, ms, */
  startAt: number;
  /** to here. */
  madeAt: number;
  /** Absent while the resume has not settled: then it is not sent, but as the page is left. */
  position?: number;
  duration?: number;
  state?: string;
  seek?: boolean;
  /** It may be sent. */
  due?: boolean;
  /** On this connection last, 0: by HTTP. What was ever sent never changes, for it may be stored. */
  sent?: number;
  savedAt?: number;
}

export interface Store {
  /** Outlives the page. */
  lasting: boolean;
  /** The sessions of which there is something. */
  sessions(user: string): Promise<Set<string>>;
  all(user: string, session: string): Promise<Entry[]>;
  put(key: (string | number)[], entry: Entry): void;
  /** Up to `seq`. */
  remove(user: string, session: string, seq: number): void;
  device(): Promise<string>;
  close(): void;
}
