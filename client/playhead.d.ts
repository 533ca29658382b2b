/** @import { Ack, Entry, Options, ProgressRecord, State, Tracker } from "./types.d.ts" */
import type { Options, Tracker } from "./types.d.ts";
/**
 * @param {HTMLMediaElement | string} target
 * @param {Options} options
 * @returns {Tracker}
 */
export declare function attach(target: HTMLMediaElement | string, options: Options): Tracker;
/** Delete what this browser keeps of a learner. @param {string} userId @returns {Promise<void>} */
export declare const forget: (userId: string) => Promise<void>;
