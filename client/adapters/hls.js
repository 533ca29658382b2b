// hls.js; `load` instead of its `loadSource`:
//   const { tracker, load } = playhead(hls, video, { videoId, getToken });
/** @import { Options, Tracker } from "../types.d.ts" */

import { attach } from "../playhead.js";
import { known } from "./known.js";

/** Nothing is loaded until we know from where. With a start that comes any later hls.js 1.7 fetches a fragment twice.
 * @param {any} hls
 * @param {HTMLMediaElement} media
 * @param {Options} options
 * @returns {{ tracker: Tracker, load: (url: string) => Promise<void> }} */
export function playhead(hls, media, options) {
  const tracker = attach(media, options);
  const place = known(tracker);
  let destroyed = false;
  const { startPosition } = hls.config;
  let loads = 0;
  hls.on("hlsDestroying", () => {
    destroyed = true;
    tracker.destroy();
  });

  /** @param {string} url */
  async function load(url) {
    const mine = ++loads;
    if ((options.resume ?? "auto") === "auto") {
      await place();
      if (destroyed || mine !== loads) return;
      hls.config.startPosition = tracker.record?.resume || startPosition;
      hls.once("hlsFragLoading", () => (hls.config.startPosition = startPosition));
    }
    hls.loadSource(url);
  }

  return { tracker, load };
}
