/** @import { Options, Tracker } from "../types.d.ts" */
import type { Options, Tracker } from "../types.d.ts";
/**
 * @param {any} player The <media-player> element
 * @param {Options} options
 * @param {any} [preferences] a storage of Vidstack's, such as its LocalMediaStorage, for volume, speed and so on
 * @returns {Tracker}
 */
export declare function playhead(player: any, options: Options, preferences?: any): Tracker;
