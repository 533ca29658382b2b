// Loaded when no WebSocket opens: says whether the page's policy or the server forbids it.

const WITHIN_MS = 5_000;

/**
 * @param {string} base The server's URL
 * @param {(code: string, message: string) => void} complain
 */
export async function refusal(base, complain) {
  const { host, origin, protocol } = new URL(base);
  const line = base.replace(/^http/, "ws");
  let blocked = false;
  const note = (/** @type {SecurityPolicyViolationEvent} */ { effectiveDirective, blockedURI }) => {
    blocked ||= effectiveDirective === "connect-src" && blockedURI.split("/")[2] === host;
  };
  document.addEventListener("securitypolicyviolation", note);
  const opened = await opens(line + "/ws");
  const reached = await reaches(base + "/livez", "cors");
  document.removeEventListener("securitypolicyviolation", note);
  if (opened) return;
  if (blocked) complain("csp", `The page's Content-Security-Policy needs connect-src ${origin} ${origin.replace(/^http/, "ws")}`);
  else if (location.protocol === "https:" && protocol === "http:" && !reached)
    complain("mixed", `A page on https cannot reach ${origin}: browsers block mixed content`);
  else if (!reached && (await reaches(base + "/client/playhead.d.ts", "no-cors"))) // that is for all origins
    complain("origin", `The server's allowed_origins lacks ${location.origin}`);
}

/** @param {string} url @returns {Promise<boolean>} */
function opens(url) {
  return new Promise((ok) => {
    const no = () => setTimeout(ok, 50, false); // the violation is reported by a task of its own
    try {
      const socket = new WebSocket(url, "playhead.v1.json");
      socket.onclose = socket.onerror = no; // Chromium closes none that the policy forbids
      socket.onopen = () => {
        ok(true);
        socket.close();
      };
      setTimeout(() => socket.close(), WITHIN_MS);
    } catch {
      no();
    }
  });
}

/** @type {(url: string, mode: RequestMode) => Promise<boolean>} */
const reaches = (url, mode) =>
  fetch(url, { mode, cache: "no-store", signal: AbortSignal.timeout(WITHIN_MS) }).then(
    () => true,
    () => false,
  );
