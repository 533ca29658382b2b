/** @import { Options, Tracker } from "../types.d.ts" */
import type { Options, Tracker } from "../types.d.ts";
/**
 * What the player says, not its element: that is another after `reset()`, and an advertisement's while one is on.
 *
 * @this {any} The player
 * @param {Options} options
 * @returns {Tracker}
 */
export declare function plugin(this: any, options: Options): Tracker;
