/**
 * What `playhead.js` takes and returns, and how it works; `playhead.d.ts` is generated from that file. Every page loads
 * `playhead.js`, so it is kept small and its explanation is here. docs/sdk.md is the guide for pages.
 *
 * One rule holds it together: send what was played, keep it until it is acknowledged, send it again when in doubt.
 *
 * - A page is a session, and its heartbeats are numbered. An entry of the outbox that was sent never changes, because the
 *   server may have stored it. One that was not sent takes in what is played next: an hour offline is one entry, not
 *   seven hundred. An entry is closed before the element shows another source.
 * - Every entry is in IndexedDB too, the growing one once a second: the browser's own process has it when the tab's is
 *   killed, and the disk when the browser is (localStorage would get there seconds later). The next page takes over what
 *   dead pages left: the holder of a session's Web Lock owns its outbox, and a lock ends with its page.
 * - The last known record of each video is in IndexedDB as well. A page resumes from the newest of that record, the
 *   outbox and the server's record: at once, without a connection, and corrected by the server's answer as long as nothing
 *   was played.
 * - Where a second was played is measured by the media element's clock alone, and by `media.played` where the main thread
 *   was busy: at a seek, the end of a new stretch there is exact, and an old one hides at most a `timeupdate`. Rhythms and ages follow `performance.now()`; the wall clock only dates what another page left.
 * - Heartbeats are dated by their age. An entry is never dated earlier than the record that was known when it began, and
 *   never earlier than a record that contains an earlier entry of its session: frames that the network delays are dated
 *   by their arrival.
 * - Heartbeats are sent once the connection is synchronized. A page asks for everything since the last `synced`: the push
 *   of another device may pass over changes of this page, which are not pushed to it.
 * - Before the learner has played (half a second) or acted on the player (1.5 s ago at most), a seek is the page's: it
 *   ends no resume and moves no place. The player is the media element, and each ancestor that is at most 96 px wider and
 *   higher. Until 3 s were played, a seek back to the first 3 s is taken for that of a no-skip guard.
 * - Bounds: 100 stretches an entry (a frame of the server's takes 500), 500 entries a page, 32 dead pages at a time, 32
 *   heartbeats in flight, frames by a bucket of 100 and 15 a second (the server's has 200 and 20), bodies of 39 kB plus a
 *   token (a beacon may have 64 KiB), 3 unanswered pings of 5 s, 3 WebSockets that never opened before HTTP is tried.
 */

/**
 * `fallback`: connected by HTTP, because no WebSocket gets through. `stopped`: refused for good, or destroyed; what is
 * played is still kept for the next page where the browser can.
 */
export type State = "connecting" | "online" | "fallback" | "offline" | "stopped";

export interface Options {
  /** A UUID; anything else throws. */
  videoId: string;
  /** Where to begin, in seconds (0 too), instead of the resume. For the first video and its first load only. */
  start?: number;
  /**
   * Elements with controls of the player that stand apart from it. Input on them makes the next seek the learner's, as
   * input on the player does.
   */
  controls?: Element | Element[];
  /**
   * The video is a broadcast that began at `start`. Its time is the programme date minus that, so that a recording that
   * is served later under the same id has the same timeline. It plays from the live edge, is not resumed, and completes
   * nothing. Without a programme date nothing is tracked, and the error `live` says so.
   *
   * Without this option the same holds where the duration is infinite, the seekable window slides, or the timeline lies
   * beyond 48 h: nothing is tracked. `false`: tracked all the same, but for a timeline beyond 48 h.
   */
  live?: false | (LiveOptions & { date: () => Date | number | undefined | null });
  /**
   * What the player knows of the timeline. Only a final duration completes a video. Default: the duration of a file is
   * final; that of a stream (blob:, HLS, DASH) once it has not changed for 30 s, or when it has ended.
   */
  timeline?: () => "final" | "growing" | "live" | undefined;
  /** The server's URL. Default: where `playhead.js` came from. */
  endpoint?: string;
  /** The learner's token. `fresh`: the last one is no longer valid, so none from a cache. */
  getToken?: (why: { fresh: boolean }) => string | Promise<string>;
  /** Where the server asks for no token. With a token: resumes before the token is there, as while offline. */
  userId?: string;
  /** Seek to where the learner was, or emit `resume` and wait for the answer, or do neither. Default: auto. */
  resume?: "auto" | "prompt" | "off";
  /** The only one: msgpack would cost more bytes than it saves. */
  codec?: "json";
  /** Default: what the server asks for. */
  heartbeatMs?: number;
  /** Where unacknowledged heartbeats are kept: IndexedDB if the browser allows it, or only in this page. Default: auto. */
  storage?: "auto" | "memory";
  /** Default: both, HTTP only while no WebSocket gets through. */
  transports?: ("ws" | "http")[];
  /** Bounds of the backoff. Default: 1,000 and 30,000. */
  reconnect?: { minMs?: number; maxMs?: number };
  /** Default: a random name, kept in the browser. */
  device?: string;
}

export interface LiveOptions {
  /** When the broadcast began. */
  start: Date | string | number;
  /** The programme date of what is shown now. The adapter for hls.js knows it; Safari has `video.getStartDate()`. */
  date?: () => Date | number | undefined | null;
}

/** What the adapter uses of hls.js. */
export interface Hls {
  config: { startPosition: number };
  readonly playingDate: Date | null;
  readonly latestLevelDetails: { live: boolean; type: string | null } | null;
  on(event: any, fn: (...all: any[]) => void): void;
  once(event: any, fn: (...all: any[]) => void): void;
  loadSource(url: string): void;
}

/** What the server knows of this learner and a video; times in s. A deleted one has only `videoId`, `deletedAt`, `rev`. */
export interface ProgressRecord {
  videoId: string;
  rev: number;
  position?: number;
  /** Where to start; 0 if the learner was at the end. */
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
  /** Read from this browser; the server has not answered yet. */
  kept?: boolean;
}

/** Every heartbeat of `session` up to `seq` is stored, except those rejected, which never will be. */
export interface Ack {
  session: string;
  seq: number;
  rejected?: { seq: number; code: string; detail: string }[];
  capped?: number[];
}

export interface Events {
  state: State;
  /** The server has sent what it knows. */
  synced: { record: ProgressRecord };
  /**
   * There is a place to go on from. With `prompt` nothing is stored until `accept`, `dismiss`, or 3 s of playing. Emitted
   * again if the server's answer moves the place.
   */
  resume: { position: number; accept: () => void; dismiss: () => void };
  /** The resume is over: played from, dismissed, or overtaken by the learner. `accept` does nothing from here on. */
  settled: { position: number };
  /** Another device, or tab, of this learner has moved on. */
  elsewhere: { position: number; record: ProgressRecord };
  completed: ProgressRecord;
  ack: Ack;
  /**
   * `fatal`: nothing more is sent. The console shows each code once. Codes of the SDK: `csp`, `origin` and `mixed` (the page
   * may not reach the server, and why), `live` and `duration` (what the element shows is not tracked: it has no fixed
   * timeline, or is far shorter than the video, as an advertisement), `detached` (the element was removed from the
   * document), `token`, `user`, `full`. Others are the server's, with what it refused.
   */
  error: { code: string | number; message: string; fatal: boolean };
}

export interface Tracker {
  /** Returns a function that unsubscribes. */
  on<K extends keyof Events>(event: K, fn: (detail: Events[K]) => void): () => void;
  readonly state: State;
  /** Heartbeats that are not acknowledged, the growing one among them. */
  readonly pending: number;
  /** s */
  readonly position: number;
  /** Distinct whole seconds, including those that are not stored yet. */
  readonly watched: number;
  /** What the server knows, with what was played here since. */
  readonly record: ProgressRecord;
  /** Empty after `setVideo(null)`. */
  readonly videoId: string;
  /**
   * Resolves when everything that was played so far is stored; rejects where it cannot be. Await it before `destroy()` if
   * a list of records is read next.
   */
  flush(): Promise<void>;
  /**
   * Where the learner would go on, in seconds, once this browser's storage was read; 0 if nothing is known, or they were
   * at the end. For players that are told where to start.
   */
  place(): Promise<number>;
  /**
   * The element shows another video now, or is about to: call it before or after the new source is set. Until the source
   * changes, for at most 3 s, nothing is tracked. `null`: nothing is tracked until the next call, as for advertisements.
   */
  setVideo(videoId: string | null): void;
  /** Seek on behalf of the learner, as a page's own link to a chapter does. */
  seek(position: number): void;
  /** The same video is in another element now. One that replaces the old one in the document is found without this. */
  setMedia(media: HTMLMediaElement): void;
  /** Send what is left, and leave no listener, timer or connection behind. */
  destroy(): void;
}

/** A heartbeat in the outbox. Times in ms. */
export interface Entry {
  seq: number;
  videoId: string;
  played: [number, number][];
  /** It covers the time from here, by a monotonic clock, */
  startAt: number;
  /** to here. */
  madeAt: number;
  /** How far the wall clock was ahead of that clock. */
  drift?: number;
  /** The earliest date, on the server's clock, that it may have. */
  after?: number;
  /** Absent while the resume has not settled: then the entry is only sent as the page is left. */
  position?: number;
  duration?: number;
  /** False: the duration may still change. */
  durationFinal?: boolean;
  state?: string;
  seek?: boolean;
  /** It may be sent. */
  due?: boolean;
  /** It takes in nothing more. */
  shut?: boolean;
  /** The connection that it was sent on last, 0: by HTTP. */
  sent?: number;
  savedAt?: number;
}
