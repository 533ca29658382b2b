// For a logout on a shared machine. `playhead.js` exports the same function, but loads this file only when it is called:
// a page whose logout must work offline imports it from here.

/**
 * Delete what this browser keeps of a learner: what waits to be sent, and where they were. Destroy their trackers first.
 *
 * @param {string} userId
 * @returns {Promise<void>} Rejects where the browser does not open the database
 */
export function forget(userId) {
  const user = userId.toLowerCase();
  return new Promise((ok, fail) => {
    const opening = indexedDB.open("playhead", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("outbox");
    opening.onerror = () => fail(opening.error);
    opening.onsuccess = () => {
      const db = opening.result;
      const transaction = db.transaction("outbox", "readwrite");
      const rows = transaction.objectStore("outbox");
      for (const key of [[user], ["records", user]]) rows.delete(IDBKeyRange.bound(key, [...key, []]));
      transaction.onabort = () => fail(transaction.error);
      transaction.oncomplete = () => {
        db.close();
        ok();
      };
    };
  });
}
