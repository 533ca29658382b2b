/** @import { Ack, Entry, Events, Options, ProgressRecord, State, Store, Tracker } from "./types.d.ts" */
import type { Options, Tracker } from "./types.d.ts";
/**
 * @param {HTMLMediaElement | string} target
 * @param {Options} options
 * @returns {Tracker}
 */
export declare function attach(target: HTMLMediaElement | string, options: Options): Tracker;
