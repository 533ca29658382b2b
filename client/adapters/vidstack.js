// Vidstack's <media-player>; not for YouTube and Vimeo, which it plays in frames:
//   const tracker = playhead(player, { videoId, getToken });
/** @import { Options, Tracker } from "../types.d.ts" */

import { attach } from "../playhead.js";
import { known } from "./known.js";

const ROOT = Symbol.for("playhead");
const PREFERENCES = ["Volume", "Muted", "Lang", "Captions", "PlaybackRate", "VideoQuality", "AudioGain"];

/**
 * @param {any} player The <media-player> element
 * @param {Options} options
 * @param {any} [preferences] a storage of Vidstack's, such as its LocalMediaStorage, for volume, speed and so on
 * @returns {Tracker}
 */
export function playhead(player, options, preferences) {
  /** @type {any} */
  let media = document.createElement("video"); // until the player has one; for another kind of source it takes another
  /** @type {Parameters<typeof listen>[]} */
  const listeners = [];

  /** @type {(type: string, fn: (event: Event) => void, options: AddEventListenerOptions) => void} */
  function listen(type, fn, options) {
    const element = media;
    element.addEventListener(type, (/** @type {Event} */ event) => element === media && fn(event), options);
  }

  function follow() {
    const next = player.provider?.video ?? player.provider?.audio;
    if (!next || next === media) return;
    media = next;
    for (const each of listeners) listen(...each);
    for (const [type, fn] of listeners) if (type === "emptied") fn(new Event(type)); // its predecessor's end
  }

  /** @type {typeof listen} */
  function addEventListener(...each) {
    listeners.push(each);
    listen(...each);
  }

  const surface = new Proxy(/** @type {any} */ ({ addEventListener, [ROOT]: player }), {
    get: (own, name) => own[name] ?? media[name],
    set: (_, name, value) => ((media[name] = value), true),
  });
  follow();
  const tracker = attach(surface, options);
  player.addEventListener("provider-change", follow);

  const place = known(tracker);
  const nothing = async () => null;
  const storage = preferences ?? Object.fromEntries(PREFERENCES.map((name) => ["get" + name, nothing]));
  const quality = storage.getVideoQuality;
  player.storage = Object.assign(storage, {
    getTime: nothing, // the tracker jumps by itself
    setTime: nothing,
    /** Asked last before it plays by itself. If Vidstack waited sooner, it would store its defaults meanwhile. */
    getVideoQuality: () => place().then(() => quality.call(storage)),
    onDestroy: tracker.destroy,
  });
  return tracker;
}
