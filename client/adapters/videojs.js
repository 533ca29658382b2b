// Video.js 8:
//   videojs.registerPlugin("playhead", plugin);
//   const tracker = videojs("player").playhead({ videoId, getToken });
/** @import { Options, Tracker } from "../types.d.ts" */

import { attach } from "../playhead.js";

const ROOT = Symbol.for("playhead");

/**
 * What the player says, not its element: that is another after `reset()`, and an advertisement's while one is on.
 *
 * @this {any} The player
 * @param {Options} options
 * @returns {Tracker}
 */
export function plugin(options) {
  const player = this;
  /** @type {(type: string, fn: Function, options: { signal: AbortSignal }) => void} */
  const addEventListener = (type, fn, { signal }) => {
    const types = type === "emptied" ? [type, "playerreset"] : type; // the new element was never anything but empty
    player.on(types, fn);
    signal.addEventListener("abort", () => player.off(types, fn));
  };
  /** @type {any} */
  const own = { addEventListener, [ROOT]: player.el() };
  const surface = new Proxy(player, {
    get: (_, name) => own[name] ?? player[name](),
    set: (_, name, value) => (player[name](value), true),
  });
  const tracker = attach(surface, options);
  player.on("dispose", tracker.destroy);
  return tracker;
}
