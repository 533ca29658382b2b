/**
 * Delete what this browser keeps of a learner: what waits to be sent, and where they were. Destroy their trackers first.
 *
 * @param {string} userId
 * @returns {Promise<void>} Rejects where the browser does not open the database
 */
export declare function forget(userId: string): Promise<void>;
