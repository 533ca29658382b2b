/** @import { Tracker } from "../types.d.ts" */

const WAIT_MS = 2_000; // a video that does not start is worse than one that starts at 0:00

/**
 * For players that are told where to start: wait until the server has answered, or does not; then say where that is.
 *
 * @param {Tracker} tracker
 * @returns {() => Promise<number>} s; what this browser kept, if the server is away
 */
export function known(tracker) {
  const answered = new Promise((/** @type {(_: unknown) => void} */ ok) => {
    tracker.on("synced", ok);
    tracker.on("state", (state) => ["offline", "stopped"].includes(state) && ok(state));
  });
  return async () => {
    await Promise.race([answered, after(WAIT_MS)]);
    return Promise.race([tracker.place(), after(0)]);
  };
}

/** @type {(ms: number) => Promise<number>} */
const after = (ms) => new Promise((ok) => setTimeout(ok, ms, 0));
