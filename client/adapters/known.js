/** @import { Tracker } from "../types.d.ts" */

const WAIT_MS = 2_000; // a video that does not start is worse than one that starts at 0:00

/** For players that must be told where to start: the wait until we know, or give up.
 * @param {Tracker} tracker
 * @returns {() => Promise<unknown>} */
export function known(tracker) {
  const told = new Promise((/** @type {(_: unknown) => void} */ ok) => {
    tracker.on("synced", ok);
    tracker.on("state", (state) => state === "stopped" && ok(state));
  });
  return () => Promise.race([told, new Promise((ok) => setTimeout(ok, WAIT_MS))]);
}
