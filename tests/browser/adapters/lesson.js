// What the pages of all players share: the options of the test, and what it may ask and do.
export const { server, film, slowMs, ...options } = JSON.parse(decodeURIComponent(location.search.slice(1)));
if (slowMs) options.getToken = () => new Promise((ok) => setTimeout(ok, slowMs)); // the answers come after the film

/** @param {{ video: () => HTMLVideoElement, seek: (s: number) => void, play: () => void, destroy: () => void }} does */
export function lesson(tracker, { video, ...does }) {
  window.heard = [];
  window.does = does;
  window.lesson = { film };
  Object.defineProperty(window, "video", { get: video });
  for (const event of ["state", "synced", "resume", "elsewhere", "completed", "ack", "error"])
    tracker.on(event, (detail) => heard.push([event, detail]));
  window.tracker = tracker;
}
