// Loaded when the tracked element was removed from the document: finds the one that took its place.

const WITHIN_MS = 3_000;

/**
 * Follow the page when it puts another media element where the removed one was, or one that its selector matches;
 * say so when it does neither.
 *
 * @param {any} tracker What attach() lends; `changes` are those that the removal was seen in
 */
export async function replace({ changes, root, target, trackerOf, setMedia, watch, complain, signal }) {
  const place = placeOf(root, changes);
  /** @returns {HTMLMediaElement | undefined} */
  const find = () => {
    /** @type {any[]} */
    const all = typeof target === "string" ? [...document.querySelectorAll(target)] : mediaIn(place);
    const free = all.filter((each) => !trackerOf(each));
    return free.length === 1 || typeof target === "string" ? free[0] : undefined;
  };
  for (const until = performance.now() + WITHIN_MS; performance.now() < until; await changed(WITHIN_MS)) {
    if (signal.aborted) return;
    if (root.isConnected) return watch(); // it was only moved
    const found = find();
    if (found) return setMedia(found);
  }
  if (!signal.aborted) complain("detached", "The media element was removed from the document: call setMedia()");
}

/** @param {any} place @returns {HTMLMediaElement[]} */
function mediaIn(place) {
  return place && place !== document.body ? [...place.querySelectorAll("video,audio")] : [];
}

/** Until the document changes, for at most so long. */
function changed(ms = 0) {
  return new Promise((ok) => {
    const observer = new MutationObserver(() => done());
    const late = setTimeout(() => done(), ms);
    const done = () => {
      observer.disconnect();
      clearTimeout(late);
      ok(true);
    };
    observer.observe(document, { childList: true, subtree: true });
  });
}

/** The nearest of its former ancestors that is still in the document. @type {(node: Node, changes: MutationRecord[]) => any} */
function placeOf(node, changes) {
  for (const _ of changes) {
    const parent = changes.findLast(({ removedNodes }) => [...removedNodes].some((each) => each.contains(node)))?.target;
    if (!parent || parent.isConnected) return parent;
    node = parent;
  }
}
