// The token of the demo, where the service asks for one: pasted into a form and kept for this tab. It is in no URL, since
// URLs are copied, synchronized and remembered. A real page gets its token from its own login.

const KEY = "playhead.token";

export const token = read();

if (location.hash) history.replaceState(null, "", location.pathname + location.search); // nothing in it is for us

/** The learner that a token speaks for. */
export function subject(token) {
  return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub;
}

/** Show the form; what is pasted there is used from the next load of the page on, which follows at once. */
export function askForToken() {
  const form = document.getElementById("sign-in");
  if (!form.hidden) return;
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, form.elements.token.value.trim());
    location.reload();
  });
}

function read() {
  try {
    const kept = sessionStorage.getItem(KEY) ?? undefined;
    if (kept) subject(kept); // what is no token at all would stop the page
    return kept;
  } catch {
    return undefined; // the browser forbids it, or it is no token
  }
}
