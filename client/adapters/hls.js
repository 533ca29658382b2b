// hls.js; `load` instead of its `loadSource`:
//   const { tracker, load } = playhead(hls, video, { videoId, getToken });
/** @import { LiveOptions, Options, Tracker } from "../types.d.ts" */

import { attach } from "../playhead.js";
import { known } from "./known.js";

/**
 * Nothing is loaded until it is known where to start: with a later answer hls.js 1.7 fetches a fragment twice.
 *
 * @param {import("../types.d.ts").Hls} hls
 * @param {HTMLMediaElement} media
 * @param {Omit<Options, "live"> & { live?: false | LiveOptions }} options The programme date need not be given
 * @returns {{ tracker: Tracker, load: (url: string) => Promise<void> }}
 */
export function playhead(hls, media, options) {
  const { live } = options;
  const tracker = attach(media, {
    timeline: () => timeline(hls),
    ...options,
    live: live && { date: () => hls.playingDate, ...live },
  });
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
    if ((options.resume ?? "auto") === "auto" && !live) {
      const start = await place();
      if (destroyed || mine !== loads) return;
      hls.config.startPosition = start || startPosition;
      hls.once("hlsFragLoading", () => (hls.config.startPosition = startPosition));
    }
    hls.loadSource(url);
  }

  return { tracker, load };
}

/** A playlist without an end grows, if it keeps its start (EVENT), or else slides. @param {import("../types.d.ts").Hls} hls */
function timeline({ latestLevelDetails: details }) {
  if (!details) return "growing";
  if (!details.live) return "final";
  return details.type === "EVENT" ? "growing" : "live";
}
