/** @import { LiveOptions, Options, Tracker } from "../types.d.ts" */
import type { LiveOptions, Options, Tracker } from "../types.d.ts";
/**
 * Nothing is loaded until it is known where to start: with a later answer hls.js 1.7 fetches a fragment twice.
 *
 * @param {import("../types.d.ts").Hls} hls
 * @param {HTMLMediaElement} media
 * @param {Omit<Options, "live"> & { live?: false | LiveOptions }} options The programme date need not be given
 * @returns {{ tracker: Tracker, load: (url: string) => Promise<void> }}
 */
export declare function playhead(hls: import("../types.d.ts").Hls, media: HTMLMediaElement, options: Omit<Options, "live"> & {
    live?: false | LiveOptions;
}): {
    tracker: Tracker;
    load: (url: string) => Promise<void>;
};
