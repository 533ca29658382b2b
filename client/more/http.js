// The fallback by HTTP, loaded when no WebSocket gets through or none is wanted.

/**
 * Ask for the video's record, at first and when there is news; then send what waits.
 *
 * @param {any} line What attach() lends: its state, which both change, and its functions
 * @param {boolean} news
 */
export async function poll(line, news) {
  if (!line.http || news) {
    const { user, videoId } = line.request();
    const answer = await ask(line, `/progress/${user}/${videoId}?detail=full`);
    if (!answer) return;
    line.http = true; // from here on entries are sent, and an entry that was sent no longer grows
    if (line.request().videoId === videoId) {
      if (answer.rev) line.learn([answer]);
      line.inform();
    }
  }
  const body = line.posting || line.request().open || now() < line.notBefore ? "" : line.envelope();
  if (!body) return;
  line.posting = true;
  const answer = await ask(line, "/progress/realtime", body); // as text/plain: no preflight
  line.posting = false;
  if (!answer) return;
  answer.acks.forEach(line.acked);
  if (line.nearlyDone()) poll(line, true);
}

/** @param {any} line */
async function ask(line, path = "", body = "") {
  const { base, signal, token, renewable } = line.request();
  try {
    const headers = new Headers(token && !body ? { Authorization: `Bearer ${token}` } : []);
    const response = await fetch(base + path, { signal, headers, ...(body && { method: "POST", body }) });
    const { status } = response;
    const answer = await response.json();
    if (line.request().stopped) return;
    if (response.ok || (status === 404 && !body)) {
      if (!line.request().open) line.setState("fallback");
      line.refused = 0;
      return answer;
    }
    if (status === 401 && renewable && !line.refused) line.refused++;
    else if (status < 404 || status === 422) return line.stop(`${status}`, answer.detail);
    line.notBefore = now() + 1000 * Number(response.headers.get("Retry-After"));
  } catch {} // no answer
  line.unreached();
}

const now = () => performance.timeOrigin + performance.now();
